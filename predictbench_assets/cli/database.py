"""`predictbench db`: the embedded server, migrations, and a look into the tables.

And the database as other commands need it: up, migrated, open.
"""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from predictbench_assets.cli.demo import demo_option

if TYPE_CHECKING:
    from sqlalchemy import URL, Engine

    from predictbench_assets.settings import Settings

_SHOWN_ROWS = 1000


@click.group(
    short_help="The embedded server, migrations, the tables.",
    epilog="""\
\b
Examples:
  predictbench db start
  predictbench db upgrade
  predictbench db sql "select run_date, status, processed_markets from predictbench.processing_runs"
  predictbench db --demo sql
""",
)
@demo_option
def db() -> None:
    """The database: the embedded server, migrations, and a look into the tables."""


@db.command()
@demo_option
def start() -> None:
    """Start the embedded Postgres, and bring it to this code's revision."""
    from predictbench_assets.database import migrations
    from predictbench_assets.database.connection import embedded_server
    from predictbench_assets.settings import load_settings

    settings = load_settings()
    if settings.writer_url is not None:
        raise click.ClickException(
            "DATABASE_URL or SUPABASE_DB_URL names a server of your own, so there is none of ours to start"
        )
    url = embedded_server(settings).start()
    migrations.upgrade(url)
    click.echo(f"running at {url}")


@db.command()
@demo_option
def stop() -> None:
    """Stop the embedded Postgres; its data stay."""
    from predictbench_assets.database.connection import embedded_server
    from predictbench_assets.settings import load_settings

    click.echo("stopped" if embedded_server(load_settings()).stop() else "was not running")


@db.command()
@demo_option
def status() -> None:
    """Say which database is used and whether it is at this code's revision. Exit code 1 if it is not usable."""
    from predictbench_assets.database.connection import embedded_server
    from predictbench_assets.settings import load_settings

    settings = load_settings()
    if settings.writer_url is None:
        server = embedded_server(settings)
        found = server.status()
        if not found.running:
            click.echo(f"embedded, not running, in {server.folder}: `predictbench db start` starts it")
            sys.exit(1)
        click.echo(f"embedded, running as process {found.pid}, in {server.folder}\n{found.url}")
    else:
        click.echo(settings.writer_url.render_as_string(hide_password=True))
    revision, head = _revisions(_writer())
    click.echo(f"revision {revision or 'none'}" + ("" if revision == head else f", this code needs {head}"))
    sys.exit(0 if revision == head else 1)


@db.command(epilog="\b\nExample:\n  predictbench db upgrade")
@click.argument("revision", default="head")
@demo_option
def upgrade(revision: str) -> None:
    """Migrate up to REVISION, as the schema's owner (SUPABASE_MIGRATION_DB_URL where that is set)."""
    from predictbench_assets.database import migrations

    url = _owner()
    _migrated(lambda: migrations.upgrade(url, revision))
    click.echo(f"at revision {_revisions(url)[0]}")


@db.command(epilog="\b\nExample:\n  predictbench db downgrade base    (removes every table of ours, with its rows)")
@click.argument("revision")
@click.option("--yes", is_flag=True, help="Do not ask.")
@demo_option
def downgrade(revision: str, yes: bool) -> None:
    """Migrate down to REVISION, as the schema's owner. What the newer revisions stored is lost."""
    from predictbench_assets.database import migrations

    url = _owner()
    if not yes:
        click.confirm(f"Rows of {url.render_as_string(hide_password=True)} will be lost. Go on?", abort=True, err=True)
    _migrated(lambda: migrations.downgrade(url, revision))
    click.echo(f"at revision {_revisions(url)[0] or 'none'}")


@db.command()
@demo_option
def current() -> None:
    """Print the revision the database is at; exit code 1 if this code needs another."""
    revision, head = _revisions(_writer())
    click.echo(revision or "none")
    sys.exit(0 if revision == head else 1)


@db.command(
    epilog="""\
\b
Examples:
  predictbench db sql "select market_id, price from predictbench.processed_markets order by price desc limit 5"
  predictbench db sql          (opens psql, or says how to connect)
"""
)
@click.argument("query", required=False)
@demo_option
def sql(query: str | None) -> None:
    """Print the rows of QUERY as a table; without one, open psql. The schema is `predictbench`."""
    given = set(os.environ)
    url = _writer()
    if query is None:
        _open_psql(url, given - os.environ.keys())
    else:
        _print_rows(url, query)


@contextmanager
def ready_database(settings: "Settings") -> Iterator[None]:
    """The database, up and at the revision that this code needs; a dry run leaves it as it was.

    Raises:
        SchemaOutdated: a database that is not ours to migrate is at another revision.
    """
    from predictbench_assets.database import migrations
    from predictbench_assets.database.connection import database_url, embedded_server
    from predictbench_assets.database.engine import make_engine

    embedded = settings.writer_url is None
    server = embedded_server(settings)
    ours = embedded and settings.predictbench_dry_run and not server.status().running
    try:
        url = database_url(settings)
        engine = make_engine(url, pool_size=0)
        if embedded and not settings.predictbench_dry_run and not migrations.is_current(engine):
            migrations.upgrade(url)
        migrations.require_current(engine)
        yield
    finally:
        if ours:
            server.stop()


@contextmanager
def opened_database(settings: "Settings") -> Iterator["Engine"]:
    """`ready_database`, and an engine on it until the block ends."""
    from predictbench_assets.database.connection import database_url
    from predictbench_assets.database.engine import make_engine

    with ready_database(settings):
        engine = make_engine(database_url(settings), pool_size=settings.db_pool_max_size)
        try:
            yield engine
        finally:
            engine.dispose()


def _writer() -> "URL":
    from predictbench_assets.database.connection import database_url
    from predictbench_assets.settings import load_settings

    return database_url(load_settings())


def _owner() -> "URL":
    from predictbench_assets.database.connection import migration_url
    from predictbench_assets.settings import load_settings

    settings = load_settings()
    url = migration_url(settings)
    if settings.deployed and settings.supabase_migration_db_url is None:
        click.echo(
            "warning: SUPABASE_MIGRATION_DB_URL is not set, so this migrates as the role of SUPABASE_DB_URL. The role "
            "that runs write with should not own the schema: who has its password can then drop every table.",
            err=True,
        )
    return url


def _revisions(url: "URL") -> tuple[str | None, str]:
    """The revision a database is at, and the one this code needs."""
    from predictbench_assets.database import migrations
    from predictbench_assets.database.engine import make_engine

    return migrations.current(make_engine(url, pool_size=0)), migrations.head()


def _migrated(action: Any) -> None:
    from alembic.util import CommandError

    try:
        action()
    except CommandError as error:
        raise click.UsageError(f"no such revision: {error}") from error


def _open_psql(url: "URL", removed: Collection[str]) -> None:
    """Open psql, or print how to, without the variables that were removed from our environment for this database."""
    program = shutil.which("psql")
    if program is None or not sys.stdin.isatty():
        without = f"env {' '.join(f'-u {name}' for name in sorted(removed))} " if removed else ""
        click.echo(f"{without}psql {shlex.quote(_plain(url))}")
        click.echo('\nor give a query: predictbench db sql "select * from predictbench.processing_runs"')
        return
    # The password goes by the environment: arguments are seen by every user of the machine.
    secret = {"PGPASSWORD": str(url.password)} if url.password else {}
    sys.exit(subprocess.run([program, _plain(url)], env=os.environ | secret, check=False).returncode)  # noqa: S603


def _plain(url: "URL") -> str:
    """The address as libpq reads it, without its password."""
    from urllib.parse import quote, urlencode

    from sqlalchemy import URL

    address = URL.create("postgresql", url.username, None, url.host, url.port, url.database).render_as_string()
    # A space as %20: SQLAlchemy writes a plus sign, as forms do, which libpq takes for one.
    return address + (f"?{urlencode(url.normalized_query, doseq=True, quote_via=quote)}" if url.query else "")


def _print_rows(url: "URL", query: str) -> None:
    from sqlalchemy import text
    from sqlalchemy.exc import DBAPIError

    from predictbench_assets.database.engine import make_engine

    try:
        with make_engine(url, pool_size=0).begin() as connection:
            # Colons are SQL's own here (casts, JSON paths), not parameters of ours.
            result = connection.execute(text(query.replace(":", "\\:")))
            if not result.returns_rows:
                click.echo(f"{result.rowcount} rows affected")
                return
            head, rows, more = tuple(result.keys()), result.fetchmany(_SHOWN_ROWS), result.fetchone() is not None
    except DBAPIError as error:
        raise click.ClickException(str(error.orig).strip()) from error
    _print_table(head, rows)
    shown = f"the first {_SHOWN_ROWS:,} rows" if more else f"{len(rows):,} row{'s' if len(rows) != 1 else ''}"
    click.echo(shown, err=True)


def _print_table(head: tuple[str, ...], rows: Iterable[Any]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*head, box=SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*(Text("" if value is None else str(value), overflow="fold") for value in row))
    Console(highlight=False, width=None if sys.stdout.isatty() else 240).print(table)
