"""`predictbench due`: which windows of which day have to run now."""

import json
import logging
from collections.abc import Mapping
from datetime import date
from typing import TYPE_CHECKING

import click

from predictbench_assets.cli.partitions import run_date_option, windows_option

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from predictbench_assets.database.queries import StoredRun
    from predictbench_assets.schedule import Due
    from predictbench_assets.settings import Settings

_log = logging.getLogger(__name__)


@click.command(
    short_help="Which runs are due.",
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
@windows_option
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
    from predictbench_assets.database.connection import database_url
    from predictbench_assets.database.engine import make_engine
    from predictbench_assets.observability.logs import configure_logging
    from predictbench_assets.settings import load_settings

    if scheduled and run_date is not None:
        raise click.UsageError("--scheduled says itself which day it is for; leave out --run-date")
    settings = load_settings()
    configure_logging(settings)
    for warning in settings.warnings:
        _log.warning(warning)
    windows = settings.windows if window_days is None else window_days
    engine = make_engine(database_url(settings), pool_size=0, application_name="predictbench due")
    if scheduled:
        found = _owed(settings, engine, windows, link)
    else:
        found = _asked(settings, engine, run_date, windows)
    click.echo(_printed(found, form))


def _asked(settings: "Settings", engine: "Engine", run_date: date | None, windows: tuple[int, ...]) -> "Due":
    from predictbench_assets.runs import UnknownPartition, checked_key
    from predictbench_assets.schedule import asked_for

    today = settings.clock.now().date()
    day = run_date or today
    try:
        for window in windows:
            checked_key(day, window, today=today)
    except UnknownPartition as error:
        raise click.UsageError(str(error)) from error
    return asked_for(day, windows, _stored(engine, day))


def _owed(settings: "Settings", engine: "Engine", windows: tuple[int, ...], link: str | None) -> "Due":
    from predictbench_assets.schedule import owed_by_schedule, scheduled_day

    now = settings.clock.now()
    run_at = settings.pipeline_run_at_utc
    stored = _stored(engine, scheduled_day(now, run_at))
    return owed_by_schedule(now, run_at, windows, stored)


def _stored(engine: "Engine", run_date: date) -> Mapping[int, "StoredRun"]:
    from predictbench_assets.database import migrations
    from predictbench_assets.database.queries import stored_runs

    if migrations.current(engine) is None:
        _log.warning("the database has no tables yet, so nothing is stored: `predictbench db upgrade` makes them")
        return {}
    return stored_runs(engine, run_date)


def _printed(found: "Due", form: str) -> str:
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
