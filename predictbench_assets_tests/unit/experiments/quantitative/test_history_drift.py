"""Price changes: what they are, what they were worth, and what the model does before it can know."""

import math
import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictbench_assets.experiments.protocol import ExperimentResult, ExperimentSkip, SettledForecast
from predictbench_assets.experiments.quantitative.history_drift import (
    LEAST_SETTLED,
    HistoryDriftExperiment,
    Weights,
    earlier_prices,
    fit_weights,
    sign,
)
from predictbench_assets.experiments.testing import CAPTURED_AT, make_context, make_market

HOUR = timedelta(hours=1)


def history(*points: tuple[float, float]) -> list[tuple[datetime, float]]:
    """Prices by the hours before the capture."""
    return [(CAPTURED_AT - hours * HOUR, price) for hours, price in points]


def odds(probability: float) -> float:
    return math.log(probability / (1 - probability))


def settled(
    count: int, day_weight: float, *, at: datetime = CAPTURED_AT - HOUR, start: int = 0
) -> list[SettledForecast]:
    """Settled forecasts of markets whose change of a day was worth that much of it."""
    rng = random.Random(count)
    rows = []
    for number in range(start, start + count):
        price, day, week = rng.uniform(0.05, 0.95), rng.gauss(0, 1), rng.gauss(0, 1)
        chance = 1 / (1 + math.exp(-(odds(price) + day_weight * day)))
        payload = {"change_24h": day, "change_7d": week}
        rows.append(SettledForecast(f"s{number}", "other", float(rng.random() < chance), price, price, payload, at))
    return rows


def answer(
    points: Sequence[tuple[datetime, float]], known: Sequence[SettledForecast] = (), price: float = 0.5
) -> ExperimentResult | ExperimentSkip:
    market = make_market(price=price)
    context = make_context(
        required={"baseline_snapshot": ExperimentResult.binary(price)},
        price_history=points,
        settled_forecasts={"history_drift": known},
    )
    return HistoryDriftExperiment().run_cohort([market], {market.market_id: context})[market.market_id]


def test_prices_of_a_day_and_of_a_week_before_are_those_of_just_before_these() -> None:
    points = history((170, 0.1), (167, 0.2), (30, 0.3), (25, 0.4), (23, 0.5), (1, 0.6))
    assert earlier_prices(points, CAPTURED_AT) == (0.4, 0.1)


def test_a_younger_market_has_its_first_price_for_that_of_the_week() -> None:
    assert earlier_prices(history((50, 0.3), (24, 0.4)), CAPTURED_AT) == (0.4, 0.3)


@pytest.mark.parametrize("points", [(), ((23.9, 0.5),), ((31, 0.5), (2, 0.5))])
def test_without_a_price_of_a_day_before_it_is_skipped(points: tuple[tuple[float, float], ...]) -> None:
    assert isinstance(answer(history(*points)), ExperimentSkip)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_before_anything_has_settled_it_is_exactly_the_price(price: float, day: float, week: float) -> None:
    found = answer(history((168, week), (24, day)), price=price)
    assert isinstance(found, ExperimentResult)
    assert found.probability == price
    assert found.payload["method"] == "prior"
    assert (found.payload["sign_24h"], found.payload["sign_7d"]) == ("none", "none")


@pytest.mark.parametrize(("weight", "name"), [(0.4, "momentum"), (-0.4, "reversal")])
def test_it_learns_whether_prices_move_on_or_back_and_says_so(weight: float, name: str) -> None:
    found = answer(history((168, 0.5), (24, 0.4)), settled(3_000, weight))
    assert isinstance(found, ExperimentResult)
    assert found.payload["sign_24h"] == name
    assert found.payload["weight_24h"] == pytest.approx(weight, abs=0.1)
    assert found.payload["weight_7d"] == pytest.approx(0, abs=0.1)
    assert (found.probability - 0.5) * weight > 0
    expected = found.payload["weight_24h"] * found.payload["change_24h"]
    assert odds(found.probability) == pytest.approx(expected, abs=1e-5)


def test_too_few_settled_forecasts_fit_nothing() -> None:
    assert fit_weights(settled(LEAST_SETTLED - 1, 2.0)) == Weights(0.0, 0.0, LEAST_SETTLED - 1, fitted=False)
    assert fit_weights(settled(LEAST_SETTLED, 2.0)).fitted


def test_a_market_counts_once_and_only_with_its_changes() -> None:
    rows = settled(LEAST_SETTLED, 0.5)
    strange: list[dict[str, Any]] = [{}, {"change_24h": "1", "change_7d": 0.0}, {"change_24h": 1.0}]
    odd = [SettledForecast(f"o{n}", "other", 1.0, 0.5, 0.5, one, CAPTURED_AT) for n, one in enumerate(strange)]
    again = [SettledForecast(one.market_id, "other", 1.0, 0.1, 0.1, one.payload, CAPTURED_AT) for one in rows]
    assert fit_weights([*rows, *again, *odd]) == fit_weights(rows)


def test_what_settled_after_the_freeze_moves_nothing() -> None:
    points, past = history((168, 0.5), (24, 0.4)), settled(400, 0.2)
    future = settled(9_000, -3.0, at=CAPTURED_AT + HOUR, start=10_000)
    assert answer(points, past + future) == answer(points, past)
    assert answer(points, past + settled(9_000, -3.0, start=10_000)) != answer(points, past)


@pytest.mark.parametrize("price", [0.0, 1.0])
def test_a_certain_price_stays_certain(price: float) -> None:
    found = answer(history((168, 0.5), (24, 0.4)), settled(1_000, 1.0), price=price)
    assert isinstance(found, ExperimentResult)
    assert found.probability == price


def test_signs_have_names() -> None:
    assert [sign(one) for one in (0.1, -0.1, 0.0)] == ["momentum", "reversal", "none"]
