"""Polymarket behind the port."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime

from predictbench_assets.clock import Clock
from predictbench_assets.exchanges.exchange import Capture, MarketDataRead, QuotesUnavailable
from predictbench_assets.exchanges.polymarket.capture import capture
from predictbench_assets.exchanges.polymarket.client import PolymarketClient
from predictbench_assets.exchanges.polymarket.kept_listings import KeptListings
from predictbench_assets.exchanges.polymarket.lookup import SettlementLookup
from predictbench_assets.exchanges.polymarket.reading import read_row
from predictbench_assets.exchanges.polymarket.reconstruction import reconstruct, why_missing
from predictbench_assets.markets.cohort import ExclusionReason, ReadMarket
from predictbench_assets.markets.quotes import Quote


class Polymarket:
    """The `Exchange` that a client reads.

    Args:
        client: opened and closed for each capture and each reader of settlements.
        host: the name that stored runs and snapshots bear.
        clock: for the moment of a capture.
        price_history: True to capture prices of a day before too.
        kept: listings of past days that were read for a reconstruction; None keeps none.
    """

    def __init__(
        self,
        client: PolymarketClient,
        *,
        host: str,
        clock: Clock,
        price_history: bool = True,
        kept: KeptListings | None = None,
    ) -> None:
        self.host = host
        self._client = client
        self._clock = clock
        self._price_history = price_history
        self._kept = kept

    async def capture(self, start: datetime, end: datetime) -> Capture:
        """Read every market that closes in `[start, end)`, and right after that the quotes of their first outcomes.

        Raises: as `polymarket.capture.capture`.
        """
        captured = await capture(self._client, start, end, self._clock, price_history=self._price_history)
        return captured.for_port()

    async def reconstruct(self, start: datetime, end: datetime, as_of: datetime) -> Capture:
        """Put together the open markets of an earlier instant from today's listing and the price history.

        Raises: as `polymarket.reconstruction.reconstruct`.
        """
        return await reconstruct(self._client, start, end, as_of, self._clock, self._kept)

    async def why_missing(
        self, markets: Mapping[str, str | None], start: datetime, end: datetime, as_of: datetime
    ) -> Mapping[str, str]:
        """Look the markets up by their conditions, open or closed, whenever they end.

        Raises: as `PolymarketClient.fetch_conditions`.
        """
        return await why_missing(self._client, markets, start, end, as_of)

    def read(self, raw: bytes, quote: Quote | None, captured_at: datetime, /) -> ReadMarket | ExclusionReason:
        """The market in a row of Gamma's listing; see `read_row`."""
        return read_row(raw, quote, captured_at)

    async def quotes(self, contract_ids: Sequence[str]) -> Mapping[str, Quote]:
        """Read the best bid and ask of each contract from the CLOB, in batches; one contract's trouble costs that one.

        Raises:
            QuotesUnavailable: the CLOB did not answer at all.
        """
        async with self._client as client:
            quotes = await client.fetch_quotes(contract_ids)
        if not quotes.available:
            raise QuotesUnavailable(f"the CLOB gave no quotes: {quotes.reason}")
        return quotes.by_token

    async def market_data(self, contract_ids: Sequence[str], captured_at: datetime) -> MarketDataRead:
        """Read order books first, since they move, and then histories; the first contracts first."""
        async with self._client as client:
            books = await client.fetch_books(contract_ids)
            return MarketDataRead(books, await client.fetch_weeks(contract_ids, captured_at))

    @asynccontextmanager
    async def settlements(self, max_requests: int) -> AsyncIterator[SettlementLookup]:
        """Open a reader of settlements with a budget of requests."""
        async with self._client as client:
            yield SettlementLookup(client, max_requests)
