"""Rows of the listing into which knowledge of a later day is planted, key by key."""

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from predictbench_assets.exchanges.polymarket.payloads import parse_instant
from predictbench_assets.sandbox.exchange import WorldExchange
from predictbench_assets.sandbox.listing import Listed
from predictbench_assets.sandbox.world import World

Path = tuple[str | int, ...]
Row = dict[str, Any]

KEPT = {
    *("id", "conditionId", "questionID", "version", "clobTokenIds", "positionIds", "outcomes"),
    *("createdAt", "startDate", "acceptingOrdersTimestamp", "endDate"),
    *("question", "description", "slug", "groupItemTitle"),
    *("negRisk", "negRiskMarketID", "gameId", "sportsMarketType", "line", "category"),
    *("tags.id", "tags.slug", "tags.label"),
    *("events.id", "events.slug", "events.title", "events.category", "events.negRisk", "events.negRiskMarketID"),
    *("events.parentEventId", "events.gameId", "events.seriesSlug", "events.series.slug"),
    *("events.tags.id", "events.tags.slug", "events.tags.label"),
}
"""What a reconstruction keeps of a row, by the names on the wire: ids, texts, tags, ends, and the birth of a market.

Written out here, and not taken from the code: a key that moves into the code's list must fail a test.
"""

LATER_KEYS: Mapping[str, Any] = {
    "resolvedPayout": "1",
    "umaEndDate": "2026-01-01T00:00:00Z",
    "umaResolutionStatus": "resolved",
    "winner": "Yes",
    "nextYearsKey": {"answer": "Yes", "confidence": 0.5},
}
"""Keys that a row may not have today."""
LATER_EVENT_KEYS: Mapping[str, Any] = {
    "score": "3-1",
    "period": "FT",
    "finishedTimestamp": "2026-01-01T00:00:00Z",
    "ended": True,
    "eventMetadata": {"finalScore": "3-1"},
    "markets": [{"id": "1", "question": "A sibling?"}],
    "winner": "Yes",
}

MARKER = re.compile(r"later\d+[xy]|(?<!\d)77\d{7}(?!\d)|2031-\d\d-\d\d")
"""Any marker, in whatever form an instant is written later."""
FLAGS = (("closed",), ("active",), ("archived",))
"""What decides whether a market is listed, and has no other form."""

_FAR = datetime(2031, 1, 1, tzinfo=UTC)


def with_later_keys(row: Row) -> Row:
    """The row with keys that only a later day has, in itself and in its events."""
    events = [dict(LATER_EVENT_KEYS) | event for event in row.get("events") or ()]
    return dict(LATER_KEYS) | row | ({"events": events} if events else {})


def leaves(value: Any, path: Path = ()) -> Iterator[Path]:
    """The path of each value inside of a row that is no object and no list, and of empty lists."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, list) and value:
        for place, inner in enumerate(value):
            yield from leaves(inner, (*path, place))
    else:
        yield path


def is_kept(path: Path) -> bool:
    """True for a value of a row that a reconstruction keeps; positions in lists do not matter."""
    steps = [step for step in path if isinstance(step, str)]
    return any(".".join(steps[:count]) in KEPT for count in range(1, len(steps) + 1))


def marker(value: object, number: int) -> tuple[Any, str | None]:
    """Another value in place of one, of its form, and the text to look for; None of a flag, which has no other form."""
    if isinstance(value, bool):
        return not value, None
    if isinstance(value, (int, float)):
        return 770_000_000 + number, str(770_000_000 + number)
    if isinstance(value, str):
        if (instant := parse_instant(value)) is not None:
            moved = _FAR + timedelta(minutes=number)
            form = "%Y-%m-%d %H:%M:%S+00" if " " in value else "%Y-%m-%dT%H:%M:%SZ"
            return moved.strftime(form), f"{moved:%Y-%m-%d}{value[10:11]}{moved:%H:%M:%S}" if instant else None
        if value.startswith("["):
            return json.dumps([f"later{number}x", f"later{number}y"]), f"later{number}x"
        try:
            float(value)
        except ValueError:
            pass
        else:
            return str(770_000_000 + number), str(770_000_000 + number)
    return f"later{number}x", f"later{number}x"


def planted(row: Row, path: Path, number: int) -> tuple[Row, str | None]:
    """A copy of the row with a marker in one place, and the text to look for."""
    copy = msgspec.json.decode(msgspec.json.encode(row))
    value: Any = copy
    for step in path[:-1]:
        value = value[step]
    value[path[-1]], text = marker(value[path[-1]], number)
    return copy, text


class LaterKnowledge(WorldExchange):
    """A world whose rows have a marker in every value that no reconstruction may keep."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.markers: dict[str, str] = {}
        """The place of each marker that was sent, by its text."""

    def row(self, market: Listed, at: int, event: bytes | None, *, include_tag: bool) -> bytes:
        """The row, with markers that no other row has."""
        row = with_later_keys(msgspec.json.decode(super().row(market, at, event, include_tag=include_tag)))
        for path in [path for path in leaves(row) if not is_kept(path) and path not in FLAGS]:
            number = len(self.markers)
            row, text = planted(row, path, number)
            if text is not None:
                self.markers[text] = f"{market.market_id}: {'.'.join(map(str, path))}"
        return msgspec.json.encode(row)
