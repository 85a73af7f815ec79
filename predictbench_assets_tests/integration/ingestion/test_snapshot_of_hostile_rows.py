"""Rows that a strict parser refuses go through the frozen snapshot to their rejection, and take no other with them."""

import asyncio
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from predictbench_assets.clock import FixedClock
from predictbench_assets.exchanges.polymarket.capture import capture
from predictbench_assets.exchanges.polymarket.client import PolymarketClient
from predictbench_assets.exchanges.polymarket.reading import read_row
from predictbench_assets.ingestion.snapshot import freeze_snapshot, snapshot_rows
from predictbench_assets.markets.cohort import Filters, normalize_cohort
from predictbench_assets.runs import RunKey
from predictbench_assets.sandbox.poison import REJECTABLE, TOLERABLE
from predictbench_assets.sandbox.server import serve
from predictbench_assets.sandbox.world import World
from predictbench_assets.staging import StagingArea

NOW = datetime(2026, 11, 23, 7, tzinfo=UTC)
KEY = RunKey(date(2026, 11, 23), 7)


def test_every_row_received_is_read_back_as_it_was(tmp_path: Path) -> None:
    poisons: dict[str, Any] = REJECTABLE | TOLERABLE
    world = World(seed=11, markets_per_day=100, poison=0.4, poisons=tuple(poisons))
    with serve(world, now=NOW) as server:
        clock = FixedClock(NOW)
        client = PolymarketClient(server.base_url, server.clob_url, clock=clock, requests_per_second=100)
        captured = asyncio.run(capture(client, KEY.start, KEY.end, clock))
    staged = freeze_snapshot(
        StagingArea(str(tmp_path)),
        KEY,
        captured.for_port(),
        exchange="sandbox",
        dagster_run_id="00000000-0000-0000-0000-000000000000",
    )
    read = list(snapshot_rows(staged))
    assert [(row.market_id, row.raw) for row in read] == [(row.market_id, row.raw) for row in captured.walk.rows]
    offered = ((row.raw, row.quote) for row in read)
    cohort = normalize_cohort(offered, read_row, captured_at=NOW, filters=Filters(), core_size=10, seed=1)
    assert cohort.offered == len(captured.walk.rows)
    assert len(cohort.markets) >= 60
    assert len(cohort.rejected) >= 30
    assert {rejected.market_id for rejected in cohort.rejected}.isdisjoint(
        market.market_id for market in cohort.markets
    )
