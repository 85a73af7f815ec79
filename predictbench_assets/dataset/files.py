"""The files of a table: written in one or several formats at once, a few thousand rows at a time, and read again."""

import hashlib
import io
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Literal, Self

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from predictbench_assets.dataset.tables import Column, Kind, Table
from predictbench_assets.failures import PermanentError
from predictbench_assets.printable import on_one_line

Format = Literal["parquet", "jsonl", "jsonl.zst"]
"""Named as the files end: Parquet, or JSON lines, plain or under zstd."""
RELEASED_FORMATS: Final[tuple[Format, ...]] = ("parquet", "jsonl.zst")
Row = Sequence[Any]

CHUNK: Final = 5_000
"""Rows in memory at a time, and about as many in a row group of Parquet."""

_LEVEL: Final = 9
_LONGEST_LINE: Final = 16_000_000
_LARGEST_COLUMN: Final = 64_000_000
_MOST_VALUES: Final = 5_000_000
_BATCH_BYTES: Final = 256_000_000
"""Far more than a release has, in a line and in a column of a row group: a few bytes can unpack to more than memory."""
_LONGEST: Final = 200
_encode = msgspec.json.Encoder().encode

_PARQUET: Final[Mapping[Kind, pa.DataType]] = {
    "text": pa.string(),
    "category": pa.dictionary(pa.int32(), pa.string()),
    "double": pa.float64(),
    "integer": pa.int64(),
    "boolean": pa.bool_(),
    "time": pa.timestamp("us", tz="UTC"),
    "date": pa.date32(),
    "texts": pa.list_(pa.string()),
    "doubles": pa.list_(pa.float64()),
}

_VALUES: Final[Mapping[Kind, Callable[[Any], Any]]] = {
    "double": float,
    "time": lambda value: value.astimezone(UTC),
    "doubles": lambda values: [None if value is None else float(value) for value in values],
}
"""Converters of the driver's values to those of all formats; kinds that are not named stay as they are."""


class StoredValueUnusable(PermanentError):
    """A row of the database holds what its column cannot be exported from; the text names it."""


class DataFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file of an export or of a release, as its manifest describes it."""

    name: str
    bytes: int
    sha256: str
    rows: int | None = None
    """None for a file without rows."""


class TableWriter:
    """Writes one table into a file of each format. The same rows give the same bytes."""

    def __init__(self, folder: Path, table: Table, formats: Collection[Format]) -> None:
        self.rows = 0
        self._folder, self._table, self._formats = folder, table, formats
        self._names = [column.name for column in table.columns]
        self._schema = parquet_schema(table)
        self._held: list[Row] = []
        self._lines: list[IO[bytes] | zstandard.ZstdCompressionWriter] = []
        self._parquet: pq.ParquetWriter | None = None

    def __enter__(self) -> Self:
        with ExitStack() as opened:
            for format_ in self._formats:
                path = file_of(self._folder, self._table, format_)
                if format_ == "parquet":
                    self._parquet = opened.enter_context(pq.ParquetWriter(path, self._schema, compression="zstd"))
                    continue
                file: Any = opened.enter_context(path.open("wb"))
                if format_ == "jsonl.zst":
                    file = opened.enter_context(zstandard.ZstdCompressor(level=_LEVEL).stream_writer(file))
                self._lines.append(file)
            self._files = opened.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._files:
            if kind is None:
                self._flush()

    def write(self, rows: Sequence[Row]) -> bytes:
        """Add rows of the driver's values; returns their JSON lines, if one of the formats has lines."""
        ready = list(as_written(self._table, rows))
        self.rows += len(ready)
        if self._parquet is not None:
            self._held += ready
            if len(self._held) >= CHUNK:
                self._flush()
        lines = b"".join(line_of(self._names, row) for row in ready) if self._lines else b""
        for file in self._lines:
            file.write(lines)
        return lines

    def _flush(self) -> None:
        if self._parquet is not None and self._held:
            self._parquet.write_batch(record_batch(self._schema, self._held))
            self._held = []


def file_of(folder: Path, table: Table, format_: Format) -> Path:
    """Path of a table's file."""
    return folder / f"{table.name}.{format_}"


def described(path: Path, rows: int | None = None) -> DataFile:
    """Describe a file for a manifest."""
    return DataFile(name=path.name, bytes=path.stat().st_size, sha256=sha256_of(path), rows=rows)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def parquet_schema(table: Table) -> pa.Schema:
    """Columns of a table as Parquet has them, each with its meaning and unit."""
    return pa.schema([_field(column) for column in table.columns], metadata={"meaning": table.meaning})


def record_batch(schema: pa.Schema, rows: Sequence[Row]) -> pa.RecordBatch:
    """Make columns of Arrow of rows as they are written."""
    columns = zip(*rows, strict=True) if rows else ((),) * len(schema)
    arrays = [pa.array(values, type=field.type) for values, field in zip(columns, schema, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def as_written(table: Table, rows: Iterable[Row]) -> Iterable[list[Any]]:
    """Make rows of what all formats hold of rows of the driver's values."""
    converters = [_VALUES.get(column.kind) for column in table.columns]
    required = [place for place, column in enumerate(table.columns) if column.required]
    for row in rows:
        try:
            ready = [
                value if value is None or convert is None else convert(value)
                for value, convert in zip(row, converters, strict=True)
            ]
        except (AttributeError, TypeError, ValueError, OverflowError):
            raise _unusable(table, row) from None
        if None in ready and any(ready[place] is None for place in required):
            raise _unusable(table, row)
        yield ready


def _unusable(table: Table, row: Row) -> StoredValueUnusable:
    """Name the row, and the first of its values that cannot be converted, or is missing."""
    cells = list(zip(table.columns, row, strict=True))
    bad, value = next(
        (cell for cell in cells if not _convertible(*cell)),
        next((cell for cell in cells if cell[0].required and cell[1] is None), cells[-1]),
    )
    keys = [str(one) for key, one in cells if key.required and key is not bad]
    shown = "nothing usable" if value is None else str(value)[:_LONGEST]
    return StoredValueUnusable(
        f"{table.name}: the row {on_one_line(' '.join(keys)[:_LONGEST])} has {on_one_line(shown)} stored as its "
        f"{bad.name} ({bad.kind} expected): nothing of ours writes that, so correct what was edited by hand"
    )


def _convertible(column: Column, value: object) -> bool:
    try:
        return value is None or _VALUES.get(column.kind, str)(value) is not None
    except (AttributeError, TypeError, ValueError, OverflowError):
        return False


def line_of(names: Sequence[str], row: Row) -> bytes:
    """A row as its JSON line, line feed included."""
    return _encode(dict(zip(names, row, strict=True))) + b"\n"


def read_lines(folder: Path, table: Table) -> Iterator[bytes]:
    """The compressed JSON lines of a table, each with its line feed.

    Raises:
        OSError, zstandard.ZstdError: the file is not there, or damaged.
        ValueError: a line is too long to be one of a release.
    """
    with file_of(folder, table, "jsonl.zst").open("rb") as file:
        stream = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
        buffered = io.BufferedReader(stream)
        while line := buffered.readline(_LONGEST_LINE + 1):
            if len(line) > _LONGEST_LINE:
                raise ValueError(f"a line unpacks to more than {_LONGEST_LINE:,} bytes")
            yield line


def read_parquet(folder: Path, table: Table) -> Iterator[list[Any]]:
    """The rows of a table's Parquet file, instants in UTC.

    Raises:
        OSError, pyarrow.ArrowException: the file is not there, or damaged.
    """
    with pq.ParquetFile(file_of(folder, table, "parquet")) as file:
        for batch in file.iter_batches(batch_size=batch_rows(file)):
            columns = [_in_utc(column.to_pylist()) for column in batch.columns]
            yield from map(list, zip(*columns, strict=True))


def batch_rows(file: pq.ParquetFile, most: int = CHUNK) -> int:
    """Rows that can be read at a time, at most `most`, whatever a Parquet file repeats in each of them.

    Raises:
        pyarrow.ArrowInvalid: a row group unpacks to more than any release has in one.
    """
    metadata, largest = file.metadata, 1
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            unpacked, values = column.total_uncompressed_size, column.num_values
            if unpacked > _LARGEST_COLUMN or values > _MOST_VALUES:
                raise pa.ArrowInvalid(
                    f"{column.path_in_schema} unpacks to {unpacked:,} bytes and {values:,} values in one row group, at "
                    f"most {_LARGEST_COLUMN:,} and {_MOST_VALUES:,} are read"
                )
            largest = max(largest, unpacked)
    return max(1, min(most, _BATCH_BYTES // largest))


def _field(column: Column) -> pa.Field:
    metadata = {"meaning": column.meaning} | ({"unit": column.unit} if column.unit else {})
    return pa.field(column.name, _PARQUET[column.kind], nullable=not column.required, metadata=metadata)


def _in_utc(values: list[Any]) -> list[Any]:
    if any(isinstance(value, datetime) for value in values):
        return [value.astimezone(UTC) if isinstance(value, datetime) else value for value in values]
    return values
