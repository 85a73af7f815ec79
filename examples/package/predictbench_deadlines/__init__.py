"""An experiment that comes with a package: once that is installed, Predictbench finds it without a setting."""

import re

from predictbench_assets.experiments import Experiment, ExperimentResult, ExperimentSkip, Market, PipelineContext

_DEADLINE = re.compile(r"\b(by|before|until)\b", re.I)


class Deadlines(Experiment):
    """Says that what has a deadline will probably not happen by then."""

    name = "deadlines"
    version = "1"
    description = "Gives a fifth to whatever has to happen by a day; knows nothing else."
    information = "blind"

    def run(self, market: Market, context: PipelineContext) -> ExperimentResult:
        """Forecast a market whose question has a deadline.

        Raises:
            ExperimentSkip: it has none, or is no yes-or-no question.
        """
        if market.outcomes != ("Yes", "No") or not _DEADLINE.search(market.question):
            raise ExperimentSkip("no deadline in the question")
        return ExperimentResult.binary(0.2)
