"""Scores of single forecasts, on arrays. All take probabilities and prices of a market's first outcome.

Increment `SCORING_VERSION` whenever the meaning of a number here or on a board changes: scores and boards name it.
"""

from typing import Final

import numpy as np

from predictbench_assets.scoring.forecasts import Bools, Floats

SCORING_VERSION: Final = "1"

CLIP_LOW: Final = 0.001
CLIP_HIGH: Final = 0.999
"""The bounds of what log loss sees: a forecast of 0 or 1 that turns out wrong would cost infinitely much."""


def scores(forecast: Floats, price: Floats, outcome: Floats) -> dict[str, Floats | Bools]:
    """All of them, by the names of the columns that keep them; what needs a price is NaN where there is none."""
    return {
        "brier": brier(forecast, outcome),
        "log_loss": log_loss(forecast, outcome),
        "clipped": clipped(forecast),
        "edge": edge(forecast, price, outcome),
        "disagreement": disagreement(forecast, price),
    }


def brier(forecast: Floats, outcome: Floats) -> Floats:
    """(f - y)^2, in [0, 1]; lower is better."""
    return np.square(forecast - outcome)


def log_loss(forecast: Floats, outcome: Floats) -> Floats:
    """-[y ln f + (1 - y) ln(1 - f)] in nats, f held within the bounds; lower is better."""
    held = np.clip(forecast, CLIP_LOW, CLIP_HIGH)
    return -(outcome * np.log(held) + (1.0 - outcome) * np.log1p(-held))


def clipped(forecast: Floats) -> Bools:
    """True where log loss uses another value than the forecast."""
    return np.asarray((forecast < CLIP_LOW) | (forecast > CLIP_HIGH))


def edge(forecast: Floats, price: Floats, outcome: Floats) -> Floats:
    """(m - y)^2 - (f - y)^2: how much less the forecast lost than the market's price m; above 0 it beats the market."""
    return np.square(price - outcome) - np.square(forecast - outcome)


def disagreement(forecast: Floats, price: Floats) -> Floats:
    """(f - m)^2: what a forecaster pays for leaving the price, if the price is right."""
    return np.square(forecast - price)
