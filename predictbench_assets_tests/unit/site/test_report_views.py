"""What the page says in words, and how its files are called."""

import re
from datetime import UTC, datetime
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictbench_assets.exchange_names import polymarket_address
from predictbench_assets.scoring.boards import Flag, Leaderboard
from predictbench_assets.site.names import page_name
from predictbench_assets.site.views import FLAG_TEXTS, Panels, WindowView, headline, windows
from predictbench_assets_tests.kit.handmade_boards import NOTHING_STORED, board, cohort, comparison, curve, edges, row

WINNER = {
    "mean_edge": 0.01,
    "edge_low": 0.002,
    "edge_high": 0.018,
    "skill": 0.05,
    "skill_low": 0.01,
    "skill_high": 0.09,
}


PRICE = row("baseline_snapshot", reference=True, mean_edge=0.0, rank=2)


def told_apart(*names: str, significant: bool = True) -> dict[str, Any]:
    """Comparisons of these experiments with the price."""
    against = [comparison(PRICE.label, f"{name} 1.0.0", significant=significant) for name in names]
    return {"comparisons": tuple(against)}


def shown(leaderboard: Leaderboard) -> tuple[WindowView, ...]:
    return windows(leaderboard, Panels(leaderboard))


@pytest.mark.parametrize(
    ("leaderboard", "tone", "sentence"),
    [
        (board(), "plain", "has not begun"),
        (board(row(n_markets=0, mean_edge=None, rank=None), cohorts=(cohort(n_final=0),)), "plain", "No result yet"),
        (board(row(rank=None, n_events=12, flags=("too_few_events",))), "plain", "Too early to tell"),
        (board(row()), "plain", "nobody forecasts better"),
        (board(row(**WINNER), PRICE, **told_apart("thinker")), "win", "thinker forecasts better"),
        (
            board(row(**WINNER), row("other", **WINNER), PRICE, **told_apart("thinker", "other")),
            "win",
            "thinker and other forecast better",
        ),
        # An interval above 0 is not enough where as many are looked at as a board has.
        (board(row(**WINNER), PRICE, **told_apart("thinker", significant=False)), "plain", "nobody forecasts better"),
        (board(row(**WINNER), PRICE, **told_apart("other")), "plain", "nobody forecasts better"),
        # Chance makes winners of few events; no rank, no claim.
        (board(row(), row("lucky", **WINNER | {"rank": None})), "plain", "nobody forecasts better"),
        # A winner on another board is none.
        (board(row(), row("late", board="backfill", **WINNER | {"rank": None})), "plain", "nobody forecasts better"),
        # Not even a winner is told where the alarm rings.
        (
            board(row(**WINNER), row("uniform", control=True, rank=None, flags=("control_beats_market",))),
            "alarm",
            "Something is wrong",
        ),
    ],
)
def test_the_headline_says_what_holds(leaderboard: Leaderboard, tone: str, sentence: str) -> None:
    said = headline(leaderboard, NOTHING_STORED)
    assert said.tone == tone
    assert sentence in said.sentence


def test_the_headline_gives_the_error_and_how_sure_it_is() -> None:
    said = headline(board(row(**WINNER), PRICE, **told_apart("thinker")), NOTHING_STORED)
    assert "5.0 % smaller than the price's (95 % interval: 1.0 % to 9.0 %)" in said.detail
    assert "500 settled markets in 200 independent events" in said.detail
    worse = headline(board(row(skill=-0.05, skill_low=-0.09, skill_high=-0.01)), NOTHING_STORED)
    assert "5.0 % larger than the price's (95 % interval: 1.0 % to 9.0 %)" in worse.detail


def test_a_page_that_waits_says_until_when() -> None:
    seen = NOTHING_STORED.__class__((), (), datetime(2026, 11, 30, 12, tzinfo=UTC), {})
    said = headline(board(cohorts=(cohort(n_final=0),)), seen)
    assert "100 markets are frozen" in said.detail
    assert "30 November 2026" in said.detail


def test_a_board_stands_in_the_order_of_ranks_and_sets_controls_apart() -> None:
    rows = [
        row("unranked", rank=None, mean_edge=0.5),
        row("second", rank=2),
        row("uniform", control=True, rank=None),
        row("first", rank=1),
        row("baseline_snapshot", reference=True, rank=None, mean_edge=0.0),
        row("silent", rank=None, n_markets=0, mean_edge=None, edge_low=None, edge_high=None),
    ]
    [window] = shown(board(*rows))
    [core] = window.boards
    assert [one.experiment for one in core.entrants] == ["first", "second", "unranked", "silent"]
    assert [one.experiment for one in core.controls] == ["uniform"]
    assert core.reference is not None
    assert core.wide is not None
    # The price is the line at zero, not a dot on it; who has no edge has none drawn.
    assert "baseline_snapshot" not in core.wide
    assert "silent" not in core.wide


def test_windows_boards_and_strata_are_kept_apart() -> None:
    rows = [
        row(),
        row(window_days=1, mean_edge=0.3),
        row(board="full", rank=None, mean_edge=-0.3),
        row(category="sports", rank=None, mean_edge=0.7),
        row(price_bin="0-5", rank=None, mean_edge=0.9),
        row(board="backfill", n_markets=0, mean_edge=None, rank=None),
    ]
    one_day, week = shown(
        board(*rows, curves=(curve(), curve(board="full", experiment="full only")), edges=edges("nobody"))
    )
    assert [view.name for view in one_day.boards] == ["core"]
    assert [view.name for view in week.boards] == ["core", "full"]
    assert [view.entrants[0].mean_edge for view in week.boards] == [0.001, -0.3]
    assert len(week.by_category) == len(week.by_price) == len(week.reliability) == 1
    assert "sports" in week.by_category[0].chart
    assert week.over_time == ()
    assert one_day.reliability == ()


def test_reconstructed_markets_have_a_board_of_their_own_and_are_no_result() -> None:
    rows = [
        row(board="backfill", rank=None, mean_edge=0.1),
        row(board="backfill", rank=None, mean_edge=0.2, reconstructed=True, n_markets=70),
    ]
    [window] = shown(board(*rows))
    late, apart = window.boards[1:]
    assert (late.reconstructed, late.entrants[0].mean_edge) == (False, 0.1)
    assert (apart.reconstructed, apart.entrants[0].mean_edge, apart.settled) == (True, 0.2, 70)
    assert "put together afterwards" in apart.about
    assert late.wide is not None
    assert apart.wide is not None
    identities = [set(re.findall(r'id="([^"]+)"', one)) for one in (late.wide, apart.wide)]
    assert identities[0].isdisjoint(identities[1])
    said = headline(board(*rows, cohorts=(cohort(reconstructed=True),)), NOTHING_STORED)
    assert said.sentence.startswith("No result yet")
    assert "70 settled markets of reconstructed days" in said.detail


def test_only_the_first_entrants_have_panels_and_the_rest_are_counted() -> None:
    names = [f"number {number}" for number in range(9)]
    rows = [row(name, rank=place + 1) for place, name in enumerate(names)]
    [window] = shown(board(*rows, curves=tuple(curve(name) for name in names)))
    assert [panel.experiment for panel in window.reliability] == names[:6]
    assert window.hidden == 3


def test_comparisons_that_hold_come_apart_from_those_that_do_not() -> None:
    pairs = (
        comparison(
            "a",
            "b",
            significant=False,
        ),
        comparison("a", "c", significant=True),
    )
    [window] = shown(board(row(), comparisons=pairs))
    assert [one.second for one in window.clear] == ["c"]
    assert [one.second for one in window.unclear] == ["b"]


def test_every_flag_is_explained() -> None:
    assert set(FLAG_TEXTS) == set(get_args(Flag))


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=80)


@given(st.lists(texts, min_size=1, max_size=2), st.lists(texts, min_size=1, max_size=2))
def test_a_file_name_is_safe_and_only_the_same_thing_has_it(one: list[str], other: list[str]) -> None:
    name = page_name(*one)
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]{0,60}", name, re.ASCII)
    assert (name == page_name(*other)) == (one == other)


def test_polymarkets_numbers_are_file_names() -> None:
    assert page_name("500123") == "500123"
    assert page_name("thinker", "1.0.0") != page_name("thinker 1.0.0")
    assert page_name("deep_thinker", "1.0.0").startswith("deep-thinker-1-0-0-")


@given(texts)
def test_a_slug_cannot_leave_its_place_in_an_address(slug: str) -> None:
    path = polymarket_address(slug).removeprefix("https://polymarket.com/event/")
    assert not re.search(r"[^A-Za-z0-9._~%-]", path)


def test_rows_are_records() -> None:
    """The fixtures of these tests are what the real boards are."""
    assert msgspec.json.decode(msgspec.json.encode(row()), type=type(row())) == row()
