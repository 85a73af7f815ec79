"""`predictbench backfill --at-once 2`: two runs beside each other come to what they come to in turn."""

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
from sqlalchemy import Engine, text

from predictbench_assets.sandbox.server import SandboxServer
from predictbench_assets_tests.kit.backfills import (
    FIRST,
    NOW,
    calls_of_models,
    declare_paid,
    exchange_weeks_later,
    paid_settings,
)
from predictbench_assets_tests.kit.commands import command
from predictbench_assets_tests.kit.daily_run import BASELINE, Tables, differences, dump

pytestmark = pytest.mark.long

MEETING = """\
import os, time
from pathlib import Path
from predictbench_assets.experiments.protocol import Experiment, ExperimentResult

HERE = Path(__file__).parent

class Meeting(Experiment):
    name, version, description = "meeting", "1", "Begins when two runs are under way, and may go on."

    def run_event(self, markets, contexts):
        run = contexts[markets[0].market_id].run
        (HERE / "met" / f"{run.run_date} {run.window_days}").touch()
        deadline = time.monotonic() + 60
        while len(list((HERE / "met").iterdir())) < 2 or not (HERE / "go").exists():
            if time.monotonic() > deadline:
                raise TimeoutError("no other run is under way")
            print("waiting", flush=True)
            time.sleep(0.05)
        if (run.run_date.isoformat(), run.window_days) == CRASHES and not (HERE / "crashed").exists():
            (HERE / "crashed").touch()
            os._exit(3)
        return {market.market_id: ExperimentResult.binary(0.25) for market in markets}

CRASHES = None
"""
HANGING = """\
import time
from pathlib import Path
from predictbench_assets.experiments.protocol import Experiment, ExperimentResult

HERE = Path(__file__).parent

class Hanging(Experiment):
    name, version, description, timeout_seconds = "hanging", "1", "Never returns in one of the runs.", LIMIT

    def run_event(self, markets, contexts):
        run = contexts[markets[0].market_id].run
        while (run.run_date.isoformat(), run.window_days) == HANGS and not (HERE / "mended").exists():
            (HERE / "hangs").touch()
            time.sleep(0.1)
        return {market.market_id: ExperimentResult.binary(0.25) for market in markets}

"""
WHOLE = """
    SELECT r.run_date, r.window_days, r.attempt,
        r.status = 'completed' AND r.processed_markets = count(DISTINCT m.market_id)
        AND 2 * r.processed_markets = count(e.*)
    FROM predictbench.processing_runs r JOIN predictbench.processed_markets m USING (run_id)
    LEFT JOIN predictbench.latest_experiment_results e USING (processed_market_id)
    GROUP BY r.run_id ORDER BY 1, 2
"""
"""Each run, with its attempts, and whether it has one row of both experiments for each of its markets."""
ASKED = "SELECT run_date || ' ' || window_days, count(*) FROM predictbench.model_calls GROUP BY 1"


@pytest.fixture
def exchange() -> Iterator[SandboxServer]:
    """A small exchange, weeks after the days of the backfill."""
    with exchange_weeks_later() as server:
        yield server


@pytest.fixture
def environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Runs know the experiment that waits for another run."""
    experiments = f"{BASELINE},meeting:Meeting"
    return {**environment, "PREDICTBENCH_NOW": NOW.isoformat(), "PROCESSING_EXPERIMENTS": experiments}


def backfill(first: date, last: date, windows: str, at_once: int) -> tuple[str, ...]:
    """The arguments of the command."""
    days = ("--from", str(first), "--to", str(last), "--window-days", windows)
    return "backfill", *days, "--reconstruct", "--summary", "b.json", "--at-once", str(at_once)


def meet_in(folder: Path, *, go: bool = True, crashes: tuple[str, int] | None = None) -> None:
    """Put the experiment into a folder.

    Args:
        go: False to have it wait further.
        crashes: the run in which it takes the process with it, once.
    """
    (folder / "meeting.py").write_text(f"{MEETING}CRASHES = {crashes!r}\n")
    (folder / "met").mkdir(parents=True)
    if go:
        (folder / "go").touch()


def run(folder: Path, environment: Mapping[str, str], *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        command(*arguments),
        cwd=folder,
        env={**environment, **more},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@contextmanager
def begun(folder: Path, environment: Mapping[str, str], *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The command, two of whose runs are under way and wait; none of its processes is left afterwards."""
    with subprocess.Popen(
        command(*arguments), cwd=folder, env=environment, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        deadline = time.monotonic() + 60
        while len(list((folder / "met").iterdir())) < 2:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        children = psutil.Process(process.pid).children()
        yield process
    _, alive = psutil.wait_procs(children, timeout=60)
    assert alive == []


def outcomes(folder: Path) -> list[tuple[str, int, str]]:
    """What became of each run of the last backfill, in the order of its table."""
    runs = json.loads((folder / "b.json").read_text())["runs"]
    return [(one["run_date"], one["window_days"], one["outcome"]) for one in runs]


def whole(engine: Engine) -> list[tuple[int, bool]]:
    """The attempts of each run, and whether its rows are there once."""
    with engine.connect() as connection:
        return [(row.attempt, row[3]) for row in connection.execute(text(WHOLE))]


def test_two_at_once_leave_the_same_rows_as_one_after_another(
    environment: Mapping[str, str], exchange: SandboxServer, new_database: Callable[[], str], tmp_path: Path
) -> None:
    listed = environment["PROCESSING_EXPERIMENTS"]
    tables, walks, paid, said = list[Tables](), list[int](), list[int](), list[str]()
    for at_once in (1, 2):
        folder, database = tmp_path / str(at_once), new_database()
        declare_paid(folder, exchange)
        meet_in(folder)
        if at_once == 1:
            for other in ("one", "another"):
                (folder / "met" / other).touch()
        exchange.app.requests.clear()
        settings = {**environment, **paid_settings(tmp_path, exchange), "PROCESSING_EXPERIMENTS": listed}
        arguments = backfill(FIRST, FIRST + timedelta(days=1), "1,2,3", at_once)
        done = run(folder, {**settings, "DATABASE_URL": database}, *arguments)
        assert done.returncode == 0, done.stderr
        tables.append(dump(database))
        walks.append(sum(count for path, count in exchange.requests.items() if "/markets" in path))
        paid.append(calls_of_models(exchange))
        said.append(done.stderr)
        runs = [(str(FIRST + timedelta(days=day)), window, "stored") for day in (0, 1) for window in (1, 2, 3)]
        assert outcomes(folder) == runs, "in the order of the days, whichever ended first"
        logs = "".join(path.read_text() for path in folder.rglob("log.jsonl"))
        assert "database is locked" not in logs

    assert differences(*tables).keys() <= {"model_calls"}, "which say when each call was made"
    assert paid == 2 * [tables[0]["model_calls"].total()]
    assert walks[0] == walks[1] > 0, "a listing that both need is read once"
    assert [text.count("predictbench_assets.backfill_process") for text in said] == [1, 2]
    assert "PREDICTBENCH_SHARED_BY=2" in said[1]


def test_two_at_once_keep_the_budget_of_a_day_together(
    environment: Mapping[str, str], exchange: SandboxServer, engine: Engine, tmp_path: Path
) -> None:
    declare_paid(tmp_path, exchange)
    with (tmp_path / "experiments.toml").open("a") as declared:
        declared.write("limits.calls_per_day = 30\n")
    meet_in(tmp_path)
    settings = {**environment, **paid_settings(tmp_path, exchange)}
    settings["PROCESSING_EXPERIMENTS"] = environment["PROCESSING_EXPERIMENTS"]
    done = run(tmp_path, settings, *backfill(FIRST, FIRST + timedelta(days=1), "1,2", at_once=2))
    assert done.returncode == 0, done.stderr
    with engine.connect() as connection:
        asked = dict(connection.execute(text(ASKED)).all())
    assert calls_of_models(exchange) == sum(asked.values()) == 30
    assert len(asked) > 1


@pytest.mark.parametrize("signals", ["SIGINT", "SIGINT SIGINT", "SIGTERM"])
def test_a_signal_is_for_both_and_the_same_command_goes_on_after_it(
    environment: Mapping[str, str], exchange: SandboxServer, engine: Engine, tmp_path: Path, signals: str
) -> None:
    meet_in(tmp_path, go=False)
    arguments = backfill(FIRST, FIRST + timedelta(days=1), "1,2", at_once=2)
    first, *others = (signal.Signals[name] for name in signals.split())
    with begun(tmp_path, environment, *arguments) as process:
        process.send_signal(first)
        assert process.stderr is not None
        if first is signal.SIGINT:
            announced = "it ends after the 2 runs under way; Ctrl-C once more ends these, too"
            assert any(announced in line for line in process.stderr)
        for another in others:
            process.send_signal(another)
        if signals == "SIGINT":
            (tmp_path / "go").touch()
        _, rest = process.communicate(timeout=120)
    assert process.returncode == 128 + first, rest
    assert json.loads((tmp_path / "b.json").read_text())["stopped_by"] == first.name
    ended = "stored" if signals == "SIGINT" else "failed"
    assert [outcome for *_, outcome in outcomes(tmp_path)] == [ended, ended, "not_run", "not_run"]

    (tmp_path / "go").touch()
    done = run(tmp_path, environment, *arguments)
    assert done.returncode == 0, done.stderr
    ended = "stored_before" if signals == "SIGINT" else "stored"
    assert [outcome for *_, outcome in outcomes(tmp_path)] == [ended, ended, "stored", "stored"]
    assert [once for _, once in whole(engine)] == 4 * [True]


def hang_in(folder: Path, limit: float) -> None:
    """Put an experiment into a folder that does not return in the first run, so many seconds at most."""
    folder.mkdir(exist_ok=True)
    (folder / "hanging.py").write_text(f"HANGS, LIMIT = {(str(FIRST), 1)!r}, {limit}\n{HANGING}")


def test_a_run_that_hangs_up_to_its_limit_costs_its_own_forecasts_alone(
    environment: Mapping[str, str], exchange: SandboxServer, engine: Engine, tmp_path: Path
) -> None:
    hang_in(tmp_path, 2)
    settings = {**environment, "PROCESSING_EXPERIMENTS": f"{BASELINE},hanging:Hanging"}
    arguments = backfill(FIRST, FIRST + timedelta(days=1), "1,2", at_once=2)
    done = run(tmp_path, settings, *arguments)
    assert done.returncode == 0, done.stderr
    assert [outcome for *_, outcome in outcomes(tmp_path)] == 4 * ["stored"]
    failed = "SELECT DISTINCT r.run_date || ' ' || r.window_days FROM predictbench.latest_experiment_results e "
    failed += "JOIN predictbench.processing_runs r USING (run_id) WHERE e.status = 'failed'"
    with engine.connect() as connection:
        assert [row[0] for row in connection.execute(text(failed))] == [f"{FIRST} 1"]
    (tmp_path / "mended").touch()
    done = run(tmp_path, settings, *arguments)
    assert done.returncode == 0, done.stderr
    assert [outcome for *_, outcome in outcomes(tmp_path)] == ["stored", *3 * ["stored_before"]]
    with engine.connect() as connection:
        assert connection.execute(text(failed)).all() == []


@pytest.mark.parametrize("signals", ["SIGINT SIGINT", "SIGTERM"])
def test_beside_a_run_that_hangs_all_others_are_made_and_signals_end_it(
    environment: Mapping[str, str], exchange: SandboxServer, engine: Engine, tmp_path: Path, signals: str
) -> None:
    hang_in(tmp_path, 600)
    settings = {**environment, "PROCESSING_EXPERIMENTS": f"{BASELINE},hanging:Hanging", "LOG_FORMAT": "text"}
    arguments = backfill(FIRST, FIRST + timedelta(days=1), "1,2", at_once=2)
    with subprocess.Popen(
        command(*arguments), cwd=tmp_path, env=settings, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        ended: set[str] = set()
        for line in process.stderr:
            ended.update([line.split("] ")[1].strip()] if line.rstrip().endswith(": stored") else [])
            if len(ended) == 3:
                break
        assert (tmp_path / "hangs").exists()
        children = psutil.Process(process.pid).children()
        first, *others = (signal.Signals[name] for name in signals.split())
        process.send_signal(first)
        if others:
            said = next(line for line in process.stderr if "it ends" in line)
            assert "it ends after this run; Ctrl-C once more ends this one, too" in said
        for another in others:
            process.send_signal(another)
        _, rest = process.communicate(timeout=120)
    assert process.returncode == 128 + first, rest
    _, alive = psutil.wait_procs(children, timeout=60)
    assert alive == []
    assert [outcome for *_, outcome in outcomes(tmp_path)] == ["failed", *3 * ["stored"]]
    (tmp_path / "mended").touch()
    done = run(tmp_path, settings, *arguments)
    assert done.returncode == 0, done.stderr
    assert [outcome for *_, outcome in outcomes(tmp_path)] == ["stored", *3 * ["stored_before"]]
    assert [once for _, once in whole(engine)] == 4 * [True]


def test_a_crash_in_one_process_costs_the_other_nothing(
    environment: Mapping[str, str], exchange: SandboxServer, engine: Engine, tmp_path: Path
) -> None:
    meet_in(tmp_path, crashes=(str(FIRST), 1))
    done = run(tmp_path, environment, *backfill(FIRST, FIRST + timedelta(days=1), "1,2", at_once=2))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "crashed").exists()
    assert [outcome for *_, outcome in outcomes(tmp_path)] == 4 * ["stored"]
    assert whole(engine) == [(2, True), (1, True), (1, True), (1, True)]
    assert "the run goes on with meeting in a process of its own" in done.stderr
    assert done.stderr.count("predictbench_assets.backfill_process") == 3


def test_a_run_of_today_begins_when_those_before_it_have_ended(
    environment: Mapping[str, str], exchange: SandboxServer, tmp_path: Path
) -> None:
    meet_in(tmp_path)
    today = NOW.date()
    done = run(tmp_path, environment, *backfill(today - timedelta(days=1), today, "1,2", at_once=2), LOG_FORMAT="text")
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stderr.splitlines() if "/4] " in line]
    assert set(told[:2]) == {f"[{n}/4] {today - timedelta(days=1)}, window {n} days" for n in (1, 2)}
    assert set(told[2:4]) == {f"[{n}/4] {today - timedelta(days=1)}, window {n} days: stored" for n in (1, 2)}
    assert told[4:] == [f"[{n + 2}/4] {today}, window {n} days{end}" for n in (1, 2) for end in ("", ": stored")]
