"""One run of the daily job: checked before it begins, run as a child process, and summarized."""

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from predictbench_assets import web
from predictbench_assets.database.connection import ready_database
from predictbench_assets.experiments.crashes import left_marks
from predictbench_assets.experiments.declared.file import registry_of
from predictbench_assets.experiments.registry import import_path
from predictbench_assets.launch.child import ChildLog, Follow, run_child
from predictbench_assets.launch.commands import prepare_home, run_command, write_run_config
from predictbench_assets.launch.progress import Display, default_display
from predictbench_assets.launch.request import DailyOptions, RunRefused, op_config, requested_key
from predictbench_assets.launch.run_summary import (
    LOG,
    SUMMARY,
    publish_summary,
    record_failure,
    run_folder,
    summary_of,
)
from predictbench_assets.launch.signals import exiting_on_signals
from predictbench_assets.observability.console import append_step_summary, console, print_status
from predictbench_assets.reporting.summary import RunSummary
from predictbench_assets.runs import RunKey
from predictbench_assets.settings import Settings, is_local

_log = logging.getLogger(__name__)


def run_daily(
    settings: Settings,
    options: DailyOptions,
    show: Callable[[Settings], Display] = default_display,
    report: Callable[[RunSummary, ChildLog], None] | None = None,
    *,
    verbose: bool = True,
    follow: Callable[[Settings], Follow] | None = None,
) -> int:
    """Check the options, run the job, show the summary.

    Args:
        settings: settings of this process and of the run.
        options: options of the run.
        show: shows the work while it goes on; default: by LOG_FORMAT and the terminal.
        report: receives the summary; default: show it here, and on the Action's page.
        verbose: True to print the command, and the paths of log and summary of a run that succeeded.
        follow: makes what follows a run whose steps are elsewhere; see `run_child`.

    Returns:
        The exit code: 0 only if the run succeeded; 128 and the signal's number where one stopped it.

    Raises:
        RunRefused: the options cannot be meant.
    """
    check_environment(settings)
    if settings.predictbench_dry_run:
        options = replace(options, dry_run=True)
    key = requested_key(settings, options.run_date, options.window_days)
    registry = registry_of(settings)
    if options.refresh and key.run_date != settings.clock.now().date():
        raise RunRefused("--refresh is for today's run only: a snapshot of the past cannot be frozen again")
    ops = op_config(settings, options, registry)
    for warning in settings.warnings:
        _log.warning(warning)
    with ExitStack() as stack:
        stack.enter_context(exiting_on_signals())
        if options.dry_run:
            scratch = stack.enter_context(scratch_folder())
            settings = settings.model_copy(update={"predictbench_dry_run": True, "predictbench_scratch": scratch})
        stack.enter_context(ready_database(settings))
        folder = run_folder(settings, key)
        crashes = Crashes(settings, key)
        while True:
            child_log = _execute(
                settings,
                key,
                ops,
                folder,
                import_path(registry),
                show,
                verbose=verbose,
                follow=follow(settings) if follow is not None and settings.remote_executor else None,
            )
            if not crashes.seen_in(child_log):
                break
            ops = without_repeats(ops, child_log.begun)
            for suffix in (".json", ".md"):
                (folder / SUMMARY).with_suffix(suffix).unlink(missing_ok=True)
        summary = summary_of(settings, folder, key, child_log, options)
        if report is not None:
            report(summary, child_log)
        else:
            _report(settings, summary, child_log)
        places = publish_summary(settings, summary, options, folder)
        if places and (verbose or not summary.succeeded):
            print_status(settings, "\n".join(places))
    if child_log.signal is not None:
        return 128 + child_log.signal
    return 0 if child_log.exit_code == 0 and summary.succeeded else 1


def check_environment(settings: Settings) -> None:
    """Check the variables of the process that decide how the exchange and the staging area are reached."""
    web.check_environment()
    if not is_local(settings.staging):
        web.check_store_environment()


class Crashes:
    """Crashes of experiments that ended a run, in which case it is worth making again.

    The next attempt makes the calls of that experiment in processes of their own, which it survives. So there are as
    many attempts as experiments that crash at most, and one more.
    """

    def __init__(self, settings: Settings, key: RunKey) -> None:
        self._settings, self._key = settings, key
        self._known = set(self._left())

    def seen_in(self, child_log: ChildLog) -> bool:
        """Return whether a run ended by a new crash; if so, it is ended in the database, and why is printed."""
        if child_log.signal is not None or child_log.exit_code == 0:
            return False
        new = {mark: name for mark, name in self._left().items() if mark not in self._known}
        if not new:
            return False
        self._known |= set(new)
        names = ", ".join(sorted(set(new.values())))
        reason = f"the process of the run ended while {names} was at work"
        if not self._settings.predictbench_dry_run:
            record_failure(self._settings, self._key, child_log, "experiment_results", reason)
        print_status(self._settings, f"{reason}; the run goes on with {names} in a process of its own")
        return True

    def _left(self) -> dict[Path, str]:
        return left_marks(self._settings.local_state, self._key.slug)


def without_repeats(ops: dict[str, dict[str, Any]], begun: set[str]) -> dict[str, dict[str, Any]]:
    """The configuration for making a run again: a step that was begun has thrown away what it should."""
    return {
        op: {
            name: value and op.replace("__", "/", 1) not in begun if name in ("refresh", "forget") else value
            for name, value in choices.items()
        }
        for op, choices in ops.items()
    }


def _execute(
    settings: Settings,
    key: RunKey,
    ops: dict[str, dict[str, Any]],
    folder: Path,
    import_path: Path | None,
    show: Callable[[Settings], Display],
    *,
    verbose: bool,
    follow: Follow | None,
) -> ChildLog:
    """Run the job as a command of its own, shown here and kept in the folder."""
    scratch = settings.predictbench_scratch
    command = run_command(
        settings,
        key,
        home=prepare_home(
            settings, (scratch or settings.home) / "dagster", temporary=scratch is not None, starting=True
        ),
        config_file=write_run_config(folder / "run_config.yaml", ops),
        summary=folder / SUMMARY,
        import_path=import_path,
        scratch=scratch,
    )
    if verbose:
        print_status(settings, f"$ {command}\n")
    shown = show(settings)
    try:
        return run_child(command, log=folder / LOG, redact=settings.redact, on_line=shown, follow=follow)
    finally:
        shown.close()


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A dry run's folder, gone afterwards whatever happens."""
    folder = Path(tempfile.mkdtemp(prefix="predictbench-dry-run-")).resolve()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _report(settings: Settings, summary: RunSummary, child_log: ChildLog) -> None:
    """Show the summary here, and on the Action's page."""
    console().print(summary.to_table())
    print_exit_code(settings, summary, child_log)
    append_step_summary(summary.to_markdown())


def print_exit_code(settings: Settings, summary: RunSummary, child_log: ChildLog) -> None:
    """Print Dagster's exit code where the data are stored although it failed."""
    if summary.succeeded and child_log.exit_code != 0:
        text = f"the run's data are stored, but Dagster ended with exit code {child_log.exit_code}"
        print_status(settings, text)
