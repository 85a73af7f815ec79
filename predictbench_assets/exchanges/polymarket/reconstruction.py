"""A past day put together afterwards: what a capture would have had at an instant, from what Polymarket shows now.

The listing of today has the markets of a past day, with all that has become of them since. A row of a reconstruction is
therefore built from the few keys that cannot know the future, never made by taking others away; and a market is of the
day if it was listed and open at the instant. The price is that of the price history, which is the midpoint of the book
whatever its spread; bid, ask, spread, volume and liquidity of then are not known any more.
"""

import hashlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from datetime import datetime
from typing import Final

import msgspec

from predictbench_assets.clock import Clock
from predictbench_assets.exchanges.exchange import NO_PRICE, NOT_LISTED, Capture, CapturedRow, PricesRead
from predictbench_assets.exchanges.polymarket.client import CONDITIONS_PER_REQUEST, PolymarketClient
from predictbench_assets.exchanges.polymarket.kept_listings import KeptListings
from predictbench_assets.exchanges.polymarket.listed_rows import Listing, SeenRow, outside, seen_row
from predictbench_assets.exchanges.polymarket.price_history import LOOK_BACK, PAST, past_price
from predictbench_assets.exchanges.stats import ApiStats
from predictbench_assets.failures import TransientError
from predictbench_assets.markets.quotes import PastPrice, Quote

FEW_UNANSWERED: Final = 5
FEW_UNANSWERED_SHARE: Final = 0.02
"""As many markets, or as large a share of them, may be left out since the price history has no answer about them."""

Points = Sequence[tuple[float, float]]


class PricesMissing(TransientError):
    """The price history did not answer for all markets of the day, so that some might be left out by mistake."""


async def reconstruct(
    client: PolymarketClient,
    start: datetime,
    end: datetime,
    as_of: datetime,
    clock: Clock,
    kept: KeptListings | None = None,
) -> Capture:
    """The markets that were open at `as_of` and end in `[start, end)`, with their prices of that instant.

    Args:
        kept: listings of the last day, one of which may do, and to which this one is added.

    Raises:
        WalkIncomplete, RequestRefused, UnexpectedAnswer, AnswerTooLarge: a listing could not be read to its end.
        PricesMissing: the price history did not answer about more than a few of the markets.
    """
    stats = ApiStats()
    left_out: Counter[str] = Counter()
    async with client:
        async with nullcontext() if kept is None else kept.turn(start, end):
            listing = None if kept is None else kept.find(start, end, now=clock.now(), as_of=as_of)
            if listing is None:
                listing = await _listed(client, start, end, clock, stats)
                if kept is not None:
                    kept.keep(start, end, listing)
        rows = []
        for row in listing.rows:
            if (reason := outside(row, start, end, as_of)) is None:
                rows.append(row)
            else:
                left_out[reason] += 1
        histories = await _histories(client, [row.contract_ids[0] for row in rows], as_of, stats)
    captured = []
    for row in rows:
        points = histories.get(row.contract_ids[0])
        if points is None:
            left_out["price not told"] += 1
            continue
        price = _price_at(points, as_of)
        if price is None:
            left_out[NO_PRICE] += 1
            continue
        quote = Quote(
            token_id=row.contract_ids[0],
            bid=None,
            ask=None,
            at=price.at,
            midpoint=price.price,
            day_ago=_price_at(points, as_of - PAST),
        )
        captured.append(CapturedRow(row.market_id, _priced(row, price.price), quote))
    return Capture(
        rows=captured,
        captured_at=clock.now(),
        sha256=listing.sha256,
        received_bytes=listing.received_bytes,
        recheck=None,
        quotes=PricesRead(len(captured)),
        past_prices=PricesRead(sum(row.quote is not None and row.quote.day_ago is not None for row in captured)),
        warnings=(),
        stats=stats,
        as_of=as_of,
        text_as_of=listing.read_at,
        left_out=dict(sorted(left_out.items())),
    )


async def why_missing(
    client: PolymarketClient, markets: Mapping[str, str | None], start: datetime, end: datetime, as_of: datetime
) -> dict[str, str]:
    """The reason, by market id, for which a reconstruction has no place for markets that were once of its day.

    Args:
        markets: condition ids, by market id; one without is not looked up.

    Raises:
        RequestFailed, RequestRefused, UnexpectedAnswer: the listing did not answer.
    """
    asked = {market_id: condition for market_id, condition in markets.items() if condition}
    conditions = list(asked.values())
    stats = ApiStats()
    async with client:
        answers = [
            await client.fetch_conditions(
                conditions[first : first + CONDITIONS_PER_REQUEST], closed=closed, stats=stats
            )
            for first in range(0, len(conditions), CONDITIONS_PER_REQUEST)
            for closed in (False, True)
        ]
    rows = {row.market_id: msgspec.json.decode(seen_row(row.raw), type=SeenRow) for rows in answers for row in rows}
    return {
        market_id: (outside(rows[market_id], start, end, as_of) or NO_PRICE) if market_id in rows else NOT_LISTED
        for market_id in asked
    }


async def _listed(client: PolymarketClient, start: datetime, end: datetime, clock: Clock, stats: ApiStats) -> Listing:
    """Both walks. The open markets first: one that closes meanwhile is then in both, and its closed row counts."""
    read_at = clock.now()
    walks = [
        await client.fetch_window(start, end, recheck=False, probe=not closed, closed=closed, shape=seen_row)
        for closed in (False, True)
    ]
    latest = {}
    for row in (row for walk in walks for row in walk.rows):
        latest[row.market_id or row.raw] = row
    for walk in walks:
        stats.add(walk.stats)
    return Listing(
        rows=[msgspec.json.decode(row.raw, type=SeenRow) for row in latest.values()],
        read_at=read_at,
        sha256=hashlib.sha256("".join(walk.sha256 for walk in walks).encode()).hexdigest(),
        received_bytes=sum(walk.stats.bytes for walk in walks),
    )


async def _histories(
    client: PolymarketClient, tokens: Sequence[str], as_of: datetime, stats: ApiStats
) -> dict[str, Points]:
    """The points of each token that there was an answer about.

    Those that answers about several do not speak of are asked for one by one: whether a token without any price is
    left out there is not documented.

    Raises:
        PricesMissing: there was no answer about more than a few.
    """
    found: dict[str, Points] = {}
    unanswered = list(dict.fromkeys(tokens))
    most = max(FEW_UNANSWERED, FEW_UNANSWERED_SHARE * len(unanswered))
    asked, why = len(unanswered), "the answers do not speak of them"
    singly = False
    for _ in range(2):
        if unanswered:
            read_of = await client.fetch_histories(unanswered, as_of - PAST - LOOK_BACK, as_of, singly=singly)
            stats.add(read_of.stats)
            found |= read_of.found
            unanswered = [token for token in unanswered if token not in found]
            why = read_of.warning or why
            singly = read_of.warning is None
    if len(unanswered) > most:
        raise PricesMissing(
            f"no price history of {len(unanswered):,} of {asked:,} markets ({why}): nothing was reconstructed, and the "
            "next try asks again"
        )
    return found


def _priced(row: SeenRow, price: float) -> bytes:
    """The row with prices of its outcomes, which a row must have."""
    prices = msgspec.json.encode(msgspec.json.encode([f"{price:g}", f"{1 - price:g}"]).decode())
    return bytes(row.row)[:-1] + b',"outcomePrices":' + prices + b"}"


def _price_at(points: Points, instant: datetime) -> PastPrice | None:
    """The last price in the hours up to an instant."""
    seconds = instant.timestamp()
    place = bisect_right(points, seconds, key=lambda point: point[0]) - 1
    if place < 0 or points[place][0] < seconds - LOOK_BACK.total_seconds():
        return None
    return past_price(points[place])
