"""Intervals of a mean over markets that come in clusters: standard errors, intervals, the cluster bootstrap.

Markets of one cluster may settle together, so the cluster is what is drawn at random, its number of markets with it.
"""

import math
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

import numpy as np

from predictbench_assets.scoring.forecasts import Floats, Ints

DRAWS: Final = 2_000
"""Draws of a bootstrap."""

LEVEL: Final = 0.95

POWER_FACTOR: Final = 2.8
"""Standard errors that an edge must have to be found 4 times out of 5: 1.96 + 0.84."""

_NOISE: Final = 1e-12
"""A standard error below this is what rounding leaves of none."""

_CELLS_COUNTED: Final = 1 << 17
"""Cells of the matrix of bootstrap weights that are held at once: 1 MB stays in a processor's cache."""

_CELLS_MULTIPLIED: Final = 1 << 22
"""Cells multiplied at once: 32 MB, since each multiplication rearranges all of the sums first."""


@dataclass(frozen=True)
class Estimate:
    """Mean over markets, with the spread of its clusters; None where one cluster alone has none."""

    mean: float
    n: int
    clusters: int
    se: float | None
    """Clustered."""
    low: float | None
    high: float | None
    cluster_mean: float
    """The mean over clusters of the cluster's mean, each cluster counting the same."""
    effective_n: float | None
    """Number of independent markets with the same error: n times the independent over the clustered variance."""
    p_value: float | None
    """Two-sided p-value of a mean of 0."""

    @property
    def minimum_detectable(self) -> float | None:
        """Smallest mean that differs from 0 with 80 % power; None where nothing varies."""
        return POWER_FACTOR * self.se if self.se else None


def clustered_mean(values: Floats, cluster: Ints) -> Estimate:
    """The mean of `values`, of which those with one cluster number are not independent.

    With r_c the sum over a cluster of the distances from the mean, SE^2 = C/(C-1) * sum r_c^2 / n^2, and the interval
    takes Student's t with C-1 degrees of freedom.

    Args:
        cluster: small numbers from 0 on; gaps are allowed.

    Raises:
        ValueError: there is no value.
    """
    n = len(values)
    if n == 0:
        raise ValueError("no values to take the mean of")
    sizes = np.bincount(cluster)
    sums = np.bincount(cluster, weights=values)
    present = sizes > 0
    sizes, sums = sizes[present], sums[present]
    clusters = len(sizes)
    mean = float(values.sum() / n)
    cluster_mean = float((sums / sizes).mean())
    if clusters < 2:
        return Estimate(mean, n, clusters, None, None, None, cluster_mean, None, None)
    se = _cluster_se(sums - mean * sizes, n)
    variance_if_independent = float(np.square(values - mean).sum()) / (n * (n - 1))
    reach = quantile_of_t(clusters - 1) * se
    return Estimate(
        mean,
        n,
        clusters,
        se,
        mean - reach,
        mean + reach,
        cluster_mean,
        n * variance_if_independent / se**2 if se else None,
        _p_value(mean, se, clusters - 1),
    )


def _cluster_se(residual_sums: Floats, n: int) -> float:
    clusters = len(residual_sums)
    se = math.sqrt(clusters / (clusters - 1) * float(np.square(residual_sums).sum())) / n
    return se if se > _NOISE else 0.0


def quantile_of_t(freedom: int) -> float:
    """Number of standard errors that an interval reaches to either side."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + LEVEL) / 2))


def _p_value(mean: float, se: float, freedom: int) -> float:
    from scipy.special import stdtr

    if se == 0:
        return 1.0 if abs(mean) <= _NOISE else 0.0
    return float(2 * stdtr(freedom, -abs(mean) / se))


def growing_means(values: Floats, cluster: Ints, step: Ints, steps: int) -> tuple[Floats, Floats, Floats]:
    """Mean, low and high end of `clustered_mean` over all values up to each step; NaN where undefined.

    Args:
        step: step of each value, in [0, steps).
    """
    from scipy.special import stdtrit

    # Squares of cluster sums change only for the cluster a value joins: in the order of (cluster, step), each value's
    # change is the difference of two running totals. Sums are of distances from the last mean, to keep them small.
    if len(values) == 0:
        nothing = np.full(steps, np.nan)
        return nothing, nothing.copy(), nothing.copy()
    centre = float(values.mean())
    order = np.lexsort((step, cluster))
    distance, step = values[order] - centre, step[order]
    starts = np.r_[True, np.diff(cluster[order]) != 0]
    sums, counts = _running(distance, starts), _running(np.ones(len(values)), starts)

    def up_to_step(per_value: Floats) -> Floats:
        return np.cumsum(np.bincount(step, weights=per_value, minlength=steps))

    def changes(totals: Floats, others: Floats, before: Floats, others_before: Floats) -> Floats:
        return up_to_step(totals * others - before * others_before)

    sums_before, counts_before = sums - distance, counts - 1
    n, total = up_to_step(np.ones(len(values))), up_to_step(distance)
    clusters = up_to_step(starts.astype(np.float64))
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(n > 0, total / n, np.nan)
        squares = (
            changes(sums, sums, sums_before, sums_before)
            - 2 * mean * changes(sums, counts, sums_before, counts_before)
            + mean**2 * changes(counts, counts, counts_before, counts_before)
        )
        se = np.sqrt(clusters / (clusters - 1) * np.maximum(squares, 0.0)) / n
        reach = np.where(clusters >= 2, stdtrit(np.maximum(clusters - 1, 1), (1 + LEVEL) / 2) * se, np.nan)
    mean = mean + centre
    return mean, mean - reach, mean + reach


def _running(values: Floats, starts: Floats) -> Floats:
    """Running totals that begin anew at each start."""
    totals = np.cumsum(values)
    first = np.flatnonzero(starts)
    before = totals[first] - values[first]
    return totals - np.repeat(before, np.diff(np.r_[first, len(values)]))


def bootstrap_totals(sums: Floats, key: str, draws: int = DRAWS) -> Floats:
    """Totals over as many clusters, drawn with replacement: shape (draws, columns).

    The generator is seeded by the key, and uses only what numpy promises to keep from release to release, so the same
    clusters under the same key give the same draws again, whatever else is computed.

    Args:
        sums: shape (clusters, columns): what each cluster adds to each total.
    """
    clusters = len(sums)
    raw = np.random.PCG64(int.from_bytes(blake2b(key.encode(), digest_size=16).digest(), "big"))
    totals = np.empty((draws, sums.shape[1]))
    block = max(1, min(draws, _CELLS_MULTIPLIED // max(clusters, 1)))
    times = np.empty((block, clusters))
    for start in range(0, draws, block):
        rows = min(block, draws - start)
        _count_picks(raw, times[:rows])
        totals[start : start + rows] = times[:rows] @ sums
    return totals


def _count_picks(raw: np.random.PCG64, times: Floats) -> None:
    """Fill each row with how often each cluster is picked, of as many picks as there are clusters."""
    draws, clusters = times.shape
    at_once = max(1, _CELLS_COUNTED // max(clusters, 1))
    for start in range(0, draws, at_once):
        rows = min(at_once, draws - start)
        # The upper half of a 64-bit number times the clusters, shifted: uniform but for one part in 4 billion.
        picks = raw.random_raw(rows * clusters)
        picks >>= np.uint64(32)
        picks *= np.uint64(clusters)
        picks >>= np.uint64(32)
        cells = picks.view(np.int64).reshape(rows, clusters)
        cells += np.arange(rows)[:, None] * clusters
        counts = np.bincount(cells.ravel(), minlength=rows * clusters)
        times[start : start + rows] = counts.reshape(rows, clusters)


def percentile_interval(numbers: Floats) -> tuple[float, float] | None:
    """Middle 95 % of bootstrapped numbers, without undefined ones (NaN)."""
    defined = numbers[~np.isnan(numbers)]
    if len(defined) == 0:
        return None
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
