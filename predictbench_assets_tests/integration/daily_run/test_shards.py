"""An experiment whose calls are shared out: one asset, the same rows, and nobody asked twice."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from predictbench_assets.sandbox.world import World
from predictbench_assets_tests.integration.daily_run.experiments import CALLS, Noted
from predictbench_assets_tests.kit import killing
from predictbench_assets_tests.kit.daily_run import BASELINE, EXPERIMENT, DailyRun, MakeRun, Ran, differences

NOTED = dg.AssetKey(["experiment_results", "noted"])
SHARDS = "shards = 4"
TABLES = f"""
[noted]
kind = "{EXPERIMENT}:Noted"
limits.markets = 25
{{shards}}

[halved]
kind = "{EXPERIMENT}:Later"
limits.concurrency = 3
{{shards}}

[both]
kind = "ensemble"
of = ["noted", "halved"]
"""


def declare(daily: DailyRun, tables: str) -> dict[str, str]:
    """The settings of runs with these tables, and no other experiment but the baseline; calls are noted in a file."""
    file = daily.folder / "experiments.toml"
    file.write_text(tables)
    return {
        "EXPERIMENTS_FILE": str(file),
        "PROCESSING_EXPERIMENTS": BASELINE,
        CALLS: str(daily.folder / "calls"),
    }


def calls(daily: DailyRun) -> Counter[str]:
    """The calls so far, by market."""
    file = daily.folder / "calls"
    return Counter(file.read_text().split()) if file.exists() else Counter()


def test_shards_store_what_one_process_does(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    one, shared = make_run(), make_run()
    ran = {}
    for daily, shards in ((one, ""), (shared, SHARDS)):
        monkeypatch.setenv(CALLS, str(daily.folder / "calls"))
        ran[shards] = daily.here(**declare(daily, TABLES.format(shards=shards)))
        assert ran[shards].exit_code == 0

    print(differences(one.tables(), shared.tables()))
    print(calls(shared))
    print(
        [
            (e.event_type_value, e.step_key)
            for e in ran[SHARDS].result.all_events
            if e.event_type_value.startswith("STEP_")
        ]
    )
    print(ran[SHARDS].metadata("experiment_results/noted"))
    print(ran[""].metadata("experiment_results/noted"))
    print(ran[SHARDS].said["experiments"])
    assert 0
