"""`predictbench due` on a real database: what is left to run, and days that were missed."""

import json
import os
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine, make_url, text

from predictbench_assets.cli.main import main
from predictbench_assets.database import migrations
from predictbench_assets.ingestion.registry import SnapshotRecord
from predictbench_assets.persistence.leases import Lease, RunCounts
from predictbench_assets.persistence.snapshots import register_snapshot
from predictbench_assets.runs import RunKey
from predictbench_assets.settings import all_variables, load_settings
from predictbench_assets_tests.kit.builders import open_run

DAY = date(2026, 3, 2)
DURING = "2026-03-02T09:17:00Z"
AFTER = "2026-03-03T00:31:00Z"
EXCHANGE = load_settings(polymarket_base_url="http://127.0.0.1:1").exchange

Due = Callable[..., Result]


@pytest.fixture
def due(database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Due:
    """Runs `predictbench due` in this process, by default on 2026-03-02 with HORIZONS=1,7,30."""
    for name in list(os.environ):
        if name.upper() in all_variables():
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, now: str = DURING, **variables: str) -> Result:
        given = {
            "DATABASE_URL": database_url,
            "PREDICTBENCH_NOW": now,
            "HORIZONS": "1,7,30",
            "POLYMARKET_BASE_URL": "http://127.0.0.1:1",
            "GIT_SHA": "0123abc",
        }
        return CliRunner().invoke(main, ["due", *arguments], env=given | variables)

    return run


@pytest.fixture
def lease(engine: Engine) -> Callable[[int], Lease]:
    """Opens the run of a window."""

    began = datetime(2026, 3, 2, 7, 1, tzinfo=UTC)
    return lambda window: open_run(engine, RunKey(DAY, window), began, exchange=EXCHANGE)


def answer(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def finish(lease: Lease) -> None:
    lease.finish(RunCounts(0, 0, 0, 0, 0), status="completed")


def rows(engine: Engine, columns: str = "window_days, status") -> list[tuple[Any, ...]]:
    with engine.connect() as connection:
        found = connection.execute(text(f"SELECT {columns} FROM predictbench.processing_runs ORDER BY window_days"))
        return [tuple(row) for row in found]


def test_a_schedule_collects_the_batches_of_a_complete_window(
    due: Due, lease: Callable[[int], Lease], paid_rows: Callable[..., None]
) -> None:
    for window in (1, 7, 30):
        finish(lease(window))
    assert answer(due("--scheduled"))["windows"] == []
    paid_rows(RunKey(DAY, 7), batch_id="batch_1")
    assert answer(due("--scheduled"))["windows"] == [7]
    assert answer(due("--scheduled", now=AFTER))["missed"] == []
    paid_rows(RunKey(DAY, 7), batch_id=None)
    assert answer(due("--scheduled"))["windows"] == []


def test_a_schedule_runs_what_is_not_complete(due: Due, lease: Callable[[int], Lease]) -> None:
    finish(lease(1))
    lease(7).fail("raw_markets", "the exchange is down", retriable=True)
    assert answer(due("--scheduled")) == {
        "run_date": "2026-03-02",
        "windows": [7, 30],
        "done": [1],
        "missed": [],
        "running": [],
    }


def test_lines_for_a_workflow(due: Due, lease: Callable[[int], Lease]) -> None:
    finish(lease(1))
    printed = due("--scheduled", "--format", "github").stdout
    assert printed.splitlines() == ["run_date=2026-03-02", "windows=[7, 30]", "done=[1]", "missed=[]", "running=[]"]


def test_a_late_schedule_records_what_was_missed(due: Due, engine: Engine, lease: Callable[[int], Lease]) -> None:
    finish(lease(1))
    found = due("--scheduled", "--link", "https://ci.example/1", now=AFTER)
    assert answer(found)["windows"] == []
    assert (answer(found)["run_date"], answer(found)["missed"]) == ("2026-03-02", [7, 30])
    assert rows(engine) == [(1, "completed"), (7, "missed"), (30, "missed")]
    columns = "stage, reason, git_sha, attempt, started_at, target_date"
    stage, reason, sha, attempt, started, target = rows(engine, columns)[1]
    assert (stage, sha, attempt, target) == ("target_window", "0123abc", 1, date(2026, 3, 9))
    assert started == datetime(2026, 3, 3, 0, 31, tzinfo=UTC)
    assert "2026-03-03 00:31 UTC" in reason
    assert "https://ci.example/1" in reason
    assert "recorded as missed: 2026-03-02, window 30" in found.stderr
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM predictbench.processing_attempts")) == 1


def test_a_later_schedule_says_the_same_and_changes_nothing(due: Due, engine: Engine) -> None:
    first = answer(due("--scheduled", now=AFTER))
    before = rows(engine, "*")
    assert answer(due("--scheduled", now="2026-03-03T05:00:00Z")) == first
    assert rows(engine, "*") == before


def test_a_run_that_began_keeps_its_row_and_it_is_said_how_to_complete_it(
    due: Due, engine: Engine, lease: Callable[[int], Lease]
) -> None:
    captured = lease(1)
    record = SnapshotRecord(captured.key, captured.clock.now(), "a", "b", 1, 1, "file:///x", EXCHANGE, "clob")
    register_snapshot(captured, record)
    captured.fail("normalized_markets", "disk full", retriable=True)
    lease(7).fail("raw_markets", "the exchange was down", retriable=True)
    lease(30)
    found = due("--scheduled", now=AFTER)
    assert answer(found)["missed"] == [1, 7, 30]
    assert rows(engine) == [(1, "failed"), (7, "failed"), (30, "running")]
    assert "failed at normalized_markets (disk full); its snapshot is stored" in found.stderr
    assert "predictbench backfill --from 2026-03-02 --to 2026-03-02 --window-days 1" in found.stderr
    assert "failed at raw_markets (the exchange was down); no snapshot was stored" in found.stderr


def test_a_run_that_goes_on_past_midnight_is_not_missed(
    due: Due, engine: Engine, lease: Callable[[int], Lease]
) -> None:
    lease(7)
    found = due("--scheduled", "--window-days", "7", now="2026-03-03T00:31:00Z")
    assert answer(found)["missed"] == [7]
    with engine.begin() as connection:
        connection.execute(text("UPDATE predictbench.processing_runs SET heartbeat_at = '2026-03-03T00:30:00Z'"))
    found = due("--scheduled", "--window-days", "7", now="2026-03-03T00:31:00Z")
    assert (answer(found)["missed"], answer(found)["running"]) == ([], [7])
    assert "still under way, held by host:1" in found.stderr


def test_a_person_gets_what_they_ask_for(due: Due, lease: Callable[[int], Lease]) -> None:
    finish(lease(7))
    found = answer(due("--run-date", "2026-03-02", "--window-days", "7,1,7", now="2026-03-05T12:00:00Z"))
    assert (found["run_date"], found["windows"], found["done"]) == ("2026-03-02", [7, 1], [7])
    # A workflow's inputs that were left empty.
    found = answer(due("--run-date", "", "--window-days", "", now="2026-03-05T03:00:00Z"))
    assert (found["run_date"], found["windows"], found["done"]) == ("2026-03-05", [1, 7, 30], [])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--run-date", "2026-03-03"], "future"),
        (["--run-date", "2025-12-31"], "first day"),
        (["--window-days", "7,15"], "15 not in the grid"),
        (["--window-days", "seven"], "no list of whole numbers"),
        (["--window-days", ","], "not in the grid"),
        (["--scheduled", "--run-date", "2026-03-01"], "leave out --run-date"),
    ],
)
def test_what_cannot_be_is_refused(due: Due, arguments: list[str], said: str) -> None:
    found = due(*arguments)
    assert found.exit_code == 2
    assert said in found.stderr


def test_a_database_without_tables_has_nothing_stored(due: Due, empty_database_url: str) -> None:
    found = due("--scheduled", DATABASE_URL=empty_database_url)
    assert answer(found)["windows"] == [1, 7, 30]
    assert "`predictbench db upgrade` makes them" in found.stderr
    late = due("--scheduled", now=AFTER, DATABASE_URL=empty_database_url)
    assert answer(late)["missed"] == [1, 7, 30]
    assert "missed, and not recorded: 2026-03-02, window 7" in late.stderr


def test_a_database_of_the_older_revision_is_read_and_not_written(
    due: Due, engine: Engine, database_url: str, lease: Callable[[int], Lease]
) -> None:
    finish(lease(1))
    engine.dispose()
    migrations.downgrade(database_url, "0001")
    late = due("--scheduled", now=AFTER)
    assert (answer(late)["done"], answer(late)["missed"]) == ([1], [7, 30])
    assert "missed, and not recorded" in late.stderr
    assert rows(engine) == [(1, "completed")]


def test_a_dry_run_records_nothing(due: Due, engine: Engine) -> None:
    assert answer(due("--scheduled", now=AFTER, PREDICTBENCH_DRY_RUN="1"))["missed"] == [1, 7, 30]
    assert rows(engine) == []


def test_another_exchanges_database_is_refused(due: Due, lease: Callable[[int], Lease]) -> None:
    lease(1)
    found = due("--scheduled", now=AFTER, POLYMARKET_BASE_URL="https://gamma.example")
    assert found.exit_code == 1
    assert "the database holds runs of localhost" in found.stderr


def test_a_database_that_cannot_be_used_is_one_message(due: Due, database_url: str) -> None:
    url = make_url(database_url).set(password="hunter22", database="nowhere")
    found = due("--scheduled", DATABASE_URL=url.render_as_string(hide_password=False))
    assert found.exit_code == 1
    assert '"nowhere" does not exist' in found.stderr
    assert "hunter22" not in found.output
    assert "Traceback" not in found.output
