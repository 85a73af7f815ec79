"""Bringing a database to the schema that this code expects. The revisions are in `migrations/`."""

import io
import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
from alembic.script.revision import RevisionError
from sqlalchemy import URL, Connection, Engine, text

from predictbench_assets.database.engine import make_engine
from predictbench_assets.database.errors import (
    BRIEF,
    ONCE,
    Backoff,
    DatabaseUnavailable,
    DatabaseUnsuitable,
    classified,
    in_transaction,
)
from predictbench_assets.database.patience import Patience
from predictbench_assets.database.privileges import grants_sql
from predictbench_assets.database.schema import SCHEMA, VERSION_TABLE
from predictbench_assets.failures import PermanentError
from predictbench_assets.printable import on_one_line

LOCK_TIMEOUT = "5s"
"""Time that a migration waits for a table before it lets those behind it pass."""
_PATIENCE = Backoff(attempts=6, first=1.0, longest=15.0)
_PATIENCE_SECONDS = 3600.0
"""Limit of one statement: an index on a large table takes its time."""

FOLDER = Path(__file__).resolve().parents[2] / "migrations"
SEED_FILE = FOLDER / "seed_supabase.sql"
ROLES_FILE = FOLDER / "roles.sql"

_LIMITS = text("SELECT set_config('statement_timeout', '30min', true), set_config('lock_timeout', :lock, true)")
_INVALID = text("SELECT count(*) FROM pg_index WHERE indexrelid = to_regclass(:index) AND NOT indisvalid")

_log = logging.getLogger(__name__)


class MigrationsMissing(PermanentError):
    """The revisions are not where the code is: Predictbench was not installed from a clone."""


class SchemaOutdated(PermanentError):
    """The database is at another revision than this code."""


def upgrade(url: URL | str, revision: str = "head") -> None:
    """Migrate a database up to a revision; the schema is made when missing, nothing happens when it is there.

    All or nothing, but for indexes on tables that grow: where there may be rows, they are built beforehand, while
    everybody goes on reading and writing. One that was cut short is built anew. A table that is in use is waited for in
    short spells, for about a minute.

    Args:
        url: address of the schema's owner.

    Raises:
        DatabaseUnavailable: not reached, or a table stayed in use; the tables are as they were.
        SchemaOutdated: a newer version has migrated it.
    """
    for script in _with_indexes_ahead(url, revision):
        before = str(script.down_revision)
        _run(url, lambda config, before=before: command.upgrade(config, before))  # type: ignore[misc]
        for table, indexes in script.module.INDEXES_AHEAD.items():
            for name, definition in indexes.items():
                _build_ahead(url, table, name, definition)
    _run(url, lambda config: command.upgrade(config, revision))


def downgrade(url: URL | str, revision: str) -> None:
    """Migrate a database down to a revision (`base`: remove every table of ours, and all their rows)."""
    _run(url, lambda config: command.downgrade(config, revision))


def current(engine: Engine, backoff: Backoff = ONCE) -> str | None:
    """The revision a database is at, or None for one that was never migrated."""
    return in_transaction(engine, _revision_of, backoff)


def _revision_of(connection: Connection) -> str | None:
    options = {"version_table": VERSION_TABLE, "version_table_schema": SCHEMA}
    return MigrationContext.configure(connection, opts=options).get_current_revision()


def head() -> str:
    """The revision that this code expects."""
    return _revisions(FOLDER)[0]


def is_current(engine: Engine) -> bool:
    """True where a database is at the revision that this code expects."""
    return current(engine) == head()


def require_current(engine: Engine) -> None:
    """Refuse a database of another revision, or one whose numbers would be rounded on their way here.

    Raises:
        SchemaOutdated: names its revision and the command that migrates it.
        DatabaseUnsuitable: `extra_float_digits` is below one.
    """

    def read(connection: Connection) -> str | None:
        # Not among what a pooler keeps for its clients, so it cannot be asked for when a session begins.
        require_exact_numbers(connection.execute(text("SELECT current_setting('extra_float_digits')")).scalar_one())
        return _revision_of(connection)

    _require_known(found := in_transaction(engine, read, ONCE))
    if found != head():
        raise SchemaOutdated(
            f"the database is at revision {on_one_line(found or 'none')}, this code needs {head()}: "
            "run `predictbench db upgrade`."
        )


def require_exact_numbers(extra_float_digits: str) -> None:
    """Refuse a session in which a stored number is read with fewer digits than it has.

    Raises:
        DatabaseUnsuitable: names the setting to reset.
    """
    if int(extra_float_digits) < 1:
        raise DatabaseUnsuitable(
            f"extra_float_digits is {extra_float_digits} for this role or database, which rounds the numbers that are "
            "read: ALTER ROLE ... RESET extra_float_digits, or the same with ALTER DATABASE."
        )


def _require_known(revision: str | None) -> None:
    """Refuse a database that a newer version of this code has migrated: no command here can do anything about it."""
    if revision is not None and revision not in _revisions(FOLDER):
        raise SchemaOutdated(
            f"the database is at revision {on_one_line(revision)}, which this code (at {head()}) does not know: "
            "a newer one has migrated it. Use that one: `git pull && make setup`."
        )


def offline_sql(revision: str = "head") -> str:
    """The SQL that makes everything in an empty database, for a person to paste into a console."""
    config = _config(output := io.StringIO())
    command.upgrade(config, revision, sql=True)
    return output.getvalue()


def seed_sql() -> str:
    """The content of `migrations/seed_supabase.sql`; running this module writes the file."""
    return (
        "-- All tables that Predictbench needs in a Supabase project: run it once in the SQL editor, and after it\n"
        "-- roles.sql. (Or roles.sql alone, and then `predictbench db upgrade`, which later revisions need anyway.)\n"
        "-- Generated from the revisions in migrations/versions: `python -m predictbench_assets.database.migrations`.\n"
        f"-- The schema {SCHEMA} is not exposed by the REST API.\n\n" + offline_sql().strip() + "\n"
    )


def roles_sql() -> str:
    """The content of `migrations/roles.sql`: written by hand, but for the rights on tables between its two marks."""
    before, begin, rest = ROLES_FILE.read_text(encoding="utf-8").partition("-- begin: ")
    mark, _, rest = rest.partition("\n")
    _, end, after = rest.partition("-- end\n")
    return f"{before}{begin}{mark}\n{grants_sql()};\n{end}{after}"


def _with_indexes_ahead(url: URL | str, revision: str) -> list[Script]:
    """The revisions to come that have indexes to build beforehand, in their order; none for a database without rows."""
    _require_known(found := current(make_engine(url, pool_size=0), BRIEF))
    if found is None:
        return []
    scripts = ScriptDirectory.from_config(_config())
    try:
        to_come = list(scripts.iterate_revisions(revision, found))
    except RevisionError:  # there is none of that name, or it has been passed: the upgrade itself says so
        return []
    return [script for script in reversed(to_come) if hasattr(script.module, "INDEXES_AHEAD")]


def _build_ahead(url: URL | str, table: str, name: str, definition: str) -> None:
    """Build an index beside readers and writers, unless it is there; what an interrupted one has left goes first.

    Behind a transaction-mode pooler a time-out that another client left may cut it every time, since it cannot be
    lifted outside of a transaction: then the migration itself builds the index.
    """
    engine = _engine(url)

    def clear() -> None:
        with classified(), engine.begin() as connection:
            connection.execute(_LIMITS, {"lock": LOCK_TIMEOUT})
            # Nobody builds one meanwhile: what is not valid now never will be.
            connection.execute(text(f"LOCK TABLE {SCHEMA}.{table} IN SHARE UPDATE EXCLUSIVE MODE"))
            if connection.execute(_INVALID, {"index": f"{SCHEMA}.{name}"}).scalar_one():
                connection.execute(text(f"DROP INDEX {SCHEMA}.{name}"))

    def build() -> None:
        clear()
        with classified(), engine.connect() as connection:
            alone = connection.execution_options(isolation_level="AUTOCOMMIT")
            alone.execute(text(f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON {SCHEMA}.{table} {definition}"))

    try:
        BRIEF.run(build)
    except DatabaseUnavailable as error:
        _log.warning("%s could not be built beside the writers, who have to wait for it now: %s", name, error)
        _PATIENCE.run(clear)


def _engine(url: URL | str) -> Engine:
    patience = Patience(_PATIENCE_SECONDS, "the limit of one statement of a migration")
    return make_engine(url, pool_size=0, application_name="predictbench migrations", patience=patience)


def _run(url: URL | str, action: Callable[[Config], None]) -> None:
    engine = _engine(url)

    def attempt() -> None:
        with classified(), engine.connect() as connection:
            config = _config()
            config.attributes["connection"] = connection
            action(config)

    # A server that is not there, or does not answer, fails soon; a busy table is waited for.
    _require_known(current(make_engine(url, pool_size=0), BRIEF))
    _PATIENCE.run(attempt)
    _log.info("database migrated", extra={"process_stage": "migrations"})


@cache
def _revisions(folder: Path) -> tuple[str, ...]:  # noqa: ARG001 - what is in it is read once
    """The revisions, the newest first: their files take longer to load than the database to answer."""
    return tuple(script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions())


def _config(output: io.StringIO | None = None) -> Config:
    """Make the configuration in code, so that it works from any folder; nothing is printed."""
    if not (FOLDER / "env.py").is_file():
        raise MigrationsMissing(
            f"no migrations in {FOLDER}: install Predictbench from a clone of its repository (`make setup`)."
        )
    config = Config(stdout=io.StringIO(), output_buffer=output)
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    return config


if __name__ == "__main__":
    SEED_FILE.write_text(seed_sql(), encoding="utf-8")
    ROLES_FILE.write_text(roles_sql(), encoding="utf-8")
