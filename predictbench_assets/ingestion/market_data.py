"""Order books and prices of the week, frozen right after a snapshot for the experiments that ask for them.

A book of now is not the book of then, and no exchange tells the book of then: what was not read within minutes of the
freeze is never read. A frozen file is written once and used by every later run on its snapshot.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import msgspec

from predictbench_assets.exchanges.exchange import Exchange, MarketDataRead
from predictbench_assets.exchanges.stats import ApiStats
from predictbench_assets.ingestion.cohort import cohort_markets
from predictbench_assets.ingestion.headers import CohortHeader, MarketDataHeader
from predictbench_assets.ingestion.names import staged_name
from predictbench_assets.markets.market import Market
from predictbench_assets.markets.market_data import MarketData
from predictbench_assets.runs import RunKey
from predictbench_assets.staging import SUFFIX, Schema, StagedFile, StagedFileBroken, StagedFileMissing, StagingArea

MARKET_DATA = Schema("market_data", 1)

LATEST: Final = timedelta(minutes=15)
"""After the freeze, for the first request: a failed step and its retry fit in."""

_HASH_DIGITS: Final = 32

_log = logging.getLogger(__name__)


class _Id(msgspec.Struct):
    market_id: str


@dataclass(frozen=True)
class FrozenMarketData:
    """The market data that a run's experiments are given."""

    file: StagedFile
    reused: bool
    """True where it was frozen before."""


def freeze_market_data(
    exchange: Exchange,
    area: StagingArea,
    key: RunKey,
    cohort: StagedFile,
    *,
    now: datetime,
    dagster_run_id: str,
    wanted: bool,
    warn: Callable[[str], None] = _log.warning,
) -> FrozenMarketData:
    """The frozen market data of a cohort's snapshot; where there is none, what the exchange shows right after it.

    The core sample is asked about first, in case not everything comes in time. One market's trouble is the reason in
    its row. A file that lacks markets of this cohort (it had a limit) is made again while there is time.

    Args:
        now: in UTC.
        wanted: False to ask for nothing.
        warn: called with a sentence about each kind that is missing for some.
    """
    header = cohort.header(CohortHeader)
    markets = sorted(cohort_markets(cohort), key=lambda market: not market.core)
    frozen = _frozen(area, key, header.snapshot_hash)
    late = not header.captured_at - LATEST <= now <= header.captured_at + LATEST
    if frozen is not None and (late or not wanted or _has(frozen, cohort, markets)):
        return FrozenMarketData(frozen, reused=True)
    empty = MarketDataHeader(
        snapshot_hash=header.snapshot_hash, cohort_hash=cohort.sha256, asked_at=now, dagster_run_id=dagster_run_id
    )
    reason = None
    if not wanted:
        reason = "no experiment of this run asks for it"
    elif header.as_of is not None:
        reason = "the snapshot is reconstructed: what the order books held on that day is not known any more"
    elif late:
        minutes = (now - header.captured_at).total_seconds() / 60
        reason = (
            f"the snapshot is {minutes:,.0f} minutes old, more than {LATEST.total_seconds() / 60:.0f}: order books of "
            "now are not those of then, and were not asked for"
        )
    if reason is None:
        read = asyncio.run(exchange.market_data([_first_outcome(market) for market in markets], header.captured_at))
        for warning in filter(None, (read.books.warning, read.histories.warning)):
            warn(warning)
        if read.books.found or read.histories.found or not markets:
            return FrozenMarketData(_publish(area, key, markets, read, empty), reused=False)
        reason = "; ".join(filter(None, (read.books.warning, read.histories.warning))) or "the exchange has none of it"
    nothing = msgspec.structs.replace(empty, not_frozen=reason)
    return FrozenMarketData(area.publish(staged_name([MARKET_DATA.name], key), MARKET_DATA, nothing, ()), reused=False)


def frozen_market_data(area: StagingArea, key: RunKey, snapshot_hash: str) -> dict[str, bytes]:
    """The encoded rows that are frozen for a snapshot, by market id; none where nothing is, or where it is damaged."""
    frozen = _frozen(area, key, snapshot_hash)
    if frozen is None:
        return {}
    try:
        return _rows(frozen)
    except (StagedFileBroken, msgspec.DecodeError) as error:
        _log.warning("market data that was frozen for %s is not used: %s", key, error)
        return {}


def _rows(frozen: StagedFile) -> dict[str, bytes]:
    decode = msgspec.json.Decoder(_Id).decode
    return {decode(line).market_id: line for line in frozen.lines()}


def _frozen(area: StagingArea, key: RunKey, snapshot_hash: str) -> StagedFile | None:
    try:
        return area.open(_name(key, snapshot_hash), MARKET_DATA)
    except (StagedFileMissing, StagedFileBroken):
        return None


def _name(key: RunKey, snapshot_hash: str) -> str:
    """A name of its own for each snapshot; no retention takes it for a file that can be made again."""
    return f"{MARKET_DATA.name}/{key.slug}/{snapshot_hash[:_HASH_DIGITS]}{SUFFIX}"


def _has(frozen: StagedFile, cohort: StagedFile, markets: Sequence[Market]) -> bool:
    """True where a file has a row for each market of a cohort."""
    if frozen.header(MarketDataHeader).cohort_hash == cohort.sha256:
        return True
    try:
        return {market.market_id for market in markets} <= _rows(frozen).keys()
    except (StagedFileBroken, msgspec.DecodeError):
        return False


def _first_outcome(market: Market) -> str:
    return market.contracts[0].contract_id


def _publish(
    area: StagingArea, key: RunKey, markets: Sequence[Market], read: MarketDataRead, header: MarketDataHeader
) -> StagedFile:
    rows = [_row(market, read) for market in markets]
    reasons = Counter(reason for row in rows for reason in (row.no_book, row.no_history) if reason is not None)
    api = ApiStats()
    api.add(read.books.stats)
    api.add(read.histories.stats)
    full = msgspec.structs.replace(
        header,
        books=sum(row.book is not None for row in rows),
        histories=sum(bool(row.history) for row in rows),
        reasons=dict(reasons.most_common()),
        api=api.rounded(),
    )
    return area.publish(_name(key, header.snapshot_hash), MARKET_DATA, full, _lines(rows))


def _row(market: Market, read: MarketDataRead) -> MarketData:
    contract = _first_outcome(market)
    return MarketData(
        market_id=market.market_id,
        book=read.books.found.get(contract),
        history=read.histories.found.get(contract, ()),
        no_book=read.books.missing.get(contract),
        no_history=read.histories.missing.get(contract),
    )


def _lines(rows: Sequence[MarketData]) -> Iterator[bytes]:
    return map(msgspec.json.Encoder().encode, rows)
