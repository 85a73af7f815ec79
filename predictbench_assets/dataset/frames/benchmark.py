"""The way in for notebooks: `predictbench_assets.open_benchmark`, and what it opens."""

from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime
from os import PathLike
from pathlib import Path
from typing import Any, Final, Literal, get_args

import msgspec
import pyarrow as pa

from predictbench_assets.clock import as_of_instant, parsed_moment
from predictbench_assets.dataset.files import record_batch
from predictbench_assets.dataset.frames.boards import BOARDS
from predictbench_assets.dataset.frames.released import ReleaseSource
from predictbench_assets.dataset.frames.source import TABLES, Choice, Source, frame_schema, narrowed
from predictbench_assets.dataset.frames.stored import DatabaseSource, configured_database, database_at, demo_database
from predictbench_assets.dataset.tables import RELEASED_EXPERIMENTS, Table, described_columns
from predictbench_assets.failures import PermanentError
from predictbench_assets.printable import on_one_line
from predictbench_assets.scoring.boards import ALL, EVERY, PRICE_BIN_LABELS, BoardName, BoardRow, chosen_rows

Frames = Literal["polars", "pandas"]
Day = date | str
"""A day, or one as 2026-11-23."""
Names = str | Iterable[str]


class FramesMissing(PermanentError, ImportError):
    """No library of data frames is installed."""


class UnknownExperiment(PermanentError, ValueError):
    """No experiment of that name has run; the text names those that have."""


def open_benchmark(
    *,
    release: str | PathLike[str] | None = None,
    url: str | None = None,
    demo: bool = False,
    as_of: date | datetime | str | None = None,
    frames: Frames | None = None,
) -> "Benchmark":
    """Open the benchmark's data for reading.

    Without an argument that is the database of the commands: what the environment or `.env` names, else the embedded
    one, which is started if it is not running. Of `release`, `url` and `demo` at most one may be given.

    Args:
        release: the folder of a release, as `predictbench release` writes it.
        url: the address of a database, `postgresql://...`.
        demo: open the database of `predictbench demo`.
        as_of: show everything as it was known then: a day (its end, UTC), or an instant. Default: now. A release shows
            its own moment and takes none.
        frames: the library to make data frames with. Default: Polars where it is installed, else pandas.

    Raises:
        ValueError: arguments that do not go together, or of which nothing can be known.
        TypeError: as_of is no moment.
        NothingStored: no database is set, and there is none in this folder nor in those above.
        SchemaOutdated: the database was never migrated, or is of another version of this code.
        ReleaseMissing, ManifestUnreadable: there is no release.
        DatabaseUnavailable, DatabaseRefused, SettingsError, EmbeddedPostgresError: the database cannot be used.
    """
    if sum((release is not None, url is not None, demo)) > 1:
        raise ValueError("give at most one of release, url and demo")
    if frames is not None and frames not in get_args(Frames):
        raise ValueError(f"frames is {frames!r}; there are {', '.join(get_args(Frames))}")
    if not isinstance(as_of, date | str | None):
        raise TypeError(f"as_of is {as_of!r}: give a date, an instant with its zone, or one of them as text")
    if release is not None:
        opened = ReleaseSource(Path(release))
        if as_of is not None:
            raise ValueError(f"a release shows one moment, {opened.as_of.isoformat()}: leave out as_of")
        return Benchmark(opened, frames)
    found = database_at(url) if url is not None else demo_database() if demo else configured_database()
    moment = parsed_moment(as_of) if isinstance(as_of, str) else as_of
    if isinstance(moment, datetime) and moment.tzinfo is None:
        raise ValueError(f"as_of {moment.isoformat()} has no zone: give it one, such as UTC")
    return Benchmark(DatabaseSource(found, as_of_instant(moment, found.clock.now())), frames)


class Benchmark:
    """The benchmark's data at one moment, as data frames. Made by `open_benchmark`.

    A database and a release give the same columns, with the same types and units; `columns` explains them. Prices and
    probabilities are those of a market's first outcome, instants are in UTC. A market is the same in all frames by
    `run_date`, `window_days` and `market_id`. Whatever is stored while a notebook is open comes after its moment and
    is not seen: open again to see it.

    The same arguments choose rows and columns everywhere: `since` and `until` are the first and the last run date, the
    last one itself included; `experiment` is a name or several; `columns` are those to show, in that order.
    """

    def __init__(self, source: Source, frames: Frames | None) -> None:
        self._source = source
        self._frames = frames
        self._boards: dict[tuple[date | None, date | None], Sequence[BoardRow]] = {}

    def __repr__(self) -> str:
        return f"<Benchmark: {self._source}, as of {self.as_of.isoformat(timespec='seconds')}>"

    @property
    def as_of(self) -> datetime:
        """The moment that everything is shown at, in UTC."""
        return self._source.as_of

    def markets(self, *, since: Day | None = None, until: Day | None = None, columns: Names | None = None) -> Any:
        """The markets of each run between `since` and `until`: what was asked, and what it cost when it was frozen."""
        return self._frame("markets", None, since, until, columns)

    def forecasts(
        self,
        *,
        experiment: Names | None = None,
        since: Day | None = None,
        until: Day | None = None,
        columns: Names | None = None,
    ) -> Any:
        """The forecasts of each attempt of each experiment, and what gave none.

        An experiment that was run again has a row for each attempt, in their order. Boards count the newest that was
        in time.
        """
        return self._frame("forecasts", experiment, since, until, columns)

    def scores(
        self,
        *,
        experiment: Names | None = None,
        since: Day | None = None,
        until: Day | None = None,
        columns: Names | None = None,
    ) -> Any:
        """The scores of the forecasts of settled markets, of each attempt, with the outcome that they follow from."""
        return self._frame("scores", experiment, since, until, columns)

    def resolutions(self, *, columns: Names | None = None) -> Any:
        """The newest observation of how each market settled; one that was never looked up has none."""
        return self._frame("resolutions", None, None, None, columns)

    def experiments(self) -> Any:
        """The versions of the experiments that ran."""
        return self._frame("experiments", None, None, None, None)

    def boards(
        self,
        *,
        board: BoardName | None = None,
        window_days: int | None = None,
        category: str = ALL,
        price_bin: str = ALL,
        since: Day | None = None,
        until: Day | None = None,
    ) -> Any:
        """The boards, with the numbers of `predictbench leaderboard --as-of` but costs, which no release has.

        All run dates count where none are given; that command counts the last year then.

        Args:
            board: `core`, `full` or `backfill`. Default: all three.
            window_days: only this window.
            category: only this one; `all` is the board as a whole, `every` each cut.
            price_bin: such as `5-20` (per cent); `all` and `every` as above.
            since, until: only runs of these dates.

        Raises:
            ValueError: there is no such board, window, category or price bin.
        """
        _among("board", board, (None, *get_args(BoardName)))
        _among("price_bin", price_bin, (ALL, EVERY, *PRICE_BIN_LABELS))
        rows = self._board_rows(_day("since", since), _day("until", until))
        if rows:
            _among("window_days", window_days, (None, *sorted({row.window_days for row in rows})))
            _among("category", category, (ALL, EVERY, *sorted({row.category for row in rows} - {ALL})))
        chosen = chosen_rows(rows, board=board, window_days=window_days, category=category, price_bin=price_bin)
        return self._made(
            BOARDS, [record_batch(frame_schema(BOARDS), [msgspec.structs.astuple(row) for row in chosen])]
        )

    def columns(self, table: str) -> Any:
        """The columns of a table with their types, units and meanings, a row each.

        Args:
            table: markets, contracts, forecasts, digests, experiments, resolutions, scores or boards.
        """
        return self._library()(pa.Table.from_pylist(described_columns(_table(table))))

    def arrow(
        self,
        table: str,
        *,
        experiment: Names | None = None,
        since: Day | None = None,
        until: Day | None = None,
        columns: Names | None = None,
    ) -> pa.RecordBatchReader:
        """A table as a stream of Arrow, a few thousand rows in memory at a time; it needs no library of frames.

        `read_all()` gives a `pyarrow.Table`; DuckDB and Polars read the stream itself.

        Args:
            table: as in `columns`, but for boards.
        """
        chosen, choice = self._chosen(table, experiment, since, until, columns)
        return pa.RecordBatchReader.from_batches(frame_schema(chosen), self._source.batches(chosen, choice))

    def _frame(
        self, table: str, experiment: Names | None, since: Day | None, until: Day | None, columns: Names | None
    ) -> Any:
        chosen, choice = self._chosen(table, experiment, since, until, columns)
        return self._made(chosen, self._source.batches(chosen, choice))

    def _chosen(
        self, name: str, experiment: Names | None, since: Day | None, until: Day | None, columns: Names | None
    ) -> tuple[Table, Choice]:
        table = _table(name)
        if table is BOARDS:
            raise ValueError("boards are computed, not read: call boards()")
        there = {column.name for column in table.columns}
        if experiment is not None and not {"experiment", "attempt"} <= there:
            raise ValueError(f"{name} are not of single experiments: leave out experiment")
        if (since is not None or until is not None) and "run_date" not in there:
            raise ValueError(f"{name} have no run date: leave out since and until")
        choice = Choice(_day("since", since), _day("until", until), self._names(experiment))
        return narrowed(table, _listed(columns)), choice

    def _names(self, experiment: Names | None) -> tuple[str, ...] | None:
        """The experiments asked for.

        Raises:
            UnknownExperiment: see there.
        """
        wanted = _listed(experiment)
        if wanted is None:
            return None
        batches = self._source.batches(narrowed(RELEASED_EXPERIMENTS, ("experiment",)), Choice())
        there = sorted({name for batch in batches for name in batch.column("experiment").to_pylist()})
        if unknown := [name for name in wanted if name not in there]:
            known = f"there are {on_one_line(', '.join(there))}" if there else "none has run yet"
            raise UnknownExperiment(f"no experiment {', '.join(map(repr, unknown))} has run; {known}")
        return tuple(wanted)

    def _board_rows(self, since: date | None, until: date | None) -> Sequence[BoardRow]:
        """Computed once: the moment stands still."""
        if (since, until) not in self._boards:
            self._boards[since, until] = self._source.board_rows(since, until)
        return self._boards[since, until]

    def _made(self, table: Table, batches: Iterable[pa.RecordBatch]) -> Any:
        make = self._library()
        return make(pa.Table.from_batches(batches, frame_schema(table)))

    def _library(self) -> Callable[[pa.Table], Any]:
        """Load the library of frames; returns its conversion from Arrow.

        Raises:
            FramesMissing: see there.
        """
        wanted: tuple[Frames, ...] = get_args(Frames) if self._frames is None else (self._frames,)
        for name in wanted:
            try:
                return _MAKERS[name]()
            except ModuleNotFoundError as error:
                if error.name != name:
                    raise
        raise FramesMissing(
            f"{' and '.join(wanted)} {'are' if len(wanted) > 1 else 'is'} not installed: `pip install "
            f"{wanted[0]}`{' (or pandas)' if len(wanted) > 1 else ''}; arrow() needs neither"
        )


def _polars() -> Callable[[pa.Table], Any]:
    import polars

    return polars.from_arrow


def _pandas() -> Callable[[pa.Table], Any]:
    import pandas  # noqa: F401 - pyarrow would fail in the middle of a conversion

    return lambda table: table.to_pandas(date_as_object=False)


_MAKERS: Final[dict[Frames, Callable[[], Callable[[pa.Table], Any]]]] = {"polars": _polars, "pandas": _pandas}


def _table(name: str) -> Table:
    if name not in TABLES:
        raise ValueError(f"no table {name!r}; there are {', '.join(TABLES)}")
    return TABLES[name]


def _listed(names: Names | None) -> list[str] | None:
    return None if names is None else [names] if isinstance(names, str) else list(names)


def _day(name: str, given: Day | None) -> date | None:
    if isinstance(given, str):
        try:
            return date.fromisoformat(given)
        except ValueError as error:
            raise ValueError(f"{name} is {given!r}: write a day as 2026-11-23") from error
    if given is not None and not isinstance(given, date):
        raise TypeError(f"{name} is {given!r}: give a date, or a day as '2026-11-23'")
    return given.date() if isinstance(given, datetime) else given


def _among(name: str, given: object, there: Sequence[object]) -> None:
    if given not in there:
        raise ValueError(f"{name} is {given!r}; there are {', '.join(str(one) for one in there if one is not None)}")
