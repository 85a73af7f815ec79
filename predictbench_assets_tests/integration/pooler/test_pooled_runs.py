"""The daily run through a transaction-mode pooler, and what may happen to pooler and server while it writes.

Each time the run either stores everything or fails as a whole with a reason; no market is blamed for it.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, text

from predictbench_assets.database.engine import make_engine
from predictbench_assets.database.errors import Backoff, DatabaseUnavailable, in_transaction
from predictbench_assets.database.privileges import WRITER
from predictbench_assets.persistence import statements
from predictbench_assets.persistence.pipelining import Statement
from predictbench_assets_tests.integration.daily_run.test_database_outages import disturbed
from predictbench_assets_tests.kit.daily_run import DailyRun, Ran, Tables, differences
from predictbench_assets_tests.kit.deployment import Deployment, connected, run
from predictbench_assets_tests.kit.pooler import POOL, Pgbouncer, left_behind, others_taking_turns, show

BRIEFLY = Backoff(attempts=3, first=0.02, longest=0.05)


def stored(ran: Ran, daily: DailyRun, direct: Tables) -> None:
    """Everything is there, and no market was blamed."""
    assert ran.exit_code == 0, ran.said["reason"]
    assert (ran.said["status"], ran.said["failures"]) == ("completed", [])
    assert not differences(direct, daily.tables())
    assert daily.count("processing_failures") == 0


def failed(ran: Ran, daily: DailyRun, *, reason: str) -> None:
    """The run failed as a whole: one failure, which is no market's, and no complete run stored."""
    assert ran.exit_code == 1
    assert (ran.said["status"], ran.said["stage"]) == ("failed", "persisted_run")
    assert reason in ran.said["reason"]
    [failure] = ran.said["failures"]
    assert (failure["market_id"], failure["retriable"]) == (None, True)
    assert daily.rows("SELECT market_id FROM predictbench.processing_failures WHERE market_id IS NOT NULL") == []
    assert daily.run_row("status") in ("running", "failed")
    # Nothing is half-written: a market that is there has its contracts and its result.
    halves = """
        SELECT market_id FROM predictbench.processed_markets WHERE
        processed_market_id NOT IN (SELECT processed_market_id FROM predictbench.processed_contracts) OR
        processed_market_id NOT IN (SELECT processed_market_id FROM predictbench.experiment_results)
    """
    assert daily.rows(halves) == []


def gone_for_a_moment(stop: Callable[[], Any], start: Callable[[], Any]) -> tuple[Callable[[], None], threading.Event]:
    """Something that stops now and starts by itself a little later, and the sign that it has."""
    back = threading.Event()

    def again() -> None:
        start()
        back.set()

    def leave() -> None:
        stop()
        threading.Timer(0.3, again).start()

    return leave, back


def test_a_run_and_a_rerun_while_others_take_turns_on_the_same_connections(
    pooled: DailyRun, pooler: Pgbouncer, database: str, direct: Tables
) -> None:
    with others_taking_turns(pooler.url(WRITER, database)):
        with disturbed(25, lambda: None):  # in batches of five
            ran = pooled.here()
        stored(ran, pooled, direct)

        again = pooled.here()

    stored(again, pooled, direct)
    assert again.said["attempt"] == 2
    [(connections,)] = run(
        pooler.url("postgres", database),
        f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{WRITER}' AND datname = '{database}'",
    )
    assert connections == POOL


@pytest.mark.long
def test_of_two_runs_at_once_one_is_stored_and_both_end_with_a_verdict(pooled: DailyRun, direct: Tables) -> None:
    with pooled.started(name="one") as one, pooled.started(name="other") as other:
        ends = [one.ended(), other.ended()]

    verdicts = sorted((end.exit_code, end.said["status"]) for end in ends)
    assert verdicts in ([(0, "completed"), (0, "completed")], [(0, "completed"), (1, "failed")]), [
        e.output for e in ends
    ]
    for end in ends:
        if end.exit_code == 1:
            assert "took over" in end.said["reason"]
    assert not differences(direct, pooled.tables())
    assert pooled.run_row("status", "attempt") == ("completed", 2)
    assert {status for (status,) in pooled.rows("SELECT status FROM predictbench.processing_attempts")} <= {
        "completed",
        "interrupted",
    }


def test_a_pooler_that_is_started_again_is_waited_for(pooled: DailyRun, pooler: Pgbouncer, direct: Tables) -> None:
    leave, back = gone_for_a_moment(pooler.stop, pooler.start)
    with disturbed(28, leave):
        ran = pooled.here()
    assert back.wait(5)
    stored(ran, pooled, direct)


def test_a_server_that_is_started_again_behind_the_pooler_is_waited_for(
    pooled: DailyRun, deployment: Deployment, direct: Tables
) -> None:
    leave, back = gone_for_a_moment(deployment.server.stop, deployment.server.start)
    with disturbed(28, leave):
        ran = pooled.here()
    assert back.wait(10)
    stored(ran, pooled, direct)


@pytest.mark.long
def test_a_server_that_stays_away_behind_the_pooler_fails_the_run_and_no_market(
    pooled: DailyRun, pooler: Pgbouncer, deployment: Deployment, direct: Tables
) -> None:
    pooler.restart(query_wait_timeout="1")
    try:
        with disturbed(28, deployment.server.stop, backoff=Backoff(attempts=2, first=0.05)):
            ran = pooled.here()
    finally:
        deployment.server.start()

    failed(ran, pooled, reason="the database is not available")
    stored(pooled.here(), pooled, direct)


def test_a_pooler_that_stays_away_fails_the_run_and_no_market(
    pooled: DailyRun, pooler: Pgbouncer, direct: Tables
) -> None:
    with disturbed(28, pooler.stop, backoff=BRIEFLY):
        ran = pooled.here()

    failed(ran, pooled, reason="the database is not available")
    pooler.start()
    stored(pooled.here(), pooled, direct)


@contextmanager
def the_runs_row_held(deployment: Deployment, database: str) -> Iterator[Callable[[], None]]:
    """Calling what is handed out makes another session keep the run's row; it lets go when the block is left, or by
    itself after a while, so that a batch is cut and then succeeds."""
    with connected(deployment.url("postgres", database)) as holder:
        yield lambda: holder.execute("BEGIN; SELECT FROM predictbench.processing_runs FOR UPDATE") and None


def let_go_soon(deployment: Deployment, database: str) -> None:
    """End the session that keeps the row."""
    ending = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction'"
    threading.Timer(0.6, show, (deployment, database, f"{ending} AND datname = '{database}'")).start()


LIMITS = ["statement_timeout of the server", "query_timeout of the pooler"]


def limit(kind: str, pooler: Pgbouncer, monkeypatch: pytest.MonkeyPatch) -> str:
    """Set a limit that a batch which has to wait does not meet; returns the SQLSTATE that tells of it."""
    if kind == LIMITS[0]:
        monkeypatch.setattr(statements, "GUARD", Statement(b"SELECT set_config('statement_timeout', '200ms', true)"))
        return "57014"
    pooler.restart(query_timeout="0.3")
    return "query timeout"


@pytest.mark.parametrize("kind", LIMITS)
def test_a_batch_that_was_cut_by_a_time_out_is_sent_again(
    kind: str,
    pooled: DailyRun,
    pooler: Pgbouncer,
    deployment: Deployment,
    database: str,
    direct: Tables,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limit(kind, pooler, monkeypatch)

    def hold() -> None:
        keep()
        let_go_soon(deployment, database)

    try:
        with the_runs_row_held(deployment, database) as keep, disturbed(28, hold):
            ran = pooled.here()
    except psycopg.OperationalError:
        pass  # the holder, which was ended
    stored(ran, pooled, direct)


@pytest.mark.long
@pytest.mark.parametrize("kind", LIMITS)
def test_batches_that_are_cut_by_a_time_out_again_and_again_fail_the_run_and_no_market(
    kind: str,
    pooled: DailyRun,
    pooler: Pgbouncer,
    deployment: Deployment,
    database: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sign = limit(kind, pooler, monkeypatch)
    with the_runs_row_held(deployment, database) as keep, disturbed(28, keep, backoff=BRIEFLY):
        ran = pooled.here()

    failed(ran, pooled, reason=sign)
    assert "the database is not available" in ran.said["reason"]


def test_what_another_client_leaves_in_the_pools_sessions_does_no_harm(
    pooled: DailyRun, pooler: Pgbouncer, database: str, direct: Tables
) -> None:
    def leave() -> None:
        url = pooler.url(WRITER, database)
        left_behind(
            url, "SET search_path = nowhere; SET TimeZone = 'Asia/Tokyo'; SET standard_conforming_strings = off"
        )
        left_behind(url, "SET lock_timeout = '1ms'; SET statement_timeout = '1ms'")

    leave()
    with disturbed(20, leave):
        ran = pooled.here()
    stored(ran, pooled, direct)


def test_a_pool_that_another_client_made_read_only_is_told_as_such(
    pooled: DailyRun, pooler: Pgbouncer, database: str
) -> None:
    left_behind(pooler.url(WRITER, database), "SET default_transaction_read_only = on")
    ran = pooled.here()
    assert ran.exit_code == 1
    assert "25006" in ran.said["reason"]
    assert "It takes no writes" in ran.said["reason"]


def test_a_time_out_that_another_client_left_is_met_once(pooler: Pgbouncer, database: str) -> None:
    url = pooler.url(WRITER, database)
    left_behind(url, "SET statement_timeout = '20ms'")
    engine = make_engine(url)

    def sleep(connection: Connection) -> None:
        connection.execute(text("SELECT pg_sleep(0.1)"))

    in_transaction(engine, sleep)
    with pytest.raises(DatabaseUnavailable, match=r"statement timeout: a statement_timeout of .* another client"):
        in_transaction(engine, sleep, Backoff(attempts=1))
    engine.dispose()
