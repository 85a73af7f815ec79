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
    SettledMarket,
    Usage,
)
from predictbench_assets.markets.market import Market, MarketPrice

__all__ = [
    "Experiment",
    "ExperimentResult",
    "ExperimentSkip",
    "Market",
    "MarketPrice",
    "PipelineContext",
    "RetriableError",
    "RunMetadata",
    "SettledMarket",
    "Usage",
]
