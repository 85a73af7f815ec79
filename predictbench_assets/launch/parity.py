"""Reconstructions of partitions that were captured, in a scratch place, and their comparison with the captures."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from sqlalchemy import Engine

from predictbench_assets.database.connection import opened_database
from predictbench_assets.exchanges.configured import configured_exchange
from predictbench_assets.failures import PredictbenchError
from predictbench_assets.ingestion.cohort import build_cohort
from predictbench_assets.ingestion.parity import compare
from predictbench_assets.ingestion.registry import SnapshotRecord
from predictbench_assets.ingestion.snapshot import freeze_snapshot, open_registered, raw_rows
from predictbench_assets.launch.daily import scratch_folder
from predictbench_assets.observability.console import print_status
from predictbench_assets.persistence.snapshots import find_snapshot
from predictbench_assets.reporting.parity import ParityLine
from predictbench_assets.runs import RunKey
from predictbench_assets.settings import Settings
from predictbench_assets.staging import StagingArea


def check_parity(settings: Settings, keys: Sequence[RunKey]) -> Iterator[ParityLine]:
    """Reconstruct each partition that was captured, as of the instant of its capture, and compare the two.

    Only reads the database and the staging area. One partition that fails does not stop the others.
    """
    # All markets are compared: a reconstruction cannot be filtered by money.
    settings = settings.model_copy(update={"min_liquidity": None, "min_volume": None, "max_markets": None})
    with opened_database(settings) as engine, scratch_folder() as scratch:
        for number, key in enumerate(keys, 1):
            print_status(settings, f"[{number}/{len(keys)}] {key.run_date}, window {key.window_days} days")
            try:
                yield _line(settings, engine, key, scratch)
            except (PredictbenchError, OSError) as error:
                yield ParityLine.of(key, "failed", settings.redact(str(error)))


def _line(settings: Settings, engine: Engine, key: RunKey, scratch: Path) -> ParityLine:
    record = find_snapshot(engine, key)
    if record is None:
        return ParityLine.of(key, "missing", "no snapshot is stored")
    if record.as_of is not None:
        return ParityLine.of(key, "missing", "its snapshot was reconstructed, not captured")
    if record.exchange != settings.exchange:
        reason = f"it was captured from {record.exchange}, and POLYMARKET_BASE_URL names {settings.exchange}"
        return ParityLine.of(key, "missing", reason)
    return _compared(settings, record, scratch)


def _compared(settings: Settings, record: SnapshotRecord, scratch: Path) -> ParityLine:
    key, as_of = record.key, record.captured_at
    # Its listings are kept among the scratch files: windows over the same days ask once, and nothing stays.
    exchange = configured_exchange(settings.model_copy(update={"predictbench_home": scratch}))
    staging = StagingArea(settings.staging, settings.staging_options)
    snapshot = open_registered(staging, record, settings.clock.now().date())
    captured = build_cohort(snapshot, exchange.read, settings).markets
    began = time.monotonic()
    capture = asyncio.run(exchange.reconstruct(key.start, key.end, as_of))
    seconds, requests = time.monotonic() - began, capture.stats.requests
    file = freeze_snapshot(StagingArea(str(scratch)), key, capture, exchange=exchange.host, dagster_run_id="")
    reconstructed = build_cohort(file, exchange.read, settings).markets
    found = {market.market_id for market in reconstructed}
    missing = {one.market_id: one.condition_id for one in captured if one.market_id not in found}
    why = asyncio.run(exchange.why_missing(missing, key.start, key.end, as_of)) if missing else {}
    seen = {market_id for market_id, _ in raw_rows(snapshot) if market_id is not None}
    parity = compare(captured, reconstructed, seen=seen, why_missing=why)
    return ParityLine.compared(key, parity, as_of=as_of, seconds=seconds, requests=requests)
