"""Earlier prices of tokens, as the CLOB's `POST /batch-prices-history` has them: a day before, or of the whole week."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import dropwhile
from typing import Any, Final

import msgspec

from predictbench_assets.exchanges.json_text import DECODE_ERRORS, UnreadableJson, object_members
from predictbench_assets.exchanges.stats import ApiStats
from predictbench_assets.markets.quotes import PastPrice

PAST: Final = timedelta(hours=24)
"""Age of the price that is looked for, at the capture."""

LOOK_BACK: Final = timedelta(hours=6)
"""A price may be this much older: histories have gaps of an hour and more."""

FIDELITY_MINUTES: Final = 60
"""Between the points that are asked for. A market's price of 24 to 25 hours ago will do."""

WEEK: Final = timedelta(days=7)
"""Length of a history; it begins `LOOK_BACK` earlier, so that there is a price of its beginning."""

_EMPTY_BOOK: Final = 0.5


@dataclass(frozen=True)
class PastPrices:
    """Older prices of a list of tokens; one without a price in the time looked at is absent."""

    requested: bool = True
    """False where the CLOB was not asked at all."""
    reason: str | None = None
    """The reason for prices that are missing; None where there simply were none."""
    by_token: Mapping[str, PastPrice] = field(default_factory=dict)
    stats: ApiStats = field(default_factory=ApiStats)

    def get(self, token_id: str | None) -> PastPrice | None:
        """The price of a token, if there is one."""
        return None if token_id is None else self.by_token.get(token_id)


class UnreadableHistory(ValueError):
    """An answer of the CLOB that is not a map from tokens to histories."""


def history_request(token_ids: Sequence[str], begins: datetime, ends: datetime) -> dict[str, Any]:
    """The body that asks for the prices from one instant to another, hour by hour."""
    return {
        "markets": list(token_ids),
        "start_ts": math.floor(begins.timestamp()),
        "end_ts": math.floor(ends.timestamp()),
        "fidelity": FIDELITY_MINUTES,
    }


def one_history_params(token_id: str, begins: datetime, ends: datetime) -> dict[str, str]:
    """The parameters that ask for one token's prices, as `history_request` asks for those of several."""
    return {
        "market": token_id,
        "startTs": str(math.floor(begins.timestamp())),
        "endTs": str(math.floor(ends.timestamp())),
        "fidelity": str(FIDELITY_MINUTES),
    }


def read_history(body: bytes, begins: datetime, ends: datetime) -> tuple[tuple[float, float], ...]:
    """The points of the one token that was asked about, as `read_histories` has them.

    Raises:
        UnreadableHistory: the answer has no list of points.
    """
    try:
        points = _points(object_members(body)["history"], begins.timestamp(), ends.timestamp())
    except (UnreadableJson, KeyError) as error:
        raise UnreadableHistory(f"no list named history: {error}") from error
    if points is None:
        raise UnreadableHistory("its history is no list")
    return points


def read_histories(body: bytes, begins: datetime, ends: datetime) -> dict[str, tuple[tuple[float, float], ...]]:
    """The points of each token from one instant to another, seconds and price, oldest first.

    A token whose list has none has none; one whose history cannot be read is left out, as if it were not there.

    What is no point (no time, no price between 0 and 1) is passed over; points outside of the time asked for are too,
    so that nothing later than it can slip in. Points of exactly 0 or 1, or that stand for no seconds
    (`resolution_seconds`), are the payout of a settled market, which may bear the end of the time that was asked for.
    Points of exactly 0.5 before any other are no prices: so begins a new book without an order.

    Raises:
        UnreadableHistory: the answer is not a map from tokens to histories.
    """
    first, last = begins.timestamp(), ends.timestamp()
    try:
        usual = _decode_usual(body).history
    except DECODE_ERRORS:
        found = ((token, _points(value, first, last)) for token, value in _by_token(body).items())
        return {token: points for token, points in found if points is not None}
    return {token: _usable(map(_of_struct, points or ()), first, last) for token, points in (usual or {}).items()}


def past_span(captured_at: datetime) -> tuple[datetime, datetime]:
    """The hours up to a day before a capture."""
    return captured_at - PAST - LOOK_BACK, captured_at - PAST


def read_past_prices(body: bytes, captured_at: datetime) -> dict[str, PastPrice]:
    """The newest price of each token that is at least `PAST` old, and at most `LOOK_BACK` older than that.

    Raises: as `read_histories`.
    """
    histories = read_histories(body, *past_span(captured_at))
    return {token: past_price(points[-1]) for token, points in histories.items() if points}


def past_price(point: tuple[float, float]) -> PastPrice:
    """A point of a history as a price."""
    at, price = point
    return PastPrice(at=datetime.fromtimestamp(at, UTC), price=price)


def _by_token(body: bytes) -> dict[str, bytes]:
    """The histories of an answer, `{"history": {token: [{"t": seconds, "p": price}, ...]}}`, undecoded."""
    try:
        answer = object_members(body)
        return {} if answer.get("history") == b"null" else object_members(answer["history"])
    except (UnreadableJson, KeyError) as error:
        raise UnreadableHistory(f"no object named history: {error}") from error


def _points(value: bytes, first: float, last: float) -> tuple[tuple[float, float], ...] | None:
    """The points of a history within the given seconds; None where it is no list; null is one without points."""
    try:
        points = msgspec.json.decode(value, type=list[Any] | None) or ()
    except DECODE_ERRORS:
        return None
    return _usable(map(_of_value, points), first, last)


class _UsualPoint(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    t: float | None = None
    p: float | None = None
    resolution_seconds: float | None = None


class _UsualHistories(msgspec.Struct):
    history: dict[str, list[_UsualPoint] | None] | None


_decode_usual = msgspec.json.Decoder(_UsualHistories).decode
"""Decodes an answer in which each point is as it should be: far sooner than by looking at each value. What else a point
may hold is looked at value by value, since nothing that is passed over is checked."""

_Point = tuple[float | None, float | None, float | None]
"""Seconds, price, and seconds that it stands for; None where there is no such number."""


def _of_struct(point: _UsualPoint) -> _Point:
    return point.t, point.p, point.resolution_seconds


def _of_value(value: object) -> _Point:
    if not isinstance(value, dict):
        return None, None, None
    return _number(value.get("t")), _number(value.get("p")), _number(value.get("resolution_seconds"))


def _usable(points: Iterable[_Point], first: float, last: float) -> tuple[tuple[float, float], ...]:
    """The points that are prices and no payouts, oldest first, from the first price of an order on."""
    usable = {
        at: price
        for at, price, resolution_s in points
        if at is not None and price is not None and first <= at <= last and 0.0 < price < 1.0 and resolution_s != 0
    }
    return tuple(dropwhile(lambda pair: pair[1] == _EMPTY_BOOK, sorted(usable.items())))


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
