"""Reads: what experiments learn from, and what checks and the command line show."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, func, select

from predictbench_assets.database.errors import in_transaction
from predictbench_assets.database.schema import (
    experiment_results,
    experiment_runs,
    processed_contracts,
    processed_markets,
    processing_failures,
    processing_runs,
    resolution_observations,
)
from predictbench_assets.experiments.base import SettledMarket
from predictbench_assets.runs import RunKey


@dataclass(frozen=True)
class StoredRun:
    """A run as its row says."""

    key: RunKey
    status: str
    attempt: int
    holder: str
    dagster_run_id: str
    started_at: datetime
    heartbeat_at: datetime
    finished_at: datetime | None
    exchange: str
    stage: str | None
    reason: str | None
    offered_markets: int | None
    excluded_markets: int | None
    rejected_markets: int | None
    total_markets: int | None
    processed_markets: int | None
    failed_markets: int | None
    snapshot_hash: str | None
    summary: Mapping[str, Any] | None


def stored_run(engine: Engine, key: RunKey) -> StoredRun | None:
    """The row of a run, or None where it was never opened."""
    names = [name for name in StoredRun.__dataclass_fields__ if name != "key"]

    def work(connection: Connection) -> StoredRun | None:
        columns = [processing_runs.c[name] for name in names]
        row = connection.execute(select(*columns).where(processing_runs.c.run_id == key.run_id)).one_or_none()
        return None if row is None else StoredRun(key=key, **row._asdict())

    return in_transaction(engine, work)


def settled_markets(engine: Engine, as_of: datetime) -> Iterator[SettledMarket]:
    """Markets whose final resolution had been observed by `as_of`, oldest first.

    A market that several runs stored counts once, with the price of its earliest capture. What was observed later,
    a correction included, is as unknown as it was then.
    """
    known = (
        select(
            resolution_observations.c.market_id,
            resolution_observations.c.state,
            resolution_observations.c.outcome,
            resolution_observations.c.observed_at,
        )
        .where(resolution_observations.c.observed_at <= as_of)
        .distinct(resolution_observations.c.market_id)
        .order_by(resolution_observations.c.market_id, resolution_observations.c.observed_at.desc())
        .subquery()
    )
    captured = (
        select(
            processed_markets.c.market_id,
            processed_markets.c.question,
            processed_markets.c.category,
            processed_markets.c.close_time,
            processed_markets.c.price,
        )
        .where(processed_markets.c.captured_at <= as_of)
        .distinct(processed_markets.c.market_id)
        .order_by(processed_markets.c.market_id, processed_markets.c.captured_at)
        .subquery()
    )
    query = (
        select(
            captured.c.market_id,
            captured.c.question,
            captured.c.category,
            captured.c.close_time,
            known.c.outcome,
            captured.c.price,
            known.c.observed_at.label("settled_at"),
        )
        .join(known, known.c.market_id == captured.c.market_id)
        .where(known.c.state == "final", known.c.outcome.is_not(None))
        .order_by(known.c.observed_at, captured.c.market_id)
    )
    # Fetched at once: a cursor would keep a transaction open for as long as experiments run.
    rows = in_transaction(engine, lambda connection: connection.execute(query).all())
    return (SettledMarket(**row._asdict()) for row in rows)


def cohort_sizes(engine: Engine, key: RunKey, days: int) -> dict[date, int]:
    """Markets offered, by run date, in the complete runs of the same window on the `days` days before."""

    def work(connection: Connection) -> dict[date, int]:
        rows = connection.execute(
            select(processing_runs.c.run_date, processing_runs.c.offered_markets)
            .where(
                processing_runs.c.window_days == key.window_days,
                processing_runs.c.run_date < key.run_date,
                processing_runs.c.run_date >= key.run_date - timedelta(days=days),
                processing_runs.c.status == "completed",
            )
            .order_by(processing_runs.c.run_date)
        )
        return {row.run_date: row.offered_markets for row in rows}

    return in_transaction(engine, work)


def counts_by_table(engine: Engine, run_id: UUID) -> dict[str, int]:
    """How many rows of each table belong to a run."""
    markets = select(processed_markets.c.processed_market_id).where(processed_markets.c.run_id == run_id)
    counted = {
        "processed_markets": processed_markets.c.run_id == run_id,
        "processed_contracts": processed_contracts.c.processed_market_id.in_(markets),
        "experiment_runs": experiment_runs.c.run_id == run_id,
        "experiment_results": experiment_results.c.processed_market_id.in_(markets),
        "processing_failures": processing_failures.c.run_id == run_id,
    }

    def work(connection: Connection) -> dict[str, int]:
        sizes = [
            select(func.count()).where(condition).scalar_subquery().label(name) for name, condition in counted.items()
        ]
        return dict(connection.execute(select(*sizes)).one()._mapping)

    return in_transaction(engine, work)
