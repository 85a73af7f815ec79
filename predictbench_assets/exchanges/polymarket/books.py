"""Order books of tokens, as the CLOB's `POST /books` reports them: `[{"asset_id", "bids": [{"price", "size"}], ...}]`.

Prices and sizes come as texts, each side's best level last; nothing here relies on the order.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import msgspec

from predictbench_assets.exchanges.json_text import (
    DECODE_ERRORS,
    UnreadableJson,
    json_members,
    object_members,
    scalar_text,
)
from predictbench_assets.exchanges.polymarket.quotes import order_price
from predictbench_assets.markets.market_data import Level, OrderBook

LEVELS: Final = 10
"""Levels of each side that are kept, the best ones."""


class UnreadableBooks(ValueError):
    """An answer of the CLOB that is no list of books."""


class UnreadableBook(ValueError):
    """One book that cannot be right."""


@dataclass
class ReadBooks:
    """The content of an answer of `POST /books`, by token."""

    books: dict[str, OrderBook] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    """Reasons for the books of which nothing is kept."""


def books_request(token_ids: Sequence[str]) -> list[dict[str, str]]:
    """The body that asks for the book of each token."""
    return [{"token_id": token} for token in token_ids]


def read_books(body: bytes, *, at: datetime) -> ReadBooks:
    """The books of an answer; one that cannot be right costs that one alone.

    Raises:
        UnreadableBooks: the answer is no list.
    """
    read = ReadBooks()
    for text in _elements(body):
        token = None
        try:
            members = object_members(text)
            token = scalar_text(members.get("asset_id"))
            if token is not None:
                read.books[token] = _book(_levels(members.get("bids")), _levels(members.get("asks")), at)
        except (UnreadableJson, UnreadableBook) as error:
            if token is not None:
                read.unreadable[token] = str(error)
    return read


def _elements(body: bytes) -> list[bytes]:
    """The members of a list, undecoded, also where the strict parser takes offence at one of them."""
    if not body.lstrip().startswith(b"["):
        raise UnreadableBooks("no list of books")
    try:
        return [bytes(each) for each in msgspec.json.decode(body, type=list[msgspec.Raw])]
    except DECODE_ERRORS:
        pass
    try:
        return [text for _, text in json_members(body)]
    except UnreadableJson as error:
        raise UnreadableBooks(str(error)) from error


def _book(bids: Iterable[Level], asks: Iterable[Level], at: datetime) -> OrderBook:
    buying, selling = sorted(bids, reverse=True), sorted(asks)
    if buying and selling and buying[0][0] >= selling[0][0]:
        raise UnreadableBook("the bids are not below the asks")
    return OrderBook(at, tuple(buying[:LEVELS]), tuple(selling[:LEVELS]))


def _levels(value: bytes | None) -> list[Level]:
    """The levels of one side; those that nothing stands at any more are left out.

    Raises:
        UnreadableBook: a side that is no list, or something in it that is no price with a size.
    """
    if value is None or value == b"null":
        return []
    try:
        levels = msgspec.json.decode(value)
    except DECODE_ERRORS as error:
        raise UnreadableBook("a side that cannot be read") from error
    if not isinstance(levels, list):
        raise UnreadableBook("a side that is no list")
    found = []
    for level in levels:
        price = order_price(level.get("price")) if isinstance(level, dict) else None
        size = _size(level.get("size")) if isinstance(level, dict) else None
        if price is None or size is None:
            raise UnreadableBook("a level without a price between 0 and 1, or without a size")
        if size > 0:
            found.append((price, size))
    return found


def _size(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        size = float(value)
    except (ValueError, OverflowError):
        return None
    return size if math.isfinite(size) and size >= 0 else None
