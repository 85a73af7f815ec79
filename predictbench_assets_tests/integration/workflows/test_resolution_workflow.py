"""The resolution workflow by its own steps: what has settled is stored and shown, and a failure is told."""

from collections.abc import Callable
from datetime import date, timedelta

import pytest
from sqlalchemy import Engine

from predictbench_assets.sandbox.world import Market, World
from predictbench_assets_tests.integration.workflows.actions_runner import Job
from predictbench_assets_tests.kit.sweeps import Swept
from predictbench_assets_tests.kit.workflows import NOW, Repository, with_password

pytestmark = pytest.mark.long

LATER = NOW + timedelta(days=30)
Stored = Callable[[], list[Market]]


def resolved(deployment: Repository) -> Job:
    [[job]] = deployment.run("resolution", event="schedule").values()
    return job


@pytest.fixture
def stored(deployment: Repository, engine: Engine) -> list[Market]:
    """The markets of a day, stored a month ago."""
    world = deployment.exchange.app.view.exchange.world
    assert isinstance(world, World)
    at = int(NOW.timestamp())
    markets = [one for one in world.day(date(2026, 3, 9)).markets if one.created <= at and not one.is_closed(at)]
    Swept(engine, deployment.exchange, world).store(markets)
    deployment.at(LATER)
    return markets


def final(deployment: Repository) -> int:
    [(count,)] = deployment.rows("SELECT count(*) FROM predictbench.market_resolutions WHERE state = 'final'")
    return int(count)


def test_what_has_settled_is_stored_and_shown(deployment: Repository, stored: list[Market]) -> None:
    job = resolved(deployment)
    assert job.conclusion == "success", job.log
    assert job.step("Sweep once more").outcome == "skipped"
    assert final(deployment) == len(stored)
    assert job.summary.startswith("### Resolution")
    assert f"| newly final | {len(stored)} |" in job.summary
    [kept] = job.artifacts.values()
    assert {"resolution.json", "resolution.md", "dagster.log"} <= set(kept)
    assert deployment.told.requests == []


def test_an_exchange_that_does_not_answer_is_tried_twice_and_told(deployment: Repository, stored: list[Market]) -> None:
    deployment.exchange.set_faults("http500=1")
    deployment.variables["POLYMARKET_MAX_ATTEMPTS"] = "1"
    job = resolved(deployment)
    assert job.conclusion == "failure"
    assert [job.step(name).outcome for name in ("Sweep", "Sweep once more")] == ["failure", "failure"]
    assert final(deployment) == 0
    assert "| left for the next sweep |" in job.summary
    [note] = deployment.told.notes
    assert "FAILED at resolution_sweep" in note


def test_a_dagster_storage_that_refuses_does_not_keep_the_ledger_waiting(
    deployment: Repository, stored: list[Market]
) -> None:
    deployment.secrets["DAGSTER_POSTGRES_URL"] = with_password(deployment.database_url, database="nowhere")
    job = resolved(deployment)
    assert job.conclusion == "success", job.log
    assert final(deployment) == len(stored)
    [note] = deployment.told.notes
    assert "Dagster's storage" in note
