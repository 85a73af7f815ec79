"""Web server, daemon and code location as the compose file starts them, on one Postgres and one object store."""

import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import httpx

from predictbench_assets.runs import RunKey, partition_tags
from predictbench_assets.settings import DEFAULT_EXPERIMENTS
from predictbench_assets_tests.integration.instance.services import (
    DEPLOYED,
    Webserver,
    deployed_home,
    deployment,
    inherited,
)
from predictbench_assets_tests.kit.daily_run import KEY, DailyRun, Ran
from predictbench_assets_tests.kit.places import CLONE

OTHER = RunKey(KEY.run_date, 1)
ASSETS = {"target_window", "raw_markets", "normalized_markets", "persisted_run"}


def test_the_services_run_a_job_and_repair_what_a_runner_left(runner: DailyRun, tmp_path: Path) -> None:
    """One deployment for both, since starting it is what takes the time."""
    home = deployed_home(tmp_path / "ui")
    environment = runner.environment(tmp_path / "summary.json", {"PREDICTBENCH_HOME": str(tmp_path / "ui-state")})
    ran = runner.process(ops={"experiment_results__uniform": {"selected": False}})
    assert ran.exit_code == 0, ran.output
    shutil.rmtree(runner.folder)

    with deployment(CLONE / "docker-compose.dev.yml", home=home, environment=environment) as (web, services):
        assert well(services.healthcheck("code-location"), home, environment)
        shows_the_run_of_the_runner(web, runner, ran)
        # As the UI does it: one experiment again, with the asset that stores it, and another window's run.
        assert attempts_of_uniform(runner) == [(1, "not_run", 0)]
        again = web.materialize(["experiment_results/uniform", "persisted_run"], partition_tags(KEY))
        job = web.launch({"jobName": "daily_run"}, partition_tags(OTHER))
        assert (web.finished(again), web.finished(job)) == ("SUCCESS", "SUCCESS")
        [newest, *_] = web.materializations("experiment_results/uniform", str(KEY))
        assert newest["run_id"] == again
        assert web.partitions("persisted_run") == {str(KEY), str(OTHER)}
        deployed = replace(services, file=DEPLOYED)
        assert well(deployed.healthcheck("daemon"), home, environment)
        lines = [json.loads(line) for line in (home / "daemon.log").read_text().splitlines() if line.startswith("{")]
        assert any("daemon" in str(line).lower() for line in lines), "the daemon's own lines are JSON"
    assert attempts_of_uniform(runner) == [(1, "not_run", 0), (2, "completed", 20)]
    stored = runner.rows("SELECT window_days, attempt, dagster_run_id FROM predictbench.processing_runs ORDER BY 1")
    assert stored == [(1, 1, job), (7, 2, again)]
    assert not (tmp_path / "ui-state" / "staging").exists(), "everything is in the object store"


def shows_the_run_of_the_runner(web: Webserver, runner: DailyRun, ran: Ran) -> None:
    run_id = ran.said["dagster_run_id"]
    for asset in ASSETS:
        assert web.partitions(asset) == {str(KEY)}
    [stored] = web.materializations("persisted_run", str(KEY))
    assert stored["run_id"] == run_id
    assert stored["metadata"]["processed"] == 20
    assert "| baseline_snapshot |" in stored["metadata"]["summary"]
    log = web.printed(run_id)
    # What was on the runner's console from the first step to the last, and no secret.
    assert log["stderr"].count('"event": "STEP_START"') == len(ASSETS) + len(DEFAULT_EXPERIMENTS)
    assert set(log["stderr"].splitlines()) < set(ran.output.splitlines())
    assert runner.variables["STAGING_S3_SECRET_ACCESS_KEY"] not in log["stderr"]
    assert log["url"].startswith("/logs/")
    assert httpx.get(web.address + log["url"]).text == log["stderr"]


def well(healthcheck: list[str], home: Path, environment: Mapping[str, str]) -> bool:
    """Whether a health check of a compose file says so."""
    variables = inherited() | environment | {"DAGSTER_HOME": str(home)}
    return subprocess.run(healthcheck, env=variables, cwd=home, check=False, timeout=60).returncode == 0


def attempts_of_uniform(runner: DailyRun) -> list[tuple[int, str, int]]:
    return runner.rows(  # type: ignore[return-value]
        "SELECT r.attempt, r.status, r.completed"
        " FROM predictbench.experiment_runs r JOIN predictbench.experiments USING (experiment_id)"
        " WHERE name = 'uniform' AND run_id = %s ORDER BY attempt",
        KEY.run_id,
    )
