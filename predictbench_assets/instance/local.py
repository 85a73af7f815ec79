"""Dagster's storage in SQLite for a process with many runs: its connections stay open.

Dagster's own opens each file again for every event, of which a run has 170 and a dozen reads and writes come with
each: more than half of what a small run costs. It also asks for every step and check what the same run has stored a
moment before, which is remembered here. The files and what is in them are the same, so the UI shows both alike.
"""

import fcntl
import os
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import sqlalchemy as sa
from dagster._core.event_api import (  # not exported, nor are those below
    AssetRecordsFilter,
    EventLogCursor,
    EventLogRecord,
    EventRecordsResult,
)
from dagster._core.events import ASSET_CHECK_EVENTS, ASSET_EVENTS, EVENT_TYPE_TO_PIPELINE_RUN_STATUS
from dagster._core.instance.ref import InstanceRef
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._core.storage.event_log.sqlite.sqlite_event_log import INDEX_SHARD_NAME, SqliteEventLogStorage
from dagster._core.storage.runs.sqlite.sqlite_run_storage import SqliteRunStorage
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClassData

from predictbench_assets.launch.commands import STORAGE_LOCK

_HISTORY = "history"
_INSERT = SqlEventLogStorageTable.insert()
_FOR_ALL_RUNS = {*ASSET_EVENTS, *ASSET_CHECK_EVENTS, *EVENT_TYPE_TO_PIPELINE_RUN_STATUS}
"""Events that are in the file for all runs, too."""


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
        with (Path(base_dir) / STORAGE_LOCK).open("a") as lock:
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


class _Present:
    """Parts of a schema that were found; one that is there stays."""

    def __init__(self) -> None:
        self._found: set[Hashable] = set()

    def has(self, part: Hashable, look: Callable[[], bool]) -> bool:
        """Return whether a part is there, and look for it until it is."""
        if part not in self._found and look():
            self._found.add(part)
        return part in self._found


class _EventLog(SqliteEventLogStorage):
    """The event log: a file for all runs, and one for each, of which that of the last run stays open.

    What the last run has materialized is remembered: no other process has materialized the same partition since, which
    a run's lease sees to.
    """

    def __init__(self, base_dir: str) -> None:
        self._engines: dict[str, sa.Engine] = {}
        self._present = _Present()
        self._empty: bytes | None = None
        """The file of a run before its first event."""
        self._last_run: str | None = None
        self._made: dict[tuple[dg.AssetKey, str | None], EventLogRecord] = {}
        """The last materialization of each asset and partition by the last run."""
        super().__init__(base_dir)

    def has_table(self, table_name: str) -> bool:
        look = super().has_table
        return self._present.has(("table", table_name), lambda: look(table_name))

    def has_secondary_index(self, name: str) -> bool:
        look = super().has_secondary_index
        return self._present.has(("index", name), lambda: look(name))

    def _has_asset_key_col_on_connection(self, conn: sa.Connection, column_name: str) -> bool:
        look = super()._has_asset_key_col_on_connection
        return self._present.has(("column", column_name), lambda: look(conn, column_name))

    def store_event(self, event: dg.EventLogEntry) -> None:
        """Store an event where Dagster does; the row is handed over beside the statement, which is the same each time.

        SQLAlchemy takes longer for a statement with the values in it than SQLite for the insertion.
        """
        row, kind = self._event_to_row(event), event.dagster_event_type
        with self.run_connection(event.run_id) as connection:
            connection.execute(_INSERT, row)
        if kind in _FOR_ALL_RUNS:
            with self.index_connection() as connection:
                event_id = connection.execute(_INSERT, row).lastrowid
                if kind in ASSET_EVENTS:
                    self._store_asset_event_tags(connection, [event], [event_id])
                    self._store_asset_event(connection, event, event_id)
            if kind in ASSET_CHECK_EVENTS:
                self.store_asset_check_event(event, event_id)

    def _store_asset_event(self, conn: sa.Connection, event: dg.EventLogEntry, event_id: int) -> None:
        super()._store_asset_event(conn, event, event_id)
        if event.run_id != self._last_run:
            self._last_run = event.run_id
            self._made.clear()
        made = event.get_dagster_event()
        if made.is_step_materialization and made.asset_key is not None:
            self._made[made.asset_key, made.partition] = EventLogRecord(event_id, event)

    def fetch_materializations(
        self,
        records_filter: dg.AssetKey | AssetRecordsFilter,
        limit: int,
        cursor: str | None = None,
        ascending: bool = False,
    ) -> EventRecordsResult:
        if isinstance(records_filter, AssetRecordsFilter) and limit == 1 and cursor is None and not ascending:
            key, partitions = records_filter.asset_key, records_filter.asset_partitions or []
            last = self._made.get((key, partitions[0])) if len(partitions) == 1 else None
            if last is not None and records_filter == AssetRecordsFilter(key, partitions):
                at = EventLogCursor.from_storage_id(last.storage_id).to_string()
                return EventRecordsResult([last], cursor=at, has_more=True)
        return super().fetch_materializations(records_filter, limit, cursor, ascending)

    def get_latest_tags_by_partition(
        self,
        asset_key: dg.AssetKey,
        event_type: dg.DagsterEventType,
        tag_keys: Sequence[str],
        asset_partitions: Sequence[str] | None = None,
        before_cursor: int | None = None,
        after_cursor: int | None = None,
    ) -> Mapping[str, Mapping[str, str]]:
        if event_type is dg.DagsterEventType.ASSET_MATERIALIZATION and before_cursor is None and after_cursor is None:
            made = {one: self._made.get((asset_key, one)) for one in asset_partitions or ()}
            if made and all(made.values()):
                return {one: _tags(record, tag_keys) for one, record in made.items() if record is not None}
        return super().get_latest_tags_by_partition(
            asset_key, event_type, tag_keys, asset_partitions, before_cursor, after_cursor
        )

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


def _tags(made: EventLogRecord, names: Sequence[str]) -> dict[str, str]:
    materialization = made.asset_materialization
    tags = (materialization and materialization.tags) or {}
    return {name: tags[name] for name in names if name in tags}


class _Runs(SqliteRunStorage):
    """The table of runs."""

    def __init__(self, conn_string: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._engine, self._present = _engine(conn_string), _Present()
        super().__init__(conn_string, inst_data)

    def has_run_stats_index_cols(self) -> bool:
        return self._present.has("columns of a run's times", super().has_run_stats_index_cols)

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
