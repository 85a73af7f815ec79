"""`predictbench db`: the embedded server, migrations, and a look into the tables."""

import csv
import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Collection
from itertools import chain, islice
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import click
from alembic.util import CommandError
from sqlalchemy import URL

from predictbench_assets.cli.options import demo_option
from predictbench_assets.database import migrations, revisions
from predictbench_assets.database.ad_hoc import Answer, answers, as_json, distinct, reading_url
from predictbench_assets.database.connection import database_url, embedded_server, migration_url
from predictbench_assets.database.engine import make_engine
from predictbench_assets.database.patience import Patience
from predictbench_assets.observability.console import print_table
from predictbench_assets.printable import printable
from predictbench_assets.settings import Settings, load_settings

_SHOWN_ROWS = 1000


@click.group(
    epilog="""\
\b
Examples:
  predictbench db start
  predictbench db upgrade
  predictbench db sql "select * from predictbench.processing_runs"
  predictbench db --demo sql
""",
)
@demo_option
def db() -> None:
    """The database: the embedded server, migrations, and a look into the tables."""


@db.command(short_help="Start the embedded Postgres.")
@demo_option
def start() -> None:
    """Start the embedded Postgres, and bring it to this code's revision."""
    settings = load_settings()
    if settings.writer_url is not None:
        raise click.ClickException(
            "DATABASE_URL or SUPABASE_DB_URL names a server of your own, so there is none of ours to start"
        )
    url = embedded_server(settings).start()
    migrations.upgrade(url)
    click.echo(f"running at {url}")


@db.command(short_help="Stop the embedded Postgres.")
@demo_option
def stop() -> None:
    """Stop the embedded Postgres; its data stay."""
    click.echo("stopped" if embedded_server(load_settings()).stop() else "was not running")


@db.command(short_help="Which database is used, and its state.")
@demo_option
def status() -> None:
    """Say which database is used and whether it is at this code's revision. Exit code 1 if it is not usable."""
    settings = load_settings()
    if settings.writer_url is None:
        server = embedded_server(settings)
        found = server.status()
        if not found.running:
            click.echo(f"embedded, not running, in {server.folder}: `predictbench db start` starts it")
            sys.exit(1)
        click.echo(f"embedded, running as process {found.pid}, in {server.folder}\n{found.url}")
    else:
        click.echo(settings.redact(settings.writer_url.render_as_string(hide_password=True)))
    revision, head = _revisions(_writer())
    click.echo(f"revision {revision or 'none'}" + ("" if revision == head else f", this code needs {head}"))
    sys.exit(0 if revision == head else 1)


@db.command(short_help="Migrate up.", epilog="\b\nExample:\n  predictbench db upgrade")
@click.argument("revision", default="head")
@demo_option
def upgrade(revision: str) -> None:
    """Migrate up to REVISION, as the schema's owner (SUPABASE_MIGRATION_DB_URL where that is set)."""
    url = _owner()
    _migrated(lambda: migrations.upgrade(url, revision))
    click.echo(f"at revision {_revisions(url)[0]}")


@db.command(
    short_help="Migrate down.",
    epilog="\b\nExample:\n  predictbench db downgrade base    removes every table of ours, with its rows",
)
@click.argument("revision")
@click.option("--yes", is_flag=True, help="Do not ask.")
@demo_option
def downgrade(revision: str, yes: bool) -> None:
    """Migrate down to REVISION, as the schema's owner. What the newer revisions stored is lost."""
    url = _owner()
    if not yes:
        click.confirm(f"Rows of {url.render_as_string(hide_password=True)} will be lost. Go on?", abort=True, err=True)
    _migrated(lambda: migrations.downgrade(url, revision))
    click.echo(f"at revision {_revisions(url)[0] or 'none'}")


@db.command(short_help="The revision the database is at.")
@demo_option
def current() -> None:
    """Print the revision the database is at; exit code 1 if this code needs another."""
    revision, head = _revisions(_writer())
    click.echo(revision or "none")
    sys.exit(0 if revision == head else 1)


@db.command(
    short_help="Look into the tables with SQL, or psql.",
    epilog="""\
\b
Examples:
  predictbench db sql "select question from predictbench.processed_markets"
  predictbench db sql --format csv "select * from predictbench.events" > f.csv
  predictbench db sql --write "vacuum analyze predictbench.events"
  predictbench db sql              opens psql, or says how to connect
""",
)
@click.argument("query", required=False, metavar="[SQL]")
@click.option("--write", is_flag=True, help="Keep what the statements change, if all of them succeed.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["table", "csv", "json"]),
    default="table",
    help=f"A table has the first {_SHOWN_ROWS:,} rows, the others have all.",
)
@demo_option
def sql(query: str | None, write: bool, format_: str) -> None:
    """Run SQL, one statement or several with semicolons between them, and print the rows of each.

    Without SQL it opens psql. The tables are in the schema `predictbench`.

    Statements can only read. On the embedded server they run as the role predictbench_reader, which has no other
    rights; on another one nothing that they change is kept, and they run as that role if the address's own may become
    it. With --write they run in one transaction as the role of the database's address. Exit code 1 if a statement is
    refused; Ctrl-C stops it.
    """
    settings = load_settings()
    if write and settings.predictbench_dry_run:
        raise click.UsageError("--write changes the database, which PREDICTBENCH_DRY_RUN forbids")
    given = set(os.environ)
    url = _writer() if write else reading_url(settings)
    if write:
        where = "the embedded database" if settings.writer_url is None else f"{url.database} at {url.host}"
        click.echo(f"writing to {where} as {url.username or 'its default role'}", err=True)
    if query is None:
        sys.exit(_open_psql(url, given - os.environ.keys(), read_only=not write))
    _print_answers(settings, url, query, write=write, format_=format_)


def _writer() -> URL:
    return database_url(load_settings())


def _owner() -> URL:
    settings = load_settings()
    url = migration_url(settings)
    if settings.deployed and settings.supabase_migration_db_url is None:
        click.echo(
            "warning: SUPABASE_MIGRATION_DB_URL is not set, so this migrates as the role of SUPABASE_DB_URL. The role "
            "that runs write with should not own the schema: who has its password can then drop every table.",
            err=True,
        )
    return url


def _revisions(url: URL) -> tuple[str | None, str]:
    """The revision a database is at, and the one this code needs."""
    return revisions.current(make_engine(url, pool_size=0)), revisions.head()


def _migrated(action: Any) -> None:
    try:
        action()
    except CommandError as error:
        raise click.UsageError(f"no such revision: {error}") from error


def _open_psql(url: URL, removed: Collection[str], *, read_only: bool) -> int:
    """Open psql, or print how to, without the variables that were removed from our environment for this database."""
    program = shutil.which("psql")
    if program is None or not sys.stdin.isatty():
        variables = [f"-u {name}" for name in sorted(removed)]
        variables += ["PGOPTIONS='-c default_transaction_read_only=on'"] if read_only else []
        without = f"env {' '.join(variables)} " if variables else ""
        click.echo(f"{without}psql {shlex.quote(_plain(url))}")
        click.echo('\nor give SQL: predictbench db sql "select * from predictbench.processing_runs"')
        return 0
    # The password goes by the environment: arguments are seen by every user of the machine.
    environment = os.environ | ({"PGPASSWORD": str(url.password)} if url.password else {})
    with tempfile.TemporaryDirectory(prefix="predictbench-psql-") as folder:
        if read_only:
            # Not in PGOPTIONS, which poolers refuse.
            start = Path(folder, "psqlrc")
            usual = Path(os.environ.get("PSQLRC", Path.home() / ".psqlrc"))
            start.write_text(
                "\\set QUIET on\nSET default_transaction_read_only = on;\n\\unset QUIET\n"
                + (f"\\i '{usual}'\n" if usual.is_file() else ""),
                encoding="utf-8",
            )
            environment["PSQLRC"] = str(start)
            click.echo("read-only; `predictbench db sql --write` opens it for writing", err=True)
        # Ctrl-C is for psql, which stops a statement on it; a handler, unlike an ignored signal, is not inherited.
        before = signal.signal(signal.SIGINT, lambda *_: None)
        try:
            return subprocess.run([program, _plain(url)], env=environment, check=False).returncode  # noqa: S603
        finally:
            signal.signal(signal.SIGINT, before)


def _plain(url: URL) -> str:
    """The address as libpq reads it, without its password."""
    address = URL.create("postgresql", url.username, None, url.host, url.port, url.database).render_as_string()
    # A space as %20: SQLAlchemy writes a plus sign, as forms do, which libpq takes for one.
    return address + (f"?{urlencode(url.normalized_query, doseq=True, quote_via=quote)}" if url.query else "")


def _print_answers(settings: Settings, url: URL, query: str, *, write: bool, format_: str) -> None:
    number = None
    for number, answer in enumerate(answers(url, query, write=write, patience=Patience(settings.db_timeout_seconds))):
        if number and format_ != "json":
            click.echo()
        if not answer.columns:
            click.echo(answer.command, err=format_ != "table")
        elif format_ == "table":
            _print_rows(answer)
        elif format_ == "csv":
            _print_csv(answer)
        else:
            _print_json(answer)
    if number is None:
        raise click.UsageError("there is no statement in it")


def _print_rows(answer: Answer) -> None:
    rows = list(islice(answer.rows, _SHOWN_ROWS))
    print_table(answer.columns, rows)
    if next(answer.rows, None) is not None:
        click.echo(f"the first {_SHOWN_ROWS:,} rows; --format csv or json has all", err=True)
    else:
        click.echo(f"{len(rows):,} row{'s' if len(rows) != 1 else ''}", err=True)


def _print_csv(answer: Answer) -> None:
    for row in chain([answer.columns], answer.rows):
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(row)
        click.echo(printable(line.getvalue()) if sys.stdout.isatty() else line.getvalue(), nl=False)


def _print_json(answer: Answer) -> None:
    """Print an array of objects, one a line."""
    names = [json.dumps(name) for name in distinct(answer.columns)]
    before = "[\n"
    for row in answer.rows:
        values = zip(names, answer.types, row, strict=True)
        fields = ", ".join(f"{name}: {as_json(text, oid)}" for name, oid, text in values)
        click.echo(f"{before}{{{fields}}}", nl=False)
        before = ",\n"
    click.echo("\n]" if before == ",\n" else "[]")
