"""The stages of a run as plain functions: what the job does, without a Dagster run around it."""

from datetime import datetime

from predictbench_assets.experiments.forecast import (
    ForecastCohort,
    forecast,
    outcomes_by_market,
    results_path,
    run_metadata,
    stage_forecasts,
)
from predictbench_assets.experiments.outcomes import OUTCOMES
from predictbench_assets.experiments.registry import load_registry
from predictbench_assets.ingestion.cohort import COHORT, cohort_markets
from predictbench_assets.ingestion.names import open_staged, staged_name
from predictbench_assets.ingestion.snapshot import SNAPSHOT
from predictbench_assets.observability.reporter import RunReporter
from predictbench_assets.persistence.run_contents import Assembly
from predictbench_assets.persistence.run_store import RunDatabase
from predictbench_assets.persistence.run_write import staged_experiments, store
from predictbench_assets.settings import Settings, load_settings
from predictbench_assets.staging import StagingArea
from predictbench_assets_tests.kit.daily_run import KEY, NOW, DailyRun, MakeRun, differences

WRITER = "without-dagster"


def test_the_stages_without_dagster_store_what_the_job_stores(make_run: MakeRun) -> None:
    job, plain = make_run(), make_run()
    assert job.here().exit_code == 0
    database, other = RunDatabase(settings_of(plain)), RunDatabase(settings_of(job))
    try:
        snapshot = other.snapshot(KEY)
        assert snapshot is not None
        database.open(KEY, WRITER)
        database.register(snapshot, WRITER)
        forecast_and_store(settings_of(plain), database, ingested=job.staging, area=plain.staging)
    finally:
        database.engine.dispose()
        other.engine.dispose()
    assert not differences(job.tables(), plain.tables())


def settings_of(daily: DailyRun) -> Settings:
    given = daily.environment(daily.folder / "summary.json", {})
    return load_settings(**{name.lower(): value for name, value in given.items() if name != "PREDICTBENCH_ENV_FILE"})


def forecast_and_store(settings: Settings, database: RunDatabase, *, ingested: StagingArea, area: StagingArea) -> None:
    """Forecast a cohort that is staged in one place, stage the results in another, and store the run."""
    snapshot = open_staged(ingested, ["raw_markets"], KEY, SNAPSHOT)
    cohort = open_staged(ingested, ["normalized_markets"], KEY, COHORT)
    run = run_metadata(KEY, datetime.fromisoformat(cohort.meta["captured_at"]), cohort.meta["snapshot_hash"])
    markets = ForecastCohort(run, list(cohort_markets(cohort)), cohort.sha256)
    registry = load_registry(settings.processing_experiments)
    for experiment in registry:
        required = {name: open_staged(area, results_path(name), KEY, OUTCOMES) for name in experiment.requires}
        made = forecast(
            experiment,
            markets,
            config_hash=registry.config_hash(experiment.name),
            required={name: outcomes_by_market(staged) for name, staged in required.items()},
            history=database.history,
            history_counts=database.history_counts,
            area=area,
            writer_id=WRITER,
            settings=settings,
        )
        stage_forecasts(area, staged_name(results_path(experiment.name), KEY), made, dagster_run_id=WRITER)
    staged = staged_experiments(registry, area, KEY, cohort, settings.redact)
    write = store(Assembly(KEY, cohort, snapshot, staged, settings.clock), database.open(KEY, WRITER))
    assert settings.clock.now() == NOW
    summary = RunReporter(settings, database, area).written(write, WRITER, duration_seconds=0.0)
    write.finish(summary.model_dump(mode="json"))
    write.raise_if_nothing_stored()
