"""Many runs of the daily job, a few dozen in a process: what a backfill makes."""

import signal
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from predictbench_assets import web
from predictbench_assets.cli.daily import (
    LOG,
    SUMMARY,
    Crashes,
    DailyOptions,
    op_config,
    publish_summary,
    run_folder,
    say,
    scratch_folder,
    summary_of,
)
from predictbench_assets.cli.database import ready_database
from predictbench_assets.experiments.registry import import_path, load_registry
from predictbench_assets.failures import PredictbenchError
from predictbench_assets.launch import child
from predictbench_assets.launch.child import Line, PlannedRun, Watched
from predictbench_assets.launch.progress import progress
from predictbench_assets.reporting.backfill import BackfillLine
from predictbench_assets.runs import RunKey
from predictbench_assets.settings import Settings, is_local

RUNS_PER_PROCESS = 40
"""After so many a new process takes over: what one run leaves behind in memory is bounded."""


class RunSeries:
    """The runs of a backfill, and what came of each."""

    def __init__(self, settings: Settings, keys: Sequence[RunKey], experiments: tuple[str, ...]) -> None:
        self._settings, self._keys = settings, keys
        self._options = DailyOptions(experiments=experiments, dry_run=settings.predictbench_dry_run)
        registry = load_registry(settings.processing_experiments)
        self._ops, self._import_path = op_config(settings, self._options, registry), import_path(registry)
        self._crashes: dict[RunKey, Crashes] = {}
        self.lines: dict[RunKey, BackfillLine] = {}
        self.stopped_by: str | None = None

    def make(self) -> None:
        """Make them all, in order. One that fails does not stop the others, a signal does."""
        web.check_environment()
        if not is_local(self._settings.staging):
            web.check_store_environment()
        with ExitStack() as stack:
            if self._options.dry_run:
                scratch = stack.enter_context(scratch_folder())
                self._settings = self._settings.model_copy(update={"predictbench_scratch": scratch})
            try:
                stack.enter_context(ready_database(self._settings))
                while self.stopped_by is None and (left := self._left()):
                    self._make_some(left[:RUNS_PER_PROCESS])
            except (PredictbenchError, OSError) as error:
                reason = self._settings.redact(str(error))
                for key in self._left():
                    self._end(key, BackfillLine.of(key, "failed", reason))

    def _left(self) -> list[RunKey]:
        return [key for key in self._keys if key not in self.lines]

    def _make_some(self, keys: Sequence[RunKey]) -> None:
        """Make some in one process; the first of them has ended when it returns, or an experiment has crashed in it."""
        settings, scratch = self._settings, self._settings.predictbench_scratch
        for key in keys:
            self._crashes.setdefault(key, Crashes(settings, key))
        folders = {str(key): run_folder(settings, key) for key in keys}
        planned = [
            PlannedRun(
                str(key), str(child.write_run_config(folder / "run_config.yaml", self._ops)), str(folder / SUMMARY)
            )
            for key, folder in zip(keys, folders.values(), strict=True)
        ]
        first = folders[str(keys[0])]
        home = child.prepare_home(settings, (scratch or settings.home) / "dagster", temporary=scratch is not None)
        command = child.series_command(
            settings, planned, home=home, folder=first, import_path=self._import_path, scratch=scratch
        )
        say(settings, f"$ {command}\n")
        lines = _Lines(
            settings, {str(key): key for key in keys}, self._began, lambda *ended: self._ended(folders, *ended)
        )
        try:
            watched = child.run_watched(command, log=first / LOG, redact=settings.redact, on_line=lines)
        finally:
            lines.close()
        if watched.signal is not None:
            self.stopped_by = signal.Signals(watched.signal).name
        unfinished = lines.under_way or (None if lines.any_began else keys[0])
        if unfinished is not None:  # the process has ended, and with it the run that it was at
            seen = replace(lines.seen, exit_code=watched.exit_code, signal=watched.signal)
            self._ended(folders, unfinished, seen)

    def _began(self, key: RunKey) -> None:
        say(self._settings, f"[{len(self.lines) + 1}/{len(self._keys)}] {key.run_date}, window {key.window_days} days")

    def _ended(self, folders: dict[str, Path], key: RunKey, watched: Watched) -> None:
        folder, settings = folders[str(key)], self._settings
        if self._crashes[key].seen_in(watched):
            return  # it is made again
        summary = summary_of(settings, folder, key, watched, self._options)
        publish_summary(settings, summary, self._options, folder)
        asked, now = self._options.experiments, settings.clock.now()
        self._end(key, BackfillLine.ran(summary, exit_code=watched.exit_code, now=now, asked=asked))

    def _end(self, key: RunKey, line: BackfillLine) -> None:
        self.lines[key] = line
        told = f"{line.run_date}, window {line.window_days} days: {line.outcome}"
        said = "; ".join(filter(None, (told, line.forecasts, line.reason)))
        say(self._settings, f"[{len(self.lines)}/{len(self._keys)}] {said}")


class _Lines:
    """Shows the lines of a series, and sees in them when a run begins and when it has ended."""

    def __init__(
        self,
        settings: Settings,
        keys: dict[str, RunKey],
        began: Callable[[RunKey], None],
        ended: Callable[[RunKey, Watched], None],
    ) -> None:
        self._shown = progress(settings)
        self._keys, self._began, self._ended = keys, began, ended
        self.under_way: RunKey | None = None
        self.any_began = False
        self.seen = Watched()

    def __call__(self, line: Line) -> None:
        match line.get("event"):
            case child.RUN_STARTED:
                self.seen, self.under_way, self.any_began = Watched(), self._keys[line["partition"]], True
                self._began(self.under_way)
            case child.RUN_ENDED if self.under_way is not None:
                self.seen.exit_code, key, self.under_way = line["exit_code"], self.under_way, None
                self._ended(key, self.seen)
            case _:
                self.seen.see(line)
                self._shown(line)

    def close(self) -> None:
        self._shown.close()
