"""The world as JSON on the wire, with the real API's habits.

Absent values are missing keys, lists sit in strings, some numbers are strings, dates come in two formats, a market
under `/markets` carries its event and one inside an event does not. Prices are of the first outcome.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from predictbench_assets.sandbox.latent import mixed, uniform
from predictbench_assets.sandbox.poison import poisoned
from predictbench_assets.sandbox.world import DAY, Event, Market, Quote

Json = dict[str, Any]

_ADDRESS = "0x5a4db0c5a4db0c5a4db0c5a4db0c5a4db0c5a4db0"
_IMAGE = "https://sandbox.invalid/images/{}.png"
_RULES = (
    'This market will resolve to "{first}" if the statement in its title comes true by the end of {date}, as reported '
    'by the sandbox\'s own record of events. Otherwise, it will resolve to "{second}".\n\nAnnouncements, forecasts and '
    "leaks made before that moment do not count, and neither do later revisions of the record. If the event is called "
    "off, postponed beyond the date above, or cannot be established within fourteen days after it, the market may "
    "resolve to fifty-fifty.\n\nThe primary source is the record of the simulated exchange; a consensus of credible "
    "reporting inside the simulation may be used as well. Nothing in this text refers to any person, company or place "
    "that exists: names are made up, and the outcome is drawn from a seeded random process on which the quoted prices "
    "are based."
)
NEW_BOOK, QUIET, QUIET_SHARE = 7_200, 14_400, 0.15
"""Seconds before the first order, seconds of a quiet time, and the share of such times: in a rough history."""
_LADDER = 25
"""Levels on each side of a book, at most."""


def market_row(market: Market, at: int, *, include_tag: bool = False, event: bytes | None = None) -> bytes:
    """A market as Gamma sends it at that instant. `event` is its event's JSON, where it is to be embedded."""
    row = _market(market, at)
    if event is not None:
        row["events"] = [msgspec.Raw(event)]
    if include_tag:
        row["tags"] = tags(market.event)
    return msgspec.json.encode(poisoned(row, market.poison) if market.poison else row)


def _market(market: Market, at: int) -> Json:
    closed, quote = market.is_closed(at), market.shown_quote(at)
    volume, liquidity = _number(market.volume(at)), _number(market.liquidity(at))
    month, week, day = (_number(volume - market.volume(at - days * DAY)) for days in (30, 7, 1))
    first, second = market.outcomes
    event = market.event
    image = _IMAGE.format(event.number)
    condition = market.condition_id
    row: Json = {
        "id": market.market_id,
        "question": market.question,
        "conditionId": condition,
        "slug": market.slug,
        "resolutionSource": "",
        "endDate": instant(market.ends),
        "startDate": precise(market.created + 900, market.number),
        "image": image,
        "icon": image,
        "description": _RULES.format(first=first, second=second, date=f"{_moment(market.ends):%Y-%m-%d %H:%M} UTC"),
        "outcomes": listed(market.outcomes),
        "outcomePrices": listed(_prices(market, at, quote)),
        "volume": str(volume),
        "active": True,
        "closed": closed,
        "marketMakerAddress": "",
        "createdAt": precise(market.created, market.number),
        "updatedAt": precise(max(market.created, at - 60), market.number),
        "new": False,
        "featured": False,
        "submitted_by": _ADDRESS,
        "archived": False,
        "resolvedBy": _ADDRESS,
        "restricted": True,
        "groupItemThreshold": str(market.position),
        "questionID": f"0x{mixed(market.number, 1):016x}{condition[18:]}",
        "enableOrderBook": True,
        "orderPriceMinTickSize": market.tick,
        "orderMinSize": 5,
        "volumeNum": volume,
        "endDateIso": instant(market.ends)[:10],
        "startDateIso": instant(market.created + 900)[:10],
        "hasReviewedDates": True,
        "volume1wk": week,
        "volume1mo": month,
        "volume1yr": volume,
        **_outcome_ids(market),
        "comboStatus": "disabled",
        "umaBond": "500",
        "umaReward": "5",
        "volume1wkClob": week,
        "volume1moClob": month,
        "volume1yrClob": volume,
        "volumeClob": volume,
        "makerBaseFee": 1000,
        "takerBaseFee": 1000,
        "customLiveness": 0,
        "acceptingOrders": not closed,
        "negRisk": event.neg_risk,
        "ready": False,
        "funded": False,
        "acceptingOrdersTimestamp": instant(market.created + 840),
        "cyom": False,
        "pagerDutyNotificationEnabled": False,
        "approved": True,
        "rewardsMinSize": 50,
        "rewardsMaxSpread": 3.5,
        "automaticallyActive": True,
        "clearBookOnStart": True,
        "manualActivation": False,
        "negRiskOther": market.label == "Other",
        "umaResolutionStatuses": listed(market.oracle_statuses(at)),
        "pendingDeployment": False,
        "deploying": False,
        "deployingTimestamp": precise(market.created + 20, market.number),
        "rfqEnabled": False,
        "holdingRewardsEnabled": False,
        "feesEnabled": event.category.fee_type is not None,
        "requiresTranslation": False,
        "feeType": event.category.fee_type,
    }
    if event.category.fee_type is not None:
        row["feeSchedule"] = {"exponent": 1, "rate": 0.05, "takerOnly": True, "rebateRate": 0.25}
    if event.kind != "short":
        row["groupItemTitle"] = market.label
    if event.neg_risk:
        row["negRiskMarketID"] = neg_risk_id(event)
        row["negRiskRequestID"] = f"0x{mixed(market.number, 2):016x}{condition[18:]}"
    if event.kind == "game":
        row["gameStartTime"] = spaced(market.ends)
        row["sportsMarketType"] = market.sports_type
        row["secondsDelay"] = 3
        if market.line is not None:
            row["line"] = market.line
    if event.kind == "short" and event.starts is not None:
        row["eventStartTime"] = instant(event.starts)
        row["resolutionSource"] = "https://sandbox.invalid/streams"
        row["customLiveness"] = 0
    row |= _trading(market, at, quote)
    if closed:
        row |= _closing(market)
    else:
        row |= {"liquidity": str(liquidity), "liquidityNum": liquidity, "liquidityClob": liquidity}
        row |= {"competitive": round(1 - abs(0.5 - quote.shown), 6)}
        if day:
            row |= {"volume24hr": day, "volume24hrClob": day}
    status = market.oracle_status(at)
    if status:
        row["umaResolutionStatus"] = status
    return row


def _outcome_ids(market: Market) -> Json:
    """The version and the ids that count by it; half of the rows have ids of the other kind beside them."""
    other = market.number % 2 == 0
    if market.version == "v1":
        row: Json = {"version": "v1", "clobTokenIds": listed(market.token_ids)}
        return row | ({"positionIds": list(market.other_ids)} if other else {})
    row = {"version": "v2", "positionIds": list(market.token_ids)}
    return row | ({"clobTokenIds": listed(market.other_ids)} if other else {})


def _trading(market: Market, at: int, quote: Quote) -> Json:
    """Quotes of the first outcome. No bid is a missing key; no ask is an ask of 1; a change of nothing is missing."""
    ask = 1 if quote.ask is None else quote.ask
    row: Json = {"bestAsk": ask, "spread": round(ask - (quote.bid or 0), 4)}
    if quote.bid is not None:
        row["bestBid"] = quote.bid
    price = quote.shown
    row["lastTradePrice"] = _number(round(price, 3)) if market.size else 0
    for name, back in (("oneHour", 3600), ("oneDay", DAY), ("oneWeek", 7 * DAY), ("oneMonth", 30 * DAY)):
        if at - back > market.created:
            change = round(price - market.shown_quote(at - back).shown, 4)
            if change:
                row[f"{name}PriceChange"] = change
    return row


def _closing(market: Market) -> Json:
    closed = market.settlement.closed
    row: Json = {"closedTime": spaced(closed), "automaticallyResolved": True}
    if market.settlement.proposals and market.version == "v1":
        row["umaEndDate"] = instant(closed)
    return row


def _prices(market: Market, at: int, quote: Quote) -> Sequence[str]:
    """Indicative prices while open, payouts once closed."""
    if market.is_closed(at):
        return [str(_number(share)) for share in market.settlement.shown]
    price = quote.shown
    return [str(_number(price)), str(_number(round(1 - price, 5)))]


def event_row(event: Event, at: int, markets: Sequence[bytes] | None = None) -> bytes:
    """An event as Gamma sends it. `markets` are the rows of its markets, where they are to be nested."""
    closed = at >= event.closes
    volume = round(2000 * uniform(event.number, 31) * len(event.members), 6)
    image = _IMAGE.format(event.number)
    row: Json = {
        "id": event.event_id,
        "ticker": event.slug,
        "slug": event.slug,
        "title": event.title,
        "description": f"{event.title} The rules of each market apply.",
        "resolutionSource": "",
        "startDate": precise(event.begins + 900, event.number),
        "creationDate": precise(event.begins + 960, event.number),
        "endDate": instant(event.ends),
        "image": image,
        "icon": image,
        "active": True,
        "closed": closed,
        "archived": False,
        "new": False,
        "featured": False,
        "restricted": True,
        "liquidity": round(volume / 3, 4),
        "volume": volume,
        "openInterest": round(volume / 5, 4),
        "createdAt": precise(event.begins, event.number),
        "updatedAt": precise(max(event.begins, at - 60), event.number),
        "competitive": 0.9,
        "volume24hr": round(volume / 30, 6),
        "volume1wk": round(volume / 5, 6),
        "volume1mo": round(volume / 2, 6),
        "volume1yr": volume,
        "enableOrderBook": True,
        "liquidityClob": round(volume / 3, 4),
        "negRisk": event.neg_risk,
        "commentCount": event.number % 50,
        "cyom": False,
        "showAllOutcomes": True,
        "showMarketImages": True,
        "enableNegRisk": event.neg_risk,
        "automaticallyActive": True,
        "negRiskAugmented": event.augmented,
        "cumulativeMarkets": False,
        "pendingDeployment": False,
        "deploying": False,
        "requiresTranslation": False,
        "version": "v1",
    }
    if event.neg_risk:
        row["negRiskMarketID"] = neg_risk_id(event)
    if event.series:
        row["seriesSlug"] = event.series.slug
        row["series"] = [_series(event)]
    if event.kind == "game":
        row["gameId"] = game_id(event)
        row["eventDate"] = instant(event.ends)[:10]
        row["startTime"] = instant(event.ends)
        row |= {"live": event.ends <= at < event.ends + 7200, "ended": at >= event.ends + 7200}
    elif event.starts is not None:
        row["startTime"] = instant(event.starts)
    if closed:
        row["closedTime"] = instant(event.closes)
    if markets is not None:
        row["tags"] = tags(event)
        row["markets"] = [msgspec.Raw(market) for market in (*markets, *_unlisted(event, at))]
    return msgspec.json.encode(row)


def _series(event: Event) -> Json:
    series = event.series
    assert series is not None
    return {
        "id": str(series.number),
        "ticker": series.slug,
        "slug": series.slug,
        "title": series.title,
        "seriesType": "single",
        "recurrence": series.recurrence,
        "image": "",
        "icon": "",
        "active": True,
        "closed": False,
        "archived": False,
        "featured": False,
        "restricted": True,
        "createdAt": "2025-03-01T09:00:00.5Z",
        "updatedAt": "2025-03-02T09:00:00.25Z",
        "volume": 120000.5,
        "liquidity": 34000.25,
        "commentCount": 0,
        "requiresTranslation": False,
    }


def _unlisted(event: Event, at: int) -> list[bytes]:
    """Markets that an event shows and no listing does: placeholders of an open-ended group, and a draft of a ladder."""
    rows: list[Json] = []
    if event.augmented:
        rows = [_placeholder(event, at, f"Person {letter}", place) for place, letter in enumerate("ABC")]
    elif event.kind == "deadlines":
        draft = _placeholder(event, at, "a later date", 0)
        rows = [{key: value for key, value in draft.items() if key not in {"clobTokenIds", "questionID"}}]
        rows[0] |= {"conditionId": "", "acceptingOrders": False}
    return [msgspec.json.encode(row) for row in rows]


def _placeholder(event: Event, at: int, label: str, place: int) -> Json:
    number = 10 * event.number + place  # a digit longer than the ids of markets
    key = f"{mixed(number, 1):016x}{mixed(number, 2):016x}{mixed(number, 3):016x}{mixed(number, 4):016x}"
    return {
        "id": str(number),
        "question": f"{event.title} ({label})",
        "conditionId": f"0x{key}",
        "slug": f"{event.slug}-{place}",
        "endDate": instant(event.ends),
        "startDate": precise(event.begins, number),
        "description": "Reserved for an alternative that is not known yet.",
        "outcomes": listed(("Yes", "No")),
        "active": False,
        "closed": False,
        "archived": False,
        "createdAt": precise(event.begins, number),
        "updatedAt": precise(max(event.begins, at - 60), number),
        "groupItemTitle": label,
        "groupItemThreshold": str(len(event.members) + place),
        "questionID": f"0x{key[::-1]}",
        "clobTokenIds": listed([str(int(key, 16)), str(int(key[::-1], 16))]),
        "acceptingOrders": True,
        "negRisk": event.neg_risk,
        "negRiskOther": False,
        "umaResolutionStatuses": "[]",
    }


def tags(event: Event) -> list[Json]:
    """The event's topics."""
    return [{"id": str(tag.number), "label": tag.label, "slug": tag.slug} for tag in event.category.tags]


def neg_risk_id(event: Event) -> str:
    """Id shared by the markets of a group with one winner: 0x and 64 digits."""
    stem = f"{mixed(event.number, 41):016x}{mixed(event.number, 42):016x}{mixed(event.number, 43):016x}"
    return f"0x{stem}{mixed(event.number, 44):016x}"[:-2] + "00"


def game_id(event: Event) -> int:
    """The number of a match."""
    return 90_000_000 + event.number % 10_000_000


# Order books


def book(market: Market, index: int, at: int) -> Json:
    """The order book of one outcome: the best level is the last of each side."""
    quote = market.quote(at) if index == 0 else market.quote(at).mirrored
    digits = 3 if market.tick < 0.01 else 2
    bids, asks = _side(market, quote.bid, -1, digits), _side(market, quote.ask, +1, digits)
    return {
        "market": market.condition_id,
        "asset_id": market.token_ids[index],
        "timestamp": str(at * 1000),
        "hash": f"{mixed(market.number, index, at):016x}{mixed(market.number, at):016x}{mixed(at):016x}"[:40],
        "bids": bids,
        "asks": asks,
        "min_order_size": "5",
        "tick_size": str(market.tick),
        "neg_risk": market.event.neg_risk,
        "last_trade_price": f"{quote.shown:.{digits}f}",
    }


def _side(market: Market, best: float | None, direction: int, digits: int) -> list[Json]:
    if best is None:
        return []
    ticks = round(best / market.tick)
    room = ticks if direction < 0 else round(1 / market.tick) - ticks
    levels = [
        {
            "price": str(round((ticks + direction * place) * market.tick, digits)),
            "size": str(round(5 + 5000 * uniform(market.number, ticks + direction * place), 2)),
        }
        for place in range(min(_LADDER, room))
    ]
    return levels[::-1]


def best(quote: Quote) -> dict[str, str]:
    """The best price of each side that has orders; the side names the resting orders."""
    sides = {"BUY": quote.bid, "SELL": quote.ask}
    return {side: str(price) for side, price in sides.items() if price is not None}


def midpoint(quote: Quote) -> str | None:
    """The middle of both sides; None unless both have orders."""
    if quote.bid is None or quote.ask is None:
        return None
    return str(round((quote.bid + quote.ask) / 2, 5))


def clob_market(market: Market, at: int) -> Json:
    """A market as the order book's host describes it, with the winner once settled."""
    closed = market.is_closed(at)
    shown = market.quote(at).shown
    shares = market.settlement.payout if closed else (shown, round(1 - shown, 5))
    row: Json = {
        "enable_order_book": not closed,
        "active": True,
        "closed": closed,
        "archived": False,
        "accepting_orders": not closed,
        "accepting_order_timestamp": instant(market.created + 840),
        "minimum_order_size": 5,
        "minimum_tick_size": market.tick,
        "condition_id": market.condition_id,
        "question_id": f"0x{mixed(market.number, 1):016x}{market.condition_id[18:]}",
        "question": market.question,
        "description": "",
        "market_slug": market.slug,
        "end_date_iso": f"{instant(market.ends)[:10]}T00:00:00Z",
        "game_start_time": instant(market.ends) if market.event.kind == "game" else None,
        "seconds_delay": 0,
        "fpmm": "",
        "maker_base_fee": 0,
        "taker_base_fee": 0,
        "notifications_enabled": True,
        "neg_risk": market.event.neg_risk,
        "neg_risk_market_id": neg_risk_id(market.event) if market.event.neg_risk else "",
        "neg_risk_request_id": "",
        "icon": "",
        "image": "",
        "rewards": {"rates": None, "min_size": 50, "max_spread": 3.5},
        "is_50_50_outcome": closed and market.settlement.payout[0] == 0.5,
        "tokens": [
            {
                "token_id": token,
                "outcome": outcome,
                "price": _number(share),
                "winner": closed and share == 1,
            }
            for token, outcome, share in zip(market.token_ids, market.outcomes, shares, strict=True)
        ],
        "tags": [tag.label for tag in market.event.category.tags],
    }
    return row


def history(market: Market, index: int, starts: int, ends: int, step: int) -> list[Json]:
    """Prices at regular instants, second by unix second; of the outcome asked for."""
    first = -(-max(starts, market.created) // step) * step
    last = min(ends, market.settlement.closed)
    points = []
    for at in range(first, last + 1, step):
        quote = market.quote(at)
        shown = quote.shown
        points.append({"t": at, "p": _number(shown if index == 0 else round(1 - shown, 5))})
    return points


def rough_history(market: Market, index: int, points: Sequence[Json], ends: int, now: int) -> list[Json]:
    """The points as a busy exchange has them: none in quiet hours, 0.5 while a new book has no order, and the payout.

    Once a market is settled its payout comes last, and bears the end of the time asked for, even if that is earlier.
    """
    kept = [
        point | ({"p": 0.5} if point["t"] < market.created + NEW_BOOK else {})
        for point in points
        if uniform(market.number, 73, point["t"] // QUIET) >= QUIET_SHARE
    ]
    if market.is_closed(now):
        payout = market.settlement.payout[index]
        kept.append({"t": min(ends, market.settlement.closed), "p": _number(payout), "resolution_seconds": 0})
    return kept


def resolution(market: Market, at: int) -> Json:
    """State of the oracle's work on a market, as in the data API."""
    closed = market.is_closed(at)
    statuses = market.oracle_statuses(at)
    row: Json = {
        "condition_id": market.condition_id,
        "status": "resolved" if closed else statuses[-1] if statuses else "active",
        "extended_review": False,
        "was_disputed": "disputed" in statuses,
        "new_version_q": False,
        "transaction_hash": "",
        "log_index": "",
        "last_update_timestamp": instant(market.settlement.closed if closed else at),
    }
    if closed:
        row["payouts"] = [int(share * 1_000_000) for share in market.settlement.payout]
        row["resolution_source"] = "reported" if market.settlement.proposals else "derived"
        row["was_arbitrated"] = False
        row["resolved_block"] = market.settlement.closed // 2
        row["resolved_at"] = instant(market.settlement.closed)
    return row


# Formats


def instant(at: int) -> str:
    """`2026-11-30T12:00:00Z`."""
    return f"{_moment(at):%Y-%m-%dT%H:%M:%S}Z"


def precise(at: int, key: int) -> str:
    """The same with a fraction of zero to six digits, as servers write what they have measured."""
    fraction = f"{mixed(key, 51) % 1_000_000:06d}".rstrip("0")
    return f"{_moment(at):%Y-%m-%dT%H:%M:%S}" + (f".{fraction}Z" if fraction else "Z")


def spaced(at: int) -> str:
    """`2026-11-30 12:00:00+00`: what `closedTime` and `gameStartTime` look like."""
    return f"{_moment(at):%Y-%m-%d %H:%M:%S}+00"


def listed(values: Sequence[str]) -> str:
    """A list inside a string."""
    return msgspec.json.encode(list(values)).decode()


def _moment(at: int) -> datetime:
    return datetime.fromtimestamp(at, UTC)


def _number(value: float) -> float | int:
    """Whole numbers arrive without a fraction."""
    return int(value) if value == int(value) else round(value, 6)
