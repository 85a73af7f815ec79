"""The microprice: inside of the spread, towards the thinner side, and a market without a proper book is skipped."""

from collections.abc import Sequence
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictbench_assets.experiments.protocol import ExperimentResult, ExperimentSkip
from predictbench_assets.experiments.quantitative.book_microprice import BookMicropriceExperiment
from predictbench_assets.experiments.testing import CAPTURED_AT, make_context, make_market
from predictbench_assets.markets.market_data import Level, OrderBook

SIZES = st.floats(0.01, 1e9)


def book(bids: Sequence[Level], asks: Sequence[Level]) -> OrderBook:
    return OrderBook(CAPTURED_AT + timedelta(seconds=20), tuple(bids), tuple(asks))


def answer(one: OrderBook | None, levels: int = 1, price: float = 0.5) -> ExperimentResult | ExperimentSkip:
    market = make_market(price=price)
    context = make_context(required={"baseline_snapshot": ExperimentResult.binary(price)}, book=one)
    return BookMicropriceExperiment(levels).run_cohort([market], {market.market_id: context})[market.market_id]


def forecast(one: OrderBook, levels: int = 1) -> ExperimentResult:
    found = answer(one, levels)
    assert isinstance(found, ExperimentResult)
    return found


@given(st.integers(1, 998), st.integers(1, 100), SIZES, SIZES)
def test_it_is_the_formula_and_inside_of_the_spread(bid: int, wide: int, buying: float, selling: float) -> None:
    low, high = bid / 1000, min(bid + wide, 999) / 1000
    result = forecast(book([(low, buying)], [(high, selling)]))
    assert low <= result.probability <= high
    assert result.probability == pytest.approx((low * selling + high * buying) / (buying + selling), abs=1e-12)
    assert abs(result.diagnostics["of_half_spread"]) <= 1 + 1e-9


@given(SIZES, SIZES)
def test_more_buyers_move_it_up_and_the_mirror_image_down(buying: float, selling: float) -> None:
    one = forecast(book([(0.40, buying)], [(0.44, selling)])).probability
    mirrored = forecast(book([(0.56, selling)], [(0.60, buying)])).probability
    assert one + mirrored == pytest.approx(1)
    assert (one - 0.42) * (buying - selling) >= -1e-9


def test_deeper_levels_weigh_as_they_are_asked_to() -> None:
    one = book([(0.40, 100.0), (0.39, 900.0)], [(0.42, 100.0), (0.43, 100.0)])
    assert forecast(one).probability == pytest.approx(0.41)
    assert forecast(one, levels=2).probability == pytest.approx(0.40 + 0.02 * 1000 / 1200)
    assert forecast(one, levels=9).probability == forecast(one, levels=2).probability
    assert forecast(one, levels=2).payload["levels"] == 2


def test_it_tells_how_far_it_is_from_the_midpoint_and_from_the_frozen_price() -> None:
    found = answer(book([(0.40, 30.0)], [(0.44, 10.0)]), price=0.41)
    assert isinstance(found, ExperimentResult)
    assert found.diagnostics["from_mid"] == pytest.approx(0.01)
    assert found.diagnostics["of_half_spread"] == pytest.approx(0.5)
    assert found.diagnostics["mid_from_frozen_price"] == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("one", "reason"),
    [
        (None, "no order book was frozen"),
        (book([], []), "its order book is empty"),
        (book([(0.4, 1.0)], []), "one side only"),
        (book([], [(0.4, 1.0)]), "one side only"),
        (book([(0.01, 5.0)], [(0.99, 5.0)]), "more than 0.10 wide"),
    ],
)
def test_what_is_no_proper_book_is_skipped(one: OrderBook | None, reason: str) -> None:
    found = answer(one)
    assert isinstance(found, ExperimentSkip)
    assert reason in found.reason


def test_a_bad_book_costs_its_market_alone() -> None:
    markets = [make_market(str(number), price=0.41) for number in range(3)]
    required = {"baseline_snapshot": ExperimentResult.binary(0.41)}
    good = book([(0.40, 1.0)], [(0.42, 1.0)])
    books = {"0": good, "1": book([], [(0.42, 1.0)]), "2": good}
    contexts = {each: make_context(each, required=required, book=books[each]) for each in books}
    found = BookMicropriceExperiment().run_cohort(markets, contexts)
    assert [type(found[each]) for each in "012"] == [ExperimentResult, ExperimentSkip, ExperimentResult]


def test_it_says_that_it_is_a_price_quality_entrant() -> None:
    assert "price-quality entrant" in BookMicropriceExperiment.description


def test_no_level_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="levels is 0"):
        BookMicropriceExperiment(0)
