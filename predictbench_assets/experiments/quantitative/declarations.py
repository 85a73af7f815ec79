"""Constants that several models of this room declare: they are priors and bounds, decided before any result."""

from typing import Final

from predictbench_assets.markets.market import REFERENCE

FACTOR: Final = 1.1
"""What log-odds of the price are multiplied by where nothing has been learned: prices are a little too timid."""

PRIOR_MARKETS: Final = 50
"""The weight of a prior, in settled markets."""

EDGE: Final = 0.001
"""Where log-odds are averaged or compared, none counts as further out than those of this probability: the exchange's
own finest price step. One forecast of 0 would else be a veto."""

PRICE: Final = REFERENCE
"""The experiment that has the price."""
