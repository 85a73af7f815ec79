"""Persistence: the transactional write of a run, and its summary."""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg

from predictbench_assets.assets.checks import RUN_CHECKS, check_run, report_stored
from predictbench_assets.assets.dagster_run import run_began
from predictbench_assets.assets.experiments import experiment_key
from predictbench_assets.assets.step import OWNERS, asset_step, record_failure, run_seconds
from predictbench_assets.experiments.registry import Registry
from predictbench_assets.ingestion.cohort import SharedCohort
from predictbench_assets.observability.reporter import RunReporter
from predictbench_assets.partitions import run_key, run_partitions
from predictbench_assets.persistence.run_contents import RunContents, StagedExperiment
from predictbench_assets.persistence.run_store import RunDatabase
from predictbench_assets.persistence.run_write import staged_experiments, store
from predictbench_assets.reporting.summary import RunSummary
from predictbench_assets.settings import Settings
from predictbench_assets.staging import StagedFile, StagingArea

GROUP = "persistence"

LATE = dg.FreshnessPolicy.time_window(warn_window=timedelta(hours=26), fail_window=timedelta(hours=30))
"""A day and two hours after the last run a warning, a day and six hours a failure.

Counted from the last run rather than from the schedule (`FreshnessPolicy.cron`), since only this kind can warn before
it fails. So a day that was run at noon moves the next warning to two in the afternoon, and a repair of an older day
counts as a run. A daemon judges it; without one the Action's own notifications and the dead-man's URL serve.
"""


def build_persisted_run(registry: Registry) -> dg.AssetsDefinition:
    """The last asset of a run: it stores the results of the registry's experiments."""

    @dg.asset(
        group_name=GROUP,
        partitions_def=run_partitions,
        owners=OWNERS,
        kinds={"postgres", "python"},
        code_version="1",
        freshness_policy=LATE,
        deps=[experiment_key(name) for name in registry.names],
        check_specs=RUN_CHECKS,
        hooks={record_failure},
    )
    def persisted_run(  # type: ignore[no-untyped-def]  # Dagster reads MaterializeResult as "no value" and objects
        context: dg.AssetExecutionContext,
        settings: dg.ResourceParam[Settings],
        database: dg.ResourceParam[RunDatabase],
        staging: dg.ResourceParam[StagingArea],
        reporter: dg.ResourceParam[RunReporter],
        shared_cohort: dg.ResourceParam[SharedCohort],
        raw_markets: StagedFile,
        normalized_markets: StagedFile,
    ):
        """The transactional write: each market whole or not at all, every result appended, and counts that add up."""
        key, dagster_run_id = run_key(context), context.run.run_id
        with asset_step(context, settings, database, key, "persisted_run"):
            made = _made_in(context, registry)
            staged = staged_experiments(registry, staging, key, normalized_markets, settings.redact, made)
            markets = shared_cohort.hand_over(normalized_markets)
            contents = RunContents(key, normalized_markets, markets, raw_markets, staged, settings.clock)
            lease = None if database.dry else database.open(key, dagster_run_id, began=run_began(context))
            run = store(contents, lease)
            seconds = run_seconds(context.instance, dagster_run_id)
            summary = reporter.written(run, dagster_run_id, duration_seconds=seconds)
            run.finish(summary.model_dump(mode="json"))
            path = reporter.publish(summary)
            run.raise_if_nothing_stored()
            _report_stored(context, staged, database)
            return dg.MaterializeResult(metadata=_metadata(summary, path), check_results=list(check_run(run.counts)))

    return persisted_run


def _made_in(context: dg.AssetExecutionContext, registry: Registry) -> set[str]:
    """Names of the experiments that this run has materialized: a claim about the store that must hold."""
    records = context.instance.all_logs(context.run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
    keys = {record.get_dagster_event().asset_key for record in records}
    return {name for name in registry.names if experiment_key(name) in keys}


def _report_stored(
    context: dg.AssetExecutionContext, staged: Sequence[StagedExperiment], database: RunDatabase
) -> None:
    """Take back the warning of experiments that were materialized by themselves, now that they are stored."""
    for one in staged:
        if one.outcomes is not None and not database.dry:
            report_stored(context, experiment_key(one.attempt.name))


def _metadata(summary: RunSummary, path: Path) -> dict[str, Any]:
    return {
        "dagster/row_count": summary.processed_markets,
        "offered": summary.offered_markets,
        "excluded": summary.excluded_markets,
        "rejected": summary.rejected_markets,
        "processed": summary.processed_markets,
        "failed": summary.failed_markets,
        **_snapshot_metadata(summary),
        "excluded_by_reason": dg.MetadataValue.json(dict(summary.excluded_by_reason)),
        "rejected_by_reason": dg.MetadataValue.json(dict(summary.rejected_by_reason)),
        "failed_by_reason": dg.MetadataValue.json(dict(summary.failed_by_reason)),
        "summary": dg.MetadataValue.md(summary.to_markdown()),
        "summary_json": dg.MetadataValue.json(summary.model_dump(mode="json", exclude={"failures"})),
        "summary_file": dg.MetadataValue.path(path),
    }


def _snapshot_metadata(summary: RunSummary) -> dict[str, Any]:
    """The instants of a run's snapshot, and whether it was reconstructed."""
    snapshot = summary.snapshot
    if snapshot is None:
        return {}
    return {
        "reconstructed": snapshot.as_of is not None,
        "as_of": (snapshot.as_of or snapshot.captured_at).isoformat(),
        "captured_at": snapshot.captured_at.isoformat(),
    }
