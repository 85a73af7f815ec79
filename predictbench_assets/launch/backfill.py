"""Many runs of the daily job, a few dozen in each child process, of which several may be at work: a backfill."""

import json
import signal
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

from predictbench_assets.database.connection import opened_database, ready_database
from predictbench_assets.experiments.declared.file import registry_of
from predictbench_assets.experiments.registry import import_path
from predictbench_assets.failures import PredictbenchError
from predictbench_assets.launch.child import ENDING_SECONDS, ChildLog, Follow, Line, run_child
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
from predictbench_assets.launch.signals import SignalsToChildren
from predictbench_assets.observability.console import error_console, print_status
from predictbench_assets.persistence.stored_runs import frozen_runs
from predictbench_assets.reporting.backfill import BackfillLine
from predictbench_assets.reporting.summary import RunSummary
from predictbench_assets.runs import RunKey
from predictbench_assets.settings import Settings

RUNS_PER_PROCESS = 40
"""Runs before a new process takes over: what one run leaves behind in memory is bounded."""

KEPT_SECONDS = 30.0
"""Seconds that a process may take to come to the run that it prepares, before another one that is idle makes it."""
_LOOK_EVERY_S = 0.5


class RunsInTurn(ABC):
    """Runs of the daily job in an order, handed to a child process one by one.

    What differs between them is for a subclass to say. Where several processes are at work, each is handed the next run
    when it has ended one; the methods are called by one thread at a time.
    """

    verbose = True
    """True to print the command of each child process."""

    def __init__(self, settings: Settings, keys: Sequence[RunKey], at_once: int = 1) -> None:
        self._settings, self._keys, self._at_once = settings, keys, at_once
        self._registry = registry_of(settings)
        self._crashes: dict[RunKey, Crashes] = {}
        self._begun: dict[RunKey, set[str]] = {}
        """The steps that were begun when an experiment crashed, of runs that are made again."""
        self._done: set[RunKey] = set()
        self._under_way: set[RunKey] = set()
        self._kept: dict[RunKey, float] = {}
        """The runs that a process is preparing for itself, and since when (monotonic)."""
        self._takers: dict[RunKey, int] = {}
        """The thread that took or kept a run last."""
        self._processes = 1
        """The processes that are at work."""
        self._broken = False
        self._display: Display | None = None
        self.turn = threading.RLock()
        """Held by the thread whose turn it is."""
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

    def beside(self, key: RunKey) -> bool:  # noqa: ARG002
        """Return whether a run may begin while some before it are under way; else it is made when these have ended."""
        return False

    def follow(self) -> Follow | None:
        """Make what follows runs whose steps are elsewhere, see `run_child`."""
        return None

    def modules(self, key: RunKey) -> Sequence[str]:  # noqa: ARG002
        """The modules to load after a run, see `BackfillRun`."""
        return ()

    def display(self) -> Display:
        """Make the display of what the child processes log."""
        return default_display(self._settings)

    def show(self, key: RunKey | None, line: Line) -> None:  # noqa: ARG002
        """Show a line of a run; None for one that is of none."""
        if self._display is not None:
            self._display(line)

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
            self._display = self.display()
            stack.callback(self._display.close)
            signals = stack.enter_context(SignalsToChildren(ENDING_SECONDS, self._interrupted))
            self._processes = max(1, min(self._at_once, sum(map(self.beside, self.left()))))
            if self._processes == 1:
                self._work(signals)
                return
            with ThreadPoolExecutor(self._processes, thread_name_prefix="backfill") as pool:
                for worker in [pool.submit(self._work, signals) for _ in range(self._processes)]:
                    worker.result()

    def _work(self, signals: SignalsToChildren) -> None:
        """Make runs in one process after another, until there is nothing more to do beside the other ones."""
        try:
            while (key := self.take() or self._take_over()) is not None:
                _Process(self, key, signals).run()
        except BaseException:
            self._broken = True
            raise

    def take(self) -> RunKey | None:
        """The next run, which is now the caller's; None where there is none, or those under way have to end first."""
        with self.turn:
            free = self._free()
            if self.stopped() or not free or (self._taken() and not self.beside(free[0])):
                return None
            return self._begin(free[0])

    def keep(self) -> RunKey | None:
        """A run that the caller takes next and prepares meanwhile; None where there is nothing to prepare."""
        with self.turn:
            # The first ones are for the processes that have none yet.
            later = self._free()[max(0, self._processes - len(self._under_way)) :]
            if not later or not self.reconstructs(later[0]):
                return None
            self._kept[later[0]], self._takers[later[0]] = time.monotonic(), threading.get_ident()
            return later[0]

    def begin_kept(self, key: RunKey) -> bool:
        """Take a run that was kept; returns whether it was still there."""
        with self.turn:
            if self._kept.pop(key, None) is None:
                return False
            self._begin(key)
            return True

    def _take_over(self) -> RunKey | None:
        """A run that another process keeps and does not come to, since the one that it makes takes long or hangs.

        It may be read from the exchange twice, so some time is given; None where there is nothing left to take.
        """
        while True:
            with self.turn:
                if self.stopped() or not self._kept:
                    return self.take()
                key, since = min(self._kept.items(), key=lambda kept: kept[1])
                if time.monotonic() - since >= KEPT_SECONDS and self.begin_kept(key):
                    return key
            time.sleep(_LOOK_EVERY_S)

    def leave(self, *keys: RunKey | None) -> None:
        """Leave runs that this thread took or kept to whoever takes the next one, unless they have ended."""
        with self.turn:
            for key in keys:
                if key is not None and self._takers.get(key) == threading.get_ident():
                    self._under_way.discard(key)
                    self._kept.pop(key, None)

    def _begin(self, key: RunKey) -> RunKey:
        self._under_way.add(key)
        self._takers[key] = threading.get_ident()
        return key

    def _free(self) -> list[RunKey]:
        taken = self._taken()
        return [key for key in self.left() if key not in taken]

    def _taken(self) -> set[RunKey]:
        return self._under_way | self._kept.keys()

    def end(self, key: RunKey, folder: Path, child_log: ChildLog) -> None:
        """Deal with the end of a run, which is made again where an experiment has crashed in it."""
        self._under_way.discard(key)
        if self._crashes[key].seen_in(child_log):
            self._begun.setdefault(key, set()).update(child_log.begun)
            return
        options = self.options(key)
        summary = summary_of(self._settings, folder, key, child_log, options)
        self.places = publish_summary(self._settings, summary, options, folder)
        self._done.add(key)
        self.ended(key, summary, child_log)

    def interrupt(self) -> bool:
        """End after the runs that are under way; called in a signal handler. Returns whether these end now."""
        self.stopped_by = signal.SIGINT.name
        return False

    def _interrupted(self) -> bool:
        now = self.interrupt()
        if not now:
            # Not here, where a signal may have come in the middle of another line.
            threading.Thread(target=self._say_when, name="what a Ctrl-C ends", daemon=True).start()
        return now

    def _say_when(self) -> None:
        """Say what a Ctrl-C ends, also where nothing is logged any more, since a run hangs."""
        with self.turn:
            if runs := len(self._under_way):
                when = "after this run; Ctrl-C once more ends this one"
                if runs > 1:
                    when = f"after the {runs} runs under way; Ctrl-C once more ends these"
                print_status(self._settings, f"it ends {when}, too")

    def stopped(self) -> bool:
        """Return whether no further run is to be begun."""
        return self.stopped_by is not None or self._broken

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
            following=None if following is None else str(following),
            modules=self.modules(key),
        )

    @property
    def settings(self) -> Settings:
        """The settings of this process and its children; of a dry run, with its scratch folder."""
        return self._settings

    @property
    def processes(self) -> int:
        """The child processes that may be at work."""
        return self._processes

    @property
    def import_path(self) -> Path | None:
        """The folder with modules of experiments, if there is one."""
        return import_path(self._registry)


class Backfill(RunsInTurn):
    """The runs of a backfill, and the line of each that has ended."""

    def __init__(
        self,
        settings: Settings,
        keys: Sequence[RunKey],
        options: DailyOptions,
        *,
        at_once: int = 1,
        follow: Callable[[Settings], Follow] | None = None,
    ) -> None:
        super().__init__(settings, keys, at_once)
        self._follow = follow
        self._options = replace(options, dry_run=settings.predictbench_dry_run)
        self._bar: RunsBar | None = None
        self._frozen: set[RunKey] = set()
        """The runs that have a snapshot."""
        self.lines: dict[RunKey, BackfillLine] = {}

    def options(self, _: RunKey) -> DailyOptions:
        """The same for all."""
        return self._options

    def follow(self) -> Follow | None:
        """Where the steps are not in the child process, what was given."""
        return self._follow(self.settings) if self._follow is not None and self.settings.remote_executor else None

    def starting(self, stack: ExitStack) -> None:
        """Make the database ready, and see what has a snapshot."""
        super().starting(stack)
        if days := [key.run_date for key in self._keys]:
            with opened_database(self._settings) as engine:
                self._frozen = frozen_runs(engine, min(days), max(days))

    def reconstructs(self, key: RunKey) -> bool:
        """Past days without a snapshot are, unless they are to be refused."""
        chosen = self._options.reconstruct
        wanted = self._settings.reconstructs if chosen is None else chosen
        return wanted and self.beside(key) and key not in self._frozen

    def beside(self, key: RunKey) -> bool:
        """Past days may: whatever their experiments learn from was stored before their instant. Today's is now."""
        return key.run_date < self._settings.clock.now().date()

    def display(self) -> Display:
        """A bar with the time that is left on a terminal, and every line elsewhere."""
        if self._settings.log_format != "auto" or not sys.stderr.isatty():
            return default_display(self._settings)
        self._bar = RunsBar(error_console(), len(self._keys))
        return self._bar

    def show(self, key: RunKey | None, line: Line) -> None:
        """Show a line, with its partition where several are under way."""
        if self._bar is not None:
            self._bar.show(key, line)
        else:
            super().show(key, line if key is None or self.processes == 1 else line | {"partition": str(key)})

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
        text = f"{self._number(key)} {key.run_date}, window {key.window_days} days"
        if self._bar is not None:
            self._bar.begin(key, text)
        else:
            print_status(self._settings, text)

    def ended(self, key: RunKey, summary: RunSummary, child_log: ChildLog) -> None:
        """Keep its line, and show it."""
        selected, now = self._options.experiments, self._settings.clock.now()
        self._end(key, BackfillLine.ran(summary, exit_code=child_log.exit_code, now=now, selected=selected))

    def _end(self, key: RunKey, line: BackfillLine) -> None:
        self.lines[key] = line
        outcome = f"{line.run_date}, window {line.window_days} days: {line.outcome}"
        text = "; ".join(filter(None, (outcome, line.forecasts, line.reason)))
        print_status(self._settings, f"{self._number(key)} {text}")
        if self._bar is not None:
            self._bar.end(key)

    def _number(self, key: RunKey) -> str:
        return f"[{self._keys.index(key) + 1}/{len(self._keys)}]"


class _Process:
    """One child process, which is handed a run whenever it has ended one."""

    def __init__(self, runs: RunsInTurn, first: RunKey, signals: SignalsToChildren) -> None:
        self._runs, self._signals = runs, signals
        self._write: Callable[[str | None], None] = lambda _: None
        self._first, self._folder = first, run_folder(runs.settings, first)
        self._handed_over: tuple[RunKey | None, Path] | None = None
        """The run that has not ended; no key is the sweep's."""
        self._next: RunKey | None = first
        """The run that comes next, which it is preparing."""
        self._count = 0
        """Runs that it was handed."""
        self._running = self._any_began = self._sweeping = False
        self._child_log = ChildLog()

    def run(self) -> None:
        """Hand over runs; when the process has ended the first has too, or an experiment has crashed in it."""
        runs, settings = self._runs, self._runs.settings
        scratch = settings.predictbench_scratch
        with runs.turn:
            home = prepare_home(settings, (scratch or settings.home) / "dagster", temporary=scratch is not None)
            command = backfill_command(
                settings,
                home=home,
                folder=self._folder,
                import_path=runs.import_path,
                scratch=scratch,
                processes=runs.processes,
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
                signals=self._signals,
                follow=runs.follow(),
            )
            if whole.signal is not None:
                runs.stopped_by = signal.Signals(whole.signal).name
            with runs.turn:
                if self._handed_over is not None and (self._running or not self._any_began):
                    # The process has ended, and with it the run that it was at.
                    self._end(replace(self._child_log, exit_code=whole.exit_code, signal=whole.signal))
        finally:
            runs.leave(self._next, self._handed_over and self._handed_over[0])

    def _begin(self, write: Callable[[str | None], None]) -> None:
        self._write = write
        self._runs.process_began()
        with self._runs.turn:
            self._runs.leave(self._next)  # the first may be another one by now
            self._next = None
            self._hand_over()

    def _hand_over(self) -> None:
        """Hand over the next run, or the sweep that follows the last one, or tell the process that there is none."""
        runs, run = self._runs, None
        self._handed_over = None
        if (key := self._next_run()) is not None:
            self._count += 1
            folder = self._folder if key == self._first else run_folder(runs.settings, key)
            self._handed_over = key, folder
            if self._count < RUNS_PER_PROCESS:
                self._next = runs.keep()
            run = runs.planned(key, folder, self._next)
        elif not runs.left() and not runs.stopped() and not self._sweeping and runs.sweeps():
            self._sweeping = True
            config = write_run_config(self._folder / "sweep_config.yaml", {})
            run = BackfillRun(None, str(config), str(self._folder / "sweep.json"), {})
            self._handed_over = None, self._folder
        if run is None or runs.stopped():  # while something was done before it
            runs.leave(key)
            self._handed_over = None
            self._write(None)
        else:
            self._write(json.dumps(asdict(run)))

    def _next_run(self) -> RunKey | None:
        """The run that it has prepared, or another one; None where it is to end."""
        runs, key = self._runs, self._next
        self._next = None
        if key is not None and runs.stopped():
            runs.leave(key)
        elif key is not None and runs.begin_kept(key):
            return key
        return runs.take() if self._count < RUNS_PER_PROCESS else None

    def _end(self, child_log: ChildLog) -> None:
        """Deal with the end of what was handed over."""
        assert self._handed_over is not None
        (key, folder), self._handed_over = self._handed_over, None
        if key is None:
            self._runs.swept(self._folder / LOG, child_log)
        else:
            self._runs.end(key, folder, child_log)
            if key in self._runs.left():
                # It is made again, before the others, in a new process.
                self._runs.leave(self._next)
                self._next, self._count = None, RUNS_PER_PROCESS

    def _take(self, line: Line) -> None:
        """Show a line; a run begins and ends by one."""
        with self._runs.turn:
            event, key = line.get("event"), self._handed_over and self._handed_over[0]
            if self._handed_over is not None and event == RUN_STARTED:
                self._child_log, self._running, self._any_began = ChildLog(), True, True
                if key is not None:
                    self._runs.began(key)
            elif self._handed_over is not None and event == RUN_ENDED:
                self._child_log.exit_code, self._running = line["exit_code"], False
                self._end(self._child_log)
                self._hand_over()
            else:
                self._child_log.add(line)
                self._runs.show(key, line)
