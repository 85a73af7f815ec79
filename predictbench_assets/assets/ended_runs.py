"""Dagster runs that have ended, and the rows of those that could not end them: a step that died calls no hook."""

import logging
from collections.abc import Iterable
from typing import Any

import dagster as dg

from predictbench_assets.assets.step import stage_of
from predictbench_assets.failures import PredictbenchError
from predictbench_assets.persistence.run_store import RunDatabase
from predictbench_assets.persistence.stored_runs import StoredRun
from predictbench_assets.runs import UnknownPartition, parsed_key
from predictbench_assets.settings import Settings

_ENDINGS = (dg.DagsterEventType.RUN_FAILURE, dg.DagsterEventType.RUN_CANCELED)
_ENDED = (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)

_log = logging.getLogger(__name__)


def why_ended(instance: dg.DagsterInstance, dagster_run_id: str) -> tuple[str | None, str]:
    """The key of the step that failed first, None where none did, and the reason why a run did not succeed."""
    for record in instance.all_logs(dagster_run_id, of_type=dg.DagsterEventType.STEP_FAILURE):
        event = record.get_dagster_event()
        if (reason := _cause(event.step_failure_data.error)) is not None:
            return event.step_key, reason
        return event.step_key, event.message or "no reason was recorded"
    reason = "no reason was recorded"
    for record in instance.all_logs(dagster_run_id, of_type=set(_ENDINGS)):
        event = record.get_dagster_event()
        failure = event.job_failure_data if event.is_job_failure else None
        reason = _cause(failure.error if failure else None) or event.message or reason
    return None, reason


def end_row(instance: dg.DagsterInstance, database: RunDatabase, run: dg.DagsterRun, settings: Settings) -> None:
    """End the row of a run that has failed, where the run holds it and has not; never raises for the database."""
    try:
        key = parsed_key(run.tags.get("dagster/partition", ""))
    except UnknownPartition:
        return
    step_key, reason = why_ended(instance, run.run_id)
    try:
        stage = stage_of(step_key or "target_window")
        database.fail(key, run.run_id, stage, settings.redact(reason), retriable=True)
    except PredictbenchError as error:
        _log.warning("the end of the run could not be recorded: %s", settings.redact(str(error)))


def end_dead_rows(
    instance: dg.DagsterInstance, database: RunDatabase, stored: Iterable[StoredRun], settings: Settings
) -> None:
    """End those of the rows that count as under way although the Dagster run that holds them has ended."""
    for row in stored:
        run = instance.get_run_by_id(row.dagster_run_id) if row.status == "running" else None
        if run is not None and run.status in _ENDED:
            end_row(instance, database, run, settings)


def _cause(error: Any) -> str | None:
    """The error of the step, without Dagster's error around it, and without its class."""
    while error is not None and (error.cls_name or "").startswith("Dagster") and error.cause is not None:
        error = error.cause
    if error is None:
        return None
    text = str(error.message).strip()
    return text if error.cls_name is None else text.partition(": ")[2] or text
