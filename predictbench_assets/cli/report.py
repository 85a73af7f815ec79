"""`predictbench report`: the benchmark as a page."""

from datetime import date, datetime
from pathlib import Path

import click

from predictbench_assets.cli.options import (
    as_of_instant,
    as_of_option,
    configured_settings,
    day_option,
    demo_option,
    period_of,
    period_options,
)
from predictbench_assets.database.connection import opened_database
from predictbench_assets.reporting.output import size
from predictbench_assets.site.build import write_report
from predictbench_assets.site.names import FOLDER


@click.command(
    epilog="""\
\b
Examples:
  predictbench report --open
  predictbench report --output public
  predictbench report --as-of 2026-11-23 --output november
""",
)
@click.option(
    "--output", metavar="DIR", help="The folder; one that holds a page is replaced.  [default: in PREDICTBENCH_HOME]"
)
@as_of_option
@period_options
@day_option(
    "--markets-since",
    help="Pages for markets of this run date and later only.  [default: for all of the core that count]",
)
@click.option("--open", "open_", is_flag=True, help="Open it in the browser.")
@demo_option
def report(
    output: str | None,
    moment: date | datetime | None,
    since: date | None,
    until: date | None,
    markets_since: date | None,
    open_: bool,
) -> None:
    """Write the boards, and a page for each experiment and each market of the core, as a folder of files.

    The runs that count are those of the LEADERBOARD_DAYS (365) before its moment.
    Any static host serves it, and it opens from the disk; it asks for nothing outside of itself.
    """
    settings = configured_settings()
    now = settings.clock.now()
    as_of = as_of_instant(moment, now)
    since, until = period_of(settings, as_of, since, until)
    folder = Path(output).expanduser() if output else settings.home / FOLDER
    with opened_database(settings) as engine:
        written = write_report(
            engine, folder, now=now, as_of=as_of, since=since, until=until, markets_since=markets_since
        )
    click.echo(
        f"{written.files:,} files, {size(written.bytes)}, {written.markets:,} markets, {written.seconds:.1f} s",
        err=True,
    )
    click.echo(written.index)
    if open_:
        click.launch(written.index.as_uri())
