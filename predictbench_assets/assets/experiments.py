"""Experiments: one asset for each experiment of the registry."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import dagster as dg

from predictbench_assets.assets.checks import STORED, check_stored, stored_check
from predictbench_assets.assets.ingestion import StagedOutput, normalized_markets
from predictbench_assets.assets.market_data import MARKET_DATA_KEY
from predictbench_assets.assets.paid import paid_metadata, rationale_metadata
from predictbench_assets.assets.step import OWNERS, asset_step, record_failure, step_seconds
from predictbench_assets.experiments.forecast import (
    ExperimentForecasts,
    ForecastCohort,
    forecast,
    learnable_forecasts,
    open_shards,
    outcomes_by_market,
    refuse_to_forget,
    results_path,
    run_metadata,
    stage_forecasts,
    stage_not_run,
    stale_reason,
)
from predictbench_assets.experiments.headers import OutcomesHeader
from predictbench_assets.experiments.outcomes import OUTCOMES, Outcome, total_usage
from predictbench_assets.experiments.protocol import Experiment, RunMetadata
from predictbench_assets.experiments.reasons import ReasonCount
from predictbench_assets.experiments.registry import Registry
from predictbench_assets.experiments.runner import Progress
from predictbench_assets.ingestion.cohort import SharedCohort
from predictbench_assets.ingestion.headers import CohortHeader
from predictbench_assets.ingestion.market_data import frozen_market_data
from predictbench_assets.ingestion.names import open_staged, staged_name
from predictbench_assets.partitions import run_key, run_partitions
from predictbench_assets.persistence.run_store import RunDatabase
from predictbench_assets.reporting.plots import as_markdown_image, forecasts_against_market
from predictbench_assets.reporting.summary import from_journal
from predictbench_assets.runs import RunKey
from predictbench_assets.scoring.costs import Cost
from predictbench_assets.scoring.store.costs import load_calls
from predictbench_assets.secrecy import Redact
from predictbench_assets.settings import Settings
from predictbench_assets.staging import StagedFile, StagedFileMissing, StagingArea

GROUP = "experiments"
PERSISTED_RUN = dg.AssetKey("persisted_run")

_BEGIN = "_begin"
"""Input of what has to be there before: no experiment is named so."""

_HEARTBEAT_S = 10.0
_SHOWN_FAILURES = 20
_ALONE = (
    "Materialized by itself it is staged, not stored: `persisted_run` of the same partition stores what is staged of "
    "all experiments. The job `daily_run` does both, and asks nobody again who has answered."
)


class ExperimentConfig(dg.Config):
    """Choice of the experiment, and of a fresh start."""

    selected: bool = True
    """False keeps what is staged of an earlier run on the same snapshot; without any the experiment is not_run."""
    forget: bool = False
    """True removes the journal of this version first, so that every market is asked again; refused in production."""


def experiment_key(name: str) -> dg.AssetKey:
    """The key of an experiment's asset."""
    return dg.AssetKey(results_path(name))


def build_experiment_assets(registry: Registry, redact: Redact) -> list[dg.AssetsDefinition]:
    """One asset per experiment, each downstream of the cohort and of the experiments that it requires.

    One of several shards is an asset of several steps: a plan, its shards side by side, and one that gathers.

    Args:
        registry: the registered experiments.
        redact: takes secrets out of their descriptions.
    """
    return [
        (_experiment_asset if experiment.shards == 1 else _sharded_asset)(experiment, registry, redact)
        for experiment in registry
    ]


def _experiment_asset(experiment: Experiment, registry: Registry, redact: Redact) -> dg.AssetsDefinition:
    @dg.asset(
        key=experiment_key(experiment.name),
        ins={"normalized_markets": dg.AssetIn(key=normalized_markets.key)}
        | {name: dg.AssetIn(key=experiment_key(name)) for name in experiment.requires},
        deps=[MARKET_DATA_KEY] if experiment.market_data else [],
        group_name=GROUP,
        partitions_def=run_partitions,
        owners=OWNERS,
        kinds={"python"},
        op_tags=dict(experiment.op_tags),
        code_version=experiment.version,
        description=_description(experiment, redact),
        check_specs=[stored_check(experiment_key(experiment.name))],
        metadata=_definition_metadata(experiment, registry),
        hooks={record_failure},
    )
    def experiment_results(
        context: dg.AssetExecutionContext,
        config: ExperimentConfig,
        settings: dg.ResourceParam[Settings],
        database: dg.ResourceParam[RunDatabase],
        staging: dg.ResourceParam[StagingArea],
        shared_cohort: dg.ResourceParam[SharedCohort],
        **inputs: StagedFile,
    ) -> StagedOutput:
        given = (context, config, settings, database, staging, shared_cohort)
        yield from _results(*given, experiment, registry, inputs)

    return experiment_results


def _sharded_asset(experiment: Experiment, registry: Registry, redact: Redact) -> dg.AssetsDefinition:
    """The asset of an experiment of several shards, the same to look at as any other's.

    The shards hand nothing to the step that gathers but the journal, where it finds their answers.
    """
    asset_key = experiment_key(experiment.name)
    stored_spec = stored_check(asset_key)
    stored_output = stored_spec.get_python_identifier()
    ins = {name: dg.In() for name in ("normalized_markets", *experiment.requires)}
    op_tags = dict(experiment.op_tags)

    @dg.op(name=f"plan__{experiment.name}", ins=ins | {_BEGIN: dg.In(dg.Nothing)}, out=dg.DynamicOut(dg.Nothing))
    def plan(
        context: dg.AssetExecutionContext,
        config: ExperimentConfig,
        settings: dg.ResourceParam[Settings],
        database: dg.ResourceParam[RunDatabase],
        staging: dg.ResourceParam[StagingArea],
        shared_cohort: dg.ResourceParam[SharedCohort],
        **inputs: StagedFile,
    ) -> Iterator[dg.DynamicOutput[None]]:
        """Begin, forget what is to be forgotten, and name the shards that have calls to make."""
        key = run_key(context)
        staged_cohort = inputs.pop("normalized_markets")
        run = _run(key, staged_cohort)
        with asset_step(context, settings, database, key, "experiment_results"):
            if not config.selected:
                return
            if config.forget:
                refuse_to_forget(settings, dry_run=database.dry)
            shards = open_shards(
                experiment,
                _cohort(staging, key, experiment, run, staged_cohort, shared_cohort),
                config_hash=registry.config_hash(experiment.name),
                area=staging,
                settings=settings,
                forget=config.forget,
            )
            for number in shards:
                yield dg.DynamicOutput(None, mapping_key=str(number))

    @dg.op(
        name=f"shard__{experiment.name}",
        ins=ins | {_BEGIN: dg.In(dg.Nothing)},
        out=dg.Out(dg.Nothing),
        tags=op_tags,
    )
    def shard(
        context: dg.AssetExecutionContext,
        settings: dg.ResourceParam[Settings],
        database: dg.ResourceParam[RunDatabase],
        staging: dg.ResourceParam[StagingArea],
        shared_cohort: dg.ResourceParam[SharedCohort],
        **inputs: StagedFile,
    ) -> None:
        """Make the calls of one shard; what fails and may succeed is left to the step that gathers."""
        key = run_key(context)
        staged_cohort = inputs.pop("normalized_markets")
        run = _run(key, staged_cohort)
        number = int(context.op_execution_context.get_mapping_key() or 0)
        with asset_step(context, settings, database, key, "experiment_results") as beat:
            make = _forecaster(context, settings, database, staging, experiment, registry, run, beat, inputs, number)
            make(_cohort(staging, key, experiment, run, staged_cohort, shared_cohort), shard=number)

    @dg.op(
        name=f"gather__{experiment.name}",
        ins=ins | {_BEGIN: dg.In(dg.Nothing)},
        out={"result": dg.Out(), STORED: dg.Out(dg.Nothing)},
        tags=op_tags,
    )
    def gather(
        context: dg.AssetExecutionContext,
        config: ExperimentConfig,
        settings: dg.ResourceParam[Settings],
        database: dg.ResourceParam[RunDatabase],
        staging: dg.ResourceParam[StagingArea],
        shared_cohort: dg.ResourceParam[SharedCohort],
        **inputs: StagedFile,
    ) -> StagedOutput:
        """Take the answers of all shards from the journal, make the calls that are left, and stage the outcomes."""
        given = (context, config, settings, database, staging, shared_cohort)
        yield from _results(*given, experiment, registry, inputs, plan=f"{asset_key.to_python_identifier()}.plan")

    @dg.config_mapping
    def configured(config: ExperimentConfig) -> dict[str, Any]:
        given = {"config": config.model_dump()}
        return {"plan": given, "gather": given}

    deps = {_BEGIN: MARKET_DATA_KEY} if experiment.market_data else {}

    @dg.graph(
        name=asset_key.to_python_identifier(),
        description=_description(experiment, redact),
        ins={name: dg.GraphIn() for name in (*ins, *deps)},
        out={"result": dg.GraphOut(), stored_output: dg.GraphOut()},
        config=configured,
    )
    def experiment_results(**inputs: Any) -> dict[str, Any]:
        given = {name: inputs[name] for name in ins}
        # The names of the ops are those of a job; within the asset a step has a short one.
        planned = plan.alias("plan")(**inputs)
        done = planned.map(lambda begin: shard.alias("shard")(**given, **{_BEGIN: begin})).collect()
        outputs = gather.alias("gather")(**given, **{_BEGIN: done})
        return {"result": outputs.result, stored_output: getattr(outputs, STORED)}

    return dg.AssetsDefinition.from_graph(
        experiment_results,
        keys_by_input_name={
            "normalized_markets": normalized_markets.key,
            **{name: experiment_key(name) for name in experiment.requires},
            **deps,
        },
        keys_by_output_name={"result": asset_key},
        group_name=GROUP,
        partitions_def=run_partitions,
        owners_by_output_name={"result": OWNERS},
        tags_by_output_name={"result": {"dagster/kind/python": ""}},
        code_versions_by_output_name={"result": experiment.version},
        descriptions_by_output_name={"result": _description(experiment, redact)},
        check_specs=[stored_spec],
        metadata_by_output_name={"result": _definition_metadata(experiment, registry)},
        hook_defs={record_failure},
    )


def _results(
    context: dg.AssetExecutionContext,
    config: ExperimentConfig,
    settings: Settings,
    database: RunDatabase,
    staging: StagingArea,
    shared_cohort: SharedCohort,
    experiment: Experiment,
    registry: Registry,
    inputs: dict[str, StagedFile],
    plan: str | None = None,
) -> StagedOutput:
    """Stage the outcomes of an experiment; of one with shards, after these, whose first step has the key `plan`."""
    key = run_key(context)
    staged_cohort = inputs.pop("normalized_markets")
    run = _run(key, staged_cohort)
    with asset_step(context, settings, database, key, "experiment_results") as beat:
        stored = check_stored(context, PERSISTED_RUN, dry=database.dry)
        if not config.selected:
            yield _unselected(context, staging, key, experiment, run)
            yield stored
            return
        how: dict[str, Any]
        if plan is None:
            if config.forget:
                refuse_to_forget(settings, dry_run=database.dry)
            how = {"forget": config.forget}
        else:
            how = {"sharded_s": step_seconds(context.instance, context.run.run_id, plan)}
        make = _forecaster(context, settings, database, staging, experiment, registry, run, beat, inputs)
        made = make(_cohort(staging, key, experiment, run, staged_cohort, shared_cohort), **how)
        beat()
        yield _staged(context, staging, key, made, _calls_of(database, settings, key, experiment), stored)
        yield stored


def _forecaster(
    context: dg.AssetExecutionContext,
    settings: Settings,
    database: RunDatabase,
    staging: StagingArea,
    experiment: Experiment,
    registry: Registry,
    run: RunMetadata,
    beat: Callable[[], None],
    inputs: Mapping[str, StagedFile],
    shard: int | None = None,
) -> Callable[..., ExperimentForecasts]:
    """`forecast` of an experiment in a run, for a cohort, with the results that it requires among `inputs`."""
    return partial(
        forecast,
        experiment,
        config_hash=registry.config_hash(experiment.name),
        required={name: _required(context, one, registry[name], registry, run) for name, one in inputs.items()},
        history=database.history,
        history_counts=database.history_counts,
        engine=None if database.dry else lambda: database.engine,
        settled_forecasts=learnable_forecasts(database.settled_forecasts, registry, experiment),
        area=staging,
        writer_id=context.run.run_id,
        settings=settings,
        remake=registry.remake(experiment.name),
        progress=_ProgressReport(context, beat, "" if shard is None else f"[{shard} of {experiment.shards}]"),
    )


def _description(experiment: Experiment, redact: Redact) -> str:
    return f"{redact(experiment.description)}\n\n{_ALONE}"


def _run(key: RunKey, staged: StagedFile) -> RunMetadata:
    """The run that a staged cohort is of."""
    header = staged.header(CohortHeader)
    return run_metadata(key, header.captured_at, header.snapshot_hash, as_of=header.as_of)


def _cohort(
    staging: StagingArea,
    key: RunKey,
    experiment: Experiment,
    run: RunMetadata,
    staged: StagedFile,
    shared: SharedCohort,
) -> ForecastCohort:
    """The markets to forecast, with the market data that was frozen where the experiment asks for it."""
    asked = frozen_market_data(staging, key, run.snapshot_hash) if experiment.market_data else {}
    return ForecastCohort(run, shared.markets(staged), staged.sha256, asked)


def _definition_metadata(experiment: Experiment, registry: Registry) -> dict[str, Any]:
    return {
        "version": experiment.version,
        "information": experiment.information,
        "mandatory": experiment.mandatory,
        "control": experiment.control,
        "forecasts": experiment.forecasts,
        **({"knowledge_cutoff": str(cutoff)} if (cutoff := experiment.knowledge_cutoff) else {}),
        "requires": ", ".join(experiment.requires) or "nothing",
        **({"shards": experiment.shards} if experiment.shards > 1 else {}),
        "config_hash": registry.config_hash(experiment.name),
    }


def _unselected(
    context: dg.AssetExecutionContext, staging: StagingArea, key: RunKey, experiment: Experiment, run: RunMetadata
) -> dg.Output[StagedFile]:
    """The staged file of an earlier run, if it belongs to this snapshot; else a file with the status not_run."""
    try:
        staged = open_staged(staging, context.asset_key.path, key, OUTCOMES)
        header = staged.header(OutcomesHeader)
        if header.snapshot_hash == run.snapshot_hash:
            context.log.info(f"{experiment.name} was not selected; its staged results are kept")
            return dg.Output(staged, metadata={"selected": False, "status": header.status})
    except StagedFileMissing:
        pass
    name = staged_name(context.asset_key.path, key)
    staged = stage_not_run(staging, name, experiment, run, dagster_run_id=context.run.run_id)
    return dg.Output(staged, metadata={"selected": False, "status": "not_run"})


def _required(
    context: dg.AssetExecutionContext, staged: StagedFile, experiment: Experiment, registry: Registry, run: RunMetadata
) -> Mapping[str, Outcome]:
    """The outcomes of a required experiment; none where they are stale."""
    reason = stale_reason(staged, experiment, registry.config_hash(experiment.name), run.snapshot_hash)
    if reason is not None:
        context.log.warning(f"the results of {experiment.name} are not used: {reason}")
        return {}
    return outcomes_by_market(staged)


class _ProgressReport:
    """Logs progress and renews the heartbeat, every ten seconds at most; a run that is lost or has ended stops here."""

    def __init__(self, context: dg.AssetExecutionContext, beat: Callable[[], None], part: str) -> None:
        self._context, self._beat, self._part = context, beat, part
        self._at = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        if time.monotonic() - self._at < _HEARTBEAT_S:
            return
        self._at = time.monotonic()
        self._beat()
        self._context.log.info(
            f"{progress.experiment}{self._part}: {progress.done:,} of {progress.total:,} markets "
            f"({progress.completed:,} completed, {progress.skipped:,} skipped, {progress.failed:,} failed, "
            f"{progress.resumed:,} from the journal) in {progress.seconds:.0f} s"
        )


def _staged(
    context: dg.AssetExecutionContext,
    staging: StagingArea,
    key: RunKey,
    made: ExperimentForecasts,
    calls: Cost | None,
    stored: dg.AssetCheckResult,
) -> dg.Output[StagedFile]:
    """Stage the outcomes, and log the most frequent failure; all of them are in the output's metadata."""
    name = staged_name(context.asset_key.path, key)
    staged = stage_forecasts(staging, name, made, dagster_run_id=context.run.run_id)
    failed = [reason for reason in made.reasons if reason.status == "failed"]
    if failed:
        at = f" ({failed[0].place})" if failed[0].place else ""
        context.log.warning(f"{made.experiment.name} failed for {failed[0].markets:,} markets: {failed[0].reason}{at}")
    return dg.Output(
        staged,
        metadata={"stored": stored.description, **_metadata(made, calls)},
        data_version=dg.DataVersion(made.content_hash),
    )


def _calls_of(database: RunDatabase, settings: Settings, key: RunKey, experiment: Experiment) -> Cost | None:
    """What the ledger of paid calls has of an experiment in a run; None where it has nothing, as of a dry run."""
    costs = [] if database.dry else load_calls(database.engine, settings.clock.now(), key)
    found = (one.cost for one in costs if (one.experiment, one.version) == (experiment.name, experiment.version))
    return next(found, None)


def _metadata(made: ExperimentForecasts, calls: Cost | None) -> dict[str, Any]:
    failures = [
        dg.TableRecord({"market": one.market_id, "reason": one.reason or "", "retriable": one.retriable})
        for one in made.outcomes
        if one.status == "failed"
    ]
    columns = [dg.TableColumn("market"), dg.TableColumn("reason"), dg.TableColumn("retriable", type="bool")]
    table = dg.MetadataValue.table(failures[:_SHOWN_FAILURES], schema=dg.TableSchema(columns))
    name = made.experiment.name
    journal = from_journal({name: made.from_journal}, {name: made.outdated})
    return {
        "dagster/row_count": len(made.outcomes),
        "status": made.status,
        **made.counts,
        "from_journal": made.from_journal,
        **({"journal": " ".join(journal)} if journal else {}),
        "seconds": made.seconds,
        **total_usage(made.outcomes),
        **paid_metadata(calls, made.outcomes),
        **({} if made.experiment.forecasts else _sources(made.outcomes)),
        **({"reasons": _reason_table(made.reasons)} if made.reasons else {}),
        **({"failures": table} if failures else {}),
        **rationale_metadata(made.cohort.markets, made.outcomes),
        **({"forecasts_against_market": dg.MetadataValue.md(_picture(made))} if made.experiment.forecasts else {}),
    }


def _sources(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """What research found, and dropped by each layer, summed over the markets; nothing for other preparations."""
    totals: Counter[str] = Counter()
    for diagnostics in (outcome.diagnostics or {} for outcome in outcomes):
        dropped = diagnostics.get("dropped")
        counts = {**diagnostics, **(dropped if isinstance(dropped, dict) else {})}
        totals.update({name: count for name, count in counts.items() if type(count) is int and count})
    return {"sources": dg.MetadataValue.json(dict(totals))} if totals else {}


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


def _picture(made: ExperimentForecasts) -> str:
    pairs = [
        (price, probability)
        for market, outcome in zip(made.cohort.markets, made.outcomes, strict=True)
        if (probability := outcome.probability) is not None and (price := market.price.value) is not None
    ]
    name = made.experiment.name
    return as_markdown_image(forecasts_against_market(pairs, name), f"{name} against the market's price")
