"""Engines: few connections, nothing kept in a session, so that a transaction-mode pooler in between is no matter."""

from sqlalchemy import URL, Engine, create_engine
from sqlalchemy.pool import NullPool, Pool, QueuePool

_CONNECT_SECONDS = 10
_POOL_WAIT_SECONDS = 30


def make_engine(url: URL | str, *, pool_size: int = 2, application_name: str = "predictbench") -> Engine:
    """The engine over which everything reads and writes.

    A pooler in transaction mode hands each transaction to another server connection. So there are no prepared
    statements (one of another client could be met under the same name) and no `SET` outlives its transaction.

    Args:
        url: `postgresql+psycopg://...`.
        pool_size: the most connections at a time; 0 opens one for each use and keeps none (migrations).
        application_name: how the connection shows in `pg_stat_activity`.
    """
    pool: type[Pool] = QueuePool if pool_size else NullPool
    limits = {"pool_size": pool_size, "max_overflow": 0, "pool_timeout": _POOL_WAIT_SECONDS} if pool_size else {}
    return create_engine(
        url,
        poolclass=pool,
        **limits,
        pool_pre_ping=bool(pool_size),
        hide_parameters=True,  # an error's text must not repeat a payload
        connect_args={
            "prepare_threshold": None,
            "application_name": application_name,
            "connect_timeout": _CONNECT_SECONDS,
            # A server that vanished without a word is noticed after about a minute instead of hours.
            "keepalives": 1,
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
        },
    )
