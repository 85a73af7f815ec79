"""What a daemon does: judge freshness, ask for the day's runs, tell of failed ones, end dead ones."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

import dagster as dg
import pytest
from dagster._core.definitions.freshness import FreshnessState
from dagster._core.definitions.freshness_evaluator import FRESHNESS_EVALUATORS_BY_POLICY_TYPE
from dagster._core.definitions.schedule_definition import ScheduleExecutionData
from dagster._core.loader import LoadingContextForTest
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin
from dagster._core.test_utils import create_test_daemon_workspace_context, freeze_time
from dagster._core.workspace.load_target import EmptyWorkspaceTarget
from dagster._daemon.monitoring.run_monitoring import execute_run_monitoring_iteration
from sqlalchemy import Engine

from predictbench_assets.definitions import build_defs
from predictbench_assets.persistence.leases import RunCounts
from predictbench_assets.persistence.run_store import RunDatabase
from predictbench_assets.runs import RunKey
from predictbench_assets.settings import load_settings
from predictbench_assets_tests.integration.instance.services import postgres_instance
from predictbench_assets_tests.kit.builders import open_run
from predictbench_assets_tests.kit.daily_run import KEY, DailyRun
from predictbench_assets_tests.kit.http_services import webhook

RUN = dg.AssetKey("persisted_run")
AT_SEVEN = datetime(2026, 3, 2, 7, 5, tzinfo=UTC)


# Freshness


def freshness(instance: dg.DagsterInstance, now: datetime) -> FreshnessState:
    """What the daemon would say of `persisted_run`, by its own evaluator."""
    node = build_defs(load_settings()).resolve_asset_graph().get(RUN)
    assert node.freshness_policy is not None
    evaluator = FRESHNESS_EVALUATORS_BY_POLICY_TYPE[type(node.freshness_policy)]()
    with freeze_time(now):
        return asyncio.run(evaluator.evaluate_freshness(LoadingContextForTest(instance), node))


@pytest.mark.parametrize(
    ("later", "state"),
    [
        (timedelta(hours=23), FreshnessState.PASS),
        (timedelta(hours=25, minutes=59), FreshnessState.PASS),
        (timedelta(hours=26), FreshnessState.WARN),
        (timedelta(hours=29, minutes=59), FreshnessState.WARN),
        (timedelta(hours=30), FreshnessState.FAIL),
    ],
)
def test_a_run_is_late_after_two_hours_and_missing_after_six(later: timedelta, state: FreshnessState) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        with freeze_time(AT_SEVEN):
            instance.report_runless_asset_event(dg.AssetMaterialization(RUN, partition="2026-03-02|7"))
        assert freshness(instance, AT_SEVEN + later) is state


def test_nothing_is_late_before_the_first_run() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        assert freshness(instance, AT_SEVEN) is FreshnessState.UNKNOWN


# The schedule


@dataclass
class Scheduled:
    """The schedule on a database of its own."""

    database_url: str
    variables: dict[str, object] = field(default_factory=dict)
    database: RunDatabase = field(init=False)

    def tick(self, day: date, now: datetime, name: str = "daily_run_schedule") -> ScheduleExecutionData:
        """Evaluate the tick of a day at an instant, as the daemon does."""
        used = load_settings(database_url=self.database_url, horizons=(1, 7), predictbench_now=now, **self.variables)
        self.database = RunDatabase(used)
        defs = build_defs(used, database=self.database)
        schedule = defs.resolve_schedule_def(name)
        try:
            with dg.DagsterInstance.ephemeral() as instance:
                context = dg.build_schedule_context(
                    instance=instance,
                    scheduled_execution_time=datetime(day.year, day.month, day.day, 7, tzinfo=UTC),
                    repository_def=defs.get_repository_def(),
                )
                return schedule.evaluate_tick(context)
        finally:
            self.database.engine.dispose()

    def rows(self) -> list[tuple[object, ...]]:
        """Window, status and reason of the runs that are stored."""
        with self.database.engine.connect() as connection:
            query = "SELECT window_days, status, reason FROM predictbench.processing_runs ORDER BY 1"
            found = [tuple(row) for row in connection.exec_driver_sql(query)]
        self.database.engine.dispose()
        return found


@pytest.fixture
def scheduled(database_url: str) -> Scheduled:
    return Scheduled(database_url)


def test_a_tick_asks_for_what_is_not_stored(scheduled: Scheduled, engine: Engine) -> None:
    asked = scheduled.tick(KEY.run_date, AT_SEVEN).run_requests or []
    assert [str(one.partition_key) for one in asked] == [f"{KEY.run_date}|1", f"{KEY.run_date}|7"]
    assert asked[0].tags["dagster/partition/window_days"] == "1"
    assert asked[0].run_config["ops"] == {"target_window": {"config": {"on_existing": "skip"}}}
    done(engine, RunKey(KEY.run_date, 1))
    [left] = scheduled.tick(KEY.run_date, AT_SEVEN).run_requests or []
    assert str(left.partition_key) == str(KEY)
    done(engine, KEY)
    ticked = scheduled.tick(KEY.run_date, AT_SEVEN)
    assert not ticked.run_requests
    assert ticked.skip_message == f"every window of {KEY.run_date} is stored"


def test_a_tick_of_each_hour_collects_batches(
    scheduled: Scheduled, engine: Engine, paid_rows: Callable[..., None]
) -> None:
    done(engine, KEY)
    later = AT_SEVEN + timedelta(hours=5)
    nothing = scheduled.tick(KEY.run_date, later, "batch_collection_schedule")
    assert nothing.skip_message == f"no batch of {KEY.run_date} is under way"
    paid_rows(KEY, batch_id="batch_1")
    [asked] = scheduled.tick(KEY.run_date, later, "batch_collection_schedule").run_requests or []
    assert str(asked.partition_key) == str(KEY)
    assert asked.run_config["ops"] == {"target_window": {"config": {"on_existing": "skip"}}}


def test_a_tick_that_comes_when_the_day_is_over_captures_nothing(scheduled: Scheduled, engine: Engine) -> None:
    done(engine, RunKey(KEY.run_date, 1))
    with webhook() as told:
        scheduled.variables["notify_webhook_url"] = told.url
        ticked = scheduled.tick(KEY.run_date, AT_SEVEN + timedelta(days=1))
        again = scheduled.tick(KEY.run_date, AT_SEVEN + timedelta(days=1))
    assert not ticked.run_requests
    assert (ticked.skip_message or "").startswith(f"no run began on {KEY.run_date}")
    assert [(window, status) for window, status, _ in scheduled.rows()] == [(1, "completed"), (7, "missed")]
    [text] = told.texts
    assert "window 7 days was MISSED" in text
    assert "materialized again" in (again.skip_message or "")


def test_a_tick_on_a_database_without_tables_plans_as_the_command_does(
    empty_database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    scheduled = Scheduled(empty_database_url)
    asked = scheduled.tick(KEY.run_date, AT_SEVEN).run_requests or []
    assert [str(one.partition_key) for one in asked] == [f"{KEY.run_date}|1", f"{KEY.run_date}|7"]
    assert "`predictbench db upgrade` makes them" in caplog.text
    with webhook() as told:
        scheduled.variables["notify_webhook_url"] = told.url
        late = scheduled.tick(KEY.run_date, AT_SEVEN + timedelta(days=1))
    assert (late.skip_message or "").startswith(f"no run began on {KEY.run_date}")
    assert f"missed, and not recorded: {KEY.run_date}, window 7" in caplog.text
    assert told.texts == []


def done(engine: Engine, key: RunKey) -> None:
    """Store a complete run, as far as the schedule looks."""
    lease = open_run(engine, key, AT_SEVEN, exchange=load_settings().exchange)
    lease.finish(RunCounts(0, 0, 0, 0, 0), status="completed")


# The sensor


def test_a_run_that_failed_on_a_runner_is_told(runner: DailyRun, database_url: str) -> None:
    with webhook() as told, postgres_instance(runner.variables["DAGSTER_POSTGRES_URL"]) as instance:
        defs = build_defs(load_settings(notify_webhook_url=told.url, database_url=database_url))
        sensor = defs.resolve_sensor_def("failed_runs_are_told")
        assert sensor.default_status is dg.DefaultSensorStatus.STOPPED

        def tick(cursor: str | None) -> str | None:
            # As the daemon makes it: the sensor belongs to a code location.
            with dg.SensorEvaluationContext(
                instance_ref=None,
                instance=instance,
                cursor=cursor,
                repository_name="__repository__",
                repository_def=defs.get_repository_def(),
                code_location_origin=GrpcServerCodeLocationOrigin("localhost", 4000, location_name="predictbench"),
            ) as context:
                return sensor.evaluate_tick(context).cursor

        began = tick(None)
        ran = runner.process(POLYMARKET_BASE_URL="http://127.0.0.1:9", POLYMARKET_MAX_ATTEMPTS="1")
        assert ran.exit_code == 1
        [run] = instance.get_runs()
        assert run.remote_job_origin is None, "a run that belongs to no code location is what this is about"
        tick(tick(began))
    [note] = told.texts
    assert f"the run of {KEY.run_date}, window 7 days FAILED at raw_markets" in note
    assert run.run_id in note
    assert "the markets ending from 2026-" in note


# Run monitoring


def test_a_run_whose_machine_died_is_ended_after_three_hours(runner: DailyRun) -> None:
    killed = runner.forked(killed_at="predictbench_assets.persistence.leases:Lease.finish:before:1")
    assert killed.exit_code == -9, killed.output
    with (
        postgres_instance(runner.variables["DAGSTER_POSTGRES_URL"]) as instance,
        create_test_daemon_workspace_context(EmptyWorkspaceTarget(), instance) as workspace,
    ):
        [run] = instance.get_runs()

        def status_after(hours: float) -> dg.DagsterRunStatus:
            with freeze_time(datetime.now(UTC) + timedelta(hours=hours)):
                assert not any(execute_run_monitoring_iteration(workspace, logging.getLogger("monitoring")))
            found = instance.get_run_by_id(run.run_id)
            assert found is not None
            return found.status

        assert status_after(2.9) is dg.DagsterRunStatus.STARTED
        assert status_after(3.1) is dg.DagsterRunStatus.FAILURE
