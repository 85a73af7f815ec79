"""A table of a release as files: Parquet and JSON lines under zstd, the same rows in both, a portion at a time."""

import hashlib
import io
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import pyarrow.parquet as pq
import zstandard

from predictbench_assets.dataset.files import CHUNK, Row, as_written, parquet_schema, record_batch
from predictbench_assets.dataset.tables import ExportedTable

_LEVEL = 9
_encode = msgspec.json.Encoder().encode


class TableWriter:
    """Writes one table of a release into both of its files. The same rows give the same bytes."""

    def __init__(self, folder: Path, table: ExportedTable) -> None:
        self.table = table
        self.rows = 0
        self.parquet, self.lines = parquet_of(folder, table), lines_of(folder, table)
        self._names = [column.name for column in table.columns]
        self._schema = parquet_schema(table)
        self._held: list[Row] = []

    def __enter__(self) -> Self:
        self._file = self.lines.open("wb")
        self._compressed = zstandard.ZstdCompressor(level=_LEVEL).stream_writer(self._file)
        self._rows_of_parquet = pq.ParquetWriter(self.parquet, self._schema, compression="zstd")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        self._rows_of_parquet.close()
        self._compressed.close()  # type: ignore[no-untyped-call]  # closes the file as well

    def write(self, rows: Sequence[Row]) -> bytes:
        """Add rows of the driver's values; returns them as JSON lines."""
        ready = list(as_written(self.table, rows))
        lines = b"".join(line_of(self._names, row) for row in ready)
        self._compressed.write(lines)
        self._held += ready
        self.rows += len(ready)
        if len(self._held) >= CHUNK:
            self._flush()
        return lines

    def _flush(self) -> None:
        if not self._held:
            return
        self._rows_of_parquet.write_batch(record_batch(self._schema, self._held))
        self._held = []


def parquet_of(folder: Path, table: ExportedTable) -> Path:
    """The Parquet file of a table."""
    return folder / f"{table.name}.parquet"


def lines_of(folder: Path, table: ExportedTable) -> Path:
    """The file of JSON lines of a table."""
    return folder / f"{table.name}.jsonl.zst"


def line_of(names: Sequence[str], row: Row) -> bytes:
    """A row as its JSON line, line feed included."""
    return _encode(dict(zip(names, row, strict=True))) + b"\n"


def read_lines(folder: Path, table: ExportedTable) -> Iterator[bytes]:
    """The JSON lines of a table, each with its line feed.

    Raises:
        OSError, zstandard.ZstdError: the file is not there, or damaged.
    """
    with lines_of(folder, table).open("rb") as file:
        stream = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
        yield from io.BufferedReader(stream)


def read_parquet(folder: Path, table: ExportedTable) -> Iterator[list[Any]]:
    """The rows of a table's Parquet file, instants in UTC.

    Raises:
        OSError, pyarrow.ArrowException: the file is not there, or damaged.
    """
    with pq.ParquetFile(parquet_of(folder, table)) as file:
        for batch in file.iter_batches(batch_size=CHUNK):
            columns = [_plain(column.to_pylist()) for column in batch.columns]
            yield from map(list, zip(*columns, strict=True))


def sha256_of(path: Path) -> str:
    """Of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _plain(values: list[Any]) -> list[Any]:
    if any(isinstance(value, datetime) for value in values):
        return [value.astimezone(UTC) if isinstance(value, datetime) else value for value in values]
    return values
