"""Rows as arrays, which scoring reads by the million without a Python object for each value.

`COPY ... TO STDOUT (FORMAT binary)` sends rows whose columns are never null and of fixed width as records of fixed
width, which numpy reads where they lie. One statement in one transaction, so any pooler will do.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal, LiteralString, cast

import numpy as np
from numpy.typing import NDArray
from psycopg import sql
from sqlalchemy import Connection

Kind = Literal["uuid", "float", "time", "bool"]

_DTYPES: Final = {"uuid": "V16", "float": ">f8", "time": ">i8", "bool": "?"}
_HEADER_BYTES: Final = 19
_TRAILER: Final = b"\xff\xff"


class UnexpectedRows(RuntimeError):
    """A null among the rows, or another type than was asked for. A fault of the query."""


def fetch_columns(
    connection: Connection, query: LiteralString, values: Mapping[str, object], kinds: Mapping[str, Kind]
) -> NDArray[Any]:
    """Read the rows of a query as a record array with a field for each of `kinds`, in the order of the query.

    Args:
        query: its columns must have the types of `kinds` and never be null; parameters as `%(name)s`.
        kinds: one for each column. Times are microseconds since the year 2000, in UTC; `infinity` is the largest.

    Raises:
        UnexpectedRows: a column has another type, or a null.
    """
    driver = connection.connection.driver_connection
    assert driver is not None
    received = bytearray()
    copy_query = sql.SQL("COPY ({}) TO STDOUT (FORMAT binary)").format(sql.SQL(query))
    with driver.cursor() as cursor, cursor.copy(copy_query, dict(values)) as copy:
        for block in copy:
            received += block
    fields: list[tuple[str, str]] = [("fields", ">i2")]
    for name, kind in kinds.items():
        fields += [(f"length of {name}", ">i4"), (name, _DTYPES[kind])]
    dtype = np.dtype(fields)
    count, rest = divmod(len(received) - _HEADER_BYTES - len(_TRAILER), dtype.itemsize)
    rows = np.frombuffer(received, dtype, count, _HEADER_BYTES)
    widths_fit = all((rows[f"length of {name}"] == dtype[name].itemsize).all() for name in kinds)
    if rest or not widths_fit or not (rows["fields"] == len(kinds)).all():
        raise UnexpectedRows(f"a column of {list(kinds)} is null or not of its type")
    return rows


def indices_of(ids: NDArray[Any], known: Mapping[bytes, int]) -> NDArray[np.int64]:
    """The index that each id (16 bytes of a UUID) has in `known`; -1 for none."""
    return np.fromiter((known.get(one, -1) for one in cast(list[bytes], ids.tolist())), np.int64, len(ids))
