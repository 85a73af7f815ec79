"""`predictbench coverage`: which partitions are stored, and what became of the others."""

from datetime import date
from typing import Literal

import click

from predictbench_assets.cli.options import configured_settings, day_option, demo_option
from predictbench_assets.database.connection import opened_database
from predictbench_assets.observability.console import console
from predictbench_assets.persistence.stored_runs import run_states
from predictbench_assets.reporting.coverage import MOST_MONTHS, as_json, as_text, coverage_of


@click.command(
    epilog="""\
\b
Examples:
  predictbench coverage
  predictbench coverage --since 2026-11-01
  predictbench coverage --format json
""",
)
@day_option("--since", help="The first run date.  [default: that of the first run; a table has the last 13 months]")
@click.option("--format", "format_", type=click.Choice(["table", "json"]), default="table", help="Form of the output.")
@demo_option
def coverage(since: date | None, format_: Literal["table", "json"]) -> None:
    """Show the coverage calendar: the state of each partition, run date by window.

    Reads only. `predictbench backfill` runs stored days again.
    """
    settings = configured_settings()
    with opened_database(settings) as engine:
        calendar = coverage_of(run_states(engine, settings.clock.now()), since)
    if format_ == "json":
        click.echo(as_json(calendar), nl=False)
    else:
        console().print(as_text(calendar, most_months=MOST_MONTHS if since is None else None))
