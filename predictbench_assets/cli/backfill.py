"""`predictbench backfill`: many days and windows, each that is not stored complete."""

import signal
import sys
from collections.abc import Callable, Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import NoReturn, TypeVar

import click

from predictbench_assets.cli.options import (
    as_usage_errors,
    configured_settings,
    day_option,
    experiment_names,
    followed,
    windows_option,
)
from predictbench_assets.database.connection import opened_database
from predictbench_assets.database.errors import in_transaction
from predictbench_assets.experiments.declared.file import registry_of
from predictbench_assets.experiments.model_calls.store import windows_in_batches
from predictbench_assets.experiments.registry import RegistryError
from predictbench_assets.launch.backfill import Backfill
from predictbench_assets.launch.parity import check_parity
from predictbench_assets.launch.request import DailyOptions
from predictbench_assets.launch.signals import exiting_on_signals
from predictbench_assets.observability.console import append_step_summary, console
from predictbench_assets.persistence.stored_runs import frozen_runs, missing_experiments, stored_runs
from predictbench_assets.reporting.backfill import BackfillLine, BackfillSummary
from predictbench_assets.reporting.parity import ParityLine, ParitySummary
from predictbench_assets.runs import RunKey, UnknownPartition, checked_key
from predictbench_assets.schedule import days_between, why_not_runnable
from predictbench_assets.settings import LEAST_PACE, Settings, SettingsError

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
@click.option(
    "--at-once",
    type=click.IntRange(1, 16),
    default=1,
    show_default=True,
    metavar="N",
    help="Runs of past days that are under way beside each other, each in a process of its own.",
)
@click.option("--again", is_flag=True, help="Run those as well that are stored complete, with every experiment.")
@click.option("--yes", is_flag=True, help="Do not ask, however many runs it is.")
def backfill(
    first: date | None,
    last: date | None,
    window_days: tuple[int, ...] | None,
    experiments: tuple[str, ...],
    reconstruct: bool | None,
    check: bool,
    summary: Path | None,
    at_once: int,
    again: bool,
    yes: bool,
) -> None:
    """Run every date and window of a range, in order, on the snapshots that are stored.

    What is stored complete, with every experiment in its present version and configuration, is passed over: the same
    command goes on where the last one stopped. Ctrl-C ends it after the run that is under way, a second one ends that.

    With --at-once the rows are the same: what a run of a past day learns from was stored before its day. Those of today
    begin when the others have ended. Limits of requests and calls are divided among the processes.

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
    if check and (experiments or reconstruct is not None or at_once > 1):
        raise click.UsageError("--check runs no experiment and stores nothing: leave the other options out")
    if check and first is None and last is None:
        windows = window_days or (settings.target_close_window_days,)
        keys = [RunKey(settings.clock.now().date() - timedelta(days=window + 1), window) for window in windows]
    elif first is None or last is None:
        raise click.UsageError(f"Missing option '{'--from' if first is None else '--to'}'.")
    else:
        keys = _requested_keys(settings, first, last, settings.windows if window_days is None else window_days)
    if check:
        _end(_show(_check_all(settings, keys), summary))
    _check_sharing(settings, at_once)
    _check_experiments(settings, experiments)
    options = DailyOptions(experiments=experiments, reconstruct=reconstruct)
    lines = _without_work(settings, keys, options, again=again)
    count = len(keys) - len(lines)
    if count > _CONFIRM_ABOVE and sys.stdin.isatty() and not yes:
        click.confirm(f"{count:,} runs will be made. Go on?", abort=True, err=True)
    _end(_show(_run_all(settings, keys, lines, options, at_once), summary))


def _show(done: _Summary, file: Path | None) -> _Summary:
    """Print a summary, append it to the page of an Action, and write it into a file."""
    console().print(done.to_table())
    append_step_summary(done.to_markdown())
    if file is not None:
        done.write(file.resolve())
    return done


def _end(done: BackfillSummary | ParitySummary) -> NoReturn:
    sys.exit(128 + signal.Signals[done.stopped_by] if done.stopped_by else done.exit_code)


def _requested_keys(settings: Settings, first: date, last: date, windows: tuple[int, ...]) -> list[RunKey]:
    if last < first:
        raise click.UsageError(f"--to {last} is before --from {first}")
    today = settings.clock.now().date()
    with as_usage_errors(UnknownPartition):
        for day in (first, last):
            checked_key(day, windows[0], today=today)
    return days_between(first, last, windows)


def _check_sharing(settings: Settings, at_once: int) -> None:
    """Refuse more processes than can share the limits, or steps elsewhere that would not, before anything runs."""
    shared = settings.model_copy(update={"predictbench_shared_by": at_once * settings.predictbench_shared_by})
    pace = settings.polymarket_requests_per_second
    if pace is not None and pace / shared.predictbench_shared_by < LEAST_PACE:
        raise click.UsageError(
            f"--at-once {at_once}: shared by so many processes POLYMARKET_REQUESTS_PER_SECOND = {pace:g} is less than "
            f"{LEAST_PACE:g} for each"
        )
    if at_once > 1 and shared.remote_executor:
        from predictbench_assets.executors import configured_executor  # loads Dagster

        with as_usage_errors(SettingsError):
            configured_executor(shared)


def _check_experiments(settings: Settings, experiments: tuple[str, ...]) -> None:
    """Refuse a name that no experiment has before anything runs."""
    with as_usage_errors(RegistryError):
        registry_of(settings).closure(experiments)


def _without_work(
    settings: Settings, keys: list[RunKey], options: DailyOptions, *, again: bool
) -> dict[RunKey, BackfillLine]:
    """The lines of runs that are not made: stored before, or impossible.

    One with a batch of paid calls under way is made, to collect it. With chosen experiments a run that is not
    stored complete is impossible, too, unless it is to be reconstructed.
    """
    registry = registry_of(settings)
    selected = registry.closure(options.experiments) if options.experiments else frozenset(registry.names)
    with opened_database(settings) as engine:
        first, last = keys[0].run_date, keys[-1].run_date
        stored, frozen = stored_runs(engine, first, last), frozen_runs(engine, first, last)
        missing = missing_experiments(engine, registry, keys)
        days = {key.run_date for key in keys if missing[key] is not None}
        awaited = in_transaction(engine, lambda connection: {day: windows_in_batches(connection, day) for day in days})
    reconstruct = settings.reconstructs if options.reconstruct is None else options.reconstruct
    now, lines = settings.clock.now(), {}
    for key in keys:
        lacks = missing[key]
        reason = why_not_runnable(key, now, stored.get(key), frozen=key in frozen, reconstruct=reconstruct)
        if lacks is None and options.experiments and options.reconstruct is None:
            reason = reason or "it is not stored complete: run it without --experiment first"
        complete = lacks is not None and not selected & set(lacks)
        if complete and not again and key.window_days not in awaited[key.run_date]:
            lines[key] = BackfillLine.of(key, "stored_before")
        elif reason is not None:
            lines[key] = BackfillLine.of(key, "missing", reason)
    return lines


def _run_all(
    settings: Settings,
    keys: list[RunKey],
    lines: Mapping[RunKey, BackfillLine],
    options: DailyOptions,
    at_once: int,
) -> BackfillSummary:
    """Make the runs that have no line yet; a signal ends it."""
    backfill = Backfill(settings, [key for key in keys if key not in lines], options, at_once=at_once, follow=followed)
    backfill.stopped_by = _until_a_signal(backfill.run) or backfill.stopped_by
    made = {**lines, **backfill.lines}
    for key in backfill.left():
        made[key] = BackfillLine.of(key, "not_run")
    return BackfillSummary(runs=tuple(made[key] for key in keys), stopped_by=backfill.stopped_by)


def _check_all(settings: Settings, keys: list[RunKey]) -> ParitySummary:
    """Compare every partition; a signal ends it, and leaves what was compared."""
    lines: list[ParityLine] = []
    stopped_by = _until_a_signal(lambda: lines.extend(check_parity(settings, keys)))
    left = [ParityLine.of(key, "not_run") for key in keys[len(lines) :]]
    return ParitySummary(partitions=(*lines, *left), stopped_by=stopped_by)


def _until_a_signal(work: Callable[[], object]) -> str | None:
    """Do some work; returns the name of the signal that ended it early."""
    try:
        with exiting_on_signals():
            work()
    except KeyboardInterrupt:
        return signal.SIGINT.name
    except SystemExit as ended:
        return signal.Signals(int(str(ended.code)) - 128).name
    return None
