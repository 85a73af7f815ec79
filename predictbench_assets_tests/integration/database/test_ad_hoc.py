"""`predictbench db sql`: reading as a role that can do nothing else, on an embedded server of this module's own."""

import json
import os
import pty
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner, Result
from sqlalchemy import URL, text

from predictbench_assets.cli.main import main
from predictbench_assets.database.ad_hoc import SqlError, answers, reading_url
from predictbench_assets.database.connection import database_url, embedded_server
from predictbench_assets.database.embedded import _binaries
from predictbench_assets.database.engine import make_engine
from predictbench_assets.settings import Settings, all_variables, load_settings

Sql = Callable[..., Result]


@pytest.fixture(scope="module")
def settings() -> Iterator[Settings]:
    with tempfile.TemporaryDirectory(prefix="pbs-") as home, pytest.MonkeyPatch.context() as patch:
        for name in all_variables():
            patch.delenv(name, raising=False)
        patch.setenv("PREDICTBENCH_ENV_FILE", "")
        patch.setenv("PREDICTBENCH_HOME", home)
        loaded = load_settings()
        reading_url(loaded)
        yield loaded
        embedded_server(loaded).stop()


@pytest.fixture
def reader(settings: Settings) -> URL:
    return reading_url(settings)


@pytest.fixture
def sql(settings: Settings) -> Sql:
    """Runs `predictbench db sql` on that server."""

    def run(*arguments: str, **variables: str) -> Result:
        env = {"PREDICTBENCH_HOME": str(settings.home), "PREDICTBENCH_ENV_FILE": "", "COLUMNS": "80", **variables}
        return CliRunner().invoke(main, ["db", "sql", *arguments], env=env)

    return run


def rows(url: URL, query: str, *, write: bool = False) -> list[tuple[str | None, ...]]:
    return [row for answer in answers(url, query, write=write) for row in answer.rows]


ESCAPES = {
    "a table": "drop table predictbench.events",
    "the schema": "drop schema predictbench cascade",
    "rows": "delete from predictbench.events",
    "a new transaction": "commit; drop table predictbench.events",
    "a transaction that writes": "commit; begin read write; drop table predictbench.events",
    "a chained transaction": "rollback and chain; drop table predictbench.events",
    "another mode": "set transaction read write; drop table predictbench.events",
    "another mode by a function": "select set_config('transaction_read_only', 'off', true)",
    "the session's mode": "set session characteristics as transaction read write; drop table predictbench.events",
    "the role it came as": "reset role; drop table predictbench.events",
    "the owner's role": "set role postgres",
    "another session user": "set session authorization postgres",
    "itself made more": "alter role predictbench_reader superuser",
    "a block": "do $$ begin execute 'drop table predictbench.events'; end $$",
    "a block that commits": "do $$ begin commit; drop table predictbench.events; end $$",
    "a block that takes a role": "do $$ begin perform set_config('role', 'postgres', false); end $$",
    "a program": "copy (select 1) to program 'true'",
    "a file": "copy (select 1) to '/tmp/predictbench-never'",
    "a file that is read": "select pg_read_file('PG_VERSION')",
    "a large object": "select lo_create(0)",
    "a new table": "create table predictbench.mine (a int)",
    "a new table elsewhere": "create table public.mine (a int)",
    "a function": "create function public.mine() returns int language sql as 'select 1'",
    "a library": "load 'auto_explain'",
    "the server's settings": "alter system set work_mem = '1GB'",
    "other sessions": "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'postgres'",
    "several in what looks like one": "select $a$ $a; drop table predictbench.events",
}


@pytest.mark.parametrize("query", ESCAPES.values(), ids=ESCAPES)
def test_no_statement_gets_out_of_reading(reader: URL, settings: Settings, query: str) -> None:
    def kept() -> list[tuple[object, ...]]:
        with make_engine(database_url(settings), pool_size=0).begin() as connection:
            found = connection.execute(
                text(
                    "SELECT (SELECT count(*) FROM pg_class), (SELECT count(*) FROM pg_proc), "
                    "(SELECT count(*) FROM pg_largeobject_metadata), "
                    "(SELECT array_agg(rolname::text || rolsuper ORDER BY 1) FROM pg_roles)"
                )
            )
            return [tuple(row) for row in found]

    before = kept()
    with pytest.raises(SqlError):
        rows(reader, query)
    assert kept() == before


def test_the_role_alone_is_a_barrier(reader: URL) -> None:
    """Whoever connects as the reader without our transaction, as psql does, cannot write either."""
    with make_engine(reader, pool_size=0).connect() as connection:
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        driver.autocommit = True
        assert driver.execute("SHOW default_transaction_read_only").fetchone() == ("on",)
        driver.execute("SET default_transaction_read_only = off")
        for query in ("DROP TABLE predictbench.events", "DELETE FROM predictbench.events", "SET ROLE postgres"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                driver.execute(query)


def test_every_table_of_ours_can_be_read(reader: URL) -> None:
    [(unreadable,)] = rows(
        reader,
        "select count(*) from pg_class where relnamespace = 'predictbench'::regnamespace and relkind in ('r', 'v') "
        "and not has_table_privilege(oid, 'SELECT')",
    )
    assert unreadable == "0"


def test_on_a_server_of_ones_own_the_reader_is_taken_where_it_may_be(reader: URL, settings: Settings) -> None:
    owner = database_url(settings)
    assert rows(owner, "select current_user") == [("predictbench_reader",)]
    with pytest.raises(SqlError, match="read-only transaction"):
        rows(owner, "reset role; drop table predictbench.events")
    with pytest.raises(SqlError, match="ended the read-only transaction; nothing after it was run"):
        rows(owner, "commit; drop table predictbench.events")
    with pytest.raises(SqlError):
        rows(owner, "do $$ begin perform set_config('transaction_read_only', 'off', false); end $$")


def test_where_there_is_no_reader_the_transaction_is_read_only(database_url: str) -> None:
    from sqlalchemy import make_url

    url = make_url(database_url)
    assert rows(url, "select count(*) from predictbench.events") == [("0",)]
    with pytest.raises(SqlError, match="cannot execute DROP TABLE in a read-only transaction"):
        rows(url, "drop table predictbench.events")


def test_settings_of_a_statement_hold_for_the_next_and_for_nobody_else(reader: URL) -> None:
    assert rows(reader, "set time zone 'Asia/Tokyo'; show timezone") == [("Asia/Tokyo",)]
    assert rows(reader, "show timezone") == [("UTC",)]


def test_what_is_not_read_is_not_computed(reader: URL) -> None:
    some = answers(reader, "select generate_series(1, 1000000000000); select 'next'")
    assert list(islice(next(some).rows, 2)) == [("1",), ("2",)]
    assert list(next(some).rows) == [("next",)]


def test_a_statement_that_takes_long_is_interrupted_here_and_on_the_server(reader: URL, settings: Settings) -> None:
    found = "select count(*) from pg_stat_activity where query like '%pg_sleep(6543)%' and state = 'active'"

    def interrupt() -> None:
        while rows(database_url(settings), found + " and pid <> pg_backend_pid()") == [("0",)]:
            pass
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        rows(reader, "select pg_sleep(6543)")
    thread.join()
    deadline = time.monotonic() + 20
    while rows(database_url(settings), found + " and pid <> pg_backend_pid()") != [("0",)]:
        assert time.monotonic() < deadline, "the server goes on with it"


def test_several_statements_print_their_rows_each(sql: Sql) -> None:
    done = sql("select 1 as one, null as nothing, true as yes; set work_mem = '5MB'; values ('a'), ('b')")
    assert done.exit_code == 0, done.output
    assert done.stdout == "one  nothing  yes\n1    NULL     true\n\nSET\n\ncolumn1\na\nb\n"
    assert done.stderr == "1 row\n2 rows\n"


def test_an_error_points_at_its_place_after_the_rows_of_what_went_before(sql: Sql) -> None:
    done = sql("select 1;\nselect nothing\n  from predictbench.events")
    assert done.exit_code == 1
    assert done.stdout == "?column?\n1\n"
    assert done.stderr.splitlines()[1:] == [
        'Error: statement 2 of 2: column "nothing" does not exist',
        "  select nothing",
        "         ^",
    ]


def test_a_table_without_its_schema_is_answered_with_the_schema(sql: Sql) -> None:
    assert "The tables are in the schema predictbench: " in sql("select * from processed_markets").stderr
    assert "The tables are in" not in sql("select * from predictbench.markets").stderr


def test_the_place_of_an_error_in_a_long_line_is_still_seen(sql: Sql) -> None:
    done = sql(f"select {', '.join(f'{number} as c{number}' for number in range(99))}, nothing, {'1, ' * 99} 2")
    shown, mark = done.stderr.splitlines()[1:3]
    assert shown[mark.index("^") :].startswith("nothing")
    assert len(shown) <= 80


def test_what_would_write_says_how(sql: Sql) -> None:
    done = sql("delete from predictbench.events")
    assert done.exit_code == 1
    assert "read-only transaction" in done.stderr
    assert "--write" in done.stderr


def test_writing_is_announced_and_keeps_all_or_nothing(sql: Sql) -> None:
    done = sql("--write", "create table public.notes (a int); insert into public.notes values (1), (2)")
    assert (done.exit_code, done.stdout) == (0, "CREATE TABLE\n\nINSERT 0 2\n")
    assert done.stderr == "writing to the embedded database as postgres\n"
    assert sql("--write", "insert into public.notes values (3); select 1/0").exit_code == 1
    assert sql("--write", "select count(*) from public.notes").stdout == "count\n2\n"
    assert sql("--write", "vacuum public.notes").stdout == "VACUUM\n"
    assert sql("--write", "drop table public.notes").exit_code == 0
    refused = sql("--write", "select 1", PREDICTBENCH_DRY_RUN="1")
    assert refused.exit_code == 2
    assert "PREDICTBENCH_DRY_RUN" in refused.stderr


def test_formats_for_programs_have_every_row_and_keep_types(sql: Sql) -> None:
    done = sql("--format", "json", "select 5 as a, null as b, '{\"c\": 1.5}'::jsonb as d; select 1 as z where false")
    one, _, none = done.stdout.rpartition("[]")
    assert json.loads(one) == [{"a": 5, "b": None, "d": {"c": 1.5}}]
    assert none == "\n"
    twice = sql("--format", "json", "select 1 as a, 0.10 as a, 10::numeric^5000 as b, '1e400'::json as c").stdout
    assert twice.startswith('[\n{"a": 1, "a_2": 0.10, "b": 10000')
    assert twice.endswith('0, "c": 1e400}\n]\n')
    many = sql("--format", "csv", "select n, 'x,\"' || n as said from generate_series(1, 1234) n").stdout.splitlines()
    assert many[:2] == ["n,said", '1,"x,""1"']
    assert len(many) == 1235
    table = sql("select generate_series(1, 1234)")
    assert len(table.stdout.splitlines()) == 1001
    assert "the first 1,000 rows" in table.stderr


def test_wide_rows_and_steering_text_are_fit_for_a_terminal(sql: Sql) -> None:
    done = sql("select *, E'\\x1b[2J' as steering from predictbench.processing_runs right join (select 1) one on true")
    assert done.exit_code == 0, done.output
    assert r"\x1b[2J" in done.stdout
    assert "\x1b" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "run_id" in done.stdout
    assert "NULL" in done.stdout


@pytest.mark.parametrize("nothing", ["", " ; -- nothing"])
def test_sql_without_a_statement_is_refused(sql: Sql, nothing: str) -> None:
    done = sql(nothing)
    assert done.exit_code == 2
    assert "no statement" in done.stderr


def test_psql_is_named_with_the_reader(sql: Sql) -> None:
    assert "psql 'postgresql://predictbench_reader@/predictbench?host=" in sql().stdout
    assert "psql 'postgresql://postgres@/predictbench?host=" in sql("--write").stdout


@pytest.mark.parametrize("own", [False, True], ids=["embedded", "a server of one's own"])
def test_psql_opens_for_reading(settings: Settings, own: bool, tmp_path: Path) -> None:
    user_file = tmp_path / "psqlrc"
    user_file.write_text("\\echo my own file\n")
    environment = os.environ | {
        "PREDICTBENCH_HOME": str(settings.home),
        "PREDICTBENCH_ENV_FILE": "",
        "PATH": f"{_binaries()}{os.pathsep}{os.environ['PATH']}",
        "PSQLRC": str(user_file),
    }
    if own:
        environment["DATABASE_URL"] = database_url(settings).render_as_string()
    ours, theirs = pty.openpty()
    os.write(ours, b"select current_user;\ndrop table predictbench.events;\n\\q\n")
    done = subprocess.run(
        [sys.executable, "-m", "predictbench_assets.cli.main", "db", "sql"],
        stdin=theirs,
        capture_output=True,
        env=environment,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(ours)
    os.close(theirs)
    assert ("postgres" if own else "predictbench_reader") in done.stdout
    assert "my own file" in done.stdout
    assert "cannot execute DROP TABLE in a read-only transaction" in done.stderr
    assert "read-only; " in done.stderr
