"""Dagster's own storage: the class that `deploy/dagster.yaml` names, and its state for `predictbench doctor`."""

import json
import select
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import dagster as dg
import psycopg2  # type: ignore[import-untyped]
import psycopg2.extensions  # type: ignore[import-untyped]
import sqlalchemy as sa
from alembic.script import ScriptDirectory
from dagster._core.storage.event_log.schema import SqlEventLogStorageMetadata  # not exported
from dagster._core.storage.runs.schema import RunStorageSqlMetadata
from dagster._core.storage.schedules.schema import ScheduleStorageSqlMetadata
from dagster._serdes import ConfigurableClassData
from dagster_postgres import DagsterPostgresStorage
from dagster_postgres.run_storage import run_storage
from dagster_postgres.utils import DagsterPostgresException, pg_alembic_config
from sqlalchemy.exc import SQLAlchemyError

from predictbench_assets.addresses import DatabaseUrlError, dagster_storage_url
from predictbench_assets.database.engine import set_session_defaults
from predictbench_assets.failures import PermanentError, TransientError
from predictbench_assets.settings import DB_TIMEOUT_SECONDS, Settings, SettingsError, get_settings

_CONNECT_SECONDS = 10
_METADATA = (RunStorageSqlMetadata, SqlEventLogStorageMetadata, ScheduleStorageSqlMetadata)
_TABLES = sorted({"alembic_version", *(table for metadata in _METADATA for table in metadata.tables)})


class DagsterStorageMisconfigured(PermanentError):
    """DAGSTER_POSTGRES_URL cannot be used; the text gives the reason and never repeats the address."""


class PostgresStorage(DagsterPostgresStorage):
    """dagster-postgres, with the address as people have it.

    Dagster reads DAGSTER_POSTGRES_URL itself, without our settings. What Supabase shows names no driver, which
    SQLAlchemy 2.1 takes for one that Dagster's storage does not work with.
    """

    @classmethod
    def from_config_value(  # type: ignore[override]  # a mapping is what it is given
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> DagsterPostgresStorage:
        try:
            url = dagster_storage_url(config_value["postgres_url"])
        except DatabaseUrlError as error:
            raise DagsterStorageMisconfigured(f"DAGSTER_POSTGRES_URL: {error}") from None
        set_session_defaults()
        limit_waits(_answer_seconds())
        return cls(url.render_as_string(hide_password=False), inst_data=inst_data)


def limit_waits(seconds: float) -> None:
    """Let every connection of Dagster's driver in this process wait so long for an answer, and hear signals meanwhile.

    A statement over the limit raises an OperationalError, and the connection is closed.
    """

    def wait(connection: Any) -> None:
        connecting = connection.status == psycopg2.extensions.STATUS_SETUP
        limit = min(_CONNECT_SECONDS, seconds) if connecting else seconds
        deadline = time.monotonic() + limit
        while (state := connection.poll()) != psycopg2.extensions.POLL_OK:
            reading = state == psycopg2.extensions.POLL_READ
            sockets: tuple[list[Any], list[Any]] = ([connection], []) if reading else ([], [connection])
            if not any(select.select(*sockets, [], max(0.0, deadline - time.monotonic()))):
                raise psycopg2.OperationalError(f"the server has not answered for {limit:g} s (DB_TIMEOUT_SECONDS)")

    psycopg2.extensions.set_wait_callback(wait)


def _answer_seconds() -> float:
    """DB_TIMEOUT_SECONDS, or its default: Dagster opens its storage before the settings are checked."""
    try:
        return get_settings().db_timeout_seconds
    except SettingsError:
        return DB_TIMEOUT_SECONDS


class DagsterStorageError(TransientError):
    """Dagster's storage was not reached, or refused a statement; the text gives the reason."""


@dataclass(frozen=True)
class DagsterStorage:
    """The state of Dagster's storage.

    `kind` is `sqlite` where DAGSTER_POSTGRES_URL is unset; the other fields are at their defaults then.
    """

    kind: Literal["sqlite", "postgres"]
    state: Literal["absent", "behind", "ahead", "current"] = "current"
    """`absent`: no tables yet, Dagster makes them on first use. `behind`: `dagster instance migrate` brings it up to
    date. `ahead`: migrated by a newer Dagster than the one installed here."""
    schema: str | None = None
    """The Postgres schema that its tables are in, or would be."""
    runs: int = 0
    events: int = 0
    """Rows of the event log, estimated by the server's statistics."""
    bytes: int = 0
    """The size of its tables with their indexes."""


def check_dagster_storage(settings: Settings) -> DagsterStorage:
    """Inspect Dagster's storage: reachable, at the revision of the installed Dagster, how many runs, how large.

    Raises:
        DagsterStorageError: it was not reached within ten seconds, or may not be read.
    """
    secret = settings.dagster_postgres_url
    if secret is None:
        return DagsterStorage("sqlite")
    url = secret.get_secret_value()
    limit_waits(min(_CONNECT_SECONDS, settings.db_timeout_seconds))
    engine = sa.create_engine(url, poolclass=sa.NullPool, connect_args={"connect_timeout": _CONNECT_SECONDS})
    with classified(settings):
        with engine.connect() as connection:
            schema = connection.scalar(sa.text("SELECT current_schema()"))
            present, size, events = connection.execute(_SIZES, {"tables": _TABLES}).one()
        if not present:
            return DagsterStorage("postgres", "absent", schema)
        state, runs = _revision_and_runs(url)
        return DagsterStorage("postgres", state, schema, runs, int(events), int(size))


@contextmanager
def classified(settings: Settings) -> Iterator[None]:
    """Errors of the storage in Postgres, as one that names its setting.

    Raises:
        DagsterStorageError: in the place of an error of SQLAlchemy's or dagster-postgres'.
    """
    try:
        yield
    except (SQLAlchemyError, DagsterPostgresException) as error:
        raise DagsterStorageError(f"DAGSTER_POSTGRES_URL: {_first_line(settings, error)}") from None


# Tables on the search path, as Dagster itself finds them.
_SIZES = sa.text("""
    SELECT count(*) FILTER (WHERE relname = 'runs') > 0,
           coalesce(sum(pg_total_relation_size(oid)), 0),
           coalesce(sum(greatest(reltuples, 0)) FILTER (WHERE relname = 'event_logs'), 0)
    FROM pg_class WHERE relkind = 'r' AND relname = ANY(:tables) AND pg_table_is_visible(oid)
""")


def _revision_and_runs(url: str) -> tuple[Literal["behind", "ahead", "current"], int]:
    """Revision and runs, read by Dagster's own instance with `should_autocreate_tables` off."""
    with tempfile.TemporaryDirectory(prefix="predictbench-dagster-") as home:
        config = {
            "storage": {"postgres": {"postgres_url": url, "should_autocreate_tables": False}},
            "telemetry": {"enabled": False},
        }
        file = Path(home) / "dagster.yaml"
        file.touch(mode=0o600)
        file.write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML
        with dg.DagsterInstance.from_config(home) as instance:
            found, head = instance.run_storage.alembic_version() or (None, None)
            return _state(found, head), instance.get_runs_count()


def _state(found: object, head: object) -> Literal["behind", "ahead", "current"]:
    if found == head:
        return "current"
    revisions = ScriptDirectory.from_config(pg_alembic_config(run_storage.__file__)).walk_revisions()
    return "behind" if found is None or found in {one.revision for one in revisions} else "ahead"


def _first_line(settings: Settings, error: Exception) -> str:
    cause = error.__cause__ if isinstance(error, DagsterPostgresException) else error  # says "too many retries"
    text = str(getattr(cause, "orig", None) or cause or error).strip()
    return settings.redact(text.splitlines()[0] if text else type(error).__name__)
