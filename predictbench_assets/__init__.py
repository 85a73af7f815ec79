"""Predictbench: a daily benchmark of forecasters on prediction markets, as one Dagster asset graph.

    exchanges/ ──> ingestion/ ──> experiments/ ──> persistence/ ──> resolution/ ──> scoring/ ──> site/  dataset/
    an adapter     a window's     a forecast of    the run, in      how markets     scores and   the page, files
    an exchange    frozen rows,   each market,     Postgres, all    settled, by     boards as    and releases
                   then markets   a class each     or nothing       and by          of a moment  for others

    markets/       the domain: a market, its price, its cluster, a day's cohort; knows no exchange and no database
    database/      engine, schema, migrations, and what is known at a moment; each stage has its own SQL
    retention/     what is old; reporting/  what people read in a terminal; observability/  logs, metrics, notices
    assets/        each stage as a Dagster asset; jobs.py  jobs and schedules; instance/  Dagster's own storage
    definitions.py puts all together; launch/  starts a run; cli/  the commands; diagnosis/  `predictbench doctor`
    sandbox/       a simulated exchange; the files beside the rooms (settings, runs, clock, ...) stand below all

A room imports what stands below it and nothing else: the order is the layers contract in pyproject.toml.
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
