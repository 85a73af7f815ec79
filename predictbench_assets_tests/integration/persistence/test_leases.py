"""Leases on a real server: the newest attempt wins, and everyone else is told."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from threading import Barrier

import pytest
from sqlalchemy import Engine, text

from predictbench_assets.clock import FixedClock
from predictbench_assets.database.errors import DatabaseRefused
from predictbench_assets.failures import Failure
from predictbench_assets.persistence.leases import (
    ForeignExchange,
    Lease,
    LeaseLost,
    RunAlreadyStored,
    RunCounts,
    record_missed,
)
from predictbench_assets.runs import Began, RunKey
from predictbench_assets_tests.kit.builders import KEY, NOW
from predictbench_assets_tests.kit.database import Database

Takes = Callable[..., Lease]
PaidRows = Callable[..., None]

ATTEMPTS = "SELECT attempt, status, dagster_run_id FROM predictbench.processing_attempts ORDER BY attempt"
DONE = RunCounts(offered=3, excluded=1, rejected=1, failed=0, processed=1, excluded_by_reason={"limit": 1})


def test_the_first_attempt_opens_the_run(take: Takes, database: Database) -> None:
    lease = take(dagster_run_id="a")
    assert (lease.attempt, lease.run_id) == (1, KEY.run_id)
    assert database.rows(
        "SELECT run_id, run_date, window_days, target_date, status, attempt, holder, exchange, git_sha, started_at,"
        " heartbeat_at, stage, offered_markets FROM predictbench.processing_runs"
    ) == [
        (
            KEY.run_id,
            KEY.run_date,
            7,
            KEY.target_date,
            "running",
            1,
            "host:1",
            "gamma.example",
            "abc",
            NOW,
            NOW,
            "target_window",
            None,
        )
    ]


def test_a_newer_attempt_takes_over_and_the_older_one_is_told(take: Takes, database: Database) -> None:
    old = take(dagster_run_id="a")
    old.beat("raw_markets")
    new = take(dagster_run_id="b", holder="other:2", clock=FixedClock(NOW + timedelta(minutes=5)))
    assert new.attempt == 2
    assert database.rows(ATTEMPTS) == [(1, "interrupted", "a"), (2, "running", "b")]
    told = r"attempt 2 took over at 2026-02-02T07:05:00\+00:00 \(held by other:2"
    with pytest.raises(LeaseLost, match=told):
        old.beat("normalized_markets")
    with pytest.raises(LeaseLost, match=told):
        old.fail("raw_markets", "x", retriable=True)
    new.beat("raw_markets")


def test_the_same_dagster_run_gets_its_attempt_back_until_it_is_superseded(take: Takes, database: Database) -> None:
    first = take(dagster_run_id="a")
    first.beat("normalized_markets")
    assert take(dagster_run_id="a").attempt == 1
    assert database.scalar("SELECT stage FROM predictbench.processing_runs") == "normalized_markets"
    take(dagster_run_id="b")
    with pytest.raises(LeaseLost, match="Dagster run b"):
        take(dagster_run_id="a")


def test_a_dagster_run_older_than_the_holder_is_refused_whatever_the_holder_came_to(
    take: Takes, database: Database
) -> None:
    """Each in a storage of its own, so that there is only the time to go by."""
    holder = take(dagster_run_id="b", began=Began(NOW - timedelta(seconds=5)))
    older, later = Began(NOW - timedelta(seconds=1)), Began(NOW + timedelta(seconds=1))
    for _ in range(2):
        with pytest.raises(LeaseLost, match=r"the Dagster run a may not take .* attempt 1 is of a later one \(b, "):
            take(dagster_run_id="a", began=older)
        if database.scalar("SELECT status FROM predictbench.processing_runs") == "running":
            holder.finish(DONE, status="completed")
    assert database.rows(ATTEMPTS) == [(1, "completed", "b")]
    assert take(dagster_run_id="b", began=older).attempt == 1
    assert take(dagster_run_id="c", began=later).attempt == 2


@pytest.mark.parametrize("order", [True, False])
def test_where_one_storage_has_both_runs_their_order_tells_and_no_clock(take: Takes, order: bool) -> None:
    take(dagster_run_id="b")
    wrong = NOW + timedelta(days=1 if order else -1)
    began = Began(wrong, lambda other: order if other == "b" else None)
    if order:
        with pytest.raises(LeaseLost, match="of a later one"):
            take(dagster_run_id="a", began=began)
    else:
        assert take(dagster_run_id="a", began=began).attempt == 2


def test_a_day_that_was_recorded_as_missed_is_of_no_later_dagster_run(engine: Engine, take: Takes) -> None:
    told = {"reason": "late", "holder": "host:1", "exchange": "gamma.example", "git_sha": None}
    record_missed(engine, [KEY], clock=FixedClock(NOW), **told)
    assert take(dagster_run_id="a", began=Began(NOW - timedelta(hours=1))).attempt == 2


def test_a_stored_run_is_skipped_before_anybody_asks_how_old_the_asking_one_is(take: Takes) -> None:
    take().finish(DONE, status="completed")
    with pytest.raises(RunAlreadyStored):
        take(on_existing="skip", began=Began(NOW - timedelta(days=1)))


def test_two_that_open_at_once_get_different_attempts_and_one_of_them_holds_it(take: Takes, database: Database) -> None:
    gate = Barrier(2)

    def race(name: str) -> Lease:
        gate.wait(5)
        return take(dagster_run_id=name)

    with ThreadPoolExecutor(2) as pool:
        leases = sorted(pool.map(race, ("a", "b")), key=lambda lease: lease.attempt)
    assert [lease.attempt for lease in leases] == [1, 2]
    leases[1].beat("raw_markets")
    with pytest.raises(LeaseLost):
        leases[0].beat("raw_markets")
    assert [status for _, status, _ in database.rows(ATTEMPTS)] == ["interrupted", "running"]


@pytest.mark.parametrize("choice", ["skip", "fail"])
def test_a_complete_run_is_left_alone_when_asked(take: Takes, database: Database, choice: str) -> None:
    take().finish(DONE, status="completed")
    with pytest.raises(RunAlreadyStored, match="stored complete since"):
        take(on_existing=choice)
    assert database.scalar("SELECT status FROM predictbench.processing_runs") == "completed"
    assert take(on_existing="update").attempt == 2


def test_a_complete_run_whose_batches_are_not_collected_is_not_skipped(take: Takes, paid_rows: PaidRows) -> None:
    take().finish(DONE, status="completed")
    paid_rows(KEY, batch_id="batch_1")
    with pytest.raises(RunAlreadyStored):
        take(on_existing="fail")
    again = take(on_existing="skip")
    assert again.attempt == 2
    again.finish(DONE, status="completed")
    paid_rows(KEY, batch_id="batch_1", status="answered")
    with pytest.raises(RunAlreadyStored):
        take(on_existing="skip")


@pytest.mark.parametrize("choice", ["skip", "fail"])
def test_an_incomplete_run_is_taken_over_whatever_was_asked(take: Takes, choice: str) -> None:
    take().finish(DONE, status="partial")
    again = take(on_existing=choice)
    assert again.attempt == 2
    again.fail("raw_markets", "boom", retriable=False)
    assert take(on_existing=choice).attempt == 3


def test_another_exchange_is_refused(take: Takes, database: Database) -> None:
    take()
    with pytest.raises(ForeignExchange, match=r"gamma\.example.*127\.0\.0\.1.*DATABASE_URL"):
        take(RunKey(date(2026, 2, 3), 7), exchange="127.0.0.1")
    assert database.scalar("SELECT count(*) FROM predictbench.processing_runs") == 1


def test_a_stored_exchange_forges_no_line(take: Takes, database: Database) -> None:
    take(exchange="a\nERROR \x1b[2Jx")
    with pytest.raises(ForeignExchange, match=r"runs of a\\nERROR \\x1b\[2Jx, this one"):
        take(RunKey(date(2026, 2, 3), 7), exchange="127.0.0.1")


def test_two_first_runs_of_two_exchanges_do_not_both_get_in(take: Takes, database: Database) -> None:
    gate = Barrier(2)

    def race(exchange: str) -> str:
        gate.wait(5)
        try:
            return take(RunKey(date(2026, 2, len(exchange)), 7), exchange=exchange).key.run_date.isoformat()
        except ForeignExchange:
            return "refused"

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(race, ("live", "sandbox")))[1] == "refused"
    assert database.scalar("SELECT count(DISTINCT exchange) FROM predictbench.processing_runs") == 1


def test_a_failure_is_recorded_once_with_what_led_to_it(take: Takes, database: Database) -> None:
    lease = take()
    rejected = Failure(
        market_id="7",
        stage="normalized_markets",
        reason="no prices",
        retriable=False,
        logged_at=NOW,
        field="outcomePrices",
    )
    for _ in range(2):  # the second time is an answer that was lost
        lease.fail("normalized_markets", "a third was rejected", retriable=False, failures=[rejected])
    assert database.rows("SELECT status, stage, reason, finished_at FROM predictbench.processing_runs") == [
        ("failed", "normalized_markets", "a third was rejected", NOW)
    ]
    assert database.rows(
        "SELECT attempt, market_id, stage, field, reason FROM predictbench.processing_failures ORDER BY market_id"
    ) == [
        (1, "7", "normalized_markets", "outcomePrices", "no prices"),
        (1, None, "normalized_markets", None, "a third was rejected"),
    ]
    with pytest.raises(LeaseLost, match="has ended already"):
        lease.beat("persisted_run")


def test_the_next_attempt_starts_clean_and_keeps_the_history(take: Takes, database: Database) -> None:
    take().fail("raw_markets", "no answer", retriable=True)
    take()
    assert database.rows("SELECT status, stage, reason, finished_at FROM predictbench.processing_runs") == [
        ("running", "target_window", None, None)
    ]
    assert [status for _, status, _ in database.rows(ATTEMPTS)] == ["failed", "running"]
    assert database.scalar("SELECT count(*) FROM predictbench.processing_failures WHERE attempt = 1") == 1


def test_the_server_checks_the_identity_of_the_counts(take: Takes) -> None:
    with pytest.raises(DatabaseRefused, match="counts_add_up"):
        take().finish(RunCounts(offered=3, excluded=0, rejected=0, failed=0, processed=1), status="completed")


def test_a_run_whose_row_was_deleted_is_told_as_such(take: Takes, engine: Engine) -> None:
    lease = take()
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM predictbench.processing_runs"))
    with pytest.raises(LeaseLost, match="row is gone"):
        lease.beat("raw_markets")
