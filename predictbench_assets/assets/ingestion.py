"""Ingestion: the window that a run looks at, the frozen snapshot of its markets, and the typed cohort."""

import asyncio
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, cast

import dagster as dg
import msgspec

from predictbench_assets.assets.checks import (
    COHORT_CHECKS,
    SNAPSHOT_CHECKS,
    check_cohort,
    check_snapshot,
)
from predictbench_assets.assets.step import OWNERS, asset_step, record_failure, redacting
from predictbench_assets.exchange_names import exchange_label
from predictbench_assets.exchanges.configured import configured_exchange
from predictbench_assets.experiments.reasons import count_texts
from predictbench_assets.experiments.registry import load_registry
from predictbench_assets.failures import PermanentError, TransientError
from predictbench_assets.ingestion.cohort import stage_cohort
from predictbench_assets.ingestion.headers import CohortHeader, SnapshotHeader, WindowHeader
from predictbench_assets.ingestion.names import staged_name
from predictbench_assets.ingestion.snapshot import SNAPSHOT, freeze_snapshot, snapshot_rows
from predictbench_assets.markets.cohort import Cohort, Filters, normalize_cohort
from predictbench_assets.observability.reporter import RunReporter
from predictbench_assets.partitions import run_key, run_partitions
from predictbench_assets.persistence.leases import RunAlreadyStored
from predictbench_assets.persistence.run_store import RunDatabase
from predictbench_assets.persistence.snapshots import SnapshotRecord
from predictbench_assets.reporting.debug import write_debug_artifacts
from predictbench_assets.runs import RunKey, checked_key
from predictbench_assets.settings import Settings
from predictbench_assets.staging import Schema, StagedFile, StagingArea

GROUP = "ingestion"
WINDOW = Schema("target_window", 1)

StagedOutput = Iterator[dg.Output[StagedFile] | dg.AssetCheckResult]


class NoSnapshot(PermanentError):
    """Nothing is frozen for the partition, and its day is over."""


class NothingListed(TransientError):
    """The exchange lists no market at all for a whole day: more often its trouble than the truth."""


class RefreshRefused(PermanentError):
    """A new snapshot would take forecasts off the board that nobody is about to make again."""


class LimitRefused(PermanentError):
    """A part of a day would be stored where only whole days belong."""


class OnExisting(Enum):
    """What to do with a run that is stored complete."""

    update = "update"
    skip = "skip"
    fail = "fail"


class TargetWindowConfig(dg.Config):
    """How to begin."""

    on_existing: OnExisting = OnExisting.update
    """update writes the run again (ids stay), skip ends green without doing anything, fail ends red."""


class RawMarketsConfig(dg.Config):
    """Whether to capture again."""

    refresh: bool = False
    """Capture a new snapshot although one is frozen; allowed on the run date itself only, and only together with every
    experiment that has forecasts of the day. Those made on the old snapshot stay stored."""
    allow_empty: bool = False
    """Believe a listing without any market: the day truly has none. ALLOW_EMPTY_WINDOWS does so for every run."""


class NormalizedMarketsConfig(dg.Config):
    """How much of the snapshot to take."""

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
    asked = run_key(context)
    # Dagster starts a run of any key that `dagster job execute` is given.
    key = checked_key(asked.run_date, asked.window_days, today=settings.clock.now().date())
    for warning in settings.warnings:
        context.log.warning(warning)
    attempt = None
    if not database.dry:
        try:
            with redacting(settings):
                attempt = database.open(key, context.run.run_id, config.on_existing.value).attempt
        except RunAlreadyStored as stored:
            if config.on_existing is OnExisting.fail:
                raise dg.Failure(str(stored), allow_retries=False) from stored
            context.log.info(f"skipped: {stored}")
            reporter.skipped(key, context.run.run_id)
            return
    with asset_step(context, settings, database, key, "target_window"):
        window: dict[str, Any] = {
            "run_id": str(key.run_id),
            "run_date": key.run_date.isoformat(),
            "window_days": key.window_days,
            "target_date": key.target_date.isoformat(),
            "start": key.start.isoformat(),
            "end": key.end.isoformat(),
        }
        name = staged_name(context.asset_key.path, key)
        staged = staging.publish(
            name, WINDOW, WindowHeader(dagster_run_id=context.run.run_id), [msgspec.json.encode(window)]
        )
        exchange = exchange_label(settings.exchange)
        yield dg.Output(staged, metadata={**window, "attempt": attempt or 0, "exchange": exchange})


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

    A stored snapshot is materialized again, whatever the date; otherwise one is captured, on the run date only. One
    that fails a blocking check is kept aside: the next try of the day captures again, and a try after the day reads it.
    """
    key = run_key(context)
    with asset_step(context, settings, database, key, "raw_markets"):
        if config.refresh:
            _refuse_losses(context, settings, database, key)
        snapshot = None if config.refresh else _stored_snapshot(context, settings, database, staging, key)
        reused = snapshot is not None
        if snapshot is None:
            _refuse_other_days(settings, key, refresh=config.refresh)
            allow_empty = config.allow_empty or key.window_days in settings.allow_empty_windows
            snapshot = _captured_snapshot(context, settings, database, staging, key, allow_empty=allow_empty)
        yield dg.Output(
            snapshot,
            metadata=_snapshot_metadata(snapshot, reused=reused),
            data_version=dg.DataVersion(snapshot.sha256),
        )
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
    raw_markets: StagedFile,
) -> StagedOutput:
    """The typed markets of the snapshot, filtered and with the core sample drawn; malformed rows with the reason."""
    key = run_key(context)
    with asset_step(context, settings, database, key, "normalized_markets") as beat:
        if config.limit is not None and settings.environment == "production" and not database.dry:
            raise LimitRefused("limit would store a part of the day in production: take it off, or make it a dry run")
        cohort = _normalized(raw_markets, settings, config.limit)
        beat()
        name, dagster_run_id = staged_name(context.asset_key.path, key), context.run.run_id
        staged = stage_cohort(
            staging, name, cohort, snapshot=raw_markets, limit=config.limit, dagster_run_id=dagster_run_id
        )
        if config.debug_artifacts:
            folder = write_debug_artifacts(settings.artifacts, key, raw_markets, cohort)
            context.log.info(f"wrote readable markets into {folder}")
        yield dg.Output(staged, metadata=_cohort_metadata(staged, cohort), data_version=dg.DataVersion(staged.sha256))
        checks = check_cohort(cohort, settings, database.cohort_sizes(key, days=14))
        yield from _kept_aside(checks, context, database, key, raw_markets)


def _stored_snapshot(
    context: dg.AssetExecutionContext, settings: Settings, database: RunDatabase, staging: StagingArea, key: RunKey
) -> StagedFile | None:
    """The snapshot that counts; once the day is over, else the newest one that a check refused."""
    record = database.snapshot(key)
    if record is None and key.run_date != settings.clock.now().date():
        record = database.refused_snapshot(key)
        if record is not None:
            context.log.warning(f"read again, after it was refused ({record.refused}): {record.uri}")
            database.register(record, context.run.run_id)
    return None if record is None else staging.open_uri(record.uri, SNAPSHOT)


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
        database.refuse(key, snapshot.sha256, " ".join(refused), context.run.run_id)
    yield from results


def _refuse_losses(context: dg.AssetExecutionContext, settings: Settings, database: RunDatabase, key: RunKey) -> None:
    """A refresh is for all who have forecasts of the day: boards count what answers to the snapshot that counts."""
    ops = cast("Mapping[str, Any]", context.run.run_config.get("ops", {}))
    registered = load_registry(settings.processing_experiments).names
    unselected = {
        name
        for name in registered
        if ops.get(f"experiment_results__{name}", {}).get("config", {}).get("selected") is False
    }
    forecasters = database.forecasters(key)
    ways_out = {
        "leave --experiment out, so that they run again too": sorted(forecasters & unselected),
        "add them to PROCESSING_EXPERIMENTS again": sorted(forecasters - set(registered)),
    }
    lost = [f"{', '.join(names)} ({way_out})" for way_out, names in ways_out.items() if names]
    if lost:
        raise RefreshRefused(
            f"a refresh of {key} is refused: it would take these experiments off the board, whose forecasts answer to "
            f"the snapshot that is stored: {'; '.join(lost)}."
        )


def _refuse_other_days(settings: Settings, key: RunKey, *, refresh: bool) -> None:
    today = settings.clock.now().date()
    if key.run_date == today:
        return
    if refresh:
        raise NoSnapshot(
            f"a refresh of {key} is refused: its snapshot is of {key.run_date}, today is {today} (UTC), "
            "and prices of a past day cannot be captured. Run it without --refresh to use the stored snapshot."
        )
    raise NoSnapshot(
        f"no snapshot is stored for {key} and its day is over: today is {today} (UTC), and what the exchange shows "
        "now is not what it showed then. If the snapshot was staged elsewhere, point STAGING_URI and the database "
        "settings there; a missed day cannot be captured later."
    )


def _captured_snapshot(
    context: dg.AssetExecutionContext,
    settings: Settings,
    database: RunDatabase,
    staging: StagingArea,
    key: RunKey,
    *,
    allow_empty: bool,
) -> StagedFile:
    captured = asyncio.run(configured_exchange(settings).capture(key.start, key.end))
    if not captured.rows and not allow_empty:
        raise NothingListed(
            f"the exchange lists no market that closes on {key.target_date}: nothing was frozen, and the next try asks "
            "again. If that day truly has none, run it with --allow-empty, or name its window in ALLOW_EMPTY_WINDOWS."
        )
    for warning in captured.warnings:
        context.log.warning(warning)
    snapshot = freeze_snapshot(staging, key, captured, exchange=settings.exchange, dagster_run_id=context.run.run_id)
    record = SnapshotRecord(
        key=key,
        captured_at=captured.captured_at,
        sha256=captured.sha256,
        content_hash=snapshot.sha256,
        rows=snapshot.rows,
        bytes=captured.received_bytes,
        uri=snapshot.uri,
        exchange=settings.exchange,
        quotes_source="clob" if captured.quotes.available else "gamma",
        api=captured.stats.as_dict(),
    )
    database.register(record, context.run.run_id)
    return snapshot


def _normalized(snapshot: StagedFile, settings: Settings, limit: int | None) -> Cohort:
    return normalize_cohort(
        ((row.raw, row.quote) for row in snapshot_rows(snapshot)),
        configured_exchange(settings).read,
        captured_at=snapshot.header(SnapshotHeader).captured_at,
        filters=Filters(
            min_liquidity=settings.min_liquidity or 0.0,
            min_volume=settings.min_volume or 0.0,
            max_markets=settings.max_markets,
            limit=limit,
        ),
        core_size=settings.core_sample_size,
        # Seeded by content: the same snapshot has the same core, and nobody can choose it.
        seed=int(snapshot.sha256[:16], 16),
    )


def _snapshot_metadata(snapshot: StagedFile, *, reused: bool) -> dict[str, Any]:
    header = snapshot.header(SnapshotHeader)
    api = header.api
    return {
        "dagster/row_count": snapshot.rows,
        "reused": reused,
        "captured_at": header.captured_at.isoformat(),
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
