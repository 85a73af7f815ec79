"""`predictbench notify`: tell a webhook how a run went."""

from datetime import date
from pathlib import Path

import click

from predictbench_assets.cli.partitions import run_date_option, windows_option


@click.command(
    short_help="Tell a webhook how a run went.",
    epilog="""\
\b
Examples:
  predictbench notify --outcome failure --summary summary.json --link https://example.com/runs/1
  predictbench notify --outcome failure --run-date 2026-11-23 --window-days 7 --stage install
  predictbench notify --outcome missed --run-date 2026-11-22 --window-days 1,7
""",
)
@click.option("--outcome", type=click.Choice(["failure", "success", "missed"]), required=True, help="How it went.")
@click.option(
    "--summary", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="The run's summary (JSON)."
)
@run_date_option
@windows_option
@click.option("--stage", metavar="NAME", help="Where it stopped, for a run that left no summary.")
@click.option("--link", metavar="URL", help="Where there is more to see.")
def notify(
    outcome: str,
    summary: Path | None,
    run_date: date | None,
    window_days: tuple[int, ...] | None,
    stage: str | None,
    link: str | None,
) -> None:
    """Tell NOTIFY_WEBHOOK_URL how a run went; silent where that is not set.

    A success is told with NOTIFY_ON_SUCCESS only, and DEAD_MAN_URL is fetched after it. Exit code 1 if it could not
    be delivered.
    """
    del outcome, summary, run_date, window_days, stage, link
