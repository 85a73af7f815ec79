"""Dagster's storage in SQLite for a process with many runs: its connections stay open.

Dagster's own opens each file again for every event, of which a run has 170 and a dozen reads and writes come with
each: more than half of what a small run costs. The files and what is in them are the same, so the UI shows both alike.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import sqlalchemy as sa
from dagster._core.instance.ref import InstanceRef  # not exported
from dagster._core.storage.event_log.sqlite.sqlite_event_log import INDEX_SHARD_NAME, SqliteEventLogStorage
from dagster._core.storage.runs.sqlite.sqlite_run_storage import SqliteRunStorage
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClassData

_HISTORY = "history"
_LOCK = "storage.lock"


def instance_for_many_runs() -> dg.DagsterInstance:
    """The instance of DAGSTER_HOME, for a process that makes many runs, one after another."""
    home = os.environ["DAGSTER_HOME"]
    storage = InstanceRef.from_dir(home).storage_data
    if storage is None or storage.class_name != DagsterSqliteStorage.__name__:
        return dg.DagsterInstance.get()
    kept = {"module": __name__, "class": LocalStorage.__name__, "config": {"base_dir": home}}
    return dg.DagsterInstance.from_ref(InstanceRef.from_dir(home, overrides={"storage": {"custom": kept}}))


class LocalStorage(DagsterSqliteStorage):
    """Dagster's storage in SQLite, with the event log and the runs over connections that stay open."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        # Two processes that make its files at once leave each with two revisions, which cannot be opened any more.
        with (Path(base_dir) / _LOCK).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            super().__init__(base_dir, inst_data)
            history = Path(base_dir) / _HISTORY
            self._run_storage = _Runs.from_local(str(history))
            events = _EventLog(str(history / "runs"))
            with events.index_connection():
                self._event_log_storage = events

    @classmethod
    def from_config_value(  # type: ignore[override]  # a mapping is what it is given
        cls, inst_data: ConfigurableClassData | None, config_value: dict[str, str]
    ) -> "LocalStorage":
        return cls(config_value["base_dir"], inst_data)


class _EventLog(SqliteEventLogStorage):
    """The event log: a file for all runs, and one for each, of which that of the last run stays open."""

    def __init__(self, base_dir: str) -> None:
        self._engines: dict[str, sa.Engine] = {}
        self._tables: set[str] = set()
        self._empty: bytes | None = None
        """The file of a run before its first event."""
        super().__init__(base_dir)

    def has_table(self, table_name: str) -> bool:
        """Return whether the file for all runs has a table; one that it has stays."""
        if table_name not in self._tables and super().has_table(table_name):
            self._tables.add(table_name)
        return table_name in self._tables

    @contextmanager
    def _connect(self, shard: str) -> Iterator[sa.Connection]:
        with self._db_lock, self._engine(shard).begin() as connection:
            yield connection

    def _engine(self, shard: str) -> sa.Engine:
        if shard not in self._engines:
            for other in self._engines.keys() - {INDEX_SHARD_NAME, shard}:
                self._engines.pop(other).dispose()
            engine = _engine(self.conn_string_for_shard(shard))
            if shard not in self._initialized_dbs:
                self._prepare(engine, shard)
                self._initialized_dbs.add(shard)
            self._engines[shard] = engine
        return self._engines[shard]

    def _prepare(self, engine: sa.Engine, shard: str) -> None:
        """Make the tables of a file that is new; those of a run's are the same each time, and copied."""
        file = Path(self.path_for_shard(shard))
        if shard == INDEX_SHARD_NAME or file.exists():
            self._initdb(engine)
        elif self._empty is not None:
            whole = file.with_suffix(".new")
            whole.write_bytes(self._empty)
            whole.replace(file)
        else:
            self._initdb(engine)
            with engine.connect() as connection:
                self._empty = connection.connection.driver_connection.serialize()  # type: ignore[union-attr]

    def dispose(self) -> None:
        for engine in self._engines.values():
            engine.dispose()
        self._engines.clear()
        super().dispose()


class _Runs(SqliteRunStorage):
    """The table of runs."""

    def __init__(self, conn_string: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._engine = _engine(conn_string)
        super().__init__(conn_string, inst_data)

    @contextmanager
    def connect(self) -> Iterator[sa.Connection]:
        with self._engine.begin() as connection:
            yield connection

    def dispose(self) -> None:
        self._engine.dispose()
        super().dispose()


def _engine(address: str) -> sa.Engine:
    engine = sa.create_engine(address, connect_args={"timeout": SQLITE_BUSY_TIMEOUT_SECONDS})

    @sa.event.listens_for(engine, "connect")
    def be_quick(connection: Any, _: object) -> None:
        # A write-ahead log stays whole without waiting for the disk at each commit; a loss of power may cost the last
        # events of a run, which its rows in Postgres do not depend on.
        connection.execute("PRAGMA synchronous=NORMAL")

    return engine
