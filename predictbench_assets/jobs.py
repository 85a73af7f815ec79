"""Jobs and schedules. GitHub Actions is the scheduler; the schedules here ship stopped, for those who run a daemon."""

from collections.abc import Iterator, Sequence

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition  # for types only

from predictbench_assets.assets.materializing import record_failure
from predictbench_assets.partitions import partition_key
from predictbench_assets.runs import RunKey
from predictbench_assets.settings import Settings

DAILY_RUN = "daily_run"


def build_daily_run(assets: Sequence[dg.AssetsDefinition]) -> UnresolvedAssetJobDefinition:
    """The job of one partition, from ingestion to persistence."""
    return dg.define_asset_job(
        DAILY_RUN,
        selection=list(assets),
        hooks={record_failure},
        description="Freeze the markets that close in N days, forecast each with every experiment, store the results.",
    )


def build_daily_schedule(settings: Settings, job: UnresolvedAssetJobDefinition) -> dg.ScheduleDefinition:
    """Every day at PIPELINE_RUN_AT_UTC, one run for each scheduled window."""
    at = settings.pipeline_run_at_utc

    @dg.schedule(
        name="daily_run_schedule",
        job=job,
        cron_schedule=f"{at.minute} {at.hour} * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.STOPPED,
    )
    def daily_run_schedule(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest]:
        """A run request for each window of HORIZONS (or TARGET_CLOSE_WINDOW_DAYS alone)."""
        for window in settings.windows:
            key = partition_key(RunKey(context.scheduled_execution_time.date(), window))
            yield dg.RunRequest(run_key=str(key), partition_key=key)

    return daily_run_schedule
