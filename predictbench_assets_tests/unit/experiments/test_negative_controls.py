"""Controls: what they may know, and that they know no more."""

import math
from collections import Counter
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictbench_assets.experiments.builtin.controls import (
    PRIOR_MARKETS,
    BaseRateExperiment,
    PriceDayAgoExperiment,
    ShuffledPriceExperiment,
    base_rates,
    shuffled_prices,
)
from predictbench_assets.experiments.protocol import ExperimentSkip, HistoryInTheFuture, SettledMarket, count_settled
from predictbench_assets.experiments.testing import CAPTURED_AT, make_context, make_market, make_run


def settled(number: int, outcome: float, category: str = "other", after: timedelta = timedelta(0)) -> SettledMarket:
    """A market that settled so long after (or before) the capture."""
    return SettledMarket(
        market_id=str(number),
        question="Did it?",
        category=category,
        close_time=CAPTURED_AT,
        outcome=outcome,
        price=None,
        settled_at=CAPTURED_AT + after,
    )


# The base rate


def test_with_nothing_settled_the_base_rate_is_one_half() -> None:
    result = BaseRateExperiment().run(make_market(), make_context())
    assert result.probabilities == (0.5, 0.5)
    assert result.payload["settled"] == 0


def test_a_category_that_has_settled_often_has_its_own_rate_and_others_have_the_overall_one() -> None:
    history = [settled(number, float(number % 10 == 0), "sports") for number in range(10_000)]
    context = make_context(history=history)
    sports = BaseRateExperiment().run(make_market(category="sports"), context)
    unheard_of = BaseRateExperiment().run(make_market(category="weather"), context)
    assert sports.probability == pytest.approx(0.1, abs=0.002)
    assert unheard_of.probability == pytest.approx((1_000 + PRIOR_MARKETS / 2) / (10_000 + PRIOR_MARKETS))
    assert sports.payload["settled_in_category"] == 10_000
    assert unheard_of.payload["settled_in_category"] == 0


def test_a_rare_category_is_drawn_towards_the_overall_rate() -> None:
    rates = base_rates(
        count_settled([*(settled(number, 0.0, "sports") for number in range(200)), settled(200, 1.0, "weather")])
    )
    overall = (1 + PRIOR_MARKETS * 0.5) / (201 + PRIOR_MARKETS)
    assert rates.overall == pytest.approx(overall)
    assert rates.of("weather") == pytest.approx((1 + PRIOR_MARKETS * overall) / (1 + PRIOR_MARKETS))


def test_a_split_counts_as_half_a_win() -> None:
    assert base_rates(count_settled(settled(number, 0.5) for number in range(100))).overall == 0.5
    assert base_rates(count_settled([settled(1, 0.5), settled(2, 1.0)]), prior_markets=0).of("other") == 0.75


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from("abc"), st.integers(-500, 500))))
def test_a_market_that_settles_after_the_freeze_never_counts(drawn: list[tuple[float, str, int]]) -> None:
    history = [
        settled(number, outcome, category, timedelta(hours=hours))
        for number, (outcome, category, hours) in enumerate(drawn)
    ]
    known = [market for market in history if market.settled_at <= CAPTURED_AT]
    for category in "abcd":
        market = make_market(category=category)
        forecast = BaseRateExperiment().run(market, make_context(history=history))
        assert forecast == BaseRateExperiment().run(market, make_context(history=known))
        assert forecast.probability == base_rates(count_settled(known)).of(category)
        assert 0.0 < forecast.probability < 1.0


def test_the_future_cannot_be_asked_for() -> None:
    with pytest.raises(HistoryInTheFuture):
        make_context().history(CAPTURED_AT + timedelta(seconds=1))
    with pytest.raises(HistoryInTheFuture):
        make_context().settled_counts(CAPTURED_AT + timedelta(seconds=1))


def test_the_other_outcomes_of_a_market_share_the_rest() -> None:
    market = make_market(price=0.4, outcomes=("a", "b", "c"), price_24h_ago=0.4)
    context = make_context(market.market_id, cohort=[market])
    for experiment in (BaseRateExperiment(), ShuffledPriceExperiment(), PriceDayAgoExperiment()):
        first, *others = experiment.run(market, context).probabilities
        assert others == [pytest.approx((1 - first) / 2)] * 2


# The shuffled price

prices = st.lists(st.floats(0, 1), max_size=40)


@given(prices, st.text(), st.randoms(use_true_random=False))
def test_the_shuffle_is_a_permutation_that_depends_on_the_seed_alone(
    drawn: list[float], seed: str, order: object
) -> None:
    cohort = [make_market(str(number), price=price) for number, price in enumerate(drawn)]
    dealt = shuffled_prices(cohort, seed)
    assert dealt.keys() == {market.market_id for market in cohort}
    assert Counter(dealt.values()) == Counter(drawn)
    turned = list(cohort)
    order.shuffle(turned)  # type: ignore[attr-defined]
    assert shuffled_prices(turned, seed) == dealt


def test_another_snapshot_is_another_shuffle() -> None:
    cohort = [make_market(str(number), price=number / 100) for number in range(100)]
    first, second = shuffled_prices(cohort, "a" * 64), shuffled_prices(cohort, "b" * 64)
    kept = sum(first[market_id] == second[market_id] for market_id in first)
    assert kept < 10
    assert sum(first[market.market_id] == market.price.value for market in cohort) < 10


def test_each_market_forecasts_the_price_that_fell_to_it() -> None:
    cohort = [make_market(str(number), price=number / 10) for number in range(10)]
    dealt = shuffled_prices(cohort, make_run().snapshot_hash)
    for market in cohort:
        result = ShuffledPriceExperiment().run(market, make_context(market.market_id, cohort=cohort))
        assert result.probability == dealt[market.market_id]


def test_a_market_without_a_price_takes_no_part_in_the_shuffle() -> None:
    priced, unpriced = make_market("1", price=0.3), make_market("2", price=None)
    context = make_context("2", cohort=[priced, unpriced])
    with pytest.raises(ExperimentSkip, match="no price to deal out"):
        ShuffledPriceExperiment().run(unpriced, context)
    assert math.isclose(ShuffledPriceExperiment().run(priced, context).probability, 0.3)


# The price of a day before


def test_the_older_price_is_forecast_as_it_was_frozen() -> None:
    market = make_market(price=0.62, price_24h_ago=0.41)
    assert PriceDayAgoExperiment().run(market, make_context()).probabilities == (0.41, 1 - 0.41)


def test_a_market_without_an_older_price_is_skipped_with_the_reason() -> None:
    with pytest.raises(ExperimentSkip, match="no price of 24 hours before"):
        PriceDayAgoExperiment().run(make_market(), make_context())
