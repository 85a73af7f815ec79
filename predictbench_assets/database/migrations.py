"""Bringing a database to the schema that this code expects. The revisions are in `migrations/`."""

import io
import logging
from collections.abc import Callable

from alembic import command
from alembic.config import Config
from alembic.script import Script, ScriptDirectory
from alembic.script.revision import RevisionError
from sqlalchemy import URL, Engine, text

from predictbench_assets.database.engine import make_engine
from predictbench_assets.database.errors import BRIEF, Backoff, DatabaseUnavailable, classified
from predictbench_assets.database.patience import Patience
from predictbench_assets.database.privileges import grants_sql
from predictbench_assets.database.revisions import FOLDER, current, head, require_known
from predictbench_assets.database.schema import SCHEMA

LOCK_TIMEOUT = "5s"
"""Time that a migration waits for a table before it lets those behind it pass."""
_PATIENCE = Backoff(attempts=6, first=1.0, longest=15.0)
_PATIENCE_SECONDS = 3600.0
"""Limit of one statement: an index on a large table takes its time."""

SEED_FILE = FOLDER / "seed_supabase.sql"
ROLES_FILE = FOLDER / "roles.sql"

_LIMITS = text("SELECT set_config('statement_timeout', '30min', true), set_config('lock_timeout', :lock, true)")
_INVALID = text("SELECT count(*) FROM pg_index WHERE indexrelid = to_regclass(:index) AND NOT indisvalid")

_log = logging.getLogger(__name__)


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
    require_known(found := current(make_engine(url, pool_size=0), BRIEF))
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
    require_known(current(make_engine(url, pool_size=0), BRIEF))
    _PATIENCE.run(attempt)
    _log.info("database migrated", extra={"process_stage": "migrations"})


def _config(output: io.StringIO | None = None) -> Config:
    """Make the configuration in code, so that it works from any folder; nothing is printed."""
    head()  # or they are missing
    config = Config(stdout=io.StringIO(), output_buffer=output)
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    return config


if __name__ == "__main__":
    SEED_FILE.write_text(seed_sql(), encoding="utf-8")
    ROLES_FILE.write_text(roles_sql(), encoding="utf-8")
