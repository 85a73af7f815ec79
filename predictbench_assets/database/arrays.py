"""Rows as arrays, which scoring reads by the million without a Python object for each value.

The server sends thousands of rows as one value: their columns' binary forms, one after the other. Columns are never
null and of fixed width, so that numpy reads them where they lie. One statement in one transaction, so any pooler will
do.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal, LiteralString, cast

import numpy as np
from numpy.typing import NDArray
from psycopg import sql
from sqlalchemy import Connection

Kind = Literal["uuid", "float", "time", "bool"]

_DTYPES: Final = {"uuid": "V16", "float": ">f8", "time": ">i8", "bool": "?"}
_SENT_BY: Final = {"uuid": "uuid_send", "float": "float8send", "time": "timestamptz_send", "bool": "boolsend"}
_ROWS_PER_VALUE: Final = 50_000
"""A value has a few megabytes then, of the gigabyte that it may have."""

# Counted, since a row with a null would be left out in silence.
_PACKED: Final = """
    SELECT count(*), string_agg({sent}, '') FROM (
        SELECT row_number() OVER () / {rows} AS part, asked.* FROM ({query}) AS asked({names})
    ) AS numbered GROUP BY part"""


class UnexpectedRows(RuntimeError):
    """A null among the rows. A fault of the query."""


def fetch_columns(
    connection: Connection, query: LiteralString, values: Mapping[str, object], kinds: Mapping[str, Kind]
) -> NDArray[Any]:
    """Read the rows of a query as a record array with a field for each of `kinds`, in any order.

    Args:
        query: its columns must have the types of `kinds` and never be null; parameters as `%(name)s`.
        kinds: one for each column. Times are microseconds since the year 2000, in UTC; `infinity` is the largest.

    Raises:
        UnexpectedRows: a column has a null.
    """
    driver = connection.connection.driver_connection
    assert driver is not None
    names = [sql.Identifier(name) for name in kinds]
    sent = [sql.SQL("{}({})").format(sql.SQL(_SENT_BY[kind]), sql.Identifier(name)) for name, kind in kinds.items()]
    packed = sql.SQL(_PACKED).format(
        sent=sql.SQL(" || ").join(sent),
        rows=sql.Literal(_ROWS_PER_VALUE),
        query=sql.SQL(query),
        names=sql.SQL(", ").join(names),
    )
    with driver.cursor(binary=True) as cursor:
        parts = cursor.execute(packed, dict(values)).fetchall()
    rows = np.frombuffer(
        b"".join(part or b"" for _, part in parts), np.dtype([(name, _DTYPES[kind]) for name, kind in kinds.items()])
    )
    if len(rows) != sum(count for count, _ in parts):
        raise UnexpectedRows(f"a column of {list(kinds)} is null")
    return rows


def indices_of(ids: NDArray[Any], known: Mapping[bytes, int]) -> NDArray[np.int64]:
    """The index that each id (16 bytes of a UUID) has in `known`; -1 for none."""
    return np.fromiter((known.get(one, -1) for one in cast(list[bytes], ids.tolist())), np.int64, len(ids))
