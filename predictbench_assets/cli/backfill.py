"""`predictbench backfill`: days that are stored, run again."""

import signal
import sys
from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import TypeVar

import click

from predictbench_assets.cli.options import (
    as_usage_errors,
    configured_settings,
    day_option,
    experiment_names,
    windows_option,
)
from predictbench_assets.database.connection import opened_database
from predictbench_assets.experiments.declared.file import registry_of
from predictbench_assets.experiments.registry import RegistryError
from predictbench_assets.launch.backfill import Backfill
from predictbench_assets.launch.parity import check_parity
from predictbench_assets.launch.request import DailyOptions
from predictbench_assets.launch.signals import exiting_on_signals
from predictbench_assets.observability.console import append_step_summary, console
from predictbench_assets.persistence.stored_runs import frozen_runs, stored_runs
from predictbench_assets.reporting.backfill import BackfillLine, BackfillSummary
from predictbench_assets.reporting.parity import ParitySummary
from predictbench_assets.runs import RunKey, UnknownPartition, checked_key
from predictbench_assets.schedule import days_between, why_not_runnable
from predictbench_assets.settings import Settings

_CONFIRM_ABOVE = 10
"""More runs than these are not started on a terminal without asking."""
_Summary = TypeVar("_Summary", BackfillSummary, ParitySummary)


@click.command(
    epilog="""\
\b
Examples:
  predictbench backfill --from 2026-11-16 --to 2026-11-22
  predictbench backfill --from 2026-11-22 --to 2026-11-23 --window-days 1,7 \\
    --yes --summary backfill.json
  predictbench backfill --from 2026-11-01 --to 2026-11-22 \\
    --experiment shrunk_market
  predictbench backfill --check
""",
)
@day_option("--from", "first", help="The first run date; --check alone needs none.")
@day_option("--to", "last", help="The last run date, itself included.")
@windows_option()
@click.option(
    "--experiment",
    "experiments",
    multiple=True,
    metavar="NAME",
    shell_complete=experiment_names,
    help="Only this one (repeatable) and what it requires, on the days that are stored complete.",
)
@click.option(
    "--reconstruct/--no-reconstruct",
    default=None,
    help="Put the snapshot of a past day that has none together, or leave the day out.  [default: PAST_SNAPSHOTS]",
)
@click.option(
    "--check",
    is_flag=True,
    help="Store nothing: reconstruct what was captured in a scratch place, and compare the two.",
)
@click.option(
    "--summary",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Where the table goes (JSON, and Markdown beside it).",
)
@click.option("--yes", is_flag=True, help="Do not ask, however many runs it is.")
def backfill(
    first: date | None,
    last: date | None,
    window_days: tuple[int, ...] | None,
    experiments: tuple[str, ...],
    reconstruct: bool | None,
    check: bool,
    summary: Path | None,
    yes: bool,
) -> None:
    """Run every date and window of a range again, in order, on the snapshots that are stored.

    Nothing is fetched for a run with a stored snapshot; today's is run in full; what has no snapshot and is over is
    reconstructed of what the exchange still knows, or listed where that is not wanted. Exit code 0 if all is stored,
    1 if a run failed, 3 if some could not be run.

    With --experiment the results of all others stay as they are, and a run also counts as failed if that experiment
    gave no forecast of any market. A forecast made more than a day after its snapshot was frozen is late: it is on the
    backfill board and on its market's page, and never takes the place of one that was made in time.

    With --check the exit code is 1 if a reconstruction differs from its capture by more than is tolerated or could not
    be made, and 3 if nothing was captured. Without a range it is the last day whose markets have all ended.
    """
    settings = configured_settings()
    if check and (experiments or reconstruct is not None):
        raise click.UsageError("--check runs no experiment and stores nothing: leave the other options out")
    if check and first is None and last is None:
        windows = window_days or (settings.target_close_window_days,)
        keys = [RunKey(settings.clock.now().date() - timedelta(days=window + 1), window) for window in windows]
    elif first is None or last is None:
        raise click.UsageError("--from and --to name the run dates: give both")
    else:
        keys = _requested_keys(settings, first, last, settings.windows if window_days is None else window_days)
    if check:
        sys.exit(_show(ParitySummary(partitions=tuple(check_parity(settings, keys))), summary).exit_code)
    _check_experiments(settings, experiments)
    options = DailyOptions(
        experiments=experiments, reconstruct=settings.reconstructs if reconstruct is None else reconstruct
    )
    refusals = _refusals(settings, keys, options)
    if len(keys) - len(refusals) > _CONFIRM_ABOVE and sys.stdin.isatty() and not yes:
        click.confirm(f"{len(keys) - len(refusals):,} runs will be made. Go on?", abort=True, err=True)
    done = _run_all(settings, keys, refusals, options)
    _show(done, summary)
    sys.exit(128 + signal.Signals[done.stopped_by] if done.stopped_by else done.exit_code)


def _show(done: _Summary, file: Path | None) -> _Summary:
    """Print a summary, append it to the page of an Action, and write it into a file."""
    console().print(done.to_table())
    append_step_summary(done.to_markdown())
    if file is not None:
        done.write(file.resolve())
    return done


def _requested_keys(settings: Settings, first: date, last: date, windows: tuple[int, ...]) -> list[RunKey]:
    if last < first:
        raise click.UsageError(f"--to {last} is before --from {first}")
    today = settings.clock.now().date()
    with as_usage_errors(UnknownPartition):
        for day in (first, last):
            checked_key(day, windows[0], today=today)
    return days_between(first, last, windows)


def _check_experiments(settings: Settings, experiments: tuple[str, ...]) -> None:
    """Refuse a name that no experiment has before anything runs."""
    with as_usage_errors(RegistryError):
        registry_of(settings).closure(experiments)


def _refusals(settings: Settings, keys: list[RunKey], options: DailyOptions) -> Mapping[RunKey, str]:
    """The reasons of runs that cannot be made, and where experiments are chosen of those not stored complete."""
    with opened_database(settings) as engine:
        first, last = keys[0].run_date, keys[-1].run_date
        stored, frozen = stored_runs(engine, first, last), frozen_runs(engine, first, last)
    now = settings.clock.now()
    found = {
        key: why_not_runnable(key, now, stored.get(key), frozen=key in frozen, reconstruct=bool(options.reconstruct))
        for key in keys
    }
    if options.experiments and not options.reconstruct:
        complete = {key for key, run in stored.items() if run.status == "completed"}
        for key in keys:
            if key not in complete:
                found[key] = found[key] or "it is not stored complete: run it without --experiment first"
    return {key: reason for key, reason in found.items() if reason is not None}


def _run_all(
    settings: Settings, keys: list[RunKey], refusals: Mapping[RunKey, str], options: DailyOptions
) -> BackfillSummary:
    """Make the runs that can be made; a signal ends it after the run that is under way has ended."""
    lines = {key: BackfillLine.of(key, "missing", reason) for key, reason in refusals.items()}
    backfill = Backfill(settings, [key for key in keys if key not in refusals], options)
    try:
        with exiting_on_signals():
            backfill.run()
    except KeyboardInterrupt:
        backfill.stopped_by = "SIGINT"
    except SystemExit as ended:  # asked to terminate between two processes
        backfill.stopped_by = signal.Signals(int(str(ended.code)) - 128).name
    lines |= backfill.lines
    for key in keys:
        lines.setdefault(key, BackfillLine.of(key, "not_run"))
    return BackfillSummary(runs=tuple(lines[key] for key in keys), stopped_by=backfill.stopped_by)
