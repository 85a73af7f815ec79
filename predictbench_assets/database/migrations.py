"""Bringing a database to the schema that this code expects. The revisions are in `migrations/`."""

import io
import logging
from collections.abc import Callable
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Engine

from predictbench_assets.database.engine import make_engine
from predictbench_assets.database.errors import classified
from predictbench_assets.database.schema import SCHEMA
from predictbench_assets.failures import PermanentError

VERSION_TABLE = "predictbench_alembic_version"
FOLDER = Path(__file__).resolve().parents[2] / "migrations"
SEED_FILE = FOLDER / "seed_supabase.sql"

_log = logging.getLogger(__name__)


class MigrationsMissing(PermanentError):
    """The revisions are not where the code is: Predictbench was not installed from a clone."""


class SchemaOutdated(PermanentError):
    """The database is at another revision than this code."""


def upgrade(url: URL | str, revision: str = "head") -> None:
    """Migrate a database up to a revision; the schema is made when missing, nothing happens when it is there.

    Args:
        url: of the owner of the schema; a direct or session-pooled connection.
    """
    _run(url, lambda config: command.upgrade(config, revision))


def downgrade(url: URL | str, revision: str) -> None:
    """Migrate a database down to a revision (`base`: remove every table of ours, and all their rows)."""
    _run(url, lambda config: command.downgrade(config, revision))


def current(engine: Engine) -> str | None:
    """The revision a database is at, or None for one that was never migrated."""
    with classified(), engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": VERSION_TABLE, "version_table_schema": SCHEMA}
        )
        return context.get_current_revision()


def head() -> str:
    """The revision that this code expects."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    assert revision is not None, "there is a first revision"
    return revision


def is_current(engine: Engine) -> bool:
    """Whether a database is at the revision that this code expects."""
    return current(engine) == head()


def require_current(engine: Engine) -> None:
    """Refuse to work on a database of another revision.

    Raises:
        SchemaOutdated: says which revision it is at and which command brings it here.
    """
    found = current(engine)
    if found != head():
        raise SchemaOutdated(
            f"the database is at revision {found or 'none'}, this code needs {head()}: run `predictbench db upgrade`."
        )


def offline_sql(revision: str = "head") -> str:
    """The SQL that makes everything in an empty database, for a person to paste into a console."""
    config = _config(output := io.StringIO())
    command.upgrade(config, revision, sql=True)
    return output.getvalue()


def seed_sql() -> str:
    """The content of `migrations/seed_supabase.sql`; running this module writes the file."""
    return (
        "-- Everything Predictbench needs in a Supabase project: run it once, as the owner, in the SQL editor.\n"
        "-- Generated from the revisions in migrations/versions; `predictbench db sql` prints the same.\n"
        f"-- The schema {SCHEMA} is not exposed by the REST API, and no role but the owner's may use it.\n\n"
        + offline_sql().strip()
        + "\n"
    )


def _run(url: URL | str, action: Callable[[Config], None]) -> None:
    engine = make_engine(url, pool_size=0, application_name="predictbench migrations")
    with classified(), engine.connect() as connection:
        config = _config()
        config.attributes["connection"] = connection
        action(config)
    _log.info("database migrated", extra={"process_stage": "migrations"})


def _config(output: io.StringIO | None = None) -> Config:
    """Made in code, so that it works from any folder; nothing is printed."""
    if not (FOLDER / "env.py").is_file():
        raise MigrationsMissing(
            f"no migrations in {FOLDER}: install Predictbench from a clone of its repository (`make setup`)."
        )
    config = Config(stdout=io.StringIO(), output_buffer=output)
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    return config


if __name__ == "__main__":
    SEED_FILE.write_text(seed_sql())
