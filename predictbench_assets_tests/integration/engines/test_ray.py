"""A step that is a job of a real Ray cluster; whole runs are in `test_faults.py`, among the long tests."""

import subprocess
import sys

import httpx
import pytest

from predictbench_assets.launch.commands import DEFINITIONS
from predictbench_assets_tests.integration.engines.launcher import MakeLauncher
from predictbench_assets_tests.integration.instance.services import deployed_home
from predictbench_assets_tests.kit.daily_run import KEY


@pytest.mark.timeout(900)
def test_a_step_is_made_by_the_cluster(make_launcher: MakeLauncher) -> None:
    launcher = make_launcher("ray")
    home = deployed_home(launcher.daily.folder / "launcher" / "dagster")

    made = subprocess.run(
        [
            *(sys.executable, "-m", "dagster", "asset", "materialize", "-m", DEFINITIONS),
            *("--select", "target_window", "--partition", str(KEY)),
        ],
        env=launcher.variables() | {"DAGSTER_HOME": str(home)},
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )

    assert made.returncode == 0, made.stderr
    assert launcher.cluster is not None
    jobs = httpx.get(f"{launcher.cluster.address}/api/jobs/", timeout=30).json()
    [(run, status)] = launcher.daily.rows("SELECT dagster_run_id, status FROM predictbench.processing_runs")
    [job] = [one for one in jobs if one["metadata"]["dagster/run-id"] == run]
    assert (job["metadata"]["dagster/op"], status) == ("target_window", "running")
    assert job["status"] in ("RUNNING", "SUCCEEDED"), "its process may end a moment after the step"
    assert not (launcher.daily.folder / "launcher" / "state" / "staging").exists()
