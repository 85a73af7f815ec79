"""`predictbench daily`, `partition` and `run-config`: one run of the job, and the parts of its command."""

import json
import sys
from datetime import date
from pathlib import Path
from typing import Any

import click

from predictbench_assets.cli.options import (
    as_usage_errors,
    configured_settings,
    experiment_names,
    followed,
    run_date_option,
    window_option,
)
from predictbench_assets.experiments.declared.file import registry_of
from predictbench_assets.launch import commands
from predictbench_assets.launch.daily import run_daily
from predictbench_assets.launch.request import DailyOptions, RunRefused, op_config, requested_key
from predictbench_assets.runs import partition_tags
from predictbench_assets.settings import load_settings


def _run_options(command: Any) -> Any:
    """The options that end up in the run's configuration."""
    for option in reversed(
        (
            click.option(
                "--limit", type=click.IntRange(min=1), metavar="K", help="Only K markets; marks the run partial."
            ),
            click.option(
                "--experiment",
                "experiments",
                multiple=True,
                metavar="NAME",
                shell_complete=experiment_names,
                help="Only this one (repeatable), what it requires, and the mandatory ones.",
            ),
            click.option(
                "--forget",
                multiple=True,
                metavar="NAME",
                shell_complete=experiment_names,
                help="Ask this one again (repeatable), and those that require it, although its version is the same.",
            ),
            click.option("--refresh", is_flag=True, help="Freeze a new snapshot although one is stored; today's only."),
            click.option(
                "--allow-empty", is_flag=True, help="Believe a listing without any market: the day truly has none."
            ),
            click.option(
                "--debug-artifacts", is_flag=True, help="Write the staged markets as readable JSON into ARTIFACTS_DIR."
            ),
            click.option(
                "--on-existing",
                type=click.Choice(["update", "skip", "fail"]),
                default="update",
                help="What to do where the run is stored already.",
            ),
        )
    ):
        command = option(command)
    return command


@click.command(
    epilog="""\
\b
Examples:
  predictbench daily
  predictbench daily --run-date 2026-11-20 --on-existing skip
  predictbench daily --dry-run --limit 50
  predictbench daily --experiment shrunk_market
  predictbench daily --experiment shrunk_market --forget shrunk_market
""",
)
@run_date_option
@window_option
@click.option("--dry-run", is_flag=True, help="Write nothing; count the rows that would be written.")
@_run_options
@click.option(
    "--summary",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Where the summary goes (JSON, and Markdown beside it).",
)
def daily(**options: Any) -> None:
    """Run the daily job for one date and window, and show what came of it.

    Prints the `dagster job execute` command that it runs. Exit code 0 only if the run succeeded.
    """
    settings = configured_settings()
    with as_usage_errors(RunRefused):
        code = run_daily(settings, DailyOptions(**options), follow=followed)
    sys.exit(code)


@click.command(
    epilog="""\
\b
Examples:
  predictbench partition --window-days 1
  dagster job execute -m predictbench_assets.definitions -j daily_run \\
    --tags "$(predictbench partition)"
""",
)
@run_date_option
@window_option
def partition(run_date: date | None, window_days: int | None) -> None:
    """Print the tags of one partition, for `dagster job execute --tags`."""
    with as_usage_errors(RunRefused):
        key = requested_key(load_settings(), run_date, window_days)
    click.echo(json.dumps(partition_tags(key)))


@click.command(
    "run-config",
    epilog="""\
\b
Examples:
  predictbench run-config --on-existing skip > run.json
  dagster job execute -m predictbench_assets.definitions -j daily_run \\
    -c run.json --tags "$(predictbench partition)"
""",
)
@_run_options
def run_config(**options: Any) -> None:
    """Print the run configuration for `dagster job execute -c FILE`: what `predictbench daily` passes too."""
    settings = load_settings()
    registry = registry_of(settings)
    options["dry_run"] = settings.predictbench_dry_run
    with as_usage_errors(RunRefused):
        ops = op_config(settings, DailyOptions(**options), registry)
    click.echo(commands.run_config(ops), nl=False)
