"""Migrations on a real Postgres: all the way up, down and up again, beside other people's tables."""

import logging
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, inspect, text

from predictbench_assets.database import migrations, revisions
from predictbench_assets.database.engine import make_engine
from predictbench_assets.database.schema import SCHEMA, VERSION_TABLE, VIEWS, metadata


def our_tables(engine: Engine) -> set[str]:
    return set(inspect(engine).get_table_names(schema=SCHEMA)) - {VERSION_TABLE}


def test_a_migrated_database_has_what_the_code_declares_and_nothing_else(database_url: str, engine: Engine) -> None:
    migrations._run(database_url, command.check)  # raises when autogenerate finds a difference
    assert our_tables(engine) == {table.name for table in metadata.tables.values()}
    assert set(inspect(engine).get_view_names(schema=SCHEMA)) == set(VIEWS)


def test_the_revisions_are_those_that_alembic_finds() -> None:
    scripts = ScriptDirectory.from_config(migrations._config())
    assert [script.revision for script in scripts.walk_revisions()] == list(revisions._revisions())
    assert scripts.get_heads() == [revisions.head()]


def test_two_revisions_in_a_database_are_said_to_be_too_many(database_url: str, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text(f"INSERT INTO {SCHEMA}.{VERSION_TABLE} VALUES ('0001')"))
    with pytest.raises(revisions.SchemaOutdated, match=f"{VERSION_TABLE} has 2 rows and should have one"):
        revisions.require_current(engine)


def test_a_forgotten_column_is_noticed(database_url: str, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE predictbench.events DROP COLUMN title"))
    with pytest.raises(Exception, match="title"):
        migrations._run(database_url, command.check)


def test_up_down_and_up_again_leaves_the_tables_of_others_alone(empty_database_url: str) -> None:
    engine = make_engine(empty_database_url, pool_size=0)
    with engine.begin() as connection:  # what Dagster keeps in the same database
        connection.execute(text("CREATE TABLE runs (id bigint PRIMARY KEY, run_id varchar(255))"))
        connection.execute(text("CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)"))
        connection.execute(text("INSERT INTO alembic_version VALUES ('29b539ebc72a')"))

    assert revisions.current(engine) is None
    assert not revisions.is_current(engine)
    migrations.upgrade(empty_database_url)
    assert revisions.is_current(engine)
    migrations.downgrade(empty_database_url, "base")
    assert our_tables(engine) == set()
    assert inspect(engine).get_view_names(schema=SCHEMA) == []
    migrations.upgrade(empty_database_url)
    migrations.upgrade(empty_database_url)  # nothing to do
    migrations._run(empty_database_url, command.check)

    with engine.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM public.alembic_version")).scalars().all() == [
            "29b539ebc72a"
        ]
        assert inspect(connection).has_table("runs", schema="public")
    migrations.downgrade(empty_database_url, "base")
    with pytest.raises(revisions.SchemaOutdated, match="predictbench db upgrade"):
        revisions.require_current(engine)


def test_a_database_of_a_newer_version_is_not_told_to_be_upgraded(database_url: str, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE {SCHEMA}.{VERSION_TABLE} SET version_num = '9999'"))
    for refused in (lambda: revisions.require_current(engine), lambda: migrations.upgrade(database_url)):
        with pytest.raises(revisions.SchemaOutdated, match=r"revision 9999, which this code .* does not know"):
            refused()


def test_nothing_is_printed(
    empty_database_url: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whatever earlier tests of the session have set up: a log line is for the handlers, and there are none here.
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    migrations.upgrade(empty_database_url)
    migrations.offline_sql()
    migrations.downgrade(empty_database_url, "base")
    assert capfd.readouterr() == ("", "")


def test_the_sql_file_for_supabase_is_up_to_date() -> None:
    assert migrations.SEED_FILE.read_text() == migrations.seed_sql(), (
        "run `python -m predictbench_assets.database.migrations` and commit the file"
    )


def test_the_sql_file_makes_the_same_tables(empty_database_url: str) -> None:
    engine = make_engine(empty_database_url, pool_size=0)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.connection.driver_connection.execute(migrations.SEED_FILE.read_bytes())  # type: ignore[union-attr]
    assert revisions.is_current(engine)
    migrations._run(empty_database_url, command.check)


def test_the_code_finds_its_migrations_from_any_folder(
    empty_database_url: str, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(str(tmp_path))
    migrations.upgrade(empty_database_url)
    assert revisions.is_current(make_engine(empty_database_url, pool_size=0))


def test_an_unreachable_server_is_told_as_such(tmp_path: object) -> None:
    engine = make_engine(f"postgresql+psycopg://postgres@/none?host={tmp_path}", pool_size=0)
    with pytest.raises(Exception, match="not available") as caught:
        revisions.current(engine)
    assert getattr(caught.value, "retriable", None) is True
    assert "DATABASE_URL" in str(caught.value)


def test_a_second_migration_waits_for_the_first(empty_database_url: str) -> None:
    engine = make_engine(empty_database_url, pool_size=0)
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    with ThreadPoolExecutor(1) as threads:
        with engine.begin() as first:
            first.execute(text("SELECT pg_advisory_xact_lock(hashtext('predictbench migrations'))"))
            second = threads.submit(migrations.upgrade, empty_database_url)
            deadline = time.monotonic() + 20
            while first.execute(text(waiting)).scalar_one() == 0:
                assert not second.done(), "it did not wait"
                assert time.monotonic() < deadline
            assert our_tables(engine) == set()
        second.result(timeout=30)
    assert revisions.is_current(engine)
