"""Charts of the boards: as SVG for the page, as PNG for the metadata of assets.

The SVG has its text as text and its colours as the page's CSS variables, so that it follows the page into the dark;
its size is the container's. Only this module loads matplotlib, and only when something is drawn.
"""

import io
import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from html import escape
from itertools import product
from typing import TYPE_CHECKING, Any, Final, Literal

from predictbench_assets.reporting.coverage import STATES, WEEKLY, CoverageCalendar, PartitionState
from predictbench_assets.runs import RunKey
from predictbench_assets.scoring.boards import (
    ALL,
    PRICE_BIN_LABELS,
    BoardRow,
    Curve,
    EdgePoint,
    EntrantCost,
    Leaderboard,
)
from predictbench_assets.scoring.costs import cost_of, efficient

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Tone = Literal["entrant", "control", "reference", "alarm"]

COLOURS: Final = {
    "ink": "#1b2330",
    "muted": "#566072",
    "grid": "#e1e5ec",
    "zero": "#8b95a6",
    "entrant": "#2459c4",
    "control": "#6d7689",
    "reference": "#8a5a00",
    "alarm": "#b3231b",
    "paper": "#fefefe",
}
"""Colours of the light scheme. Each is replaced by `var(--chart-NAME)` in an SVG; that is why no two are equal."""

_Corners = tuple[float, float, float, float]
_Side = Literal["left", "right"]
_SIDES: Final[tuple[_Side, ...]] = ("left", "right")

PNG_DPI = 110
_FONT = 12.0
_SMALL = 10.5
_CHARACTER = 6.7
"""About as wide as a character of that font, in pixels."""

_CELL = 10.0
"""Side of a partition in the calendar, in pixels."""
_MARKS: Final[dict[PartitionState, dict[str, Any]]] = {
    "live": {"marker": "s", "color": COLOURS["entrant"]},
    "reconstructed": {"marker": "s", "color": COLOURS["entrant"], "fillstyle": "none"},
    "partial": {"marker": "D", "color": COLOURS["entrant"], "markersize": 4.5},
    "running": {"marker": ">", "color": COLOURS["muted"], "fillstyle": "none"},
    "failed": {"marker": "^", "color": COLOURS["reference"]},
    "missed": {"marker": "x", "color": COLOURS["reference"]},
    "absent": {"marker": "o", "color": COLOURS["zero"], "markersize": 1.4},
}
"""Marks of the calendar: blue where something is stored. Each has a shape of its own, for those who see no colours."""

_NARROW = 400
_LONGEST_LABEL = 30
_MOST_PANELS = 12
_MOST_CATEGORIES = 14


@dataclass(frozen=True)
class Interval:
    """A dot with its whiskers, and what it is of."""

    label: str
    value: float
    low: float | None
    high: float | None
    tone: Tone = "entrant"


def tone_of(row: BoardRow) -> Tone:
    """Colour of a row: red only where a control beats the market."""
    if "control_beats_market" in row.flags:
        return "alarm"
    return "reference" if row.reference else "control" if row.control else "entrant"


def board_intervals(rows: Sequence[BoardRow]) -> list[Interval]:
    """The mean edges of entrants, in the order given; those without one are left out, as is the price itself."""
    return [
        Interval(row.label, row.mean_edge, row.edge_low, row.edge_high, tone_of(row))
        for row in rows
        if row.mean_edge is not None and not row.reference
    ]


def price_intervals(rows: Iterable[BoardRow]) -> list[Interval]:
    """The edges by price bin, the cheapest first, among the rows of one entrant, board and window."""
    cut = [row for row in rows if row.price_bin != ALL]
    cut.sort(key=lambda row: PRICE_BIN_LABELS.index(row.price_bin))
    return _cut_intervals([(row.price_bin.replace("-", "\N{EN DASH}") + " %", row) for row in cut])


def category_intervals(rows: Iterable[BoardRow]) -> list[Interval]:
    """The edges by category, the largest first, among the rows of one entrant, board and window."""
    cut = [row for row in rows if row.category != ALL and row.n_markets]
    cut.sort(key=lambda row: (-row.n_markets, row.category))
    return _cut_intervals([(row.category, row) for row in cut[:_MOST_CATEGORIES]])


def _cut_intervals(cut: Sequence[tuple[str, BoardRow]]) -> list[Interval]:
    return [
        Interval(f"{label[:20]} · {row.n_markets:,}", row.mean_edge, row.edge_low, row.edge_high, tone_of(row))
        for label, row in cut
        # A single event has no interval, and its edge would set the scale for all the others.
        if row.mean_edge is not None and row.edge_low is not None
    ]


def intervals_svg(
    intervals: Sequence[Interval], *, identity: str, alternative: str, width: int = 860, above: bool = False
) -> str:
    """Dots and whiskers beside a line at zero, one below the other.

    Args:
        intervals: from the top down.
        identity: a word that no other chart of the page has.
        alternative: the chart's content, in words.
        width: in pixels, where it is shown at its natural size.
        above: with the labels above the whiskers, for a narrow column.
    """
    longest = max((len(_short(one.label)) for one in intervals), default=0)
    left = 14.0 if above else longest * _CHARACTER + 22
    step = 40.0 if above else 28.0
    height = len(intervals) * step + 50
    figure, (axes,) = _figure([_Box(left, 8, width - left - 14, height - 50)], width, height)
    _draw_intervals(axes, intervals, above=above, wide=width > _NARROW)
    return _svg(figure, identity, alternative)


@dataclass(frozen=True)
class CostPlace:
    """An entrant in the picture of edge against cost."""

    label: str
    cost: float
    """Dollars a forecast; 0 for one that took nothing."""
    edge: float
    low: float | None
    high: float | None


def cost_places(rows: Iterable[BoardRow], costs: Sequence[EntrantCost]) -> list[CostPlace]:
    """Places of the entrants of a board and window, in their order; without controls and the price.

    An entrant whose cost is not known in dollars has none: it is not free.
    """
    places = []
    for row in rows:
        cost = cost_of(row, costs)
        each = 0.0 if cost is None else cost.usd_per_forecast
        if row.mean_edge is not None and each is not None and not row.control and not row.reference:
            places.append(CostPlace(row.label, each, row.mean_edge, row.edge_low, row.edge_high))
    return places


def efficient_places(places: Sequence[CostPlace]) -> list[CostPlace]:
    """Places of those than whom nobody, the price included, is better for as little; the cheapest first."""
    by_label = {one.label: one for one in places}
    return [by_label[name] for name in efficient((one.label, one.cost, one.edge) for one in places)]


def cost_svg(places: Sequence[CostPlace], *, identity: str, alternative: str, width: int = 860) -> str:
    """The mean edge with its interval against the cost of a forecast, on a logarithmic axis.

    Who took nothing is at the left edge. The line of the best edge that each cost has bought begins at the price,
    which is free and has none; those on it are filled.
    """
    left, height = 66.0, 360 if width > _NARROW else 300
    box = _Box(left, 10, width - left - 24, height - 62)
    figure, (axes,) = _figure([box], width, height)
    _draw_costs(axes, places, box.width, box.height)
    return _svg(figure, identity, alternative)


def reliability_svg(curve: Curve, *, identity: str, alternative: str, tone: Tone = "entrant") -> str:
    """Share settled at 1 against the forecast, with its band; a calibrated forecaster is on the diagonal."""
    figure, (axes,) = _figure([_Box(62, 10, 240, 240)], 314, 296)
    _draw_reliability(axes, curve, tone)
    return _svg(figure, identity, alternative)


def edges_svg(points: Sequence[EdgePoint], *, identity: str, alternative: str, tone: Tone = "entrant") -> str:
    """The mean edge over all markets so far, day by day, with its interval; the days themselves are dots."""
    figure, (axes,) = _figure([_Box(60, 10, 268, 160)], 340, 206)
    _draw_edges(axes, points, tone)
    return _svg(figure, identity, alternative)


def board_png(leaderboard: Leaderboard) -> bytes:
    """The core board, a panel for each window."""
    panels: list[tuple[str, list[Interval]]] = []
    for window in sorted({row.window_days for row in leaderboard.rows}):
        rows = [row for row in leaderboard.rows if row.window_days == window and row.board == "core" and row.is_whole]
        if intervals := board_intervals(rows):
            panels.append((f"Edge over the market's price, core board, {window} days ahead", intervals[:40]))
    if not panels:
        return _nothing_png()
    longest = max(len(_short(one.label)) for _, intervals in panels for one in intervals)
    left, boxes, top = longest * _CHARACTER + 22, [], 0.0
    for _, intervals in panels:
        inner = len(intervals) * 26.0
        boxes.append(_Box(left, top + 30, 760 - left - 16, inner))
        top += inner + 82
    figure, axes = _figure(boxes, 760, top)
    for one, (title, intervals) in zip(axes, panels, strict=True):
        _draw_intervals(one, intervals, above=False, wide=True)
        _title(one, title)
    return _png(figure)


def reliability_png(leaderboard: Leaderboard) -> bytes:
    """Reliability diagrams of the core board, twelve panels at the most."""
    curves = [curve for curve in leaderboard.curves if curve.board == "core" and curve.points][:_MOST_PANELS]

    def draw(axes: "Axes", curve: Curve) -> None:
        _draw_reliability(axes, curve, "entrant")
        _title(axes, f"{_short(f'{curve.experiment} {curve.version}')}, {curve.window_days} days")

    return _panels_png(curves, draw, inner=(210, 210))


def edge_over_time_png(leaderboard: Leaderboard) -> bytes:
    """The mean edge so far, day by day, on the core board, twelve panels at the most."""
    series: dict[tuple[str, str, int], list[EdgePoint]] = {}
    for point in leaderboard.edges:
        if point.board == "core":
            series.setdefault((point.experiment, point.version, point.window_days), []).append(point)

    def draw(axes: "Axes", item: tuple[tuple[str, str, int], list[EdgePoint]]) -> None:
        (experiment, version, window), points = item
        _draw_edges(axes, points, "entrant")
        _title(axes, f"{_short(f'{experiment} {version}')}, {window} days")

    return _panels_png(list(series.items())[:_MOST_PANELS], draw, inner=(300, 160))


def edge_by_price_png(leaderboard: Leaderboard) -> bytes:
    """The edge by price bin of each entrant of the core board, twelve panels at the most."""
    return _cut_png(leaderboard, price_intervals)


def edge_by_category_png(leaderboard: Leaderboard) -> bytes:
    """The edge by category of each entrant of the core board, twelve panels at the most."""
    return _cut_png(leaderboard, category_intervals)


def cost_png(leaderboard: Leaderboard) -> bytes:
    """The edge against the cost of a forecast on the core board, a panel for each window where a cost is known."""
    found: list[tuple[int, list[CostPlace]]] = []
    for window in sorted({one.window_days for one in leaderboard.costs}):
        rows = [row for row in leaderboard.rows if (row.window_days, row.board) == (window, "core") and row.is_whole]
        places = cost_places(rows, [one for one in leaderboard.costs if one.window_days == window])
        if any(one.cost for one in places):
            found.append((window, places))
    inner = (380.0, 220.0)

    def draw(axes: "Axes", item: tuple[int, list[CostPlace]]) -> None:
        window, places = item
        _draw_costs(axes, places, *inner)
        _title(axes, f"Edge and cost, {window} days")

    return _panels_png(found[:_MOST_PANELS], draw, inner=inner, left=70)


def coverage_svg(calendar: CoverageCalendar, month: date, *, identity: str, alternative: str) -> str:
    """A month of the calendar, its days by window.

    Args:
        month: its first day.
    """
    wide, high = 31 * _CELL, len(calendar.windows) * _CELL
    figure, (axes,) = _figure([_Box(24, 4, wide, high)], wide + 28, high + 24)
    _draw_month(axes, calendar, month)
    return _svg(figure, identity, alternative)


def coverage_mark_svg(state: PartitionState, *, identity: str) -> str:
    """The mark of a state, for a legend."""
    figure, (axes,) = _figure([_Box(0, 0, 14, 14)], 14, 14)
    axes.set_axis_off()
    _draw_marks(axes, state, [(0.0, 0.0)])
    return _svg(figure, identity, state)


def coverage_png(calendar: CoverageCalendar) -> bytes:
    """The newest months of the calendar, three beside each other, with a legend."""
    months = calendar.months()
    inner, wide, high = 31 * _CELL, 31 * _CELL + 44, len(calendar.windows) * _CELL + 54
    columns = min(3, len(months))
    boxes = [
        _Box(30 + number % columns * wide, 30 + number // columns * high, inner, high - 54)
        for number in range(len(months))
    ]
    width, top = max(columns * wide, 560.0), math.ceil(len(months) / columns) * high
    figure, (legend, *panels) = _figure([_Box(0, top, width, 20), *boxes], width, top + 24)
    for axes, month in zip(panels, months, strict=True):
        _draw_month(axes, calendar, month)
        _title(axes, f"{month:%B %Y}")
    legend.set_axis_off()
    legend.set_xlim(0, width)
    x = 24.0
    for state in STATES:
        _draw_marks(legend, state, [(x, 0.0)])
        legend.text(x + 9, 0, state, va="center", fontsize=_SMALL, color=COLOURS["ink"])
        x += len(state) * _CHARACTER + 28
    return _png(figure)


def _draw_month(axes: "Axes", calendar: CoverageCalendar, month: date) -> None:
    places: dict[PartitionState, list[tuple[float, float]]] = {}
    for day in calendar.days(month):
        for row, window in enumerate(calendar.windows):
            places.setdefault(calendar.state(RunKey(day, window)), []).append((day.day, row))
    axes.set_xlim(0.5, 31.5)
    axes.set_ylim(len(calendar.windows) - 0.5, -0.5)
    axes.grid(False)
    axes.set_xticks(WEEKLY)
    axes.set_yticks(range(len(calendar.windows)), list(map(str, calendar.windows)))
    for state, found in places.items():
        _draw_marks(axes, state, found)


def _draw_marks(axes: "Axes", state: PartitionState, places: Sequence[tuple[float, float]]) -> None:
    shape = {"markersize": 0.68 * _CELL, "markeredgewidth": 1.4} | _MARKS[state]
    axes.plot(*zip(*places, strict=True), linestyle="", clip_on=False, **shape)


def calibration_and_edge(leaderboard: Leaderboard, boards: Sequence[str], *, svg: bool) -> bytes:
    """Calibration, and beside it the edge by run date, of each entrant, board and window: a file of PNG or of SVG."""
    panels: list[tuple[str, Curve | list[EdgePoint]]] = []
    for curve in leaderboard.curves:
        if curve.board in boards and curve.points:
            place = curve.experiment, curve.version, curve.board, curve.window_days
            title = f"{_short(f'{curve.experiment} {curve.version}')}, {curve.board}, {curve.window_days} days"
            edges = [
                one for one in leaderboard.edges if (one.experiment, one.version, one.board, one.window_days) == place
            ]
            panels += [(title, curve), ("Mean edge so far; dots: each run date", edges)]

    def draw(axes: "Axes", item: tuple[str, Curve | list[EdgePoint]]) -> None:
        title, drawn = item
        if isinstance(drawn, Curve):
            _draw_reliability(axes, drawn, "entrant")
        else:
            _draw_edges(axes, drawn, "entrant")
        _title(axes, title)

    figure = _panels(panels[:_MOST_PANELS], draw, inner=(250, 220), columns=2) if panels else _nothing()
    return _svg_file(figure) if svg else _png(figure)


def _cut_png(leaderboard: Leaderboard, intervals_of: Callable[[Iterable[BoardRow]], list[Interval]]) -> bytes:
    rows: dict[tuple[str, int], list[BoardRow]] = {}
    for row in leaderboard.rows:
        if row.board == "core" and not row.is_whole and not row.reference and not row.control:
            rows.setdefault((row.label, row.window_days), []).append(row)
    found = [(title, intervals) for title, cut in rows.items() if (intervals := intervals_of(cut))][:_MOST_PANELS]

    def draw(axes: "Axes", item: tuple[tuple[str, int], list[Interval]]) -> None:
        (label, window), intervals = item
        _draw_intervals(axes, intervals, above=False, wide=False)
        _title(axes, f"{_short(label)}, {window} days")

    highest = max((len(intervals) for _, intervals in found), default=0)
    return _panels_png(found, draw, inner=(200, highest * 24.0), left=150)


@dataclass(frozen=True)
class _Box:
    """A panel in pixels, from the top left."""

    left: float
    top: float
    width: float
    height: float


def _figure(boxes: Sequence[_Box], width: float, height: float) -> "tuple[Figure, list[Axes]]":
    """A figure of so many pixels with a panel in each box. One pixel is one point, so font sizes are pixels too."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 72, height / 72), dpi=72, facecolor="none")
    panels = []
    for box in boxes:
        axes = figure.add_axes(
            (
                box.left / width,
                1 - (box.top + box.height) / height,
                box.width / width,
                box.height / height,
            )
        )
        axes.set_facecolor("none")
        for side in ("top", "right", "left", "bottom"):
            axes.spines[side].set_visible(False)
        axes.tick_params(length=0, labelsize=_SMALL, colors=COLOURS["muted"], pad=5)
        axes.grid(True, color=COLOURS["grid"], linewidth=1)
        axes.set_axisbelow(True)
        panels.append(axes)
    return figure, panels


def _title(axes: "Axes", text: str) -> None:
    axes.set_title(text, fontsize=_FONT, color=COLOURS["ink"], loc="left", parse_math=False)


def _draw_intervals(axes: "Axes", intervals: Sequence[Interval], *, above: bool, wide: bool) -> None:
    for position, one in enumerate(intervals):
        colour = COLOURS[one.tone]
        if one.low is not None and one.high is not None:
            axes.plot([one.low, one.high], [position, position], color=colour, linewidth=2.5, solid_capstyle="round")
        axes.plot([one.value], [position], marker="o", markersize=8, color=colour, markeredgecolor=COLOURS["paper"])
        if above:
            place: dict[str, Any] = {"x": 0.0, "y": position - 0.42, "ha": "left"}
        else:
            place = {"x": -0.012, "y": position, "ha": "right"}
        axes.text(
            **place,
            s=_short(one.label),
            va="center",
            fontsize=_FONT,
            color=COLOURS["alarm" if one.tone == "alarm" else "ink"],
            transform=axes.get_yaxis_transform(),
            parse_math=False,
        )
    reach = _reach([edge for one in intervals for edge in (one.value, one.low, one.high) if edge is not None])
    axes.set_xlim(*reach)
    axes.set_ylim(len(intervals) - 0.5, -0.75 if above else -0.5)
    axes.set_yticks([])
    axes.grid(True, axis="x", color=COLOURS["grid"], linewidth=1)
    axes.axvline(0, color=COLOURS["zero"], linewidth=1.5, zorder=1)
    _few_ticks(axes, "x", 7 if wide else 3)
    label = "worse than the price   ←   mean edge   →   better" if wide else "worse   ←   mean edge   →   better"
    axes.set_xlabel(label, fontsize=_SMALL, color=COLOURS["muted"])


def _draw_costs(axes: "Axes", places: Sequence[CostPlace], width: float, height: float) -> None:
    powers = [math.log10(one.cost) for one in places if one.cost > 0] or [0.0]
    low, high = math.floor(min(powers) - 0.05), math.ceil(max(powers) + 0.05)
    start = low - 0.16 * (high - low)

    def across(cost: float) -> float:
        return math.log10(cost) if cost > 0 else start

    axes.set_xlim(start - 0.04 * (high - low), high)
    bottom, top = _reach([edge for one in places for edge in (one.edge, one.low, one.high) if edge is not None])
    axes.set_ylim(bottom, top)
    step = max(1, math.ceil((high - low) * 70 / width))
    ticks = list(range(low, high + 1, step))
    axes.set_xticks([start, *ticks], ["$0", *(f"${Decimal(1).scaleb(tick):f}" for tick in ticks)])
    axes.axvline((start + low) / 2, color=COLOURS["grid"], linewidth=1, dashes=(3, 3))
    axes.axhline(0, color=COLOURS["zero"], linewidth=1.5, zorder=1)
    best = efficient_places(places)
    stairs = [(axes.get_xlim()[0], 0.0)]
    for one in best:
        stairs += [(across(one.cost), stairs[-1][1]), (across(one.cost), one.edge)]
    stairs.append((high, stairs[-1][1]))
    axes.plot(*zip(*stairs, strict=True), color=COLOURS["reference"], linewidth=1.5, zorder=2, dashes=(5, 3))
    for one in places:
        x = across(one.cost)
        if one.low is not None and one.high is not None:
            axes.plot([x, x], [one.low, one.high], color=COLOURS["entrant"], linewidth=2, alpha=0.5)
        fill, edge = COLOURS["entrant"], COLOURS["paper"]
        face, line = (fill, edge) if one in best else (edge, fill)
        axes.plot([x], [one.edge], "o", markersize=8, color=face, markeredgecolor=line, markeredgewidth=1.5)
    reach = axes.get_xlim()
    points = [
        ((across(one.cost) - reach[0]) / (reach[1] - reach[0]) * width, (one.edge - bottom) / (top - bottom) * height)
        for one in places
    ]
    order = sorted(range(len(places)), key=lambda number: (places[number] not in best, -places[number].edge))
    for number, x, y, side in _labels_that_fit(order, points, [one.label for one in places], width, height):
        axes.text(
            x / width,
            y / height,
            _short(places[number].label),
            ha=side,
            va="center",
            fontsize=_FONT,
            color=COLOURS["ink"],
            transform=axes.transAxes,
            parse_math=False,
        )
    _few_ticks(axes, "y", 6)
    axes.set_xlabel("cost of a forecast", fontsize=_SMALL, color=COLOURS["muted"])
    axes.set_ylabel("mean edge", fontsize=_SMALL, color=COLOURS["muted"])


def _labels_that_fit(
    order: Iterable[int], points: Sequence[tuple[float, float]], labels: Sequence[str], width: float, height: float
) -> Iterator[tuple[int, float, float, _Side]]:
    """Labels beside their dots, those that come first in the order before others; who finds no room has none."""
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in points]
    for number in order:
        x, y = points[number]
        wide = len(_short(labels[number])) * _CHARACTER
        for up, side in product((11.0, -11.0, 0.0), _SIDES):
            at = x + 9 if side == "left" else x - 9
            start = at if side == "left" else at - wide
            box = (start, y + up - 7, start + wide, y + up + 7)
            inside = start >= 0 and box[2] <= width and box[1] >= 0 and box[3] <= height
            if inside and not any(_meet(box, other) for other in taken):
                taken.append(box)
                yield number, at, y + up, side
                break


def _meet(one: _Corners, other: _Corners) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _draw_reliability(axes: "Axes", curve: Curve, tone: Tone) -> None:
    colour = COLOURS[tone]
    axes.plot([0, 1], [0, 1], color=COLOURS["zero"], linewidth=1.5, dashes=(4, 3))
    points = sorted(curve.points, key=lambda point: point.forecast)
    banded = [point for point in points if point.low is not None and point.high is not None]
    if len(banded) > 1:
        axes.fill_between(
            [point.forecast for point in banded],
            [point.low or 0.0 for point in banded],
            [point.high or 0.0 for point in banded],
            color=colour,
            alpha=0.16,
            linewidth=0,
        )
    axes.plot([point.forecast for point in points], [point.observed for point in points], color=colour, linewidth=1.8)
    most = max((point.n_markets for point in points), default=1)
    for point in points:
        # The area of a dot is the share of markets that it stands for.
        size = 3.5 + 6.5 * math.sqrt(point.n_markets / max(most, 1))
        axes.plot(
            [point.forecast], [point.observed], "o", markersize=size, color=colour, markeredgecolor=COLOURS["paper"]
        )
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(-0.03, 1.03)
    ticks = [0, 0.25, 0.5, 0.75, 1]
    axes.set_xticks(ticks, ["0", "25", "50", "75", "100 %"])
    axes.set_yticks(ticks, ["0", "25", "50", "75", "100 %"])
    axes.set_xlabel("forecast", fontsize=_SMALL, color=COLOURS["muted"])
    axes.set_ylabel("came true", fontsize=_SMALL, color=COLOURS["muted"])


def _draw_edges(axes: "Axes", points: Sequence[EdgePoint], tone: Tone) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num

    colour = COLOURS[tone]
    points = sorted(points, key=lambda point: point.run_date)
    # As numbers: the converter for dates is a registry of the whole process.
    days = [float(date2num(point.run_date)) for point in points]  # type: ignore[no-untyped-call]
    axes.axhline(0, color=COLOURS["zero"], linewidth=1.5, zorder=1)
    banded = [
        (day, point.cumulative_low, point.cumulative_high)
        for day, point in zip(days, points, strict=True)
        if point.cumulative_low is not None and point.cumulative_high is not None
    ]
    if banded:
        axes.fill_between(
            [day for day, _, _ in banded],
            [low for _, low, _ in banded],
            [high for _, _, high in banded],
            color=colour,
            alpha=0.16,
            linewidth=0,
        )
    axes.plot(days, [point.mean_edge for point in points], "o", markersize=3, color=colour, alpha=0.4, linewidth=0)
    axes.plot(days, [point.cumulative_edge for point in points], color=colour, linewidth=2)
    # The intervals of the first days and single bad days would flatten all the rest.
    later = banded[len(banded) // 4 :]
    wanted = [edge for point in points for edge in (point.cumulative_edge,)]
    axes.set_ylim(*_reach([*wanted, *(edge for _, low, high in later for edge in (low, high))]))
    if len(set(days)) == 1:
        axes.set_xlim(days[0] - 1, days[0] + 1)
    locator = AutoDateLocator(minticks=2, maxticks=4)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, show_offset=False))  # type: ignore[no-untyped-call]
    _few_ticks(axes, "y", 5)


def _few_ticks(axes: "Axes", which: Literal["x", "y"], most: int) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _signed(value)))


def _signed(value: float) -> str:
    """Format with a sign and no more digits than the number has."""
    if abs(value) < 1e-12:
        return "0"
    sign = "+" if value > 0 else "\N{MINUS SIGN}"
    return sign + f"{abs(value):.6f}".rstrip("0").rstrip(".")


def _reach(values: Sequence[float]) -> tuple[float, float]:
    """Limits that hold all values and zero, with some air."""
    low, high = min([0.0, *values]), max([0.0, *values])
    air = 0.06 * (high - low) or 0.01
    return low - air, high + air


def _short(label: str) -> str:
    label = " ".join(label.split())
    return label if len(label) <= _LONGEST_LABEL else label[: _LONGEST_LABEL - 1] + "…"


def _panels_png(
    items: Sequence[Any], draw: Callable[["Axes", Any], None], inner: tuple[float, float], left: float = 58
) -> bytes:
    """A panel for each item, as `_panels` has them."""
    return _png(_panels(items, draw, inner, left)) if items else _nothing_png()


def _panels(
    items: Sequence[Any],
    draw: Callable[["Axes", Any], None],
    inner: tuple[float, float],
    left: float = 58,
    columns: int = 3,
) -> "Figure":
    """A panel for each item, so many beside each other; `left` of each is room for labels."""
    columns = min(columns, len(items))
    rows = math.ceil(len(items) / columns)
    wide, high = inner[0] + left + 18, inner[1] + 78
    boxes = [
        _Box(left + index % columns * wide, 32 + index // columns * high, inner[0], inner[1])
        for index in range(len(items))
    ]
    figure, panels = _figure(boxes, columns * wide, rows * high)
    for axes, item in zip(panels, items, strict=True):
        draw(axes, item)
    return figure


def _nothing_png() -> bytes:
    return _png(_nothing())


def _nothing() -> "Figure":
    figure, (axes,) = _figure([_Box(0, 0, 420, 60)], 420, 60)
    axes.set_axis_off()
    axes.text(0.5, 0.5, "Nothing has settled yet", ha="center", va="center", fontsize=_FONT, color=COLOURS["muted"])
    return figure


@contextmanager
def _drawing(salt: str = "") -> Iterator[None]:
    import matplotlib as mpl

    with warnings.catch_warnings(), mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        # A browser has the letters that matplotlib's own font lacks; a PNG shows a box.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def _png(figure: "Figure") -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    figure.set_facecolor("white")
    figure.set_dpi(PNG_DPI)
    canvas = FigureCanvasAgg(figure)
    with _drawing():
        canvas.draw()  # type: ignore[no-untyped-call]
    size, buffer = canvas.get_width_height(), io.BytesIO()
    pixels = canvas.buffer_rgba()  # type: ignore[no-untyped-call]
    image = Image.frombuffer("RGBA", size, pixels, "raw", "RGBA", 0, 1).convert("RGB")
    # With a palette, a third of the bytes: every board leaves its pictures in Dagster's event log.
    image.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(buffer, "PNG")
    return buffer.getvalue()


def _svg_file(figure: "Figure") -> bytes:
    """The figure as a file of its own; the same figure gives the same bytes."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    buffer = io.BytesIO()
    figure.set_facecolor("white")
    with _drawing("file"):
        FigureCanvasSVG(figure).print_svg(  # type: ignore[no-untyped-call]
            buffer, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
        )
    return buffer.getvalue()


_IDS = re.compile(r' id="([^"]*)"')
_USES = re.compile(r'(url\(#|href="#)([^")]+)')
_HEXES = re.compile("|".join(COLOURS.values()))
_SAME_MARKS = re.compile(r'<g>\s*((?:<use [^>]* style="[^"]*"/>\s*){2,})</g>')
_STYLE = re.compile(r' style="[^"]*"')
_VARIABLES = {colour: f"var(--chart-{name})" for name, colour in COLOURS.items()}


def _svg(figure: "Figure", identity: str, alternative: str) -> str:
    """The figure as an element for an HTML page."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    buffer = io.StringIO()
    without = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with _drawing(identity):
        FigureCanvasSVG(figure).print_svg(buffer, metadata=without)  # type: ignore[no-untyped-call]
    drawn = buffer.getvalue()
    start = drawn.index("<svg")
    opening, _, inside = drawn[start:].partition(">")
    view = re.search(r'viewBox="[^"]*"', opening)
    assert view is not None
    for part in (r"<metadata>.*?</metadata>", r"<style.*?</style>", r"<!--.*?-->"):
        inside = re.sub(part, "", inside, flags=re.S)
    used = {match.group(2) for match in _USES.finditer(inside)}
    # One document holds many charts, and their ids must not meet; most of them are not used.
    inside = _IDS.sub(lambda m: f' id="{identity}-{m[1]}"' if m[1] in used else "", inside)
    inside = _USES.sub(rf"\g<1>{identity}-\g<2>", inside)
    inside = _HEXES.sub(lambda match: _VARIABLES[match[0]], inside)
    inside = inside.replace("xlink:href", "href")
    inside = re.sub(r' font-family: [^;"]*;', "", inside)  # the page's
    inside = re.sub(r"\n\s*", "\n", inside)
    inside = _SAME_MARKS.sub(_styled_once, inside)
    return f'<svg class="chart" role="img" aria-label="{escape(alternative)}" {view[0]}>{inside.strip()}'


def _styled_once(group: re.Match[str]) -> str:
    """Marks in a group that has their style: of a thousand marks it would be most of the bytes."""
    styles = set(_STYLE.findall(group[1]))
    return f"<g{styles.pop()}>\n{_STYLE.sub('', group[1])}</g>" if len(styles) == 1 else group[0]
