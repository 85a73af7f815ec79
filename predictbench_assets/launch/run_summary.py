"""The summary of one run: the one that it left in its folder, or one made of what its child process printed."""

import logging
import tempfile
from pathlib import Path
from typing import cast, get_args

from predictbench_assets.clock import SystemClock
from predictbench_assets.commit import running_commit
from predictbench_assets.failures import PredictbenchError, Stage
from predictbench_assets.launch.child import ChildLog
from predictbench_assets.launch.request import DailyOptions
from predictbench_assets.persistence.run_store import RunDatabase
from predictbench_assets.reporting.summary import FailureLine, RunSummary
from predictbench_assets.runs import RunKey
from predictbench_assets.settings import Settings

LOG = "log.jsonl"
SUMMARY = "summary.json"

_INTERRUPTED = "DagsterExecutionInterruptedError"
"""The whole reason that Dagster gives for a step that a signal ended."""

_log = logging.getLogger(__name__)


def run_folder(settings: Settings, key: RunKey) -> Path:
    """Make a new folder for the files of this one run: its configuration, its log, its summary."""
    runs = (settings.predictbench_scratch or settings.artifacts) / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f"{key.slug}_{SystemClock().now():%Y%m%dT%H%M%S}_", dir=runs))


def summary_of(settings: Settings, folder: Path, key: RunKey, child_log: ChildLog, options: DailyOptions) -> RunSummary:
    """The summary that a run left in its folder, or one made of its child's log.

    The failure that a run reports after it was asked to stop is a consequence of the signal, and not its reason.
    """
    written = _written(folder)
    stopped = child_log.signal is not None and child_log.reason in (None, _INTERRUPTED)
    if written is not None and (written.succeeded or not stopped):
        return written
    stored = _stored(settings, key, child_log) if settings.remote_executor and child_log.dagster_run_id else None
    if stored is not None:
        stored.write(folder / SUMMARY)
        _export(settings, stored)
        return stored
    return _summary_from_log(settings, folder, key, child_log, options)


def publish_summary(settings: Settings, summary: RunSummary, options: DailyOptions, folder: Path) -> list[str]:
    """Copy the summary to where it is looked for; returns where log and summary are, a line each.

    A dry run leaves one only where it was asked to; a skipped run does not take the place of the one it skipped for.
    """
    target = options.summary or settings.predictbench_summary
    lines = [f"  log      {folder / LOG}"] if not options.dry_run and (folder / LOG).exists() else []
    if target is None and not options.dry_run and summary.status != "skipped":
        target = settings.artifacts / f"summary_{summary.run_date}_w{summary.window_days}.json"
        if _overtaken(target, summary, folder):
            lines.append(f"  summary  {folder / SUMMARY}")
            target = None
    if target is not None:
        lines.append(f"  summary  {summary.write(target.resolve())}")
    return lines


def record_failure(settings: Settings, key: RunKey, child_log: ChildLog, stage: str, reason: str) -> None:
    """End the run in the database as well, if it is still held by the process that is gone."""
    if child_log.dagster_run_id is None or stage not in get_args(Stage):
        return
    database = RunDatabase(settings)
    if child_log.signal is not None:
        database.hurry()
    try:
        database.fail(key, child_log.dagster_run_id, cast("Stage", stage), reason, retriable=True)
    except PredictbenchError as error:
        _log.warning("the failure could not be recorded in the database: %s", settings.redact(str(error)))
    finally:
        database.engine.dispose()


def _overtaken(usual: Path, summary: RunSummary, folder: Path) -> bool:
    """Return whether a newer attempt left its summary in the usual place while this one, which failed, was running."""
    if summary.succeeded or summary.attempt is None or not usual.is_file():
        return False
    if usual.stat().st_mtime_ns < (folder / "run_config.yaml").stat().st_mtime_ns:
        return False
    newer = RunSummary.read(usual).attempt
    return newer is not None and newer > summary.attempt


def _written(folder: Path) -> RunSummary | None:
    file = folder / SUMMARY
    return RunSummary.read(file) if file.exists() else None


def _stored(settings: Settings, key: RunKey, child_log: ChildLog) -> RunSummary | None:
    """The summary that the last step has stored, on whichever machine; of a run that failed, where and why.

    The latter is noted in the log: a step elsewhere has recorded it in the database, and printed nothing here.
    """
    database = RunDatabase(settings)
    try:
        run = database.stored_run(key)
    except PredictbenchError as error:
        _log.warning("the run cannot be read from the database: %s", settings.redact(str(error)))
        return None
    finally:
        database.engine.dispose()
    if run is None or run.dagster_run_id != child_log.dagster_run_id:
        return None
    if run.summary is not None:
        return RunSummary.model_validate(run.summary)
    if run.status == "failed" and child_log.signal is None:
        child_log.stage, child_log.reason = run.stage, run.reason
    return None


def _summary_from_log(
    settings: Settings, folder: Path, key: RunKey, child_log: ChildLog, options: DailyOptions
) -> RunSummary:
    """The summary of a run that wrote none: killed, ended before it began, or with nothing to do."""
    skipped = options.on_existing == "skip" and child_log.exit_code == 0
    reason = (
        "the run is stored already, nothing was done; --on-existing update writes it again"
        if skipped
        else _failure_reason(child_log)
    )
    stage = (child_log.stage or "target_window").partition("/")[0]
    if not skipped and not settings.predictbench_dry_run:
        record_failure(settings, key, child_log, stage, reason)
    own = FailureLine(market_id=None, stage=stage, reason=reason, retriable=True)
    summary = RunSummary.failed(
        key,
        stage=None if skipped else child_log.stage,
        reason=reason,
        status="skipped" if skipped else "failed",
        dry_run=settings.predictbench_dry_run,
        dagster_run_id=child_log.dagster_run_id,
        exchange=settings.exchange,
        git_sha=running_commit(settings),
        failures=() if skipped else (own,),
    )
    summary.write(folder / SUMMARY)
    if not summary.dry_run:
        _export(settings, summary)
    return summary


def _export(settings: Settings, summary: RunSummary) -> None:
    # Loads the metrics' library, which only a run without a summary of its own needs here.
    from predictbench_assets.observability.metrics import export_metrics

    export_metrics(summary, settings)


def _failure_reason(child_log: ChildLog) -> str:
    """The reason why the child ended, from its log and its exit code."""
    if child_log.signal is not None and child_log.reason in (None, _INTERRUPTED):  # not what failed before it came
        return f"stopped by signal {child_log.signal}; run it again, it goes on where it stopped"
    if child_log.reason is not None:
        return child_log.reason
    if child_log.exit_code is not None and child_log.exit_code < 0:
        return f"the process was killed by signal {-child_log.exit_code}; run it again, it goes on where it stopped"
    ended = f"Dagster ended with exit code {child_log.exit_code} before a summary was written"
    # The outermost error names what was given up, the innermost one the reason.
    raised = ", from ".join(dict.fromkeys((*child_log.raised[-1:], *child_log.raised[:1])))
    return f"{ended}: {raised}" if raised else f"{ended}; the log has more"
