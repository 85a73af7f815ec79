"""Source of the HTTP routes: a world that lives, or recorded rows that stand still, behind one interface."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import msgspec

from predictbench_assets.sandbox import payloads
from predictbench_assets.sandbox.listing import Invalid, Listed, Query, instant
from predictbench_assets.sandbox.world import Event, Market, Settlement, World
from predictbench_assets.texts import read_text

Payout = tuple[float, float]

_NEVER = 4_102_444_800
"""The year 2100."""
_ROWS_KEPT = 120_000
_SELECTIONS_KEPT = 32


class Exchange(Protocol):
    """Markets and their rows, at any instant (seconds since the epoch, UTC)."""

    @property
    def world(self) -> World | None:
        """The world behind it; None where rows are recorded, which have no order books, truth or events."""
        ...

    def listed(self, at: int, ends_from: int | None, ends_to: int | None) -> Iterable[Listed]:
        """Markets that exist at that instant and end within the closed interval, ids rising."""
        ...

    def find(self, *, market_id: str = "", slug: str = "", condition_id: str = "", token_id: str = "") -> Listed | None:
        """The market with that id, slug, condition or token."""
        ...

    def row(self, market: Listed, at: int, event: bytes | None, *, include_tag: bool) -> bytes:
        """A market's JSON."""
        ...

    def settle(self, market_id: str, payout: Payout | None, at: int, gamma: Payout | None) -> bool:
        """Pay a market out so from that instant on, or open it again (None); False where there is no such market.

        `gamma` is what Gamma writes of it, where that is something else.
        """
        ...

    def vanish(self, market_id: str) -> bool:
        """Know nothing of a market any more; False where there is no such market."""
        ...


class WorldExchange:
    """A world, served."""

    def __init__(self, world: World) -> None:
        self.world: World | None = world
        self._world = world
        self._vanished: set[str] = set()

    def listed(self, at: int, ends_from: int | None, ends_to: int | None) -> Iterator[Market]:
        """Markets created by then."""
        markets = self._world.listed(at, ends_from, ends_to)
        return markets if not self._vanished else (one for one in markets if one.market_id not in self._vanished)

    def find(self, *, market_id: str = "", slug: str = "", condition_id: str = "", token_id: str = "") -> Market | None:
        """Find by the identifier itself, without a search."""
        found = self._find(market_id, slug, condition_id, token_id)
        return None if found is None or found.market_id in self._vanished else found

    def _find(self, market_id: str, slug: str, condition_id: str, token_id: str) -> Market | None:
        world = self._world
        if market_id:
            return world.market(market_id)
        if slug:
            return world.market_of_slug(slug)
        if condition_id:
            return world.market_of_condition(condition_id)
        found = world.market_of_token(token_id)
        return found[0] if found else None

    def row(self, market: Listed, at: int, event: bytes | None, *, include_tag: bool) -> bytes:
        """The row at that instant."""
        return payloads.market_row(cast("Market", market), at, include_tag=include_tag, event=event)

    def settle(self, market_id: str, payout: Payout | None, at: int, gamma: Payout | None) -> bool:
        """Settle on Gamma and the CLOB; a payout of 1 and 1 is a split that Gamma writes so."""
        market = self._world.market(market_id)
        if market is None:
            return False
        proposals = market.settlement.proposals
        if payout is None:
            settlement = Settlement(_NEVER, (0.0, 0.0), proposals)
        else:
            paid, written = ((0.5, 0.5), payout) if payout == (1, 1) else (payout, None)
            settlement = Settlement(min(market.settlement.closed, at), paid, proposals, gamma or written)
        return self._world.settle(market_id, settlement) is not None

    def vanish(self, market_id: str) -> bool:
        """Neither listings nor identifiers lead to it."""
        known = self._world.market(market_id) is not None
        self._vanished.add(market_id)
        return known


@dataclass(frozen=True, slots=True)
class Recorded:
    """A recorded row, with what filters need read from it."""

    body: bytes = field(repr=False)
    market_id: str
    number: int
    condition_id: str
    slug: str
    token_ids: tuple[str, ...]
    tag_ids: frozenset[int]
    created: int
    ends: float | None
    closed: bool
    volume_total: float
    volume_day: float
    liquidity_now: float
    status: str | None

    @classmethod
    def of(cls, body: bytes, row: Mapping[str, Any]) -> "Recorded":
        """Read a row; whatever is missing or odd in it stays out of the filters' sight."""
        market_id = str(row.get("id", ""))
        return cls(
            body=body,
            market_id=market_id,
            number=int(market_id) if market_id.isdigit() else 0,
            condition_id=str(row.get("conditionId", "")),
            slug=str(row.get("slug", "")),
            token_ids=_tokens(row.get("positionIds" if row.get("version") == "v2" else "clobTokenIds")),
            tag_ids=frozenset(int(tag["id"]) for tag in row.get("tags") or ()),
            created=int(_seconds(row.get("createdAt")) or 0),
            ends=_seconds(row.get("endDate")),
            closed=row.get("closed") is True,
            volume_total=float(row.get("volumeNum") or 0),
            volume_day=float(row.get("volume24hr") or 0),
            liquidity_now=float(row.get("liquidityNum") or 0),
            status=row.get("umaResolutionStatus"),
        )

    def is_closed(self, _at: int) -> bool:
        """The recorded flag."""
        return self.closed

    def volume(self, _at: int) -> float:
        """The recorded volume."""
        return self.volume_total

    def volume_24h(self, _at: int) -> float:
        """The recorded volume of the last day."""
        return self.volume_day

    def liquidity(self, _at: int) -> float:
        """The recorded liquidity."""
        return self.liquidity_now

    def oracle_status(self, _at: int) -> str | None:
        """The recorded state of the oracle."""
        return self.status


class ReplayWorld:
    """Recorded rows of `/markets`, served through the same routes whatever the exchange's time.

    Args:
        rows: market objects, or their JSON, which is then served byte for byte.
    """

    world: World | None = None

    def __init__(self, rows: Iterable[Mapping[str, Any] | bytes]) -> None:
        read = []
        for row in rows:
            body = row if isinstance(row, bytes) else msgspec.json.encode(row)
            read.append(Recorded.of(body, msgspec.json.decode(body)))
        self._rows = sorted(read, key=lambda market: market.number)

    @classmethod
    def from_file(cls, path: str | Path) -> "ReplayWorld":
        """Rows of a JSON file that holds an array of markets.

        Raises:
            UndecodableFile: it is no text that can be read.
        """
        return cls(bytes(row) for row in msgspec.json.decode(read_text(Path(path)).encode(), type=list[msgspec.Raw]))

    def listed(self, _at: int, _ends_from: int | None, _ends_to: int | None) -> Sequence[Recorded]:
        """All rows; the filters do the rest."""
        return self._rows

    def find(
        self, *, market_id: str = "", slug: str = "", condition_id: str = "", token_id: str = ""
    ) -> Recorded | None:
        """The first row with that identifier."""
        for market in self._rows:
            if (
                (market_id and market.market_id == market_id)
                or (slug and market.slug == slug)
                or (condition_id and market.condition_id == condition_id)
                or (token_id and token_id in market.token_ids)
            ):
                return market
        return None

    def row(self, market: Listed, _at: int, _event: bytes | None, *, include_tag: bool) -> bytes:  # noqa: ARG002
        """The recorded row, with tags or without."""
        return cast("Recorded", market).body

    def settle(self, market_id: str, payout: Payout | None, at: int, gamma: Payout | None) -> bool:
        """Settle in the row alone; recorded rows have no CLOB."""
        for place, market in enumerate(self._rows):
            if market.market_id == market_id:
                row = msgspec.json.decode(market.body) | {"closed": payout is not None}
                row.pop("closedTime", None)
                if payout is not None:
                    paid = [f"{share:g}" for share in gamma or payout]
                    row |= {"closedTime": payloads.spaced(at), "outcomePrices": payloads.listed(paid)}
                self._rows[place] = Recorded.of(msgspec.json.encode(row), row)
                return True
        return False

    def vanish(self, market_id: str) -> bool:
        """The row is gone."""
        left = [market for market in self._rows if market.market_id != market_id]
        known, self._rows = len(left) < len(self._rows), left
        return known


class View:
    """An exchange at one instant, with what has been worked out for it: rows are encoded once, queries answered once.

    A new instant is a new view, so that nothing stale can be left over.
    """

    def __init__(self, exchange: Exchange, at: int) -> None:
        self.exchange = exchange
        self.at = at
        self._rows: dict[tuple[str, bool, bool], bytes] = {}
        self._events: dict[int, bytes] = {}
        self._selections: OrderedDict[Query, Selection] = OrderedDict()

    def select(self, query: Query) -> "Selection":
        """Markets that a query finds, in its order."""
        found = self._selections.get(query)
        if found is None:
            markets = sorted(
                (market for market in self._candidates(query) if query.admits(market, self.at)),
                key=lambda market: query.key(market, self.at),
            )
            found = Selection(markets, [query.key(market, self.at) for market in markets])
            self._selections[query] = found
            if len(self._selections) > _SELECTIONS_KEPT:
                self._selections.popitem(last=False)
        self._selections.move_to_end(query)
        return found

    def warm(self, query: Query, *, include_tag: bool) -> int:
        """Encode ahead what a query finds, so that a bench times its client; returns how many rows."""
        markets = self.select(query).markets
        for market in markets:
            self.row(market, include_tag=include_tag)
        return len(markets)

    def row(self, market: Listed, *, include_tag: bool = False, nested: bool = False) -> bytes:
        """A market's JSON; `nested` inside an event, so without one of its own."""
        key = (market.market_id, include_tag, nested)
        row = self._rows.get(key)
        if row is None:
            event = market.event if isinstance(market, Market) and not nested else None
            row = self.exchange.row(market, self.at, self.event_row(event) if event else None, include_tag=include_tag)
            if len(self._rows) >= _ROWS_KEPT:
                self._rows.clear()
            self._rows[key] = row
        return row

    def event_row(self, event: Event) -> bytes:
        """An event's JSON without its markets."""
        row = self._events.get(event.number)
        if row is None:
            row = payloads.event_row(event, self.at)
            if len(self._events) >= _ROWS_KEPT:
                self._events.clear()
            self._events[event.number] = row
        return row

    def find(self, **identifier: str) -> Listed | None:
        """The market with that identifier, if it exists by now."""
        market = self.exchange.find(**identifier)
        return market if market and (self.exchange.world is None or market.created <= self.at) else None

    def _candidates(self, query: Query) -> Iterable[Listed]:
        """Markets that a query can find: the named ones, or all of the days in question."""
        for name, values in (
            ("market_id", query.ids),
            ("slug", query.slugs),
            ("condition_id", query.condition_ids),
            ("token_id", query.token_ids),
        ):
            if values:
                found = (self.find(**{name: value}) for value in values if value)
                return {market.market_id: market for market in found if market}.values()
        return self.exchange.listed(self.at, query.ends_from, query.ends_to)


@dataclass(frozen=True, slots=True)
class Selection:
    """Markets that a query found, and their places in its order."""

    markets: list[Listed]
    keys: list[tuple[float, int]]


def _tokens(text: object) -> tuple[str, ...]:
    if isinstance(text, list):
        return tuple(map(str, text))
    try:
        return tuple(msgspec.json.decode(text, type=list[str])) if isinstance(text, str) else ()
    except msgspec.DecodeError:
        return ()


def _seconds(text: object) -> float | None:
    """Format an instant with its fractions of a second."""
    try:
        return instant(text).timestamp() if isinstance(text, str) else None
    except Invalid:
        return None
