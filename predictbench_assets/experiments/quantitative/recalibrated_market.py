"""The price, corrected by how such prices have come out: fitted anew at each freeze, on what had settled by then."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from predictbench_assets.experiments.protocol import Experiment, ExperimentResult, PipelineContext, SettledMarket
from predictbench_assets.experiments.quantitative.declarations import FACTOR, PRICE, PRIOR_MARKETS
from predictbench_assets.markets.market import Market

if TYPE_CHECKING:
    from predictbench_assets.experiments.quantitative.fitting import Floats

PRIOR: Final = (0.0, FACTOR)
"""Intercept and slope of log-odds where nothing of a category has settled."""

ISOTONIC_FROM: Final = 5_000
"""Settled markets of a category from which on its curve may have any rising shape."""


@dataclass(frozen=True)
class Recalibration:
    """The curve of one category, from a price to a forecast."""

    intercept: float
    slope: float
    settled: int
    """Markets that it was fitted on."""
    prices: "Floats | None" = None
    """Rising prices at which a free curve is known; None where the two parameters are the curve."""
    shares: "Floats | None" = None
    """Its values at those."""

    @property
    def published(self) -> dict[str, Any]:
        """The parameters, as each forecast's payload has them."""
        method = "prior" if not self.settled else "platt" if self.prices is None else "isotonic"
        return {
            "method": method,
            "intercept": round(self.intercept, 6),
            "slope": round(self.slope, 6),
            "settled": self.settled,
        }

    def of(self, price: "Floats") -> "Floats":
        """The forecasts for prices; a price of 0 or 1 stays what it is."""
        import numpy as np

        from predictbench_assets.experiments.quantitative.fitting import expit, log_odds

        certain = (price <= 0.0) | (price >= 1.0)
        if self.prices is not None and self.shares is not None:
            forecast = np.interp(price, self.prices, self.shares)
        else:
            forecast = expit(self.intercept + self.slope * log_odds(np.where(certain, 0.5, price)))
        return np.where(certain, price, forecast)


class RecalibratedMarketExperiment(Experiment):
    """Is there anything systematic between a price and how often it comes true?"""

    name = "recalibrated_market"
    version = "1"
    description = "The price, recalibrated by category on the markets that had settled before the snapshot."
    requires = (PRICE,)
    information = "market"

    @property
    def config(self) -> Mapping[str, Any]:
        """The prior, its weight, and the size from which a category's curve is free."""
        return {"prior": list(PRIOR), "prior_markets": PRIOR_MARKETS, "isotonic_from": ISOTONIC_FROM}

    def run_cohort(
        self, markets: Sequence[Market], contexts: Mapping[str, PipelineContext]
    ) -> Mapping[str, ExperimentResult]:
        """Fit each category that has settled markets, and forecast the cohort with it."""
        from predictbench_assets.experiments.quantitative.fitting import answers, array

        groups: dict[str, list[Market]] = {}
        for market in markets:
            groups.setdefault(market.category, []).append(market)
        curves = recalibrations(contexts[markets[0].market_id].history(), groups)
        forecasts: dict[str, ExperimentResult] = {}
        for category, group in groups.items():
            prices = [contexts[market.market_id].required[PRICE].probabilities for market in group]
            curve = curves[category]
            payload = {"category": category, **curve.published}
            found = answers(prices, curve.of(array(first for first, *_ in prices)), [payload] * len(group))
            forecasts |= zip((market.market_id for market in group), found, strict=True)
        return forecasts


def recalibrations(settled: Iterable[SettledMarket], categories: Iterable[str]) -> dict[str, Recalibration]:
    """The curve of each category, fitted on its settled markets that had a price, one row a market.

    Args:
        settled: those of other categories are passed over.
        categories: to make a curve for.
    """
    rows: dict[str, dict[str, tuple[float, float]]] = {category: {} for category in categories}
    for one in settled:
        if one.category in rows and one.price is not None and 0.0 < one.price < 1.0:
            rows[one.category].setdefault(one.market_id, (one.price, one.outcome))
    return {category: _fitted(tuple(found.values())) for category, found in rows.items()}


def _fitted(rows: Sequence[tuple[float, float]]) -> Recalibration:
    """Platt's two parameters, drawn towards the prior; of many rows a rising curve, drawn towards Platt's."""
    if not rows:
        return Recalibration(*PRIOR, settled=0)
    import numpy as np

    from predictbench_assets.experiments.quantitative.fitting import expit, log_odds, ridge_logistic

    price, outcome = np.array(rows, dtype=np.float64).T
    odds = log_odds(price)
    features = np.column_stack([np.ones_like(odds), odds])
    intercept, slope = ridge_logistic(features, np.zeros_like(odds), outcome, np.array(PRIOR)).tolist()
    if len(rows) < ISOTONIC_FROM:
        return Recalibration(intercept, slope, len(rows))
    from scipy.optimize import isotonic_regression

    # As if PRIOR_MARKETS more had settled, at the same prices and as Platt's curve has it: no share becomes 0 or 1.
    weight = PRIOR_MARKETS / len(rows)
    drawn = (outcome + weight * expit(intercept + slope * odds)) / (1.0 + weight)
    prices, place, counts = np.unique(price, return_inverse=True, return_counts=True)
    shares = np.bincount(place, weights=drawn) / counts
    rising = isotonic_regression(shares, weights=counts.astype(np.float64)).x
    return Recalibration(intercept, slope, len(rows), prices, rising)
