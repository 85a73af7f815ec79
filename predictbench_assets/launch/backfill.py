"""Many runs of the daily job, a few dozen in each child process: the work of a backfill."""

import json
import signal
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

from predictbench_assets.database.connection import ready_database
from predictbench_assets.experiments.declared.file import registry_of
from predictbench_assets.experiments.registry import import_path
from predictbench_assets.failures import PredictbenchError
from predictbench_assets.launch.child import ChildLog, Line, run_child
from predictbench_assets.launch.commands import (
    RUN_ENDED,
    RUN_STARTED,
    BackfillRun,
    backfill_command,
    prepare_home,
    write_run_config,
)
from predictbench_assets.launch.daily import Crashes, check_environment, scratch_folder, without_repeats
from predictbench_assets.launch.progress import Display, RunsBar, default_display
from predictbench_assets.launch.request import DailyOptions, op_config
from predictbench_assets.launch.run_summary import LOG, SUMMARY, publish_summary, run_folder, summary_of
from predictbench_assets.observability.console import error_console, print_status
from predictbench_assets.reporting.backfill import BackfillLine
from predictbench_assets.reporting.summary import RunSummary
from predictbench_assets.runs import RunKey
from predictbench_assets.settings import Settings

RUNS_PER_PROCESS = 40
"""Runs before a new process takes over: what one run leaves behind in memory is bounded."""


class RunsInTurn(ABC):
    """Runs of the daily job in an order, handed to a child process one by one.

    What differs between them is for a subclass to say.
    """

    verbose = True
    """True to print the command of each child process."""

    def __init__(self, settings: Settings, keys: Sequence[RunKey]) -> None:
        self._settings, self._keys = settings, keys
        self._registry = registry_of(settings)
        self._crashes: dict[RunKey, Crashes] = {}
        self._begun: dict[RunKey, set[str]] = {}
        """The steps that were begun when an experiment crashed, of runs that are made again."""
        self._done: set[RunKey] = set()
        self.places: list[str] = []
        """Where log and summary of the run that ended last are, a line each."""
        self.stopped_by: str | None = None
        """The signal after which no further run is begun."""

    @abstractmethod
    def options(self, key: RunKey) -> DailyOptions:
        """The options of a run."""

    def starting(self, stack: ExitStack) -> None:
        """Make ready what all runs need, for as long as the stack is open."""
        stack.enter_context(ready_database(self._settings))

    def process_began(self) -> None:  # noqa: B027 - a hook
        """Do what can be done while a child process loads; the runs that are left may be others afterwards."""

    def before(self, key: RunKey) -> Mapping[str, str | None] | None:  # noqa: ARG002
        """Do what has to be done before a run begins; returns its variables, see `BackfillRun`."""
        return None

    def sweeps(self) -> bool:
        """Return whether the resolution sweep follows, now that all runs have ended."""
        return False

    def swept(self, log: Path, child_log: ChildLog) -> None:  # noqa: B027 - a hook
        """Take note of how the sweep ended, whose log has other runs, too."""

    def reconstructs(self, key: RunKey) -> bool:  # noqa: ARG002
        """Return whether a run is of a past day, whose snapshot is reconstructed where it has none."""
        return False

    def modules(self, key: RunKey) -> Sequence[str]:  # noqa: ARG002
        """The modules to load after a run, see `BackfillRun`."""
        return ()

    def display(self) -> Display:
        """Make the display of what a child process logs."""
        return default_display(self._settings)

    def began(self, key: RunKey) -> None:  # noqa: B027 - a hook
        """Take note that a run has begun."""

    @abstractmethod
    def ended(self, key: RunKey, summary: RunSummary, child_log: ChildLog) -> None:
        """Take the summary of a run that has ended; to end all here, set `stopped_by`, or raise."""

    def left(self) -> list[RunKey]:
        """The runs that have not ended yet."""
        return [key for key in self._keys if key not in self._done]

    def run(self) -> None:
        """Make all runs, in order. One that fails does not stop the others, a signal does.

        Raises:
            PredictbenchError: they cannot be made; those in `left` were not.
        """
        check_environment(self._settings)
        with ExitStack() as stack:
            if self._settings.predictbench_dry_run:
                scratch = stack.enter_context(scratch_folder())
                self._settings = self._settings.model_copy(update={"predictbench_scratch": scratch})
            self.starting(stack)
            while not self.stopped() and self.left():
                _Process(self).run()

    def end(self, key: RunKey, folder: Path, child_log: ChildLog) -> None:
        """Deal with the end of a run, which is made again where an experiment has crashed in it."""
        if self._crashes[key].seen_in(child_log):
            self._begun.setdefault(key, set()).update(child_log.begun)
            return
        options = self.options(key)
        summary = summary_of(self._settings, folder, key, child_log, options)
        self.places = publish_summary(self._settings, summary, options, folder)
        self._done.add(key)
        self.ended(key, summary, child_log)

    def interrupt(self) -> bool:
        """End after the run that is under way; called in a signal handler. Returns whether that ends now."""
        self.stopped_by = signal.SIGINT.name
        return False

    def stopped(self) -> bool:
        """Return whether no further run is to be begun."""
        return self.stopped_by is not None

    def planned(self, key: RunKey, folder: Path, following: RunKey | None) -> BackfillRun:
        """A run as it is handed over, once it may begin."""
        variables, settings = self.before(key), self._settings
        self._crashes.setdefault(key, Crashes(settings, key))
        ops = op_config(settings, self.options(key), self._registry)
        config = write_run_config(folder / "run_config.yaml", without_repeats(ops, self._begun.get(key, set())))
        return BackfillRun(
            str(key),
            str(config),
            str(folder / SUMMARY),
            variables=variables,
            following=str(following) if following is not None and self.reconstructs(following) else None,
            modules=self.modules(key),
        )

    @property
    def settings(self) -> Settings:
        """The settings of this process and its children; of a dry run, with its scratch folder."""
        return self._settings

    @property
    def import_path(self) -> Path | None:
        """The folder with modules of experiments, if there is one."""
        return import_path(self._registry)


class Backfill(RunsInTurn):
    """The runs of a backfill, and the line of each that has ended."""

    def __init__(self, settings: Settings, keys: Sequence[RunKey], options: DailyOptions) -> None:
        super().__init__(settings, keys)
        self._options = replace(options, dry_run=settings.predictbench_dry_run)
        self._bar: RunsBar | None = None
        self.lines: dict[RunKey, BackfillLine] = {}

    def options(self, _: RunKey) -> DailyOptions:
        """The same for all."""
        return self._options

    def reconstructs(self, key: RunKey) -> bool:
        """Past days are, unless they are to be refused."""
        settings, chosen = self._settings, self._options.reconstruct
        return key.run_date < settings.clock.now().date() and (settings.reconstructs if chosen is None else chosen)

    def display(self) -> Display:
        """A bar with the time that is left on a terminal, and every line elsewhere."""
        if self._settings.log_format != "auto" or not sys.stderr.isatty():
            return default_display(self._settings)
        self._bar = RunsBar(error_console(), len(self._keys), len(self.lines))
        return self._bar

    def run(self) -> None:
        """Make all runs, in order. One that fails does not stop the others, a signal does."""
        try:
            super().run()
        except (PredictbenchError, OSError) as error:
            reason = self._settings.redact(str(error))
            for key in self.left():
                self._end(key, BackfillLine.of(key, "failed", reason))

    def began(self, key: RunKey) -> None:
        """Show which one it is."""
        number = f"[{len(self.lines) + 1}/{len(self._keys)}]"
        text = f"{key.run_date}, window {key.window_days} days"
        if self._bar is not None:
            self._bar.begin(f"{number} {text}")
        else:
            print_status(self._settings, f"{number} {text}")

    def ended(self, key: RunKey, summary: RunSummary, child_log: ChildLog) -> None:
        """Keep its line, and show it."""
        selected, now = self._options.experiments, self._settings.clock.now()
        self._end(key, BackfillLine.ran(summary, exit_code=child_log.exit_code, now=now, selected=selected))

    def _end(self, key: RunKey, line: BackfillLine) -> None:
        self.lines[key] = line
        outcome = f"{line.run_date}, window {line.window_days} days: {line.outcome}"
        text = "; ".join(filter(None, (outcome, line.forecasts, line.reason)))
        print_status(self._settings, f"[{len(self.lines)}/{len(self._keys)}] {text}")
        if self._bar is not None:
            self._bar.advance()


class _Process:
    """One child process, which is handed a run whenever it has ended one."""

    def __init__(self, runs: RunsInTurn) -> None:
        self._runs = runs
        self._waiting: list[RunKey] = []
        self._display = runs.display()
        self._write: Callable[[str | None], None] = lambda _: None
        self._first = runs.left()[0]
        self._folder = run_folder(runs.settings, self._first)
        self._handed_over: tuple[RunKey | None, Path] | None = None
        """The run that has not ended; no key is the sweep's."""
        self._under_way = self._any_began = self._sweeping = self._told = False
        self._child_log = ChildLog()

    def run(self) -> None:
        """Hand over all; when the process has ended the first has too, or an experiment has crashed in it."""
        runs, settings = self._runs, self._runs.settings
        scratch = settings.predictbench_scratch
        home = prepare_home(settings, (scratch or settings.home) / "dagster", temporary=scratch is not None)
        command = backfill_command(
            settings, home=home, folder=self._folder, import_path=runs.import_path, scratch=scratch
        )
        if runs.verbose:
            print_status(settings, f"$ {command}\n")
        try:
            whole = run_child(
                command,
                log=self._folder / LOG,
                redact=settings.redact,
                on_line=self._take,
                on_begin=self._begin,
                on_interrupt=self._interrupt,
            )
        finally:
            self._display.close()
        if whole.signal is not None:
            runs.stopped_by = signal.Signals(whole.signal).name
        if self._handed_over is not None and (self._under_way or not self._any_began):
            # The process has ended, and with it the run that it was at.
            self._end(replace(self._child_log, exit_code=whole.exit_code, signal=whole.signal))

    def _interrupt(self) -> bool:
        self._told = self._runs.interrupt()
        return self._told

    def _begin(self, write: Callable[[str | None], None]) -> None:
        self._write = write
        self._runs.process_began()
        self._waiting = self._runs.left()[:RUNS_PER_PROCESS]
        self._hand_over()

    def _hand_over(self) -> None:
        """Hand over the next run, or the sweep that follows the last one, or tell the process that there is none."""
        runs, run = self._runs, None
        self._handed_over = None
        if self._waiting and not runs.stopped():
            key = self._waiting.pop(0)
            folder = self._folder if key == self._first else run_folder(runs.settings, key)
            run = runs.planned(key, folder, self._waiting[0] if self._waiting else None)
            self._handed_over = key, folder
        elif not runs.left() and not runs.stopped() and not self._sweeping and runs.sweeps():
            self._sweeping = True
            config = write_run_config(self._folder / "sweep_config.yaml", {})
            run = BackfillRun(None, str(config), str(self._folder / "sweep.json"), {})
            self._handed_over = None, self._folder
        if run is None or runs.stopped():  # while something was done before it
            self._handed_over = None
            self._write(None)
        else:
            self._write(json.dumps(asdict(run)))

    def _end(self, child_log: ChildLog) -> None:
        """Deal with the end of what was handed over."""
        assert self._handed_over is not None
        key, folder = self._handed_over
        if key is None:
            self._runs.swept(self._folder / LOG, child_log)
        else:
            self._runs.end(key, folder, child_log)
            if key in self._runs.left():
                self._waiting.clear()  # it is made again, before the others, in a new process

    def _take(self, line: Line) -> None:
        """Show a line; a run begins and ends by one."""
        event = line.get("event")
        if self._under_way and self._runs.stopped() and not self._told:
            self._told = True
            print_status(self._runs.settings, "it ends after this run; Ctrl-C once more ends this one, too")
        if self._handed_over is not None and event == RUN_STARTED:
            self._child_log, self._under_way, self._any_began = ChildLog(), True, True
            if (key := self._handed_over[0]) is not None:
                self._runs.began(key)
        elif self._handed_over is not None and event == RUN_ENDED:
            self._child_log.exit_code, self._under_way = line["exit_code"], False
            self._end(self._child_log)
            self._hand_over()
        else:
            self._child_log.add(line)
            self._display(line)
