"""`predictbench backfill`: days that are stored, run again."""

from pathlib import Path

import click

from predictbench_assets.cli.partitions import day_option, windows_option


@click.command(
    short_help="Run stored days again.",
    epilog="""\
\b
Examples:
  predictbench backfill --from 2026-11-16 --to 2026-11-22
  predictbench backfill --from 2026-11-22 --to 2026-11-23 --window-days 1,7 --yes --summary backfill.json
""",
)
@day_option("--from", required=True, help="The first run date.")
@day_option("--to", required=True, help="The last run date, itself included.")
@windows_option()
@click.option(
    "--summary", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Where a JSON of it goes."
)
@click.option("--yes", is_flag=True, help="Do not ask, however many runs it is.")
def backfill(**_: object) -> None:
    """Run every date and window of a range again, in order, on the snapshots that are stored.

    Nothing is fetched for a day with a stored snapshot; today is run in full; what has no snapshot and is over is
    listed, since it cannot be captured any more. Exit code 0 if all is stored, 1 if a run failed, 3 if some cannot be
    run.
    """
    raise click.ClickException("not written yet")
