"""Runs that were stored long ago, and what was observed of their markets since."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy import Engine, insert, text

from predictbench_assets.clock import FixedClock
from predictbench_assets.database.schema import resolution_observations
from predictbench_assets.persistence.leases import RunCounts, open_lease
from predictbench_assets.persistence.writer import RunWriter
from predictbench_assets.retention.pruned import Pruned
from predictbench_assets.retention.raw_snapshots import prune_raw_snapshots
from predictbench_assets.runs import RunKey
from predictbench_assets.staging import StagingArea
from predictbench_assets_tests.kit.builders import attempt, record, result

KEY = RunKey(date(2026, 2, 2), 7)


CAPTURED = datetime(2026, 2, 2, 7, tzinfo=UTC)


SETTLED = datetime(2026, 2, 10, tzinfo=UTC)


DAYS = 90


NOW = SETTLED + timedelta(days=DAYS)


@dataclass
class Stored:
    """A database with runs in it."""

    engine: Engine
    archive: StagingArea

    def run(self, *markets: int, key: RunKey = KEY, ended: bool = True, probability: float = 0.4) -> None:
        """Store markets as a run of their own, or as a further attempt of it."""
        lease = open_lease(
            self.engine,
            key,
            dagster_run_id=f"dagster-{key}-{probability}-{ended}",
            holder="host:1",
            exchange="gamma.example",
            git_sha="abc",
            clock=FixedClock(CAPTURED),
        )
        writer = RunWriter(self.engine, lease, lease.clock)
        content = f"{probability}-{len(markets)}"
        writer.write([record(one, result(probability=probability)) for one in markets], [attempt(content=content)])
        if ended:
            count = len(markets)
            writer.finish(RunCounts(count, 0, 0, 0, count), "completed", (), {})

    def observe(self, market: int, state: str, outcome: float | None = None, *, at: datetime = SETTLED) -> None:
        """Add to the ledger of resolutions."""
        values = {"market_id": f"m{market}", "observed_at": at, "source": "gamma", "state": state, "outcome": outcome}
        payout = None if outcome is None else [outcome, 1 - outcome]
        with self.engine.begin() as connection:
            connection.execute(insert(resolution_observations).values(**values, payout=payout))

    def settled(self, *markets: int, at: datetime = SETTLED) -> None:
        """Observe that markets have settled."""
        for market in markets:
            self.observe(market, "final", 1.0, at=at)

    def prune(self, **how: Any) -> Pruned:
        """Prune raw snapshots."""
        return prune_raw_snapshots(self.engine, self.archive, **({"now": NOW, "days": DAYS} | how))

    def rows(self, sql: str, **values: Any) -> list[tuple[Any, ...]]:
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(sql), values)]

    def scalar(self, sql: str, **values: Any) -> Any:
        [[value]] = self.rows(sql, **values)
        return value

    def execute(self, sql: str, **values: Any) -> None:
        with self.engine.begin() as connection:
            connection.execute(text(sql), values)

    def raw(self) -> dict[str, Any]:
        """The raw snapshots that are in the database, by market."""
        query = "SELECT market_id, raw_snapshot FROM predictbench.processed_markets WHERE raw_snapshot IS NOT NULL"
        return dict(self.rows(query))

    def archived(self) -> set[str]:
        """The markets whose raw snapshot is not in the database."""
        return {
            row[0]
            for row in self.rows("SELECT market_id FROM predictbench.processed_markets WHERE raw_snapshot IS NULL")
        }
