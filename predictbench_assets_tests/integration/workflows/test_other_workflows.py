"""Resolution, backfill, maintenance and contract, by their own steps; and the installation, for real."""

import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from predictbench_assets_tests.integration.workflows.actions_runner import Job
from predictbench_assets_tests.kit.workflows import NOW, Repository

DAY = "2026-03-02"
SCHEDULED = ("resolution", "maintenance", "contract")


def ran(deployment: Repository, workflow: str, **rest: Any) -> Job:
    """The first job of a workflow, and of most the only one."""
    [job], *_ = deployment.run(workflow, **rest).values()
    return job


@pytest.mark.parametrize("workflow", ["maintenance", "contract"])
def test_a_schedule_does_its_work_and_shows_what_came_of_it(deployment: Repository, workflow: str) -> None:
    job = ran(deployment, workflow, event="schedule")
    assert job.conclusion == "success", job.log
    assert job.summary.startswith("### ")
    assert job.summary.count("```") == 2
    assert len(job.summary.splitlines()) > 3, "nothing was said"
    assert deployment.told.requests == []
    assert deployment.stored() == []


@pytest.mark.parametrize("workflow", SCHEDULED)
def test_no_schedule_does_anything_until_the_pipeline_is_enabled(deployment: Repository, workflow: str) -> None:
    deployment.variables["PIPELINE_ENABLED"] = "false"
    assert ran(deployment, workflow, event="schedule").conclusion == "skipped"


@pytest.mark.parametrize("workflow", ["resolution", "maintenance"])
def test_a_missing_database_is_told_with_the_workflows_name(deployment: Repository, workflow: str) -> None:
    del deployment.secrets["SUPABASE_DB_URL"]
    job = ran(deployment, workflow, event="schedule")
    assert job.conclusion == "failure"
    [note] = deployment.told.notes
    assert workflow in note
    assert "set-up" in note


@pytest.mark.long
def test_maintenance_by_hand_removes_nothing_unless_asked_to(deployment: Repository) -> None:
    job = ran(deployment, "maintenance")
    assert job.conclusion == "success", job.log
    assert "would" in job.summary


def test_an_exchange_that_cannot_be_read_breaks_its_contract(deployment: Repository) -> None:
    deployment.exchange.set_faults("html403=1")
    job = ran(deployment, "contract")
    assert job.conclusion == "failure"
    [note] = deployment.told.notes
    assert "contract" in note


def test_the_contract_reconstructs_nothing_where_nothing_was_captured(deployment: Repository) -> None:
    _, [job] = deployment.run("contract", event="schedule").values()
    assert job.conclusion == "success", job.log
    assert "Nothing to compare" in job.log
    assert deployment.told.notes == []


@pytest.mark.long
def test_the_contract_reconstructs_a_day_that_was_captured_and_a_backfill_any(deployment: Repository) -> None:
    deployment.run("daily-pipeline", run_date=DAY, window_days="7", environment="staging")
    attempts = "SELECT attempt FROM predictbench.processing_runs"
    assert deployment.rows(attempts) == [(1,)]
    deployment.at(NOW + timedelta(days=8))

    _, [job] = deployment.run("contract", event="schedule").values()

    assert job.conclusion == "success", job.log
    assert f"| {DAY} | 7 | within |" in job.summary
    [kept] = job.artifacts.values()
    assert set(kept) == {"reconstruction.json", "reconstruction.md"}
    checked = ran(
        deployment, "backfill", **{"from": DAY, "to": DAY}, window_days="7", check="true", environment="staging"
    )
    assert checked.conclusion == "success", checked.log
    assert f"| {DAY} | 7 | within |" in checked.summary
    assert deployment.rows(attempts) == [(1,)]


@pytest.mark.long
def test_a_backfill_reconstructs_a_day_that_was_missed_where_that_is_asked_for(deployment: Repository) -> None:
    days = {"from": "2026-02-20", "to": "2026-02-20"}
    at_once = {"at_once": "2"}
    job = ran(deployment, "backfill", window_days="6,7", environment="staging", reconstruct="true", **at_once, **days)
    assert job.conclusion == "success", job.log
    assert "PREDICTBENCH_SHARED_BY=2" in job.log
    assert deployment.rows("SELECT run_date::text, as_of IS NULL FROM predictbench.snapshots") == 2 * [
        ("2026-02-20", False)
    ]


@pytest.mark.long
def test_a_backfill_runs_what_it_can_and_lists_what_it_cannot(deployment: Repository) -> None:
    days = {"from": "2026-03-01", "to": DAY}
    job = ran(deployment, "backfill", window_days="7", environment="staging", **days)

    assert job.conclusion == "failure", "a day that cannot be run is red"
    assert deployment.stored() == [(DAY, 7, "completed", 20)]
    assert "2026-03-01" in job.summary
    [kept] = job.artifacts.values()
    assert {"backfill.json", "backfill.log"} <= set(kept)
    [note] = deployment.told.notes
    assert "backfill" in note

    # The day that is stored is passed over, with nothing asked of the exchange.
    requests = sum(deployment.exchange.requests.values())
    again = ran(deployment, "backfill", window_days="7", environment="staging", **(days | {"from": DAY}))
    assert again.conclusion == "success", again.log
    assert deployment.rows("SELECT attempt FROM predictbench.processing_runs") == [(1,)]
    assert sum(deployment.exchange.requests.values()) == requests
    assert len(deployment.told.notes) == 1


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_requirements_install_by_hash_and_the_commands_are_there(
    deployment: Repository, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """With a Python that has nothing, as after `actions/setup-python`; from the package registry."""
    folder = tmp_path_factory.mktemp("machine")
    python = folder / "python"
    subprocess.run([sys.executable, "-m", "venv", python], check=True)
    bin_folder = python / "bin"
    reachable = subprocess.run(
        [bin_folder / "python", "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder / "probe", "six"],
        capture_output=True,
        check=False,
    )
    if reachable.returncode != 0:
        pytest.skip("needs the network: no package registry is reachable")
    (deployment.runner.folder / "bin").mkdir()
    for command in ("python", "python3"):
        (deployment.runner.folder / "bin" / command).symlink_to(bin_folder / command)
    deployment.runner.install = None
    deployment.runner.clone = Path(shutil.copytree(deployment.runner.clone, folder / "clone"))
    deployment.machine["PATH"] = f"{bin_folder}:/usr/local/bin:/usr/bin:/bin"

    job = ran(deployment, "resolution", event="schedule")
    assert job.conclusion == "success", job.log
    assert deployment.told.notes == []
