"""Experiments whose forecasts are handed in, as tests list them."""

from collections.abc import Sequence

from predictbench_assets.experiments.outside.file import FileTable
from predictbench_assets.experiments.protocol import Experiment
from predictbench_assets.settings import load_settings


def two_forecasters() -> Sequence[Experiment]:
    """A crowd, and one that is not shown the price."""
    settings = load_settings()
    return [
        FileTable(kind="file").experiment("crowd", settings),
        FileTable(kind="file", prices="hidden").experiment("hermit", settings),
    ]
