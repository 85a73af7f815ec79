"""`predictbench due`: which windows of which day have to run now."""

import json
import logging
from collections.abc import Mapping
from datetime import date

import click

from predictbench_assets.cli.options import as_usage_errors, configured_settings, run_date_option, windows_option
from predictbench_assets.database import migrations
from predictbench_assets.database.errors import BRIEF
from predictbench_assets.observability.console import print_item
from predictbench_assets.persistence.run_store import RunDatabase, run_database
from predictbench_assets.persistence.stored_runs import StoredRun
from predictbench_assets.runs import RunKey, UnknownPartition, checked_key
from predictbench_assets.schedule import RunPlan, missed_reason, plan_requested, plan_scheduled, scheduled_day
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
    return plan_requested(day, windows, _stored(database, day))


def _plan_scheduled(settings: Settings, database: RunDatabase, windows: tuple[int, ...], link: str | None) -> RunPlan:
    now, run_at = settings.clock.now(), settings.pipeline_run_at_utc
    stored = _stored(database, scheduled_day(now, run_at))
    found = plan_scheduled(now, run_at, windows, stored)
    for window in found.running:
        _log.warning("the run of %s, window %d, is still under way, held by %s", *_named(stored[window]))
    if found.missed:
        _log_missed(settings, database, found, stored, link)
    return found


def _named(run: StoredRun) -> tuple[date, int, str]:
    return run.key.run_date, run.key.window_days, run.holder


def _log_missed(
    settings: Settings, database: RunDatabase, found: RunPlan, stored: Mapping[int, StoredRun], link: str | None
) -> None:
    """Record the windows that have no row yet, and log for each its state and what can be done."""
    keys = {window: RunKey(found.run_date, window) for window in found.missed}
    reason = missed_reason(found.run_date, settings.clock.now(), link)
    recorded = _record(database, [keys[window] for window in found.missed if window not in stored], reason)
    for window, key in keys.items():
        if window in stored:
            _log.error("the run of %s, window %d, is not complete: %s", *_state(database, stored[window]))
        elif key in recorded:
            _log.error("recorded as missed: %s, window %d: %s", key.run_date, window, reason)
        else:
            _log.error("missed, and not recorded: %s, window %d: %s", key.run_date, window, reason)


def _record(database: RunDatabase, keys: list[RunKey], reason: str) -> set[RunKey]:
    """Record runs as missed; returns those that got a row."""
    if database.dry:
        _log.warning("a dry run records nothing")
        return set()
    if not migrations.is_current(database.engine):
        _log.warning("the database is not at the revision that this code needs: run `predictbench db upgrade`")
        return set()
    return database.miss(keys, reason)


def _state(database: RunDatabase, run: StoredRun) -> tuple[date, int, str]:
    """The day and window of a stored run that the schedule came too late for, and what can be done about it."""
    day, window = run.key.run_date, run.key.window_days
    if database.snapshot(run.key) is not None:
        mend = (
            "its snapshot is stored, so that it can be completed: "
            f"predictbench backfill --from {day} --to {day} --window-days {window}"
        )
    else:
        mend = "no snapshot was stored, and a past day cannot be captured"
    why = f"{run.status} at {run.stage}" + (f" ({run.reason})" if run.reason else "")
    return day, window, f"attempt {run.attempt}, {why}; {mend}"


def _stored(database: RunDatabase, run_date: date) -> Mapping[int, StoredRun]:
    if migrations.current(database.engine, BRIEF) is None:
        _log.warning("the database has no tables yet, so nothing is stored: `predictbench db upgrade` makes them")
        return {}
    return database.runs_of(run_date)


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
