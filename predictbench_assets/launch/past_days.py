"""The past of a demo: days that are over, so that there is something to score, and something to learn from."""

import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import click
import msgspec
from sqlalchemy import Engine

from predictbench_assets.database.connection import opened_database
from predictbench_assets.experiments.history import settled_counts
from predictbench_assets.experiments.registry import Registry, import_path
from predictbench_assets.launch.child import ChildLog, Line, run_child
from predictbench_assets.launch.commands import prepare_home, sweep_command, write_run_config
from predictbench_assets.launch.daily import run_daily
from predictbench_assets.launch.demo import demo_settings, print_summary, use_sandbox
from predictbench_assets.launch.demo_world import Demo, write_demo
from predictbench_assets.launch.progress import stages
from predictbench_assets.launch.request import DailyOptions
from predictbench_assets.launch.signals import Interrupts
from predictbench_assets.observability.console import error_console, print_item
from predictbench_assets.persistence.stored_runs import StoredAttempt, stored_attempts, stored_runs
from predictbench_assets.reporting.summary import ExperimentSummary, RunSummary
from predictbench_assets.resolution.configured import run_sweep
from predictbench_assets.runs import FIRST_RUN_DATE, RunKey
from predictbench_assets.sandbox.process import move_sandbox, start_sandbox_at
from predictbench_assets.settings import Settings

WINDOW = 7
SETTLING = timedelta(days=3)
"""Time from the close to the result: enough for most markets."""
EVERY = 2
"""Days from one run of the past to the next: of eight in a row the last would be over before the first has settled."""
RUN_AT, SWEEP_AT = time(7), time(8)


def dates_of(days: int, today: date | None = None) -> tuple[date, ...]:
    """The last so many days of the past whose markets have settled by now, oldest first.

    They are the same ones tomorrow, but for one that comes and one that goes every second day.
    """
    last = (today or datetime.now(UTC).date()) - SETTLING - timedelta(days=WINDOW)
    last -= timedelta(days=last.toordinal() % EVERY)
    found = (last - timedelta(days=EVERY * back) for back in reversed(range(days)))
    return tuple(day for day in found if day >= FIRST_RUN_DATE)


class PastDays:
    """Run the days of the past that are not stored, and the new experiments on those that are.

    Each run is at seven in the morning of its day by the simulated clock, and on each day since the first a sweep
    looks up at eight what has settled: so a run knows what a run of that day would have known.
    """

    def __init__(
        self,
        folder: Path,
        demo: Demo,
        dates: Sequence[date],
        registry: Registry,
        own: Sequence[str],
        interrupts: Interrupts,
        *,
        verbose: bool,
    ) -> None:
        self._folder = folder
        self._demo = demo
        self._dates = dates
        self._registry = registry
        self._own = own
        self._interrupts = interrupts
        self._verbose = verbose

    def run(self) -> int:
        """Run the days; returns the exit code of the first run that fails, else 0.

        Raises:
            SandboxNotRunning: the exchange does not come up, or went away.
            SweepInterrupted: the exchange stopped answering.
        """
        click.echo(f"The past: {len(self._dates)} simulated days, every second one; each knows what settled before it")
        unswept = [day for day in self._dates if day not in self._demo.past]
        with opened_database(self._settings()) as engine:
            missing = self._missing(engine)
            sandbox = None
            if unswept:
                sandbox = start_sandbox_at(self._folder, self._demo.world, _at(unswept[0], RUN_AT))
                use_sandbox(sandbox)
            try:
                for day in _days(self._dates[0], datetime.now(UTC).date()):
                    self._interrupts.check()
                    if day in self._dates:
                        if sandbox is not None and day >= unswept[0]:
                            move_sandbox(self._folder, sandbox, _at(day, RUN_AT))
                        if (code := self._run_day(engine, day, missing[day])) != 0:
                            return code
                    if sandbox is not None and day >= unswept[0]:
                        move_sandbox(self._folder, sandbox, _at(day, SWEEP_AT))
                        self._sweep(engine, day)
            finally:
                os.environ.pop("PREDICTBENCH_NOW", None)
        write_demo(self._folder, _with_past(self._demo, self._dates))
        return 0

    def _settings(self, now: datetime | None = None) -> Settings:
        """The settings of this process and of its children, at a simulated time."""
        if now is not None:
            os.environ["PREDICTBENCH_NOW"] = now.isoformat()
        return demo_settings(verbose=self._verbose)

    def _missing(self, engine: Engine) -> dict[date, tuple[str, ...] | None]:
        """Experiments without forecasts, by day; None where the day itself is not stored."""
        first, last = self._dates[0], self._dates[-1]
        runs, attempts = stored_runs(engine, first, last), stored_attempts(engine, first, last)
        found: dict[date, tuple[str, ...] | None] = {}
        for day in self._dates:
            key = RunKey(day, WINDOW)
            of_day = [one for one in attempts if one.key == key]
            whole = key in runs and runs[key].status == "completed"
            found[day] = tuple(_without_forecasts(of_day, self._registry)) if whole else None
        return found

    def _run_day(self, engine: Engine, day: date, missing: tuple[str, ...] | None) -> int:
        settings = self._settings(_at(day, RUN_AT))
        number = f"  day {self._dates.index(day) + 1} of {len(self._dates)}  {day}"
        if missing == ():
            click.echo(f"{number}  stored before")
            return 0
        key = RunKey(day, WINDOW)
        again = only_failed(engine, self._own, key)
        known = sum(counts.markets for counts in settled_counts(engine, _at(day, RUN_AT)).values())
        summaries: list[RunSummary] = []

        def take(summary: RunSummary, _: ChildLog) -> None:
            summaries.append(summary)

        options = DailyOptions(run_date=day, window_days=WINDOW, experiments=missing or (), forget=again)
        with _spinner(f"{number} ..."):
            code = run_daily(settings, options, show=_Silent, report=take, verbose=self._verbose)
        [summary] = summaries
        if code != 0 or not summary.succeeded:
            print_summary(summary)
            return code or 1
        stored = f"{summary.processed_markets:,} market{'s' * (summary.processed_markets != 1)} stored"
        what = f"{', '.join(missing)} added" if missing else stored
        click.echo(f"{number}  {what}; {known:,} settled ones known")
        return self._stop_where_one_only_fails(summary)

    def _stop_where_one_only_fails(self, summary: RunSummary) -> int:
        """End the demo with exit code 1 where an experiment of one's own failed on every market of a day."""
        for name in self._own:
            counts = summary.experiments.get(name)
            if counts is not None and counts.failed and not counts.completed:
                click.echo(
                    f"\n{name} failed on {counts.failed:,} of {summary.processed_markets:,} markets of "
                    f"{summary.run_date}, and forecast none:",
                    err=True,
                )
                print_failures(counts, err=True)
                click.echo(
                    "Correct it and give the same command again: where it only failed it is asked again.", err=True
                )
                return 1
        return 0

    def _sweep(self, engine: Engine, day: date) -> None:
        with _spinner(f"  {day}: looking up what has settled ..."):
            run_sweep(self._settings(_at(day, SWEEP_AT)), engine)


def only_failed(engine: Engine, own: Sequence[str], key: RunKey) -> tuple[str, ...]:
    """The experiments that did nothing but fail in a run, so that a demo asks them again.

    Failures of a version are kept otherwise, which is right for what was paid for; but who has just corrected a class
    on a made-up day wants to see it work.
    """
    newest = {one.experiment: one for one in stored_attempts(engine, key.run_date, key.run_date) if one.key == key}
    return tuple(name for name in own if name in newest and not _forecast(newest[name]))


def print_failures(one: ExperimentSummary, *, of: str = "", err: bool = False) -> None:
    """Print why an experiment failed in a run and where in its code, a line for each reason."""
    for why in one.reasons:
        if why.status == "failed":
            place = f" ({why.place})" if why.place else ""
            print_item(f"    {of}{why.markets:,} x ", why.reason + place, sys.stderr if err else None)


def sweep(settings: Settings, engine: Engine, registry: Registry, *, verbose: bool) -> bool | None:
    """Run the resolution sweep, where an earlier day than today's is stored; None if it failed."""
    today = settings.clock.now().date()
    if not stored_runs(engine, FIRST_RUN_DATE, today - timedelta(days=1)):
        return False
    folder = settings.artifacts / "runs" / f"sweep_{settings.clock.now():%Y%m%dT%H%M%S_%f}"
    command = sweep_command(
        settings,
        home=prepare_home(settings, settings.home / "dagster"),
        config_file=write_run_config(folder / "run_config.yaml", {}),
        import_path=import_path(registry),
    )
    click.echo(f"\n$ {command}\n" if verbose else "\nWhat has settled", err=True)
    shown = stages(settings)
    try:
        child_log = run_child(command, log=folder / "log.jsonl", redact=settings.redact, on_line=shown)
    finally:
        shown.close()
    if child_log.signal == signal.SIGINT:
        raise KeyboardInterrupt
    if child_log.exit_code != 0:
        click.echo(
            f"the resolution sweep failed: {child_log.reason or 'see its log'}\n  log      {folder / 'log.jsonl'}"
        )
        return None
    return True


class _Silent:
    def __init__(self, _: Settings) -> None: ...

    def __call__(self, line: Line) -> None:
        """Shown for today's run only; the log of each day is kept."""

    def close(self) -> None:
        """Do nothing: nothing was shown."""


@contextmanager
def _spinner(text: str) -> Iterator[None]:
    """A line on a terminal while the block works."""
    with error_console().status(text):
        yield


def _without_forecasts(attempts: Iterable[StoredAttempt], registry: Registry) -> Iterator[str]:
    """The experiments, as they are now, without an attempt on a day that was not all failures."""
    done = {(one.experiment, one.version, one.config_hash) for one in attempts if _forecast(one)}
    for one in registry:
        if (one.name, one.version, registry.config_hash(one.name)) not in done:
            yield one.name


def _forecast(attempt: StoredAttempt) -> bool:
    return not attempt.failed or bool(attempt.completed)


def _with_past(demo: Demo, dates: Sequence[date]) -> Demo:
    return msgspec.structs.replace(demo, past=tuple(sorted({*demo.past, *dates})))


def _days(first: date, end: date) -> Iterator[date]:
    return (first + timedelta(days=days) for days in range((end - first).days))


def _at(day: date, at: time) -> datetime:
    return datetime.combine(day, at, UTC)
