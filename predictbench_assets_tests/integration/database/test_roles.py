"""`migrations/roles.sql`: every role does its work and nothing else, and the public API's roles see nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from alembic import command
from sqlalchemy import Engine

from predictbench_assets.database import health, migrations, revisions
from predictbench_assets.database.engine import make_engine
from predictbench_assets.database.privileges import API_ROLES, DAGSTER, OWNER, READER, WRITER, WRITER_NEEDS
from predictbench_assets.database.schema import SCHEMA, VERSION_TABLE, VIEWS, metadata
from predictbench_assets.persistence.writer import RunWriter
from predictbench_assets_tests.kit.builders import attempt, open_run, record
from predictbench_assets_tests.kit.deployment import ADMINISTRATOR, Deployment, connected, dagster_on, run

TABLES = sorted(table.name for table in metadata.tables.values())
REFUSED = psycopg.errors.InsufficientPrivilege


@pytest.fixture(scope="module")
def deployment() -> Iterator[Deployment]:
    with Deployment.started() as made:
        yield made


@pytest.fixture(scope="module")
def template(deployment: Deployment) -> Iterator[str]:
    """A migrated database that nobody connects to, for copies; the way of the docs: roles first, then the tables."""
    with deployment.database() as name:
        deployment.migrated(name)
        yield name


@pytest.fixture
def database(deployment: Deployment, template: str) -> Iterator[str]:
    with deployment.database(template=template) as name:
        yield name


@pytest.fixture
def empty(deployment: Deployment) -> Iterator[str]:
    with deployment.database() as name:
        yield name


@contextmanager
def engine_as(deployment: Deployment, role: str, database: str) -> Iterator[Engine]:
    engine = make_engine(deployment.url(role, database), pool_size=2)
    try:
        yield engine
    finally:
        engine.dispose()


def rights(deployment: Deployment, database: str) -> list[tuple[object, ...]]:
    """Every right and owner of everything in our schema, as the catalogue has it."""
    return run(
        deployment.url("postgres", database),
        f"SELECT relname, pg_get_userbyid(relowner), ARRAY(SELECT unnest(relacl)::text ORDER BY 1) FROM pg_class"
        f" WHERE relnamespace = '{SCHEMA}'::regnamespace AND relkind IN ('r', 'v')"
        f" UNION ALL SELECT nspname, pg_get_userbyid(nspowner), ARRAY(SELECT unnest(nspacl)::text ORDER BY 1)"
        f" FROM pg_namespace WHERE nspname IN ('{SCHEMA}', 'dagster') ORDER BY 1",
    )


def test_the_file_has_the_rights_that_the_code_gives() -> None:
    assert migrations.ROLES_FILE.read_text() == migrations.roles_sql(), (
        "run `python -m predictbench_assets.database.migrations` and commit the file"
    )


def test_every_way_to_a_migrated_database_ends_with_the_same_rights(
    deployment: Deployment, database: str, empty: str
) -> None:
    expected = rights(deployment, database)
    deployment.make_roles(database)  # a second time
    assert rights(deployment, database) == expected

    with connected(deployment.url(ADMINISTRATOR, empty)) as administrator:  # the tables first, by the administrator
        administrator.execute(migrations.SEED_FILE.read_bytes())
    deployment.make_roles(empty)
    assert rights(deployment, empty) == expected


def test_the_administrator_of_a_deployment_needs_no_roles_of_ours(deployment: Deployment, empty: str) -> None:
    migrations.upgrade(deployment.url(ADMINISTRATOR, empty))
    with engine_as(deployment, ADMINISTRATOR, empty) as engine:
        assert health.privileges(engine).lacking == ()


@pytest.mark.parametrize("role", API_ROLES)
def test_the_public_apis_roles_see_nothing_of_ours(role: str, deployment: Deployment, database: str) -> None:
    run(deployment.url(OWNER, database), f"CREATE FUNCTION {SCHEMA}.secret() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    run(deployment.url(ADMINISTRATOR, database), "CREATE TABLE public.page (id int)")
    with connected(deployment.url(role, database)) as api:
        assert api.execute("SELECT * FROM public.page").fetchall() == []  # the API's roles are alive
        for relation in (*TABLES, *VIEWS, VERSION_TABLE):
            with pytest.raises(REFUSED, match=f"schema {SCHEMA}"):
                api.execute(f"SELECT * FROM {SCHEMA}.{relation}")
            with pytest.raises(REFUSED):
                api.execute(f"INSERT INTO {SCHEMA}.{relation} DEFAULT VALUES")
        with pytest.raises(REFUSED):
            api.execute(f"SELECT {SCHEMA}.secret()")
        for catalogue, column in (
            ("tables", "table_schema"),
            ("columns", "table_schema"),
            ("routines", "routine_schema"),
        ):
            rows = api.execute(
                f"SELECT * FROM information_schema.{catalogue} WHERE {column} IN ('{SCHEMA}', 'dagster')"
            )
            assert rows.fetchall() == []
        for schema in (SCHEMA, "dagster"):
            for right in ("USAGE", "CREATE"):
                assert api.execute("SELECT has_schema_privilege(%s, %s)", [schema, right]).fetchone() == (False,)


def test_a_door_that_someone_opened_is_noticed_and_closed_again(deployment: Deployment, database: str) -> None:
    with engine_as(deployment, WRITER, database) as engine:
        assert health.exposed_to(engine) == ()
        run(deployment.url(OWNER, database), f"GRANT USAGE ON SCHEMA {SCHEMA} TO authenticated")
        run(deployment.url(OWNER, database), f"GRANT SELECT ON ALL TABLES IN SCHEMA {SCHEMA} TO anon")
        assert health.exposed_to(engine) == ("authenticated",)
        run(deployment.url(OWNER, database), f"GRANT USAGE ON SCHEMA {SCHEMA} TO PUBLIC")
        assert set(health.exposed_to(engine)) == {*API_ROLES, "PUBLIC"}

        deployment.make_roles(database)
        assert health.exposed_to(engine) == ()


def test_the_writer_stores_a_run_and_lacks_nothing(deployment: Deployment, database: str) -> None:
    with engine_as(deployment, WRITER, database) as engine:
        assert health.privileges(engine) == health.Privileges(WRITER, (), ())
        lease = open_run(engine)
        report = RunWriter(engine, lease, lease.clock).write([record(1), record(2)], [attempt()])
        assert (report.processed, report.failures) == (2, [])
        assert revisions.is_current(engine)
    # What `predictbench prune` does.
    with connected(deployment.url(WRITER, database)) as writer:
        writer.execute(f"INSERT INTO {SCHEMA}.archives VALUES (gen_random_uuid(), 's3://a', 'b', 2, now())")
        moved = writer.execute(
            f"UPDATE {SCHEMA}.processed_markets SET raw_snapshot = NULL,"
            f" raw_archive_id = (SELECT archive_id FROM {SCHEMA}.archives)"
        )
        assert moved.rowcount == 2


@pytest.mark.parametrize(
    "statement",
    [
        f"CREATE TABLE {SCHEMA}.mine (id int)",
        f"CREATE FUNCTION {SCHEMA}.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE SCHEMA mine",
        "CREATE TABLE public.mine (id int)",
        "CREATE ROLE mine",
        f"ALTER TABLE {SCHEMA}.events ADD COLUMN mine int",
        f"ALTER TABLE {SCHEMA}.events DISABLE TRIGGER ALL",
        f"DROP TABLE {SCHEMA}.archives",
        f"DROP SCHEMA {SCHEMA} CASCADE",
        f"CREATE INDEX ON {SCHEMA}.events (slug)",
        f"UPDATE {SCHEMA}.experiment_results SET probability = 0.5",
        f"DELETE FROM {SCHEMA}.experiment_results",
        f"UPDATE {SCHEMA}.resolution_observations SET outcome = 1",
        f"DELETE FROM {SCHEMA}.processing_runs",
        f"DELETE FROM {SCHEMA}.processed_markets",
        f"UPDATE {SCHEMA}.{VERSION_TABLE} SET version_num = '0001'",
        "SELECT * FROM dagster.anything",
        f"SET ROLE {OWNER}",
        *(f"TRUNCATE {SCHEMA}.{table} CASCADE" for table in TABLES),
    ],
)
def test_the_writer_is_refused_everything_else(statement: str, deployment: Deployment, template: str) -> None:
    with connected(deployment.url(WRITER, template)) as writer, pytest.raises(REFUSED):
        writer.execute(statement)


def test_the_reader_reads_everything_and_writes_nothing(deployment: Deployment, template: str) -> None:
    with connected(deployment.url(READER, template)) as reader:
        assert reader.execute("SHOW default_transaction_read_only").fetchone() == ("on",)
        reader.execute("SET default_transaction_read_only = off")  # a default is no fence; its rights are
        for relation in (*TABLES, *VIEWS):
            reader.execute(f"SELECT * FROM {SCHEMA}.{relation}")
        for table in TABLES:
            for change in (f"INSERT INTO {SCHEMA}.{table} DEFAULT VALUES", f"DELETE FROM {SCHEMA}.{table}"):
                with pytest.raises(REFUSED):
                    reader.execute(change)
            column = next(iter(metadata.tables[f"{SCHEMA}.{table}"].columns)).name
            with pytest.raises(REFUSED):
                reader.execute(f"UPDATE {SCHEMA}.{table} SET {column} = {column}")
        for change in (f"CREATE TABLE {SCHEMA}.mine (id int)", "SELECT * FROM dagster.runs", f"SET ROLE {WRITER}"):
            with pytest.raises((REFUSED, psycopg.errors.UndefinedTable)):
                reader.execute(change)


def test_a_table_of_a_later_migration_is_covered(deployment: Deployment, database: str) -> None:
    run(deployment.url(OWNER, database), f"CREATE TABLE {SCHEMA}.later (id int)")
    run(deployment.url(WRITER, database), f"INSERT INTO {SCHEMA}.later VALUES (1)")
    run(deployment.url(WRITER, database), f"UPDATE {SCHEMA}.later SET id = 2")
    assert run(deployment.url(READER, database), f"SELECT id FROM {SCHEMA}.later") == [(2,)]
    for role, statement in ((WRITER, "DELETE FROM"), (WRITER, "TRUNCATE"), (READER, "DELETE FROM")):
        with pytest.raises((REFUSED, psycopg.errors.ReadOnlySqlTransaction)):
            run(deployment.url(role, database), f"{statement} {SCHEMA}.later")


def test_the_owner_migrates_up_and_down_and_up(deployment: Deployment, database: str) -> None:
    url, expected = deployment.url(OWNER, database), rights(deployment, database)
    migrations.downgrade(url, "0001")
    migrations.upgrade(url)
    assert rights(deployment, database) == expected
    migrations._run(url, command.check)
    migrations.downgrade(url, "base")
    migrations.upgrade(url)
    assert rights(deployment, database) == expected


def test_a_right_that_was_taken_is_told_and_comes_back_with_the_next_upgrade(
    deployment: Deployment, database: str
) -> None:
    run(deployment.url(OWNER, database), f"REVOKE DELETE ON {SCHEMA}.processed_contracts FROM {WRITER}")
    run(deployment.url(OWNER, database), f"GRANT TRUNCATE ON {SCHEMA}.events TO {WRITER}")
    with engine_as(deployment, WRITER, database) as engine:
        assert health.privileges(engine) == health.Privileges(
            WRITER, ("DELETE on processed_contracts",), ("TRUNCATE on events",)
        )
        migrations.upgrade(deployment.url(OWNER, database))
        assert health.privileges(engine) == health.Privileges(WRITER, (), ())

        run(deployment.url(OWNER, database), f"REVOKE USAGE ON SCHEMA {SCHEMA} FROM {WRITER}")
        assert health.privileges(engine).lacking == (f"USAGE on schema {SCHEMA}",)
        run(deployment.url(OWNER, database), f"DROP SCHEMA {SCHEMA} CASCADE")
        assert health.privileges(engine).lacking == (f"schema {SCHEMA}",)


def test_the_roles_needs_name_every_table() -> None:
    assert set(WRITER_NEEDS) == {*TABLES, *VIEWS, VERSION_TABLE}


def test_dagster_keeps_to_its_own_schema(deployment: Deployment, database: str, tmp_path: Path) -> None:
    with dagster_on(deployment.url(DAGSTER, database), tmp_path) as instance:
        instance.add_dynamic_partitions("days", ["2026-02-02"])
        assert instance.get_dynamic_partitions("days") == ["2026-02-02"]
        assert list(instance.get_runs()) == []

    where = run(
        deployment.url("postgres", database),
        "SELECT DISTINCT schemaname FROM pg_tables WHERE tablename IN ('runs', 'event_logs', 'alembic_version')",
    )
    assert where == [("dagster",)]
    for statement in (
        f"SELECT * FROM {SCHEMA}.processing_runs",
        f"CREATE TABLE {SCHEMA}.mine (id int)",
        "CREATE TABLE public.mine (id int)",
    ):
        with pytest.raises(REFUSED):
            run(deployment.url(DAGSTER, database), statement)
    with pytest.raises(REFUSED):
        run(deployment.url(WRITER, database), "SELECT * FROM dagster.runs")
    # Ours are as they were, and stay apart.
    migrations._run(deployment.url(OWNER, database), command.check)
