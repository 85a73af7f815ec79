"""The days of a demo: some that are over, so that there is something to score and to learn from, and today.

One child process makes all their runs and the last sweep. It loads while the exchange and the database start.
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, date, datetime, time, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, Self

import click
import msgspec
from sqlalchemy import Engine

from predictbench_assets.database.connection import opened_database
from predictbench_assets.experiments.history import settled_counts
from predictbench_assets.experiments.registry import Registry
from predictbench_assets.launch.backfill import RunsInTurn
from predictbench_assets.launch.child import ChildLog, Line
from predictbench_assets.launch.demo import SANDBOX_VARIABLES, demo_settings, print_summary, use_sandbox
from predictbench_assets.launch.demo_world import Demo, write_demo
from predictbench_assets.launch.progress import Display, stages
from predictbench_assets.launch.request import DailyOptions
from predictbench_assets.launch.signals import Interrupts, exiting_on_signals
from predictbench_assets.observability.console import error_console, print_item, print_status
from predictbench_assets.persistence.stored_runs import StoredAttempt, missing_experiments, stored_attempts, stored_runs
from predictbench_assets.reporting.summary import ExperimentSummary, RunSummary
from predictbench_assets.resolution.configured import run_sweep
from predictbench_assets.runs import FIRST_RUN_DATE, RunKey
from predictbench_assets.sandbox.process import SandboxProcess, move_sandbox, start_sandbox, start_sandbox_at
from predictbench_assets.settings import Settings

WINDOW = 7
SETTLING = timedelta(days=3)
"""Time from the close to the result: enough for most markets."""
EVERY = 2
"""Days from one run of the past to the next: of eight in a row the last would be over before the first has settled."""
RUN_AT, SWEEP_AT = time(7), time(8)
LOADED_BETWEEN = ("scipy.optimize", "scipy.stats", "matplotlib.figure", "predictbench_assets.site.build")
"""Modules that only later runs and the last sweep need; each loads in about the time of a look between two runs."""


def dates_of(days: int, today: date | None = None) -> tuple[date, ...]:
    """The last so many days of the past whose markets have settled by now, oldest first.

    They are the same ones tomorrow, but for one that comes and one that goes every second day.
    """
    last = (today or datetime.now(UTC).date()) - SETTLING - timedelta(days=WINDOW)
    last -= timedelta(days=last.toordinal() % EVERY)
    found = (last - timedelta(days=EVERY * back) for back in reversed(range(days)))
    return tuple(day for day in found if day >= FIRST_RUN_DATE)


class DemoDays(RunsInTurn):
    """Run the days of the past that are not stored, and the new experiments on those that are; then today, and sweep.

    Each run of the past is at seven in the morning of its day by the simulated clock. On the day before each run a
    sweep looks up at eight what has settled by then: so a run knows nothing that came later.
    """

    def __init__(
        self,
        folder: Path,
        demo: Demo,
        dates: Sequence[date],
        registry: Registry,
        own: Sequence[str],
        interrupts: Interrupts,
        report: Callable[[Settings, RunSummary, ChildLog], None],
        *,
        verbose: bool,
    ) -> None:
        self._folder = folder
        self._demo = demo
        self._dates = dates
        self._listed = registry
        self._own = own
        self._interrupts = interrupts
        self._report = report
        self.verbose = verbose
        self._unswept = [day for day in dates if day not in demo.past]
        self._sandbox: SandboxProcess | None = None
        self._missing: dict[RunKey, tuple[str, ...] | None] = {}
        self._today = RunKey(datetime.now(UTC).date(), WINDOW)
        self._day = dates[0] if dates else self._today.run_date
        """The first day that is not over."""
        self._options: dict[RunKey, DailyOptions] = {}
        self._modules = iter(LOADED_BETWEEN)
        self._exit_code = 0
        self._settled = 0
        """Settled markets that the run under way knows."""
        self._began_today = False
        self._shown = _Stages()
        self._status = error_console().status("")
        self.summary: RunSummary | None = None
        """That of today's run, where it succeeded."""
        self.swept_well: bool | None = None
        """Whether the last sweep succeeded; None where there was none, since nothing of the past is stored."""
        # The process that makes the runs finds none here before it is handed one.
        super().__init__(demo_settings(verbose=verbose), [self._today])

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(self._status.stop)
            stack.callback(os.environ.pop, "PREDICTBENCH_NOW", None)
            stack.enter_context(exiting_on_signals())
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *raised: Any) -> bool | None:
        return self._stack.__exit__(*raised)

    def run(self) -> None:
        """Run the days, and sweep.

        Raises:
            SandboxNotRunning: the exchange does not come up, or went away.
            SweepInterrupted: the exchange stopped answering.
            KeyboardInterrupt: it was interrupted.
            SystemExit: with the exit code of the first run that failed.
        """
        if self._dates:
            click.echo(f"The past: {len(self._dates)} simulated days, every second one; each knows what settled before")
        super().run()
        if self._exit_code != 0:
            sys.exit(self._exit_code)
        if self.stopped_by is not None:
            raise KeyboardInterrupt
        if self.swept_well is False:
            sys.exit(1)

    def starting(self, _: ExitStack) -> None:
        """Wait with it for the process: see `process_began`."""

    def process_began(self) -> None:
        """Start the exchange and the database side by side, and see which days are missing."""
        if self._missing or self.stopped():
            return
        self._spin("starting the exchange, the database and Dagster ...")
        with ThreadPoolExecutor(1) as beside:
            starting = beside.submit(self._start_exchange)
            self.engine = self._stack.enter_context(opened_database(self._settings))
            use_sandbox(starting.result())
        self._status.stop()
        keys = [RunKey(day, WINDOW) for day in self._dates]
        self._missing = missing_experiments(self.engine, self._listed, [*keys, self._today])
        self._keys = [*(key for key in keys if self._missing[key] != ()), self._today]

    def _start_exchange(self) -> SandboxProcess:
        if not self._unswept:
            return start_sandbox(self._folder, self._demo.world)
        self._sandbox = start_sandbox_at(self._folder, self._demo.world, _at(self._unswept[0], RUN_AT))
        return self._sandbox

    def options(self, key: RunKey) -> DailyOptions:
        """Of a day that is stored, the experiments that are missing; again those that only failed on it."""
        return self._options[key]

    def modules(self, key: RunKey) -> Sequence[str]:
        """One of `LOADED_BETWEEN` after each run of the past: the process only waits while this one looks."""
        return () if key == self._today else tuple(islice(self._modules, 1))

    def display(self) -> Display:
        """Nothing is shown but for today's run and the sweep; the log is kept."""
        return self._shown

    def stopped(self) -> bool:
        """Return True also where a run has failed: those after it would know less than they should."""
        return super().stopped() or self._exit_code != 0

    def interrupt(self) -> bool:
        """End after a day of the past, which is short, or at once."""
        super().interrupt()
        return self._began_today

    def before(self, key: RunKey) -> Mapping[str, str | None]:
        """Let the days before it pass, and bring the exchange to its time."""
        day = key.run_date
        self._go_on(day)
        if key == self._today:
            if not self.stopped():
                self._end_the_past()
            again = only_failed(self.engine, self._own, key)
            self._options[key] = DailyOptions(window_days=WINDOW, forget=again)
        else:
            self._settings = self._settings_at(day, RUN_AT)
            if not self.stopped():
                self._move(day, RUN_AT)
            again = only_failed(self.engine, self._own, key)
            missing = self._missing[key] or ()
            self._options[key] = DailyOptions(run_date=day, window_days=WINDOW, experiments=missing, forget=again)
            now = self._settings.clock.now()
            self._settled = sum(counts.markets for counts in settled_counts(self.engine, now).values())
            self._spin(f"{self._number(day)} ...")
        return {name: os.environ.get(name) for name in ("PREDICTBENCH_NOW", *SANDBOX_VARIABLES)}

    def began(self, key: RunKey) -> None:
        """Show today's run while it works."""
        if key == self._today:
            self._began_today = True
            self._shown.begin(self._settings)

    def ended(self, key: RunKey, summary: RunSummary, child_log: ChildLog) -> None:
        """Show what was stored; what failed, and where one's own experiment only did, ends it here."""
        self._status.stop()
        self._shown.close()
        if self.stopped_by is not None and not summary.succeeded:
            return
        failed = child_log.exit_code != 0 or not summary.succeeded
        if key == self._today:
            self._report(self._settings, summary, child_log)
            self.summary = summary
            if self.places and (self.verbose or not summary.succeeded):
                print_status(self._settings, "\n".join(self.places))
        elif failed:
            print_summary(summary)
        if failed:
            self._exit_code = 1 if child_log.signal is None else 128 + child_log.signal
        elif key != self._today:
            missing = self._missing[key]
            stored = f"{summary.processed_markets:,} market{'s' * (summary.processed_markets != 1)} stored"
            what = f"{', '.join(missing)} added" if missing else stored
            click.echo(f"{self._number(key.run_date)}  {what}; {self._settled:,} settled ones known")
            self._exit_code = self._stop_where_one_only_fails(summary)

    def sweeps(self) -> bool:
        """Sweep where an earlier day than today's is stored."""
        if not stored_runs(self.engine, FIRST_RUN_DATE, self._today.run_date - timedelta(days=1)):
            return False
        self.swept_well = False
        click.echo("\nWhat has settled", err=True)
        self._shown.begin(self._settings)
        return True

    def swept(self, log: Path, child_log: ChildLog) -> None:
        """Say why it failed, if it did."""
        self._shown.close()
        self.swept_well = child_log.exit_code == 0
        if not self.swept_well and self.stopped_by is None:
            click.echo(f"the resolution sweep failed: {child_log.reason or 'see its log'}\n  log      {log}")

    def _end_the_past(self) -> None:
        """Bring the exchange, and this process, to the present."""
        if self._dates:
            self._demo = write_demo(self._folder, _with_past(self._demo, self._dates))
        use_sandbox(start_sandbox(self._folder, self._demo.world))
        os.environ.pop("PREDICTBENCH_NOW", None)
        self._settings = demo_settings(verbose=self.verbose)

    def _go_on(self, until: date) -> None:
        """Let days pass, mention those that are stored, and sweep on the last one."""
        while self._day < until and not self.stopped():
            self._interrupts.check()
            if self._missing.get(RunKey(self._day, WINDOW)) == ():
                click.echo(f"{self._number(self._day)}  stored before")
            self._day += timedelta(days=1)
            if self._day == until and self._move(until - timedelta(days=1), SWEEP_AT):
                self._spin(f"  {self._day}: looking up what has settled ...")
                run_sweep(self._settings_at(until - timedelta(days=1), SWEEP_AT), self.engine)
                self._status.stop()

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


class _Stages:
    """The stages of a run where one is shown, and nothing else."""

    def __init__(self) -> None:
        self._stages: Display | None = None

    def begin(self, settings: Settings) -> None:
        """Show the stages of what comes now."""
        self.close()
        self._stages = stages(settings)

    def __call__(self, line: Line) -> None:
        """Show a line."""
        if self._stages is not None:
            self._stages(line)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._stages is not None:
            self._stages.close()
        self._stages = None


def _forecast(attempt: StoredAttempt) -> bool:
    return not attempt.failed or bool(attempt.completed)


def _with_past(demo: Demo, dates: Sequence[date]) -> Demo:
    return msgspec.structs.replace(demo, past=tuple(sorted({*demo.past, *dates})))


def _at(day: date, at: time) -> datetime:
    return datetime.combine(day, at, UTC)
