"""Many runs of the daily job, a few dozen in each child process: the work of a backfill."""

import signal
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
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
from predictbench_assets.launch.daily import Crashes, check_environment, scratch_folder
from predictbench_assets.launch.progress import default_display
from predictbench_assets.launch.request import DailyOptions, op_config
from predictbench_assets.launch.run_summary import LOG, SUMMARY, publish_summary, run_folder, summary_of
from predictbench_assets.observability.console import print_status
from predictbench_assets.reporting.backfill import BackfillLine
from predictbench_assets.runs import RunKey
from predictbench_assets.settings import Settings

RUNS_PER_PROCESS = 40
"""Runs before a new process takes over: what one run leaves behind in memory is bounded."""


class Backfill:
    """The runs of a backfill, and the line of each that has ended."""

    def __init__(self, settings: Settings, keys: Sequence[RunKey], options: DailyOptions) -> None:
        self._settings, self._keys = settings, keys
        self._options = replace(options, dry_run=settings.predictbench_dry_run)
        registry = registry_of(settings)
        self._ops, self._import_path = op_config(settings, self._options, registry), import_path(registry)
        self._crashes: dict[RunKey, Crashes] = {}
        self.lines: dict[RunKey, BackfillLine] = {}
        self.stopped_by: str | None = None

    def run(self) -> None:
        """Make all runs, in order. One that fails does not stop the others, a signal does."""
        check_environment(self._settings)
        with ExitStack() as stack:
            if self._options.dry_run:
                scratch = stack.enter_context(scratch_folder())
                self._settings = self._settings.model_copy(update={"predictbench_scratch": scratch})
            try:
                stack.enter_context(ready_database(self._settings))
                while self.stopped_by is None and (left := self._left()):
                    self._run_some(left[:RUNS_PER_PROCESS])
            except (PredictbenchError, OSError) as error:
                reason = self._settings.redact(str(error))
                for key in self._left():
                    self._end(key, BackfillLine.of(key, "failed", reason))

    def _left(self) -> list[RunKey]:
        return [key for key in self._keys if key not in self.lines]

    def _run_some(self, keys: Sequence[RunKey]) -> None:
        """Make some in one process; on return the first of them has ended, or an experiment has crashed in it."""
        settings, scratch = self._settings, self._settings.predictbench_scratch
        for key in keys:
            self._crashes.setdefault(key, Crashes(settings, key))
        folders = {str(key): run_folder(settings, key) for key in keys}
        planned = [
            BackfillRun(str(key), str(write_run_config(folder / "run_config.yaml", self._ops)), str(folder / SUMMARY))
            for key, folder in zip(keys, folders.values(), strict=True)
        ]
        first = folders[str(keys[0])]
        home = prepare_home(settings, (scratch or settings.home) / "dagster", temporary=scratch is not None)
        command = backfill_command(
            settings, planned, home=home, folder=first, import_path=self._import_path, scratch=scratch
        )
        print_status(settings, f"$ {command}\n")
        lines = _Lines(
            settings, {str(key): key for key in keys}, self._began, lambda *ended: self._ended(folders, *ended)
        )
        try:
            child_log = run_child(command, log=first / LOG, redact=settings.redact, on_line=lines)
        finally:
            lines.close()
        if child_log.signal is not None:
            self.stopped_by = signal.Signals(child_log.signal).name
        unfinished = lines.under_way or (None if lines.any_began else keys[0])
        if unfinished is not None:  # the process has ended, and with it the run that it was at
            child_log = replace(lines.child_log, exit_code=child_log.exit_code, signal=child_log.signal)
            self._ended(folders, unfinished, child_log)

    def _began(self, key: RunKey) -> None:
        number = f"[{len(self.lines) + 1}/{len(self._keys)}]"
        print_status(self._settings, f"{number} {key.run_date}, window {key.window_days} days")

    def _ended(self, folders: dict[str, Path], key: RunKey, child_log: ChildLog) -> None:
        folder, settings = folders[str(key)], self._settings
        if self._crashes[key].seen_in(child_log):
            return  # it is made again
        summary = summary_of(settings, folder, key, child_log, self._options)
        publish_summary(settings, summary, self._options, folder)
        selected, now = self._options.experiments, settings.clock.now()
        self._end(key, BackfillLine.ran(summary, exit_code=child_log.exit_code, now=now, selected=selected))

    def _end(self, key: RunKey, line: BackfillLine) -> None:
        self.lines[key] = line
        outcome = f"{line.run_date}, window {line.window_days} days: {line.outcome}"
        text = "; ".join(filter(None, (outcome, line.forecasts, line.reason)))
        print_status(self._settings, f"[{len(self.lines)}/{len(self._keys)}] {text}")


class _Lines:
    """Display of the lines of a process with several runs, which finds where a run begins and where it ends."""

    def __init__(
        self,
        settings: Settings,
        keys: dict[str, RunKey],
        began: Callable[[RunKey], None],
        ended: Callable[[RunKey, ChildLog], None],
    ) -> None:
        self._display = default_display(settings)
        self._keys, self._began, self._ended = keys, began, ended
        self.under_way: RunKey | None = None
        self.any_began = False
        self.child_log = ChildLog()

    def __call__(self, line: Line) -> None:
        event = line.get("event")
        if event == RUN_STARTED:
            self.child_log, self.under_way, self.any_began = ChildLog(), self._keys[line["partition"]], True
            self._began(self.under_way)
        elif event == RUN_ENDED and self.under_way is not None:
            self.child_log.exit_code, key, self.under_way = line["exit_code"], self.under_way, None
            self._ended(key, self.child_log)
        else:
            self.child_log.add(line)
            self._display(line)

    def close(self) -> None:
        self._display.close()
