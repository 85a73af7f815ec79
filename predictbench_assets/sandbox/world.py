"""The sandbox's world: which markets close on a day, how they came about, trade and settle.

A day is generated when first asked for, from the seed and the date alone, so that every process sees the same world.
Ids carry their day and place (`Address`), so that any market is found without generating the others. All instants are
seconds since the epoch, UTC; money is USDC; prices and probabilities are of the market's first outcome.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from random import Random
from typing import Literal

from predictbench_assets.sandbox import names
from predictbench_assets.sandbox.latent import Band, Deadline, Latent, mixed, quantile, uniform, waiting_time
from predictbench_assets.sandbox.poison import HIDES_END, REJECTABLE, TOLERABLE

DAY = 86_400
HOUR = 3_600
LISTED_AHEAD = 7
"""`markets_per_day` is the number of markets of a day that are listed and open this many days before."""
LONGEST_LIFE = 40
"""Days between the creation of a market and its nominal end, at most."""
SHORT_SHARE, LATE_SHARE, EARLY_SHARE = 0.20, 0.15, 0.05
"""Markets that come on top, as shares: created in the last day, created in the last six, closed eight days before."""

MOST_MARKETS = 100_000
"""`markets_per_day` at most."""
_EPOCH = date(2020, 1, 1)
_FEWEST_NUMBERS = 100_000
"""Numbers that each day has for its markets, and for its events, in a world of up to 50,000 markets a day."""
_DIGITS = 9
"""Digits of the number of a market or event at most: enough for the largest world until 2033."""
_MARKETS_KEPT = 1_000_000
"""Markets, about, of the days that are kept generated, each some 2 KB."""
_LADDER_OFFSETS = (0, 7, 21)
"""Days between the anchor of a ladder of deadlines and its rungs."""
_GAMMA_LAG = 300
"""Seconds by which the prices on Gamma's rows are behind the order books."""

Kind = Literal["group", "thresholds", "deadlines", "game", "single", "short"]
Depth = Literal["good", "wide", "no_bid", "empty"]


@dataclass(frozen=True, slots=True)
class Quote:
    """Best prices of a market's first outcome; None for a side without orders."""

    bid: float | None
    ask: float | None

    @property
    def shown(self) -> float:
        """Price that Gamma shows: the middle, an absent side counting as the end of the scale."""
        bid = 0.0 if self.bid is None else self.bid
        ask = 1.0 if self.ask is None else self.ask
        return round((bid + ask) / 2, 5)

    @property
    def mirrored(self) -> "Quote":
        """The same book seen from the other outcome."""
        return Quote(
            None if self.ask is None else round(1 - self.ask, 4), None if self.bid is None else round(1 - self.bid, 4)
        )


@dataclass(frozen=True, slots=True)
class Settlement:
    """Settlement of a market, after its question is decided."""

    closed: int
    """Time at which it closes and pays out."""
    payout: tuple[float, float]
    """Value of one share of each outcome: 1 and 0, or one half each."""
    proposals: tuple[tuple[int, str], ...]
    """The oracle's steps, `proposed` and `disputed`, with their instants; none where prices settle it natively."""
    written: tuple[float, float] | None = None
    """Gamma's text for the payout, where that is something else: 1 and 1 for a split, or nonsense."""

    @property
    def shown(self) -> tuple[float, float]:
        """The payout as Gamma writes it."""
        return self.payout if self.written is None else self.written


@dataclass(slots=True)
class Event:
    """Group that markets belong to: a group with one winner, a ladder, a game, or a single question."""

    number: int
    kind: Kind
    title: str
    slug: str
    category: names.Category
    begins: int
    ends: int
    series: names.Series | None = None
    augmented: bool = False
    starts: int | None = None
    """Start of a game or of a price range."""
    members: list[tuple[int, int]] = field(default_factory=list)
    """Number and closing instant of each market, in order."""

    @property
    def event_id(self) -> str:
        """The id on the wire."""
        return str(self.number)

    @property
    def neg_risk(self) -> bool:
        """True where exactly one of its markets wins."""
        return self.kind == "group"

    @property
    def closes(self) -> int:
        """Time at which its last market closes."""
        return max(closed for _, closed in self.members)


@dataclass(frozen=True, slots=True)
class Market:
    """One market of the world; everything that changes is a function of the instant."""

    number: int
    event: Event
    position: int
    """Place in the event."""
    question: str
    slug: str
    label: str
    """The short title within the event; empty for a single one."""
    outcomes: tuple[str, str]
    created: int
    ends: int
    latent: Latent
    settlement: Settlement
    depth: Depth
    half_spread: float
    tick: float
    size: float
    """Volume when all is done."""
    sports_type: str | None = None
    line: float | None = None
    version: Literal["v1", "v2"] = "v1"
    """Version of the protocol: it decides the ids that outcomes are traded under, and v2 has no oracle of UMA's."""
    poison: str | None = None
    """Fault of the row on the wire (see `poison.py`)."""

    @property
    def market_id(self) -> str:
        """The id on the wire."""
        return str(self.number)

    @property
    def condition_id(self) -> str:
        """0x and 64 hexadecimal digits; the last eight are the market's number."""
        return f"0x{_digest('condition', self.number)[:56]}{self.number:08x}"

    @property
    def token_ids(self) -> tuple[str, str]:
        """Ids of the outcomes' tokens: 77 digits, the last ten the market's number and the outcome's index."""
        return self._ids("token" if self.version == "v1" else "position")

    @property
    def other_ids(self) -> tuple[str, str]:
        """Ids of the other version's kind, under which nothing is traded."""
        return self._ids("position" if self.version == "v1" else "token")

    def _ids(self, purpose: str) -> tuple[str, str]:
        stem = str(int(_digest(purpose, self.number), 16) + (1 << 256))[:67]
        return (f"{stem}{self.number:09d}0", f"{stem}{self.number:09d}1")

    @property
    def tag_ids(self) -> frozenset[int]:
        """Ids of the event's tags."""
        return frozenset(tag.number for tag in self.event.category.tags)

    def is_closed(self, at: int) -> bool:
        """True where it is settled and paid."""
        return at >= self.settlement.closed

    def probability(self, at: int) -> float:
        """The truth: P(first outcome) given everything known at that instant."""
        return self.latent.probability(at)

    def quote(self, at: int) -> Quote:
        """Best bid and ask in the order book. Both sides lean outwards from the truth, so their middle is unbiased."""
        truth = self.probability(at)
        if self.depth == "empty":
            return Quote(None, None)
        # Narrower towards the ends of the scale, as on a real book.
        room = self.tick / 2 + self.half_spread * min(1.0, 0.05 + 4 * truth * (1 - truth))
        wobble = room * (0.7 + 0.6 * uniform(self.number, at // HOUR))
        bid = math.floor((truth - wobble) / self.tick + 1e-9) * self.tick
        ask = math.ceil((truth + wobble) / self.tick - 1e-9) * self.tick
        digits = 3 if self.tick < 0.01 else 2
        return Quote(
            round(bid, digits) if bid >= self.tick and self.depth != "no_bid" else None,
            round(ask, digits) if ask <= 1 - self.tick else None,
        )

    def shown_quote(self, at: int) -> Quote:
        """The quote on Gamma's row: some minutes old."""
        return self.quote(max(self.created, at - _GAMMA_LAG))

    def volume(self, at: int) -> float:
        """All trades so far."""
        life = max(1, self.latent.decided - self.created)
        return round(self.size * math.pow(min(1.0, max(0.0, (at - self.created) / life)), 1.5), 6)

    def volume_24h(self, at: int) -> float:
        """Trades of the last day."""
        return round(self.volume(at) - self.volume(at - DAY), 6)

    def liquidity(self, at: int) -> float:
        """Value of the order book; nothing once closed."""
        if self.depth == "empty" or self.is_closed(at):
            return 0.0
        return round((0.3 + uniform(self.number, 5)) * (100 + math.pow(self.size, 0.8)), 4)

    def oracle_status(self, at: int) -> str | None:
        """`proposed`, `disputed` or `resolved`; None before the first proposal and where there is no oracle."""
        seen = self.oracle_statuses(at)
        if not seen:
            return None
        return "resolved" if self.is_closed(at) else seen[-1]

    def oracle_statuses(self, at: int) -> list[str]:
        """The oracle's history up to that instant."""
        if self.version == "v2":
            return []
        return [status for instant, status in self.settlement.proposals if instant <= at]


@dataclass(slots=True)
class Day:
    """All markets whose nominal end is on one UTC day, in the order of their ids."""

    date: date
    markets: list[Market]
    events: list[Event]
    by_number: dict[int, Market] = field(init=False)

    def __post_init__(self) -> None:
        self.by_number = {market.number: market for market in self.markets}


class World:
    """A reproducible exchange of any size.

    Args:
        seed: the same seed is the same world, in every process.
        markets_per_day: markets of each closing day that are listed and open seven days before; late, short-lived and
            early closed ones come on top.
        start, days: the closing days that exist; without `start`, every day does, and a listing without end dates
            generates some eighty of them, so bound a large world that is to be listed whole.
        concentration: share of a day's markets that end at one of `instants`; the others are spread over the day.
        instants: those times of day, UTC, the first one taking most.
        second_version: share of markets, about, that are of version 2 of the exchange's protocol.
        poison: share of a day's open markets whose row is broken on the wire, exact per day.
        poisons: the kinds of breakage, as often as each other (see `poison.py`).

    Raises:
        ValueError: a share outside [0, 1], a number of markets that a day cannot hold, an unknown poison.
    """

    def __init__(
        self,
        seed: int = 7,
        markets_per_day: int = 600,
        *,
        start: date | None = None,
        days: int = 1,
        concentration: float = 0.75,
        instants: Sequence[time] = (time(0), time(12)),
        second_version: float = 0.25,
        poison: float = 0.0,
        poisons: Sequence[str] = tuple(REJECTABLE),
    ) -> None:
        if not 0 <= markets_per_day <= MOST_MARKETS:
            raise ValueError(f"a day holds 0 to {MOST_MARKETS} markets, got --markets {markets_per_day}")
        if not all(0 <= share <= 1 for share in (concentration, second_version, poison)):
            shares = f"{concentration}, {second_version} and {poison}"
            raise ValueError(f"concentration, second_version and poison are shares in [0, 1], got {shares}")
        if unknown := set(poisons) - set(REJECTABLE) - set(TOLERABLE):
            raise ValueError(
                f"no such poison: {', '.join(sorted(unknown))}; there are {', '.join(REJECTABLE | TOLERABLE)}"
            )
        self.seed = seed
        self.markets_per_day = markets_per_day
        self.start = start
        self.days = days
        self.concentration = concentration
        self.instants = tuple(instants)
        self.second_version = second_version
        self.poison = poison
        self.poisons = tuple(poisons)
        days_kept = min(128, _MARKETS_KEPT // max(1, markets_per_day))
        self.day: Callable[[date], Day] = lru_cache(maxsize=days_kept)(self._day)
        self._settled: dict[int, Settlement] = {}
        # Two for each market that is asked for: what comes on top needs less than half as many again.
        self._numbers = max(_FEWEST_NUMBERS, 2 * markets_per_day)
        self._ladders: Callable[[date], list[_Ladder]] = lru_cache(maxsize=512)(self._make_ladders)

    # What an exchange is asked

    def listed(self, at: int, ends_from: int | None = None, ends_to: int | None = None) -> Iterator[Market]:
        """Markets created by that instant and ending within the closed interval, in the order of their ids."""
        for day in self._days(at, ends_from, ends_to):
            for market in self.day(day).markets:
                if (
                    market.created <= at
                    and (ends_from is None or market.ends >= ends_from)
                    and (ends_to is None or market.ends <= ends_to)
                ):
                    yield market

    def events(self, at: int, ends_from: int | None = None, ends_to: int | None = None) -> Iterator[Event]:
        """Events created by that instant whose own end is within the closed interval, in the order of their ids."""
        for day in self._days(at, None if ends_from is None else ends_from - _LADDER_OFFSETS[-1] * DAY, ends_to):
            for event in self.day(day).events:
                if (
                    event.begins <= at
                    and (ends_from is None or event.ends >= ends_from)
                    and (ends_to is None or event.ends <= ends_to)
                ):
                    yield event

    def market(self, market_id: str) -> Market | None:
        """The market with that id, whether it has been created yet or not."""
        number = _number(market_id)
        day = self._day_of(number)
        return None if day is None else self.day(day).by_number.get(number)

    def market_of_condition(self, condition_id: str) -> Market | None:
        """The market with that condition id."""
        try:
            found = self.market(str(int(condition_id[-8:], 16)))
        except ValueError:
            return None
        return found if found and found.condition_id == condition_id else None

    def market_of_token(self, token_id: str) -> tuple[Market, int] | None:
        """The market with that token id, and the index of the outcome."""
        found = self.market(token_id[-10:-1].lstrip("0"))
        if found is None or token_id not in found.token_ids:
            return None
        return found, found.token_ids.index(token_id)

    def market_of_slug(self, slug: str) -> Market | None:
        """The market with that slug."""
        found = self.market(slug.rpartition("-")[2])
        return found if found and found.slug == slug else None

    def event(self, event_id: str) -> Event | None:
        """The event with that id."""
        number = _number(event_id)
        day = self._day_of(number)
        if day is None:
            return None
        return next((event for event in self.day(day).events if event.number == number), None)

    def members(self, event: Event) -> list[Market]:
        """The event's markets, in order."""
        found = [self.market(str(number)) for number, _ in self._members(event)]
        return [market for market in found if market is not None]

    def settle(self, market_id: str, settlement: Settlement) -> Market | None:
        """Let a market settle in this way rather than by chance, whether it has settled or not; None without one."""
        market = self.market(market_id)
        if market is None:
            return None
        self._settled[market.number] = settlement
        _settle_in(self.day(_EPOCH + timedelta(days=market.number // self._numbers)), market.number, settlement)
        return self.market(market_id)

    # Days

    def _exists(self, day: date) -> bool:
        if self.start is None:
            return day > _EPOCH + timedelta(days=60)
        return self.start <= day < self.start + timedelta(days=self.days)

    def _day_of(self, number: int) -> date | None:
        day = _EPOCH + timedelta(days=number // self._numbers)
        return day if self._exists(day) else None

    def _days(self, at: int, ends_from: int | None, ends_to: int | None) -> Iterator[date]:
        """Days that can have markets of the interval; without bounds, as far as the longest life reaches."""
        newest = _date(at) + timedelta(days=LONGEST_LIFE + 1)
        first = _date(ends_from) if ends_from is not None else _date(at) - timedelta(days=LONGEST_LIFE)
        last = min(newest, _date(ends_to)) if ends_to is not None else newest
        if self.start is not None:
            first = max(first, self.start)
            last = min(last, self.start + timedelta(days=self.days - 1))
        elif ends_from is not None:
            first = max(first, _EPOCH + timedelta(days=61))
        while first <= last:
            yield first
            first += timedelta(days=1)

    def _members(self, event: Event) -> list[tuple[int, int]]:
        """A ladder of deadlines has its rungs on several days, which number them."""
        if event.kind == "deadlines":
            anchor = _date(event.number // self._numbers * DAY + _seconds(_EPOCH))
            for offset in _LADDER_OFFSETS:
                if self._exists(anchor + timedelta(days=offset)):
                    self.day(anchor + timedelta(days=offset))
        return event.members

    def _make_ladders(self, anchor: date) -> list["_Ladder"]:
        """Ladders of deadlines whose first rung ends on that day."""
        count = round(self.markets_per_day * 0.02)
        first = (anchor - _EPOCH).days * self._numbers
        return [self._ladder(anchor, first + place) for place in range(count)]

    def _ladder(self, anchor: date, number: int) -> "_Ladder":
        rng = Random(f"{self.seed}|ladder|{number}")  # noqa: S311 - a simulation
        ends = _seconds(anchor) + _instant(rng, self.instants, spread=self.concentration == 0)
        begins = ends - int((8.5 + 20 * rng.random()) * DAY)
        final = ends + _LADDER_OFFSETS[-1] * DAY
        rate = -math.log(1 - 0.02 - 0.7 * rng.random() ** 2) / (final - begins)
        # Nothing happens before the first rung's cohort is frozen, so that its size is exact; prices know it.
        safe = max(begins, _seconds(anchor) - (LISTED_AHEAD - 1) * DAY)
        happens = safe + waiting_time(mixed(self.seed, number, 11), rate)
        title, question = names.deadline(rng)
        event = Event(
            number=number,
            kind="deadlines",
            title=title,
            slug=names.slug(title, number),
            category=rng.choice(names.DECIDED_BY_NEWS),
            begins=begins,
            ends=final,
        )
        return _Ladder(event, question, begins, ends, safe, happens, rate)

    def _day(self, day: date) -> Day:
        built = _DayBuilder(self, day).build()
        for number, settlement in self._settled.items():
            if number in built.by_number:
                _settle_in(built, number, settlement)
        return built


@dataclass(slots=True)
class _Ladder:
    """A ladder of deadlines, with what its rungs on later days need to know."""

    event: Event
    question: str
    begins: int
    ends: int
    safe: int
    happens: int
    rate: float


class _DayBuilder:
    """Builder of one day's markets: the cohort first, exact in number, then what comes on top."""

    def __init__(self, world: World, day: date) -> None:
        self.world = world
        self.midnight = _seconds(day)
        self.day = day
        self.base = (day - _EPOCH).days * world._numbers
        self.rng = Random(f"{world.seed}|day|{day.isoformat()}")  # noqa: S311 - a simulation
        self.markets: list[Market] = []
        self.events: list[Event] = []
        self.concentrated = 0
        self.spread = 0

    def build(self) -> Day:
        """The whole day."""
        size = self.world.markets_per_day
        cohort = self._rungs()
        makers = (self._group, self._game, self._thresholds, self._single)
        while cohort < size:
            maker = self.rng.choices(makers, weights=(0.16, 0.10, 0.08, 0.30))[0]
            cohort += maker(size - cohort, self._life("cohort"))
        self._poison(self.markets)
        for life, share in (("late", LATE_SHARE), ("early", EARLY_SHARE)):
            for _ in range(round(size * share)):
                self._single(1, self._life(life))
        for place in range(round(size * SHORT_SHARE)):
            self._short(place)
        return Day(self.day, self.markets, self.events)

    # Lives

    def _life(self, kind: str) -> "_Life":
        """Times at which an event of that kind is created, ends, and is decided."""
        ends = self.midnight + self._time_of_day()
        rng = self.rng
        if kind == "late":
            created = self.midnight - 6 * DAY + int(rng.random() * 5.5 * DAY)
            return _Life(created, ends, ends)
        if kind == "early":
            decided = self.midnight - 8 * DAY - int(rng.random() * 8 * DAY)
            return _Life(decided - int((1 + 19 * rng.random()) * DAY), ends, decided, prompt=True)
        created = ends - int((8.5 + 30 * rng.random()) * DAY)
        if rng.random() < 0.26:
            return _Life(created, ends, self.midnight - int(rng.random() * 6 * DAY) + HOUR)
        return _Life(created, ends, ends)

    def _time_of_day(self) -> int:
        """Seconds after midnight, keeping the share of markets at the day's instants where it should be."""
        world, total = self.world, self.concentrated + self.spread
        if self.concentrated <= world.concentration * total and world.concentration > 0:
            instants = world.instants
            chosen = instants[0] if len(instants) == 1 or self.rng.random() < 0.65 else self.rng.choice(instants[1:])
            return chosen.hour * HOUR + chosen.minute * 60 + chosen.second
        if world.concentration and self.rng.random() < 0.4:
            return _new_york_midnight(self.day)
        return 60 * self.rng.randrange(1440)

    # Kinds of events

    def _event(
        self, kind: Kind, title: str, category: names.Category, life: "_Life", starts: int | None = None
    ) -> Event:
        # The first numbers of a day are its ladders of deadlines.
        number = self.base + self.world._numbers // 2 + len(self.events)
        event = Event(
            number=number,
            kind=kind,
            title=title,
            slug=names.slug(title, number),
            category=category,
            begins=life.created,
            ends=life.ends,
            series=names.series(category, self.rng),
            starts=starts,
        )
        self.events.append(event)
        return event

    def _market(
        self,
        event: Event,
        life: "_Life",
        latent: Latent,
        question: str,
        *,
        label: str = "",
        outcomes: tuple[str, str] = ("Yes", "No"),
        sports_type: str | None = None,
        line: float | None = None,
        settlement: Settlement | None = None,
    ) -> None:
        rng = self.rng
        number = self.base + len(self.markets)
        draw = rng.random()
        depth: Depth = "good" if draw < 0.80 else "wide" if draw < 0.90 else "no_bid" if draw < 0.95 else "empty"
        narrow = 0.001 + 0.025 * rng.random() ** 2
        settlement = settlement or _settle(mixed(self.world.seed, number), life, latent, whole=event.neg_risk)
        member = (number, settlement.closed)
        if member not in event.members:  # a ladder of deadlines has its rung already where the day is made anew
            event.members.append(member)
        market = Market(
            number=number,
            event=event,
            position=event.members.index(member),
            question=question,
            slug=names.slug(question, number),
            label=label,
            outcomes=outcomes,
            created=life.created,
            ends=life.ends,
            latent=latent,
            settlement=settlement,
            depth=depth,
            half_spread=0.06 + 0.2 * rng.random() if depth == "wide" else narrow,
            tick=0.001 if rng.random() < 0.8 else 0.01,
            size=0.0 if rng.random() < 0.1 else round(math.exp(rng.gauss(8, 2.2)), 6),
            sports_type=sports_type,
            line=line,
            version="v2" if uniform(mixed(self.world.seed, number), 61) < self.world.second_version else "v1",
        )
        self.markets.append(market)
        at_instant = (life.ends - self.midnight) in {_after_midnight(instant) for instant in self.world.instants}
        self.concentrated += at_instant
        self.spread += not at_instant

    def _path(self) -> int:
        return mixed(self.world.seed, self.base, len(self.events), 3)

    def _group(self, room: int, life: "_Life") -> int:
        """Neighbouring bands of one path: exactly one wins. Needs room for two."""
        if room < 2:
            return self._single(room, life)
        rng, path = self.rng, self._path()
        group = names.group(rng, _spoken(life.ends))
        labels = group.labels[: min(room, len(group.labels))]
        weights = [rng.gammavariate(0.7, 1) + 0.01 for _ in labels]
        inner = [quantile(sum(weights[:count]) / sum(weights)) for count in range(1, len(labels))]
        edges = [-math.inf, *inner, math.inf]
        event = self._event("group", group.title, group.category, life)
        event.augmented = group.open_ended
        for place, label in enumerate(labels):
            latent = Band(path, edges[place], edges[place + 1], life.created, life.decided)
            self._market(event, life, latent, group.question(label), label=label)
        return len(labels)

    def _thresholds(self, room: int, life: "_Life") -> int:
        """Half-open bands of one path: the higher level implies the lower."""
        rng, path = self.rng, self._path()
        ladder = names.thresholds(rng, _spoken(life.ends))
        labels = ladder.labels[:room]
        event = self._event("thresholds", ladder.title, ladder.category, life)
        level = quantile(0.05 + 0.4 * rng.random())
        for label in labels:
            latent = Band(path, level, math.inf, life.created, life.decided)
            self._market(event, life, latent, ladder.question(label), label=label)
            level += 0.15 + 0.5 * rng.random()
        return len(labels)

    def _game(self, room: int, life: "_Life") -> int:
        """A match: who wins, by how much, and how many points, from one margin and one total."""
        rng, path = self.rng, self._path()
        game = names.game(rng)
        event = self._event("game", game.title, game.category, life, starts=life.ends)
        favourite, sides = rng.gauss(0, 0.6), (game.home, game.away)
        props = [_Prop(game.title, "", sides, "moneyline", None, path, favourite)]
        for place in range(rng.randrange(2, 7)):
            line, label = game.base_line + place, f"O/U {game.base_line + place}"
            question = f"{game.title}: {label}"
            props.append(_Prop(question, label, ("Over", "Under"), "totals", line, mixed(path, 1), -1.0 + 0.45 * place))
        for place in range(rng.randrange(1, 6)):
            line, label = -(place + 0.5), f"{game.home} (-{place + 0.5})"
            level = favourite + 0.3 * (place + 1)
            props.append(_Prop(f"Spread: {label}", label, sides, "spreads", line, path, level))
        for prop in props[:room]:
            self._market(
                event,
                life,
                Band(prop.path, prop.level, math.inf, life.created, life.decided),
                prop.question,
                label=prop.label,
                outcomes=prop.outcomes,
                sports_type=prop.sports_type,
                line=prop.line,
            )
        return min(room, len(props))

    def _single(self, _room: int, life: "_Life") -> int:
        """One question on its own."""
        question, category = names.single(self.rng, _spoken(life.ends))
        chance = min(0.97, max(0.02, self.rng.betavariate(0.7, 1.9)))
        latent = Band(self._path(), quantile(1 - chance), math.inf, life.created, life.decided)
        self._market(self._event("single", question, category, life), life, latent, question)
        return 1

    def _rungs(self) -> int:
        """Rungs of ladders of deadlines that end on this day; the cohort has those still open a week before."""
        freeze = self.midnight - (LISTED_AHEAD - 1) * DAY
        cohort = 0
        for offset in _LADDER_OFFSETS:
            for ladder in self.world._ladders(self.day - timedelta(days=offset)):
                if offset == 0:
                    self.events.append(ladder.event)
                ends = ladder.ends + offset * DAY
                life = _Life(ladder.begins, ends, min(ladder.happens, ends), prompt=True)
                latent = _Postponed(ladder.safe, Deadline(ladder.happens, ladder.rate, ladder.safe, ends))
                settlement = _settle(mixed(self.world.seed, ladder.event.number, offset), life, latent, whole=True)
                if freeze - DAY < settlement.closed <= freeze:
                    # Nothing closes during the day on which the cohort is read, or its size would depend on the hour.
                    settlement = replace(settlement, closed=freeze + HOUR)
                if cohort >= self.world.markets_per_day:
                    continue
                self._market(
                    ladder.event,
                    life,
                    latent,
                    f"{ladder.question} by {_spoken(ends)}?",
                    label=_spoken(ends),
                    settlement=settlement,
                )
                cohort += settlement.closed > freeze
        return cohort

    def _short(self, place: int) -> None:
        """A coin goes up or down within some minutes, listed for a day."""
        coin = names.COINS[place % len(names.COINS)]
        minutes = (5, 15, 60)[place // len(names.COINS) % 3]
        ends = self.midnight + 60 * minutes * self.rng.randrange(1440 // minutes)
        created = ends - DAY + int(self.rng.random() * 600)
        life = _Life(created, ends, ends, prompt=True)
        span = f"{_clock(ends - 60 * minutes)}-{_clock(ends)} UTC"
        title = f"{coin.name} Up or Down - {_spoken(ends)}, {span}"
        event = self._event("short", title, coin.category, life, starts=ends - 60 * minutes)
        event.series = names.short_series(coin, minutes)
        # Nothing is known before the range begins: the path starts there.
        latent = Band(self._path(), 0.0, math.inf, ends - 60 * minutes, ends)
        settlement = Settlement(ends + 54, (1.0, 0.0) if latent.outcome else (0.0, 1.0), ())
        self._market(event, life, latent, title, outcomes=("Up", "Down"), settlement=settlement)

    def _poison(self, cohort: list[Market]) -> None:
        """Break the rows of an exact share of the markets open a week before, each kind as often as the others."""
        world = self.world
        if not world.poison:
            return
        freeze = self.midnight - (LISTED_AHEAD - 1) * DAY
        places = [place for place, market in enumerate(cohort) if market.settlement.closed > freeze]
        places.sort(key=lambda place: mixed(world.seed, cohort[place].number, 13))
        chosen = places[: round(world.poison * len(places))]
        kinds = [world.poisons[turn % len(world.poisons)] for turn in range(len(chosen))]
        chosen.sort(key=lambda place: not 600 < cohort[place].ends - self.midnight < DAY - 600)
        kinds.sort(key=lambda kind: kind not in HIDES_END)
        for place, kind in zip(chosen, kinds, strict=True):
            cohort[place] = replace(cohort[place], poison=kind)


@dataclass(frozen=True, slots=True)
class _Prop:
    """One bet on a game: the first outcome comes true when the path ends above the level."""

    question: str
    label: str
    outcomes: tuple[str, str]
    sports_type: str
    line: float | None
    path: int
    level: float


@dataclass(frozen=True, slots=True)
class _Life:
    """Times of an event's creation, nominal end and decision. `prompt`: settled without delay or dispute."""

    created: int
    ends: int
    decided: int
    prompt: bool = False


@dataclass(frozen=True, slots=True)
class _Postponed:
    """A deadline before which, for a while, nothing can happen: until then the probability stands still."""

    safe: int
    inner: Deadline

    @property
    def outcome(self) -> bool:
        return self.inner.outcome

    @property
    def decided(self) -> int:
        return self.inner.decided

    def probability(self, at: int) -> float:
        return self.inner.probability(max(at, self.safe))


def _settle(key: int, life: _Life, latent: Latent, *, whole: bool) -> Settlement:
    """Draw how the oracle goes about it: mostly two hours, sometimes days, seldom a dispute or an even split.

    `whole`: never split, because exactly one market of a group must win.
    """
    draw = uniform(key, 21)
    proposed = life.decided + 300 + int(uniform(key, 22) * 3 * HOUR)
    payout = (1.0, 0.0) if latent.outcome else (0.0, 1.0)
    if life.prompt or draw >= 0.05:
        split = not whole and not life.prompt and uniform(key, 23) < 0.003
        written = (1.0, 1.0) if split and uniform(key, 26) < 0.33 else None  # as was done in 2024
        return Settlement(proposed + 2 * HOUR, (0.5, 0.5) if split else payout, ((proposed, "proposed"),), written)
    if draw < 0.01:
        disputed = proposed + HOUR
        again = disputed + 12 * HOUR
        closed = again + 2 * HOUR + int(uniform(key, 24) * 5 * DAY)
        return Settlement(closed, payout, ((proposed, "proposed"), (disputed, "disputed"), (again, "proposed")))
    late = proposed + int(DAY * (1 + 20 * uniform(key, 25) ** 3))
    return Settlement(late + 2 * HOUR, payout, ((late, "proposed"),))


def _settle_in(day: Day, number: int, settlement: Settlement) -> None:
    settled = replace(day.by_number[number], settlement=settlement)
    day.by_number[number] = settled
    day.markets[[market.number for market in day.markets].index(number)] = settled


def _number(identifier: str) -> int:
    """The number in an id; 0, which nothing has, where it is none of ours."""
    ours = identifier.isascii() and identifier.isdigit() and len(identifier) <= _DIGITS
    return int(identifier) if ours else 0


@lru_cache(maxsize=100_000)
def _digest(purpose: str, number: int) -> str:
    return hashlib.sha256(f"{purpose}|{number}".encode()).hexdigest()


def _seconds(day: date) -> int:
    return (day - date(1970, 1, 1)).days * DAY


def _date(at: int) -> date:
    return date(1970, 1, 1) + timedelta(days=at // DAY)


def _after_midnight(instant: time) -> int:
    return instant.hour * HOUR + instant.minute * 60 + instant.second


def _instant(rng: Random, instants: Sequence[time], *, spread: bool) -> int:
    return 60 * rng.randrange(1440) if spread else _after_midnight(rng.choice(instants))


def _new_york_midnight(day: date) -> int:
    """Seconds after UTC midnight at which a New York day begins: deadlines of US markets. Summer time roughly."""
    return (4 if 3 <= day.month <= 10 else 5) * HOUR


def _spoken(at: int) -> str:
    moment = datetime.fromtimestamp(at, UTC)
    return f"{moment:%B} {moment.day}"


def _clock(at: int) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%H:%M}"
