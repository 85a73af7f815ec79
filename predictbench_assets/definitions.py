"""Everything put together: the only module that knows all the parts.

`defs` is what Dagster loads. Importing this module changes nothing in the process; loading `defs` sets it up.
"""

import functools
import gc
import warnings
from typing import Any

import dagster as dg

from predictbench_assets.assets.experiments import build_experiment_assets
from predictbench_assets.assets.ingestion import normalized_markets, raw_markets, target_window
from predictbench_assets.assets.market_data import build_market_data
from predictbench_assets.assets.persistence import build_persisted_run
from predictbench_assets.assets.resolution import market_resolutions
from predictbench_assets.assets.scoring import benchmark_report, experiment_scores, leaderboard
from predictbench_assets.assets.step import redacting
from predictbench_assets.executors import configured_executor
from predictbench_assets.experiments.declared.file import registry_of
from predictbench_assets.experiments.outcomes import OUTCOMES
from predictbench_assets.heap import share_heap
from predictbench_assets.ingestion.cohort import COHORT, SharedCohort
from predictbench_assets.ingestion.market_data import MARKET_DATA
from predictbench_assets.ingestion.snapshot import SNAPSHOT
from predictbench_assets.ingestion.window import WINDOW
from predictbench_assets.io_manager import StagingIOManager
from predictbench_assets.jobs import (
    build_collection_schedule,
    build_daily_run,
    build_daily_schedule,
    build_failure_sensor,
    build_resolution_sweep,
    build_sweep_schedule,
)
from predictbench_assets.observability.logs import configure_logging
from predictbench_assets.observability.reporter import RunReporter
from predictbench_assets.persistence.run_store import run_database
from predictbench_assets.settings import Settings, get_settings
from predictbench_assets.staging import StagingArea

SCHEMAS = {
    "target_window": WINDOW,
    "raw_markets": SNAPSHOT,
    "normalized_markets": COHORT,
    MARKET_DATA.name: MARKET_DATA,
    OUTCOMES.name: OUTCOMES,
}

_COLLECTED_EVERY = 50_000
"""Objects after which the garbage collector looks at the young ones."""


def build_defs(settings: Settings, **overrides: Any) -> dg.Definitions:
    """The definitions for these settings; `overrides` replace resources by name, for tests.

    Raises:
        RegistryError: the experiments as listed cannot run together.
    """
    with redacting(settings):  # it runs what strangers wrote, and Dagster shows why a code location does not load
        registry = registry_of(settings)
    run_assets = [
        target_window,
        raw_markets,
        normalized_markets,
        *build_market_data(registry),
        *build_experiment_assets(registry, settings.redact),
        build_persisted_run(registry),
    ]
    benchmark_assets = [market_resolutions, experiment_scores, leaderboard, benchmark_report]
    daily_run, resolution_sweep = build_daily_run(settings, run_assets), build_resolution_sweep(benchmark_assets)
    resources = _resources(settings) | overrides
    return dg.Definitions(
        assets=[*run_assets, *benchmark_assets],
        jobs=[daily_run, resolution_sweep],
        schedules=[
            build_daily_schedule(settings, daily_run, resources["database"]),
            build_collection_schedule(settings, daily_run, resources["database"]),
            build_sweep_schedule(settings, resolution_sweep),
        ],
        sensors=[build_failure_sensor(settings, resources["database"])],
        resources=resources,
        executor=configured_executor(settings),
    )


def _resources(settings: Settings) -> dict[str, Any]:
    area = settings.predictbench_scratch if settings.predictbench_dry_run else None
    # A dry run reads stored snapshots where they are, so it is given the options of a place that it does not write to.
    staging = StagingArea(str(area / "staging") if area else settings.staging, settings.staging_options)
    database = run_database(settings)
    return {
        "settings": settings,
        "staging": staging,
        "database": database,
        "reporter": RunReporter(settings, database, staging),
        "shared_cohort": dg.ResourceDefinition(lambda _: SharedCohort()),  # made for a run, and gone with it
        "io_manager": StagingIOManager(staging, SCHEMAS),
    }


@dg.definitions
@functools.cache  # Dagster calls it several times in one process
def defs() -> dg.Definitions:
    """Set this process up for runs, and build the definitions for its settings.

    Raises:
        SettingsError: the settings are not usable.
        RegistryError: the experiments as listed cannot run together.
    """
    # Used on purpose (data versions of outputs, handlers in dagster.yaml); filtered once rather than at every step.
    warnings.filterwarnings("ignore", category=dg.BetaWarning)
    configure_logging(get_settings())
    built = build_defs(get_settings())
    _tune_memory()
    return built


def _tune_memory() -> None:
    """Set the garbage collector and the C library's allocator up for runs, which hold a whole day."""
    # Objects loaded by now stay as long as the process: collections during a run need not walk through it every time,
    # which takes about a tenth of a cold run.
    gc.freeze()
    # A step makes objects by the 100,000 that live until its end, and few of them in cycles.
    gc.set_threshold(_COLLECTED_EVERY)
    share_heap()
