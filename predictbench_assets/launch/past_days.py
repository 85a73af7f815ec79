"""The past of a demo: days that are over, so that there is something to score, and something to learn from."""

import os
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import click
import msgspec
from sqlalchemy import Engine

from predictbench_assets.database.connection import opened_database
from predictbench_assets.experiments.history import settled_counts
from predictbench_assets.experiments.registry import Registry, import_path
from predictbench_assets.launch.backfill import RunsInTurn
from predictbench_assets.launch.child import ChildLog, Line, run_child
from predictbench_assets.launch.commands import prepare_home, sweep_command, write_run_config
from predictbench_assets.launch.demo import demo_settings, print_summary, use_sandbox
from predictbench_assets.launch.demo_world import Demo, write_demo
from predictbench_assets.launch.progress import Display, stages
from predictbench_assets.launch.request import DailyOptions
from predictbench_assets.launch.signals import Interrupts, exiting_on_signals
from predictbench_assets.observability.console import error_console, print_item
from predictbench_assets.persistence.stored_runs import StoredAttempt, missing_experiments, stored_attempts, stored_runs
from predictbench_assets.reporting.summary import ExperimentSummary, RunSummary
from predictbench_assets.resolution.configured import run_sweep
from predictbench_assets.runs import FIRST_RUN_DATE, RunKey
from predictbench_assets.sandbox.process import SandboxProcess, move_sandbox, start_sandbox_at
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


class PastDays(RunsInTurn):
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
        self._listed = registry
        self._own = own
        self._interrupts = interrupts
        self.verbose = verbose
        self._unswept = [day for day in dates if day not in demo.past]
        self._sandbox: SandboxProcess | None = None
        self._missing: dict[RunKey, tuple[str, ...] | None] = {}
        self._day = dates[0]
        """The first day that is not over."""
        self._options: dict[RunKey, DailyOptions] = {}
        self._exit_code = 0
        self._settled = 0
        """Settled markets that the run under way knows."""
        self._status = error_console().status("")
        super().__init__(self._settings_at(dates[0], RUN_AT), ())

    def run(self) -> None:
        """Run the days.

        Raises:
            SandboxNotRunning: the exchange does not come up, or went away.
            SweepInterrupted: the exchange stopped answering.
            KeyboardInterrupt: it was interrupted.
            SystemExit: with the exit code of the first run that failed.
        """
        click.echo(f"The past: {len(self._dates)} simulated days, every second one; each knows what settled before it")
        try:
            with opened_database(self._settings) as self._engine, self._status:
                self._status.stop()
                keys = [RunKey(day, WINDOW) for day in self._dates]
                self._missing = missing_experiments(self._engine, self._listed, keys)
                self._keys = [key for key in keys if self._missing[key] != ()]
                if self._unswept:
                    self._sandbox = start_sandbox_at(self._folder, self._demo.world, _at(self._unswept[0], RUN_AT))
                    use_sandbox(self._sandbox)
                with exiting_on_signals():
                    super().run()
                self._go_on(datetime.now(UTC).date())
        finally:
            os.environ.pop("PREDICTBENCH_NOW", None)
        if self._exit_code != 0:
            sys.exit(self._exit_code)
        if self.stopped_by is not None:
            raise KeyboardInterrupt
        write_demo(self._folder, _with_past(self._demo, self._dates))

    def options(self, key: RunKey) -> DailyOptions:
        """Of a day that is stored, the experiments that are missing; again those that only failed on it."""
        return self._options[key]

    def display(self) -> Display:
        """Nothing is shown but for today's run; the log is kept."""
        return _Silent()

    def stopped(self) -> bool:
        """Return True also where a run has failed: those after it would know less than they should."""
        return super().stopped() or self._exit_code != 0

    def before(self, key: RunKey) -> datetime:
        """Let the days before it pass, and bring the exchange to its time."""
        day, now = key.run_date, _at(key.run_date, RUN_AT)
        self._go_on(day)
        self._settings = self._settings_at(day, RUN_AT)
        if not self.stopped():
            self._move(day, RUN_AT)
        again = only_failed(self._engine, self._own, key)
        missing = self._missing[key] or ()
        self._options[key] = DailyOptions(run_date=day, window_days=WINDOW, experiments=missing, forget=again)
        self._settled = sum(counts.markets for counts in settled_counts(self._engine, now).values())
        self._spin(f"{self._number(day)} ...")
        return now

    def ended(self, key: RunKey, summary: RunSummary, child_log: ChildLog) -> None:
        """Show what was stored; what failed, and where one's own experiment only did, ends it here."""
        self._status.stop()
        if child_log.exit_code != 0 or not summary.succeeded:
            print_summary(summary)
            self._exit_code = 1 if child_log.signal is None else 128 + child_log.signal
            return
        missing = self._missing[key]
        stored = f"{summary.processed_markets:,} market{'s' * (summary.processed_markets != 1)} stored"
        what = f"{', '.join(missing)} added" if missing else stored
        click.echo(f"{self._number(key.run_date)}  {what}; {self._settled:,} settled ones known")
        self._exit_code = self._stop_where_one_only_fails(summary)

    def _go_on(self, until: date) -> None:
        """Let days pass: sweep at the end of each, and mention those that are stored."""
        while self._day < until and not self.stopped():
            self._interrupts.check()
            if self._missing.get(RunKey(self._day, WINDOW)) == ():
                click.echo(f"{self._number(self._day)}  stored before")
            if self._move(self._day, SWEEP_AT):
                self._spin(f"  {self._day}: looking up what has settled ...")
                run_sweep(self._settings_at(self._day, SWEEP_AT), self._engine)
                self._status.stop()
            self._day += timedelta(days=1)

    def _move(self, day: date, at: time) -> bool:
        """Bring the exchange to a time; False where it is beyond it already, or was not started."""
        if self._sandbox is None or day < self._unswept[0]:
            return False
        move_sandbox(self._folder, self._sandbox, _at(day, at))
        return True

    def _settings_at(self, day: date, at: time) -> Settings:
        """The settings of this process and of its children, at a simulated time."""
        os.environ["PREDICTBENCH_NOW"] = _at(day, at).isoformat()
        return demo_settings(verbose=self.verbose)

    def _number(self, day: date) -> str:
        return f"  day {self._dates.index(day) + 1} of {len(self._dates)}  {day}"

    def _spin(self, text: str) -> None:
        self._status.update(text)
        self._status.start()

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
    def __call__(self, line: Line) -> None:
        """Shown for today's run only; the log of each day is kept."""

    def close(self) -> None:
        """Do nothing: nothing was shown."""


def _forecast(attempt: StoredAttempt) -> bool:
    return not attempt.failed or bool(attempt.completed)


def _with_past(demo: Demo, dates: Sequence[date]) -> Demo:
    return msgspec.structs.replace(demo, past=tuple(sorted({*demo.past, *dates})))


def _at(day: date, at: time) -> datetime:
    return datetime.combine(day, at, UTC)
