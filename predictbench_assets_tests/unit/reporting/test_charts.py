"""Charts follow the page's colours, say in words what they show, and never let a name become markup."""

import io
import re
import subprocess
import sys
from datetime import date, timedelta
from xml.etree import ElementTree

import pytest
from PIL import Image

from predictbench_assets.reporting.charts import (
    COLOURS,
    CostPlace,
    Interval,
    board_png,
    category_intervals,
    cost_places,
    cost_png,
    cost_svg,
    coverage_mark_svg,
    coverage_png,
    coverage_svg,
    edge_by_category_png,
    edge_by_price_png,
    edge_over_time_png,
    edges_svg,
    efficient_places,
    intervals_svg,
    price_intervals,
    reliability_png,
    reliability_svg,
)
from predictbench_assets.reporting.coverage import STATES, CoverageCalendar
from predictbench_assets.runs import RunKey
from predictbench_assets.scoring.boards import EntrantCost
from predictbench_assets_tests.kit.handmade_boards import board, curve, edges, row

HOSTILE = '<script>alert("x")</script> $\\frac{1}{0}$ & \u202e\u65e5\u672c \U0001f389'


PLACES = (
    CostPlace("dear 1", 0.0274, 0.006, 0.001, 0.011),
    CostPlace("cheap 1", 0.0014, 0.002, -0.001, 0.005),
    CostPlace("wasteful 1", 0.01, 0.0015, None, None),
    CostPlace("free 1", 0.0, 0.001, -0.002, 0.004),
    CostPlace("losing 1", 0.00001, -0.003, -0.006, 0.0),
)

MONTH = date(2026, 9, 1)


def calendar(days: int = 30, windows: tuple[int, ...] = (1, 7)) -> CoverageCalendar:
    """Every state in turn, to the end of September."""
    last = date(2026, 9, 30)
    keys = [RunKey(last - timedelta(days=back), window) for back in range(days) for window in windows]
    stored = {key: STATES[number % len(STATES)] for number, key in enumerate(keys)}
    return CoverageCalendar(last - timedelta(days=days - 1), last, windows, stored)


def drawn() -> dict[str, str]:
    intervals = [Interval("thinker 1.0.0", 0.01, 0.002, 0.02), Interval("uniform 1", -0.1, None, None, "control")]
    return {
        "wide": intervals_svg(intervals, identity="a", alternative="wide"),
        "narrow": intervals_svg(intervals, identity="b", alternative="narrow", width=340, above=True),
        "reliability": reliability_svg(curve(), identity="c", alternative="curve"),
        "edges": edges_svg(edges(), identity="d", alternative="edges"),
        "one day": edges_svg(edges(days=1), identity="e", alternative="one day"),
        "costs": cost_svg(PLACES, identity="f", alternative="costs"),
        "costs, narrow": cost_svg(PLACES, identity="g", alternative="costs", width=340),
        "calendar": coverage_svg(calendar(), MONTH, identity="h", alternative="calendar"),
    }


@pytest.mark.parametrize("svg", drawn().values(), ids=drawn())
def test_an_svg_has_the_pages_colours_and_size_and_an_alternative(svg: str) -> None:
    element = ElementTree.fromstring(svg)
    assert element.get("role") == "img"
    assert element.get("aria-label")
    assert element.get("viewBox")
    assert not {"width", "height"} & set(element.keys())
    assert not re.search(r"#[0-9a-f]{6}\b", svg), "a colour that the dark scheme does not reach"
    assert "font-family" not in svg
    assert "<style" not in svg
    used = {name for name in COLOURS if f"var(--chart-{name})" in svg}
    assert used >= {"muted", "entrant"}


def test_its_text_is_text() -> None:
    svg = intervals_svg([Interval("thinker 1.0.0", 0.01, 0.0, 0.02)], identity="a", alternative="x")
    texts = ["".join(one.itertext()) for one in ElementTree.fromstring(svg).iter() if one.tag.endswith("text")]
    assert "thinker 1.0.0" in texts
    assert "+0.02" in texts


def test_a_hostile_name_stays_a_name() -> None:
    svg = intervals_svg([Interval(HOSTILE, 0.01, 0.0, 0.02)], identity="a", alternative=HOSTILE)
    element = ElementTree.fromstring(svg)
    assert element.get("aria-label") == HOSTILE
    assert not [one for one in element.iter() if one.tag.endswith("script")]
    assert any("".join(one.itertext()).startswith("<script>") for one in element.iter())


def test_charts_of_one_page_share_no_id() -> None:
    charts = drawn().values()
    found = [re.findall(r' id="([^"]*)"', svg) for svg in charts]
    flat = [one for ids in found for one in ids]
    assert len(flat) == len(set(flat))
    for svg, ids in zip(charts, found, strict=True):
        assert set(re.findall(r"#([^\")]+)", svg)) <= set(ids)


def test_the_same_chart_is_the_same_bytes() -> None:
    assert drawn() == drawn()


def test_pngs_of_a_board_and_of_none() -> None:
    cut = (row(category="sports"), row(price_bin="5-20"), row(price_bin="0-5"))
    full = board(row(), row("other", rank=2, mean_edge=-0.01), *cut, curves=(curve(),), edges=edges())
    empty = board(row(n_markets=0, mean_edge=None, edge_low=None, edge_high=None))
    for draw in (board_png, reliability_png, edge_over_time_png, edge_by_price_png, edge_by_category_png):
        sizes = [Image.open(io.BytesIO(draw(one))).size for one in (full, empty)]
        assert sizes[0][1] > sizes[1][1]
        assert sizes[1][1] > 50


def test_a_month_has_a_mark_for_each_day_and_window_and_no_two_states_have_the_same() -> None:
    month = coverage_svg(calendar(), MONTH, identity="m", alternative="September")
    assert month.count("<use ") == 60
    marks = [coverage_mark_svg(state, identity="mark") for state in STATES]
    # As shapes alone: colours say nothing to some.
    shapes = {re.sub(r"aria-label=\"\w+\"|mark-\w+|var\(--chart-\w+\)", "", mark) for mark in marks}
    assert len(shapes) == len(STATES)


def test_a_long_calendar_is_no_larger_than_that_of_a_year() -> None:
    heights = [Image.open(io.BytesIO(coverage_png(calendar(days=days)))).size[1] for days in (3, 120, 400, 3_650)]
    assert heights[0] < heights[1] < heights[2] == heights[3]
    windows = tuple(range(1, 15))
    assert len(coverage_svg(calendar(windows=windows), MONTH, identity="m", alternative="a")) < 60_000


def test_cuts_come_in_order_and_without_what_cannot_be_told() -> None:
    rows = [
        row(price_bin="95-100"),
        row(),
        row(price_bin="5-20"),
        row(price_bin="40-60", edge_low=None, edge_high=None),
    ]
    assert [one.label[:4] for one in price_intervals(rows)] == ["5–20", "95–1"]  # noqa: RUF001
    rows = [row(category="b", n_markets=7), row(category="a", n_markets=7), row(category="c", n_markets=90), row()]
    assert [one.label for one in category_intervals(rows)] == ["c · 90", "a · 7", "b · 7"]


def test_nothing_of_pyplot_and_no_window() -> None:
    code = (
        "import sys, predictbench_assets.reporting.charts as charts\n"
        "assert 'matplotlib' not in sys.modules, 'loaded before anything is drawn'\n"
        "charts.intervals_svg([charts.Interval('a', 0.1, 0.0, 0.2)], identity='a', alternative='a')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def texts(svg: str) -> list[str]:
    return ["".join(one.itertext()) for one in ElementTree.fromstring(svg).iter() if one.tag.endswith("text")]


def test_who_is_better_for_as_little_is_efficient_and_whoever_loses_is_not_at_any_cost() -> None:
    assert [one.label for one in efficient_places(PLACES)] == ["free 1", "cheap 1", "dear 1"]
    assert efficient_places([CostPlace("losing 1", 0.0, -0.001, None, None)]) == []
    same = [CostPlace("worse", 0.01, 0.001, None, None), CostPlace("better", 0.01, 0.002, None, None)]
    assert [one.label for one in efficient_places(same)] == ["better"]


def test_a_row_without_a_cost_is_free_and_one_whose_dollars_are_not_known_has_no_place() -> None:
    cost = {"window_days": 7, "version": "1.0.0", "days": 2, "requests": 90, "unknown": 0, "usd_unknown": 0.0}
    costs = [
        EntrantCost(experiment="dear", forecasts=80, usd=1.6, others={}, unpriced=0, **cost),
        EntrantCost(experiment="foreign", forecasts=80, usd=None, others={"EUR": 1.0}, unpriced=0, **cost),
    ]
    rows = [
        *(row(name) for name in ("dear", "foreign", "free")),
        row("price", reference=True),
        row("uniform", control=True),
        row("nothing_yet", mean_edge=None),
    ]
    assert [(one.label, one.cost) for one in cost_places(rows, costs)] == [("dear 1.0.0", 0.02), ("free 1.0.0", 0.0)]


def test_the_picture_of_costs_has_powers_of_ten_nothing_at_the_left_and_each_name_that_fits() -> None:
    said = texts(cost_svg(PLACES, identity="a", alternative="x"))
    assert [text for text in said if text.startswith("$")] == [
        "$0",
        "$0.000001",
        "$0.00001",
        "$0.0001",
        "$0.001",
        "$0.01",
        "$0.1",
    ]
    for one in PLACES:
        assert one.label in said
    crowd = [CostPlace(f"number {place}", 0.01, 0.001 + place / 1e6, None, None) for place in range(40)]
    crowded = [text for text in texts(cost_svg(crowd, identity="b", alternative="x")) if text.startswith("number")]
    assert "number 39" in crowded, "the efficient one before all others"
    assert len(crowded) < 10, "no name lies upon another"


def test_the_name_of_an_experiment_in_the_picture_of_costs_is_no_markup() -> None:
    svg = cost_svg([CostPlace(HOSTILE, 0.01, 0.1, None, None)], identity="a", alternative=HOSTILE)
    assert "<script" not in svg
    ElementTree.fromstring(svg)


def test_the_picture_of_costs_for_the_ui_has_a_panel_for_each_window_with_one() -> None:
    cost = {"version": "1.0.0", "days": 1, "requests": 9, "unknown": 0, "usd_unknown": 0.0, "others": {}, "unpriced": 0}
    costs = tuple(
        EntrantCost(experiment="thinker", window_days=window, forecasts=9, usd=0.1, **cost) for window in (7, 30)
    )
    rows = [row(window_days=window) for window in (7, 30, 60)]
    one, two = (Image.open(io.BytesIO(cost_png(board(*rows, costs=costs[:number])))) for number in (1, 2))
    assert two.width > 1.9 * one.width
    assert two.height == one.height
    nothing = Image.open(io.BytesIO(cost_png(board(*rows))))
    assert nothing.height < one.height
