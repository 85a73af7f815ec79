"""A past day put together afterwards: what a capture would have had at an instant, from what Polymarket shows now.

The listing of today has the markets of a past day, with all that has become of them since. A row of a reconstruction is
therefore built from the few keys that cannot know the future, never made by taking others away; and a market is of the
day if it was listed and open at the instant. The price is that of the price history, which is the midpoint of the book
whatever its spread; bid, ask, spread, volume and liquidity of then are not known any more.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from predictbench_assets.clock import Clock
from predictbench_assets.exchanges.exchange import NO_PRICE, NOT_LISTED, Capture, CapturedRow, PricesRead
from predictbench_assets.exchanges.json_text import DECODE_ERRORS
from predictbench_assets.exchanges.polymarket.client import CONDITIONS_PER_REQUEST, PolymarketClient, RawRow
from predictbench_assets.exchanges.polymarket.payloads import outcome_ids, parse_instant
from predictbench_assets.exchanges.polymarket.price_history import LOOK_BACK, PAST, past_price
from predictbench_assets.exchanges.stats import ApiStats
from predictbench_assets.failures import TransientError
from predictbench_assets.markets.quotes import PastPrice, Quote

MARKET_KEYS: Final = (
    *("id", "conditionId", "questionID", "version", "clobTokenIds", "positionIds", "outcomes"),
    *("createdAt", "startDate", "acceptingOrdersTimestamp", "endDate"),
    *("question", "description", "slug", "groupItemTitle"),
    *("negRisk", "negRiskMarketID", "gameId", "sportsMarketType", "line", "category"),
)
"""Keys of a market that are the same ever since it was made; texts and ends are as of the crawl."""

EVENT_KEYS: Final = (
    *("id", "slug", "title", "category", "negRisk", "negRiskMarketID", "parentEventId", "gameId", "seriesSlug"),
)
"""The same of an event inside of a row."""


class PricesMissing(TransientError):
    """The price history did not answer for all markets of the day, so that some might be left out by mistake."""


async def reconstruct(
    client: PolymarketClient, start: datetime, end: datetime, as_of: datetime, clock: Clock
) -> Capture:
    """The markets that were open at `as_of` and end in `[start, end)`, with their prices of that instant.

    Raises:
        WalkIncomplete, RequestRefused, UnexpectedAnswer, AnswerTooLarge: a listing could not be read to its end.
        PricesMissing: the price history did not answer about every market.
    """
    left_out: Counter[str] = Counter()
    stats = ApiStats()
    async with client:
        text_as_of = clock.now()
        walks = [
            await client.fetch_window(start, end, recheck=False, probe=not closed, closed=closed)
            for closed in (True, False)
        ]
        rows = {}
        for row in (row for walk in walks for row in walk.rows):
            found = _built(row, start, end, as_of)
            if isinstance(found, str):
                left_out[found] += 1
            else:
                token, built = found
                rows[token] = (row.market_id, built)
        read_of = await client.fetch_histories(list(rows), as_of - PAST - LOOK_BACK, as_of)
    for part in (*(walk.stats for walk in walks), read_of.stats):
        stats.add(part)
    if read_of.warning is not None:
        raise PricesMissing(f"{read_of.warning}: nothing was reconstructed, and the next try asks again")
    captured = []
    for token, (market_id, built) in rows.items():
        points = read_of.found.get(token, ())
        price = _price_at(points, as_of)
        if price is None:
            left_out[NO_PRICE] += 1
            continue
        quote = Quote(
            token_id=token,
            bid=None,
            ask=None,
            at=price.at,
            midpoint=price.price,
            day_ago=_price_at(points, as_of - PAST),
        )
        built["outcomePrices"] = msgspec.json.encode([f"{price.price:g}", f"{1 - price.price:g}"]).decode()
        captured.append(CapturedRow(market_id, msgspec.json.encode(built), quote))
    return Capture(
        rows=captured,
        captured_at=clock.now(),
        sha256=walks[0].sha256,
        received_bytes=sum(walk.stats.bytes for walk in walks),
        recheck=None,
        quotes=PricesRead(len(captured)),
        past_prices=PricesRead(sum(row.quote is not None and row.quote.day_ago is not None for row in captured)),
        warnings=(),
        stats=stats,
        as_of=as_of,
        text_as_of=text_as_of,
        left_out=left_out,
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
            for closed in (True, False)
        ]
    rows = {row.market_id: row for answer in answers for row in answer}
    why = {}
    for market_id in asked:
        found = _built(rows[market_id], start, end, as_of) if market_id in rows else NOT_LISTED
        why[market_id] = found if isinstance(found, str) else NO_PRICE
    return why


def _built(row: RawRow, start: datetime, end: datetime, as_of: datetime) -> tuple[str, dict[str, Any]] | str:
    """The token of a row's first outcome and the row without later knowledge; or why it is none of the day."""
    try:
        received = msgspec.json.decode(row.raw)
    except DECODE_ERRORS:
        return "unreadable"
    ends, created = parse_instant(received.get("endDate")), parse_instant(received.get("createdAt"))
    if ends is None or not start <= ends < end:
        return "ends elsewhere"
    if created is None or created > as_of:
        return "not listed yet"
    opened = parse_instant(received.get("startDate") or received.get("acceptingOrdersTimestamp"))
    if opened is None or opened > as_of:
        return "not open yet"
    if received.get("closed"):
        closed = parse_instant(received.get("closedTime"))
        if closed is None or closed <= as_of:
            return "closed before"
    ids = outcome_ids(received)
    if not ids or len(ids) != 2:
        return "not two outcomes"
    built = _only(received, MARKET_KEYS)
    built["events"] = [_event(event) for event in received.get("events") or ()][:1]
    built["tags"] = _tags(received)
    return ids[0], built


def _event(event: Mapping[str, Any]) -> dict[str, Any]:
    series = [{"slug": one.get("slug")} for one in event.get("series") or ()]
    return _only(event, EVENT_KEYS) | {"series": series, "tags": _tags(event)}


def _tags(of: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [_only(tag, ("id", "slug", "label")) for tag in of.get("tags") or ()]


def _only(of: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: of[key] for key in keys if of.get(key) is not None}


def _price_at(points: Sequence[tuple[float, float]], instant: datetime) -> PastPrice | None:
    """The last price in the hours up to an instant."""
    seconds = instant.timestamp()
    place = bisect_right(points, seconds, key=lambda point: point[0]) - 1
    if place < 0 or points[place][0] < seconds - LOOK_BACK.total_seconds():
        return None
    return past_price(points[place])
