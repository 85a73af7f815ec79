"""Runs whose step died, which calls no hook: their rows are ended by whoever comes next."""

import json
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner
from dagster._core.events import DagsterEvent, JobFailureData, RunFailureReason
from dagster._core.execution.plan.objects import StepFailureData
from dagster._utils.error import SerializableErrorInfo
from sqlalchemy import Engine

from predictbench_assets.assets.ended_runs import why_ended
from predictbench_assets.cli.main import main
from predictbench_assets.definitions import build_defs
from predictbench_assets.instance.run_retention import dagster_instance
from predictbench_assets.persistence.run_store import RunDatabase
from predictbench_assets.runs import partition_tags
from predictbench_assets.settings import load_settings
from predictbench_assets_tests.kit.builders import open_run
from predictbench_assets_tests.kit.daily_run import KEY
from predictbench_assets_tests.kit.database import Database

ROW = "SELECT status, stage, reason FROM predictbench.processing_runs"
DIED = "Step experiment_results__slow failed health check: pod evicted, with key planted-hunter22"
EXCHANGE = load_settings().exchange


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def begun(instance: dg.DagsterInstance, engine: Engine) -> dg.DagsterRun:
    """A run that Dagster has, and that holds its row."""
    run = instance.create_run_for_job(
        build_defs(load_settings()).resolve_job_def("daily_run"), tags=partition_tags(KEY)
    )
    open_run(engine, KEY, dagster_run_id=run.run_id, exchange=EXCHANGE)
    return run


def died(instance: dg.DagsterInstance, run: dg.DagsterRun, *, of_a_step: bool = True) -> None:
    """What an executor leaves behind when a step is gone, or when the executor itself fails."""
    error = SerializableErrorInfo(DIED, [], None)
    if of_a_step:
        failed = DagsterEvent("STEP_FAILURE", run.job_name, step_key="experiment_results__slow",
                              event_specific_data=StepFailureData(error=error, user_failure_data=None))  # fmt: skip
        instance.report_dagster_event(failed, run.run_id)
        error = None
    instance.report_run_failed(run, "it failed", JobFailureData(error=error, failure_reason=RunFailureReason.UNKNOWN))


def tick(instance: dg.DagsterInstance, run: dg.DagsterRun, database_url: str) -> None:
    """Evaluate the sensor of failed runs for one."""
    settings = load_settings(database_url=database_url, polymarket_api_key="planted-hunter22")
    database = RunDatabase(settings)
    sensor = build_defs(settings, database=database).resolve_sensor_def("failed_runs_are_told")
    [failure] = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.RUN_FAILURE)
    event = failure.get_dagster_event()
    sensor(dg.build_run_status_sensor_context("failed_runs_are_told", event, instance, run).for_run_failure())
    database.engine.dispose()


def test_the_sensor_of_failed_runs_ends_the_row(
    instance: dg.DagsterInstance, engine: Engine, database: Database, database_url: str
) -> None:
    run = begun(instance, engine)
    died(instance, run)
    tick(instance, run, database_url)
    assert database.rows(ROW) == [("failed", "experiment_results", DIED.replace("planted-hunter22", "***"))]


def test_a_row_of_another_dagster_run_is_left_alone(
    instance: dg.DagsterInstance, engine: Engine, database: Database, database_url: str
) -> None:
    run = begun(instance, engine)
    died(instance, run)
    open_run(engine, KEY, dagster_run_id="another", exchange=EXCHANGE)
    tick(instance, run, database_url)
    assert database.rows(ROW) == [("running", "target_window", None)]


@pytest.mark.parametrize("ended", [True, False])
def test_a_day_is_planned_with_the_rows_of_dead_runs_ended(
    tmp_path: Path, engine: Engine, database: Database, database_url: str, ended: bool
) -> None:
    home = tmp_path / "home"
    (home / "dagster").mkdir(parents=True)
    with dagster_instance(load_settings(predictbench_home=home)) as instance:
        assert instance is not None
        run = begun(instance, engine)
        if ended:
            died(instance, run)
    variables = {
        "DATABASE_URL": database_url,
        "PREDICTBENCH_HOME": str(home),
        "PREDICTBENCH_ENV_FILE": "",
        "PREDICTBENCH_NOW": "2026-03-02T09:00:00Z",
    }

    planned = CliRunner().invoke(main, ["due", "--scheduled"], env=variables)

    assert planned.exit_code == 0, planned.output
    assert json.loads(planned.stdout)["windows"] == [7]
    expected = ("failed", "experiment_results", DIED) if ended else ("running", "target_window", None)
    assert database.rows(ROW) == [expected]


def test_the_executors_own_failure_is_the_reason_where_no_step_failed(
    instance: dg.DagsterInstance, engine: Engine
) -> None:
    run = begun(instance, engine)
    died(instance, run, of_a_step=False)
    assert why_ended(instance, run.run_id) == (None, DIED)
