"""Experiments: one factory that turns the registry into one asset per experiment."""

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import dagster as dg

from predictbench_assets.assets.checks import check_stored, stored_check
from predictbench_assets.assets.ingestion import StagedOutput, normalized_markets
from predictbench_assets.assets.step import OWNERS, record_failure, stage, staged_meta
from predictbench_assets.experiments.crashes import CrashMark
from predictbench_assets.experiments.journal import Journal, JournalKey
from predictbench_assets.experiments.outcomes import OUTCOMES, Outcome, content_hash, total_usage
from predictbench_assets.experiments.protocol import Experiment, RunMetadata
from predictbench_assets.experiments.reasons import ReasonCount, count_outcomes
from predictbench_assets.experiments.registry import Registry
from predictbench_assets.experiments.runner import Progress, run_experiment_sync
from predictbench_assets.failures import PermanentError
from predictbench_assets.ingestion.cohort import cohort_markets
from predictbench_assets.ingestion.names import open_staged, staged_name
from predictbench_assets.markets.market import Market
from predictbench_assets.partitions import run_key, run_partitions
from predictbench_assets.persistence.run_store import RunDatabase
from predictbench_assets.reporting.plots import as_markdown_image, forecasts_against_market
from predictbench_assets.reporting.summary import from_journal
from predictbench_assets.runs import RunKey
from predictbench_assets.secrecy import Redact
from predictbench_assets.settings import Settings
from predictbench_assets.staging import StagedFile, StagedFileMissing, StagingArea

GROUP = "experiments"
PREFIX = "experiment_results"
PERSISTED_RUN = dg.AssetKey("persisted_run")

_HEARTBEAT_S = 10.0
_SHOWN_FAILURES = 20
_ALONE = (
    "Materialized by itself it is staged, not stored: `persisted_run` of the same partition stores what is staged of "
    "all experiments. The job `daily_run` does both, and asks nobody again who has answered."
)


class ForgetRefused(PermanentError):
    """The journal was to be forgotten where its answers may have been paid for."""


class ExperimentConfig(dg.Config):
    """Whether to run it, and whether to ask again."""

    selected: bool = True
    """False keeps what is staged of an earlier run on the same snapshot; without any the experiment is not_run."""
    forget: bool = False
    """True removes the journal of this version first, so that every market is asked again; refused in production."""


def experiment_key(name: str) -> dg.AssetKey:
    """The key of an experiment's asset."""
    return dg.AssetKey([PREFIX, name])


def build_experiment_assets(registry: Registry, redact: Redact) -> list[dg.AssetsDefinition]:
    """One asset per experiment, each downstream of the cohort and of the experiments that it requires.

    Args:
        registry: of the experiments.
        redact: takes secrets out of what they say of themselves.
    """
    return [_experiment_asset(experiment, registry, redact) for experiment in registry]


def _experiment_asset(experiment: Experiment, registry: Registry, redact: Redact) -> dg.AssetsDefinition:
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
        description=f"{redact(experiment.description)}\n\n{_ALONE}",
        check_specs=[stored_check(experiment_key(experiment.name))],
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
    ) -> StagedOutput:
        key = run_key(context)
        cohort = inputs.pop("normalized_markets")
        with stage(context, settings, database, key, "experiment_results") as beat:
            name = staged_name(context.asset_key.path, key)
            stored = check_stored(context, PERSISTED_RUN, dry=database.dry)
            if not config.selected:
                yield _unselected(context, staging, key, experiment, cohort)
                yield stored
                return
            markets = list(cohort_markets(cohort))
            journal = Journal(staging, _journal_key(key, experiment, config_hash, cohort), context.run.run_id)
            if config.forget:
                _forget(journal, settings, database)
            told = _Told(context, database, key)
            started, begun = settings.clock.now(), time.monotonic()
            outcomes = run_experiment_sync(
                experiment,
                markets,
                run=_run_metadata(key, cohort),
                clock=settings.clock,
                required={
                    name: _required(context, staged, registry[name], registry, cohort)
                    for name, staged in inputs.items()
                },
                history=database.history,
                history_counts=database.history_counts,
                artifacts=lambda path, content: staging.write_bytes(f"artifacts/{key.slug}/{path}", content),
                journal=journal,
                crash_mark=CrashMark(settings.local_state, key.slug, experiment.name, experiment.version),
                remake=registry.remake(experiment.name),
                max_concurrency=settings.experiment_concurrency,
                timeout_s=settings.experiment_timeout_seconds,
                redact=settings.redact,
                progress=told,
            )
            counts = _counts(outcomes)
            reasons = count_outcomes(outcomes, {market.market_id: market.question for market in markets})
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
                "from_journal": told.last.resumed,
                "outdated": told.last.outdated,
                "reasons": [reason.model_dump() for reason in reasons],
            }
            beat()
            staged = staging.publish(name, OUTCOMES, meta, (outcome.encode() for outcome in outcomes))
            _say_why(context, experiment.name, reasons)
            yield dg.Output(
                staged,
                metadata={"stored": stored.description, **_metadata(meta, markets, outcomes, reasons)},
                data_version=dg.DataVersion(meta["content_hash"]),
            )
            yield stored

    return experiment_results


def _unselected(
    context: dg.AssetExecutionContext, staging: StagingArea, key: RunKey, experiment: Experiment, cohort: StagedFile
) -> dg.Output[StagedFile]:
    """What is staged, if it belongs to this snapshot; else a staged file that says not_run."""
    try:
        staged = open_staged(staging, context.asset_key.path, key, OUTCOMES)
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
    staged = staging.publish(staged_name(context.asset_key.path, key), OUTCOMES, meta, ())
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


class _Told:
    """Says in the log and in the database how far it is, and keeps the last word; a lost run stops here."""

    last: Progress

    def __init__(self, context: dg.AssetExecutionContext, database: RunDatabase, key: RunKey) -> None:
        self._context, self._database, self._key = context, database, key
        self._at = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        self.last = progress
        if time.monotonic() - self._at < _HEARTBEAT_S:
            return
        self._at = time.monotonic()
        self._database.beat(self._key, self._context.run.run_id, "experiment_results")
        self._context.log.info(
            f"{progress.experiment}: {progress.done:,} of {progress.total:,} markets "
            f"({progress.completed:,} completed, {progress.skipped:,} skipped, {progress.failed:,} failed, "
            f"{progress.resumed:,} from the journal) in {progress.seconds:.0f} s"
        )


def _forget(journal: Journal, settings: Settings, database: RunDatabase) -> None:
    if settings.environment == "production" and not database.dry:
        raise ForgetRefused(
            "forget would throw away answers in production, which may have been paid for: "
            "change the experiment's version to ask again"
        )
    journal.discard()


def _say_why(context: dg.AssetExecutionContext, name: str, reasons: Sequence[ReasonCount]) -> None:
    """The most frequent failure in a log line; all of them are in the metadata and in the summary."""
    failed = [reason for reason in reasons if reason.status == "failed"]
    if failed:
        at = f" ({failed[0].place})" if failed[0].place else ""
        context.log.warning(f"{name} failed for {failed[0].markets:,} markets: {failed[0].reason}{at}")


def _metadata(
    meta: Mapping[str, Any], markets: list[Market], outcomes: list[Outcome], reasons: Sequence[ReasonCount]
) -> dict[str, Any]:
    failures = [
        dg.TableRecord({"market": one.market_id, "reason": one.reason or "", "retriable": one.retriable})
        for one in outcomes
        if one.status == "failed"
    ]
    columns = [dg.TableColumn("market"), dg.TableColumn("reason"), dg.TableColumn("retriable", type="bool")]
    table = dg.MetadataValue.table(failures[:_SHOWN_FAILURES], schema=dg.TableSchema(columns))
    counts: Mapping[str, int] = meta["counts"]
    journal = from_journal({meta["name"]: meta["from_journal"]}, {meta["name"]: meta["outdated"]})
    return {
        "dagster/row_count": len(outcomes),
        "status": meta["status"],
        **counts,
        "from_journal": meta["from_journal"],
        **({"journal": " ".join(journal)} if journal else {}),
        "seconds": meta["seconds"],
        **total_usage(outcomes),
        **({"reasons": _reason_table(reasons)} if reasons else {}),
        **({"failures": table} if failures else {}),
        "forecasts_against_market": dg.MetadataValue.md(_picture(str(meta["name"]), markets, outcomes)),
    }


def _reason_table(reasons: Sequence[ReasonCount]) -> dg.TableMetadataValue:
    columns = [
        dg.TableColumn("markets", type="int"),
        *(dg.TableColumn(name) for name in ("status", "reason", "place", "first_market")),
    ]
    records = [
        dg.TableRecord(
            {
                "markets": one.markets,
                "status": one.status,
                "reason": one.reason,
                "place": one.place or "",
                "first_market": one.market_id or "",
            }
        )
        for one in reasons
    ]
    return dg.MetadataValue.table(records, schema=dg.TableSchema(columns))


def _picture(name: str, markets: list[Market], outcomes: list[Outcome]) -> str:
    pairs = [
        (market.price.value, outcome.probability)
        for market, outcome in zip(markets, outcomes, strict=True)
        if market.price.value is not None and outcome.probability is not None
    ]
    return as_markdown_image(forecasts_against_market(pairs, name), f"{name} against the market's price")
