"""Settlements of markets, read from Gamma's row and from the CLOB's market. Pure.

Final is a market that is closed and whose payout is exact: one outcome takes all, or all share alike. Nothing else
is: not a price near 1, not the oracle's status, which lags (closed and paid markets are still `proposed`), not the
residual prices of markets from before 2023.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import msgspec

from predictbench_assets.exchanges.json_text import DECODE_ERRORS, UnreadableJson, object_members
from predictbench_assets.exchanges.polymarket.payloads import outcome_ids, parse_instant, read_closed
from predictbench_assets.markets.settlement import Reading, State
from predictbench_assets.printable import shortened

_GAMMA_KEYS = (
    *("id", "conditionId", "slug", "question", "endDate", "closed", "closedTime", "outcomes", "outcomePrices"),
    *(
        "version",
        "clobTokenIds",
        "positionIds",
        "umaResolutionStatus",
        "umaResolutionStatuses",
        "umaEndDate",
        "resolvedBy",
    ),
    *("automaticallyResolved", "updatedAt"),
)
_CLOB_KEYS = ("condition_id", "market_slug", "closed", "is_50_50_outcome", "tokens")
"""The keys of an answer that the ledger keeps: all that show how a market settled, and none of the rest."""

_STATES: Mapping[str | None, State] = {
    "proposed": "proposed",
    "reproposed": "proposed",
    "disputed": "disputed",
    "challenged": "disputed",
}
_LONGEST_STATUS = 100
_LONGEST_KEPT = 4_000
_HALF = Decimal("0.5")
_MOST_DIGITS = 12


@dataclass(frozen=True)
class FirstOutcome:
    """The outcome that was first when a market was stored, and that its forecasts are about; None is not known."""

    outcome_id: str | None = None
    name: str | None = None


def settled_payout(values: Sequence[Decimal]) -> tuple[float, ...] | None:
    """The payout that a vector stands for, adding up to 1; None where it is no settlement.

    One outcome at exactly 1 and the others at 0 is a win. All outcomes at an equal share of 1 is a split, and so is
    all of them at 1, as Polymarket wrote splits in the summer of 2024.
    """
    count = len(values)
    if count < 2 or not all(value.is_finite() for value in values):
        return None
    if sum(value == 1 for value in values) == 1 and sum(value == 0 for value in values) == count - 1:
        return tuple(float(value) for value in values)
    if len(set(values)) == 1 and (values[0] == 1 or _is_share(values[0], count)):
        return (1 / count,) * count
    return None


def gamma_reading(raw: bytes, first: FirstOutcome = FirstOutcome()) -> Reading:
    """Read a row of Gamma; never raises, whatever was sent.

    Args:
        raw: the row's JSON.
        first: the outcome whose share comes first in the payout, wherever the row lists it. Where a row does not show
            which one it is, neither by an id nor by a name, it settles nothing: another source has to be asked.
    """
    row = _members(raw, _GAMMA_KEYS)
    closed, problem = read_closed(row.get("closed"))
    text = row.get("umaResolutionStatus")
    status = text if isinstance(text, str) and len(text) <= _LONGEST_STATUS and text.isprintable() else None
    history = _listed(row.get("umaResolutionStatuses")) or []
    payout = settled_payout(_decimals(row.get("outcomePrices"))) if closed else None
    outcomes = _listed(row.get("outcomes"))
    if payout is not None and outcomes is not None and len(outcomes) != len(payout):
        payout = None
    if closed and payout is None:
        problem = f"closed, but its payout is no settlement: {shortened(row.get('outcomePrices'))}"
    if payout is not None:
        payout = _with_first_token_first(payout, outcome_ids(row) or [], outcomes or [], first)
        problem = None if payout is not None else _unplaced(row.get("outcomePrices"))
    return Reading(
        source="gamma",
        market_id=_identifier(row.get("id")),
        state="final" if payout is not None else _STATES.get(status, "open"),
        payout=payout,
        closed=closed,
        closed_time=parse_instant(row.get("closedTime")) if closed else None,
        status=status,
        disputed=any(_STATES.get(word) == "disputed" for word in (status, *_texts(history))),
        problem=problem,
        raw=_kept(row),
    )


def clob_reading(raw: bytes, first: FirstOutcome = FirstOutcome()) -> Reading:
    """Read a market of the CLOB; never raises. It names the winner, and where there is none the prices paid.

    Args:
        raw: the body of `GET /markets/{condition_id}`.
        first: as for `gamma_reading`.
    """
    row = _members(raw, _CLOB_KEYS)
    closed, problem = read_closed(row.get("closed"))
    listed = row.get("tokens")
    tokens = [token for token in listed if isinstance(token, dict)] if isinstance(listed, list) else []
    winners = [token.get("winner") is True for token in tokens]
    paid = [Decimal(int(won)) for won in winners] if any(winners) else [_decimal(one.get("price")) for one in tokens]
    payout = settled_payout(paid) if closed else None
    if closed and payout is None:
        problem = "closed, but the CLOB names no winner"
    if payout is not None:
        ids, names = ([token.get(key) for token in tokens] for key in ("token_id", "outcome"))
        payout = _with_first_token_first(payout, ids, names, first)
        problem = None if payout is not None else _unplaced([token.get("price") for token in tokens])
    return Reading(
        source="clob",
        market_id=None,
        state="final" if payout is not None else "open",
        payout=payout,
        closed=closed,
        closed_time=None,
        status=None,
        disputed=False,
        problem=problem,
        raw=_kept(row),
    )


def reconciled(gamma: Reading, clob: Reading | None) -> Reading:
    """Make one reading of two: the CLOB where it has settled, since it is what pays, else Gamma.

    Time of closing and status stay Gamma's, so that a market does not seem to change when the CLOB is asked and when
    it is not.
    """
    if clob is None:
        return gamma
    raw = {"gamma": gamma.raw, "clob": clob.raw}
    if clob.payout is None:
        return replace(gamma, raw=raw)
    problem = None
    if gamma.payout is not None and gamma.payout != clob.payout:
        problem = (
            f"Gamma says {_format_payout(gamma.payout)}, the CLOB {_format_payout(clob.payout)}; the CLOB is believed"
        )
    elif gamma.payout == clob.payout:
        return replace(gamma, raw=raw)
    return replace(gamma, source="clob", state="final", payout=clob.payout, problem=problem, raw=raw)


def _format_payout(payout: Iterable[float]) -> str:
    return "/".join(f"{share:g}" for share in payout)


def _is_share(value: Decimal, count: int) -> bool:
    """True for one part in `count`, as exact as its digits allow: 0.5, or 0.333 of three."""
    digits = min(-int(value.as_tuple().exponent), _MOST_DIGITS)
    if count == 2:
        return value == _HALF
    return digits >= 2 and abs(value - Decimal(1) / count) < Decimal(1).scaleb(-digits)


def _with_first_token_first(
    payout: tuple[float, ...], ids: Sequence[object], names: Sequence[object], first: FirstOutcome
) -> tuple[float, ...] | None:
    """The payout with the share of the first outcome first; None where it cannot be seen which one that is.

    An equal split is the same in any order. Ids and names have to agree, as far as either is found: a row whose ids
    were turned round and whose names were not would settle one way or the other by chance.
    """
    if len(set(payout)) == 1 or first == FirstOutcome():
        return payout
    places = {_place(first.outcome_id, ids, len(payout)), _place(first.name, names, len(payout))} - {None}
    if len(places) != 1:
        return None
    place = places.pop()
    assert place is not None
    return (payout[place], *payout[:place], *payout[place + 1 :])


def _place(wanted: str | None, listed: Sequence[object], count: int) -> int | None:
    """Index of `wanted` where it is listed exactly once, in a list with an entry for each outcome; else None."""
    if wanted is None or len(listed) != count:
        return None
    plain = wanted.strip().casefold()
    places = [place for place, one in enumerate(listed) if isinstance(one, str) and one.strip().casefold() == plain]
    return places[0] if len(places) == 1 else None


def _unplaced(paid: object) -> str:
    return f"paid {shortened(paid)}, but neither ids nor names show which outcome was first when it was stored"


def _members(raw: bytes, keys: Iterable[str]) -> dict[str, Any]:
    """Some members of an object, decoded; one that cannot be read is left out, and all where there is no object."""
    try:
        found = object_members(raw)
    except UnreadableJson:
        return {}
    values = {}
    for key in keys:
        if key in found:
            try:
                values[key] = msgspec.json.decode(found[key])
            except DECODE_ERRORS:
                continue
    return values


def _listed(value: object) -> list[Any] | None:
    """A list, mostly sent as JSON inside a string."""
    if isinstance(value, str):
        try:
            value = msgspec.json.decode(value)
        except (*DECODE_ERRORS, UnicodeEncodeError):
            return None
    return value if isinstance(value, list) else None


def _texts(values: Iterable[object]) -> list[str]:
    return [value for value in values if isinstance(value, str)]


def _decimals(value: object) -> list[Decimal]:
    """The numbers of a list, exactly: as a float, 0.99999999999999999999 would be 1. Empty where one is none."""
    try:
        if isinstance(value, str):
            return msgspec.json.decode(value, type=list[Decimal])
        return [_decimal(one) for one in value] if isinstance(value, list) else []
    except (*DECODE_ERRORS, UnicodeEncodeError):
        return []


def _decimal(value: object) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return Decimal("NaN")
    try:
        return Decimal(str(value))
    except ArithmeticError:
        return Decimal("NaN")


def _identifier(value: object) -> str | None:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    return text if isinstance(text, str) and text else None


def _kept(row: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of an answer that the database's JSON can hold: no NUL, no lone surrogate, nothing that is endless."""
    kept = {}
    for key, value in row.items():
        try:
            text = msgspec.json.encode(value)
        except (TypeError, ValueError, UnicodeEncodeError, RecursionError):
            continue
        if len(text) <= _LONGEST_KEPT and b"\\u0000" not in text:
            kept[key] = value
    return kept
