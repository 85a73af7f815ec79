"""Worlds of known edge in which the markets of a cluster settle together, to see whether intervals cover the truth.

A cluster has 1 to 15 markets. `p` is the true probability of each; the market's price `m` and the forecast `f` are
both wrong about it, independently and symmetrically. With equally large errors the true edge is exactly 0, with the
market's errors larger it is what their squares differ by.

Run as a script it prints the table of coverage: `python -m predictbench_assets_tests.unit.scoring.event_worlds`.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.special import ndtr

from predictbench_assets.scoring.forecasts import Floats, Ints
from predictbench_assets.scoring.intervals import clustered_mean, quantile_of_t
from predictbench_assets.scoring.rules import edge

LARGEST = 15
MARKET_ERROR = 0.4
FORECAST_ERROR = {"zero edge": 0.4, "edge": 0.2}


@dataclass(frozen=True)
class World:
    """Markets of some clusters, with what is true of each."""

    cluster: Ints
    probability: Floats
    price: Floats
    forecast: Floats
    outcome: Floats

    @property
    def edges(self) -> Floats:
        """As they turned out."""
        return edge(self.forecast, self.price, self.outcome)

    @property
    def expected_edges(self) -> Floats:
        """As they are on average over outcomes."""
        return np.square(self.price - self.probability) - np.square(self.forecast - self.probability)


def independent(rng: np.random.Generator, clusters: int, forecast_error: float) -> World:
    """Clusters in name only: each market settles by itself."""
    cluster = _clusters(rng, clusters)
    p = rng.uniform(0.05, 0.95, len(cluster))
    outcome = (rng.random(len(p)) < p).astype(np.float64)
    return World(cluster, p, _near(rng, p, MARKET_ERROR), _near(rng, p, forecast_error), outcome)


def one_of_k(rng: np.random.Generator, clusters: int, forecast_error: float) -> World:
    """An event whose K markets, and one more outcome that none stands for, exclude each other."""
    cluster = _clusters(rng, clusters)
    weights, rest = rng.exponential(size=len(cluster)), rng.exponential(size=clusters)
    totals = np.bincount(cluster, weights=weights) + rest
    p = weights / totals[cluster]
    # One draw in [0, 1) for each event falls into the stretch of at most one of its markets.
    upper = np.cumsum(p) - np.r_[0.0, np.cumsum(np.bincount(cluster, weights=p))[:-1]][cluster]
    draw = rng.random(clusters)[cluster]
    outcome = ((draw < upper) & (draw >= upper - p)).astype(np.float64)
    return World(cluster, p, _near(rng, p, MARKET_ERROR), _near(rng, p, forecast_error), outcome)


def ladder(rng: np.random.Generator, clusters: int, forecast_error: float) -> World:
    """Will it be above each of K thresholds: one value settles all, and each forecaster is wrong about it once."""
    cluster = _clusters(rng, clusters)
    threshold = rng.uniform(-1.5, 1.5, len(cluster))

    def above(error: float) -> Floats:
        return ndtr(rng.normal(0, error, clusters)[cluster] - threshold)

    value = rng.normal(size=clusters)[cluster]
    return World(cluster, ndtr(-threshold), above(MARKET_ERROR), above(forecast_error), (value > threshold) * 1.0)


KINDS: dict[str, Callable[[np.random.Generator, int, float], World]] = {
    "independent": independent,
    "one of K": one_of_k,
    "ladder": ladder,
}


def _clusters(rng: np.random.Generator, clusters: int) -> Ints:
    return np.repeat(np.arange(clusters), rng.integers(1, LARGEST + 1, clusters))


def _near(rng: np.random.Generator, p: Floats, error: float) -> Floats:
    """Off by at most `error` times the distance to the nearer of 0 and 1."""
    return p + np.minimum(p, 1 - p) * rng.uniform(-error, error, len(p))


@cache
def true_edge(kind: str, edge_kind: str) -> float:
    """The mean edge of a market over all worlds: 0 by symmetry, or from what is expected in a very large one."""
    if edge_kind == "zero edge":
        return 0.0
    return float(KINDS[kind](np.random.default_rng(1), 400_000, FORECAST_ERROR[edge_kind]).expected_edges.mean())


@dataclass(frozen=True)
class Coverage:
    """Of 95 % intervals."""

    clustered: float
    independent: float
    """Of the interval that takes all markets for independent."""
    bias: float
    """Mean of the estimates less the truth, in standard errors of that mean."""


def coverage(kind: str, edge_kind: str, clusters: int, worlds: int) -> Coverage:
    """How often the truth is in the interval."""
    truth = true_edge(kind, edge_kind)
    seed = [list(KINDS).index(kind), list(FORECAST_ERROR).index(edge_kind), clusters]
    rng = np.random.default_rng(seed)
    found = [0, 0]
    means = []
    for _ in range(worlds):
        world = KINDS[kind](rng, clusters, FORECAST_ERROR[edge_kind])
        estimate = clustered_mean(world.edges, world.cluster)
        alone = float(world.edges.std(ddof=1)) / np.sqrt(estimate.n) * quantile_of_t(estimate.n - 1)
        found[0] += estimate.low is not None and estimate.high is not None and estimate.low <= truth <= estimate.high
        found[1] += abs(estimate.mean - truth) <= alone
        means.append(estimate.mean)
    bias = (float(np.mean(means)) - truth) / (float(np.std(means)) / np.sqrt(worlds))
    return Coverage(found[0] / worlds, found[1] / worlds, bias)


def table(worlds: int) -> Iterator[str]:
    """Coverage of every kind, in lines."""
    yield f"{'events':12} {'':10} {'clusters':>8} {'true edge':>10} {'clustered':>10} {'unclustered':>12} {'bias':>7}\n"
    for kind in KINDS:
        for edge_kind in FORECAST_ERROR:
            for clusters in (10, 30, 100, 300):
                one = coverage(kind, edge_kind, clusters, worlds)
                yield (
                    f"{kind:12} {edge_kind:10} {clusters:>8} {true_edge(kind, edge_kind):>10.5f} "
                    f"{one.clustered:>10.1%} {one.independent:>12.1%} {one.bias:>7.1f}\n"
                )


if __name__ == "__main__":
    sys.stdout.writelines(table(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000))
