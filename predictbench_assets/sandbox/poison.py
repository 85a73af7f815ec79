"""Rows that are hostile to their reader: each kind breaks one thing that a reader is tempted to take for granted.

`REJECTABLE` kinds leave a row that cannot be stored as a market and must be rejected with its reason; `TOLERABLE` ones
are ugly and harmless, and a reader may keep or reject them, but must not fall over. Default for a world: the former.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec

Row = dict[str, Any]
_Poison = Callable[[Row], Row]


def _replaced(**values: Any) -> _Poison:
    return lambda row: row | values


def _without(*keys: str) -> _Poison:
    return lambda row: {key: value for key, value in row.items() if key not in keys}


def _raw(key: str, literal: bytes) -> _Poison:
    """A value that no encoder would write."""
    return lambda row: row | {key: msgspec.Raw(literal)}


def _ids(change: Callable[[list[str]], list[str]]) -> _Poison:
    """The ids that count changed, whichever they are."""

    def changed(row: Row) -> Row:
        if row["version"] == "v2":
            return row | {"positionIds": change(row["positionIds"])}
        ids = change(msgspec.json.decode(row["clobTokenIds"]))
        return row | {"clobTokenIds": msgspec.json.encode(ids).decode()}

    return changed


def _long_slug(row: Row) -> Row:
    return row | {"slug": "x" * 10_000 + "-" + row["slug"]}


def _nul(row: Row) -> Row:
    return row | {"question": f"{row['question'][:10]}\x00{row['question'][10:]}"}


REJECTABLE: Final[dict[str, _Poison]] = {
    "nul_in_question": _nul,
    "lone_surrogate": _raw("question", b'"Will the sandbox send \\ud83d half a pair?"'),
    "price_not_a_number": _replaced(outcomePrices='["NaN", "0.5"]'),
    "price_infinite": _replaced(outcomePrices='["1e400", "0"]'),
    "price_out_of_range": _replaced(outcomePrices='["1.7", "-0.7"]'),
    "prices_sum": _replaced(outcomePrices='["0.9", "0.9"]'),
    "prices_not_json": _replaced(outcomePrices="0.5, 0.5"),
    "missing_prices": _without("outcomePrices"),
    "missing_question": _without("question"),
    "missing_end_date": _without("endDate"),
    "bad_end_date": _replaced(endDate="soon"),
    "missing_outcomes": _without("outcomes"),
    "missing_tokens": _without("clobTokenIds", "positionIds"),
    "lengths_differ": _ids(lambda ids: ids[:1]),
    "duplicate_token": _ids(lambda ids: [ids[0], ids[0]]),
    "outcomes_wrong_type": _replaced(outcomes=7),
    "long_slug": _long_slug,
}

TOLERABLE: Final[dict[str, _Poison]] = {
    "deep_blob": _raw("marketMetadata", b'{"a":' * 200 + b"0" + b"}" * 200),
    "huge_number": _raw("volumeNum", b"1e400"),
    "optional_wrong_type": _replaced(liquidity={"amount": "many"}, umaResolutionStatuses=[], gameStartTime=12),
    "unknown_keys": _replaced(**{f"unknown{place}": "?" for place in range(200)}),
}

HIDES_END: Final = frozenset({"missing_end_date", "bad_end_date"})
"""Kinds whose day a reader cannot see: on markets at midnight, both days' readers would count them."""


def poisoned(row: Row, kind: str) -> Row:
    """The row with one thing broken."""
    return (REJECTABLE | TOLERABLE)[kind](row)
