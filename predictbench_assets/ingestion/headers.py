"""Headers of staged files: the notes of each stage, read before any row is."""

from datetime import datetime
from typing import Literal

import msgspec

from predictbench_assets.exchanges.exchange import Recheck
from predictbench_assets.exchanges.stats import ApiStats

Counts = dict[str, int]


class WindowHeader(msgspec.Struct, frozen=True, kw_only=True):
    """The header of `target_window`."""

    dagster_run_id: str = ""
    """The Dagster run that staged the file."""


class PointerHeader(msgspec.Struct, frozen=True, kw_only=True):
    """The header of a file that stands for another."""

    uri: str
    sha256: str = ""
    dagster_run_id: str = ""


class SnapshotHeader(msgspec.Struct, frozen=True, kw_only=True):
    """The header of `raw_markets`. Files of earlier versions lack what has a default."""

    captured_at: datetime
    as_of: datetime | None = None
    """The instant that was reconstructed; None of a snapshot that was captured."""
    text_as_of: datetime | None = None
    """The instant of which the texts, tags and ends of a reconstruction are."""
    left_out: Counts = msgspec.field(default_factory=dict)
    """Listed rows that a reconstruction had no place for, by reason."""
    exchange: str = ""
    dagster_run_id: str = ""
    received_sha256: str = ""
    received_bytes: int = 0
    api: ApiStats = msgspec.field(default_factory=ApiStats)
    recheck: Recheck | None = None
    quotes: int = 0
    """Tokens with a quote of the order book."""
    quotes_available: bool = True
    quotes_reason: str | None = None
    """The reason for quotes that are missing."""
    rows_by_source: Counts = msgspec.field(default_factory=dict)
    past_prices: int = 0
    """Tokens with a price of a day before."""
    past_prices_asked: bool = False
    past_prices_reason: str | None = None

    @property
    def quotes_source(self) -> Literal["clob", "gamma", "history"]:
        """Source of the prices: the order book, the listing where the book did not answer, or the price history."""
        if self.as_of is not None:
            return "history"
        return "clob" if self.quotes_available else "gamma"


class CohortHeader(msgspec.Struct, frozen=True, kw_only=True):
    """The header of `normalized_markets`: its counts, so that a summary need not read the rows."""

    snapshot_hash: str
    """Content hash of the snapshot that the cohort was made of."""
    captured_at: datetime
    as_of: datetime | None = None
    """As the snapshot's."""
    limit: int | None
    """The most markets that were asked for; a run of a part of a day is stored as partial."""
    dagster_run_id: str = ""
    offered: int
    excluded: Counts
    rejected: int
    markets: int
    contracts: int
    core: int
    clusters: int
    price_quality: Counts
    price_source: Counts
    priced_day_ago: int = 0
    category: Counts
    """Markets by category, the most frequent first."""
    unreadable: Counts = msgspec.field(default_factory=dict)
    """Optional keys that could not be read, with the number of markets."""


class MarketDataHeader(msgspec.Struct, frozen=True, kw_only=True):
    """The header of `market_data`."""

    snapshot_hash: str
    cohort_hash: str
    """Hash of the cohort whose markets were asked about."""
    asked_at: datetime
    dagster_run_id: str = ""
    books: int = 0
    histories: int = 0
    reasons: Counts = msgspec.field(default_factory=dict)
    """Markets by the reason for which something of them is missing, the most frequent first."""
    not_frozen: str | None = None
    """The reason for a file without rows: nothing was asked, or nothing came."""
    api: ApiStats = msgspec.field(default_factory=ApiStats)
