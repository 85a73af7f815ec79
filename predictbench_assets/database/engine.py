"""Engines: few connections, nothing kept in a session, so that a transaction-mode pooler in between is no matter."""

import math
import os
from collections.abc import Callable
from typing import Any

import psycopg
from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy.pool import NullPool, Pool, QueuePool

from predictbench_assets.database.errors import DatabaseUnsuitable
from predictbench_assets.database.patience import Patience, PatientConnection

_SESSION = {"PGTZ": "UTC", "PGDATESTYLE": "ISO, MDY", "PGCLIENTENCODING": "UTF8"}
"""Settings of every session, over those of the server, the database and the role. libpq reads these from the
environment and sends them while it connects: no round trip, and a pooler in transaction mode keeps them for us."""

_CONNECT_SECONDS = 10
_POOL_WAIT_SECONDS = 30


def make_engine(
    url: URL | str, *, pool_size: int = 2, application_name: str = "predictbench", patience: Patience | None = None
) -> Engine:
    """The engine over which everything reads and writes.

    A pooler in transaction mode hands each transaction to another server connection. So there are no prepared
    statements (one of another client could be met under the same name) and no `SET` outlives its transaction.

    Args:
        url: `postgresql+psycopg://...`.
        pool_size: the most connections at a time; 0 opens one for each use and keeps none (migrations).
        application_name: the connection's name in `pg_stat_activity`.
        patience: limits of the wait for each answer; default: that of DB_TIMEOUT_SECONDS.
    """
    set_session_defaults()
    url = make_url(url)
    pool: type[Pool] = QueuePool if pool_size else NullPool
    limits = {"pool_size": pool_size, "max_overflow": 0, "pool_timeout": _POOL_WAIT_SECONDS} if pool_size else {}
    engine = create_engine(
        url,
        poolclass=pool,
        **limits,
        pool_pre_ping=bool(pool_size),
        hide_parameters=True,  # an error's text must not repeat a payload
        connect_args={
            "prepare_threshold": None,
            "client_encoding": "utf8",
            "options": url.query.get("options", ""),  # not those that PGOPTIONS holds for another program
            "application_name": application_name,
            # A server that vanished without a word is noticed after about a minute instead of hours.
            "keepalives": 1,
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
        },
    )
    event.listen(engine, "do_connect", _connecting(patience or Patience()))
    event.listen(engine, "connect", _check_session)
    return engine


def _connecting(patience: Patience) -> Callable[..., PatientConnection]:
    """Function that opens a connection in the place of SQLAlchemy."""

    def connect(_: object, __: object, arguments: list[Any], options: dict[str, Any]) -> PatientConnection:
        if not patience.seconds:
            raise patience.exhausted()
        seconds = math.ceil(min(_CONNECT_SECONDS, patience.seconds))
        connection = PatientConnection.connect(*arguments, **(options | {"connect_timeout": seconds}))
        connection.patience = patience
        return connection

    return connect


def set_session_defaults() -> None:
    """Have all sessions that this process opens from now on begin in UTC, ISO dates and UTF-8, Dagster's as well."""
    for name, value in _SESSION.items():
        if os.environ.get(name) != value:  # once: another thread may be connecting
            os.environ[name] = value


def _check_session(connection: psycopg.Connection[Any], _: object) -> None:
    """Refuse a database whose texts, or whose times, would come back as others. The server has reported both unasked.

    Raises:
        DatabaseUnsuitable: another encoding than UTF-8, or another time zone than the one that was asked for.
    """
    encoding = connection.info.parameter_status("server_encoding")
    zone = connection.info.parameter_status("TimeZone")
    database = connection.info.dbname
    if encoding not in (None, "UTF8"):
        connection.close()
        raise DatabaseUnsuitable(
            f"the database {database} stores texts as {encoding}, and has to be in UTF8: make one with CREATE DATABASE "
            f"predictbench ENCODING 'UTF8' TEMPLATE template0, and use its address."
        )
    if zone not in (None, "UTC", "Etc/UTC"):
        connection.close()
        raise DatabaseUnsuitable(
            f"sessions of the database {database} begin in the time zone {zone} although UTC is asked for (a pooler in "
            f"between?): ALTER ROLE ... SET timezone = 'UTC', or use the direct connection."
        )
