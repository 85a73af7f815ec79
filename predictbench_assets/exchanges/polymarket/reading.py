"""Rows as they were received become markets: which are accepted, at what price, in which category and cluster."""

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Literal

from predictbench_assets.exchanges.polymarket.categories import categorize
from predictbench_assets.exchanges.polymarket.links import cluster_keys, game_id, neg_risk_group, series_slug
from predictbench_assets.exchanges.polymarket.payloads import (
    GammaEvent,
    GammaMarket,
    UnreadableField,
    ids_key,
    read_head,
    read_market,
)
from predictbench_assets.exchanges.polymarket.quotes import order_price
from predictbench_assets.markets.cohort import ExclusionReason, MarketRejected, ReadMarket
from predictbench_assets.markets.market import GOOD_SPREAD, Contract, Event, Market, MarketPrice
from predictbench_assets.markets.quotes import Quote
from predictbench_assets.printable import shortened

PRICE_SUM_TOLERANCE = 0.02
"""The most by which the outcomes' prices may miss a sum of 1. Every open market recorded sums to 1 exactly."""

_SPREAD_SLACK = 1e-9  # 0.55 - 0.45 is a little more than 0.10 in floating point
_LONGEST = {"id": 64, "question": 2_000, "slug": 500, "outcomes": 500, "conditionId": 255}
_LONGEST_OUTCOME_ID = 255
_LONGEST_LINK = 255
_LINK_KEYS = {"game": "gameId", "event": "events", "neg_risk": "negRiskMarketID", "series": "events"}
"""Key from which a link to other markets was read, by the link's kind."""


def read_row(raw: bytes, quote: Quote | None, captured_at: datetime) -> ReadMarket | ExclusionReason:
    """The market in a row of Gamma's listing, priced by the CLOB's quote of its first outcome or else by the row.

    Open markets were asked for, but a row that is not open is none of the day, whatever list it came in.

    Raises:
        MarketRejected: the row lacks something mandatory, or holds something that could not be stored.
    """
    row, unreadable = _parsed(raw)
    contradiction = _contradiction(row)
    if contradiction is not None:
        return contradiction
    market, links = _market(row, captured_at, quote)
    return ReadMarket(market, links, unreadable)


def normalize_market(raw: bytes | Mapping[str, Any], *, captured_at: datetime, quote: Quote | None) -> Market:
    """The market in a row that may be closed, or decoded already; the cluster is that of this row alone.

    Raises: as `read_row`.
    """
    row, _ = _parsed(_as_bytes(raw))
    return _market(row, captured_at, quote)[0]


def _as_bytes(raw: bytes | Mapping[str, Any]) -> bytes:
    return raw if isinstance(raw, bytes) else json.dumps(raw).encode()


def _parsed(raw: bytes) -> tuple[GammaMarket, tuple[str, ...]]:
    """The row, and the optional keys of it that were found unreadable."""
    try:
        return read_market(raw)
    except UnreadableField as error:
        raise MarketRejected(error.field, error.reason, _known_id(raw)) from error


def _contradiction(row: GammaMarket) -> ExclusionReason | None:
    """The state of a row that is no answer to a request for open markets.

    The listing has only rows that are active and not archived, whatever is asked for, so one that is not is a
    placeholder or a market that was withdrawn. Whether orders are accepted decides nothing: that flag stays true on
    settled markets and is no part of the question.
    """
    if row.closed:
        return "closed"
    if row.archived:
        return "archived"
    return "inactive" if row.active is False else None


def _market(row: GammaMarket, captured_at: datetime, quote: Quote | None) -> tuple[Market, list[str]]:
    """The market, and the keys that link it to others (its own cluster first)."""
    market_id = _identified(row)

    def reject(field: str, reason: str) -> MarketRejected:
        return MarketRejected(field, reason, market_id)

    contracts = _contracts(row, reject)
    if not row.question or not row.question.strip():
        raise reject("question", "is missing")
    if row.end_date is None:
        raise reject("endDate", "is missing")
    for name, text in (("question", row.question), ("slug", row.slug), ("conditionId", row.condition_id)):
        if text is not None and len(text) > _LONGEST[name]:
            raise reject(name, f"is {len(text)} characters long, more than {_LONGEST[name]}")

    event = row.events[0] if row.events else None
    links = cluster_keys(row, market_id, row.end_date)
    for link in links:
        # It may come to name the cluster of other markets, which could then not be stored either.
        if len(link) > _LONGEST_LINK:
            raise reject(_LINK_KEYS[link.partition(":")[0]], f"hold an id of more than {_LONGEST_LINK} characters")
    market = Market(
        market_id=market_id,
        condition_id=row.condition_id or None,
        slug=row.slug or market_id,
        question=row.question,
        description=row.description or "",
        contracts=contracts,
        event=_event(event),
        category=categorize(row),
        neg_risk=bool(row.neg_risk),
        neg_risk_market_id=neg_risk_group(row),
        game_id=game_id(row),
        series_slug=series_slug(event),
        group_item_title=row.group_item_title or None,
        group_item_threshold=row.group_item_threshold,
        cluster=links[0],
        created_at=row.created_at,
        opened_at=row.start_date,
        close_time=row.end_date,
        volume=row.volume,
        volume_24h=row.volume_24h,
        liquidity=row.liquidity,
        price=market_price(row, contracts[0].price, quote, captured_at),
        captured_at=captured_at,
        price_24h_ago=quote.day_ago.price if quote is not None and quote.day_ago is not None else None,
    )
    return market, links


def _known_id(raw: bytes) -> str | None:
    """The id of a row that could not be read as a whole, where it is fit to be shown."""
    found = read_head(raw).market_id
    return found if found and len(found) <= _LONGEST["id"] and found.isprintable() else None


def _identified(row: GammaMarket) -> str:
    if not row.id:
        raise MarketRejected("id", "is missing", None)
    if len(row.id) > _LONGEST["id"] or not row.id.isprintable() or " " in row.id:
        raise MarketRejected("id", f"is not an id: {shortened(row.id)}", None)
    return row.id


def _contracts(row: GammaMarket, reject: Callable[[str, str], MarketRejected]) -> tuple[Contract, ...]:
    outcomes, prices, tokens = row.outcomes, row.outcome_prices, row.outcome_ids
    ids = ids_key(row.version)
    if not outcomes:
        raise reject("outcomes", "are missing")
    if len(outcomes) < 2:
        raise reject("outcomes", "are fewer than two")
    if not all(_usable(name, _LONGEST["outcomes"]) for name in outcomes):
        raise reject("outcomes", "hold a name that is empty, too long, or has a NUL character")
    if not prices:
        raise reject("outcomePrices", "are missing")
    if len(prices) != len(outcomes):
        raise reject("outcomePrices", f"are {len(prices)} for {len(outcomes)} outcomes")
    if not all(0.0 <= price <= 1.0 for price in prices):
        raise reject("outcomePrices", "hold a price outside of 0 to 1")
    if abs(sum(prices) - 1.0) > PRICE_SUM_TOLERANCE:
        raise reject("outcomePrices", f"sum to {sum(prices):.4g}, not to 1")
    if ids is None:
        raise reject("version", f"is none whose outcome ids are known: {shortened(row.version)}")
    if not tokens:
        raise reject(ids, "are missing")
    if len(tokens) != len(outcomes):
        raise reject(ids, f"are {len(tokens)} for {len(outcomes)} outcomes")
    if not all(_usable(token, _LONGEST_OUTCOME_ID) for token in tokens):
        raise reject(ids, "hold an id that is empty, too long, or has a NUL character")
    if len(set(tokens)) != len(tokens):
        raise reject(ids, "name one token twice")
    named = zip(outcomes, prices, tokens, strict=True)
    return tuple(
        Contract(contract_id=token, index=index, name=name, price=price)
        for index, (name, price, token) in enumerate(named)
    )


def _usable(text: str, longest: int) -> bool:
    """True for a text that can be stored; no scan of the row sees the escapes of a list inside a string."""
    return bool(text.strip()) and len(text) <= longest and "\0" not in text


def _event(event: GammaEvent | None) -> Event | None:
    if event is None or not event.id:
        return None
    return Event(event_id=event.id, slug=event.slug, title=event.title, neg_risk=bool(event.neg_risk))


def market_price(row: GammaMarket, indicative: float | None, quote: Quote | None, captured_at: datetime) -> MarketPrice:
    """The price of the first outcome: midpoint of the CLOB's quote, else of Gamma's, else the indicative price.

    - `good`: both sides are there and at most 0.10 apart;
    - `thin`: both sides, further apart; or one side, and then the value is the indicative price;
    - `none`: no order on either side (Gamma shows no bid and an ask of 1), or sides that cross. The value is still the
      indicative price, so that such a market can be shown; it is no forecast by anybody.

    A midpoint whose sides are unknown, of a price history, is of the quality `history`: how wide the book was nobody
    can tell. A quote with any side decides alone: Gamma's row is up to five minutes older, and two books are never
    mixed.
    """
    if quote is not None and quote.midpoint is not None:
        return MarketPrice(value=quote.midpoint, source="history", quality="history", at=quote.at)
    if quote is not None and quote.priced:
        return _priced(quote.bid, quote.ask, indicative, "clob", quote.at)
    return _priced(order_price(row.best_bid), order_price(row.best_ask), indicative, "gamma", captured_at)


def _priced(
    bid: float | None, ask: float | None, indicative: float | None, source: Literal["clob", "gamma"], at: datetime
) -> MarketPrice:
    if bid is not None and ask is not None and bid <= ask:
        quality: Literal["good", "thin"] = "good" if ask - bid <= GOOD_SPREAD + _SPREAD_SLACK else "thin"
        return MarketPrice(value=(bid + ask) / 2, bid=bid, ask=ask, source=source, quality=quality, at=at)
    if (bid is None) != (ask is None):
        return MarketPrice(value=indicative, bid=bid, ask=ask, source=source, quality="thin", at=at)
    return MarketPrice(value=indicative, source=source, quality="none", at=at)
