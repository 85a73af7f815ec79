"""Sensors. They ship stopped, for those who run a daemon; without one the Action tells of its own failures."""

from dataclasses import replace
from typing import Any

import dagster as dg

from predictbench_assets.observability.notices import Notice, tell
from predictbench_assets.runs import UnknownPartition, parsed_key
from predictbench_assets.settings import Settings


def build_failure_sensor(settings: Settings) -> dg.SensorDefinition:
    """Tells NOTIFY_WEBHOOK_URL of every failed run on the storage, wherever it ran.

    All code locations, since a run by `dagster job execute` belongs to none. What is told comes from the event log
    alone: the database may be what failed.
    """

    @dg.run_failure_sensor(
        name="failed_runs_are_told",
        description="Tells NOTIFY_WEBHOOK_URL of each failed run, also of those that ran on another machine.",
        monitor_all_code_locations=True,
        default_status=dg.DefaultSensorStatus.STOPPED,
    )
    def failed_runs_are_told(context: dg.RunFailureSensorContext) -> None:
        """One notice a failed run. One that cannot be delivered shows as a failed tick."""
        tell(_notice(context), settings)

    return failed_runs_are_told


def _notice(context: dg.RunFailureSensorContext) -> Notice:
    run, failed = context.dagster_run, context.get_step_failure_events()
    stage, reason = None, context.failure_event.message or "no reason was recorded"
    if failed:
        stage = (failed[0].step_key or "").replace("__", "/") or None
        reason = _reason(failed[0].step_failure_data.error) or reason
    notice = Notice("failure", stage=stage, reason=f"{reason.rstrip('.')}. Dagster run {run.run_id}")
    try:
        key = parsed_key(run.tags.get("dagster/partition", ""))
    except UnknownPartition:
        return notice
    return replace(notice, run_date=key.run_date, windows=(key.window_days,))


def _reason(error: Any) -> str | None:
    """What the step raised, without Dagster's error around it."""
    while error is not None and (error.cls_name or "").startswith("Dagster") and error.cause is not None:
        error = error.cause
    return None if error is None else str(error.message).strip().partition(": ")[2] or str(error.message).strip()
