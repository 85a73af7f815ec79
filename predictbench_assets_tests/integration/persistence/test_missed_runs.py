"""A day that was missed stays missed, whatever is tried with it afterwards, until an attempt stores it."""

from collections.abc import Callable

from sqlalchemy import Engine

from predictbench_assets.clock import FixedClock
from predictbench_assets.persistence.leases import Lease, RunCounts, record_missed
from predictbench_assets.runs import RunKey
from predictbench_assets_tests.kit.builders import KEY, NOW
from predictbench_assets_tests.kit.database import Database

Takes = Callable[..., Lease]

RUN = "SELECT status, attempt, stage, reason FROM predictbench.processing_runs"
ATTEMPTS = "SELECT attempt, status, stage, reason FROM predictbench.processing_attempts ORDER BY attempt"


def record(engine: Engine, *keys: RunKey) -> set[RunKey]:
    return record_missed(
        engine,
        keys or (KEY,),
        reason="it rained",
        holder="host:1",
        exchange="gamma.example",
        git_sha=None,
        clock=FixedClock(NOW),
    )


def test_only_runs_without_a_row_are_recorded(engine: Engine, take: Takes, database: Database) -> None:
    other = RunKey(KEY.run_date, 30)
    take(other)
    assert record(engine, KEY, other) == {KEY}
    assert record(engine, KEY, other) == set()
    assert (
        record_missed(engine, (), reason="", holder="", exchange="gamma.example", git_sha=None, clock=FixedClock(NOW))
        == set()
    )
    assert database.rows("SELECT window_days, status FROM predictbench.processing_runs ORDER BY 1") == [
        (7, "missed"),
        (30, "running"),
    ]


def test_an_attempt_at_a_missed_day_that_fails_leaves_it_missed(
    engine: Engine, take: Takes, database: Database
) -> None:
    record(engine)
    for number in (2, 3):
        lease = take(dagster_run_id=f"try-{number}")
        assert lease.attempt == number
        assert take(dagster_run_id=f"try-{number}").attempt == number  # the same run asks again
        lease.beat("raw_markets")
        assert database.rows(RUN) == [("running", number, "raw_markets", "it rained")]
        lease.fail("raw_markets", "no snapshot", retriable=False)
        assert database.rows(RUN) == [("missed", number, "target_window", "it rained")]
    assert database.rows(ATTEMPTS) == [
        (2, "failed", "raw_markets", "no snapshot"),
        (3, "failed", "raw_markets", "no snapshot"),
    ]
    assert database.scalar("SELECT count(*) FROM predictbench.processing_failures") == 2


def test_a_failure_that_is_recorded_twice_is_recorded_once(engine: Engine, take: Takes, database: Database) -> None:
    record(engine)
    lease = take()
    lease.fail("raw_markets", "no snapshot", retriable=False)
    lease.fail("raw_markets", "no snapshot", retriable=False)  # the answer to the first was lost
    assert database.rows(RUN) == [("missed", 2, "target_window", "it rained")]
    assert database.scalar("SELECT count(*) FROM predictbench.processing_failures") == 1


def test_a_missed_day_that_is_stored_after_all_is_complete(engine: Engine, take: Takes, database: Database) -> None:
    record(engine)
    take().finish(RunCounts(0, 0, 0, 0, 0), status="completed")
    assert database.rows(RUN) == [("completed", 2, "persisted_run", None)]


def test_an_ordinary_failure_is_told_as_ever(take: Takes, database: Database) -> None:
    take().fail("raw_markets", "the exchange is down", retriable=True)
    take().fail("normalized_markets", "disk full", retriable=True)
    assert database.rows(RUN) == [("failed", 2, "normalized_markets", "disk full")]
