"""The whole asset graph, pinned: a change of it shows in review."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import dagster as dg
import pytest
import yaml

from predictbench_assets.definitions import build_defs
from predictbench_assets.launch.commands import DAILY_RUN, RESOLUTION_SWEEP
from predictbench_assets.settings import SettingsError, load_settings
from predictbench_assets_tests.kit.places import CLONE

GRAPH = {
    "target_window": ("ingestion", set()),
    "raw_markets": ("ingestion", {"target_window"}),
    "normalized_markets": ("ingestion", {"raw_markets"}),
    "experiment_results/baseline_snapshot": ("experiments", {"normalized_markets"}),
    "experiment_results/devigged_event": ("experiments", {"normalized_markets"}),
    "experiment_results/uniform": ("experiments", {"normalized_markets"}),
    "experiment_results/base_rate": ("experiments", {"normalized_markets"}),
    "experiment_results/shuffled_price": ("experiments", {"normalized_markets"}),
    "experiment_results/price_24h_ago": ("experiments", {"normalized_markets"}),
    "experiment_results/shrunk_market": (
        "experiments",
        {"normalized_markets", "experiment_results/baseline_snapshot"},
    ),
    "experiment_results/favourite_longshot": (
        "experiments",
        {"normalized_markets", "experiment_results/baseline_snapshot"},
    ),
    "experiment_results/recalibrated_market": (
        "experiments",
        {"normalized_markets", "experiment_results/baseline_snapshot"},
    ),
    "persisted_run": (
        "persistence",
        {
            "raw_markets",
            "normalized_markets",
            "experiment_results/baseline_snapshot",
            "experiment_results/devigged_event",
            "experiment_results/uniform",
            "experiment_results/base_rate",
            "experiment_results/shuffled_price",
            "experiment_results/price_24h_ago",
            "experiment_results/shrunk_market",
            "experiment_results/favourite_longshot",
            "experiment_results/recalibrated_market",
        },
    ),
    "market_resolutions": ("resolution", {"persisted_run"}),
    "experiment_scores": ("scoring", {"market_resolutions", "persisted_run"}),
    "leaderboard": ("scoring", {"experiment_scores"}),
    "benchmark_report": ("scoring", {"leaderboard"}),
}
WHOLE = {"market_resolutions", "experiment_scores", "leaderboard", "benchmark_report"}
"""Assets without partitions: they look at all that is stored."""

CHECKS = {
    "raw_markets": {"walk_repeatable": True, "no_duplicates": False},
    "normalized_markets": {"rejected_share": True, "price_sums": False, "cohort_size": False},
    "persisted_run": {"counts_add_up": False, "completeness": False},
    "market_resolutions": {
        "cohorts_final": False,
        "split_share": False,
        "long_open": False,
        "settlements_stable": False,
    },
    "experiment_scores": {"scores_in_range": False, "market_edge_zero": False},
    "leaderboard": {"controls_beaten": False},
} | {name: {"stored": False} for name in GRAPH if name.startswith("experiment_results/")}
"""Checks by asset, and whether a failed one stops what is downstream."""


_IMPORTING = """
    import gc, logging, os, signal, sys, warnings
    from predictbench_assets.settings import SettingsError, get_settings

    def state():
        root = logging.getLogger()
        levels = [logging.getLogger(name).level for name in ("predictbench_assets", "httpx", "alembic")]
        about_dagster = [one for one in warnings.filters if "beta" in str(one).lower()]
        streams = [sys.stdout, sys.stderr, sys.excepthook, signal.getsignal(signal.SIGTERM)]
        read = get_settings.cache_info().currsize
        handling = [root.handlers[:], root.level, levels, logging.getLogRecordFactory(), warnings.showwarning]
        return [*handling, about_dagster, gc.get_freeze_count(), dict(os.environ), sys.path[:], streams, read]

    before = state()
    from predictbench_assets.definitions import defs
    assert state() == before, (before, state())
    try:
        defs()
    except SettingsError as error:
        print(error)
"""


@pytest.fixture(scope="module")
def defs() -> dg.Definitions:
    return build_defs(load_settings())


def test_the_graph_is_the_one_that_is_pinned(defs: dg.Definitions) -> None:
    graph = defs.resolve_asset_graph()
    found = {
        key.to_user_string(): (
            graph.get(key).group_name,
            {parent.to_user_string() for parent in graph.get(key).parent_keys},
        )
        for key in graph.materializable_asset_keys
    }
    assert found == GRAPH


def test_every_asset_says_what_it_is(defs: dg.Definitions) -> None:
    graph = defs.resolve_asset_graph()
    for key in graph.materializable_asset_keys:
        node = graph.get(key)
        assert node.description, key
        assert node.owners == ["team:predictbench"], key
        assert node.kinds, key
        assert node.code_version, key
        if key.to_user_string() in WHOLE:
            assert node.partitions_def is None, key
        else:
            assert isinstance(node.partitions_def, dg.MultiPartitionsDefinition), key


def test_the_checks_and_which_of_them_stop_a_run(defs: dg.Definitions) -> None:
    graph = defs.resolve_asset_graph()
    found: dict[str, dict[str, bool]] = {}
    for key in graph.asset_check_keys:
        found.setdefault(key.asset_key.to_user_string(), {})[key.name] = graph.get(key).blocking
    assert found == CHECKS


SHARDED = """
[slow]
kind = "predictbench_assets_tests.integration.daily_run.experiments:Noted"
version = "7"
requires = ["baseline_snapshot"]
{shards}
[slow.op_tags]
"dagster-k8s/config".container_config.resources.limits."nvidia.com/gpu" = "1"
[book]
kind = "predictbench_assets_tests.integration.daily_run.experiments:OfBooks"
{shards}
[after]
kind = "ensemble"
of = ["slow", "book"]
"""


def test_an_experiment_of_several_shards_is_an_asset_as_any_other(tmp_path: Path) -> None:
    facts, ops = [], []
    for shards in ("", "shards = 4"):
        (tmp_path / "experiments.toml").write_text(SHARDED.format(shards=shards))
        defs = build_defs(load_settings(experiments_file=tmp_path / "experiments.toml"))
        dg.Definitions.validate_loadable(defs)
        graph = defs.resolve_asset_graph()
        found = {}
        for key in graph.materializable_asset_keys:
            node = graph.get(key)
            metadata = {name: value for name, value in node.metadata.items() if name != "shards"}
            found[key] = (
                (node.group_name, node.parent_keys, node.child_keys, node.description, node.owners, node.kinds),
                (node.code_version, node.partitions_def, metadata, node.is_executable, node.tags),
                {check: graph.get(check).description for check in node.check_keys},
            )
        facts.append(found)
        job = defs.resolve_job_def(DAILY_RUN)
        slow = job.get_node_named("experiment_results__slow").definition
        ops.append({node.name: dict(node.tags) for node in slow.iterate_op_defs()})
    assert facts[0] == facts[1]
    gpu = {"dagster-k8s/config": '{"container_config": {"resources": {"limits": {"nvidia.com/gpu": "1"}}}}'}
    [whole] = ops[0].values()
    assert gpu.items() <= whole.items()
    assert ops[1] == {"plan__slow": {}, "shard__slow": gpu, "gather__slow": gpu}


def test_each_job_has_its_part_of_the_graph(defs: dg.Definitions) -> None:
    jobs = {
        name: {key.to_user_string() for key in defs.resolve_job_def(name).asset_layer.executable_asset_keys}
        for name in (DAILY_RUN, RESOLUTION_SWEEP)
    }
    assert jobs == {DAILY_RUN: set(GRAPH) - WHOLE, RESOLUTION_SWEEP: WHOLE}


def test_the_definitions_load(defs: dg.Definitions) -> None:
    dg.Definitions.validate_loadable(defs)


def test_the_code_location_loads_in_a_fresh_interpreter() -> None:
    code = (
        "import sys; from predictbench_assets.definitions import defs; print(len(defs().assets));"
        "print([name for name in ('numpy', 'scipy', 'matplotlib', 'jinja2') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assets, slow_to_load = found.stdout.split("\n", 1)
    assert assets == str(len(GRAPH))
    assert slow_to_load.strip() == "[]", "a daily run pays for what only scoring needs"


def test_importing_the_definitions_changes_nothing_in_the_process() -> None:
    code = textwrap.dedent(_IMPORTING)
    unusable = os.environ | {"PREDICTBENCH_ENV_FILE": "", "HORIZONS": "banana"}
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120, env=unusable
    )
    assert found.returncode == 0, found.stderr
    assert "HORIZONS: expected whole numbers" in found.stdout, "the settings are read when `defs` is loaded"


SHARED = {
    "database_url": "postgresql://nobody@127.0.0.1:1/none",
    "dagster_postgres_url": "postgresql://nobody@127.0.0.1:1/none",
    "staging_uri": "memory://staging",
}


def test_an_unknown_executor_is_named() -> None:
    with pytest.raises(SettingsError, match="EXECUTOR: 'nowhere:executor'"):
        build_defs(load_settings(executor="nowhere:executor", **SHARED))


def test_another_executor_can_be_named() -> None:
    defs = build_defs(load_settings(executor="dagster:multi_or_in_process_executor", **SHARED))
    assert defs.executor is dg.multi_or_in_process_executor


def test_what_a_daemon_would_do_ships_stopped() -> None:
    defs = build_defs(load_settings(pipeline_run_at_utc="06:30"))
    schedule = defs.resolve_schedule_def("daily_run_schedule")
    assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED
    assert schedule.cron_schedule == "30 6 * * *"
    sweep = defs.resolve_schedule_def("resolution_sweep_schedule")
    assert sweep.default_status is dg.DefaultScheduleStatus.STOPPED
    assert sweep.cron_schedule == "30 7 * * *"
    late = build_defs(load_settings(pipeline_run_at_utc="23:15")).resolve_schedule_def("resolution_sweep_schedule")
    assert late.cron_schedule == "15 0 * * *"
    collection = defs.resolve_schedule_def("batch_collection_schedule")
    assert collection.default_status is dg.DefaultScheduleStatus.STOPPED
    sensor = defs.resolve_sensor_def("failed_runs_are_told")
    assert sensor.default_status is dg.DefaultSensorStatus.STOPPED


def test_nothing_waits_in_a_pool(defs: dg.Definitions) -> None:
    """A killed `job execute` would keep its slot until a daemon frees it, and there need not be one."""
    graph = defs.resolve_asset_graph()
    assert {key for key in graph.materializable_asset_keys if graph.get(key).pools} == set()
    for name in ("dagster.yaml", "deploy/dagster.yaml"):
        assert "pools" not in yaml.safe_load((CLONE / name).read_text())["concurrency"]
