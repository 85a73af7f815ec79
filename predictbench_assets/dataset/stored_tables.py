"""Rows of the tables out of a database, for exports, releases and notebooks."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from uuid import UUID

import numpy as np
from sqlalchemy import Connection, Engine, text

from predictbench_assets.database.as_of import result_is_known, run_is_known
from predictbench_assets.database.errors import classified
from predictbench_assets.dataset.files import CHUNK, Row
from predictbench_assets.dataset.tables import RELEASED_SCORES, SCORED_FORECASTS, Table
from predictbench_assets.runs import RunKey
from predictbench_assets.scoring import rules

_COUNTED_RUNS = text(f"""
    SELECT p.run_id, p.run_date, p.window_days, p.as_of FROM predictbench.processing_runs p
    WHERE p.run_date BETWEEN :since AND :until AND {run_is_known(":as_of")}
    ORDER BY p.run_date, p.window_days""")  # noqa: S608 - names of ours

_ALL_RUNS = text("""
    SELECT run_id, run_date, window_days, as_of FROM predictbench.processing_runs
    WHERE run_date BETWEEN :since AND :until ORDER BY run_date, window_days""")

_CUTOFFS = text("""
    SELECT name, version, knowledge_cutoff FROM predictbench.experiments
    WHERE knowledge_cutoff IS NOT NULL ORDER BY name, version""")

_LEFT_OUT = text(f"""
    SELECT count(*) FROM predictbench.experiment_results r JOIN predictbench.experiment_runs a USING (experiment_run_id)
    WHERE a.run_id = :run_id AND r.status = 'completed'
        AND NOT {result_is_known(":frozen_at")} AND {result_is_known(":as_of")}""")  # noqa: S608 - names of ours


# Else the server plans for the first tenth of a cursor's rows, and walks all markets in their order to find a run's.
_READ_TO_THE_END = text("SELECT set_config('cursor_tuple_fraction', '1', true)")


@dataclass(frozen=True)
class RunToRead:
    """A run to read."""

    run_id: UUID
    key: RunKey
    frozen_at: datetime
    """Instant after which nothing stored is read, but by exports."""
    as_of: datetime | None = None
    """The instant that its snapshot reconstructs; None where it was captured."""


@contextmanager
def stored_tables(engine: Engine, as_of: datetime) -> Iterator["StoredTables"]:
    """Open the tables in one read-only transaction: all rows are of one moment, whatever is written meanwhile.

    Args:
        as_of: resolutions that were observed later are unknown.

    Raises:
        DatabaseUnavailable, DatabaseRefused: the database cannot be reached, or refuses.
    """
    with classified(engine), engine.connect() as connection:
        connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        connection.execute(_READ_TO_THE_END)
        yield StoredTables(connection, as_of)


class StoredTables:
    """Rows of tables, a few thousand at a time, in the order of their files. Made by `stored_tables`."""

    def __init__(self, connection: Connection, as_of: datetime) -> None:
        self._connection = connection
        self._as_of = as_of

    def knowledge_cutoffs(self) -> dict[str, date]:
        """The knowledge cutoff of each experiment that has one, by name and version."""
        return {f"{row.name} {row.version}": row.knowledge_cutoff for row in self._connection.execute(_CUTOFFS)}

    def counted_runs(self, since: date | None, until: date | None) -> list[RunToRead]:
        """The runs that boards count at the moment, oldest first, as they were stored by then."""
        chosen = {"since": since or date.min, "until": until or date.max, "as_of": self._as_of}
        rows = self._connection.execute(_COUNTED_RUNS, chosen)
        return [RunToRead(row.run_id, RunKey(row.run_date, row.window_days), self._as_of, row.as_of) for row in rows]

    def all_runs(self, since: date, until: date) -> list[RunToRead]:
        """Every run of some days that has a row, oldest first, with all that is stored of it."""
        rows = self._connection.execute(_ALL_RUNS, {"since": since, "until": until})
        return [RunToRead(row.run_id, RunKey(row.run_date, row.window_days), self._as_of, row.as_of) for row in rows]

    def read(
        self, table: Table, runs: Sequence[RunToRead], experiments: Sequence[str] | None = None
    ) -> Iterator[tuple[RunToRead | None, Sequence[Any]]]:
        """The rows of a table, with the run that they are of; None for a table that is not by run.

        Args:
            experiments: names to keep of a table of forecasts or scores.
        """
        values = {"as_of": self._as_of, "experiments": None if experiments is None else list(experiments)}
        if not table.by_run:
            for rows in self._read(table.query, values | {"runs": [run.run_id for run in runs]}):
                yield None, rows
            return
        # A table may have been narrowed to some of its columns.
        computed = table.name == RELEASED_SCORES.name and not table.source
        chosen = [RELEASED_SCORES.columns.index(column) for column in table.columns] if computed else []
        for run in runs:
            parameters = values | {"run_id": run.run_id, "frozen_at": run.frozen_at}
            for rows in self._read(SCORED_FORECASTS if computed else table.query, parameters):
                yield run, [[row[place] for place in chosen] for row in _scored(rows)] if computed else rows

    def left_out(self, run: RunToRead) -> int:
        """Number of forecasts that were stored after the run was frozen."""
        values = {"run_id": run.run_id, "frozen_at": run.frozen_at, "as_of": self._as_of}
        return int(self._connection.execute(_LEFT_OUT, values).scalar_one())

    def _read(self, query: str, values: Mapping[str, Any]) -> Iterator[Sequence[Any]]:
        # A cursor of the server's: it lives in this transaction, which a pooler leaves on one connection.
        statement = text(query).execution_options(stream_results=True, max_row_buffer=CHUNK)
        yield from self._connection.execute(statement, values).partitions(CHUNK)


def _scored(rows: Sequence[Any]) -> list[Row]:
    """Score forecasts with their outcomes; what needs a price is null where there is none."""
    forecast, outcome, price = (
        np.array([getattr(row, name) for row in rows], np.float64) for name in ("probability", "outcome", "price")
    )
    columns = {
        name: [getattr(row, name) for row in rows] for name in ("run_date", "window_days", "market_id", "observed_at")
    }
    columns |= {"experiment": [row.name for row in rows], "version": [row.version for row in rows]}
    columns |= {"attempt": [row.attempt for row in rows], "scoring_version": [rules.SCORING_VERSION] * len(rows)}
    for name, values in {"outcome": outcome, **rules.scores(forecast, price, outcome)}.items():
        columns[name] = [None if value != value else value for value in values.tolist()]
    return list(zip(*(columns[column.name] for column in RELEASED_SCORES.columns), strict=True))
