"""Calibration: does what gets 70 % happen 70 % of the time? Outcomes are 0 or 1; forecasts are in ten even bins."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from predictbench_assets.scoring.forecasts import Floats, Ints
from predictbench_assets.scoring.rules import brier

BINS: Final = 10


@dataclass(frozen=True)
class Decomposition:
    """Murphy's: mean Brier = reliability - resolution + uncertainty + within_bins, exactly.

    The first three are those of the forecasts rounded to their bin's mean, whose Brier score they sum to.
    """

    reliability: float
    """Squared distance of the bins' shares of 1 from their mean forecasts; 0 is calibrated."""
    resolution: float
    """Squared distance of the bins' shares from the share of all; more is better."""
    uncertainty: float
    """Variance of the outcomes alone."""
    within_bins: float
    """Part of the forecasts' differences inside of their bins; below 0 where they carry information."""


@dataclass(frozen=True)
class Corp:
    """CORP: mean Brier = miscalibration - discrimination + uncertainty, without bins."""

    miscalibration: float
    """Brier score that the best monotone recalibration would save."""
    discrimination: float
    """Gain of the recalibrated forecasts over the share of all."""
    uncertainty: float


def forecast_bins(forecast: Floats) -> Ints:
    """Number of the bin, 0 to 9; an edge belongs to the bin above, 1 to the last one."""
    return np.minimum((forecast * BINS).astype(np.int64), BINS - 1)


def decompose(forecast: Floats, outcome: Floats) -> Decomposition:
    """Murphy's decomposition over the bins."""
    bins, n = forecast_bins(forecast), len(forecast)
    counts = np.bincount(bins)
    used = counts > 0
    counts = counts[used]
    means = np.bincount(bins, weights=forecast)[used] / counts
    shares = np.bincount(bins, weights=outcome)[used] / counts
    overall = float(outcome.mean())
    reliability = float((counts * np.square(means - shares)).sum() / n)
    resolution = float((counts * np.square(shares - overall)).sum() / n)
    uncertainty = overall * (1 - overall)
    total = float(brier(forecast, outcome).mean())
    return Decomposition(reliability, resolution, uncertainty, total - (reliability - resolution + uncertainty))


def corp(forecast: Floats, outcome: Floats) -> Corp:
    """Dimitriadis, Gneiting and Jordan's decomposition, by isotonic regression; equal forecasts stay equal."""
    from scipy.optimize import isotonic_regression

    n = len(forecast)
    _, group = np.unique(forecast, return_inverse=True)
    counts = np.bincount(group).astype(np.float64)
    shares = np.bincount(group, weights=outcome) / counts
    recalibrated = isotonic_regression(shares, weights=counts).x[group]
    overall = float(outcome.mean())
    uncertainty = overall * (1 - overall)
    best = float(np.square(recalibrated - outcome).sum() / n)
    return Corp(float(brier(forecast, outcome).mean()) - best, uncertainty - best, uncertainty)


def calibration_error(forecast: Floats, outcome: Floats) -> float:
    """ECE: the mean over markets of how far its bin's share of 1 is from its bin's mean forecast."""
    gaps = np.bincount(forecast_bins(forecast), weights=forecast - outcome)
    return float(np.abs(gaps).sum() / len(forecast))


def expected_calibration_error(forecast: Floats) -> float:
    """The ECE that these forecasts would show on average if every one of them were true and markets independent.

    It is above 0, and the more so the fewer they are: an ECE means nothing without it. In each bin, the number of
    markets that settle at 1 is taken for a binomial one, whose mean distance from its mean is known (De Moivre).
    """
    from scipy.stats import binom

    bins = forecast_bins(forecast)
    counts = np.bincount(bins)
    used = counts > 0
    counts = counts[used]
    means = np.minimum(np.bincount(bins, weights=forecast)[used] / counts, 1.0)
    above = np.minimum(np.floor(counts * means), counts - 1) + 1  # the first count above the mean
    distance = 2 * above * (1 - means) * binom.pmf(above, counts, means)
    return float(distance.sum() / len(forecast))
