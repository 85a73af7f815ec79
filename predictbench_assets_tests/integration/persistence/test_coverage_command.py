"""`predictbench coverage`: the state of each partition as boards see it, whatever its attempts came to."""

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine

from predictbench_assets.cli.main import main
from predictbench_assets.clock import FixedClock
from predictbench_assets.persistence.leases import RunCounts, record_missed
from predictbench_assets.persistence.stored_runs import run_states
from predictbench_assets.persistence.writer import RunWriter
from predictbench_assets.reporting.coverage import coverage_of
from predictbench_assets.runs import RunKey, StoredStatus
from predictbench_assets_tests.kit.builders import KEY, NOW, attempt, open_run, record

Predictbench = Callable[..., Result]

LATER = NOW + timedelta(days=3)


@pytest.fixture
def predictbench(database_url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Predictbench:
    """The command in this process, some days after the runs, in a folder of its own."""
    for name, value in (
        ("DATABASE_URL", database_url),
        ("PREDICTBENCH_NOW", LATER.isoformat()),
        ("PREDICTBENCH_ENV_FILE", ""),
        ("COLUMNS", "100"),
    ):
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(main, arguments, prog_name="predictbench")


def key(days: int, window: int = 7) -> RunKey:
    """A run so many days after the first."""
    return RunKey(KEY.run_date + timedelta(days=days), window)


def store(engine: Engine, run: RunKey, status: StoredStatus = "completed", *, reconstructed: bool = False) -> None:
    lease = open_run(engine, run, on_existing="update")
    writer = RunWriter(engine, lease, lease.clock)
    if reconstructed:
        with engine.begin() as connection:
            lease.hold(connection, as_of=run.start)
    writer.write([record(1)], [attempt()], reconstructed=reconstructed)
    writer.finish(RunCounts(1, 0, 0, 0, 1), status, (), {})


def fail(engine: Engine, run: RunKey, at: datetime = NOW) -> None:
    open_run(engine, run, at, on_existing="update").fail("raw_markets", "it rained", retriable=True)


def miss(engine: Engine, run: RunKey) -> None:
    words = {"reason": "late", "holder": "host:1", "exchange": "gamma.example"}
    record_missed(engine, (run,), git_sha=None, clock=FixedClock(NOW), **words)


def states(done: Result) -> dict[tuple[str, int], str]:
    assert done.exit_code == 0, done.output
    return {(one["run_date"], one["window_days"]): one["state"] for one in json.loads(done.stdout)["partitions"]}


def test_each_state_of_a_partition(predictbench: Predictbench, engine: Engine) -> None:
    store(engine, key(0))
    store(engine, key(1), reconstructed=True)
    store(engine, key(2), "partial")
    fail(engine, key(3))
    miss(engine, key(4))
    open_run(engine, key(7))
    miss(engine, key(6, window=30))
    fail(engine, key(6, window=30))
    done = predictbench("coverage", "--format", "json")
    assert states(done) == {
        ("2026-02-02", 7): "live",
        ("2026-02-03", 7): "reconstructed",
        ("2026-02-04", 7): "partial",
        ("2026-02-05", 7): "failed",
        ("2026-02-06", 7): "missed",
        ("2026-02-07", 7): "absent",
        ("2026-02-08", 7): "absent",
        ("2026-02-09", 7): "running",
        **{(f"2026-02-0{day}", 30): "absent" for day in range(2, 10)},
        ("2026-02-08", 30): "missed",
    }
    whole: dict[str, Any] = json.loads(done.stdout)
    assert (whole["first"], whole["last"]) == ("2026-02-02", "2026-02-09")
    assert [(one["window_days"], one["live"], one["absent"]) for one in whole["windows"]] == [(7, 1, 2), (30, 0, 7)]

    table = predictbench("coverage").stdout
    assert "  7 days    LRPFM..>" in table
    assert "  30 days   ......M." in table
    since = predictbench("coverage", "--since", "2026-02-05")
    assert "From 2026-02-05 to 2026-02-09" in since.stdout
    assert states(predictbench("coverage", "--since", "2026-02-08", "--format", "json")).keys() == {
        (day, window) for day in ("2026-02-08", "2026-02-09") for window in (7, 30)
    }


def test_what_is_stored_stays_stored_whatever_later_attempts_come_to(engine: Engine) -> None:
    for days in range(3):
        store(engine, key(days))
    fail(engine, key(0))
    open_run(engine, key(1), on_existing="update")
    store(engine, key(2), "partial")
    calendar = coverage_of(run_states(engine, LATER))
    assert calendar is not None
    assert [calendar.state(key(days)) for days in range(3)] == ["live", "live", "partial"]


def test_a_past_calendar_knows_nothing_of_later_attempts(engine: Engine) -> None:
    store(engine, key(0))
    fail(engine, key(1), LATER)
    calendar = coverage_of(run_states(engine, LATER - timedelta(hours=1)))
    assert calendar is not None
    assert calendar.last == KEY.run_date
    assert coverage_of(run_states(engine, NOW - timedelta(days=1))) is None


def test_an_empty_database_says_so(predictbench: Predictbench) -> None:
    assert predictbench("coverage").stdout == "No run is stored.\n"
    told = json.loads(predictbench("coverage", "--format", "json").stdout)
    assert told == {"first": None, "last": None, "windows": [], "partitions": []}
