"""Negative controls: experiments that know nothing, or nothing new. One that beats the market is a bug or a leak."""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from predictbench_assets.experiments.protocol import (
    Experiment,
    ExperimentResult,
    ExperimentSkip,
    PipelineContext,
    SettledCount,
)
from predictbench_assets.markets.market import Market

PRIOR_MARKETS: Final = 20
"""A base rate is drawn towards the broader one as if this many markets had settled at it."""


class UniformExperiment(Experiment):
    """The forecast of someone who has not read the question."""

    name = "uniform"
    version = "1"
    description = "The same probability for every outcome: 0.5 of two."
    information = "blind"
    control = True

    def run(self, market: Market, context: PipelineContext) -> ExperimentResult:  # noqa: ARG002 - the protocol's
        """Forecast even odds."""
        count = len(market.contracts)
        return ExperimentResult(probabilities=(1.0 / count,) * count)


@dataclass(frozen=True)
class BaseRates:
    """Rates at which first outcomes have come true: overall, and in each category."""

    overall: float
    by_category: Mapping[str, float]
    settled: Mapping[str, int]
    """Markets behind each category's rate."""

    def of(self, category: str) -> float:
        """The rate of a category; the overall one where none of its markets has settled."""
        return self.by_category.get(category, self.overall)


def base_rates(settled: Mapping[str, SettledCount], prior_markets: float = PRIOR_MARKETS) -> BaseRates:
    """The share of markets that settled at their first outcome, a split counting as half of one.

    The overall rate is drawn towards one half, and each category's towards the overall rate, by the weight of
    `prior_markets` markets: with nothing settled the rate is one half.
    """
    markets = sum(count.markets for count in settled.values())
    first = math.fsum(count.first_outcomes for count in settled.values())
    overall = _shrunk(SettledCount(markets, first), 0.5, prior_markets)
    rates = {category: _shrunk(count, overall, prior_markets) for category, count in settled.items()}
    return BaseRates(overall, rates, {category: count.markets for category, count in settled.items()})


def _shrunk(count: SettledCount, towards: float, weight: float) -> float:
    return (count.first_outcomes + weight * towards) / (count.markets + weight)


class BaseRateExperiment(Experiment):
    """The forecast of someone who knows how such questions have ended until now, and not which question this is."""

    name = "base_rate"
    version = "1"
    description = "How often first outcomes came true in the category, from markets settled before the snapshot."
    information = "blind"
    control = True

    @property
    def config(self) -> Mapping[str, Any]:
        """The weight by which rates are drawn together."""
        return {"prior_markets": PRIOR_MARKETS}

    def run(self, market: Market, context: PipelineContext) -> ExperimentResult:
        """Forecast the base rate of the market's category."""
        rates = context.memo("base_rates", lambda: base_rates(context.settled_counts()))
        payload = {
            "settled": sum(rates.settled.values()),
            "settled_in_category": rates.settled.get(market.category, 0),
            "overall_rate": rates.overall,
        }
        return ExperimentResult(probabilities=_spread(rates.of(market.category), market), payload=payload)


class ShuffledPriceExperiment(Experiment):
    """Prices that are as bold as the market's, and about other questions."""

    name = "shuffled_price"
    version = "1"
    description = "The cohort's prices, dealt out to its markets at random."
    information = "market"
    control = True

    def run(self, market: Market, context: PipelineContext) -> ExperimentResult:
        """Forecast the price that fell to this market.

        Raises:
            ExperimentSkip: the market has no price of its own to give away.
        """
        dealt = context.memo("dealt", lambda: shuffled_prices(context.cohort, context.run.snapshot_hash))
        if market.market_id not in dealt:
            raise ExperimentSkip("no price to deal out")
        return ExperimentResult(probabilities=_spread(dealt[market.market_id], market))


def shuffled_prices(cohort: Sequence[Market], seed: str) -> Mapping[str, float]:
    """The prices of the cohort by market, permuted: the same for the same markets and seed, in whatever order."""
    prices = {market.market_id: market.price.value for market in cohort if market.price.value is not None}
    owners = sorted(prices)
    dealt = [prices[owner] for owner in owners]
    random.Random(f"shuffled_price|{seed}").shuffle(dealt)  # noqa: S311 - reproducible on purpose
    return dict(zip(owners, dealt, strict=True))


class PriceDayAgoExperiment(Experiment):
    """The market itself, a day behind the news."""

    name = "price_24h_ago"
    version = "1"
    description = "The market's own price of 24 hours before the snapshot."
    information = "market"
    control = True

    def run(self, market: Market, context: PipelineContext) -> ExperimentResult:  # noqa: ARG002 - the protocol's
        """Forecast the older price.

        Raises:
            ExperimentSkip: none was frozen, for example because the market is younger than a day.
        """
        if market.price_24h_ago is None:
            raise ExperimentSkip("no price of 24 hours before was frozen with the snapshot")
        return ExperimentResult(probabilities=_spread(market.price_24h_ago, market))


def _spread(probability: float, market: Market) -> tuple[float, ...]:
    """The first outcome's probability; the others share the rest evenly."""
    others = len(market.contracts) - 1
    return (probability, *((1.0 - probability) / others for _ in range(others)))
