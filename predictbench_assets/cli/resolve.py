"""`predictbench resolve`: how stored markets settled."""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from predictbench_assets import web
from predictbench_assets.cli.options import configured_settings
from predictbench_assets.database.connection import opened_database
from predictbench_assets.launch.demo import demo_exchange, enter_demo
from predictbench_assets.launch.signals import exiting_on_signals
from predictbench_assets.observability.console import append_step_summary, error_console, print_item
from predictbench_assets.resolution.configured import run_sweep
from predictbench_assets.resolution.sweep import SweepInterrupted


class _Shown(Protocol):
    def __call__(self, done: int, total: int) -> None: ...


@click.command(
    epilog="""\
\b
Examples:
  predictbench resolve
  predictbench resolve --limit 1000 --json
  predictbench db sql \\
    "select state, count(*) from predictbench.market_resolutions group by 1"
""",
)
@click.option("--limit", type=click.IntRange(min=1), metavar="K", help="Look at K markets only.")
@click.option(
    "--max-requests",
    type=click.IntRange(min=1),
    metavar="N",
    help="Send N requests.  [default: RESOLUTION_MAX_REQUESTS]",
)
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@click.option("--demo", is_flag=True, help="On the demo's data.")
def resolve(limit: int | None, max_requests: int | None, as_json: bool, demo: bool) -> None:
    """Look up how stored markets settled, and keep every observation.

    Those past their close are looked at each time until they are final (given up after 60 days), final ones for 30
    more days, the others every second day. What one sweep does not get to, the next one begins with. Exit code 0 if
    the exchange answered, 1 if it stopped to (what was seen is stored).
    """
    if demo:
        enter_demo()
        demo_exchange()
    settings = configured_settings()
    web.check_environment()
    failure = None
    with exiting_on_signals(), opened_database(settings) as engine, _progress() as shown:
        try:
            report = run_sweep(settings, engine, limit=limit, max_requests=max_requests, on_progress=shown)
        except SweepInterrupted as error:
            report, failure = error.report, error
    if as_json:
        click.echo(json.dumps(report.as_dict(), indent=2))
    else:
        for line in report.to_text().split("\n"):
            print_item("", line)
    append_step_summary(report.to_markdown())
    if failure is not None:
        raise failure


@contextmanager
def _progress() -> Iterator[_Shown]:
    """A bar on a terminal's stderr; lines of the log elsewhere."""
    if not sys.stderr.isatty():
        log = logging.getLogger(__name__)
        yield lambda done, total: log.info("looked at %d of %d markets", done, total)
        return

    columns = (TextColumn("markets"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=error_console(), transient=True) as bar:
        task = bar.add_task("", total=None)

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield show
