"""The whole asset graph, pinned: a change of it shows in review."""

import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
import yaml

from predictbench_assets.definitions import build_defs
from predictbench_assets.settings import SettingsError, load_settings

CLONE = Path(__file__).resolve().parents[3]
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
        },
    ),
}

CHECKS = {
    "raw_markets": {"walk_repeatable": True, "no_duplicates": False},
    "normalized_markets": {"rejected_share": True, "price_sums": False, "cohort_size": False},
    "persisted_run": {"counts_add_up": False, "completeness": False},
}
"""Checks by asset, and whether a failed one stops what is downstream."""


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
        assert isinstance(node.partitions_def, dg.MultiPartitionsDefinition), key


def test_the_checks_and_which_of_them_stop_a_run(defs: dg.Definitions) -> None:
    graph = defs.resolve_asset_graph()
    found: dict[str, dict[str, bool]] = {}
    for key in graph.asset_check_keys:
        found.setdefault(key.asset_key.to_user_string(), {})[key.name] = graph.get(key).blocking
    assert found == CHECKS


def test_the_definitions_load(defs: dg.Definitions) -> None:
    dg.Definitions.validate_loadable(defs)


def test_the_code_location_loads_in_a_fresh_interpreter() -> None:
    code = "from predictbench_assets.definitions import defs; print(len(defs.assets))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert found.stdout.strip() == str(len(GRAPH))


def test_an_unknown_executor_is_named() -> None:
    with pytest.raises(SettingsError, match="EXECUTOR: 'nowhere:executor'"):
        build_defs(load_settings(executor="nowhere:executor"))


def test_another_executor_can_be_named() -> None:
    defs = build_defs(load_settings(executor="dagster:multi_or_in_process_executor"))
    assert defs.executor is dg.multi_or_in_process_executor


def test_what_a_daemon_would_do_ships_stopped() -> None:
    defs = build_defs(load_settings(pipeline_run_at_utc="06:30"))
    schedule = defs.resolve_schedule_def("daily_run_schedule")
    assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED
    assert schedule.cron_schedule == "30 6 * * *"
    sensor = defs.resolve_sensor_def("failed_runs_are_told")
    assert sensor.default_status is dg.DefaultSensorStatus.STOPPED


def test_nothing_waits_in_a_pool(defs: dg.Definitions) -> None:
    """A killed `job execute` would keep its slot until a daemon frees it, and there need not be one."""
    graph = defs.resolve_asset_graph()
    assert {key for key in graph.materializable_asset_keys if graph.get(key).pools} == set()
    for name in ("dagster.yaml", "deploy/dagster.yaml"):
        assert "pools" not in yaml.safe_load((CLONE / name).read_text())["concurrency"]
