"""The job `resolution_sweep` on a sandbox exchange: from a stored run to a board, its pictures and the page."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from sqlalchemy import Engine

from predictbench_assets.definitions import build_defs
from predictbench_assets.launch.commands import DEFINITIONS, RESOLUTION_SWEEP
from predictbench_assets.runs import RunKey
from predictbench_assets.sandbox.server import serve
from predictbench_assets.sandbox.world import World
from predictbench_assets.scoring.store.boards import content_hash, rebuild_leaderboard, stored_leaderboard
from predictbench_assets.settings import all_variables, load_settings
from predictbench_assets_tests.kit.daily_run import NOW, DailyRun
from predictbench_assets_tests.kit.places import CLONE

KEY = RunKey(NOW.date(), 1)
LATER = NOW + timedelta(days=5)


@pytest.fixture
def daily(database_url: str, tmp_path: Path) -> Iterator[DailyRun]:
    """A run that is stored, on an exchange whose markets have closed since."""
    with serve(World(7, 60), now=NOW) as sandbox:
        run = DailyRun(tmp_path, database_url, sandbox)
        assert run.here(KEY).exit_code == 0
        sandbox.set_time(LATER)
        yield run


def swept(
    daily: DailyRun, monkeypatch: pytest.MonkeyPatch, **variables: str
) -> tuple[dict[str, dict[str, Any]], dict[str, bool]]:
    """The job in this process: the metadata of its assets, and which checks passed."""
    for name in all_variables():
        monkeypatch.delenv(name, raising=False)
    environment = daily.environment(daily.folder / "none.json", {"PREDICTBENCH_NOW": LATER.isoformat(), **variables})
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    definitions = build_defs(load_settings())
    assert definitions.resources is not None
    try:
        with dg.DagsterInstance.ephemeral() as instance:
            result = definitions.resolve_job_def(RESOLUTION_SWEEP).execute_in_process(
                instance=instance,
                run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            )
            metadata = {
                event.asset_key.to_user_string(): {
                    name: value.value for name, value in event.materialization.metadata.items()
                }
                for event in result.get_asset_materialization_events()
                if event.asset_key is not None
            }
            return metadata, {one.check_name: one.passed for one in result.get_asset_check_evaluations()}
    finally:
        definitions.resources["database"].engine.dispose()


def test_what_the_job_stores_and_shows(daily: DailyRun, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    told, checks = swept(daily, monkeypatch)
    assert set(told) == {"market_resolutions", "experiment_scores", "leaderboard", "benchmark_report"}
    assert set(checks) == {
        *(
            "cohorts_final",
            "split_share",
            "long_open",
            "settlements_stable",
            "scores_in_range",
            "market_edge_zero",
            "controls_beaten",
        ),
    }
    assert checks["scores_in_range"]
    assert checks["market_edge_zero"]

    scores = told["experiment_scores"]
    assert scores["scored"] == scores["scores"] == scores["dagster/row_count"] > 100
    board = told["leaderboard"]
    assert "As known at 2026-03-07T07:00:00Z" in board["board"]
    for picture in ("edges", "reliability", "edge_over_time", "edge_by_price", "edge_by_category", "coverage"):
        assert "](data:image/png;base64," in board[picture]
    stored = stored_leaderboard(engine, LATER)
    assert stored is not None
    assert stored == rebuild_leaderboard(engine, LATER)
    assert len(stored.rows) == board["dagster/row_count"] > 0

    report = told["benchmark_report"]
    assert Path(report["index"]).is_file()
    assert report["leaderboard_hash"] == board["content_hash"]
    assert report["as_of"] == board["as_of"] == LATER.isoformat()


def test_board_and_page_leave_out_older_runs_and_say_so(
    daily: DailyRun, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, _ = swept(daily, monkeypatch, LEADERBOARD_DAYS="4")
    since = LATER.date() - timedelta(days=4)
    stored = stored_leaderboard(engine, LATER)
    assert stored is not None
    assert (stored.since, stored.rows) == (since, ())
    assert told["leaderboard"]["since"] == since.isoformat()
    assert f"Only run dates from {since} on count" in told["leaderboard"]["board"]
    report = told["benchmark_report"]
    assert report["leaderboard_hash"] == content_hash(stored) == told["leaderboard"]["content_hash"]
    assert f"Only run dates from {since} on count" in Path(report["index"]).read_text()


@pytest.mark.long
def test_the_job_as_a_process_and_once_more(daily: DailyRun, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    home = daily.folder / "dagster"
    home.mkdir(exist_ok=True)
    shutil.copy(CLONE / "dagster.yaml", home)
    inherited = {name: value for name, value in os.environ.items() if name not in all_variables()}
    ours = daily.environment(daily.folder / "none.json", {"PREDICTBENCH_NOW": LATER.isoformat()})
    done = subprocess.run(
        [sys.executable, "-m", "dagster", "job", "execute", "-m", DEFINITIONS, "-j", RESOLUTION_SWEEP],
        cwd=home,
        env=inherited | ours | {"DAGSTER_HOME": str(home), "PYTHONPATH": str(CLONE)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    first = stored_leaderboard(engine, LATER)
    assert first is not None
    assert first.rows
    assert (daily.folder / "home" / "report" / "index.html").is_file()

    again, _ = swept(daily, monkeypatch)
    assert again["experiment_scores"]["scored"] == 0
    assert again["leaderboard"]["content_hash"] == content_hash(first)
    [(boards,)] = daily.rows("SELECT count(*) FROM predictbench.leaderboards")
    assert boards == 1
