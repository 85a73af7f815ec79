"""A forecaster and the price as one: how much of what it says should be believed, beside the market?"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from predictbench_assets.experiments.protocol import (
    Experiment,
    ExperimentResult,
    Information,
    PipelineContext,
    SettledForecast,
)
from predictbench_assets.experiments.quantitative.declarations import EDGE, PRICE, PRIOR_MARKETS
from predictbench_assets.markets.market import Market

PRIOR: Final = 0.9
"""Weight of the price where none of the forecaster's forecasts has settled."""


@dataclass(frozen=True)
class PriceWeight:
    """The weight of the price's log-odds; the rest is the forecaster's."""

    value: float
    settled: int
    """Settled forecasts that it was fitted on."""
    bound: bool = False
    """True where the fit lay outside of 0 and 1, and the nearer one is taken."""


class BlendExperiment(Experiment):
    """The forecaster's log-odds and the price's, averaged by a weight that is fitted on its settled forecasts.

    Args:
        of: name of the experiment that is blended with the price.
        information: what it may see: prices, and what that one may see.
    """

    name = "blend"
    version = "1"

    def __init__(self, of: str, information: Information = "market") -> None:
        if not of or of == PRICE:
            raise ValueError(f"of is {of!r}, not the name of an experiment other than {PRICE}")
        self.requires = (PRICE, of)
        self.information = information
        self._of = of
        self.description = f"The price blended with {of}, weighted by how {of} has done until now."

    @property
    def config(self) -> Mapping[str, Any]:
        """The member, the prior and its weight, and how far out odds count."""
        return {"of": self._of, "prior": PRIOR, "prior_markets": PRIOR_MARKETS, "edge": EDGE}

    def run_cohort(
        self, markets: Sequence[Market], contexts: Mapping[str, PipelineContext]
    ) -> Mapping[str, ExperimentResult]:
        """Fit the weight, and blend each forecast with the price of its market."""
        from predictbench_assets.experiments.quantitative.fitting import answers, array, at_the_edge, expit, log_odds

        required = (contexts[market.market_id].required for market in markets)
        pairs = [(one[PRICE].probabilities, one[self._of].probability) for one in required]
        weight = fit_price_weight(contexts[markets[0].market_id].settled_forecasts(self._of))
        probability, said = array(first for (first, *_), _ in pairs), array(one for _, one in pairs)
        price, forecast = log_odds(probability, EDGE), log_odds(said, EDGE)
        blended = expit(weight.value * price + (1.0 - weight.value) * forecast)
        published = {
            "of": self._of,
            "price_weight": round(weight.value, 6),
            "settled": weight.settled,
            "method": "fitted" if weight.settled else "prior",
            "bound": weight.bound,
        }
        held = at_the_edge(probability) | at_the_edge(said)
        payloads = [{**published, "held_at_edge": each} for each in held.tolist()]
        found = answers([one for one, _ in pairs], blended, payloads)
        return dict(zip((market.market_id for market in markets), found, strict=True))


def fit_price_weight(settled: Iterable[SettledForecast]) -> PriceWeight:
    """The weight of the price, fitted on settled forecasts and drawn towards the prior; from 0 to 1.

    Args:
        settled: one row a market; those without a price are passed over.
    """
    rows: dict[str, tuple[float, float, float]] = {}
    for one in settled:
        if one.price is not None:
            rows.setdefault(one.market_id, (one.price, one.probability, one.outcome))
    if not rows:
        return PriceWeight(PRIOR, 0)
    import numpy as np

    from predictbench_assets.experiments.quantitative.fitting import log_odds, ridge_logistic

    price, probability, outcome = np.array(list(rows.values()), dtype=np.float64).T
    forecast = log_odds(probability, EDGE)
    apart = (log_odds(price, EDGE) - forecast)[:, None]
    [fitted] = ridge_logistic(apart, forecast, outcome, np.array([PRIOR])).tolist()
    held = min(max(fitted, 0.0), 1.0)
    return PriceWeight(held, len(rows), bound=held != fitted)
