"""Runs that were stored long ago, and what was observed of their markets since."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from predictbench_assets.persistence.leases import RunCounts
from predictbench_assets.persistence.writer import RunWriter
from predictbench_assets.retention.pruned import Pruned
from predictbench_assets.retention.raw_snapshots import prune_raw_snapshots
from predictbench_assets.runs import RunKey
from predictbench_assets.staging import StagingArea
from predictbench_assets_tests.kit.builders import KEY, attempt, observe, open_run, record, result
from predictbench_assets_tests.kit.database import Database

SETTLED = datetime(2026, 2, 10, tzinfo=UTC)
DAYS = 90
NOW = SETTLED + timedelta(days=DAYS)


@dataclass
class Stored(Database):
    """A database with runs in it, and the archive of their raw snapshots."""

    archive: StagingArea

    def run(self, *markets: int, key: RunKey = KEY, ended: bool = True, probability: float = 0.4) -> None:
        """Store markets as a run of their own, or as a further attempt of it."""
        lease = open_run(self.engine, key)
        writer = RunWriter(self.engine, lease, lease.clock)
        content = f"{probability}-{len(markets)}"
        writer.write([record(one, result(probability=probability)) for one in markets], [attempt(content=content)])
        if ended:
            count = len(markets)
            writer.finish(RunCounts(count, 0, 0, 0, count), "completed", (), {})

    def observe(self, market: int, state: str, outcome: float | None = None, *, at: datetime = SETTLED) -> None:
        """Add to the ledger of resolutions."""
        observe(self.engine, f"m{market}", state, outcome, at=at)

    def settled(self, *markets: int, at: datetime = SETTLED) -> None:
        """Observe that markets have settled."""
        for market in markets:
            self.observe(market, "final", 1.0, at=at)

    def prune(self, **how: Any) -> Pruned:
        """Prune raw snapshots."""
        return prune_raw_snapshots(self.engine, self.archive, **({"now": NOW, "days": DAYS} | how))

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
