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
from datetime import datetime
from typing import Any, Final

import msgspec

from predictbench_assets.clock import Clock
from predictbench_assets.exchanges.exchange import Capture, CapturedRow, PricesRead
from predictbench_assets.exchanges.json_text import DECODE_ERRORS, UnreadableJson, object_members
from predictbench_assets.exchanges.polymarket.client import PolymarketClient
from predictbench_assets.exchanges.polymarket.payloads import outcome_ids, parse_instant, read_closed, read_head
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

TAG_KEYS: Final = ("id", "slug", "label")
"""The same of a tag."""

FEW_UNANSWERED: Final = 5
FEW_UNANSWERED_SHARE: Final = 0.02
"""As many markets, or as large a share of them, may be left out since the price history has no answer about them."""

_LISTS = ("clobTokenIds", "positionIds", "outcomes")
_SEEN_KEYS = (*MARKET_KEYS, "closed", "closedTime", "active", "archived", "tags", "events")
_NOTHING = msgspec.Raw(b"null")
_Wire = msgspec.defstruct("_Wire", [(key, msgspec.Raw, _NOTHING) for key in _SEEN_KEYS])

Points = Sequence[tuple[float, float]]


class PricesMissing(TransientError):
    """The price history did not answer for all markets of the day, so that some might be left out by mistake."""


class SeenRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """All that is held of a listed row: what a reconstruction keeps, and what decides whether it is of the day."""

    market_id: str | None = None
    row: msgspec.Raw = _NOTHING
    """The row without later knowledge; null where it could not be read."""
    contract_ids: list[str] = []
    created: datetime | None = None
    opened: datetime | None = None
    ends: datetime | None = None
    closed: bool = False
    closed_at: datetime | None = None
    withdrawn: bool = False
    """True for an archived or inactive market, which no listing should have."""


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """Every market that ends in a window, open or closed, as listed at one moment."""

    rows: list[SeenRow]
    read_at: datetime
    """Instant before the first request."""
    sha256: str
    """Hash over those of both walks."""
    received_bytes: int


async def reconstruct(
    client: PolymarketClient, start: datetime, end: datetime, as_of: datetime, clock: Clock
) -> Capture:
    """The markets that were open at `as_of` and end in `[start, end)`, with their prices of that instant.

    Raises:
        WalkIncomplete, RequestRefused, UnexpectedAnswer, AnswerTooLarge: a listing could not be read to its end.
        PricesMissing: the price history did not answer about more than a few of the markets.
    """
    stats = ApiStats()
    left_out: Counter[str] = Counter()
    async with client:
        listing = await _listed(client, start, end, clock, stats)
        rows = []
        for row in listing.rows:
            if (reason := _outside(row, start, end, as_of)) is None:
                rows.append(row)
            else:
                left_out[reason] += 1
        histories = await _histories(client, [row.contract_ids[0] for row in rows], as_of, stats)
    captured = []
    for row in rows:
        points = histories.get(row.contract_ids[0])
        price = None if points is None else _price_at(points, as_of)
        if points is None or price is None:
            left_out["no price in the hours before" if price is None and points is not None else "price not told"] += 1
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


async def _listed(client: PolymarketClient, start: datetime, end: datetime, clock: Clock, stats: ApiStats) -> Listing:
    """Both walks. The open markets first: one that closes meanwhile is then in both, and its closed row counts."""
    read_at = clock.now()
    walks = [
        await client.fetch_window(start, end, recheck=False, probe=not closed, closed=closed, shape=_seen)
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
    """The points of each token that there was an answer about; those without one are asked for twice.

    Raises:
        PricesMissing: there was no answer about more than a few.
    """
    found: dict[str, Points] = {}
    unanswered = list(dict.fromkeys(tokens))
    most = max(FEW_UNANSWERED, FEW_UNANSWERED_SHARE * len(unanswered))
    asked, why = len(unanswered), "the answers do not speak of them"
    for _ in range(2):
        if unanswered:
            read_of = await client.fetch_histories(unanswered, as_of - PAST - LOOK_BACK, as_of)
            stats.add(read_of.stats)
            found |= read_of.found
            unanswered = [token for token in unanswered if token not in found]
            why = read_of.warning or why
    if len(unanswered) > most:
        raise PricesMissing(
            f"no price history of {len(unanswered):,} of {asked:,} markets ({why}): nothing was reconstructed, and the "
            "next try asks again"
        )
    return found


def _outside(row: SeenRow, start: datetime, end: datetime, as_of: datetime) -> str | None:
    """The reason for which a row is none of the day; None where it is one."""
    if bytes(row.row) == b"null":
        return "unreadable"
    if row.ends is None or not start <= row.ends < end:
        return "ends at another time"
    if row.created is None or row.created > as_of:
        return "listed later"
    if row.opened is None or row.opened > as_of:
        return "opened later"
    if row.closed_at is not None and row.closed_at <= as_of:
        return "closed before"
    if row.closed and row.closed_at is None:
        return "closed at an unknown time"
    if row.withdrawn:
        return "archived or inactive"
    return None if len(row.contract_ids) == 2 else "not two outcomes"


def _seen(raw: bytes) -> bytes:
    """What is held of a listed row, encoded: the keys that cannot know the future, and the instants of its life."""
    market_id = read_head(raw).market_id
    try:
        members = _members(raw)
        built = {key: value for key in MARKET_KEYS if (value := _kept(key, members[key])) is not None}
        events, tags = (
            [one for one in _decoded(members[key]) or () if isinstance(one, dict)] for key in ("events", "tags")
        )
        closed, active, archived, opened = map(
            _decoded, (members[key] for key in ("closed", "active", "archived", "startDate"))
        )
        seen = SeenRow(
            market_id=market_id,
            row=msgspec.Raw(
                msgspec.json.encode(built | {"events": [_event(event) for event in events], "tags": _tags(tags)})
            ),
            contract_ids=outcome_ids({key: _decoded(members[key]) for key in ("version", *_LISTS[:2])}) or [],
            created=parse_instant(_decoded(members["createdAt"])),
            opened=parse_instant(opened or _decoded(members["acceptingOrdersTimestamp"])),
            ends=parse_instant(_decoded(members["endDate"])),
            closed=read_closed(closed)[0],
            closed_at=parse_instant(_decoded(members["closedTime"])),
            withdrawn=active is False or archived is True,
        )
        encoded = msgspec.json.encode(seen)
        msgspec.json.decode(encoded, type=SeenRow)
    except (*DECODE_ERRORS, UnreadableJson):
        # Another text for each, so that no two pass for one.
        return msgspec.json.encode(SeenRow(market_id=market_id or f"unreadable {hashlib.sha256(raw).hexdigest()}"))
    return encoded


def _members(raw: bytes) -> Mapping[str, bytes | msgspec.Raw]:
    try:
        wire = msgspec.json.decode(raw, type=_Wire)
    except DECODE_ERRORS:
        return {**dict.fromkeys(_SEEN_KEYS, b"null"), **object_members(raw)}
    return {key: getattr(wire, key) for key in _SEEN_KEYS}


def _kept(key: str, value: bytes | msgspec.Raw) -> msgspec.Raw | None:
    """A value as it came, of the form that the key has: an object could hold anything, and so could a list."""
    text = bytes(value)
    if text == b"null" or text.startswith(b"{") or (text.startswith(b"[") and key not in _LISTS):
        return None
    return msgspec.Raw(text)


def _decoded(value: bytes | msgspec.Raw) -> Any:
    return msgspec.json.decode(value)


def _event(event: Mapping[str, Any]) -> dict[str, Any]:
    series = [_only(one, ("slug",)) for one in _objects(event.get("series"))]
    return _only(event, EVENT_KEYS) | {"series": series, "tags": _tags(_objects(event.get("tags")))}


def _tags(tags: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [_only(tag, TAG_KEYS) for tag in tags]


def _objects(value: object) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _only(of: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: of[key] for key in keys if isinstance(of.get(key), (str, int, float))}


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
