"""Does a price that has moved move on, or back? Its changes over a day and a week, weighed by what they were worth."""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from predictbench_assets.experiments.protocol import (
    Experiment,
    ExperimentResult,
    ExperimentSkip,
    PipelineContext,
    SettledForecast,
)
from predictbench_assets.experiments.quantitative.declarations import EDGE, PRICE, PRIOR_MARKETS
from predictbench_assets.markets.market import Market

PRIOR: Final = (0.0, 0.0)
"""Weights of the two changes where nothing is known: the price has no memory."""

LEAST_SETTLED: Final = 200
"""Settled forecasts of its own from which on the weights are fitted."""

DAY: Final = timedelta(hours=24)
WEEK: Final = timedelta(days=7)
SLACK: Final = timedelta(hours=6)
"""A price may be this much older than was looked for."""

Points = Sequence[tuple[datetime, float]]


@dataclass(frozen=True)
class Weights:
    """What a change of the log-odds is worth, as log-odds of the forecast."""

    day: float
    week: float
    settled: int
    """Settled forecasts that were known."""
    fitted: bool

    @property
    def published(self) -> dict[str, Any]:
        """The weights and their signs, as each forecast's payload has them."""
        return {
            "weight_24h": round(self.day, 6),
            "weight_7d": round(self.week, 6),
            "sign_24h": sign(self.day),
            "sign_7d": sign(self.week),
            "settled": self.settled,
            "method": "fitted" if self.fitted else "prior",
        }


class HistoryDriftExperiment(Experiment):
    """Momentum or reversal: the price's log-odds, and a share of their change over 24 hours and over 7 days.

    The shares are fitted on this experiment's own settled forecasts, which have the changes in their payload. Before
    `LEAST_SETTLED` of them they are the prior's, and the forecast is the price.
    """

    name = "history_drift"
    version = "1"
    description = (
        "The price, moved by a share of its change over 24 hours and over 7 days: fitted on earlier forecasts that had "
        "settled before the snapshot, none until there are enough."
    )
    requires = (PRICE,)
    information = "market"
    market_data = True

    @property
    def config(self) -> Mapping[str, Any]:
        """The prior, its weight, and what it takes to fit."""
        return {
            "prior": list(PRIOR),
            "prior_markets": PRIOR_MARKETS,
            "least_settled": LEAST_SETTLED,
            "edge": EDGE,
        }

    def run_cohort(
        self, markets: Sequence[Market], contexts: Mapping[str, PipelineContext]
    ) -> Mapping[str, ExperimentResult | ExperimentSkip]:
        """Fit the weights, and move the prices; markets without a price of 24 hours before are skipped."""
        import numpy as np

        from predictbench_assets.experiments.quantitative.fitting import answers, array, expit, log_odds

        forecasts: dict[str, ExperimentResult | ExperimentSkip] = {}
        earlier: dict[str, tuple[float, float]] = {}
        for market in markets:
            context = contexts[market.market_id]
            found = earlier_prices(context.price_history, context.run.as_of)
            if found is None:
                forecasts[market.market_id] = ExperimentSkip("no price of 24 hours before was frozen with the snapshot")
            else:
                earlier[market.market_id] = found
        if not earlier:
            return forecasts
        weights = fit_weights(contexts[markets[0].market_id].settled_forecasts(self.name))
        prices = [contexts[market_id].required[PRICE].probabilities for market_id in earlier]
        price = array(first for first, *_ in prices)
        now = log_odds(price, EDGE)
        day = now - log_odds(array(at_day for at_day, _ in earlier.values()), EDGE)
        week = now - log_odds(array(at_week for _, at_week in earlier.values()), EDGE)
        moved = weights.day * day + weights.week * week
        # A price beyond the edge keeps its own odds, and one that nothing moves stays exactly what it is.
        forecast = np.where(moved == 0.0, price, expit(log_odds(price) + moved))
        changes = zip(day.tolist(), week.tolist(), strict=True)
        payloads = [{"change_24h": d, "change_7d": w, **weights.published} for d, w in changes]
        return forecasts | dict(zip(earlier, answers(prices, forecast, payloads), strict=True))


def earlier_prices(history: Points, captured_at: datetime) -> tuple[float, float] | None:
    """The prices of 24 hours and of 7 days before; for a younger market its first one stands for the latter.

    None where there is none of 24 hours before, or at most `SLACK` older.
    """
    instants = [at for at, _ in history]
    day = bisect_right(instants, captured_at - DAY) - 1
    if day < 0 or instants[day] < captured_at - DAY - SLACK:
        return None
    week = max(bisect_right(instants, captured_at - WEEK) - 1, 0)
    return history[day][1], history[week][1]


def fit_weights(settled: Iterable[SettledForecast]) -> Weights:
    """The weights, fitted on settled forecasts; the prior's where there are fewer than `LEAST_SETTLED`.

    Args:
        settled: forecasts with `change_24h` and `change_7d` in their payload; others, and those without a price between
            0 and 1, are passed over.
    """
    rows: dict[str, tuple[float, float, float, float]] = {}
    for one in settled:
        day, week = one.payload.get("change_24h"), one.payload.get("change_7d")
        if not (isinstance(day, int | float) and isinstance(week, int | float)):
            continue
        if one.price is not None and 0.0 < one.price < 1.0:
            rows.setdefault(one.market_id, (one.price, float(day), float(week), one.outcome))
    if len(rows) < LEAST_SETTLED:
        return Weights(*PRIOR, settled=len(rows), fitted=False)
    import numpy as np

    from predictbench_assets.experiments.quantitative.fitting import log_odds, ridge_logistic

    price, day_change, week_change, outcome = np.array(list(rows.values()), dtype=np.float64).T
    changes = np.column_stack([day_change, week_change])
    day_weight, week_weight = ridge_logistic(changes, log_odds(price), outcome, np.array(PRIOR)).tolist()
    return Weights(day_weight, week_weight, len(rows), fitted=True)


def sign(weight: float) -> str:
    """The name of a weight's sign: prices move on, or back."""
    return "momentum" if weight > 0 else "reversal" if weight < 0 else "none"
