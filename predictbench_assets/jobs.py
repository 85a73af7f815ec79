"""Jobs, schedules and the sensor. GitHub Actions is the scheduler; these ship stopped, for a daemon to run."""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition  # for types only

from predictbench_assets.assets.dagster_run import launch_tags
from predictbench_assets.assets.ended_runs import end_dead_rows, end_row, why_ended
from predictbench_assets.assets.step import record_failure
from predictbench_assets.launch.commands import DAILY_RUN, RESOLUTION_SWEEP, run_config
from predictbench_assets.observability.logs import asset_of
from predictbench_assets.observability.notices import NotDelivered, Notice, send_notice
from predictbench_assets.partitions import partition_key
from predictbench_assets.persistence.run_store import RunDatabase
from predictbench_assets.persistence.scheduled import ScheduledDay, plan_day
from predictbench_assets.runs import RunKey, UnknownPartition, parsed_key
from predictbench_assets.settings import Settings

_log = logging.getLogger(__name__)


def build_daily_run(settings: Settings, assets: Sequence[dg.AssetsDefinition]) -> UnresolvedAssetJobDefinition:
    """The job of one partition, from ingestion to persistence."""
    return dg.define_asset_job(
        DAILY_RUN,
        selection=list(assets),
        hooks={record_failure},
        tags=launch_tags(settings),
        description="Freeze the markets that close in N days, forecast each with every experiment, store the results.",
    )


def build_resolution_sweep(assets: Sequence[dg.AssetsDefinition]) -> UnresolvedAssetJobDefinition:
    """The job of the benchmark, from resolutions to the page. It has no partition: it works on everything stored."""
    return dg.define_asset_job(
        RESOLUTION_SWEEP,
        selection=list(assets),
        description="Look up how stored markets settled, score their forecasts, make the boards and the page.",
    )


def build_daily_schedule(
    settings: Settings, job: UnresolvedAssetJobDefinition, database: RunDatabase
) -> dg.ScheduleDefinition:
    """Every day at PIPELINE_RUN_AT_UTC, one run for each scheduled window that is not stored yet."""
    at = settings.pipeline_run_at_utc

    @dg.schedule(
        name="daily_run_schedule",
        job=job,
        cron_schedule=f"{at.minute} {at.hour} * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.STOPPED,
    )
    def daily_run_schedule(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        """A run request for each window of HORIZONS (or TARGET_CLOSE_WINDOW_DAYS alone), as `due --scheduled` plans.

        A tick of a day that is over, as when the daemon was down, captures nothing: the windows are recorded as missed.
        """
        day = context.scheduled_execution_time.date()
        found = plan_day(
            database,
            day,
            settings.windows,
            settings.clock.now(),
            end_dead=lambda running: end_dead_rows(context.instance, database, running, settings),
        )
        if len(found.plan.done) == len(settings.windows):
            yield dg.SkipReason(f"every window of {day} is stored")
        for key in (partition_key(RunKey(day, window)) for window in found.plan.windows):
            yield dg.RunRequest(run_key=str(key), partition_key=key, run_config=json.loads(run_config(_SCHEDULED)))
        if found.recorded:
            _send_missed(found, settings)
        if found.plan.missed or found.plan.running:
            yield dg.SkipReason(found.reason if found.never_begun else f"{day} is over; {_REPAIR}")

    return daily_run_schedule


def build_collection_schedule(
    settings: Settings, job: UnresolvedAssetJobDefinition, database: RunDatabase
) -> dg.ScheduleDefinition:
    """Every hour, one run for each window of the day of which batches of paid calls are under way."""

    @dg.schedule(
        name="batch_collection_schedule",
        job=job,
        cron_schedule="47 * * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.STOPPED,
    )
    def batch_collection_schedule(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        """A run request for each such window; nobody is asked again who has answered."""
        at, today = context.scheduled_execution_time, settings.clock.now().date()
        windows = sorted(database.batches_of(today))
        if not windows:
            yield dg.SkipReason(f"no batch of {today} is under way")
        for key in (partition_key(RunKey(today, window)) for window in windows):
            config = json.loads(run_config(_SCHEDULED))
            yield dg.RunRequest(run_key=f"{key} {at:%H:%M}", partition_key=key, run_config=config)

    return batch_collection_schedule


def build_sweep_schedule(settings: Settings, job: UnresolvedAssetJobDefinition) -> dg.ScheduleDefinition:
    """Every day an hour after the daily run."""
    at = settings.pipeline_run_at_utc
    return dg.ScheduleDefinition(
        name="resolution_sweep_schedule",
        job=job,
        cron_schedule=f"{at.minute} {(at.hour + 1) % 24} * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.STOPPED,
    )


def build_failure_sensor(settings: Settings, database: RunDatabase) -> dg.SensorDefinition:
    """The sensor that notifies NOTIFY_WEBHOOK_URL of every failed run on the storage, wherever it ran.

    All code locations, since a run by `dagster job execute` belongs to none. The notice is made of the event log
    alone: the database may be what failed. A step that died has told nobody; the run's row is ended here.
    """

    @dg.run_failure_sensor(
        name="failed_runs_are_told",
        description="Tells NOTIFY_WEBHOOK_URL of each failed run, also of those that ran on another machine.",
        monitor_all_code_locations=True,
        default_status=dg.DefaultSensorStatus.STOPPED,
    )
    def failed_runs_are_told(context: dg.RunFailureSensorContext) -> None:
        """End its row, and send one notice a failed run; one that cannot be delivered shows as a failed tick."""
        try:
            send_notice(_notice(context), settings)
        finally:  # the database may be what failed, so the notice does not wait for it
            end_row(context.instance, database, context.dagster_run, settings)

    return failed_runs_are_told


def _notice(context: dg.RunFailureSensorContext) -> Notice:
    run = context.dagster_run
    stage, reason = why_ended(context.instance, run.run_id)
    stage = asset_of(stage) if stage else None
    notice = Notice("failure", stage=stage, reason=f"{reason.rstrip('.')}. Dagster run {run.run_id}")
    try:
        key = parsed_key(run.tags.get("dagster/partition", ""))
    except UnknownPartition:
        return notice
    return replace(notice, run_date=key.run_date, windows=(key.window_days,))


_REPAIR = "what began and is not complete can be materialized again from its partition's page"
_SCHEDULED = {"target_window": {"on_existing": "skip"}}


def _send_missed(found: ScheduledDay, settings: Settings) -> None:
    windows = tuple(sorted(key.window_days for key in found.recorded))
    try:
        send_notice(Notice("missed", run_date=found.plan.run_date, windows=windows, reason=found.reason), settings)
    except NotDelivered as error:
        _log.warning("the notice of a missed run was not delivered: %s", error)
