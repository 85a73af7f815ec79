"""`predictbench due`: which windows of which day have to run now."""

import json
import logging
from collections.abc import Sequence
from datetime import date

import click

from predictbench_assets.cli.options import as_usage_errors, configured_settings, run_date_option, windows_option
from predictbench_assets.observability.console import print_item
from predictbench_assets.persistence.run_store import RunDatabase, run_database
from predictbench_assets.persistence.scheduled import plan_day, stored_on
from predictbench_assets.persistence.stored_runs import StoredRun
from predictbench_assets.runs import UnknownPartition, checked_key
from predictbench_assets.schedule import RunPlan, plan_requested, scheduled_day
from predictbench_assets.settings import Settings

_log = logging.getLogger(__name__)


@click.command(
    epilog="""\
\b
Examples:
  predictbench due --scheduled
  predictbench due --run-date 2026-11-20 --window-days 1,7
  predictbench due --scheduled --format github >> "$GITHUB_OUTPUT"
""",
)
@click.option("--scheduled", is_flag=True, help="For a schedule: leave out what is done, record what was missed.")
@run_date_option
@windows_option()
@click.option("--link", metavar="URL", help="Where the schedule's own log is; goes into the record of a missed day.")
@click.option("--format", "form", type=click.Choice(["json", "github"]), default="json", help="How to print it.")
def due(
    scheduled: bool, run_date: date | None, window_days: tuple[int, ...] | None, link: str | None, form: str
) -> None:
    """Print which windows of which run date have to run now.

    With --scheduled the run date is the day of the latest PIPELINE_RUN_AT_UTC. Is that day over, nothing is due: its
    windows that are not stored are recorded as missed, since a past day cannot be captured. Without it, everything
    that is asked for is due, `done` names what is stored complete, and --on-existing decides what becomes of that.
    """
    if scheduled and run_date is not None:
        raise click.UsageError("--scheduled says itself which day it is for; leave out --run-date")
    settings = configured_settings()
    for warning in settings.warnings:
        _log.warning(warning)
    windows = settings.windows if window_days is None else window_days
    database = run_database(settings)
    try:
        found = (
            _plan_scheduled(settings, database, windows, link)
            if scheduled
            else _plan_requested(settings, database, run_date, windows)
        )
    finally:
        database.engine.dispose()
    print_item("", _printed(found, form))


def _plan_requested(
    settings: Settings, database: RunDatabase, run_date: date | None, windows: tuple[int, ...]
) -> RunPlan:
    today = settings.clock.now().date()
    day = run_date or today
    with as_usage_errors(UnknownPartition):
        for window in windows:
            checked_key(day, window, today=today)
    return plan_requested(day, windows, stored_on(database, day))


def _plan_scheduled(settings: Settings, database: RunDatabase, windows: tuple[int, ...], link: str | None) -> RunPlan:
    now = settings.clock.now()
    day = scheduled_day(now, settings.pipeline_run_at_utc)
    return plan_day(
        database, day, windows, now, link=link, end_dead=lambda running: _end_dead(settings, database, running)
    ).plan


def _end_dead(settings: Settings, database: RunDatabase, running: Sequence[StoredRun]) -> None:
    """End the rows of runs that Dagster knows to have ended: killed ones could not do so themselves."""
    # Loads Dagster, which only a day with a run under way needs here.
    from predictbench_assets.assets.ended_runs import end_dead_rows
    from predictbench_assets.instance.run_retention import dagster_instance
    from predictbench_assets.instance.storage import DagsterStorageError

    try:
        with dagster_instance(settings) as instance:
            if instance is not None:
                end_dead_rows(instance, database, running, settings)
    except DagsterStorageError as error:
        _log.warning("Dagster's storage does not tell whether a run has ended: %s", error)


def _printed(found: RunPlan, form: str) -> str:
    facts = {
        "run_date": found.run_date.isoformat(),
        "windows": found.windows,
        "done": found.done,
        "missed": found.missed,
        "running": found.running,
    }
    if form == "json":
        return json.dumps(facts)
    lists = (f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in facts.items())
    return "\n".join(lists)
