"""Ingestion: the window of a run, the frozen snapshot of its markets, and the typed cohort."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import dagster as dg

from predictbench_assets.assets.checks import (
    COHORT_CHECKS,
    SNAPSHOT_CHECKS,
    check_cohort,
    check_snapshot,
)
from predictbench_assets.assets.dagster_run import refuse_other_settings, run_began
from predictbench_assets.assets.step import OWNERS, asset_step, record_failure, redacting
from predictbench_assets.exchange_names import exchange_label
from predictbench_assets.exchanges.configured import configured_exchange
from predictbench_assets.experiments.declared.file import registry_of
from predictbench_assets.experiments.reasons import count_texts
from predictbench_assets.ingestion.cohort import SharedCohort, build_cohort, refuse_limit, stage_cohort
from predictbench_assets.ingestion.headers import CohortHeader, SnapshotHeader
from predictbench_assets.ingestion.names import staged_name
from predictbench_assets.ingestion.snapshot import damaged, freeze, refuse_losses
from predictbench_assets.ingestion.window import describe_window, open_window
from predictbench_assets.markets.cohort import Cohort
from predictbench_assets.observability.reporter import RunReporter
from predictbench_assets.partitions import run_key, run_partitions
from predictbench_assets.persistence.leases import OnExisting, RunAlreadyStored
from predictbench_assets.persistence.run_store import RunDatabase
from predictbench_assets.reporting.debug import write_debug_artifacts
from predictbench_assets.runs import RunKey, checked_key
from predictbench_assets.settings import Settings
from predictbench_assets.staging import StagedFile, StagedFileBroken, StagedFileMissing, StagingArea

GROUP = "ingestion"

StagedOutput = Iterator[dg.Output[StagedFile] | dg.AssetCheckResult]


class TargetWindowConfig(dg.Config):
    """The beginning of a run."""

    on_existing: OnExisting = "update"
    """update writes the run again (ids stay), skip ends green without doing anything, fail ends red."""


class RawMarketsConfig(dg.Config):
    """A choice between the stored snapshot and a new one."""

    refresh: bool = False
    """Capture a new snapshot although one is frozen; allowed on the run date itself only, and only together with every
    experiment that has forecasts of the day. Those made on the old snapshot stay stored."""
    reconstruct: bool | None = None
    """Reconstruct the snapshot of a past day that has none, or refuse the day; PAST_SNAPSHOTS decides where neither is
    said. What cannot be known any more is unknown, and the run is marked."""
    allow_empty: bool = False
    """Believe a listing without any market: the day truly has none. ALLOW_EMPTY_WINDOWS does so for every run."""


class NormalizedMarketsConfig(dg.Config):
    """The part of the snapshot to take."""

    limit: int | None = None
    """Keep only the first markets; the run is stored as partial. Refused in production, except for a dry run."""
    debug_artifacts: bool = False
    """Write the staged markets as readable JSON into ARTIFACTS_DIR."""


@dg.asset(
    group_name=GROUP,
    partitions_def=run_partitions,
    owners=OWNERS,
    kinds={"python", "postgres"},
    code_version="1",
    output_required=False,
    hooks={record_failure},
)
def target_window(
    context: dg.AssetExecutionContext,
    config: TargetWindowConfig,
    settings: dg.ResourceParam[Settings],
    database: dg.ResourceParam[RunDatabase],
    staging: dg.ResourceParam[StagingArea],
    reporter: dg.ResourceParam[RunReporter],
) -> Iterator[dg.Output[StagedFile]]:
    """The UTC day on which this run's markets close, `[start, end)`; takes the run over and opens its row."""
    requested = run_key(context)
    # Dagster starts a run of any key that `dagster job execute` is given.
    key = checked_key(requested.run_date, requested.window_days, today=settings.clock.now().date())
    refuse_other_settings(context, settings)
    for warning in settings.warnings:
        context.log.warning(warning)
    attempt = None
    if not database.dry:
        try:
            with redacting(settings):
                attempt = database.open(key, context.run.run_id, config.on_existing, began=run_began(context)).attempt
        except RunAlreadyStored as stored:
            if config.on_existing == "fail":
                raise dg.Failure(str(stored), allow_retries=False) from stored
            context.log.info(f"skipped: {stored}")
            reporter.skipped(key, context.run.run_id)
            return
    with asset_step(context, settings, database, key, "target_window"):
        staged = open_window(staging, key, dagster_run_id=context.run.run_id)
        exchange = exchange_label(settings.exchange)
        metadata = {**describe_window(key), "attempt": attempt or 0, "exchange": exchange}
        yield dg.Output(staged, metadata=metadata)


@dg.asset(
    group_name=GROUP,
    partitions_def=run_partitions,
    owners=OWNERS,
    kinds={"polymarket", "python"},
    code_version="1",
    deps=[target_window],
    check_specs=SNAPSHOT_CHECKS,
    hooks={record_failure},
)
def raw_markets(
    context: dg.AssetExecutionContext,
    config: RawMarketsConfig,
    settings: dg.ResourceParam[Settings],
    database: dg.ResourceParam[RunDatabase],
    staging: dg.ResourceParam[StagingArea],
) -> StagedOutput:
    """The frozen snapshot: rows as Polymarket sent them, each with the CLOB's quote of the same moment.

    A stored snapshot is materialized again, whatever the date; otherwise one is captured, on the run date only, or
    reconstructed for a day that is over, where PAST_SNAPSHOTS or the configuration says so. One
    that fails a blocking check is kept aside: the next try of the day captures again, and a try after the day reads it.
    """
    key = run_key(context)
    with asset_step(context, settings, database, key, "raw_markets"):
        if config.refresh:
            _refuse_losses(context, settings, database, key)
        reconstruct = settings.reconstructs if config.reconstruct is None else config.reconstruct
        frozen = freeze(
            configured_exchange(settings),
            staging,
            database,
            key,
            today=settings.clock.now().date(),
            dagster_run_id=context.run.run_id,
            began=run_began(context),
            refresh=config.refresh,
            allow_empty=config.allow_empty or key.window_days in settings.allow_empty_windows,
            as_of=key.at(settings.pipeline_run_at_utc) if reconstruct else None,
            answered=lambda: bool(database.forecasters(key)),
            warn=context.log.warning,
        )
        snapshot = frozen.file
        metadata = _snapshot_metadata(snapshot, reused=frozen.reused)
        yield dg.Output(snapshot, metadata=metadata, data_version=dg.DataVersion(snapshot.sha256))
        yield from _kept_aside(check_snapshot(snapshot), context, database, key, snapshot)


@dg.asset(
    group_name=GROUP,
    partitions_def=run_partitions,
    owners=OWNERS,
    kinds={"pydantic", "python"},
    code_version="1",
    check_specs=COHORT_CHECKS,
    hooks={record_failure},
)
def normalized_markets(
    context: dg.AssetExecutionContext,
    config: NormalizedMarketsConfig,
    settings: dg.ResourceParam[Settings],
    database: dg.ResourceParam[RunDatabase],
    staging: dg.ResourceParam[StagingArea],
    shared_cohort: dg.ResourceParam[SharedCohort],
    raw_markets: StagedFile,
) -> StagedOutput:
    """The typed markets of the snapshot, filtered and with the core sample drawn; malformed rows with the reason."""
    key = run_key(context)
    with asset_step(context, settings, database, key, "normalized_markets") as beat:
        refuse_limit(settings, config.limit, dry_run=database.dry)
        try:
            cohort = build_cohort(raw_markets, configured_exchange(settings).read, settings, limit=config.limit)
        except (StagedFileMissing, StagedFileBroken) as error:
            raise damaged(key, str(error), settings.clock.now().date()) from error
        beat()
        name, dagster_run_id = staged_name(context.asset_key.path, key), context.run.run_id
        staged = stage_cohort(
            staging, name, cohort, snapshot=raw_markets, limit=config.limit, dagster_run_id=dagster_run_id
        )
        shared_cohort.keep(staged, cohort.markets)
        if config.debug_artifacts:
            folder = write_debug_artifacts(settings.artifacts, key, raw_markets, cohort)
            context.log.info(f"wrote readable markets into {folder}")
        yield dg.Output(staged, metadata=_cohort_metadata(staged, cohort), data_version=dg.DataVersion(staged.sha256))
        checks = check_cohort(cohort, settings, database.cohort_sizes(key, days=14))
        yield from _kept_aside(checks, context, database, key, raw_markets)


def _kept_aside(
    checks: Iterator[dg.AssetCheckResult],
    context: dg.AssetExecutionContext,
    database: RunDatabase,
    key: RunKey,
    snapshot: StagedFile,
) -> Iterator[dg.AssetCheckResult]:
    """The results of checks; the snapshot no longer counts where one of them is going to stop the run."""
    blocking = {spec.name for spec in (*SNAPSHOT_CHECKS, *COHORT_CHECKS) if spec.blocking}
    results = list(checks)
    refused = [
        f"{one.check_name}: {one.description}"
        for one in results
        if one.check_name in blocking and not one.passed and one.severity is dg.AssetCheckSeverity.ERROR
    ]
    if refused:
        database.refuse(key, snapshot.sha256, " ".join(refused), context.run.run_id, run_began(context))
    yield from results


def _refuse_losses(context: dg.AssetExecutionContext, settings: Settings, database: RunDatabase, key: RunKey) -> None:
    registered = set(registry_of(settings).names)
    refuse_losses(key, database.forecasters(key), registered=registered, unselected=unselected(context, registered))


def unselected(context: dg.AssetExecutionContext, names: Iterable[str]) -> set[str]:
    """Those of the experiments that this run's configuration leaves out."""
    ops = cast("Mapping[str, Any]", context.run.run_config.get("ops", {}))
    return {
        name for name in names if ops.get(f"experiment_results__{name}", {}).get("config", {}).get("selected") is False
    }


def _snapshot_metadata(snapshot: StagedFile, *, reused: bool) -> dict[str, Any]:
    header = snapshot.header(SnapshotHeader)
    api = header.api
    return {
        "dagster/row_count": snapshot.rows,
        "reused": reused,
        "captured_at": header.captured_at.isoformat(),
        "as_of": (header.as_of or header.captured_at).isoformat(),
        "reconstructed": header.as_of is not None,
        "left_out": dg.MetadataValue.json(header.left_out),
        "received_sha256": header.received_sha256,
        "content_sha256": snapshot.sha256,
        "uri": snapshot.uri,
        "pages": api.pages,
        "requests": api.requests,
        "retries": sum(api.retries.values()),
        "bytes": api.bytes,
        "throttle_seconds": api.throttle_seconds,
        "quotes": header.quotes,
        "quotes_source": header.quotes_source,
        "quotes_reason": header.quotes_reason or "",
        "rows_by_source": dg.MetadataValue.json(header.rows_by_source),
        "prices_of_a_day_before": header.past_prices,
        "api": dg.MetadataValue.json(api.as_dict()),
    }


def _cohort_metadata(staged: StagedFile, cohort: Cohort) -> dict[str, Any]:
    header = staged.header(CohortHeader)
    rejected = [
        dg.TableRecord({"market": one.market_id or "", "field": one.field, "reason": one.reason})
        for one in cohort.rejected[:50]
    ]
    return {
        "dagster/row_count": header.markets,
        "offered": header.offered,
        "excluded": sum(header.excluded.values()),
        "rejected": header.rejected,
        "contracts": header.contracts,
        "core_sample": header.core,
        "clusters": header.clusters,
        "good_prices": header.price_quality.get("good", 0),
        "priced_day_ago": header.priced_day_ago,
        "price_quality": dg.MetadataValue.json(header.price_quality),
        "price_source": dg.MetadataValue.json(header.price_source),
        "categories": dg.MetadataValue.json(header.category),
        "excluded_by_reason": dg.MetadataValue.json(header.excluded),
        "rejected_by_reason": dg.MetadataValue.json(
            count_texts((f"{one.field}: {one.reason}", 1) for one in cohort.rejected)
        ),
        "rejected_rows": dg.MetadataValue.table(
            rejected,
            schema=dg.TableSchema([dg.TableColumn(name) for name in ("market", "field", "reason")]),
        ),
        "cohort_hash": staged.sha256,
    }
