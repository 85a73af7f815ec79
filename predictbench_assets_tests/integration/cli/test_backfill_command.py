"""`predictbench backfill`, really run: stored days again, today in full, and what cannot be run."""

import json
import os
import pty
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
from click.testing import CliRunner
from sqlalchemy import Engine, text

from predictbench_assets.cli.main import main
from predictbench_assets.ingestion.names import staged_name
from predictbench_assets.runs import RunKey
from predictbench_assets.sandbox.server import SandboxServer, serve
from predictbench_assets.sandbox.world import World
from predictbench_assets_tests.kit.commands import Predictbench, command

NOW = datetime(2026, 3, 3, 7, 0, tzinfo=UTC)
TODAY, YESTERDAY, BEFORE = (NOW.date() - timedelta(days=days) for days in range(3))
BASELINE = "predictbench_assets.experiments.builtin.baseline:BaselineSnapshotExperiment"
RUNS = "SELECT run_date, window_days, status, attempt FROM predictbench.processing_runs ORDER BY run_date, window_days"


@pytest.fixture
def exchange() -> Iterator[SandboxServer]:
    """A small exchange on the day before."""
    with serve(World(7, 30), now=NOW - timedelta(days=1)) as server:
        yield server


@pytest.fixture
def environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Runs are of a fixed day, and of one experiment."""
    return {**environment, "PREDICTBENCH_NOW": NOW.isoformat(), "PROCESSING_EXPERIMENTS": BASELINE}


def stored(engine: Engine) -> list[tuple[object, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(RUNS))]


def test_a_stored_day_is_passed_over_or_run_again_without_the_exchange_and_one_without_a_snapshot_is_listed(
    predictbench: Predictbench, exchange: SandboxServer, engine: Engine, tmp_path: Path
) -> None:
    done = predictbench("daily", PREDICTBENCH_NOW=(NOW - timedelta(days=1)).isoformat())
    assert done.returncode == 0, done.stderr
    asked, page = sum(exchange.requests.values()), tmp_path / "page.md"

    done = predictbench("backfill", "--from", str(YESTERDAY), "--to", str(YESTERDAY))
    assert done.returncode == 0, done.stderr
    assert "1 stored before" in done.stdout
    assert stored(engine) == [(YESTERDAY, 7, "completed", 1)]

    done = predictbench(
        *("backfill", "--from", str(BEFORE), "--to", str(YESTERDAY), "--again", "--no-reconstruct"),
        *("--summary", "out/backfill.json"),
        GITHUB_STEP_SUMMARY=str(page),
    )

    assert done.returncode == 3, done.stderr
    missing, again = json.loads((tmp_path / "out" / "backfill.json").read_text())["runs"]
    assert (missing["run_date"], missing["outcome"]) == (str(BEFORE), "missing")
    assert "no snapshot is stored" in missing["reason"]
    assert (again["run_date"], again["outcome"], again["processed_markets"]) == (str(YESTERDAY), "stored", 30)
    assert stored(engine) == [(YESTERDAY, 7, "completed", 2)]
    assert sum(exchange.requests.values()) == asked
    assert "1 missing, 1 stored" in done.stdout
    assert page.read_text() == (tmp_path / "out" / "backfill.md").read_text()
    assert f"[1/1] {YESTERDAY}, window 7 days" in done.stderr


@pytest.mark.long
def test_today_is_run_in_full_and_a_run_that_fails_does_not_stop_the_others(
    predictbench: Predictbench, exchange: SandboxServer, engine: Engine, tmp_path: Path
) -> None:
    exchange.set_time(NOW)
    broken = tmp_path / ".predictbench" / "staging" / staged_name(["target_window"], RunKey(TODAY, 1))
    broken.mkdir(parents=True)  # nothing can be staged there
    options = ("--from", str(YESTERDAY), "--to", str(TODAY), "--window-days", "1,7", "--summary", "backfill.json")
    done = predictbench("backfill", *options, "--no-reconstruct")
    assert done.returncode == 1, done.stderr
    runs = json.loads((tmp_path / "backfill.json").read_text())["runs"]
    assert [(run["run_date"], run["window_days"], run["outcome"], run["stage"]) for run in runs] == [
        (str(YESTERDAY), 1, "missing", None),
        (str(YESTERDAY), 7, "missing", None),
        (str(TODAY), 1, "failed", "target_window"),
        (str(TODAY), 7, "stored", None),
    ]
    assert stored(engine) == [(TODAY, 1, "failed", 1), (TODAY, 7, "completed", 1)]
    assert f"[1/2] {TODAY}, window 1 days: failed" in done.stderr


MINE = """
import os, signal
from predictbench_assets.experiments.protocol import Experiment, ExperimentResult

class Mine(Experiment):
    name, version, description = "mine", "1", "Fails for a window, and takes its process with it for another."

    def run_event(self, markets, contexts):
        match contexts[markets[0].market_id].run.window_days:
            case 1:
                raise ValueError("no model for a day ahead")
            case 2:
                os.kill(os.getpid(), signal.SIGKILL)
        return {market.market_id: ExperimentResult.binary(0.25) for market in markets}
"""


@pytest.mark.long
def test_one_experiment_on_stored_days_whatever_happens_on_some_of_them(
    predictbench: Predictbench, exchange: SandboxServer, engine: Engine, tmp_path: Path
) -> None:
    exchange.set_time(NOW)
    (tmp_path / "mine.py").write_text(MINE)
    day = ("--from", str(TODAY), "--to", str(TODAY), "--summary", "b.json")
    done = predictbench("backfill", *day, "--window-days", "1,2,7")
    assert done.returncode == 0, done.stderr
    asked = sum(exchange.requests.values())
    later = {
        "PREDICTBENCH_NOW": (NOW + timedelta(days=3)).isoformat(),
        "PROCESSING_EXPERIMENTS": f"{BASELINE},mine:Mine",
    }

    done = predictbench("backfill", *day, "--window-days", "1,2,3,7", "--experiment", "mine", **later)

    assert done.returncode == 1, done.stderr
    read = json.loads((tmp_path / "b.json").read_text())
    assert [(run["window_days"], run["outcome"], run["late"]) for run in read["runs"]] == [
        (1, "failed", False),
        (2, "failed", False),
        (3, "missing", False),
        (7, "stored", True),
    ]
    failed, crashed, missing, made = read["runs"]
    assert (
        failed["reason"]
        == "mine failed for every market: ValueError: no model for a day ahead (mine.py:11 in run_event)"
    )
    assert failed["forecasts"] == f"mine {failed['processed_markets']} failed"
    assert crashed["reason"].startswith("mine failed for every market: the process that forecast it ended with SIGKILL")
    assert missing["reason"] == "it is not stored complete: run it without --experiment first"
    assert made["forecasts"] == f"mine {made['processed_markets']} forecasts"
    assert "The forecasts made now for 1 of these runs are late" in done.stdout
    assert f"[3/3] 2026-03-03, window 7 days: stored; {made['forecasts']}" in done.stderr
    assert sum(exchange.requests.values()) == asked
    assert stored(engine) == [(TODAY, 1, "completed", 2), (TODAY, 2, "completed", 3), (TODAY, 7, "completed", 2)]


FAULTY = """
import ctypes, os, time
from predictbench_assets.experiments.protocol import Experiment, ExperimentResult

class Faulty(Experiment):
    name, version, description = "faulty", "1", "Takes its process with it, in one way or another."

    def run_event(self, markets, contexts):
        match contexts[markets[0].market_id].run.window_days:
            case 1:
                os._exit(3)
            case 2:
                ctypes.string_at(0)
            case 3:
                time.sleep(600)
        return {market.market_id: ExperimentResult.binary(0.25) for market in markets}
"""
RESULTS = """
    SELECT p.window_days, e.name, count(*), count(DISTINCT r.processed_market_id), min(r.status), max(r.status)
    FROM predictbench.latest_experiment_results r
    JOIN predictbench.processed_markets m USING (processed_market_id)
    JOIN predictbench.processing_runs p ON p.run_id = m.run_id
    JOIN predictbench.experiments e ON e.name = r.experiment
    WHERE p.run_date = :day GROUP BY 1, 2 ORDER BY 1, 2
"""

MARKETS = "SELECT window_days, processed_markets FROM predictbench.processing_runs WHERE run_date = :day"


@pytest.mark.long
def test_whatever_an_experiment_does_every_run_is_whole_and_has_its_rows_once(
    predictbench: Predictbench, exchange: SandboxServer, engine: Engine, tmp_path: Path
) -> None:
    exchange.set_time(NOW)
    (tmp_path / "faulty.py").write_text(FAULTY)
    faulty = {"PROCESSING_EXPERIMENTS": f"{BASELINE},faulty:Faulty", "EXPERIMENT_TIMEOUT_SECONDS": "1"}
    day = ("--from", str(TODAY), "--to", str(TODAY), "--window-days", "1,2,3,7", "--summary", "b.json")

    done = predictbench("backfill", *day, **faulty)

    assert done.returncode == 0, done.stderr
    runs = json.loads((tmp_path / "b.json").read_text())["runs"]
    assert [(run["window_days"], run["outcome"]) for run in runs] == [(w, "stored") for w in (1, 2, 3, 7)]
    with engine.connect() as connection:
        rows = [tuple(row) for row in connection.execute(text(RESULTS), {"day": TODAY})]
    markets = {run["window_days"]: run["processed_markets"] for run in runs}
    assert rows == [
        (window, name, markets[window], markets[window], status, status)
        for window in (1, 2, 3, 7)
        for name, status in (
            ("baseline_snapshot", "completed"),
            ("faulty", "completed" if window == 7 else "failed"),
        )
    ]


@pytest.mark.long
@pytest.mark.parametrize("whom", ["the child", "the parent"])
def test_after_a_kill_the_same_command_makes_every_run_whole(
    predictbench: Predictbench,
    environment: Mapping[str, str],
    exchange: SandboxServer,
    engine: Engine,
    tmp_path: Path,
    whom: str,
) -> None:
    exchange.set_time(NOW)
    day = ("backfill", "--from", str(TODAY), "--to", str(TODAY), "--window-days", "1,2,7", "--summary", "b.json")
    with subprocess.Popen(
        command(*day), cwd=tmp_path, env=dict(environment), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 60
        while len(stored(engine)) < 2:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        children = psutil.Process(process.pid).children()
        for victim in children if whom == "the child" else [process]:
            victim.kill()
        process.wait(60)
    _, alive = psutil.wait_procs(children, timeout=60)
    assert alive == []

    done = predictbench(*day)

    assert done.returncode == 0, done.stderr
    runs = json.loads((tmp_path / "b.json").read_text())["runs"]
    assert {run["outcome"] for run in runs} <= {"stored", "stored_before"}
    assert [(window, status) for _, window, status, _ in stored(engine)] == [(w, "completed") for w in (1, 2, 7)]
    with engine.connect() as connection:
        rows = [tuple(row) for row in connection.execute(text(RESULTS), {"day": TODAY})]
        markets = dict(connection.execute(text(MARKETS), {"day": TODAY}).all())
    assert rows == [(w, "baseline_snapshot", markets[w], markets[w], "completed", "completed") for w in (1, 2, 7)]


STOPPING = """
import os, signal
from predictbench_assets.experiments.protocol import Experiment, ExperimentResult

class Stopping(Experiment):
    name, version, description = "stopping", "1", "Presses Ctrl-C in the middle of the first run."

    pressed = False

    def run_event(self, markets, contexts):
        if contexts[markets[0].market_id].run.window_days == 1 and not Stopping.pressed:
            Stopping.pressed = True
            os.kill(os.getppid(), signal.SIGINT)
        return {market.market_id: ExperimentResult.binary(0.25) for market in markets}
"""


def test_ctrl_c_lets_the_run_end_and_the_same_command_goes_on_after_it(
    predictbench: Predictbench, exchange: SandboxServer, engine: Engine, tmp_path: Path
) -> None:
    exchange.set_time(NOW)
    (tmp_path / "stopping.py").write_text(STOPPING)
    listed = {"PROCESSING_EXPERIMENTS": f"{BASELINE},stopping:Stopping"}
    day = ("--from", str(TODAY), "--to", str(TODAY), "--window-days", "1,2,7", "--summary", "b.json")

    done = predictbench("backfill", *day, **listed)
    assert done.returncode == 128 + signal.SIGINT, done.stderr
    read = json.loads((tmp_path / "b.json").read_text())
    assert read["stopped_by"] == "SIGINT"
    assert [line["outcome"] for line in read["runs"]] == ["stored", "not_run", "not_run"]
    assert stored(engine) == [(TODAY, 1, "completed", 1)]

    done = predictbench("backfill", *day, **listed)
    assert done.returncode == 0, done.stderr
    read = json.loads((tmp_path / "b.json").read_text())
    assert [line["outcome"] for line in read["runs"]] == ["stored_before", "stored", "stored"]
    assert stored(engine) == [(TODAY, window, "completed", 1) for window in (1, 2, 7)]


def test_an_experiment_that_is_not_there_is_named_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREDICTBENCH_ENV_FILE", "")
    monkeypatch.setenv("PREDICTBENCH_NOW", NOW.isoformat())
    day = ["--from", str(TODAY), "--to", str(TODAY), "--experiment", "unifrom"]
    done = CliRunner().invoke(main, ["backfill", *day])
    assert done.exit_code == 2
    assert "Did you mean 'uniform'?" in done.output


def test_an_interrupt_ends_it_and_says_what_was_not_run(
    environment: Mapping[str, str], engine: Engine, tmp_path: Path
) -> None:
    arguments = ("backfill", "--from", str(TODAY), "--to", str(TODAY), "--window-days", "7,1,2", "--summary", "b.json")
    with subprocess.Popen(
        command(*arguments), cwd=tmp_path, env=dict(environment), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        deadline = time.monotonic() + 60
        while not stored(engine):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, output
    read = json.loads((tmp_path / "b.json").read_text())
    assert read["stopped_by"] == "SIGTERM"
    assert [line["outcome"] for line in read["runs"]] == ["failed", "not_run", "not_run"]


def test_many_runs_are_asked_about_on_a_terminal(environment: Mapping[str, str], tmp_path: Path) -> None:
    controller, terminal = pty.openpty()
    try:
        windows = "1,2,3,4,5,6,7,8,9,10,11"
        with subprocess.Popen(
            command("backfill", "--from", str(TODAY), "--to", str(TODAY), "--window-days", windows),
            cwd=tmp_path,
            env=dict(environment),
            stdin=terminal,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            os.write(controller, b"n\n")
            output, _ = process.communicate(timeout=60)
    finally:
        os.close(controller)
        os.close(terminal)
    assert process.returncode == 1
    assert "11 runs will be made. Go on?" in output
    assert "Aborted" in output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--from", str(TODAY)], "--to"),
        (["--from", "", "--to", ""], "Missing option '--from'"),
        (["--from", str(TODAY), "--to", str(YESTERDAY)], "is before"),
        (["--from", str(TODAY), "--to", str(TODAY + timedelta(days=1))], "future"),
        (["--from", "2025-12-31", "--to", str(TODAY)], "first day"),
        (["--from", str(TODAY), "--to", str(TODAY), "--window-days", "15"], "not in the grid"),
        (["--from", str(TODAY), "--to", str(TODAY), "--at-once", "0"], "1<=x<=16"),
        (["--from", str(TODAY), "--to", str(TODAY), "--at-once", "4"], "less than 0.1 for each"),
        (["--check", "--at-once", "2"], "leave the other options out"),
    ],
)
def test_what_cannot_be_is_refused(arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREDICTBENCH_ENV_FILE", "")
    monkeypatch.setenv("PREDICTBENCH_NOW", NOW.isoformat())
    monkeypatch.setenv("POLYMARKET_REQUESTS_PER_SECOND", "0.3")
    done = CliRunner().invoke(main, ["backfill", *arguments])
    assert done.exit_code == 2
    assert said in done.output
