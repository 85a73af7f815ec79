"""The frozen snapshot: a day's rows exactly as Polymarket sent them, each with the quote read at the same time, and
with the price of a day before.

A snapshot is a staged file that is written once and never changed; a refresh writes another. Everything downstream
is computed from it, so that a run can be repeated long after the exchange has moved on.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec

from predictbench_assets.clock import Clock
from predictbench_assets.exchanges.json_text import DECODE_ERRORS, json_members
from predictbench_assets.exchanges.polymarket.client import PolymarketClient, RawRow, Walk
from predictbench_assets.exchanges.polymarket.payloads import first_token_id, parse_instant
from predictbench_assets.exchanges.polymarket.price_history import PastPrices
from predictbench_assets.exchanges.polymarket.quotes import Quotes
from predictbench_assets.exchanges.stats import ApiStats
from predictbench_assets.markets.quotes import Quote
from predictbench_assets.runs import RunKey
from predictbench_assets.staging import SUFFIX, Schema, StagedFile, StagingArea

SNAPSHOT = Schema("raw_markets", 2, upgrade=lambda row: row)
"""The second version has the price of a day before in some quotes; rows without one are as they were."""


class _SnapshotRow(msgspec.Struct):
    row: msgspec.Raw
    quote: dict[str, Any] | None = None


@dataclass(frozen=True)
class Capture:
    """What was read from the exchange for one run."""

    walk: Walk
    quotes: Quotes
    captured_at: datetime
    """When the last quote had come in, UTC: the freeze."""
    past_prices: PastPrices = field(default_factory=lambda: PastPrices(asked=False))
    """Read beside the rest, of a day before the capture began."""

    @property
    def stats(self) -> ApiStats:
        """What reading took: the listing, the quotes and the older prices together."""
        together = ApiStats()
        for part in (self.walk.stats, self.quotes.stats, self.past_prices.stats):
            together.add(part)
        return together

    @property
    def rows_by_source(self) -> dict[str, int]:
        """How many rows are priced by a quote of the CLOB, and how many only by what Gamma says in them."""
        quoted = ((quote := self.quote(row.raw)) is not None and quote.priced for row in self.walk.rows)
        counts = Counter("clob" if one else "gamma" for one in quoted)
        return {source: counts[source] for source in ("clob", "gamma")}

    def quote(self, row: bytes) -> Quote | None:
        """What the CLOB said about a row's first outcome."""
        token = first_token_id(row)
        return None if token is None else self.quote_of(token)

    def quote_of(self, token: str) -> Quote | None:
        """What the CLOB said about a token; with neither bid nor ask where only the past is known."""
        quote, day_ago = self.quotes.get(token), self.past_prices.get(token)
        if day_ago is None:
            return quote
        quote = quote or Quote(token_id=token, bid=None, ask=None, at=self.captured_at)
        return quote.model_copy(update={"day_ago": day_ago})


async def capture(client: PolymarketClient, key: RunKey, clock: Clock, *, price_history: bool = True) -> Capture:
    """Read every market that closes on the run's target date, and right after that the quotes of their first outcomes.

    With `price_history`, also what those were a day before, as far as the CLOB answers: beside the rest, from the first
    page on, and so of a day before the capture began.

    Raises:
        WalkIncomplete, RequestRefused, UnexpectedAnswer, AnswerTooLarge: the listing could not be read to its end. A
            CLOB that does not answer raises nothing: `quotes.available` says so.
    """
    began = clock.now()
    waiting: asyncio.Queue[str | None] = asyncio.Queue()

    def take(rows: Sequence[RawRow]) -> None:
        for row in rows:
            at = parse_instant(row.end_date)
            if at is not None and key.start <= at < key.end and (token := first_token_id(row.raw)) is not None:
                waiting.put_nowait(token)

    async def arriving() -> AsyncIterator[str]:
        while (token := await waiting.get()) is not None:
            yield token

    async with client:
        past = asyncio.ensure_future(client.fetch_past_prices(arriving(), began)) if price_history else None
        try:
            walk = await client.fetch_window(key.start, key.end, on_rows=take if price_history else None)
            tokens = [token for row in walk.rows if (token := first_token_id(row.raw)) is not None]
            for token in (*tokens, None):
                waiting.put_nowait(token)
            quotes = await client.fetch_quotes(tokens)
            captured_at = clock.now()
            if past is None:
                return Capture(walk, quotes, captured_at)
            if not quotes.available:
                return Capture(walk, quotes, captured_at, PastPrices(reason="given up, since the CLOB gave no quotes"))
            return Capture(walk, quotes, captured_at, await past)
        finally:
            if past is not None:
                past.cancel()
                await asyncio.wait([past])


def freeze_snapshot(
    area: StagingArea, key: RunKey, captured: Capture, *, exchange: str, dagster_run_id: str
) -> StagedFile:
    """Publish what was captured under a name of its own, so that a refresh overwrites nothing."""
    walk, quotes = captured.walk, captured.quotes
    recheck = None if walk.recheck is None else msgspec.to_builtins(walk.recheck)
    meta: Mapping[str, Any] = {
        "captured_at": captured.captured_at.isoformat(),
        "exchange": exchange,
        "dagster_run_id": dagster_run_id,
        "received_sha256": walk.sha256,
        "received_bytes": walk.stats.bytes,
        "api": captured.stats.as_dict(),
        "recheck": recheck,
        "quotes": len(quotes.by_token),
        "rows_by_source": captured.rows_by_source,
        "quotes_available": quotes.available,
        "quotes_reason": quotes.reason,
        "past_prices": len(captured.past_prices.by_token),
        "past_prices_asked": captured.past_prices.asked,
        "past_prices_reason": captured.past_prices.reason,
    }
    name = f"snapshots/{key.slug}/{captured.captured_at:%Y%m%dT%H%M%S.%fZ}{SUFFIX}"
    return area.publish(name, SNAPSHOT, meta, (_line(row.raw, captured.quote(row.raw)) for row in walk.rows))


def snapshot_rows(snapshot: StagedFile) -> Iterator[tuple[bytes, Quote | None]]:
    """The rows of a snapshot, as received, with their quotes."""
    decode = msgspec.json.Decoder(_SnapshotRow).decode
    for line in snapshot.lines():
        try:
            staged = decode(line)
        except DECODE_ERRORS:
            # A row may be legal JSON that the strict parser refuses; its rejection needs its bytes.
            yield dict(json_members(line))["row"], None
            continue
        yield bytes(staged.row), None if staged.quote is None else Quote.model_validate(staged.quote)


def _line(row: bytes, quote: Quote | None) -> bytes:
    # A key of its own only where there is a price, so that rows without one are what they always were.
    absent = {"day_ago"} if quote is not None and quote.day_ago is None else None
    encoded = b"null" if quote is None else quote.model_dump_json(exclude=absent).encode()
    return b'{"quote":' + encoded + b',"row":' + row + b"}"
