"""Experiments whose true edges are known, because they read what only a sandbox exchange tells.

The price `m` is unbiased for the truth at the snapshot, so nobody without foresight beats it. These look `AHEAD` and
see the truth `p` of that day. Given `p`, a forecast `f` has the expected edge `2 (f - m)(p - m) - (f - m)^2`, however
the market settles: all the way to `p` is best, a part of the way is good, twice as far is worth nothing, and the other
way is bad.
"""

import os
import threading
from abc import abstractmethod
from datetime import datetime, timedelta
from typing import Any

import httpx

from predictbench_assets.experiments.protocol import Experiment, ExperimentResult, PipelineContext
from predictbench_assets.markets.market import Market

AHEAD = timedelta(days=4)


class Foresight:
    """What the truth of a day's markets is at a later instant; asked for once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[tuple[str, datetime, datetime], dict[str, float]] = {}

    def truth(self, exchange: str, ends_from: datetime, at: datetime) -> dict[str, float]:
        """P(first outcome) at an instant by market id, for the markets that end on one day."""
        key = (exchange, ends_from, at)
        with self._lock:
            if key not in self._known:
                window = {"end_date_min": _zulu(ends_from), "end_date_max": _zulu(ends_from + timedelta(days=1))}
                answer = httpx.get(f"{exchange}/_sandbox/truth", params={**window, "at": _zulu(at)})
                markets: dict[str, dict[str, Any]] = answer.raise_for_status().json()["markets"]
                self._known[key] = {market_id: market["probability"] for market_id, market in markets.items()}
            return self._known[key]


FORESIGHT = Foresight()


class Planted(Experiment):
    """Moves the price by a rule of its own."""

    version = "1"

    def run(self, market: Market, context: PipelineContext) -> ExperimentResult:
        """Forecast by the rule; a forecast cannot leave [0, 1]."""
        price = market.price.value
        assert price is not None
        ends_from = datetime.combine(context.run.target_date, datetime.min.time(), context.run.captured_at.tzinfo)
        exchange = os.environ["POLYMARKET_BASE_URL"]
        truth = FORESIGHT.truth(exchange, ends_from, context.run.captured_at + AHEAD)
        moved = self.moved(price, truth[market.market_id] - price, context)
        return ExperimentResult.binary(min(1.0, max(0.0, moved)))

    @abstractmethod
    def moved(self, price: float, step: float, context: PipelineContext) -> float:
        """The forecast, given the price and the way to the later truth."""


class Oracle(Planted):
    """Knows the later truth: the best there is."""

    name = "oracle"
    description = "The truth of four days later."

    def moved(self, price: float, step: float, context: PipelineContext) -> float:
        """All the way."""
        return price + step


class HalfOracle(Planted):
    """Believes half of what it foresees; three quarters of the oracle's edge."""

    name = "half_oracle"
    description = "Half of the way from the price to the later truth."

    def moved(self, price: float, step: float, context: PipelineContext) -> float:
        """Half of the way."""
        return price + step / 2


class FaintOracle(Planted):
    """Believes a tenth of it; a fifth of the oracle's edge."""

    name = "faint_oracle"
    description = "A tenth of the way from the price to the later truth."

    def moved(self, price: float, step: float, context: PipelineContext) -> float:
        """A tenth of the way."""
        return price + step / 10


class Overshoot(Planted):
    """Right in direction and too bold by as much: no edge."""

    name = "overshoot"
    description = "Twice as far as the later truth, where there is room; the price elsewhere."

    def moved(self, price: float, step: float, context: PipelineContext) -> float:
        """Twice the way, or none: a clipped forecast would have an edge."""
        far = price + 2 * step
        return far if 0.0 <= far <= 1.0 else price


class CoinOracle(Planted):
    """Three times right, once wrong by as much, which costs three times what being right brings: no edge."""

    name = "coin_oracle"
    description = "The later truth, or as far on the other side of the price one time in four."

    def moved(self, price: float, step: float, context: PipelineContext) -> float:
        """To the truth or away from it, where there is room for both."""
        if not 0.0 <= price - step <= 1.0:
            return price
        return price + (step if context.rng.random() < 0.75 else -step)


class Contrarian(Planted):
    """Goes the other way."""

    name = "contrarian"
    description = "A quarter of the way to the later truth, in the other direction."

    def moved(self, price: float, step: float, context: PipelineContext) -> float:
        """Away from the truth."""
        return price - step / 4


class Noisy(Planted):
    """Knows nothing and is bold."""

    name = "noisy"
    description = "The price and a quarter, up or down by a coin."

    def moved(self, price: float, step: float, context: PipelineContext) -> float:
        """A step in any direction."""
        return price + context.rng.choice((-0.25, 0.25))


class Nervous(Planted):
    """Knows nothing and is a little unsteady: an edge too small to be seen soon."""

    name = "nervous"
    description = "The price and five hundredths, up or down by a coin."

    def moved(self, price: float, step: float, context: PipelineContext) -> float:
        """A small step in any direction."""
        return price + context.rng.choice((-0.05, 0.05))


class Echo(Planted):
    """Repeats the price."""

    name = "echo"
    description = "The price."

    def moved(self, price: float, step: float, context: PipelineContext) -> float:
        """Nowhere."""
        return price


PLANTED: tuple[type[Planted], ...] = (
    Oracle,
    HalfOracle,
    FaintOracle,
    Overshoot,
    CoinOracle,
    Contrarian,
    Noisy,
    Nervous,
    Echo,
)

WITHOUT_EDGE = frozenset({"overshoot", "coin_oracle", "echo"})


def paths(*classes: type[Planted]) -> tuple[str, ...]:
    """Experiments as PROCESSING_EXPERIMENTS names them."""
    return tuple(f"{one.__module__}:{one.__name__}" for one in classes)


def _zulu(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
