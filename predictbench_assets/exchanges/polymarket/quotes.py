"""Best bid and ask of a token, as the CLOB's `POST /prices` reports them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import msgspec

from predictbench_assets.exchanges.json_text import DECODE_ERRORS, UnreadableJson, object_members
from predictbench_assets.exchanges.stats import ApiStats
from predictbench_assets.markets.quotes import Quote


@dataclass(frozen=True)
class Quotes:
    """Quotes of a list of tokens; a token that the CLOB does not know is absent."""

    available: bool
    """False where the CLOB did not answer at all, and the caller goes on without quotes."""
    reason: str | None = None
    """The reason for quotes that are missing; with `available` still True, some tokens' came and some did not."""
    by_token: Mapping[str, Quote] = field(default_factory=dict)
    stats: ApiStats = field(default_factory=ApiStats)

    def get(self, token_id: str | None) -> Quote | None:
        """The quote of a token, if there is one."""
        return None if token_id is None else self.by_token.get(token_id)


class UnreadablePrices(ValueError):
    """An answer of the CLOB that is not a map from tokens to sides."""


@dataclass(frozen=True)
class ReadPrices:
    """The content of an answer of `POST /prices`."""

    quotes: list[Quote]
    unreadable: int
    """Tokens of which something was answered that is no price."""


def prices_request(token_ids: Sequence[str]) -> list[dict[str, str]]:
    """The body that asks for both sides of each token."""
    return [{"token_id": token, "side": side} for token in token_ids for side in ("BUY", "SELL")]


def read_prices(body: bytes, *, at: datetime) -> ReadPrices:
    """The quotes in an answer of `POST /prices`: `{token: {"BUY": "0.45", "SELL": "0.46"}}`.

    Prices come as strings or numbers. With both sides there, the lower one is the bid, whichever name it bears, since
    sources differ on whose side is meant; alone, BUY is the best bid. A token without any order is left out, and so is
    one that is null; one that holds something else is counted.

    Raises:
        UnreadablePrices: the answer is not such a map.
    """
    try:
        answer = object_members(body)
    except UnreadableJson as error:
        raise UnreadablePrices(str(error)) from error
    if "error" in answer:
        raise UnreadablePrices("an error object")
    quotes, unreadable = [], 0
    for token, value in answer.items():
        try:
            sides = msgspec.json.decode(value)
        except DECODE_ERRORS:
            sides = ...
        if not isinstance(sides, dict):
            unreadable += sides is not None
            continue
        buy, sell = order_price(sides.get("BUY")), order_price(sides.get("SELL"))
        if buy is not None and sell is not None:
            buy, sell = min(buy, sell), max(buy, sell)
        if buy is not None or sell is not None:
            quotes.append(Quote(token_id=token, bid=buy, ask=sell, at=at))
    return ReadPrices(quotes, unreadable)


def order_price(value: object) -> float | None:
    """A price at which an order can stand, strictly between 0 and 1; None otherwise.

    Gamma writes an ask of 1 for an empty side, and 0 is how some clients read a missing bid: neither is an order.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        price = float(value)
    except (ValueError, OverflowError):
        return None
    return price if 0.0 < price < 1.0 else None
