"""Prices corrected by how such prices came out, and nothing that was not known at the freeze."""

import math
import random
from collections.abc import Iterable, Sequence
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictbench_assets.experiments.builtin.pricing import with_odds_scaled
from predictbench_assets.experiments.protocol import ExperimentResult, SettledMarket
from predictbench_assets.experiments.quantitative.favourite_longshot import FavouriteLongshotExperiment
from predictbench_assets.experiments.quantitative.fitting import ridge_logistic
from predictbench_assets.experiments.quantitative.recalibrated_market import (
    ISOTONIC_FROM,
    PRIOR,
    RecalibratedMarketExperiment,
    recalibrations,
)
from predictbench_assets.experiments.testing import CAPTURED_AT, make_context, make_market
from predictbench_assets.markets.market import Market

PRICES = st.floats(0.001, 0.999)


def odds(probability: float) -> float:
    return math.log(probability / (1 - probability))


def settled(
    number: int, price: float | None, outcome: float, *, days: float = -1.0, category: str = "other"
) -> SettledMarket:
    return SettledMarket(
        market_id=f"s{number}",
        question="Did it happen?",
        category=category,
        close_time=CAPTURED_AT + timedelta(days=days),
        outcome=outcome,
        price=price,
        settled_at=CAPTURED_AT + timedelta(days=days),
    )


def drawn(count: int, intercept: float, slope: float, seed: int = 1) -> list[SettledMarket]:
    """Markets whose outcomes follow those parameters."""
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        price = round(min(max(1 / (1 + math.exp(-rng.gauss(0, 2))), 0.001), 0.999), 3)
        chance = 1 / (1 + math.exp(-(intercept + slope * odds(price))))
        rows.append(settled(number, price, float(rng.random() < chance)))
    return rows


def forecasts(markets: Sequence[Market], history: Iterable[SettledMarket]) -> dict[str, ExperimentResult]:
    known = tuple(history)
    contexts = {
        market.market_id: make_context(
            market.market_id, required={"baseline_snapshot": ExperimentResult.binary(market.price.value)}, history=known
        )
        for market in markets
        if market.price.value is not None
    }
    return dict(RecalibratedMarketExperiment().run_cohort(markets, contexts))


@given(st.lists(PRICES, min_size=1, max_size=20))
def test_with_nothing_settled_it_is_favourite_longshot(prices: list[float]) -> None:
    markets = [make_market(str(number), price=price) for number, price in enumerate(prices)]
    required = [{"baseline_snapshot": ExperimentResult.binary(price)} for price in prices]
    contexts = {str(number): make_context(str(number), required=one) for number, one in enumerate(required)}
    fixed = FavouriteLongshotExperiment().run_cohort(markets, contexts)
    fitted = forecasts(markets, ())
    for market, price in zip(markets, prices, strict=True):
        sharpened = fixed[market.market_id]
        assert odds(sharpened.probability) == pytest.approx(1.1 * odds(price), abs=1e-9)
        assert fitted[market.market_id].probability == pytest.approx(sharpened.probability, abs=1e-12)
    assert fitted["0"].payload == {
        "category": "other", "method": "prior", "intercept": 0.0, "slope": 1.1, "settled": 0,
    }  # fmt: skip


def test_further_outcomes_share_the_rest_as_before() -> None:
    market = make_market(price=0.5, outcomes=("A", "B", "C"))
    required = {"baseline_snapshot": ExperimentResult(probabilities=(0.5, 0.4, 0.1))}
    context = make_context(required=required)
    recalibrated = RecalibratedMarketExperiment().run_cohort([market], {market.market_id: context})[market.market_id]
    assert recalibrated.probabilities == pytest.approx((0.5, 0.4, 0.1))
    sharpened = FavouriteLongshotExperiment().run_cohort([market], {market.market_id: context})[market.market_id]
    assert sharpened.probabilities == pytest.approx(with_odds_scaled((0.5, 0.4, 0.1), 1.1))


@pytest.mark.parametrize("price", [0.0, 1.0])
def test_a_certain_price_stays_certain(price: float) -> None:
    market = make_market(price=price)
    for history in ((), drawn(ISOTONIC_FROM + 10, 0.3, 1.5)):
        assert forecasts([market], history)[market.market_id].probability == price


def test_parameters_come_out_as_they_were_put_in() -> None:
    curve = recalibrations(drawn(4_000, -0.3, 1.4), ["other"])["other"]
    assert curve.settled == 4_000
    assert (curve.intercept, curve.slope) == (pytest.approx(-0.3, abs=0.12), pytest.approx(1.4, abs=0.1))


def test_fifty_markets_move_it_half_of_the_way() -> None:
    """The prior is worth fifty markets: what fifty alone would say counts for about half."""
    rows = [settled(number, 0.5, float(number < 35)) for number in range(50)]
    alone = ridge_logistic(
        np.ones((50, 1)), np.zeros(50), np.array([one.outcome for one in rows]), np.zeros(1), worth=0
    )
    assert alone[0] == pytest.approx(odds(0.7))
    assert recalibrations(rows, ["other"])["other"].intercept == pytest.approx(alone[0] / 2, rel=0.05)


@pytest.mark.parametrize("price", [0.5, 0.001, 0.97])
def test_one_market_moves_it_little_and_never_breaks_it(price: float) -> None:
    for outcome in (0.0, 0.5, 1.0):
        curve = recalibrations([settled(1, price, outcome)], ["other"])["other"]
        # What fifty markets weigh against one: at most a twenty-fifth of the largest step that a market can ask for.
        moved = curve.intercept + (curve.slope - 1.1) * odds(price)
        assert abs(moved) < 0.05 / min(price, 1 - price)
        assert math.isfinite(curve.slope)


def test_a_category_learns_from_its_own_markets_alone() -> None:
    rows = [settled(number, 0.5, 1.0, category="politics") for number in range(500)]
    curves = recalibrations(rows, ["politics", "sports"])
    assert curves["politics"].intercept > 1
    assert (curves["sports"].intercept, curves["sports"].slope, curves["sports"].settled) == (*PRIOR, 0)


def test_a_market_counts_once_and_only_with_a_price() -> None:
    rows = [
        settled(1, 0.4, 1.0),
        settled(1, 0.9, 0.0),
        settled(2, None, 1.0),
        settled(3, 1.0, 1.0),
        settled(4, 0.0, 0.0),
    ]
    once, pure = recalibrations(rows, ["other"])["other"], recalibrations(rows[:1], ["other"])["other"]
    assert once == pure


def test_what_settled_after_the_freeze_moves_nothing() -> None:
    markets = [make_market(str(number), price=price) for number, price in enumerate((0.03, 0.4, 0.77))]
    past = drawn(300, 0.2, 1.3)
    future = [settled(10_000 + number, 0.03, 1.0, days=0.01) for number in range(9_000)]
    honest = forecasts(markets, past)
    assert forecasts(markets, past + future) == honest
    known = [settled(10_000 + number, 0.03, 1.0, days=-0.01) for number in range(9_000)]
    assert forecasts(markets, past + known) != honest, "the planted markets would have moved it"


def test_many_settled_markets_bend_the_curve_freely_and_it_rises() -> None:
    rng = random.Random(2)
    rows = []
    for number in range(2 * ISOTONIC_FROM):
        price = round(rng.uniform(0.01, 0.99), 2)
        rows.append(settled(number, price, float(rng.random() < (0.2 if price < 0.5 else 0.8))))
    curve = recalibrations(rows, ["other"])["other"]
    assert curve.published["method"] == "isotonic"
    prices = np.linspace(0.01, 0.99, 99)
    shares = curve.of(prices)
    assert np.all(np.diff(shares) >= 0)
    assert abs(curve.of(np.array([0.3]))[0] - 0.2) < 0.03
    assert abs(curve.of(np.array([0.7]))[0] - 0.8) < 0.03


def test_a_free_curve_is_never_certain() -> None:
    rows = [settled(number, 0.1 + 0.8 * (number % 2), float(number % 2)) for number in range(ISOTONIC_FROM)]
    low, high = recalibrations(rows, ["other"])["other"].of(np.array([0.1, 0.9])).tolist()
    assert 0 < low < 0.01
    assert 0.99 < high < 1


@settings(max_examples=40)
@given(st.lists(st.tuples(PRICES, st.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=200))
def test_any_history_gives_a_finite_curve_at_its_optimum(rows: list[tuple[float, float]]) -> None:
    history = [settled(number, price, outcome) for number, (price, outcome) in enumerate(rows)]
    curve = recalibrations(history, ["other"])["other"]
    price, outcome = np.array(rows).T
    x = np.log(price / (1 - price))
    features = np.column_stack([np.ones_like(x), x])
    prior_q = 1 / (1 + np.exp(-1.1 * x))
    precision = 50 * (features * (prior_q * (1 - prior_q))[:, None]).T @ features / len(x)
    off = np.array([curve.intercept - PRIOR[0], curve.slope - PRIOR[1]])
    q = 1 / (1 + np.exp(-(curve.intercept + curve.slope * x)))
    gradient = features.T @ (outcome - q) - precision @ off
    assert np.all(np.isfinite(off))
    assert np.abs(gradient).max() < 1e-3 * (1 + np.abs(x).max())
