"""Experiments that know nothing. One that beats the market is a bug or a leak, never a discovery."""

from predictbench_assets.experiments.base import Experiment, ExperimentResult, PipelineContext
from predictbench_assets.polymarket.markets import Market


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
