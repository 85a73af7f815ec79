"""Experiments that store what they were shown."""

from predictbench_assets.experiments.protocol import Experiment, ExperimentResult, ExperimentSkip, PipelineContext
from predictbench_assets.markets.market import Market


class Historian(Experiment):
    """Stores the history it was given, and fails or skips for some."""

    name = "historian"
    version = "1"
    description = "Stores what it knows of settled markets."

    def run(self, market: Market, context: PipelineContext) -> ExperimentResult:
        """Skip ids that end in 1, fail for those that end in 2, log and answer for the rest."""
        if market.market_id.endswith("1"):
            raise ExperimentSkip("ends in 1")
        if market.market_id.endswith("2"):
            raise ValueError("ends in 2")
        context.logger.info("asked for the history")
        settled = [[one.market_id, one.outcome, one.price] for one in context.history()]
        return ExperimentResult.binary(0.5, payload={"settled": settled})


class BlindHistorian(Historian):
    """The same without prices."""

    name = "blind_historian"
    information = "blind"
