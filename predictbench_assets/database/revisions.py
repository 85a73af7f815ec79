"""The revision that a database is at, and the one that this code expects: without Alembic, which takes a tenth of a
second to load, so that every command and every run can look."""

from functools import cache
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, Engine, text

from predictbench_assets.database.errors import ONCE, Backoff, DatabaseUnsuitable, in_transaction
from predictbench_assets.database.schema import SCHEMA, VERSION_TABLE
from predictbench_assets.failures import PermanentError
from predictbench_assets.printable import on_one_line

FOLDER: Final = Path(__file__).resolve().parents[2] / "migrations"
"""The place of the revisions: files of `versions`, whose names begin with the four digits of their revision."""


class MigrationsMissing(PermanentError):
    """The revisions are not where the code is: Predictbench was not installed from a clone."""


class SchemaOutdated(PermanentError):
    """The database is at another revision than this code."""


def current(engine: Engine, backoff: Backoff = ONCE) -> str | None:
    """The revision a database is at, or None for one that was never migrated."""
    return in_transaction(engine, _revision_of, backoff)


def _revision_of(connection: Connection) -> str | None:
    table = f"{SCHEMA}.{VERSION_TABLE}"
    if connection.execute(text("SELECT to_regclass(:table)"), {"table": table}).scalar_one() is None:
        return None
    found = connection.execute(text(f"SELECT version_num FROM {table}")).scalars().all()  # noqa: S608
    if len(found) > 1:
        raise SchemaOutdated(f"{table} has {len(found)} rows and should have one: leave that of the newest revision.")
    return found[0] if found else None


def head() -> str:
    """The revision that this code expects."""
    return _revisions()[0]


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

    require_known(found := in_transaction(engine, read, ONCE))
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


def require_known(revision: str | None) -> None:
    """Refuse a database that a newer version of this code has migrated: no command here can do anything about it."""
    if revision is not None and revision not in _revisions():
        raise SchemaOutdated(
            f"the database is at revision {on_one_line(revision)}, which this code (at {head()}) does not know: "
            "a newer one has migrated it. Use that one: `git pull && make setup`."
        )


@cache
def _revisions() -> tuple[str, ...]:
    """The revisions, the newest first."""
    files = FOLDER.glob("versions/[0-9][0-9][0-9][0-9]_*.py")
    found = sorted({path.name.partition("_")[0] for path in files}, reverse=True)
    if not found:
        raise MigrationsMissing(
            f"no migrations in {FOLDER}: install Predictbench from a clone of its repository (`make setup`)."
        )
    return tuple(found)
