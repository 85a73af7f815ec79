"""Favourites are priced a little too low, long shots too high: a declared factor on the price's log-odds."""

from collections.abc import Mapping, Sequence
from typing import Any

from predictbench_assets.experiments.builtin.pricing import with_odds_scaled
from predictbench_assets.experiments.protocol import Experiment, ExperimentResult, PipelineContext
from predictbench_assets.experiments.quantitative.declarations import FACTOR, PRICE
from predictbench_assets.markets.market import Market


class FavouriteLongshotExperiment(Experiment):
    """The mirror image of `shrunk_market`: is the market not sure enough of itself?"""

    name = "favourite_longshot"
    version = "1"
    description = "The baseline's log-odds, moved away from even odds by a declared factor; nothing is fitted."
    requires = (PRICE,)
    information = "market"

    def __init__(self, factor: float = FACTOR) -> None:
        self._factor = factor

    @property
    def config(self) -> Mapping[str, Any]:
        """The factor that log-odds are multiplied by."""
        return {"factor": self._factor}

    def run_cohort(
        self, markets: Sequence[Market], contexts: Mapping[str, PipelineContext]
    ) -> Mapping[str, ExperimentResult]:
        """Sharpen the baseline's forecasts."""
        payload = {"factor": self._factor}
        return {
            market.market_id: ExperimentResult(
                probabilities=with_odds_scaled(contexts[market.market_id].required[PRICE].probabilities, self._factor),
                payload=payload,
            )
            for market in markets
        }
