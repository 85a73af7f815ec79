"""What a run makes of its experiments: added later, left out, failing for some or for all."""

from datetime import timedelta
from pathlib import Path

import dagster as dg

from predictbench_assets.settings import DEFAULT_EXPERIMENTS
from predictbench_assets_tests.integration.daily_run.conftest import MakeRun
from predictbench_assets_tests.integration.daily_run.harness import BASELINE, EXPERIMENT, KEY, NOW, differences

A_WEEK_LATER = {"PREDICTBENCH_NOW": (NOW + timedelta(days=7)).isoformat()}
UNIFORM = "predictbench_assets.experiments.controls:UniformExperiment"
DEFAULT = ",".join(DEFAULT_EXPERIMENTS)
FAILED_MARKETS = "SELECT market_id FROM predictbench.processing_failures WHERE market_id IS NOT NULL"


def test_an_experiment_that_is_added_later_adds_its_rows_and_nothing_else(make_run: MakeRun) -> None:
    daily = make_run()
    assert daily.here().exit_code == 0
    before, requests = daily.tables(), sum(daily.sandbox.requests.values())
    more = {"PROCESSING_EXPERIMENTS": f"{DEFAULT},{EXPERIMENT}:Later"} | A_WEEK_LATER

    alone = daily.here(selection=[dg.AssetKey(["experiment_results", "later"])], **more)
    assert alone.exit_code == 0
    assert not differences(before, daily.tables())
    stored = daily.here(selection=[dg.AssetKey("persisted_run")], **more)
    assert stored.exit_code == 0

    assert sum(daily.sandbox.requests.values()) == requests
    changed = differences(before, daily.tables())
    assert {table: (len(gone), len(new)) for table, (gone, new) in changed.items()} == {
        "experiments": (0, 1),
        "experiment_runs": (0, 1),
        "experiment_results": (0, 40),
        "forecast_digests": (0, 1),
    }
    board = daily.rows(
        "SELECT experiment, count(*), count(probability) FROM predictbench.latest_experiment_results"
        " GROUP BY experiment ORDER BY experiment"
    )
    assert len(board) == len(DEFAULT_EXPERIMENTS) + 1
    assert ("later", 40, 40) in board
    [(forecast_at,)] = daily.rows(
        "SELECT DISTINCT forecast_at FROM predictbench.latest_experiment_results WHERE experiment = 'later'"
    )
    assert forecast_at == NOW + timedelta(days=7)
    assert stored.said["experiments"]["later"]["completed"] == 40
    assert daily.run_row("status", "processed_markets") == ("completed", 40)


def test_the_whole_job_with_the_others_left_out_says_the_same(make_run: MakeRun) -> None:
    daily = make_run()
    first = daily.here()
    before = daily.tables()
    names = list(first.said["experiments"])
    assert len(names) == len(DEFAULT_EXPERIMENTS)
    ops = {f"experiment_results__{name}": {"selected": False} for name in names}

    ran = daily.here(ops=ops, PROCESSING_EXPERIMENTS=f"{DEFAULT},{EXPERIMENT}:Later", **A_WEEK_LATER)

    assert ran.exit_code == 0
    added = {"experiments", "experiment_runs", "experiment_results", "forecast_digests"}
    assert differences(before, daily.tables()).keys() == added
    for name in names:
        kept, told = ran.said["experiments"][name], first.said["experiments"][name]
        assert (kept["completed"], kept["skipped"]) == (told["completed"], told["skipped"])
    assert ran.said["experiments"]["later"]["completed"] == 40


def test_an_experiment_that_was_never_selected_is_not_run(make_run: MakeRun) -> None:
    daily = make_run(PROCESSING_EXPERIMENTS=f"{BASELINE},{UNIFORM}")
    left_out = {"experiment_results__uniform": {"selected": False}}

    ran = daily.here(ops=left_out)

    assert ran.exit_code == 0
    assert ran.said["status"] == "completed"
    assert ran.said["experiments"]["uniform"]["not_run"] == 40
    results = (
        "SELECT DISTINCT status, reason, probability FROM predictbench.latest_experiment_results"
        " WHERE experiment = 'uniform'"
    )
    assert daily.rows(results) == [("not_run", "the experiment was not selected for this run", None)]

    # Selected once, it keeps its results when it is left out again.
    assert daily.here().said["experiments"]["uniform"]["completed"] == 40
    again = daily.here(ops=left_out)
    assert again.said["experiments"]["uniform"]["completed"] == 40
    assert daily.rows(results) == [("completed", None, 0.5)]


def test_results_of_an_earlier_snapshot_are_no_requirement(make_run: MakeRun) -> None:
    daily = make_run(PROCESSING_EXPERIMENTS=f"{BASELINE},{EXPERIMENT}:Later")
    daily.here()
    later_that_day = NOW + timedelta(hours=5)
    daily.sandbox.set_time(later_that_day)
    alone = {"raw_markets": {"refresh": True}}
    assets = [
        dg.AssetKey("raw_markets"),
        dg.AssetKey("normalized_markets"),
        dg.AssetKey(["experiment_results", "later"]),
    ]

    ran = daily.here(ops=alone, selection=assets, PREDICTBENCH_NOW=later_that_day.isoformat())

    assert ran.exit_code == 0
    told = ran.metadata("experiment_results/later")
    assert (told["completed"], told["skipped"]) == (0, 40)
    # The whole job puts it right.
    assert daily.here(PREDICTBENCH_NOW=later_that_day.isoformat()).said["experiments"]["later"]["completed"] == 40


def test_an_optional_experiment_that_fails_for_all_fails_nobody(make_run: MakeRun) -> None:
    daily = make_run(PROCESSING_EXPERIMENTS=f"{BASELINE},{EXPERIMENT}:FailsForAll")

    ran = daily.here()

    assert ran.exit_code == 0
    assert ran.said["status"] == "completed"
    assert ran.said["processed_markets"] == 40
    told = ran.said["experiments"]["fails_for_all"]
    assert (told["status"], told["failed"], told["completed"]) == ("failed", 40, 0)
    rows = daily.rows(
        "SELECT r.status, r.exception_type, r.reason, x.status FROM predictbench.experiment_results r"
        " JOIN predictbench.experiment_runs x USING (experiment_run_id)"
        " JOIN predictbench.experiments e USING (experiment_id) WHERE e.name = 'fails_for_all'"
    )
    assert len(rows) == 40
    assert {(status, kind, run) for status, kind, _, run in rows} == {("failed", "ValueError", "failed")}
    assert all("no forecast of" in reason for _, _, reason, _ in rows)
    assert daily.count("processing_failures") == 0


def test_a_mandatory_experiment_that_fails_for_some_fails_those(make_run: MakeRun) -> None:
    daily = make_run(PROCESSING_EXPERIMENTS=f"{BASELINE},{EXPERIMENT}:MandatoryFailsForSome")

    ran = daily.here()

    assert ran.exit_code == 0
    failed = {market_id for (market_id,) in daily.rows(FAILED_MARKETS)}
    stored = {market_id for (market_id,) in daily.rows("SELECT market_id FROM predictbench.processed_markets")}
    assert failed
    assert stored
    assert not failed & stored
    assert len(failed | stored) == 40
    assert {int(market_id) % 4 == 0 for market_id in failed} == {True}
    assert (ran.said["failed_markets"], ran.said["processed_markets"]) == (len(failed), len(stored))
    reasons = daily.rows("SELECT stage, experiment, reason, retriable FROM predictbench.processing_failures")
    for stage, experiment, reason, retriable in reasons:
        assert (stage, experiment, retriable) == ("experiment_results", "mandatory_fails_for_some", False)
        assert "is mandatory and failed: ValueError: no forecast of" in reason
    assert ran.checks()["completeness"] is False


def test_a_mandatory_experiment_that_fails_for_all_fails_the_run(make_run: MakeRun) -> None:
    daily = make_run(PROCESSING_EXPERIMENTS=f"{BASELINE},{EXPERIMENT}:MandatoryFailsForAll")

    ran = daily.here()

    assert ran.exit_code == 1
    status, stage, reason = daily.run_row("status", "stage", "reason")
    assert (status, stage) == ("failed", "persisted_run")
    assert reason.startswith("none of 40 markets could be stored")
    assert (ran.said["status"], ran.said["stage"], ran.said["reason"]) == (status, stage, reason)
    assert ran.said["failed_markets"] == 40
    assert len(ran.said["failures"]) >= 40
    assert daily.count("processed_markets") == 0
    assert len(daily.rows(FAILED_MARKETS)) == 40


def test_an_experiment_that_cannot_keep_its_journal_fails_the_run_for_good(make_run: MakeRun) -> None:
    daily = make_run(PROCESSING_EXPERIMENTS=f"{BASELINE},{EXPERIMENT}:Noted,{UNIFORM}")
    in_the_way = Path(daily.staging.path(f"journals/{KEY.slug}/noted"))
    in_the_way.parent.mkdir(parents=True)
    in_the_way.touch()

    ran = daily.here()

    assert ran.exit_code == 1
    # The other experiments went on after it; the run stays failed, with the reason of the one that stopped it.
    status, stage, reason = daily.run_row("status", "stage", "reason")
    assert (status, stage) == ("failed", "experiment_results")
    assert "the journal at" in reason
    assert (ran.said["status"], ran.said["stage"], ran.said["reason"]) == (status, stage, reason)
    assert ran.said["offered_markets"] == 40

    in_the_way.unlink()
    assert daily.here().exit_code == 0
    assert daily.run_row("status", "reason") == ("completed", None)
