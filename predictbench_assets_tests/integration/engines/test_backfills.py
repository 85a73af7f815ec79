"""`predictbench backfill --at-once 2` whose steps an engine makes: the same rows as in turn in one process."""

import json
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from predictbench_assets.sandbox.server import SandboxServer
from predictbench_assets_tests.integration.engines.launcher import MakeLauncher
from predictbench_assets_tests.kit.commands import command
from predictbench_assets_tests.kit.daily_run import NOW, differences

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]
LAST = NOW.date() - timedelta(days=1)
DAYS = ("--from", str(LAST - timedelta(days=1)), "--to", str(LAST), "--window-days", "1")
SHARED = "SELECT DISTINCT status, attempt FROM predictbench.processing_runs"


@pytest.mark.parametrize("engine", ["multiprocess", "ray"])
def test_two_runs_at_once_whose_steps_an_engine_makes(
    make_launcher: MakeLauncher, new_database: Callable[[], str], exchange: SandboxServer, engine: str
) -> None:
    alone, launcher = make_launcher("in_process"), make_launcher(engine)
    alone.daily.database_url = new_database()
    tables, said = [], []
    for one, at_once in ((alone, 1), (launcher, 2)):
        folder = one.daily.folder / one.engine
        folder.mkdir()
        variables = one.variables() | {"HOME": str(folder), "PREDICTBENCH_HOME": str(folder / "state")}
        if one is alone:
            for name in [name for name in variables if name.startswith("STAGING_")] + ["DAGSTER_POSTGRES_URL"]:
                del variables[name]
        done = subprocess.run(
            command("backfill", *DAYS, "--reconstruct", "--summary", "b.json", "--at-once", str(at_once)),
            cwd=folder,
            env=variables,
            capture_output=True,
            text=True,
            timeout=1200,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        summary = json.loads((folder / "b.json").read_text())
        assert [run["outcome"] for run in summary["runs"]] == ["stored", "stored"]
        assert one.daily.rows(SHARED) == [("completed", 1)]
        tables.append(one.daily.tables())
        said.append(done.stderr)
        calls = one.calls()
        assert set(calls.values()) == {1}
        Path(variables["TEST_CALLS"]).unlink()
    assert not differences(*tables)
    assert [text.count("predictbench_assets.backfill_process") for text in said] == [1, 2]
    assert "experiment_results/halting" in said[1], "what the steps say is shown, wherever they are"
