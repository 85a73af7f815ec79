"""What a run makes of its experiments: added later, left out, failing for some or for all."""

import inspect
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from predictbench_assets.runs import RunKey
from predictbench_assets.settings import DEFAULT_EXPERIMENTS
from predictbench_assets_tests.integration.daily_run.experiments import LOST, FailsForAll
from predictbench_assets_tests.kit.daily_run import BASELINE, EXPERIMENT, KEY, NOW, MakeRun, differences
from predictbench_assets_tests.kit.places import CLONE

A_WEEK_LATER = {"PREDICTBENCH_NOW": (NOW + timedelta(days=7)).isoformat()}
UNIFORM = "predictbench_assets.experiments.builtin.controls:UniformExperiment"
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


def test_results_that_are_lost_before_they_are_stored_fail_the_run_and_are_there_after_the_next(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    daily = make_run(PROCESSING_EXPERIMENTS=f"{BASELINE},{UNIFORM},{EXPERIMENT}:Loses")
    lost = daily.staging.path("experiment_results/uniform/2026-03-02/7.jsonl.zst")
    monkeypatch.setenv(LOST, lost)

    first = daily.here()

    assert first.exit_code == 1
    assert daily.run_row("status", "stage") == ("failed", "persisted_run")
    assert lost in daily.run_row("reason")
    monkeypatch.setenv(LOST, f"{lost}.nothing")
    assert daily.here().exit_code == 0
    assert daily.run_row("status") == "completed"
    assert ("uniform", "completed") in daily.rows(
        "SELECT name, status FROM predictbench.experiment_runs JOIN predictbench.experiments USING (experiment_id)"
    )


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
    # Once for all of them, in the summary and where the asset is looked at.
    [why] = told["reasons"]
    assert (why["status"], why["markets"]) == ("failed", 40)
    assert re.fullmatch(r"ValueError: no forecast of \d+ today \(and alike\)", why["reason"])
    place = Path(inspect.getfile(FailsForAll)).relative_to(CLONE).as_posix()
    line = FailsForAll.run.__code__.co_firstlineno + 2
    assert why["place"] == f"{place}:{line} in run"
    [record] = ran.metadata("experiment_results/fails_for_all")["reasons"].records
    assert record.data | {"reason": why["reason"]} == {
        "markets": 40,
        "status": "failed",
        "reason": why["reason"],
        "place": why["place"],
        "first_market": why["market_id"],
    }


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


def test_an_event_level_experiment_says_why_without_secrets(make_run: MakeRun) -> None:
    secret = "correct-horse-battery"
    settings = {"PROCESSING_EXPERIMENTS": f"{BASELINE},{EXPERIMENT}:EventsFail", "TEST_SECRET": secret}
    daily = make_run(**settings, STAGING_S3_ACCESS_KEY_ID="key", STAGING_S3_SECRET_ACCESS_KEY=secret)

    ran = daily.here()

    assert secret not in json.dumps(ran.said)
    told = ran.said["experiments"]["events_fail"]
    assert told["failed"] + told["skipped"] == 40
    kinds = {(why["status"], why["reason"].partition(":")[0]) for why in told["reasons"]}
    assert ("failed", "RetriableError") in kinds
    assert "skipped" in {status for status, _ in kinds}
    assert sum(why["markets"] for why in told["reasons"]) == 40
    assert {why["place"] is None for why in told["reasons"] if why["status"] == "failed"} == {False}
    assert "the model of" in json.dumps(told)
    table = ran.metadata("experiment_results/events_fail")["reasons"].records
    assert [record.data["markets"] for record in table] == [why["markets"] for why in told["reasons"]]
    assert secret not in str(table)


def test_answers_of_the_journal_are_counted_and_forgotten_when_asked(make_run: MakeRun, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    daily = make_run(PROCESSING_EXPERIMENTS=f"{BASELINE},{EXPERIMENT}:Noted", TEST_CALLS=str(calls))
    forget = {"experiment_results__noted": {"forget": True}}

    first, again = daily.here(), daily.here()

    assert first.said["experiments"]["noted"]["from_journal"] == 0
    assert again.said["experiments"]["noted"]["from_journal"] == 40
    told = again.metadata("experiment_results/noted")
    assert told["from_journal"] == 40
    assert told["journal"].startswith("From the journal, not asked again: noted 40. Change the version")
    assert len(calls.read_text().splitlines()) == 40

    forgotten = daily.here(ops=forget)

    assert forgotten.said["experiments"]["noted"]["from_journal"] == 0
    assert forgotten.said["experiments"]["baseline_snapshot"]["from_journal"] == 40
    assert "journal" not in forgotten.metadata("experiment_results/noted")
    assert len(calls.read_text().splitlines()) == 80
    # It said the same, so nothing is stored a second time.
    assert daily.count("experiment_runs") == 2


def test_paid_answers_are_not_forgotten_in_production(make_run: MakeRun, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    daily = make_run(PROCESSING_EXPERIMENTS=f"{BASELINE},{EXPERIMENT}:Noted", TEST_CALLS=str(calls))
    now = datetime.now(UTC)
    daily.sandbox.set_time(now)
    daily.variables |= {
        "ENVIRONMENT": "production",
        "SUPABASE_DB_URL": daily.database_url,
        "STAGING_URI": "memory://forget",
        "PREDICTBENCH_NOW": "",
    }
    key = RunKey(now.date(), 7)
    assert daily.here(key).exit_code == 0

    ran = daily.here(key, ops={"experiment_results__noted": {"forget": True}})

    assert (ran.exit_code, ran.said["stage"]) == (1, "experiment_results")
    assert "change the experiment's version to ask again" in ran.said["reason"]
    assert daily.here(key).said["experiments"]["noted"]["from_journal"] == 40
    assert len(calls.read_text().splitlines()) == 40


def test_an_experiment_that_is_materialized_alone_says_that_it_is_not_stored_yet(make_run: MakeRun) -> None:
    daily = make_run(PROCESSING_EXPERIMENTS=f"{BASELINE},{UNIFORM}")
    name, check = (
        "experiment_results/uniform",
        dg.AssetCheckKey(dg.AssetKey(["experiment_results", "uniform"]), "stored"),
    )
    with dg.DagsterInstance.ephemeral() as instance:
        whole = daily.here(instance=instance)
        assert whole.checks()["stored"] is True
        assert whole.metadata(name)["stored"] == "persisted_run of this run stores it."

        alone = daily.here(instance=instance, selection=[check.asset_key])
        assert alone.exit_code == 0
        assert alone.checks() == {"stored": False}
        assert alone.metadata(name)["stored"].startswith("Staged, not stored yet: materialize persisted_run")
        assert _passed(instance, check) is False

        assert daily.here(instance=instance, selection=[dg.AssetKey("persisted_run")]).exit_code == 0
        assert _passed(instance, check) is True


def _passed(instance: dg.DagsterInstance, check: dg.AssetCheckKey) -> bool:
    """What the UI shows of a check: its newest evaluation."""
    [record] = instance.event_log_storage.get_asset_check_execution_history(check, limit=1)
    assert record.event is not None
    evaluation = record.event.get_dagster_event().asset_check_evaluation_data
    return bool(evaluation.passed)
