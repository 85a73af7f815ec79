"""Predictbench: a daily benchmark of forecasters on Polymarket questions.

`open_benchmark()` opens its data for a notebook: see docs/notebooks.md.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from predictbench_assets.dataset.frames.benchmark import Benchmark, open_benchmark

__version__ = "0.1.0"

__all__ = ["Benchmark", "__version__", "open_benchmark"]


def __getattr__(name: str) -> Any:
    """Load the way in for notebooks when it is first asked for, so that every command still starts at once."""
    if name not in ("Benchmark", "open_benchmark"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from predictbench_assets.dataset.frames import benchmark

    return getattr(benchmark, name)


def __dir__() -> list[str]:
    return list(__all__)
