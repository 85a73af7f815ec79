"""Predictbench: a daily benchmark of forecasters on prediction markets, as one Dagster asset graph.

The data, from the exchange to the reader; each room is a stage, with its own SQL:

    exchanges/ ──> ingestion/ ──> experiments/ ──> persistence/ ──> resolution/ ──> scoring/ ──> site/  dataset/
    an adapter     a window's     a forecast of    the run, in      how markets     scores and   the page, files
    an exchange    frozen rows,   each market;     Postgres, all    settled, by     boards as    and releases
                   then markets   own classes too  or nothing       and by          of a moment  for others

What stages stand on: markets/ (market, price, cluster, cohort; no exchange, no database), database/ (engine, schema,
migrations, what is known at a moment), settings.py, runs.py, staging.py and the other files beside the rooms.
Around them: assets/ and jobs.py (each stage for Dagster), instance/ (Dagster's storage), definitions.py (all together),
launch/ and cli/ (a run from outside, the commands), diagnosis/ (`predictbench doctor`), reporting/ (text and charts),
observability/ (logs, metrics, notices), retention/ (what is old), sandbox/ (a simulated exchange).
Who may import whom is the layers contract in pyproject.toml, from the commands at the top down to the clock.

`open_benchmark()` opens the data for a notebook: see docs/notebooks.md.
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
