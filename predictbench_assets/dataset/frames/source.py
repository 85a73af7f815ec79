"""Sources of frames: the protocol that a database and a release have in common, and their tables."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Final, Protocol

import pyarrow as pa

from predictbench_assets.dataset.files import parquet_schema
from predictbench_assets.dataset.frames.boards import BOARDS
from predictbench_assets.dataset.tables import RELEASED_TABLES, Table
from predictbench_assets.scoring.boards import BoardRow

TABLES: Final = {table.name: table for table in (*RELEASED_TABLES, BOARDS)}
"""Every table that can be asked for."""


@dataclass(frozen=True)
class Choice:
    """A choice of rows to read; None is all of them."""

    since: date | None = None
    """The first run date."""
    until: date | None = None
    """The last run date, itself included."""
    experiments: tuple[str, ...] | None = None


class Source(Protocol):
    """A database or a release, as known at one moment. Both give the same columns, in the same order of rows."""

    @property
    def as_of(self) -> datetime:
        """The moment."""
        ...

    def batches(self, table: Table, choice: Choice) -> Iterator[pa.RecordBatch]:
        """Rows of a released table, a few thousand at a time, in the form of `frame_schema`."""
        ...

    def board_rows(self, since: date | None, until: date | None) -> Sequence[BoardRow]:
        """All boards of the runs of these dates."""
        ...


def frame_schema(table: Table) -> pa.Schema:
    """The columns of a frame: those of the release's Parquet files, but for texts, which are texts.

    A dictionary for each batch would make texts of few values compare and join otherwise than others.
    """
    schema = parquet_schema(table)
    plain = [field.with_type(pa.string()) if pa.types.is_dictionary(field.type) else field for field in schema]
    return pa.schema(plain, metadata=schema.metadata)


def narrowed(table: Table, columns: Sequence[str] | None) -> Table:
    """The table with some of its columns, in the order asked for.

    Raises:
        ValueError: it has no such column, or none is asked for.
    """
    if columns is None:
        return table
    there = {column.name: column for column in table.columns}
    if not columns:
        raise ValueError(f"columns is empty; {table.name} has {', '.join(there)}")
    if unknown := [name for name in columns if name not in there]:
        raise ValueError(f"{table.name} has no column {', '.join(map(repr, unknown))}; there are {', '.join(there)}")
    return replace(table, columns=tuple(there[name] for name in dict.fromkeys(columns)))
