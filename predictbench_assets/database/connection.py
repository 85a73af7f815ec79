"""The database that a process talks to, and opening it: the configured one, or the embedded server of the folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import URL, Engine, make_url

from predictbench_assets.addresses import TRANSACTION_POOLER_PORT
from predictbench_assets.database import revisions
from predictbench_assets.database.engine import make_engine
from predictbench_assets.database.patience import Patience
from predictbench_assets.failures import PermanentError
from predictbench_assets.settings import Settings

if TYPE_CHECKING:
    from predictbench_assets.database.embedded import EmbeddedPostgres

_FOLDER = "postgres"


class TransactionPooled(PermanentError):
    """Migrations were to go through a pooler that gives each transaction another session."""


class DatabaseNotRunning(PermanentError):
    """The embedded server is not running, and the caller did not want it started."""


class EmbeddedUnsupported(PermanentError):
    """The embedded server does not run on this system, Windows for one."""

    def __init__(self) -> None:
        super().__init__(
            "the embedded database and the demo run on Linux and macOS only: on Windows work in WSL 2, or set "
            "DATABASE_URL to a Postgres of your own."
        )


def database_url(settings: Settings, *, start: bool = True) -> URL:
    """Address that runs are written to: the configured database, or the embedded one.

    Args:
        settings: production and staging name theirs in SUPABASE_DB_URL, a laptop may in DATABASE_URL.
        start: start and migrate the embedded server unless it runs. A configured database is never migrated here.

    Raises:
        DatabaseNotRunning: the embedded server is not running and `start` is false.
        EmbeddedPostgresError: it does not start.
    """
    if settings.writer_url is not None:
        return settings.writer_url
    server = embedded_server(settings)
    if not server.status().running:
        if not start:
            raise DatabaseNotRunning(
                "the embedded database is not running: `predictbench db start` starts it, "
                "or set DATABASE_URL to use a Postgres of your own."
            )
        _upgrade(server.start())
    return make_url(server.url)


def migration_url(settings: Settings) -> URL:
    """Address for migrations: the database as its owner, or the embedded one, started if need be.

    A deployment that names no owner migrates as its writer.

    Raises:
        TransactionPooled: a deployment's address is that of the transaction pooler.
    """
    if settings.migration_url is not None:
        if settings.deployed and settings.migration_url.port == TRANSACTION_POOLER_PORT:
            named = settings.supabase_migration_db_url is not None
            raise TransactionPooled(
                f"migrations do not go through the transaction pooler (port {TRANSACTION_POOLER_PORT}), which "
                f"{'SUPABASE_MIGRATION_DB_URL' if named else 'SUPABASE_DB_URL'} names: set SUPABASE_MIGRATION_DB_URL "
                "to the owner's address through the session pooler (port 5432)."
            )
        return settings.migration_url
    return make_url(embedded_server(settings).start())


def embedded_server(settings: Settings) -> "EmbeddedPostgres":
    """The embedded server of the local folder, running or not.

    A dry run in a folder that has none gets one among its scratch files, so that it leaves nothing behind.

    Raises:
        EmbeddedUnsupported: there is none for this system.
    """
    folder: Path = settings.home / _FOLDER
    if settings.predictbench_dry_run and settings.predictbench_scratch is not None and not folder.exists():
        folder = settings.predictbench_scratch / _FOLDER
    return embedded_in(folder)


def embedded_in(folder: Path) -> "EmbeddedPostgres":
    """The embedded server of a folder, running or not.

    Raises:
        EmbeddedUnsupported: there is none for this system.
    """
    try:
        from predictbench_assets.database.embedded import EmbeddedPostgres  # locks and users as POSIX has them
    except ImportError as error:
        raise EmbeddedUnsupported from error
    return EmbeddedPostgres(folder)


def _upgrade(url: URL | str) -> None:
    from predictbench_assets.database import migrations  # with Alembic, which takes longer to load than it is of use

    migrations.upgrade(url)


@contextmanager
def ready_database(settings: Settings) -> Iterator[None]:
    """The database, up and at the revision that this code needs; a dry run leaves it as it was.

    Raises:
        SchemaOutdated: a database that is not ours to migrate is at another revision.
    """
    embedded = settings.writer_url is None
    server = embedded_server(settings) if embedded else None
    ours = server is not None and settings.predictbench_dry_run and not server.status().running
    try:
        if server is not None and not settings.predictbench_dry_run:
            server.start()  # or waits until another process has: one that answers may have no database yet
        url = database_url(settings)
        engine = make_engine(url, pool_size=0, patience=Patience(settings.db_timeout_seconds))
        if embedded and not settings.predictbench_dry_run and not revisions.is_current(engine):
            _upgrade(url)
        revisions.require_current(engine)
        yield
    finally:
        if server is not None and ours:
            server.stop()


@contextmanager
def opened_database(settings: Settings) -> Iterator[Engine]:
    """`ready_database`, and an engine on it until the block ends."""
    with ready_database(settings):
        patience = Patience(settings.db_timeout_seconds)
        engine = make_engine(database_url(settings), pool_size=settings.db_pool_max_size, patience=patience)
        try:
            yield engine
        finally:
            engine.dispose()
