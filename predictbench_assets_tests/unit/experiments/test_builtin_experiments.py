import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictbench_assets.experiments.builtin.baseline import BaselineSnapshotExperiment, ProcessedMarketPayload
from predictbench_assets.experiments.builtin.controls import UniformExperiment
from predictbench_assets.experiments.builtin.pricing import (
    DeviggedEventExperiment,
    ShrunkMarketExperiment,
    with_odds_scaled,
)
from predictbench_assets.experiments.protocol import ExperimentResult, ExperimentSkip
from predictbench_assets.experiments.testing import make_context, make_market
from predictbench_assets.markets.market import Market


def test_the_baseline_forecasts_the_price_and_describes_the_market() -> None:
    market = make_market("7", price=0.62, event_id="e")
    sibling = make_market("8", price=0.3, event_id="e")
    result = BaselineSnapshotExperiment().run(market, make_context("7", siblings=[sibling]))
    assert result.probability == 0.62
    payload = ProcessedMarketPayload.model_validate(result.payload)
    assert payload.question == market.question
    assert payload.metrics.spread == pytest.approx(0.02)
    assert payload.metrics.hours_to_close == 168.0
    assert payload.metrics.event_price_sum == pytest.approx(0.92)
    assert [contract.name for contract in payload.contracts] == ["Yes", "No"]


def test_a_market_alone_in_its_event_has_no_event_price_sum() -> None:
    result = BaselineSnapshotExperiment().run(make_market(event_id="e"), make_context())
    assert ProcessedMarketPayload.model_validate(result.payload).metrics.event_price_sum is None


def test_the_baseline_says_that_a_price_is_missing() -> None:
    with pytest.raises(ValueError, match="the market has no price"):
        BaselineSnapshotExperiment().run(make_market(price=None), make_context())


@given(st.floats(0, 1), st.integers(2, 12))
def test_the_baselines_first_probability_is_exactly_the_price(price: float, count: int) -> None:
    market = make_market(price=price, outcomes=tuple(f"o{number}" for number in range(count)))
    result = BaselineSnapshotExperiment().run(market, make_context())
    assert result.probability == price
    assert len(result.probabilities) == count


@pytest.mark.parametrize("count", [2, 3, 7])
def test_uniform_gives_every_outcome_the_same(count: int) -> None:
    market = make_market(price=None, outcomes=tuple(f"o{number}" for number in range(count)))
    assert UniformExperiment().run(market, make_context()).probabilities == (1 / count,) * count


def group(*prices: float | None, neg_risk: bool = True) -> list[Market]:
    return [
        make_market(str(index), price=price, event_id="e", neg_risk=neg_risk, neg_risk_market_id="g")
        for index, price in enumerate(prices)
    ]


def test_devigged_prices_of_a_group_sum_to_one() -> None:
    answers = DeviggedEventExperiment().run_event(group(0.5, 0.4, 0.2), {})
    results = [answers[name] for name in ("0", "1", "2")]
    assert all(isinstance(result, ExperimentResult) for result in results)
    assert math.fsum(result.probability for result in results) == pytest.approx(1)  # type: ignore[union-attr]
    assert results[0].probability == pytest.approx(0.5 / 1.1)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("markets", "reason"),
    [
        (group(0.5, 0.5, neg_risk=False), "not a two-outcome market of a neg-risk group"),
        (group(0.5), "the only market of its neg-risk group"),
        (group(0.5, None), "1 of the 2 markets of its neg-risk group have no price"),
        (group(0.1, 0.2), "sum to 0.30"),
        (group(0.0, 0.0), "sum to 0.00"),
        (group(0.9, 0.9), "sum to 1.80"),
    ],
)
def test_devigging_skips_what_is_no_whole_group(markets: list[Market], reason: str) -> None:
    answers = DeviggedEventExperiment().run_event(markets, {})
    assert set(answers) == {market.market_id for market in markets}
    for answer in answers.values():
        assert isinstance(answer, ExperimentSkip)
        assert reason in answer.reason


@given(st.floats(1e-6, 1 - 1e-6), st.floats(0.1, 1))
def test_shrinking_multiplies_the_log_odds(probability: float, factor: float) -> None:
    first, second = with_odds_scaled((probability, 1 - probability), factor)
    assert math.log(first / second) == pytest.approx(factor * math.log(probability / (1 - probability)), abs=1e-9)


def test_shrunk_market_moves_the_baseline_towards_even() -> None:
    required = {"baseline_snapshot": ExperimentResult.binary(0.8)}
    result = ShrunkMarketExperiment().run(make_market(price=None), make_context(required=required))
    assert 0.5 < result.probability < 0.8
