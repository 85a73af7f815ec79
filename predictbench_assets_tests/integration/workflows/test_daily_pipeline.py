"""The daily pipeline, by its own steps: what a scheduled or hand-started run stores, shows, keeps and tells."""

from datetime import UTC, datetime, timedelta

import pytest

from predictbench_assets.sandbox.server import serve
from predictbench_assets.sandbox.world import World
from predictbench_assets_tests.integration.workflows.actions_runner import Job
from predictbench_assets_tests.kit.workflows import NOW, Repository, with_password

BROKEN = "http500=1"
DAY = "2026-03-02"


def only(jobs: list[Job]) -> Job:
    [job] = jobs
    return job


def test_an_ordinary_day_is_stored_shown_kept_and_followed_by_a_sign_of_life(deployment: Repository) -> None:
    # As Supabase shows it, without a driver.
    deployment.secrets["DAGSTER_POSTGRES_URL"] = with_password(deployment.database_url, drivername="postgres")

    jobs = deployment.run("daily-pipeline", event="schedule")

    plan, run = only(jobs["plan"]), only(jobs["run"])
    assert (plan.conclusion, run.conclusion) == ("success", "success"), run.log
    assert plan.outputs == {"run_date": DAY, "windows": "[7]"}
    assert deployment.stored() == [(DAY, 7, "completed", 20)]
    # Dagster's own storage has it too, for a UI elsewhere.
    assert deployment.rows("SELECT status FROM runs") == [("SUCCESS",)]

    assert run.step("Run once more").conclusion == "skipped"
    assert run.environment == "staging"
    assert run.concurrency == f"predictbench-staging-{DAY}-7"
    assert f"## Predictbench {DAY}, window 7 days: completed" in run.summary
    [kept] = run.artifacts.values()
    assert {"summary.json", "summary.md", "dagster.log"} <= set(kept)
    assert deployment.told.notes == []
    assert deployment.told.signs_of_life == 1
    assert "persisted_run" in (run.temp / "predictbench" / "kept" / "dagster.log").read_text()
    assert "warning" not in run.step("Prepare").output

    # The schedules that heal come later, and have nothing to do.
    healing = deployment.run("daily-pipeline", event="schedule")
    assert only(healing["plan"]).outputs == {"run_date": DAY, "windows": "[]"}
    assert only(healing["run"]).conclusion == "skipped"
    assert deployment.told.signs_of_life == 1


def test_a_schedule_does_nothing_until_it_is_enabled(deployment: Repository) -> None:
    del deployment.variables["PIPELINE_ENABLED"]
    jobs = deployment.run("daily-pipeline", event="schedule")
    assert [job.conclusion for cells in jobs.values() for job in cells] == ["skipped"] * 3


def test_a_missing_database_stops_everything_before_the_installation(deployment: Repository) -> None:
    deployment.secrets["SUPABASE_DB_URL"] = ""
    jobs = deployment.run("daily-pipeline", event="schedule")

    plan = only(jobs["plan"])
    assert plan.conclusion == "failure"
    assert "::error title=SUPABASE_DB_URL is missing::" in plan.step("Refuse to begin without a database").output
    assert "'staging'" in plan.step("Refuse to begin without a database").output
    assert plan.step("Install").conclusion == "skipped"
    assert only(jobs["run"]).conclusion == "skipped"
    [note] = deployment.told.notes
    assert "set-up" in note
    assert "https://github.example/someone/predictbench/actions/runs/4001" in note
    assert deployment.told.signs_of_life == 0


def test_an_environment_that_is_none_is_told_in_words(deployment: Repository) -> None:
    deployment.variables["ENVIRONMENT"] = "prod"
    plan = only(deployment.run("daily-pipeline", event="schedule")["plan"])
    assert plan.conclusion == "failure"
    assert "ENVIRONMENT is 'prod'" in plan.step("Refuse to begin without a database").output


def test_a_failing_installation_is_told_by_any_python(deployment: Repository) -> None:
    deployment.runner.install = "echo no matching hash; exit 1"
    plan = only(deployment.run("daily-pipeline", event="schedule")["plan"])
    assert plan.conclusion == "failure"
    [note] = deployment.told.notes
    assert "set-up" in note


def test_a_day_that_is_over_is_recorded_as_missed_told_and_red(deployment: Repository) -> None:
    deployment.at(NOW.replace(hour=0) + timedelta(days=1))
    jobs = deployment.run("daily-pipeline", event="schedule")

    plan = only(jobs["plan"])
    assert plan.conclusion == "failure"
    assert plan.outputs == {"run_date": DAY, "windows": "[]"}
    assert "::error title=Missed::" in plan.step("A missed day is red").output
    assert only(jobs["run"]).conclusion == "skipped"
    assert [row[:3] for row in deployment.stored()] == [(DAY, 7, "missed")]
    assert deployment.rows("SELECT exchange FROM predictbench.processing_runs") == [("localhost",)]
    [note] = deployment.told.notes
    assert "MISSED" in note
    assert DAY in note
    assert not deployment.exchange.requests


@pytest.mark.long
def test_an_exchange_that_recovers_is_asked_once_more(deployment: Repository) -> None:
    deployment.exchange.set_faults(BROKEN)
    deployment.runner.before = {"Run once more": lambda: deployment.exchange.set_faults("")}
    run = only(deployment.run("daily-pipeline", event="schedule")["run"])

    assert run.conclusion == "success", run.log
    assert (run.step("Run").outcome, run.step("Run once more").outcome) == ("failure", "success")
    assert deployment.stored() == [(DAY, 7, "completed", 20)]
    assert deployment.told.notes == []
    assert deployment.told.signs_of_life == 1
    # Without a storage of its own for Dagster nobody will see the run in a UI, and that is said.
    assert "::warning title=DAGSTER_POSTGRES_URL is missing::" in run.step("Prepare").output


@pytest.mark.long
def test_an_experiment_that_crashes_costs_the_first_try_and_its_own_markets(deployment: Repository) -> None:
    deployment.secrets["DAGSTER_POSTGRES_URL"] = with_password(deployment.database_url)
    deployment.variables["PROCESSING_EXPERIMENTS"] = (
        "predictbench_assets_tests.integration.daily_run.experiments:Segfaults"
    )
    run = only(deployment.run("daily-pipeline", event="schedule")["run"])

    assert run.conclusion == "success", run.log
    assert (run.step("Run").outcome, run.step("Run once more").outcome) == ("failure", "success")
    assert deployment.stored() == [(DAY, 7, "completed", 20)]
    assert "the process that forecast it ended with SIGSEGV" in run.summary
    # It had begun, so Dagster's storage is not to blame.
    assert "Dagster's storage is left out" not in run.log
    assert ("SUCCESS",) in deployment.rows("SELECT status FROM runs")
    assert deployment.told.notes == []


@pytest.mark.long
def test_an_exchange_that_stays_broken_makes_the_run_red_and_is_told(deployment: Repository) -> None:
    deployment.exchange.set_faults(BROKEN)
    run = only(deployment.run("daily-pipeline", event="schedule")["run"])

    assert run.conclusion == "failure"
    assert [row[:3] for row in deployment.stored()] == [(DAY, 7, "failed")]
    assert "failed" in run.summary
    [kept] = run.artifacts.values()
    assert {"summary.json", "dagster.log"} <= set(kept)
    [note] = deployment.told.notes
    for told in (DAY, "7", "raw_markets", "500", "https://github.example/someone/predictbench/actions/runs/"):
        assert told in note
    assert deployment.told.signs_of_life == 0


def test_a_failing_migration_is_told_with_its_stage(deployment: Repository) -> None:
    deployment.secrets["SUPABASE_MIGRATION_DB_URL"] = with_password(deployment.database_url, database="nowhere")
    run = only(deployment.run("daily-pipeline", event="schedule")["run"])
    assert run.conclusion == "failure"
    assert run.step("Migrate").conclusion == "failure"
    assert run.step("Run").conclusion == "skipped"
    [note] = deployment.told.notes
    assert "db upgrade" in note
    assert DAY in note


@pytest.mark.long
def test_a_dagster_storage_that_is_not_there_costs_no_day_and_is_told(deployment: Repository) -> None:
    deployment.secrets["DAGSTER_POSTGRES_URL"] = with_password(deployment.database_url, database="nowhere")
    run = only(deployment.run("daily-pipeline", event="schedule")["run"])
    assert run.conclusion == "success", run.log
    assert "nowhere" in run.step("Run").output
    assert "::warning title=Dagster's storage is left out" in run.log
    assert [row[:3] for row in deployment.stored()] == [(DAY, 7, "completed")]
    [note] = deployment.told.notes
    assert DAY in note
    assert "Dagster's storage" in note
    assert deployment.told.signs_of_life == 1


@pytest.mark.long
def test_a_first_deployment_by_hand_with_two_windows_and_all_that_may_be_asked(
    deployment: Repository, empty_database_url: str
) -> None:
    deployment.database_url = empty_database_url
    deployment.secrets["SUPABASE_DB_URL"] = with_password(empty_database_url)
    deployment.variables["NOTIFY_ON_SUCCESS"] = "true"
    jobs = deployment.run("daily-pipeline", window_days="1,7", debug_artifacts=True)

    assert [job.conclusion for job in jobs["run"]] == ["success", "success"], jobs["run"][0].log
    assert [row[:3] for row in deployment.stored()] == [(DAY, 1, "completed"), (DAY, 7, "completed")]
    assert len({job.concurrency for job in jobs["run"]}) == 2
    kept = jobs["run"][0].artifacts[f"run-{DAY}-w1-1"]
    assert any("debug" in name for name in kept), kept
    assert len(deployment.told.notes) == 2
    assert deployment.told.signs_of_life == 2

    # The same again by hand: skipped where that was asked for, refused where that was. No sign that today is alive.
    skipped = only(deployment.run("daily-pipeline", run_date=DAY, window_days="7", on_existing="skip")["run"])
    assert skipped.conclusion == "success"
    assert "skipped" in skipped.summary
    assert deployment.told.signs_of_life == 2
    refused = only(deployment.run("daily-pipeline", window_days="7", on_existing="fail")["run"])
    assert refused.conclusion == "failure"
    assert deployment.stored()[1][2] == "completed"


def test_a_dry_run_writes_nothing_and_shows_no_life(deployment: Repository) -> None:
    deployment.secrets["DAGSTER_POSTGRES_URL"] = with_password(deployment.database_url)
    run = only(deployment.run("daily-pipeline", dry_run=True)["run"])
    assert run.conclusion == "success", run.log
    assert "Would have written" in run.summary
    assert run.step("Migrate").conclusion == "skipped"
    assert deployment.stored() == []
    assert deployment.rows("SELECT to_regclass('public.runs')") == [(None,)]
    assert deployment.told.requests == []


@pytest.mark.long
def test_production_runs_at_the_real_time(deployment: Repository) -> None:
    now = datetime.now(UTC)
    del deployment.machine["PREDICTBENCH_NOW"]
    with serve(World(markets_per_day=20), now=now) as exchange:
        deployment.variables |= {
            "ENVIRONMENT": "production",
            "POLYMARKET_BASE_URL": exchange.base_url,
            "POLYMARKET_CLOB_URL": exchange.clob_url,
        }
        run = only(deployment.run("daily-pipeline", environment="production")["run"])
    assert run.conclusion == "success", run.log
    assert run.environment == "production"
    [(_, window, status, processed)] = deployment.stored()
    assert (window, status, processed) == (7, "completed", 20)


@pytest.mark.long
def test_a_cancelled_workflow_closes_the_run_and_is_told(deployment: Repository) -> None:
    deployment.exchange.set_faults("latency_ms=2000")
    deployment.runner.cancelled = {"Run": lambda: bool(deployment.exchange.requests)}
    run = only(deployment.run("daily-pipeline", event="schedule")["run"])

    assert run.conclusion == "cancelled"
    assert run.step("Run once more").conclusion == "skipped"
    assert [row[:3] for row in deployment.stored()] == [(DAY, 7, "failed")], run.log
    assert run.artifacts
    [(reason,)] = deployment.rows("SELECT reason FROM predictbench.processing_runs")
    assert "stopped by a signal" in reason
    [note] = deployment.told.notes
    assert "cancelled, or over the time limit" in note


def test_inputs_are_data_and_not_commands(deployment: Repository) -> None:
    hostile = "2026-03-02'; touch pwned; echo '$(touch pwned)"
    plan = only(deployment.run("daily-pipeline", run_date=hostile)["plan"])
    assert plan.conclusion == "failure"
    assert "is no day of the calendar" in plan.step("What is due").output
    assert not list(deployment.runner.folder.rglob("pwned"))
    assert not list(deployment.runner.clone.glob("pwned"))
    assert len(deployment.told.notes) == 1
