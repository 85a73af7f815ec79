"""A backup that was restored: the commands of the handbook, on a server with our roles and on one without."""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner
from sqlalchemy import URL, Engine
from sqlalchemy.engine import make_url

from predictbench_assets.cli.main import main
from predictbench_assets.database.embedded import _binaries
from predictbench_assets.database.engine import make_engine
from predictbench_assets.database.migrations import ROLES_FILE
from predictbench_assets.database.privileges import OWNER, READER, WRITER
from predictbench_assets.dataset.export import export_tables
from predictbench_assets.retention.raw_snapshots import restore_raw_snapshots, verify_archives
from predictbench_assets.sandbox.world import World
from predictbench_assets.settings import all_variables
from predictbench_assets.staging import StagingArea
from predictbench_assets_tests.kit.daily_run import BASELINE, DailyRun, MakeRun
from predictbench_assets_tests.kit.deployment import ADMINISTRATOR, Deployment
from predictbench_assets_tests.kit.stored_days import KEY, NOW, Stored

Contents = dict[str, tuple[int, str]]


@pytest.fixture(scope="module")
def deployment() -> Iterator[Deployment]:
    """Another server, whose administrator is no superuser."""
    with Deployment.started() as made:
        yield made


@pytest.fixture(scope="module")
def daily(make_run: MakeRun) -> DailyRun:
    """A day that was run, with markets that have settled."""
    made = make_run(World(markets_per_day=20), PROCESSING_EXPERIMENTS=BASELINE)
    assert made.here().exit_code == 0
    return made


def tool(program: str, *arguments: str) -> None:
    """One of Postgres' own programs."""
    done = subprocess.run([_binaries() / program, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def plain(url: URL | str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def contents(url: URL | str) -> Contents:
    """How many rows each table has, and a hash over all their columns."""
    with psycopg.connect(plain(url)) as connection:
        names = connection.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'predictbench' ORDER BY 1"
        ).fetchall()
        found: Contents = {}
        for (name,) in names:
            rows = "count(*), coalesce(md5(string_agg(t::text, '|' ORDER BY t::text)), '')"
            found[name] = connection.execute(f"SELECT {rows} FROM predictbench.{name} t").fetchone()  # type: ignore[assignment, arg-type]
    return found


def status(daily: DailyRun) -> int:
    """The exit code of `predictbench db status`."""
    environment = dict.fromkeys(all_variables()) | daily.environment(daily.folder / "none", {})
    done = CliRunner(env=environment).invoke(main, ["db", "status"])
    assert "revision" in done.output
    return done.exit_code


@pytest.fixture(scope="module")
def backup(daily: DailyRun) -> str:
    """The file of a dump."""
    file = str(daily.folder / "predictbench.dump")
    common = ("--schema=predictbench", "--format=custom", "--no-owner", "--no-privileges")
    tool("pg_dump", *common, f"--file={file}", plain(daily.database_url))
    return file


def goes_on(restored: DailyRun, before: Contents) -> None:
    """Everything is there, and the day's run takes up where it stood: its second attempt, and not a row more."""
    assert contents(restored.database_url) == before
    assert status(restored) == 0
    again = restored.here()
    assert again.exit_code == 0
    assert (again.said["attempt"], again.said["snapshot"]["reused"]) == (2, True)
    after = contents(restored.database_url)
    changed = {table for table in before if before[table] != after[table]}
    assert changed == {"processing_runs", "processing_attempts"}


def test_into_an_empty_database_of_a_server_without_our_roles(
    daily: DailyRun, backup: str, empty_database_url: str
) -> None:
    before = contents(daily.database_url)
    assert before["processed_markets"][0] == 20
    tool(
        *("pg_restore", "--clean", "--if-exists", "--no-owner", "--no-privileges", "--single-transaction"),
        *("--exit-on-error", f"--dbname={plain(empty_database_url)}", backup),
    )
    goes_on(replace(daily, database_url=empty_database_url), before)


@pytest.mark.parametrize("first", ["the tables", "the roles", "a broken database"])
def test_into_a_new_project(daily: DailyRun, backup: str, deployment: Deployment, first: str) -> None:
    before = contents(daily.database_url)
    with deployment.database() as name:
        administrator = plain(deployment.url(ADMINISTRATOR, name))
        roles = ("psql", "--no-psqlrc", "--quiet", "-v", "ON_ERROR_STOP=1", f"--file={ROLES_FILE}", administrator)
        if first == "the roles":
            tool(*roles)
        elif first == "a broken database":
            deployment.migrated(name)
        tool(
            *("pg_restore", "--clean", "--if-exists", "--no-owner", "--no-privileges", "--single-transaction"),
            *("--exit-on-error", f"--dbname={administrator}", backup),
        )
        tool(*roles)
        assert contents(deployment.url(OWNER, name)) == before
        writer = deployment.url(WRITER, name).render_as_string(hide_password=False)
        goes_on(replace(daily, database_url=writer), before)


def test_the_rights_that_retention_and_exports_need(stored: Stored, deployment: Deployment, tmp_path: Path) -> None:
    """The daily run's role is enough to prune, and the reader's to export."""
    with deployment.database() as name, ExitStack() as stack:
        deployment.migrated(name)

        def engine_of(role: str) -> Engine:
            engine = make_engine(deployment.url(role, name))
            stack.callback(engine.dispose)
            return engine

        theirs = Stored(engine_of(WRITER), stored.archive)
        theirs.run(1, 2)
        Stored(engine_of(OWNER), stored.archive).settled(1, 2)
        assert theirs.prune().count == 2
        assert verify_archives(theirs.engine, stored.archive).problems == ()
        assert restore_raw_snapshots(theirs.engine, stored.archive, market_id="m1") == 1
        days = {"since": KEY.run_date, "until": KEY.run_date}
        area = StagingArea(str(tmp_path / "export"))
        exported = export_tables(engine_of(READER), area, **days, format_="parquet", now=NOW, git_sha=None)
        assert exported.rows == 1 + 2 + 2
