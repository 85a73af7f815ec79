"""`predictbench backfill`: days that are stored, run again."""

import signal
import sys
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import click

from predictbench_assets.cli.database import opened_database
from predictbench_assets.cli.output import console
from predictbench_assets.cli.partitions import day_option, windows_option

if TYPE_CHECKING:
    from predictbench_assets.reporting.backfill import BackfillLine, BackfillSummary
    from predictbench_assets.runs import RunKey
    from predictbench_assets.settings import Settings

_ASKED_ABOVE = 10
"""More runs than these are not started on a terminal without asking."""


@click.command(
    short_help="Run stored days again.",
    epilog="""\
\b
Examples:
  predictbench backfill --from 2026-11-16 --to 2026-11-22
  predictbench backfill --from 2026-11-22 --to 2026-11-23 --window-days 1,7 \\
    --yes --summary backfill.json
""",
)
@day_option("--from", "first", required=True, help="The first run date.")
@day_option("--to", "last", required=True, help="The last run date, itself included.")
@windows_option()
@click.option(
    "--summary",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Where the table goes (JSON, and Markdown beside it).",
)
@click.option("--yes", is_flag=True, help="Do not ask, however many runs it is.")
def backfill(first: date, last: date, window_days: tuple[int, ...] | None, summary: Path | None, yes: bool) -> None:
    """Run every date and window of a range again, in order, on the snapshots that are stored.

    Nothing is fetched for a run with a stored snapshot; today's is run in full; what has no snapshot and is over is
    listed, since it cannot be captured any more. Exit code 0 if all is stored, 1 if a run failed, 3 if some could not
    be run.
    """
    from predictbench_assets.cli.daily import put_on_page
    from predictbench_assets.observability.logs import configure_logging
    from predictbench_assets.settings import load_settings

    settings = load_settings()
    configure_logging(settings)
    keys = _asked(settings, first, last, settings.windows if window_days is None else window_days)
    hindrances = _hindrances(settings, keys)
    if len(keys) - len(hindrances) > _ASKED_ABOVE and sys.stdin.isatty() and not yes:
        click.confirm(f"{len(keys) - len(hindrances):,} runs will be made. Go on?", abort=True, err=True)
    done = _run_all(settings, keys, hindrances)
    console().print(done.to_table())
    put_on_page(done.to_markdown())
    if summary is not None:
        done.write(summary.resolve())
    sys.exit(128 + signal.Signals[done.stopped_by] if done.stopped_by else done.exit_code)


def _asked(settings: "Settings", first: date, last: date, windows: tuple[int, ...]) -> "list[RunKey]":
    from predictbench_assets.runs import UnknownPartition, checked_key
    from predictbench_assets.schedule import days_between

    if last < first:
        raise click.UsageError(f"--to {last} is before --from {first}")
    today = settings.clock.now().date()
    try:
        for day in (first, last):
            checked_key(day, windows[0], today=today)
    except UnknownPartition as error:
        raise click.UsageError(str(error)) from error
    return days_between(first, last, windows)


def _hindrances(settings: "Settings", keys: "list[RunKey]") -> "Mapping[RunKey, str]":
    """Why runs cannot be made, for those that cannot."""
    from predictbench_assets.database.queries import frozen_runs, stored_runs
    from predictbench_assets.schedule import hindrance

    with opened_database(settings) as engine:
        first, last = keys[0].run_date, keys[-1].run_date
        stored, frozen = stored_runs(engine, first, last), frozen_runs(engine, first, last)
    now = settings.clock.now()
    found = {key: hindrance(key, now, stored.get(key), frozen=key in frozen) for key in keys}
    return {key: reason for key, reason in found.items() if reason is not None}


def _run_all(settings: "Settings", keys: "list[RunKey]", hindrances: "Mapping[RunKey, str]") -> "BackfillSummary":
    """Make the runs that can be made; a signal ends it after the run that is under way has ended."""
    from predictbench_assets.cli.daily import say, unwound_by_signals
    from predictbench_assets.reporting.backfill import BackfillLine, BackfillSummary

    lines = {key: BackfillLine.of(key, "missing", reason) for key, reason in hindrances.items()}
    stopped_by = None
    runnable = [key for key in keys if key not in hindrances]
    try:
        with unwound_by_signals():
            for number, key in enumerate(runnable, 1):
                say(settings, f"[{number}/{len(runnable)}] {key.run_date}, window {key.window_days} days")
                lines[key], code = _run(settings, key)
                say(settings, f"[{number}/{len(runnable)}] {_told(lines[key])}")
                if code > 128:
                    stopped_by = signal.Signals(code - 128).name
                    break
    except KeyboardInterrupt:
        stopped_by = "SIGINT"
    except SystemExit as ended:  # asked to terminate between two runs
        stopped_by = signal.Signals(int(str(ended.code)) - 128).name
    for key in keys:
        lines.setdefault(key, BackfillLine.of(key, "not_run"))
    return BackfillSummary(runs=tuple(lines[key] for key in keys), stopped_by=stopped_by)


def _run(settings: "Settings", key: "RunKey") -> "tuple[BackfillLine, int]":
    """Make one run: what came of it, and the exit code that says so."""
    from predictbench_assets.cli.daily import DailyOptions, run_daily
    from predictbench_assets.failures import PredictbenchError
    from predictbench_assets.launch import Watched
    from predictbench_assets.reporting.backfill import BackfillLine
    from predictbench_assets.reporting.summary import RunSummary

    said: list[tuple[RunSummary, Watched]] = []
    options = DailyOptions(run_date=key.run_date, window_days=key.window_days, on_existing="update")
    try:
        code = run_daily(settings, options, report=lambda *ended: said.append(ended))
    except (PredictbenchError, OSError) as error:
        return BackfillLine.of(key, "failed", settings.redact(str(error))), 1
    [(summary, watched)] = said
    return BackfillLine.ran(summary, exit_code=watched.exit_code), code


def _told(line: "BackfillLine") -> str:
    told = f"{line.run_date}, window {line.window_days} days: {line.outcome}"
    return f"{told}: {line.reason}" if line.reason else told
