"""The stages of a run as plain functions: what the job does, without a Dagster run around it."""

from predictbench_assets.exchanges.configured import configured_exchange
from predictbench_assets.experiments.declared.file import registry_of
from predictbench_assets.experiments.forecast import (
    ForecastCohort,
    forecast,
    outcomes_by_market,
    results_path,
    run_metadata,
    stage_forecasts,
)
from predictbench_assets.experiments.outcomes import OUTCOMES
from predictbench_assets.ingestion.cohort import COHORT, build_cohort, cohort_markets, stage_cohort
from predictbench_assets.ingestion.headers import CohortHeader
from predictbench_assets.ingestion.names import open_staged, staged_name
from predictbench_assets.ingestion.snapshot import freeze
from predictbench_assets.ingestion.window import open_window
from predictbench_assets.observability.reporter import RunReporter
from predictbench_assets.persistence.run_contents import RunContents
from predictbench_assets.persistence.run_store import RunDatabase
from predictbench_assets.persistence.run_write import staged_experiments, store
from predictbench_assets.settings import Settings, load_settings
from predictbench_assets.staging import StagedFile, StagingArea
from predictbench_assets_tests.kit.daily_run import KEY, NOW, DailyRun, MakeRun, differences

WRITER = "without-dagster"


def test_the_stages_without_dagster_store_what_the_job_stores(make_run: MakeRun) -> None:
    job, plain = make_run(), make_run()
    assert job.here().exit_code == 0
    database = RunDatabase(settings_of(plain))
    try:
        database.open(KEY, WRITER)
        snapshot, cohort = ingest(settings_of(plain), database, plain.staging)
        forecast_and_store(settings_of(plain), database, plain.staging, snapshot, cohort)
    finally:
        database.engine.dispose()
    assert not differences(job.tables(), plain.tables())
    assert cohort.sha256 == open_staged(job.staging, ["normalized_markets"], KEY, COHORT).sha256


def settings_of(daily: DailyRun) -> Settings:
    given = daily.environment(daily.folder / "summary.json", {})
    return load_settings(**{name.lower(): value for name, value in given.items() if name != "PREDICTBENCH_ENV_FILE"})


def ingest(settings: Settings, database: RunDatabase, area: StagingArea) -> tuple[StagedFile, StagedFile]:
    """Open the window, freeze the snapshot and build the cohort."""
    open_window(area, KEY, dagster_run_id=WRITER)
    exchange = configured_exchange(settings)
    snapshot = freeze(exchange, area, database, KEY, today=NOW.date(), dagster_run_id=WRITER).file
    cohort = build_cohort(snapshot, exchange.read, settings)
    name = staged_name([COHORT.name], KEY)
    staged = stage_cohort(area, name, cohort, snapshot=snapshot, limit=None, dagster_run_id=WRITER)
    assert list(cohort_markets(staged)) == cohort.markets, "a step of the same process goes on with the latter"
    return snapshot, staged


def forecast_and_store(
    settings: Settings, database: RunDatabase, area: StagingArea, snapshot: StagedFile, cohort: StagedFile
) -> None:
    """Forecast a cohort, stage the results, and store the run."""
    header = cohort.header(CohortHeader)
    run = run_metadata(KEY, header.captured_at, header.snapshot_hash)
    markets = ForecastCohort(run, list(cohort_markets(cohort)), cohort.sha256)
    registry = registry_of(settings)
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
    write = store(
        RunContents(KEY, cohort, cohort_markets(cohort), snapshot, staged, settings.clock), database.open(KEY, WRITER)
    )
    assert settings.clock.now() == NOW
    summary = RunReporter(settings, database, area).written(write, WRITER, duration_seconds=0.0)
    write.finish(summary.model_dump(mode="json"))
    write.raise_if_nothing_stored()
