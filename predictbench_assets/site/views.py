"""Views of the templates: a leaderboard turned into sentences, tables and charts."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final, Literal

from markupsafe import Markup

from predictbench_assets.reporting.boards import MAY_KNOW, RECONSTRUCTED, amounts
from predictbench_assets.reporting.charts import (
    Interval,
    board_intervals,
    category_intervals,
    cost_places,
    cost_svg,
    coverage_mark_svg,
    coverage_svg,
    edges_svg,
    efficient_places,
    intervals_svg,
    price_intervals,
    reliability_svg,
    tone_of,
)
from predictbench_assets.reporting.coverage import STATE_TEXTS, STATES, CoverageCalendar, describe_month
from predictbench_assets.reporting.output import money
from predictbench_assets.scoring.boards import (
    BoardName,
    BoardRow,
    Comparison,
    Curve,
    EdgePoint,
    EntrantCost,
    Flag,
    Leaderboard,
)
from predictbench_assets.scoring.costs import RunCost, cost_of, cost_over, total, usd_per_point
from predictbench_assets.site.data import Overview, Spread
from predictbench_assets.site.names import page_name

BOARDS: Final[tuple[tuple[BoardName, bool], ...]] = (
    ("core", False),
    ("full", False),
    ("backfill", False),
    ("backfill", True),
)
"""Boards in the order in which they are shown, and whether they are those of reconstructed markets."""

BOARD_TEXTS: Final[Mapping[tuple[BoardName, bool], tuple[str, str]]] = {
    ("core", False): (
        "Core board",
        "A sample drawn before anybody forecast, spread over topics, events and prices. Its ranks are those to quote.",
    ),
    ("full", False): (
        "Full board",
        "Every market of each day with a good price, largely sport on most days. Ranked by itself.",
    ),
    ("backfill", False): (
        "Backfill board, late forecasts",
        "Forecasts of captured days that were made too late to count. They prove nothing about foresight.",
    ),
    ("backfill", True): ("Backfill board, reconstructed markets", RECONSTRUCTED),
}

FLAG_TEXTS: Final[dict[Flag, tuple[str, str]]] = {
    "control_beats_market": (
        "control beats market",
        "A control, which knows nothing on purpose, is better than the price: a bug or a leak. Trust nothing here.",
    ),
    "provisional": (
        "provisional",
        "Some of its days are less than 95 % settled. What settles early leans to Yes, so these numbers will move.",
    ),
    "too_few_events": (
        "too few events",
        "Fewer than 30 independent events have settled. Not ranked: luck alone can do this.",
    ),
    "price_echo": ("price echo", "Its forecasts are the price it was shown, or nearly so (correlation above 0.99)."),
    "low_coverage": (
        "low coverage",
        "It forecast less than 95 % of the board's markets. Not ranked: it may have picked the easy ones.",
    ),
    "order_differs_by_event": (
        "order differs by event",
        "Counted per event rather than per market, it and a neighbour in rank change places.",
    ),
    "may_know_the_answer": ("may know the answer", MAY_KNOW[0].upper() + MAY_KNOW[1:]),
}

CALL_TEXTS: Final[dict[str, str]] = {
    "answered": "A forecast came back.",
    "refused": "The model would not answer; it is paid for all the same.",
    "truncated": "Cut off at the longest answer that was allowed; paid for, and no forecast.",
    "invalid": "An answer that is no forecast: prose, a number beyond 0 and 1, another market. Paid for.",
    "failed": "No answer: the provider was busy, out of reach, or did not let it in.",
    "unknown": "Sent, and nobody knows whether it was answered. Counted at the most that it can have cost.",
}
"""Meanings of the statuses of paid calls, in the order in which they are shown."""

_MOST_PANELS = 6
_NONE: Final = "\N{EN DASH}"

_TOLD = 3
_Tone = Literal["plain", "win", "alarm"]


@dataclass(frozen=True)
class Headline:
    """The result in a sentence for somebody who reads nothing else, and what stands behind it in another."""

    sentence: str
    detail: str
    tone: _Tone


@dataclass(frozen=True)
class Panel:
    """A small chart of one entrant."""

    experiment: str
    version: str
    page: str
    chart: Markup
    note: str = ""


@dataclass(frozen=True)
class StateView:
    """A state of partitions, with its mark in the calendar."""

    name: str
    mark: Markup
    meaning: str
    counts: tuple[int, ...]
    """Partitions of each window."""


@dataclass(frozen=True)
class CalendarView:
    """The coverage calendar: a picture of each of its newest months, and counts of all."""

    first: date
    last: date
    windows: tuple[int, ...]
    months: tuple[tuple[date, Markup], ...]
    states: tuple[StateView, ...]
    """Those that occur."""

    @property
    def shortened(self) -> bool:
        """True where older months are counted alone."""
        return self.months[0][0] > self.first


@dataclass(frozen=True)
class CostView:
    """Cost of an entrant on a board, as texts; amounts of several currencies side by side."""

    forecast: str
    day: str
    point: str | None
    """None where it has won none."""
    unpriced: bool


@dataclass(frozen=True)
class UseView:
    """All that an entrant took of models and services, as texts."""

    facts: tuple[tuple[str, str], ...]
    """Names and amounts."""
    calls: tuple[tuple[str, int, str], ...]
    """Status, number and meaning of its paid calls."""
    unknown: str | None
    """Amount that calls of unknown outcome are counted at."""
    unpriced: int
    spread: Spread | None


@dataclass(frozen=True)
class BoardView:
    """A board of a window: its whole rows in the order in which they are shown, and the chart of them."""

    name: BoardName
    reconstructed: bool
    title: str
    about: str
    window_days: int
    reference: BoardRow | None
    entrants: tuple[BoardRow, ...]
    controls: tuple[BoardRow, ...]
    wide: Markup | None
    narrow: Markup | None
    costs: Mapping[tuple[str, str], "CostView"]
    """By name and version, of those who took anything; empty where nobody did."""
    cost_wide: Markup | None = None
    cost_narrow: Markup | None = None
    off_picture: tuple[str, ...] = ()
    """Entrants whose cost is not known in dollars."""

    @property
    def settled(self) -> int:
        """Settled markets of the board; the largest count of any row."""
        return max((row.n_markets for row in self.rows), default=0)

    @property
    def rows(self) -> tuple[BoardRow, ...]:
        """All of them."""
        return (*self.entrants, *self.controls, *([self.reference] if self.reference else []))

    @property
    def alarm(self) -> bool:
        """True where a control beats the market."""
        return any("control_beats_market" in row.flags for row in self.rows)


@dataclass(frozen=True)
class WindowView:
    """Everything about markets that close so many days ahead."""

    window_days: int
    boards: tuple[BoardView, ...]
    reliability: tuple[Panel, ...]
    over_time: tuple[Panel, ...]
    by_price: tuple[Panel, ...]
    by_category: tuple[Panel, ...]
    comparisons: tuple[Comparison, ...]
    hidden: int
    """Entrants without panels here; each has a page of its own."""

    @property
    def clear(self) -> tuple[Comparison, ...]:
        """Comparisons that hold after the correction for how many there are."""
        return tuple(one for one in self.comparisons if one.significant)

    @property
    def unclear(self) -> tuple[Comparison, ...]:
        """The others."""
        return tuple(one for one in self.comparisons if not one.significant)


def days_ahead(window_days: int) -> str:
    """Name of a window in a sentence."""
    return "1 day ahead" if window_days == 1 else f"{window_days} days ahead"


def headline(leaderboard: Leaderboard, overview: Overview) -> Headline:
    """Headline for a layman."""
    core = [row for row in leaderboard.rows if row.board == "core" and row.is_whole]
    if any("control_beats_market" in row.flags for row in leaderboard.rows if row.is_whole and row.board != "backfill"):
        return Headline(
            "Something is wrong: a forecaster that knows nothing beats the market.",
            "A negative control is better than the price by more than chance should allow: a bug or a leak. "
            "Until it is found, nothing else on this page is a result.",
            "alarm",
        )
    settled = max((row.n_markets for row in core), default=0)
    if not settled:
        return _nothing_settled(leaderboard, overview)
    ranked = [row for row in core if row.rank is not None and not row.control and not row.reference]
    if not ranked:
        events = max((row.n_events for row in core if row.n_markets), default=0)
        return Headline(
            "Too early to tell: too little has settled to rank anybody.",
            f"{settled:,} markets in {events:,} independent {_events(events)} have settled. An experiment is ranked "
            "from 30 events on, if it forecast at least 95 % of the core markets.",
            "plain",
        )
    winners = [row for row in ranked if row.edge_low is not None and row.edge_low > 0 and _discovered(row, leaderboard)]
    entrants = len({(row.experiment, row.version) for row in ranked})
    have = "experiment has" if entrants == 1 else "experiments have"
    if not winners:
        nearest = max(ranked, key=lambda row: row.mean_edge if row.mean_edge is not None else -1.0)
        return Headline(
            "So far, nobody forecasts better than the market price.",
            f"{entrants:,} ranked {have} been measured against the price. "
            f"The nearest, {nearest.experiment} {days_ahead(nearest.window_days)}, {_by_how_much(nearest)}.",
            "plain",
        )
    best = max(winners, key=lambda row: (row.n_events, row.mean_edge or 0.0))
    names = list(dict.fromkeys(row.experiment for row in sorted(winners, key=lambda row: -(row.mean_edge or 0.0))))
    verb = "forecasts" if len(names) == 1 else "forecast"
    return Headline(
        f"{_listed(names)} {verb} better than the market price.",
        f"{best.experiment} {best.version}, {days_ahead(best.window_days)}, {_by_how_much(best)}.",
        "win",
    )


def _discovered(row: BoardRow, leaderboard: Leaderboard) -> bool:
    """True where it differs from the price, counting how many comparisons its board and window make.

    With ten entrants and three windows, some interval lies above 0 by luck alone every now and then.
    """
    prices = {one.label for one in leaderboard.rows if one.reference}
    return any(
        one.significant and row.label in (one.first, one.second) and prices & {one.first, one.second}
        for one in leaderboard.comparisons
        if (one.board, one.reconstructed, one.window_days) == (row.board, row.reconstructed, row.window_days)
    )


def _nothing_settled(leaderboard: Leaderboard, overview: Overview) -> Headline:
    markets = sum(cohort.n_markets for cohort in leaderboard.cohorts)
    if not markets and not overview.windows:
        return Headline(
            "The benchmark has not begun: no day is stored yet.",
            "The first daily run freezes the first markets; results follow when those have settled.",
            "plain",
        )
    put_together = max((row.n_markets for row in leaderboard.rows if row.reconstructed), default=0)
    if put_together and all(cohort.reconstructed for cohort in leaderboard.cohorts):
        return Headline(
            "No result yet: all that has settled was put together afterwards.",
            f"The backfill boards below show up to {put_together:,} settled markets of reconstructed days: how the "
            "experiments behave, and nothing about foresight. Results come from days that are captured as they pass.",
            "plain",
        )
    waiting = markets or sum(window.processed for window in overview.windows)
    first = f" The next of them closes on {overview.next_close:%-d %B %Y}." if overview.next_close else ""
    days = sum(window.runs for window in overview.windows)
    return Headline(
        "No result yet: no market of the core sample has settled.",
        f"{waiting:,} markets are frozen, with every forecast of them, on {days:,} {'day' if days == 1 else 'days'}."
        f"{first} There is nothing to do but wait.",
        "plain",
    )


def _by_how_much(row: BoardRow) -> str:
    events = f"{row.n_markets:,} settled markets in {row.n_events:,} independent {_events(row.n_events)}"
    if row.skill is None:
        return f"on {events}"
    better = "smaller" if row.skill >= 0 else "larger"
    sure = ""
    if row.skill_low is not None and row.skill_high is not None:
        if row.skill >= 0:
            low, high = row.skill_low, row.skill_high
        else:
            low, high = -row.skill_high, -row.skill_low
        sure = f" (95 % interval: {_percent(low)} to {_percent(high)})"
    return f"has a squared error {_percent(abs(row.skill))} {better} than the price's{sure}, on {events}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %".replace("-", "\N{MINUS SIGN}")


def _events(count: int) -> str:
    return "event" if count == 1 else "events"


def _listed(names: Sequence[str]) -> str:
    if len(names) > _TOLD:
        return f"{', '.join(names[:_TOLD])} and {len(names) - _TOLD:,} more"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def windows(leaderboard: Leaderboard, panels: "Panels") -> tuple[WindowView, ...]:
    """All windows that the leaderboard knows, the shortest first."""
    known = {row.window_days for row in leaderboard.rows} | {one.window_days for one in leaderboard.cohorts}
    return tuple(_window(leaderboard, panels, window) for window in sorted(known))


def _window(leaderboard: Leaderboard, panels: "Panels", window: int) -> WindowView:
    rows = [row for row in leaderboard.rows if row.window_days == window]
    costs = [one for one in leaderboard.costs if one.window_days == window]
    boards = [_board(rows, name, window, costs, reconstructed=reconstructed) for name, reconstructed in BOARDS]
    core = boards[0]
    entrants = [row for row in core.entrants if row.n_markets]
    shown = [*entrants[:_MOST_PANELS], *([core.reference] if core.reference and core.reference.n_markets else [])]
    return WindowView(
        window_days=window,
        boards=tuple(board for board in boards if board.settled or board.name == "core"),
        reliability=tuple(_present(panels.reliability(row) for row in shown)),
        over_time=tuple(_present(panels.over_time(row) for row in shown if not row.reference)),
        by_price=tuple(_present(panels.by_price(row) for row in shown if not row.reference)),
        by_category=tuple(_present(panels.by_category(row) for row in shown if not row.reference)),
        hidden=len(entrants[_MOST_PANELS:]),
        comparisons=tuple(
            sorted(
                (one for one in leaderboard.comparisons if one.window_days == window and one.board == "core"),
                key=lambda one: (one.p_value if one.p_value is not None else 1.0, one.first, one.second),
            )
        ),
    )


def _board(
    rows: Iterable[BoardRow], name: BoardName, window: int, costs: Sequence[EntrantCost], *, reconstructed: bool
) -> BoardView:
    chosen = (row for row in rows if (row.board, row.reconstructed) == (name, reconstructed) and row.is_whole)
    whole = sorted(chosen, key=_order)
    reference = next((row for row in whole if row.reference), None)
    entrants = tuple(row for row in whole if not row.reference and not row.control)
    controls = tuple(row for row in whole if row.control)
    wide = narrow = None
    if intervals := board_intervals([*entrants, *controls]):
        text = "; ".join(_describe_interval(one) for one in intervals)
        alternative = f"Mean edge over the market price with 95 % intervals, {days_ahead(window)}: {text}."
        identity = f"board-{name}-{window}{'-reconstructed' * reconstructed}"
        wide = Markup(intervals_svg(intervals, identity=f"{identity}-wide", alternative=alternative))  # noqa: S704
        narrow = Markup(  # noqa: S704 - our own drawing, its texts are escaped
            intervals_svg(intervals, identity=f"{identity}-narrow", alternative=alternative, width=340, above=True)
        )
    title, about = BOARD_TEXTS[name, reconstructed]
    priced = [(row, cost) for row in whole if (cost := cost_of(row, costs)) is not None]
    pictures = _cost_pictures(entrants, name, window, costs) if name == "core" else None
    return BoardView(
        name=name,
        reconstructed=reconstructed,
        title=title,
        about=about,
        window_days=window,
        reference=reference,
        entrants=entrants,
        controls=controls,
        wide=wide,
        narrow=narrow,
        costs={(row.experiment, row.version): _cost_view(row, cost) for row, cost in priced},
        cost_wide=None if pictures is None else pictures[0],
        cost_narrow=None if pictures is None else pictures[1],
        off_picture=tuple(row.label for row, cost in priced if cost.usd_per_forecast is None),
    )


def calendar_view(calendar: CoverageCalendar) -> CalendarView:
    """The calendar with its pictures."""
    counts = calendar.counts()
    months = []
    for month in calendar.months():
        words = describe_month(calendar, month)
        drawn = coverage_svg(calendar, month, identity=f"calendar-{month:%Y-%m}", alternative=words)
        months.append((month, Markup(drawn)))  # noqa: S704 - our own drawing, its texts are escaped
    states = tuple(
        StateView(
            name=state,
            mark=Markup(coverage_mark_svg(state, identity=f"mark-{state}")),  # noqa: S704 - our own drawing
            meaning=STATE_TEXTS[state],
            counts=tuple(counts[window][state] for window in calendar.windows),
        )
        for state in STATES
        if any(of_window[state] for of_window in counts.values())
    )
    return CalendarView(calendar.first, calendar.last, calendar.windows, tuple(months), states)


def _cost_view(row: BoardRow, cost: EntrantCost) -> CostView:
    point = usd_per_point(row, cost)
    return CostView(
        forecast=", ".join(amounts(cost.usd_per_forecast, cost.others, cost.forecasts)) or _NONE,
        day=", ".join(amounts(cost.usd_per_day, cost.others, cost.days)) or _NONE,
        point=None if point is None else money(point),
        unpriced=bool(cost.unpriced),
    )


def use(costs: Sequence[RunCost], spread: Spread | None) -> UseView | None:
    """All that one entrant took, over its runs; None where nothing is known of it.

    Args:
        spread: of the samples of its forecasts.
    """
    if not costs and spread is None:
        return None
    whole = total(one.cost for one in costs)
    facts = [("requests", f"{whole.requests:,}")] if whole.requests else []
    each = cost_over(costs) if costs else None
    if each is not None and each.days:
        sums = (("cost", each.usd, 1), ("a forecast", each.usd_per_forecast, each.forecasts))
        for name, usd, parts in (*sums, ("a day", each.usd_per_day, each.days)):
            facts += [(name, ", ".join(found))] if (found := amounts(usd, each.others, parts)) else []
    for name, kind, part, of_which in (
        ("tokens sent", "input", "cached", "from a cache"),
        ("tokens received", "output", "reasoning", "of reasoning"),
    ):
        if kind in whole.tokens:
            some = f" ({whole.tokens[part]:,} {of_which})" if whole.tokens.get(part) else ""
            facts.append((name, f"{whole.tokens[kind]:,}{some}"))
    return UseView(
        facts=tuple(facts),
        calls=tuple(
            (status, whole.calls[status], text) for status, text in CALL_TEXTS.items() if status in whole.calls
        ),
        unknown=money(whole.reserved) if whole.reserved else None,
        unpriced=whole.unpriced,
        spread=spread,
    )


def _cost_pictures(
    entrants: Sequence[BoardRow], name: BoardName, window: int, costs: Sequence[EntrantCost]
) -> tuple[Markup, Markup] | None:
    """The picture of edge against cost, for a desk and for a phone; None where nobody's cost is known."""
    places = cost_places(entrants, costs)
    if not any(one.cost for one in places):
        return None
    best = {one.label for one in efficient_places(places)}
    text = "; ".join(
        f"{one.label} at {money(one.cost) if one.cost else 'no cost'}, edge {one.edge:+.4f}"
        f"{', efficient' if one.label in best else ''}"
        for one in sorted(places, key=lambda one: one.cost)
    )
    alternative = f"Mean edge over the market price against the cost of a forecast, {days_ahead(window)}: {text}."
    wide, narrow = (
        cost_svg(places, identity=f"cost-{name}-{window}-{kind}", alternative=alternative, width=width)
        for kind, width in (("wide", 860), ("narrow", 340))
    )
    return Markup(wide), Markup(narrow)  # noqa: S704 - our own drawing, its texts are escaped


def _order(row: BoardRow) -> tuple[bool, int, float, str, str]:
    edge = row.mean_edge if row.mean_edge is not None else float("-inf")
    return row.rank is None, row.rank or 0, -edge, row.experiment, row.version


def _describe_interval(one: Interval) -> str:
    if one.low is None or one.high is None:
        return f"{one.label} {one.value:+.4f}, no interval"
    return f"{one.label} {one.value:+.4f}, from {one.low:+.4f} to {one.high:+.4f}"


def _identity(kind: str, row: BoardRow) -> str:
    apart = "-reconstructed" * row.reconstructed
    return f"{kind}-{row.window_days}{apart}-{page_name(row.experiment, row.version)}"


def _present(panels: Iterable[Panel | None]) -> Iterable[Panel]:
    return (panel for panel in panels if panel is not None)


class Panels:
    """The small charts of a leaderboard, each drawn once: the front page and an experiment's own show the same."""

    def __init__(self, leaderboard: Leaderboard) -> None:
        self._curves = {_entrant(curve): curve for curve in leaderboard.curves if curve.points}
        self._edges: dict[_Entrant, list[EdgePoint]] = {}
        self._strata: dict[_Entrant, list[BoardRow]] = {}
        for point in leaderboard.edges:
            self._edges.setdefault(_entrant(point), []).append(point)
        for row in leaderboard.rows:
            if not row.is_whole:
                self._strata.setdefault(_entrant(row), []).append(row)
        self._drawn: dict[tuple[str, _Entrant], Panel | None] = {}

    def reliability(self, row: BoardRow) -> Panel | None:
        """The reliability diagram of a row's entrant on its board and window; None where there is no curve."""
        return self._once("reliability", row, self._draw_reliability)

    def over_time(self, row: BoardRow) -> Panel | None:
        """The edge so far, day by day; None where no day has settled."""
        return self._once("edges", row, self._draw_edges)

    def by_price(self, row: BoardRow) -> Panel | None:
        """The edge by the market's price; None where there is none."""
        return self._once("by-price", row, self._draw_by_price)

    def by_category(self, row: BoardRow) -> Panel | None:
        """The edge by category, the largest first; None where there is none."""
        return self._once("by-category", row, self._draw_by_category)

    def _once(self, kind: str, row: BoardRow, draw: Callable[[BoardRow], Panel | None]) -> Panel | None:
        key = kind, _entrant(row)
        if key not in self._drawn:
            self._drawn[key] = draw(row)
        return self._drawn[key]

    def _draw_reliability(self, row: BoardRow) -> Panel | None:
        curve = self._curves.get(_entrant(row))
        if curve is None:
            return None
        text = "; ".join(
            f"of {point.n_markets:,} forecasts near {point.forecast:.0%}, {point.observed:.0%} came true"
            for point in curve.points
        )
        alternative = f"Reliability of {row.label}: {text}."
        identity = _identity("reliability", row)
        drawn = reliability_svg(curve, identity=identity, alternative=alternative, tone=tone_of(row))
        known = row.ece is not None and row.ece_expected is not None
        return _panel(row, drawn, f"ECE {row.ece:.3f}; {row.ece_expected:.3f} if calibrated" if known else "")

    def _draw_edges(self, row: BoardRow) -> Panel | None:
        points = sorted(self._edges.get(_entrant(row), ()), key=lambda point: point.run_date)
        if not points:
            return None
        alternative = (
            f"Edge of {row.label} from {points[0].run_date} to {points[-1].run_date}: "
            f"{points[-1].cumulative_edge:+.4f} over all of it."
        )
        drawn = edges_svg(points, identity=_identity("edges", row), alternative=alternative, tone=tone_of(row))
        return _panel(row, drawn, f"{len(points):,} {'day' if len(points) == 1 else 'days'}")

    def _draw_by_price(self, row: BoardRow) -> Panel | None:
        return _cut_panel(row, "price", price_intervals(self._strata.get(_entrant(row), ())))

    def _draw_by_category(self, row: BoardRow) -> Panel | None:
        return _cut_panel(row, "category", category_intervals(self._strata.get(_entrant(row), ())))


def _cut_panel(row: BoardRow, kind: str, intervals: Sequence[Interval]) -> Panel | None:
    if not intervals:
        return None
    alternative = f"Mean edge of {row.label} by {kind}: {'; '.join(map(_describe_interval, intervals))}."
    identity = _identity(f"by-{kind}", row)
    return _panel(row, intervals_svg(intervals, identity=identity, alternative=alternative, width=340), "")


def _panel(row: BoardRow, drawn: str, note: str) -> Panel:
    page = page_name(row.experiment, row.version)
    return Panel(row.experiment, row.version, page, Markup(drawn), note)  # noqa: S704 - ours, its texts are escaped


_Entrant = tuple[str, bool, int, str, str]


def _entrant(one: Curve | EdgePoint | BoardRow) -> _Entrant:
    """Whose it is, on which board and window."""
    return one.board, one.reconstructed, one.window_days, one.experiment, one.version


def instant(moment: datetime | None) -> str:
    """A moment, as pages write it."""
    return _NONE if moment is None else f"{moment:%Y-%m-%d %H:%M} UTC"
