"""One reading of a window: every market that closes in it, then their quotes, and beside them the older prices."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from predictbench_assets.clock import Clock
from predictbench_assets.exchanges.exchange import Capture, CapturedRow, PricesRead
from predictbench_assets.exchanges.polymarket.client import PolymarketClient, RawRow, Walk
from predictbench_assets.exchanges.polymarket.payloads import parse_instant
from predictbench_assets.exchanges.polymarket.price_history import PastPrices
from predictbench_assets.exchanges.polymarket.quotes import Quotes
from predictbench_assets.exchanges.stats import ApiStats
from predictbench_assets.markets.quotes import Quote


@dataclass(frozen=True)
class Captured:
    """One reading of a window: its listing, the quotes, the older prices."""

    walk: Walk
    quotes: Quotes
    captured_at: datetime
    """Instant of the last quote's arrival, UTC: the freeze."""
    past_prices: PastPrices = field(default_factory=lambda: PastPrices(requested=False))
    """Read beside the rest, of a day before the capture began."""

    @property
    def stats(self) -> ApiStats:
        """Requests and seconds of the listing, the quotes and the older prices together."""
        together = ApiStats()
        for part in (self.walk.stats, self.quotes.stats, self.past_prices.stats):
            together.add(part)
        return together

    def quote(self, row: RawRow) -> Quote | None:
        """The quote of a row's first outcome; None without one."""
        return None if row.first_token_id is None else self.quote_of(row.first_token_id)

    def quote_of(self, token: str) -> Quote | None:
        """The quote of a token; with neither bid nor ask where only the past is known."""
        quote, day_ago = self.quotes.get(token), self.past_prices.get(token)
        if day_ago is None:
            return quote
        quote = quote or Quote(token_id=token, bid=None, ask=None, at=self.captured_at)
        return quote.model_copy(update={"day_ago": day_ago})

    def for_port(self) -> Capture:
        """Join rows and prices into the port's form."""
        rows = [CapturedRow(row.market_id, row.raw, self.quote(row)) for row in self.walk.rows]
        quotes, past = self.quotes, self.past_prices
        captured = Capture(
            rows=rows,
            captured_at=self.captured_at,
            sha256=self.walk.sha256,
            received_bytes=self.walk.stats.bytes,
            recheck=self.walk.recheck,
            quotes=PricesRead(len(quotes.by_token), quotes.available, quotes.reason),
            past_prices=PricesRead(len(past.by_token), past.requested, past.reason),
            warnings=(),
            stats=self.stats,
        )
        warnings = []
        if quotes.reason is not None:
            warnings.append(
                f"the CLOB gave no quotes for some or all markets, {captured.rows_by_source['gamma']:,} of "
                f"{len(rows):,} are priced by Gamma: {quotes.reason}"
            )
        if past.reason is not None:
            warnings.append(f"prices of a day before are missing: {past.reason}")
        return replace(captured, warnings=warnings)


async def capture(
    client: PolymarketClient, start: datetime, end: datetime, clock: Clock, *, price_history: bool = True
) -> Captured:
    """Read every market that closes in `[start, end)`, and right after that the quotes of their first outcomes.

    With `price_history`, also what those were a day before, as far as the CLOB answers: beside the rest, from the first
    page on, and so of a day before the capture began.

    Raises:
        WalkIncomplete, RequestRefused, UnexpectedAnswer, AnswerTooLarge: the listing could not be read to its end. A
            CLOB that does not answer raises nothing: `quotes.available` is False then.
    """
    began = clock.now()
    waiting: asyncio.Queue[str | None] = asyncio.Queue()

    def take(rows: Sequence[RawRow]) -> None:
        for row in rows:
            at = parse_instant(row.end_date)
            if at is not None and start <= at < end and (token := row.first_token_id) is not None:
                waiting.put_nowait(token)

    async def arriving() -> AsyncIterator[str]:
        while (token := await waiting.get()) is not None:
            yield token

    async with client:
        past = asyncio.ensure_future(client.fetch_past_prices(arriving(), began)) if price_history else None
        try:
            walk = await client.fetch_window(start, end, on_rows=take if price_history else None)
            tokens = [token for row in walk.rows if (token := row.first_token_id) is not None]
            for token in (*tokens, None):
                waiting.put_nowait(token)
            quotes = await client.fetch_quotes(tokens)
            captured_at = clock.now()
            if past is None:
                return Captured(walk, quotes, captured_at)
            if not quotes.available:
                return Captured(walk, quotes, captured_at, PastPrices(reason="given up, since the CLOB gave no quotes"))
            return Captured(walk, quotes, captured_at, await past)
        finally:
            if past is not None:
                past.cancel()
                await asyncio.wait([past])
