"""Experiments: one factory that turns the registry into one asset per experiment."""

import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import dagster as dg

from predictbench_assets.assets.ingestion import normalized_markets
from predictbench_assets.assets.materializing import OWNERS, record_failure, stage, staged_meta
from predictbench_assets.experiments.base import Experiment, RunMetadata
from predictbench_assets.experiments.journal import Journal, JournalKey
from predictbench_assets.experiments.outcomes import OUTCOMES, Outcome, content_hash
from predictbench_assets.experiments.registry import Registry
from predictbench_assets.experiments.runner import Progress, run_experiment_sync
from predictbench_assets.partitions import run_key, run_partitions
from predictbench_assets.polymarket.cohort import cohort_markets
from predictbench_assets.polymarket.markets import Market
from predictbench_assets.reporting.plots import as_markdown_image, forecasts_against_market
from predictbench_assets.resources.database import RunDatabase
from predictbench_assets.resources.staging import open_staged, staged_name
from predictbench_assets.runs import RunKey
from predictbench_assets.settings import Settings
from predictbench_assets.staging import StagedFile, StagedFileMissing, StagingArea

GROUP = "experiments"
PREFIX = "experiment_results"

_HEARTBEAT_S = 10.0
_SHOWN_FAILURES = 20


class ExperimentConfig(dg.Config):
    """Whether to run it."""

    selected: bool = True
    """False keeps what is staged of an earlier run on the same snapshot; without any the experiment is not_run."""


def experiment_key(name: str) -> dg.AssetKey:
    """The key of an experiment's asset."""
    return dg.AssetKey([PREFIX, name])


def build_experiment_assets(registry: Registry) -> list[dg.AssetsDefinition]:
    """One asset per experiment, each downstream of the cohort and of the experiments that it requires."""
    return [_experiment_asset(experiment, registry) for experiment in registry]


def _experiment_asset(experiment: Experiment, registry: Registry) -> dg.AssetsDefinition:
    config_hash = registry.config_hash(experiment.name)

    @dg.asset(
        key=experiment_key(experiment.name),
        ins={"normalized_markets": dg.AssetIn(key=normalized_markets.key)}
        | {name: dg.AssetIn(key=experiment_key(name)) for name in experiment.requires},
        group_name=GROUP,
        partitions_def=run_partitions,
        owners=OWNERS,
        kinds={"python"},
        code_version=experiment.version,
        description=experiment.description,
        metadata={
            "version": experiment.version,
            "information": experiment.information,
            "mandatory": experiment.mandatory,
            "control": experiment.control,
            "requires": ", ".join(experiment.requires) or "nothing",
            "config_hash": config_hash,
        },
        hooks={record_failure},
    )
    def experiment_results(
        context: dg.AssetExecutionContext,
        config: ExperimentConfig,
        settings: dg.ResourceParam[Settings],
        database: dg.ResourceParam[RunDatabase],
        staging: dg.ResourceParam[StagingArea],
        **inputs: StagedFile,
    ) -> dg.Output[StagedFile]:
        key = run_key(context)
        cohort = inputs.pop("normalized_markets")
        with stage(context, settings, database, key, "experiment_results") as beat:
            name = staged_name(context.asset_key, key)
            if not config.selected:
                return _unselected(context, staging, key, experiment, cohort)
            markets = list(cohort_markets(cohort))
            started, begun = settings.clock.now(), time.monotonic()
            outcomes = run_experiment_sync(
                experiment,
                markets,
                run=_run_metadata(key, cohort),
                settings_view=settings.public_view(),
                clock=settings.clock,
                required={
                    name: _required(context, staged, registry[name], registry, cohort)
                    for name, staged in inputs.items()
                },
                history=database.history,
                history_counts=database.history_counts,
                artifacts=lambda path, content: staging.write_bytes(f"artifacts/{key.slug}/{path}", content),
                journal=Journal(staging, _journal_key(key, experiment, config_hash, cohort), context.run.run_id),
                max_concurrency=settings.experiment_concurrency,
                timeout_s=settings.experiment_timeout_seconds,
                redact=settings.redact,
                progress=_progress(context, database, key),
            )
            counts = _counts(outcomes)
            meta = staged_meta(context) | {
                "name": experiment.name,
                "version": experiment.version,
                "status": "failed" if counts["failed"] and not counts["completed"] else "completed",
                "started_at": started.isoformat(),
                "finished_at": settings.clock.now().isoformat(),
                "seconds": round(time.monotonic() - begun, 3),
                "content_hash": content_hash(outcomes),
                "snapshot_hash": cohort.meta["snapshot_hash"],
                "config_hash": config_hash,
                "counts": counts,
            }
            beat()
            staged = staging.publish(name, OUTCOMES, meta, (outcome.encode() for outcome in outcomes))
            return dg.Output(
                staged,
                metadata=_metadata(meta, markets, outcomes),
                data_version=dg.DataVersion(meta["content_hash"]),
            )

    return experiment_results


def _unselected(
    context: dg.AssetExecutionContext, staging: StagingArea, key: RunKey, experiment: Experiment, cohort: StagedFile
) -> dg.Output[StagedFile]:
    """What is staged, if it belongs to this snapshot; else a staged file that says not_run."""
    try:
        staged = open_staged(staging, context.asset_key, key, OUTCOMES)
        if staged.meta["snapshot_hash"] == cohort.meta["snapshot_hash"]:
            context.log.info(f"{experiment.name} was not selected; its staged results are kept")
            return dg.Output(staged, metadata={"selected": False, "status": staged.meta["status"]})
    except StagedFileMissing:
        pass
    meta = staged_meta(context) | {
        "name": experiment.name,
        "version": experiment.version,
        "status": "not_run",
        "snapshot_hash": cohort.meta["snapshot_hash"],
        "counts": _counts([]),
    }
    staged = staging.publish(staged_name(context.asset_key, key), OUTCOMES, meta, ())
    return dg.Output(staged, metadata={"selected": False, "status": "not_run"})


def unusable(staged: StagedFile, experiment: Experiment, registry: Registry, cohort: StagedFile) -> str | None:
    """Why staged results do not count for a cohort and this registry; None where they do."""
    meta = staged.meta
    if meta["status"] == "not_run":
        return "the experiment was not selected for this run"
    if meta["snapshot_hash"] != cohort.meta["snapshot_hash"]:
        return "its staged results are of an earlier snapshot; run it again"
    if meta["version"] != experiment.version:
        return f"its staged results are of version {meta['version']}; version {experiment.version} was not run"
    if meta["config_hash"] != registry.config_hash(experiment.name):
        return "its staged results were made with another configuration; run it again"
    return None


def _run_metadata(key: RunKey, cohort: StagedFile) -> RunMetadata:
    return RunMetadata(
        run_id=key.run_id,
        run_date=key.run_date,
        window_days=key.window_days,
        target_date=key.target_date,
        captured_at=datetime.fromisoformat(cohort.meta["captured_at"]),
        snapshot_hash=cohort.meta["snapshot_hash"],
    )


def _journal_key(key: RunKey, experiment: Experiment, config_hash: str, cohort: StagedFile) -> JournalKey:
    # The cohort's hash, not the snapshot's: with other markets beside it a forecast may come out differently.
    return JournalKey(key.slug, experiment.name, experiment.version, cohort.sha256, config_hash)


def _required(
    context: dg.AssetExecutionContext,
    staged: StagedFile,
    experiment: Experiment,
    registry: Registry,
    cohort: StagedFile,
) -> Mapping[str, Outcome]:
    """The outcomes of a required experiment; none where what is staged of it was made of something else."""
    reason = unusable(staged, experiment, registry, cohort)
    if reason is not None:
        context.log.warning(f"the results of {experiment.name} are not used: {reason}")
        return {}
    return {outcome.market_id: outcome for outcome in map(Outcome.decode, staged.lines())}


def _counts(outcomes: list[Outcome]) -> dict[str, int]:
    statuses = [outcome.status for outcome in outcomes]
    return {status: statuses.count(status) for status in ("completed", "skipped", "failed")}


def _progress(context: dg.AssetExecutionContext, database: RunDatabase, key: RunKey) -> Callable[[Progress], None]:
    """Says in the log and in the database how far it is; a run that was taken over stops here."""
    last = time.monotonic()

    def tell(progress: Progress) -> None:
        nonlocal last
        if time.monotonic() - last < _HEARTBEAT_S:
            return
        last = time.monotonic()
        database.beat(key, context.run.run_id, "experiment_results")
        context.log.info(
            f"{progress.experiment}: {progress.done:,} of {progress.total:,} markets "
            f"({progress.completed:,} completed, {progress.skipped:,} skipped, {progress.failed:,} failed, "
            f"{progress.resumed:,} from the journal) in {progress.seconds:.0f} s"
        )

    return tell


def _metadata(meta: Mapping[str, Any], markets: list[Market], outcomes: list[Outcome]) -> dict[str, Any]:
    failures = [
        dg.TableRecord({"market": one.market_id, "reason": one.reason or "", "retriable": one.retriable})
        for one in outcomes
        if one.status == "failed"
    ]
    columns = [dg.TableColumn("market"), dg.TableColumn("reason"), dg.TableColumn("retriable", type="bool")]
    table = dg.MetadataValue.table(failures[:_SHOWN_FAILURES], schema=dg.TableSchema(columns))
    counts: Mapping[str, int] = meta["counts"]
    return {
        "dagster/row_count": len(outcomes),
        "status": meta["status"],
        **counts,
        "seconds": meta["seconds"],
        **({"failures": table} if failures else {}),
        "forecasts_against_market": dg.MetadataValue.md(_picture(str(meta["name"]), markets, outcomes)),
    }


def _picture(name: str, markets: list[Market], outcomes: list[Outcome]) -> str:
    pairs = [
        (market.price.value, outcome.probability)
        for market, outcome in zip(markets, outcomes, strict=True)
        if market.price.value is not None and outcome.probability is not None
    ]
    return as_markdown_image(forecasts_against_market(pairs, name), f"{name} against the market's price")
