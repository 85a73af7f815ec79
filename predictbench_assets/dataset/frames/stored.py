"""Frames out of a database: found as the commands find it, started if it is the embedded one, and only ever read."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Final

import pyarrow as pa
from sqlalchemy import URL, Engine

from predictbench_assets.addresses import DatabaseUrlError, normalized_url
from predictbench_assets.clock import Clock, SystemClock
from predictbench_assets.database import revisions
from predictbench_assets.database.connection import database_url, embedded_server
from predictbench_assets.database.engine import make_engine
from predictbench_assets.database.errors import ADDRESS
from predictbench_assets.dataset.files import as_written, record_batch
from predictbench_assets.dataset.frames.source import Choice, frame_schema
from predictbench_assets.dataset.stored_tables import stored_tables
from predictbench_assets.dataset.tables import Table
from predictbench_assets.failures import PermanentError
from predictbench_assets.scoring.boards import BoardRow
from predictbench_assets.scoring.store.boards import rebuild_leaderboard
from predictbench_assets.settings import Settings, default_env_file, load_settings

DEMO_FOLDER: Final = Path(".predictbench") / "demo"
"""Folder of `predictbench demo`, in that of the project."""


class NothingStored(PermanentError):
    """No database is set, and there is none of ours in the folder."""


@dataclass(frozen=True)
class FoundDatabase:
    """A database, and the clock that goes with it."""

    url: URL
    clock: Clock
    given_by: str | None = None
    """The argument that named it; None if it was a setting."""


def database_at(url: str) -> FoundDatabase:
    """Find the database at an address; the settings are ignored.

    Raises:
        ValueError: it is no address of a Postgres.
    """
    try:
        return FoundDatabase(normalized_url(url), SystemClock(), "the argument url")
    except DatabaseUrlError as error:
        raise ValueError(f"url {error}") from error


def configured_database() -> FoundDatabase:
    """Find the database that the commands use: of the environment, of `.env`, or the embedded one.

    A notebook seldom runs in the folder of the commands, so `.env` and the local folder are looked for in the current
    folder and then in those above it.

    Raises:
        NothingStored: there is none.
        SettingsError: the settings have problems.
        EmbeddedPostgresError: the embedded server does not start.
    """
    usual = Path(".env")
    folder = _nearest(lambda one: (one / usual).is_file() or (one / ".predictbench").is_dir()) or Path.cwd()
    env_file = default_env_file()
    settings = load_settings(folder / usual if env_file == usual else env_file)
    home = folder / settings.predictbench_home.expanduser()
    return _found(
        settings.model_copy(update={"predictbench_home": home}),
        "run `predictbench daily`, set DATABASE_URL, or open the demo's with demo=True or a release with release=...",
    )


def demo_database() -> FoundDatabase:
    """The database of `predictbench demo`, in the current folder or one above it; nothing of the settings is read.

    Raises:
        NothingStored: no demo was run there.
        EmbeddedPostgresError: the server does not start.
    """
    folder = _nearest(lambda one: (one / DEMO_FOLDER).is_dir()) or Path.cwd()
    return _found(
        Settings.model_construct(predictbench_home=folder / DEMO_FOLDER),
        "run `predictbench demo --past 8` in the folder of the project",
    )


def _nearest(holds: Callable[[Path], bool]) -> Path | None:
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if holds(folder)), None)


def _found(settings: Settings, otherwise: str) -> FoundDatabase:
    if settings.writer_url is None and not (folder := embedded_server(settings).folder).is_dir():
        raise NothingStored(f"there is no database in {folder}: {otherwise}")
    return FoundDatabase(database_url(settings), settings.clock)


class DatabaseSource:
    """The tables of a release, read from a database as known on an instant.

    The runs are those that boards count; forecasts and resolutions that came later than the moment are unknown.
    Nothing is written: each transaction is read-only.

    Raises:
        DatabaseUnavailable, DatabaseRefused, SchemaOutdated: the database cannot be reached, refuses, or is older.
    """

    def __init__(self, found: FoundDatabase, as_of: datetime) -> None:
        self.as_of = as_of
        self._address = found.url.render_as_string(hide_password=True)
        # A notebook is left open for days: no connection is held between two reads.
        engine = make_engine(found.url, pool_size=0, application_name="predictbench notebook")
        self._engine: Engine = engine.execution_options(postgresql_readonly=True)
        if found.given_by is not None:
            self._engine = self._engine.execution_options(**{ADDRESS: found.given_by})
        revisions.require_current(self._engine)

    def __str__(self) -> str:
        return self._address

    def batches(self, table: Table, choice: Choice) -> Iterator[pa.RecordBatch]:
        """Rows of a table, all from one snapshot of the database."""
        schema = frame_schema(table)
        with stored_tables(self._engine, self.as_of) as stored:
            runs = stored.counted_runs(choice.since, choice.until)
            for _, rows in stored.read(table, runs, choice.experiments):
                yield record_batch(schema, list(as_written(table, rows)))

    def board_rows(self, since: date | None, until: date | None) -> Sequence[BoardRow]:
        """Rows of the boards of these run dates, computed as `predictbench leaderboard --as-of` does."""
        return rebuild_leaderboard(self._engine, self.as_of, since=since, until=until).rows
