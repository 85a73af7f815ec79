"""Steps that come from a queue or run on another machine: what the process that runs one refuses to do."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from predictbench_assets.assets.step import stage_of
from predictbench_assets.sandbox.world import World
from predictbench_assets_tests.integration.daily_run.experiments import Cancelled
from predictbench_assets_tests.kit.daily_run import BASELINE, EXPERIMENT, DailyRun, MakeRun, differences


@pytest.fixture(scope="module")
def small(make_run: MakeRun) -> DailyRun:
    return make_run(World(markets_per_day=5), PROCESSING_EXPERIMENTS=BASELINE)


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    # In files: one in memory has a single connection, which two threads that write at once take from each other.
    folder = tmp_path / "dagster"
    folder.mkdir()
    with dg.DagsterInstance.local_temp(str(folder)) as made:
        yield made


def test_a_run_that_waited_while_a_later_one_completed_the_day_takes_nothing_over(
    make_run: MakeRun, instance: dg.DagsterInstance
) -> None:
    daily = make_run(World(markets_per_day=5), PROCESSING_EXPERIMENTS=BASELINE)
    stale = daily.waiting(instance)
    assert daily.here(instance=instance).exit_code == 0
    stored = daily.run_row("status", "attempt", "dagster_run_id", "processed_markets")

    late = daily.here(instance=instance, run=stale)

    assert late.exit_code == 1
    assert late.said["reason"].startswith(f"the Dagster run {stale.run_id} may not take the run 2026-03-02|7 over: ")
    assert daily.run_row("status", "attempt", "dagster_run_id", "processed_markets") == stored
    assert daily.count("processing_attempts") == 1
    assert daily.here(instance=instance).exit_code == 0
    assert daily.run_row("status", "attempt") == ("completed", 2)


@pytest.mark.parametrize("hours", [-3, 3])
def test_the_clock_of_who_launches_a_run_does_not_decide_which_one_is_later(
    make_run: MakeRun, instance: dg.DagsterInstance, hours: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    daily = make_run(World(markets_per_day=5), PROCESSING_EXPERIMENTS=BASELINE)
    with monkeypatch.context() as patched:
        # Dagster's own: the creation time is that of the machine which launches the run.
        wrong = datetime.now(UTC) + timedelta(hours=hours)
        patched.setattr("dagster._core.storage.runs.sql_run_storage.get_current_datetime", lambda: wrong)
        stale = daily.waiting(instance)
    assert daily.here(instance=instance).exit_code == 0

    assert daily.here(instance=instance, run=stale).exit_code == 1

    assert daily.run_row("status", "attempt") == ("completed", 1)


@pytest.mark.parametrize("dry", [True, False], ids=["dry run", "real run"])
def test_a_step_of_a_dry_run_never_runs_in_a_process_that_writes_nor_the_other_way_round(
    small: DailyRun, instance: dg.DagsterInstance, tmp_path: Path, dry: bool
) -> None:
    before = small.tables(), small.count("processing_attempts"), small.staging.list("")
    variables = {"PREDICTBENCH_DRY_RUN": "1", "PREDICTBENCH_SCRATCH": str(tmp_path / "scratch")}
    launched = small.waiting(instance, **(variables if dry else {}))

    ran = small.here(instance=instance, run=launched, **({} if dry else variables))

    assert ran.exit_code == 1
    assert ("is a dry run" if dry else "PREDICTBENCH_DRY_RUN") in ran.said["reason"]
    assert not differences(before[0], small.tables())
    assert (small.count("processing_attempts"), small.staging.list("")) == before[1:]
    assert not (tmp_path / "scratch" / "staging").exists()


@pytest.mark.parametrize(
    ("here", "told"),
    [
        ({"MIN_LIQUIDITY": "5"}, "MIN_LIQUIDITY is unset there and 5.0 here"),
        ({"CORE_SAMPLE_SIZE": "7", "MAX_MARKETS": "2"}, "CORE_SAMPLE_SIZE is 300 there and 7 here; MAX_MARKETS is "),
        ({"PROCESSING_EXPERIMENTS": f"{BASELINE},{EXPERIMENT}:Slow"}, "PROCESSING_EXPERIMENTS differs"),
        ({"GIT_SHA": "fedcba9"}, "GIT_SHA is 0123abc there and fedcba9 here"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_a_step_whose_process_would_store_other_rows_is_refused_and_told_by_name(
    small: DailyRun, instance: dg.DagsterInstance, here: dict[str, str], told: str
) -> None:
    attempts = small.count("processing_attempts")

    ran = small.here(instance=instance, run=small.waiting(instance), **here)

    assert ran.exit_code == 1
    assert f"set up otherwise than the one that launched the run: {told}" in ran.said["reason"]
    assert small.count("processing_attempts") == attempts


def test_how_fast_a_step_works_and_where_it_finds_the_same_things_may_differ(
    small: DailyRun, instance: dg.DagsterInstance
) -> None:
    elsewhere = {"EXPERIMENT_CONCURRENCY": "3", "POLYMARKET_CONCURRENCY": "2", "LOG_LEVEL": "DEBUG"}
    assert small.here(instance=instance, run=small.waiting(instance), **elsewhere).exit_code == 0


@pytest.mark.parametrize("looking", ["meanwhile", "at the next step"])
def test_a_run_that_was_cancelled_pays_for_nothing_more_and_stores_nothing(
    make_run: MakeRun, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, looking: str
) -> None:
    if looking == "meanwhile":
        monkeypatch.setattr("predictbench_assets.assets.dagster_run._LOOK_EVERY_S", 0.0)
        monkeypatch.setattr("predictbench_assets.assets.experiments._HEARTBEAT_S", 0.0)
        monkeypatch.setattr("predictbench_assets.experiments.runner._PROGRESS_EVERY_S", 0.02)
    daily = make_run(World(markets_per_day=40), PROCESSING_EXPERIMENTS=f"{BASELINE},{EXPERIMENT}:Cancelled")
    asked: list[str] = []
    monkeypatch.setattr(Cancelled, "asked", asked)
    monkeypatch.setattr(Cancelled, "cancel", lambda _: instance.report_run_canceled(instance.get_runs()[0]))

    ran = daily.here(instance=instance)

    assert ran.exit_code == 1
    assert (
        ran.said["reason"]
        == f"the Dagster run {instance.get_runs()[0].run_id} is canceled: its remaining steps stop. Run it again."
    )
    stage = "experiment_results" if looking == "meanwhile" else "persisted_run"
    assert daily.run_row("status", "stage") == ("failed", stage)
    assert len(asked) < 20 if looking == "meanwhile" else len(asked) == 40
    assert daily.count("processed_markets") == 0


@pytest.mark.parametrize(
    ("step_key", "stage"),
    [
        ("raw_markets", "raw_markets"),
        ("experiment_results__slow", "experiment_results"),
        ("experiment_results__slow.shard[3]", "experiment_results"),
    ],
)
def test_a_step_belongs_to_the_stage_of_its_asset(step_key: str, stage: str) -> None:
    assert stage_of(step_key) == stage
