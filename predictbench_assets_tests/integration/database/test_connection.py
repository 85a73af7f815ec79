"""Which database is meant: the configured one, the embedded one, or a dry run's own."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from predictbench_assets.database import revisions
from predictbench_assets.database.connection import (
    DatabaseNotRunning,
    TransactionPooled,
    database_url,
    embedded_server,
    migration_url,
    opened_database,
)
from predictbench_assets.database.embedded import DATABASE_NAME, USER
from predictbench_assets.database.engine import make_engine
from predictbench_assets.settings import Settings


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder with a short path: a socket's has a limit."""
    with tempfile.TemporaryDirectory(prefix="pbc-") as name:
        yield Path(name).resolve()


def settings(home: Path, **given: object) -> Settings:
    return Settings(_env_file=None, predictbench_home=home / "home", **given)


def test_a_configured_database_is_taken_as_it_is(home: Path) -> None:
    one = settings(home, database_url="postgres://u:p-word@h/db")
    assert database_url(one).host == migration_url(one).host == "h"
    assert list(home.iterdir()) == []


def test_the_environment_is_left_to_a_configured_database(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSSLROOTCERT", "/theirs.pem")
    one = settings(home, database_url="postgres://u:p-word@h/db")
    database_url(one)
    migration_url(one)
    assert os.environ["PGSSLROOTCERT"] == "/theirs.pem"


def test_a_server_that_is_not_running_is_an_error_where_it_must_not_be_started(home: Path) -> None:
    with pytest.raises(DatabaseNotRunning, match="predictbench db start"):
        database_url(settings(home), start=False)


def test_the_embedded_server_is_started_and_migrated_and_found_again(home: Path) -> None:
    one = settings(home)
    try:
        url = database_url(one)
        assert revisions.is_current(make_engine(url, pool_size=0))
        assert database_url(one, start=False) == url
    finally:
        embedded_server(one).stop()


def test_a_server_that_another_process_has_just_started_is_waited_for_until_it_has_its_database(home: Path) -> None:
    """It answers before its database is made."""
    one = settings(home)
    server = embedded_server(one)
    try:
        server.start()
        with psycopg.connect(
            host=server.folder / "socket", user=USER, dbname="postgres", autocommit=True
        ) as connection:
            connection.execute(f"DROP DATABASE {DATABASE_NAME}")
        with opened_database(one) as engine:
            assert revisions.is_current(engine)
    finally:
        server.stop()


def test_a_dry_run_uses_the_database_that_is_there_else_one_of_its_own(home: Path) -> None:
    dry = settings(home, predictbench_dry_run=True, predictbench_scratch=home / "scratch")
    assert embedded_server(dry).folder == home / "scratch" / "postgres"
    (home / "home" / "postgres").mkdir(parents=True)
    assert embedded_server(dry).folder == home / "home" / "postgres"


OWNER = "postgres://owner.abc:p-word@aws-0-eu.pooler.supabase.com"
WRITER = "postgres://writer.abc:p-word@aws-0-eu.pooler.supabase.com"


def deployed(home: Path, **given: object) -> Settings:
    return settings(home, environment="staging", staging_uri="s3://bucket/x", **given)


def test_migrations_are_run_as_the_owner_where_there_is_one(home: Path) -> None:
    owner, writer = f"{OWNER}:5432/postgres", f"{WRITER}:6543/postgres"
    assert (
        migration_url(deployed(home, supabase_db_url=writer, supabase_migration_db_url=owner)).username == "owner.abc"
    )
    assert migration_url(deployed(home, supabase_db_url=f"{WRITER}:5432/postgres")).username == "writer.abc"


def test_migrations_do_not_go_through_the_transaction_pooler(home: Path) -> None:
    writer = f"{WRITER}:6543/postgres"
    with pytest.raises(TransactionPooled, match="which SUPABASE_DB_URL names"):
        migration_url(deployed(home, supabase_db_url=writer))
    with pytest.raises(TransactionPooled, match="which SUPABASE_MIGRATION_DB_URL names") as caught:
        migration_url(deployed(home, supabase_db_url=writer, supabase_migration_db_url=f"{OWNER}:6543/postgres"))
    assert "p-word" not in str(caught.value)
    assert migration_url(settings(home, database_url="postgres://u:p-word@localhost:6543/db")).port == 6543
