"""The cohort: the markets of a snapshot that count, and the reason for each other row."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol

from predictbench_assets.failures import PermanentError
from predictbench_assets.markets.clusters import Clusters
from predictbench_assets.markets.core_sample import draw_core
from predictbench_assets.markets.market import Market, RejectedMarket
from predictbench_assets.markets.quotes import Quote

ExclusionReason = Literal["closed", "archived", "inactive", "min_liquidity", "min_volume", "max_markets", "limit"]
"""Reasons to leave a row out: it contradicts the request that it answers (the first three), or a filter does it."""


class MarketRejected(PermanentError):
    """A row that is not a market we can use: `field` is the row's key at fault, `reason` one sentence."""

    def __init__(self, field: str, reason: str, market_id: str | None) -> None:
        super().__init__(f"market {market_id or 'without an id'}: {field} {reason}")
        self.field = field
        self.reason = reason
        self.market_id = market_id

    def as_row(self) -> RejectedMarket:
        """The rejection as data."""
        return RejectedMarket(market_id=self.market_id, field=self.field, reason=f"{self.field} {self.reason}")


@dataclass(frozen=True, slots=True)
class ReadMarket:
    """A market as its row alone shows it."""

    market: Market
    """Market whose cluster is the first of `links`."""
    links: Sequence[str]
    """Keys that it shares with the markets it depends on, see `Clusters`."""
    unreadable: Sequence[str] = ()
    """Optional keys of the row that held something unreadable and were read as absent."""


class MarketReader(Protocol):
    """An exchange's reading of one row as it was received."""

    def __call__(self, raw: bytes, quote: Quote | None, captured_at: datetime, /) -> ReadMarket | ExclusionReason:
        """The market in a row, or the reason for which a well-formed row is none of the day.

        Raises:
            MarketRejected: the row lacks something mandatory, or holds something that could not be stored.
        """


@dataclass(frozen=True)
class Filters:
    """Limits that leave a well-formed market out. The defaults leave out nothing; unknown money counts as none.

    Applied in this order: `min_liquidity` and `min_volume` (USDC); `max_markets` keeps those with the highest volume
    (ties: the earlier row); `limit` then keeps the first rows, for a quick partial run.
    """

    min_liquidity: float = 0.0
    min_volume: float = 0.0
    max_markets: int | None = None
    limit: int | None = None


@dataclass(frozen=True)
class Cohort:
    """The markets of one snapshot. Each row offered is in exactly one of `markets`, `rejected` and `excluded`."""

    markets: list[Market]
    """Markets in the order of the snapshot's rows."""
    rejected: list[RejectedMarket]
    excluded: dict[ExclusionReason, int]
    """Rows left out, by reason; reasons that left out none are absent."""
    unreadable: dict[str, int] = field(default_factory=dict)
    """Optional keys that held something unreadable and were read as absent, with the number of markets."""

    @property
    def offered(self) -> int:
        """Rows that went in."""
        return len(self.markets) + len(self.rejected) + sum(self.excluded.values())


def normalize_cohort(
    rows: Iterable[tuple[bytes, Quote | None]],
    read: MarketReader,
    *,
    captured_at: datetime,
    as_of: datetime | None = None,
    filters: Filters,
    core_size: int,
    seed: int,
) -> Cohort:
    """All rows of a snapshot: normalised by the exchange's reader, filtered, clustered, and with the core sample drawn.

    Clusters are found among all readable markets, before the filters, so that a filter changes no cluster. Of two rows
    with one id the second is rejected. The rows are consumed one by one and not kept. `as_of` is the instant that was
    reconstructed, if any.
    """
    markets: dict[str, Market] = {}
    rejected: list[RejectedMarket] = []
    unreadable: Counter[str] = Counter()
    contradicting: Counter[ExclusionReason] = Counter()
    clusters = Clusters()
    for raw, quote in rows:
        try:
            found = read(raw, quote, captured_at)
            if isinstance(found, str):
                contradicting[found] += 1
                continue
            market = found.market if as_of is None else found.market.model_copy(update={"reconstructed_as_of": as_of})
            if market.market_id in markets:
                raise MarketRejected("id", "was already used by an earlier row", market.market_id)
        except MarketRejected as rejection:
            rejected.append(rejection.as_row())
            continue
        markets[market.market_id] = market
        clusters.join(found.links)
        unreadable.update(found.unreadable)

    kept, filtered = _filtered(list(markets.values()), filters)
    excluded = dict(contradicting) | filtered
    del markets
    labels = clusters.labels()
    for index, market in enumerate(kept):
        label = labels.get(market.cluster, market.cluster)
        if label != market.cluster:
            kept[index] = market.model_copy(update={"cluster": label})
    core = draw_core(kept, size=core_size, seed=seed)
    for index, market in enumerate(kept):
        if market.market_id in core:
            kept[index] = market.model_copy(update={"core": True, "core_weight": core[market.market_id]})
    return Cohort(markets=kept, rejected=rejected, excluded=excluded, unreadable=dict(unreadable))


def _filtered(markets: list[Market], filters: Filters) -> tuple[list[Market], dict[ExclusionReason, int]]:
    excluded: dict[ExclusionReason, int] = {}

    def keep(reason: ExclusionReason, kept: list[Market]) -> list[Market]:
        if len(kept) < len(markets):
            excluded[reason] = len(markets) - len(kept)
        return kept

    markets = keep("min_liquidity", [m for m in markets if (m.liquidity or 0.0) >= filters.min_liquidity])
    markets = keep("min_volume", [m for m in markets if (m.volume or 0.0) >= filters.min_volume])
    if filters.max_markets is not None:
        by_volume = sorted(range(len(markets)), key=lambda index: (-(markets[index].volume or 0.0), index))
        chosen = sorted(by_volume[: filters.max_markets])
        markets = keep("max_markets", [markets[index] for index in chosen])
    if filters.limit is not None:
        markets = keep("limit", markets[: filters.limit])
    return markets, excluded
