"""Rows that are read as arrays: all of them, in their types, and none that is lost without a word."""

from datetime import UTC, datetime
from uuid import UUID

import numpy as np
import pytest
from sqlalchemy import Engine

from predictbench_assets.database import arrays
from predictbench_assets.database.arrays import UnexpectedRows, fetch_columns


@pytest.mark.parametrize("number", [0, 1, 6, 7, 8, 100])
def test_every_row_is_read_once_however_many_go_into_a_value(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(arrays, "_ROWS_PER_VALUE", 7)
    query = """
        SELECT lpad(n::text, 32, '0')::uuid, n / 4.0::float8, '2000-01-01Z'::timestamptz + n * interval '1 second',
            mod(n, 2) = 0
        FROM generate_series(1, %(number)s) n"""
    with engine.connect() as connection:
        rows = fetch_columns(
            connection, query, {"number": number}, {"id": "uuid", "value": "float", "at": "time", "even": "bool"}
        )
    found = sorted(
        (UUID(bytes=one), value, at, even)
        for one, value, at, even in zip(*(rows[name].tolist() for name in rows.dtype.names or ()), strict=True)
    )
    assert found == [(UUID(f"{n:032}"), n / 4, n * 1_000_000, n % 2 == 0) for n in range(1, number + 1)]


def test_what_is_at_the_ends_of_a_type(engine: Engine) -> None:
    query = "SELECT 'NaN'::float8, 'infinity'::timestamptz, %(at)s::timestamptz"
    given = {"at": datetime(1999, 12, 31, 23, 59, 59, tzinfo=UTC)}
    with engine.connect() as connection:
        [row] = fetch_columns(connection, query, given, {"value": "float", "end": "time", "at": "time"})
    assert np.isnan(row["value"])
    assert (row["end"], row["at"]) == (np.iinfo(np.int64).max, -1_000_000)


def test_a_row_with_a_null_is_not_left_out_in_silence(engine: Engine) -> None:
    query = "SELECT n::float8, nullif(n, 2)::float8 FROM generate_series(1, 3) n"
    with engine.connect() as connection, pytest.raises(UnexpectedRows, match="null"):
        fetch_columns(connection, query, {}, {"one": "float", "other": "float"})
