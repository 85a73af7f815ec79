"""Earlier place of the interface, for classes that import from it; new ones use `predictbench_assets.experiments`."""

from predictbench_assets.experiments import (
    Experiment,
    ExperimentResult,
    ExperimentSkip,
    PipelineContext,
    RetriableError,
    RunMetadata,
    SettledMarket,
)

__all__ = [
    "Experiment",
    "ExperimentResult",
    "ExperimentSkip",
    "PipelineContext",
    "RetriableError",
    "RunMetadata",
    "SettledMarket",
]
