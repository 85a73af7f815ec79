"""Experiments that are replayed without being listed."""

from collections.abc import Sequence
from decimal import Decimal

from predictbench_assets.experiments import Experiment, ExperimentResult, ExperimentSkip, Market, PipelineContext
from predictbench_assets.experiments.protocol import Estimate


class Bold(Experiment):
    """Doubles the distance of the price from a half; gives up where it is below."""

    name = "bold"
    version = "1"
    description = "Doubles the distance of the price from a half."

    def run(self, market: Market, context: PipelineContext) -> ExperimentResult:
        price = market.price.value
        if price is None or price < 0.1:
            raise ExperimentSkip("nothing to double")
        if price > 0.9:
            raise ZeroDivisionError("too sure")
        assert not list(context.history())  # nothing had settled at the freeze
        context.artifact("note.txt", b"not kept")
        return ExperimentResult.binary(min(0.99, max(0.01, 2 * price - 0.5)), payload={"price": price})


class Costly(Experiment):
    """Costs a cent a market, wherever it spends it."""

    name = "costly"
    version = "1"
    description = "Costs a cent a market."

    def estimate(self, markets: Sequence[Market]) -> Estimate:
        return Estimate(Decimal("0.01") * len(markets), Decimal("0.02") * len(markets))

    def run(self, market: Market, context: PipelineContext) -> ExperimentResult:
        return ExperimentResult.binary(0.5)


class Searcher(Bold):
    """Looks at the world of today."""

    name = "searcher"
    information = "search"


class Prepares(Bold):
    """Makes no forecasts."""

    name = "prepares"
    forecasts = False
