"""A deployment to run workflows on: a clone, an exchange, a database, an object store, and whoever is to be told."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from predictbench_assets.sandbox.server import SandboxServer, serve
from predictbench_assets.sandbox.world import World
from predictbench_assets_tests.integration.workflows.actions_runner import Runner, copy_of_the_project
from predictbench_assets_tests.kit.workflows import EXPERIMENTS, NOW, STORE_KEYS, Repository, Told, with_password


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project, as a checkout has it."""
    return copy_of_the_project(tmp_path_factory.mktemp("clone"))


@pytest.fixture
def told() -> Iterator[Told]:
    """Somebody who is told."""
    listening = Told()
    yield listening
    listening.close()


@pytest.fixture
def exchange() -> Iterator[SandboxServer]:
    """A small exchange in the spring."""
    with serve(World(markets_per_day=20), now=NOW) as server:
        yield server


@pytest.fixture
def deployment(
    clone: Path, exchange: SandboxServer, database_url: str, store: Mapping[str, str], told: Told, tmp_path: Path
) -> Iterator[Repository]:
    """Staging, a few minutes after the hour of the daily run, on a migrated and empty database.

    Every test that uses it shows as well that no secret is left anywhere.
    """
    machine = {"PREDICTBENCH_NOW": NOW.isoformat()}
    made = Repository(
        runner=Runner(clone, tmp_path, machine),
        exchange=exchange,
        database_url=database_url,
        told=told,
        variables={
            "PIPELINE_ENABLED": "true",
            "ENVIRONMENT": "staging",
            "TARGET_CLOSE_WINDOW_DAYS": "7",
            "PROCESSING_EXPERIMENTS": EXPERIMENTS,
            "POLYMARKET_BASE_URL": exchange.base_url,
            "POLYMARKET_CLOB_URL": exchange.clob_url,
            "POLYMARKET_REQUESTS_PER_SECOND": "1000",
            "POLYMARKET_MAX_ATTEMPTS": "2",
            **{name: value for name, value in store.items() if name not in STORE_KEYS},
        },
        secrets={
            "SUPABASE_DB_URL": with_password(database_url),
            "NOTIFY_WEBHOOK_URL": f"{told.address}/hook",
            "DEAD_MAN_URL": f"{told.address}/alive",
            **{name: store[name] for name in STORE_KEYS},
        },
        machine=machine,
    )
    yield made
    assert made.leaks() == []
