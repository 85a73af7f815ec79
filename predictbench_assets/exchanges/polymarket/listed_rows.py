"""Rows of the listing as a reconstruction sees them: built from the few keys that cannot know the future, never made by
taking others away, and beside them the instants that decide which days a market was listed and open on.
"""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from predictbench_assets.exchanges.json_text import DECODE_ERRORS, UnreadableJson, object_members
from predictbench_assets.exchanges.polymarket.payloads import outcome_ids, parse_instant, read_closed, read_head

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

KEYS_KEPT: Final = hashlib.sha256(repr((MARKET_KEYS, EVENT_KEYS, TAG_KEYS)).encode()).hexdigest()[:12]
"""A name of these keys: rows that were kept with others are of no use."""

_LISTS = ("clobTokenIds", "positionIds", "outcomes")
_SEEN_KEYS = (*MARKET_KEYS, "closed", "closedTime", "active", "archived", "tags", "events")
_NOTHING = msgspec.Raw(b"null")
_Wire = msgspec.defstruct("_Wire", [(key, msgspec.Raw, _NOTHING) for key in _SEEN_KEYS])


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


def outside(row: SeenRow, start: datetime, end: datetime, as_of: datetime) -> str | None:
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


def seen_row(raw: bytes) -> bytes:
    """What is held of a listed row, encoded: the keys that cannot know the future, and the instants of its life."""
    market_id = read_head(raw).market_id
    try:
        members = _members(raw)
        built = {key: value for key in MARKET_KEYS if (value := _kept(key, members[key])) is not None}
        events, tags = (_objects(_decoded(members[key])) for key in ("events", "tags"))
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
