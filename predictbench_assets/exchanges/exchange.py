"""The port: all that the benchmark asks of an exchange. One exchange, one database, one code location."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Generic, Protocol, Self, TypeVar

from predictbench_assets.exchanges.stats import ApiStats
from predictbench_assets.failures import TransientError
from predictbench_assets.markets.cohort import ExclusionReason, ReadMarket
from predictbench_assets.markets.market_data import OrderBook
from predictbench_assets.markets.quotes import Quote
from predictbench_assets.markets.settlement import Absence, PendingMarket, Reading

T = TypeVar("T")

NO_PRICE: Final = "no price in the hours before"
"""Reason for which a market is not reconstructed: its price history has nothing in the hours before the instant."""
NOT_LISTED: Final = "not listed any more"
"""Reason for which a market is not reconstructed: the exchange does not know it."""


@dataclass(frozen=True, slots=True)
class CapturedRow:
    """A market as it was received, and the quote of its first outcome."""

    market_id: str | None
    """None where the row has none that can be read."""
    raw: bytes
    """The row's JSON on one line."""
    quote: Quote | None


@dataclass(frozen=True)
class Recheck:
    """A part of the listing read a second time: how much the listing disagrees with itself."""

    slice_start: datetime
    slice_end: datetime
    first: int
    """Ids in the first reading."""
    second: int
    differing: int
    """Ids in one of the two readings and not in the other."""
    share: float
    """`differing` over all ids seen in either."""


@dataclass(frozen=True)
class PricesRead:
    """Completeness of the prices beside the rows."""

    count: int
    available: bool = True
    """True where they were asked for and any answer came."""
    reason: str | None = None
    """The reason for those that are missing; None where there simply were none."""


@dataclass(frozen=True)
class Capture:
    """Every market that closes in a window, as an exchange shows it at one moment."""

    rows: Sequence[CapturedRow]
    """One per id; rows that no market can be read from are among them."""
    captured_at: datetime
    """Instant of the last quote's arrival, UTC: the freeze."""
    sha256: str
    """Hash of the listing's bodies as received: the identity of the exchange's answer."""
    received_bytes: int
    recheck: Recheck | None
    quotes: PricesRead
    past_prices: PricesRead
    """Prices of a day before the capture began."""
    warnings: Sequence[str]
    """Sentences about what is missing."""
    stats: ApiStats
    as_of: datetime | None = None
    """Instant that was reconstructed; None where the exchange was captured as it was."""
    text_as_of: datetime | None = None
    """Instant at which the listing of a reconstruction was read: questions, rules, tags and ends are as of then."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Listed rows that a reconstruction has no place for, by reason."""

    @property
    def rows_by_source(self) -> dict[str, int]:
        """Rows priced by a quote of the order book (`clob`), and only by the listing itself (`gamma`)."""
        if self.as_of is not None:
            return {"history": len(self.rows)}
        counts = Counter("clob" if row.quote is not None and row.quote.priced else "gamma" for row in self.rows)
        return {source: counts[source] for source in ("clob", "gamma")}


class QuotesUnavailable(TransientError):
    """The exchange gave no quotes at all; the text has the reason."""


@dataclass
class ReadOf(Generic[T]):
    """What was read of each of several contracts, and why there is nothing of the others; by contract id."""

    found: dict[str, T] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    warning: str | None = None
    """A sentence about contracts that were not answered for; None where there was an answer about each."""
    stats: ApiStats = field(default_factory=ApiStats)

    def ended(self, contract_ids: Sequence[str], reason: str | None, what: str) -> Self:
        """Note the reason for all contracts that there was no answer about."""
        open_ids = [one for one in contract_ids if one not in self.found and one not in self.missing]
        self.missing |= dict.fromkeys(open_ids, f"not answered: {reason}" if reason else "its id is none to ask for")
        if reason is not None:
            self.warning = f"{what} are missing: {reason}"
        return self


@dataclass(frozen=True)
class MarketDataRead:
    """Order books and histories of first outcomes, by contract id."""

    books: ReadOf[OrderBook]
    histories: ReadOf[tuple[tuple[float, float], ...]]
    """Seconds since the epoch and price, oldest first."""


class SettlementReader(Protocol):
    """A look-up of settlements until a budget of requests is used up, or the exchange stops answering."""

    stats: ApiStats
    failure: str | None
    """The reason for which the exchange is not asked any more."""

    @property
    def over(self) -> bool:
        """True once nothing more will be asked."""

    @property
    def problems(self) -> Sequence[str]:
        """Everything that went wrong so far, `failure` first."""

    async def read(self, pending: Sequence[PendingMarket], now: datetime) -> Mapping[str, Reading | Absence]:
        """Settlements by market id; a market that nothing was answered about is left out."""


class Exchange(Protocol):
    """A prediction market that is listed, quoted and settled."""

    host: str
    """The name that stored runs and snapshots bear."""

    async def capture(self, start: datetime, end: datetime) -> Capture:
        """Read every market that closes in `[start, end)`, and right after that its quotes.

        Raises:
            PredictbenchError: the listing could not be read to its end. Quotes that do not come raise nothing.
        """

    async def reconstruct(self, start: datetime, end: datetime, as_of: datetime) -> Capture:
        """Put together what a capture of `[start, end)` would have had at an earlier instant, and nothing later.

        Raises:
            PredictbenchError: the listing, or the prices of that instant, could not be read to their end.
        """

    async def why_missing(
        self, markets: Mapping[str, str | None], start: datetime, end: datetime, as_of: datetime
    ) -> Mapping[str, str]:
        """Look up why a reconstruction of `[start, end)` has no place for some markets; the cause by market id.

        Args:
            markets: condition ids, by market id.

        Raises:
            PredictbenchError: the exchange did not answer.
        """

    def read(self, raw: bytes, quote: Quote | None, captured_at: datetime, /) -> ReadMarket | ExclusionReason:
        """Read one row: a `MarketReader`."""

    async def quotes(self, contract_ids: Sequence[str]) -> Mapping[str, Quote]:
        """Read the quotes of contracts as they are now, by contract id; one without any order is left out.

        Raises:
            QuotesUnavailable: the exchange answered for none.
        """

    async def market_data(self, contract_ids: Sequence[str], captured_at: datetime) -> MarketDataRead:
        """Read the order books as they are now, and the prices of the week up to the capture; raises nothing."""

    def settlements(self, max_requests: int) -> AbstractAsyncContextManager[SettlementReader]:
        """Open a reader of settlements that begins no request when `max_requests` were sent."""
