"""Forecasts made of prices alone: is there anything to be had from the market's price beside the price?"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from predictbench_assets.experiments.protocol import Experiment, ExperimentResult, ExperimentSkip, PipelineContext
from predictbench_assets.markets.market import LEAST_SUM, MOST_SUM, Market

FACTOR: Final = 0.9


class DeviggedEventExperiment(Experiment):
    """Exactly one of a neg-risk group's markets can win, so their prices ought to sum to one."""

    name = "devigged_event"
    version = "1"
    description = "Prices of a neg-risk group, normalised to sum to one."
    information = "market"

    @property
    def config(self) -> Mapping[str, Any]:
        """Sums of prices that count as those of a whole group."""
        return {"least_sum": LEAST_SUM, "most_sum": MOST_SUM}

    def run_event(
        self,
        markets: Sequence[Market],
        contexts: Mapping[str, PipelineContext],  # noqa: ARG002 - the protocol's
    ) -> Mapping[str, ExperimentResult | ExperimentSkip]:
        """Normalise each of the event's neg-risk groups; markets outside of one, or of a part of one, are skipped."""
        groups: dict[str, list[Market]] = defaultdict(list)
        answers: dict[str, ExperimentResult | ExperimentSkip] = {}
        for market in markets:
            if market.neg_risk and market.neg_risk_market_id and len(market.contracts) == 2:
                groups[market.neg_risk_market_id].append(market)
            else:
                answers[market.market_id] = ExperimentSkip("not a two-outcome market of a neg-risk group")
        for group in groups.values():
            answers |= _normalised(group)
        return answers


def _normalised(group: Sequence[Market]) -> Mapping[str, ExperimentResult | ExperimentSkip]:
    prices = {market.market_id: market.price.value for market in group}
    known = {market_id: price for market_id, price in prices.items() if price is not None}
    total = math.fsum(known.values())
    if len(group) < 2:
        problem = "the only market of its neg-risk group in this cohort"
    elif len(known) < len(prices):
        problem = f"{len(prices) - len(known)} of the {len(prices)} markets of its neg-risk group have no price"
    elif not LEAST_SUM <= total <= MOST_SUM:
        problem = f"the prices of its neg-risk group sum to {total:.2f}, so the group is not whole in this cohort"
    else:
        payload = {"group_size": len(group), "price_sum": total}
        return {
            market_id: ExperimentResult.binary(min(price / total, 1.0), payload=payload)
            for market_id, price in known.items()
        }
    return {market_id: ExperimentSkip(problem) for market_id in prices}


class ShrunkMarketExperiment(Experiment):
    """Are the market's prices too sure of themselves?"""

    name = "shrunk_market"
    version = "1"
    description = "The baseline's log-odds, shrunk towards even odds by a fixed factor."
    requires = ("baseline_snapshot",)
    information = "market"

    @property
    def config(self) -> Mapping[str, Any]:
        """The factor that log-odds are multiplied by."""
        return {"factor": FACTOR}

    def run(self, market: Market, context: PipelineContext) -> ExperimentResult:  # noqa: ARG002 - the protocol's
        """Shrink the baseline's forecast."""
        return ExperimentResult(
            probabilities=with_odds_scaled(context.required["baseline_snapshot"].probabilities, FACTOR),
            payload={"factor": FACTOR},
        )


def with_odds_scaled(probabilities: Iterable[float], factor: float) -> tuple[float, ...]:
    """Probabilities whose log-odds against each other are `factor` times as large; a certainty stays one."""
    powers = [probability**factor for probability in probabilities]
    total = math.fsum(powers)
    return tuple(power / total for power in powers)
