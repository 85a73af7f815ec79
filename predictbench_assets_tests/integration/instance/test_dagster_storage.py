"""Dagster's own storage: how it is opened, and what `predictbench doctor` is told about it."""

import dagster as dg
import psycopg
import pytest
from sqlalchemy.engine import make_url

from predictbench_assets.instance.storage import (
    DagsterStorage,
    DagsterStorageError,
    DagsterStorageMisconfigured,
    check_dagster_storage,
)
from predictbench_assets.settings import Settings, load_settings
from predictbench_assets_tests.integration.instance.services import dagster_url, postgres_instance
from predictbench_assets_tests.kit.daily_run import DailyRun


def settings(url: str) -> Settings:
    return load_settings(dagster_postgres_url=dagster_url(url))


def execute(url: str, statement: str) -> None:
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute(statement)


def test_an_empty_storage_is_absent_and_stays_so(empty_database_url: str) -> None:
    assert check_dagster_storage(settings(empty_database_url)) == DagsterStorage("postgres", "absent", "public")
    assert check_dagster_storage(settings(empty_database_url)).state == "absent"


def test_a_storage_in_use_has_its_revision_its_runs_and_its_size(database_url: str) -> None:
    # Our own tables are in the same database, with an Alembic of their own.
    with postgres_instance(database_url) as instance:
        instance.create_run_for_job(_job())
    found = check_dagster_storage(settings(database_url))
    assert (found.state, found.schema, found.runs) == ("current", "public", 1)
    assert found.bytes > 100_000

    execute(database_url, "UPDATE alembic_version SET version_num = '16e3115a602a'")
    assert check_dagster_storage(settings(database_url)).state == "behind"
    execute(database_url, "UPDATE alembic_version SET version_num = 'ffffffffffff'")
    assert check_dagster_storage(settings(database_url)).state == "ahead"


def test_without_a_storage_of_its_own_dagster_is_in_sqlite() -> None:
    assert check_dagster_storage(load_settings(dagster_postgres_url=None)) == DagsterStorage("sqlite")


def test_a_storage_out_of_reach_is_told_without_its_password() -> None:
    unreachable = load_settings(dagster_postgres_url="postgresql://someone:hunter22@127.0.0.1:9/dagster")
    with pytest.raises(DagsterStorageError, match=r"DAGSTER_POSTGRES_URL: .*refused") as caught:
        check_dagster_storage(unreachable)
    assert "hunter22" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_the_instance_opens_an_address_as_people_have_it(database_url: str, scheme: str) -> None:
    written = make_url(database_url).set(drivername=scheme).render_as_string(hide_password=False)
    with postgres_instance(written) as instance:
        assert instance.get_runs_count() == 0
        # The processes that Dagster starts are handed the configuration, not the storage.
        with dg.DagsterInstance.from_ref(instance.get_ref()) as again:
            assert again.get_runs_count() == 0


def test_a_run_that_loses_the_storage_says_so_and_in_one_sentence(runner: DailyRun, database_url: str) -> None:
    with postgres_instance(dagster_url(database_url)) as instance:
        instance.get_runs_count()  # makes the tables
    execute(
        database_url,
        "CREATE FUNCTION lost() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN RAISE EXCEPTION 'terminated by somebody' USING ERRCODE = '57P01'; END$$",
    )
    execute(
        database_url,
        "CREATE TRIGGER lost BEFORE INSERT ON event_logs FOR EACH ROW"
        " WHEN (NEW.dagster_event_type = 'STEP_OUTPUT' AND NEW.step_key = 'normalized_markets')"
        " EXECUTE FUNCTION lost()",
    )
    ran = runner.process()
    assert ran.exit_code == 1
    reason = "Dagster could not write to its own storage (DAGSTER_POSTGRES_URL): terminated by somebody"
    assert runner.run_row("status", "stage", "reason") == ("failed", "normalized_markets", reason)
    assert runner.rows("SELECT retriable FROM predictbench.processing_failures") == [(True,)]


def test_the_instance_refuses_a_transaction_pooler() -> None:
    pooler = "postgresql://someone:hunter22@127.0.0.1:6543/dagster"
    with (
        pytest.raises(DagsterStorageMisconfigured, match="DAGSTER_POSTGRES_URL: is a transaction pooler's") as caught,
        postgres_instance(pooler) as instance,
    ):
        instance.get_runs_count()
    assert "hunter22" not in str(caught.value)


def _job():  # type: ignore[no-untyped-def]
    @dg.job
    def empty() -> None: ...

    return empty
