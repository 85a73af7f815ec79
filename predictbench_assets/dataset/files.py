"""The two formats of an export: rows in, a file out, never more than a few thousand rows in memory."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from predictbench_assets.dataset.tables import Column, ExportedTable, Kind
from predictbench_assets.failures import PermanentError

Format = Literal["parquet", "jsonl"]
Row = Sequence[Any]

_LONGEST = 200

CHUNK = 5_000
"""Rows in memory at a time, and in a row group of Parquet."""

_PARQUET: Mapping[Kind, pa.DataType] = {
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

_VALUES: Mapping[Kind, Callable[[Any], Any]] = {
    "double": float,
    "time": lambda value: value.astimezone(UTC),
    "doubles": lambda values: [None if value is None else float(value) for value in values],
}
"""What the driver gives, as both formats write it; kinds that are not named stay as they are."""


class StoredValueUnusable(PermanentError):
    """A row of the database holds what its column cannot be exported from; the text names it."""


def write_file(path: Path, format_: Format, table: ExportedTable, rows: Iterable[Row]) -> int:
    """Write a table into a file; returns how many rows it got."""
    write = _write_parquet if format_ == "parquet" else _write_jsonl
    return write(path, table, as_written(table, rows))


def parquet_schema(table: ExportedTable) -> pa.Schema:
    """The table's columns as Parquet has them, each with its meaning and unit."""
    return pa.schema([_field(column) for column in table.columns], metadata={"meaning": table.meaning})


def record_batch(schema: pa.Schema, rows: Sequence[Row]) -> pa.RecordBatch:
    """Rows of what both formats hold, as columns of Arrow."""
    columns = zip(*rows, strict=True) if rows else ((),) * len(schema)
    arrays = [pa.array(values, type=field.type) for values, field in zip(columns, schema, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _field(column: Column) -> pa.Field:
    metadata = {"meaning": column.meaning} | ({"unit": column.unit} if column.unit else {})
    return pa.field(column.name, _PARQUET[column.kind], nullable=not column.required, metadata=metadata)


def _write_parquet(path: Path, table: ExportedTable, rows: Iterable[Row]) -> int:
    schema = parquet_schema(table)
    count, left = 0, iter(rows)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        while chunk := list(islice(left, CHUNK)):
            writer.write_batch(record_batch(schema, chunk))
            count += len(chunk)
    return count


def _write_jsonl(path: Path, table: ExportedTable, rows: Iterable[Row]) -> int:
    names = [column.name for column in table.columns]
    encode = msgspec.json.Encoder().encode
    count = 0
    with path.open("wb") as file:
        for row in rows:
            file.write(encode(dict(zip(names, row, strict=True))) + b"\n")
            count += 1
    return count


def as_written(table: ExportedTable, rows: Iterable[Row]) -> Iterable[list[Any]]:
    """Rows of the driver's values as rows of what both formats hold."""
    for row in rows:
        yield [_written(table, column, value, row) for column, value in zip(table.columns, row, strict=True)]


def _written(table: ExportedTable, column: Column, value: Any, row: Row) -> Any:
    convert = _VALUES.get(column.kind)
    if value is None or convert is None:
        return value
    try:
        return convert(value)
    except (AttributeError, TypeError, ValueError, OverflowError):
        keys = [str(one) for key, one in zip(table.columns, row, strict=True) if key.required and key is not column]
        raise StoredValueUnusable(
            f"{table.name}: the row {' '.join(keys)[:_LONGEST]} has {str(value)[:_LONGEST]} stored as its "
            f"{column.name} ({column.kind} expected): nothing of ours writes that, so correct what was edited by hand"
        ) from None
