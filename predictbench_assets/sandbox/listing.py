"""Gamma's listing routes: parameters, filters, order and pages, quirk by quirk.

What is refused is refused with 422, what is not known is ignored without a word: a misspelt filter or cursor name gives
the unfiltered first page again and again, as the real server does.
"""

import base64
import binascii
import bisect
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import msgspec
from starlette.datastructures import QueryParams

MAX_PAGE = 100
DEFAULT_PAGE = 20
MAX_OFFSET = 2000
"""The deepest offset that the legacy route serves."""


class Invalid(Exception):
    """A request that the real server answers with 422; the text is the `error` of the reply."""


class Listed(Protocol):
    """Facts that filters and orders use: of a market of a world or of a recorded one. Instants are seconds, UTC.

    An end may have fractions of a second, since some real ones have.
    """

    @property
    def market_id(self) -> str: ...
    @property
    def number(self) -> int: ...
    @property
    def condition_id(self) -> str: ...
    @property
    def slug(self) -> str: ...
    @property
    def token_ids(self) -> tuple[str, ...]: ...
    @property
    def tag_ids(self) -> frozenset[int]: ...
    @property
    def created(self) -> int: ...
    @property
    def ends(self) -> float | None: ...
    def is_closed(self, at: int) -> bool: ...
    def volume(self, at: int) -> float: ...
    def volume_24h(self, at: int) -> float: ...
    def liquidity(self, at: int) -> float: ...
    def oracle_status(self, at: int) -> str | None: ...


_Key = tuple[float, int]
_ORDERS: Final[dict[str, Callable[[Listed, int], float]]] = {
    "id": lambda market, _: market.number,
    "createdAt": lambda market, _: market.created,
    "startDate": lambda market, _: market.created,
    "endDate": lambda market, _: -1 if market.ends is None else market.ends,
    "volumeNum": lambda market, at: market.volume(at),
    "volume24hr": lambda market, at: market.volume_24h(at),
    "liquidityNum": lambda market, at: market.liquidity(at),
}


@dataclass(frozen=True, slots=True)
class Query:
    """The filters of one listing; hashable, so that what it selects can be kept between pages."""

    ends_from: int | None
    ends_to: int | None
    closed: bool
    ids: frozenset[str]
    slugs: frozenset[str]
    condition_ids: frozenset[str]
    token_ids: frozenset[str]
    tag_ids: frozenset[int]
    volume_from: float | None
    volume_to: float | None
    liquidity_from: float | None
    liquidity_to: float | None
    oracle_status: str | None
    order: str
    ascending: bool

    @property
    def fingerprint(self) -> str:
        """Text that a cursor is bound to."""
        parts = [sorted(value) if isinstance(value, frozenset) else value for value in self._values()]
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:16]

    def _values(self) -> list[Any]:
        return [getattr(self, name) for name in self.__slots__]

    def admits(self, market: Listed, at: int) -> bool:
        """True where a market passes the filters."""
        ends = market.ends
        return (
            market.is_closed(at) == self.closed
            and (self.ends_from is None or (ends is not None and ends >= self.ends_from))
            and (self.ends_to is None or (ends is not None and ends <= self.ends_to))
            and (not self.ids or market.market_id in self.ids)
            and (not self.slugs or market.slug in self.slugs)
            and (not self.condition_ids or market.condition_id in self.condition_ids)
            and (not self.token_ids or not self.token_ids.isdisjoint(market.token_ids))
            and (not self.tag_ids or not self.tag_ids.isdisjoint(market.tag_ids))
            and (self.volume_from is None or market.volume(at) >= self.volume_from)
            and (self.volume_to is None or market.volume(at) <= self.volume_to)
            and (self.liquidity_from is None or market.liquidity(at) >= self.liquidity_from)
            and (self.liquidity_to is None or market.liquidity(at) <= self.liquidity_to)
            and (self.oracle_status is None or market.oracle_status(at) == self.oracle_status)
        )

    def key(self, market: Listed, at: int) -> _Key:
        """Place of a market in the order; ids break ties."""
        sign = 1 if self.ascending else -1
        return sign * _ORDERS[self.order](market, at), sign * market.number


def parsed(params: QueryParams) -> Query:
    """Read the filters of a request.

    Raises:
        Invalid: a value of a known parameter that cannot be read.
    """
    order = params.get("order") or "id"
    if order not in _ORDERS:
        raise Invalid("order fields are not valid")
    return Query(
        ends_from=_instant(params, "end_date_min", math.ceil),
        ends_to=_instant(params, "end_date_max", math.floor),
        closed=_flag(params, "closed", default=False),
        ids=frozenset(params.getlist("id")),
        slugs=frozenset(params.getlist("slug")),
        condition_ids=frozenset(params.getlist("condition_ids")),
        token_ids=frozenset((*params.getlist("clob_token_ids"), *params.getlist("position_ids"))),
        tag_ids=frozenset(_whole("tag_id", value) for value in params.getlist("tag_id")),
        volume_from=_number(params, "volume_num_min"),
        volume_to=_number(params, "volume_num_max"),
        liquidity_from=_number(params, "liquidity_num_min"),
        liquidity_to=_number(params, "liquidity_num_max"),
        oracle_status=params.get("uma_resolution_status"),
        order=order,
        # Only together with an order, which is ascending by default.
        ascending=_flag(params, "ascending", default=True) if "order" in params else True,
    )


def page_size(params: QueryParams) -> int:
    """The number of rows of a page: more than a hundred is silently a hundred."""
    size = _whole("limit", params.get("limit") or str(DEFAULT_PAGE))
    if size < 0:
        raise Invalid("limit must not be negative")
    return min(size, MAX_PAGE) or DEFAULT_PAGE


def offset(params: QueryParams) -> int:
    """The offset of the legacy route."""
    value = _whole("offset", params.get("offset") or "0")
    if value > MAX_OFFSET:
        raise Invalid("offset too large, use /markets/keyset for deeper pagination")
    return max(0, value)


def after(cursor: str, fingerprint: str) -> _Key:
    """The position that a cursor stands for.

    Raises:
        Invalid: no cursor of ours, or one of another query.
    """
    try:
        bound, value, number = msgspec.json.decode(base64.urlsafe_b64decode(cursor), type=tuple[str, float, int])
    except (binascii.Error, ValueError, msgspec.DecodeError) as error:
        raise Invalid("invalid cursor") from error
    if bound != fingerprint:
        raise Invalid("cursor does not match the query")
    return value, number


def cursor_at(key: _Key, fingerprint: str) -> str:
    """The cursor of the page after that position."""
    return base64.urlsafe_b64encode(msgspec.json.encode((fingerprint, *key))).decode()


def start_of_page(keys: Sequence[_Key], position: _Key | None) -> int:
    """Index of the first row after a position, in keys that rise."""
    return 0 if position is None else bisect.bisect_right(keys, position)


def instant(value: str) -> datetime:
    """An RFC 3339 instant, or a bare date (its midnight UTC).

    Raises:
        Invalid: neither.
    """
    try:
        moment = datetime.fromisoformat(value.replace(" ", "+") if "T" in value else value)
    except ValueError as error:
        raise Invalid(f"invalid date: {value[:40]}") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def seconds(value: str, rounded: Callable[[float], int] = math.floor) -> int:
    """The same as whole seconds since the epoch.

    Raises:
        Invalid: no instant.
    """
    return rounded(instant(value).timestamp())


def _instant(params: QueryParams, name: str, rounded: Callable[[float], int]) -> int | None:
    value = params.get(name)
    return seconds(value, rounded) if value else None


def _number(params: QueryParams, name: str) -> float | None:
    value = params.get(name)
    if not value:
        return None
    try:
        return float(value)
    except ValueError as error:
        raise Invalid(f"invalid number in {name}") from error


def _whole(name: str, value: str) -> int:
    try:
        return int(value)
    except ValueError as error:
        raise Invalid(f"invalid integer in {name}") from error


def _flag(params: QueryParams, name: str, *, default: bool) -> bool:
    value = params.get(name)
    if not value:
        return default
    if value.lower() not in {"true", "false", "1", "0"}:
        raise Invalid(f"invalid boolean in {name}")
    return value.lower() in {"true", "1"}
