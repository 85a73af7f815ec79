"""Experiments: the protocol that a forecaster implements, the registry that finds them, the runner that runs them.

The names below are the whole interface for people who write experiments. What an experiment forecasts belongs in its
own module (`builtin/`, or yours); storing, scoring and Dagster's assets do not belong here.
"""

from predictbench_assets.experiments.protocol import (
    Experiment,
    ExperimentResult,
    ExperimentSkip,
    PipelineContext,
    RetriableError,
    RunMetadata,
    SettledForecast,
    SettledMarket,
    Usage,
)
from predictbench_assets.markets.market import Market, MarketPrice
from predictbench_assets.markets.market_data import OrderBook

__all__ = [
    "Experiment",
    "ExperimentResult",
    "ExperimentSkip",
    "Market",
    "MarketPrice",
    "OrderBook",
    "PipelineContext",
    "RetriableError",
    "RunMetadata",
    "SettledForecast",
    "SettledMarket",
    "Usage",
]
