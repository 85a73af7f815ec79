"""The registry of snapshots, and the reads."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine

from predictbench_assets.experiments.history import settled_markets
from predictbench_assets.experiments.protocol import SettledMarket
from predictbench_assets.ingestion.registry import SnapshotRecord
from predictbench_assets.markets.market import MarketPrice
from predictbench_assets.persistence.leases import Lease, LeaseLost, RunCounts
from predictbench_assets.persistence.snapshots import find_snapshot, register_snapshot
from predictbench_assets.persistence.stored_runs import cohort_sizes, stored_run
from predictbench_assets.persistence.writer import RunWriter
from predictbench_assets.runs import RunKey
from predictbench_assets_tests.kit.builders import KEY, NOW, attempt, observe, record
from predictbench_assets_tests.kit.database import Database

Takes = Callable[..., Lease]
SNAPSHOT = SnapshotRecord(
    key=KEY,
    captured_at=NOW,
    sha256="a" * 64,
    content_hash="b" * 64,
    rows=33,
    bytes=3_000_000_000,
    uri="file:///staging/x",
    exchange="gamma.example",
    quotes_source="clob",
    api={"pages": 2},
)


def test_a_registered_snapshot_is_found(take: Takes, engine: Engine, database: Database) -> None:
    assert find_snapshot(engine, KEY) is None
    lease = take()
    register_snapshot(lease, SNAPSHOT)
    register_snapshot(lease, SNAPSHOT)
    assert find_snapshot(engine, KEY) == SNAPSHOT
    assert find_snapshot(engine, RunKey(KEY.run_date, 8)) is None
    assert database.scalar("SELECT snapshot_hash FROM predictbench.processing_runs") == SNAPSHOT.content_hash


def test_a_refreshed_snapshot_supersedes_and_the_old_one_stays(take: Takes, engine: Engine, database: Database) -> None:
    lease = take()
    register_snapshot(lease, SNAPSHOT)
    fresh = replace(SNAPSHOT, captured_at=NOW + timedelta(hours=1), content_hash="c" * 64)
    register_snapshot(lease, fresh)
    assert find_snapshot(engine, KEY) == fresh
    assert database.rows("SELECT content_hash, superseded_at FROM predictbench.snapshots ORDER BY 1") == [
        ("b" * 64, NOW),
        ("c" * 64, None),
    ]
    register_snapshot(lease, SNAPSHOT)  # back to the first
    assert find_snapshot(engine, KEY) == SNAPSHOT


def test_an_older_attempt_cannot_register(take: Takes, engine: Engine) -> None:
    old = take()
    take()
    with pytest.raises(LeaseLost):
        register_snapshot(old, SNAPSHOT)
    assert find_snapshot(engine, KEY) is None
    with pytest.raises(ValueError, match="under the lease of"):
        register_snapshot(old, replace(SNAPSHOT, key=RunKey(KEY.run_date, 8)))


def test_markets_carry_the_hash_of_their_snapshot(take: Takes, engine: Engine, database: Database) -> None:
    lease = take()
    register_snapshot(lease, SNAPSHOT)
    RunWriter(engine, lease, lease.clock).write([record(1)], [attempt()])
    assert database.scalar("SELECT snapshot_hash FROM predictbench.processed_markets") == SNAPSHOT.content_hash


def test_a_stored_run(take: Takes, engine: Engine) -> None:
    assert stored_run(engine, KEY) is None
    lease = take(dagster_run_id="d")
    writing = RunWriter(engine, lease, lease.clock)
    writing.write([record(1), record(2)], [attempt()])
    writing.finish(RunCounts(offered=2, excluded=0, rejected=0, failed=0, processed=2), "completed", (), {"a": 1})
    found = stored_run(engine, KEY)
    assert found is not None
    assert (found.key, found.status, found.attempt, found.processed_markets) == (KEY, "completed", 1, 2)
    assert (found.dagster_run_id, found.summary, found.finished_at) == ("d", {"a": 1}, NOW)


def test_cohort_sizes_are_of_the_complete_runs_of_the_days_before(take: Takes, engine: Engine) -> None:
    def run(day: int, window: int, offered: int, **how: Any) -> None:
        counts = RunCounts(offered=offered, excluded=offered, rejected=0, failed=0, processed=0)
        take(RunKey(date(2026, 2, day), window)).finish(counts, **({"status": "completed"} | how))

    run(1, 7, 10)
    run(3, 7, 30)
    run(4, 7, 40, status="partial")
    run(5, 8, 50)
    run(9, 7, 90)
    assert cohort_sizes(engine, RunKey(date(2026, 2, 9), 7), 7) == {date(2026, 2, 3): 30}
    assert cohort_sizes(engine, RunKey(date(2026, 2, 9), 7), 30) == {date(2026, 2, 1): 10, date(2026, 2, 3): 30}


def test_history_knows_only_what_had_been_observed(take: Takes, engine: Engine) -> None:
    lease = take()
    price = MarketPrice(value=0.7, source="gamma", quality="thin")
    writer = RunWriter(engine, lease, lease.clock)
    writer.write([record(1, price=price), record(2), record(3), record(4)], [attempt()])
    writer.finish(RunCounts(4, 0, 0, 0, 4), "completed")
    settled, day = KEY.end, timedelta(days=1)
    observe(engine, "m1", "proposed", at=settled)
    observe(engine, "m1", "final", 1.0, at=settled + day)
    observe(engine, "m2", "final", 0.0, at=settled + 2 * day)
    observe(engine, "m2", "disputed", at=settled + 4 * day)  # taken back
    observe(engine, "m3", "final", 0.5, at=settled + 3 * day)
    observe(engine, "m4", "open", at=settled + day)
    observe(engine, "m9", "final", 1.0, at=settled + day)  # never stored

    def known(days: int) -> list[tuple[str, float]]:
        return [
            (market.market_id, market.outcome) for market in settled_markets(engine, settled + timedelta(days=days))
        ]

    assert known(0) == []
    assert known(1) == [("m1", 1.0)]
    assert known(3) == [("m1", 1.0), ("m2", 0.0), ("m3", 0.5)]
    assert known(9) == [("m1", 1.0), ("m3", 0.5)]
    assert next(iter(settled_markets(engine, datetime(2027, 1, 1, tzinfo=UTC)))) == SettledMarket(
        market_id="m1",
        question=record(1).market.question,
        category="politics",
        close_time=record(1).market.close_time,
        outcome=1.0,
        price=0.7,
        settled_at=settled + timedelta(days=1),
    )
    assert [
        tuple(row)
        for row in Database(engine).rows("SELECT market_id, state FROM predictbench.market_resolutions ORDER BY 1")
    ] == [("m1", "final"), ("m2", "disputed"), ("m3", "final"), ("m4", "open"), ("m9", "final")]
