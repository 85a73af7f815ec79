"""State of the database, for `predictbench doctor`: facts only, the judgement is the caller's.

Every function asks once, with short limits, and raises `DatabaseUnavailable` or `DatabaseRefused` when there is no
answer. None needs more rights than the writer has, and none writes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, TypeVar, cast

import psycopg
from sqlalchemy import Connection, Engine, Row, text

from predictbench_assets.addresses import TRANSACTION_POOLER_PORT
from predictbench_assets.database import revisions
from predictbench_assets.database.errors import DatabaseRefused, classified
from predictbench_assets.database.privileges import API_ROLES, WRITER_NEEDS
from predictbench_assets.database.schema import SCHEMA

PoolerMode = Literal["direct", "session", "transaction", "unknown"]

_ROUNDS = 3
_LIMIT_SECONDS = 5
_GROWTH_DAYS = 14

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Server:
    """The server at the other end, and who we are there."""

    version: str
    """Version such as `17.4`."""
    role: str
    database: str
    now: datetime
    """Instant of the server's clock, UTC."""
    superuser: bool
    read_only: bool
    """A replica, or a role or plan that may not write (Supabase does that to a full disk)."""
    statement_timeout: timedelta | None
    """Statement time-out of our sessions by default; None is no limit."""


@dataclass(frozen=True)
class Revision:
    """Migrations of ours that the database has."""

    found: str | None
    needed: str

    @property
    def current(self) -> bool:
        """True where the database is as this code expects it."""
        return self.found == self.needed


@dataclass(frozen=True)
class Privileges:
    """Rights of the role, compared with what the daily run needs."""

    role: str
    lacking: tuple[str, ...]
    """Rights such as `INSERT on processed_markets`; `USAGE on schema predictbench` alone where even that is missing."""
    excessive: tuple[str, ...]
    """Rights beyond those of the daily run, which a leaked password would give away, such as `SUPERUSER` or `TRUNCATE
    on events`. Not a fault on a laptop, whose role owns everything."""


@dataclass(frozen=True)
class Pooler:
    """Pooler between us and the server."""

    mode: PoolerMode
    seen: str
    """Why we think so, in a few words."""


@dataclass(frozen=True)
class Size:
    """Room taken, and how fast that grows. Bytes."""

    database: int
    """Everything in the database, Dagster's tables included: what a plan's limit counts."""
    ours: int
    """Our schema's tables and indexes."""
    per_day: float | None
    """Growth of ours: the markets of the last two weeks' runs at the average size of a stored market. None where no
    run is stored yet."""

    def days_until_full(self, limit: int) -> float | None:
        """Days until the database takes `limit` bytes: 0 when it does already, None when it does not grow."""
        if self.database >= limit:
            return 0.0
        return (limit - self.database) / self.per_day if self.per_day else None


@dataclass(frozen=True)
class Connections:
    """Connections to the server, ours and others'."""

    used: int
    allowed: int
    """Connections of all roles, without those kept for superusers."""
    used_by_role: int
    allowed_to_role: int | None
    """The role's own limit, where it has one."""


def server(engine: Engine) -> Server:
    """Version, role, clock and limits.

    Raises:
        DatabaseUnsuitable: stored values would come back changed.
    """
    values = _one(engine, _SERVER)._asdict()
    limited = values.pop("limited")
    revisions.require_exact_numbers(values.pop("digits"))
    return Server(**values, statement_timeout=timedelta(milliseconds=limited) if limited else None)


def revision(engine: Engine) -> Revision:
    """The migration the database is at, and the one this code needs."""
    return Revision(revisions.current(engine), revisions.head())


def privileges(engine: Engine) -> Privileges:
    """Compare the role's rights with those that the daily run needs."""

    def ask(connection: Connection) -> Privileges:
        role = connection.execute(_ROLE).one()
        attributes = tuple(role.attributes)
        entry = connection.execute(_SCHEMA_RIGHTS, {"schema": SCHEMA}).one_or_none()
        if entry is None:
            return Privileges(role.name, (f"schema {SCHEMA}",), attributes)
        if not entry.usage:
            return Privileges(role.name, (f"USAGE on schema {SCHEMA}",), attributes)
        excessive = [*attributes, *([f"CREATE on schema {SCHEMA}"] if entry.create else [])]
        held = {row.name: row for row in connection.execute(_TABLE_RIGHTS, {"schema": SCHEMA})}
        lacking = []
        for name, needed in WRITER_NEEDS.items():
            rights = set(held[name].rights) if name in held else set()
            lacking += [f"{right} on {name}" for right in needed if right not in rights]
            if rights and not held[name].owned:
                excessive += [f"{right} on {name}" for right in sorted(rights - set(needed))]
        excessive += ["ownership of the tables"] if any(row.owned for row in held.values()) else []
        return Privileges(role.name, tuple(lacking), tuple(excessive))

    return _read_briefly(engine, ask)


def pooler(engine: Engine) -> Pooler:
    """Find out if there is a pooler, and in which mode. Holds two connections for a moment.

    A server sends a client that connects the id of the process that serves it; a pooler sends one of its own. And
    only where connections are lent by the transaction do two clients meet in one process, or one client in two.
    """
    with classified(), engine.connect() as first, engine.connect() as second:
        clients = [connection.execution_options(isolation_level="AUTOCOMMIT") for connection in (first, second)]
        announced = [_announced_pid(client) for client in clients]
        seen = [[_serving_pid(client) for client in clients] for _ in range(_ROUNDS)]
    if seen[0] == announced:
        return Pooler("direct", "the server process is the one that the connection was opened to")
    if any(a == b for a, b in seen) or any(pids != seen[0] for pids in seen):
        return Pooler("transaction", "two connections were served by one server process, or one by several")
    if engine.url.port == TRANSACTION_POOLER_PORT:
        return Pooler(
            "unknown", f"port {TRANSACTION_POOLER_PORT}, but each connection kept a server process of its own"
        )
    return Pooler("session", "a pooler is in between, and each connection kept a server process of its own")


def size(engine: Engine, now: datetime) -> Size:
    """Size of the database, and how much a day adds."""
    sizes = _one(engine, _SIZES, schema=SCHEMA)
    try:
        stored = _one(engine, _STORED, today=now.date(), days=_GROWTH_DAYS)
    except DatabaseRefused:  # not migrated, or not readable: `revision` and `privileges` are the checks of that
        return Size(sizes.database, sizes.ours, None)
    per_day = sizes.ours / stored.markets * stored.recent / stored.days if stored.markets else None
    return Size(sizes.database, sizes.ours, per_day)


def exposed_to(engine: Engine) -> tuple[str, ...]:
    """Roles of the public REST API that may enter our schema (`PUBLIC` stands for everyone); empty is right."""
    return tuple(_one(engine, _EXPOSED, schema=SCHEMA, roles=list(API_ROLES)).exposed)


def connections(engine: Engine) -> Connections:
    """Connections that there are, and may be."""
    return Connections(**_one(engine, _CONNECTIONS)._asdict())


_SERVER = """
    SELECT split_part(current_setting('server_version'), ' ', 1) AS version, current_user AS role,
        current_database() AS database, clock_timestamp() AS now, current_setting('extra_float_digits') AS digits,
        coalesce((SELECT rolsuper FROM pg_roles WHERE rolname = current_user), false) AS superuser,
        current_setting('transaction_read_only')::boolean OR pg_is_in_recovery() AS read_only,
        (SELECT reset_val::bigint FROM pg_settings WHERE name = 'statement_timeout') AS limited
"""
_ROLE = text("""
    SELECT rolname AS name, array_remove(ARRAY[
        CASE WHEN rolsuper THEN 'SUPERUSER' END, CASE WHEN rolcreaterole THEN 'CREATEROLE' END,
        CASE WHEN rolcreatedb THEN 'CREATEDB' END, CASE WHEN rolbypassrls THEN 'BYPASSRLS' END
    ], NULL) AS attributes
    FROM pg_roles WHERE rolname = current_user
""")
_SCHEMA_RIGHTS = text("""
    SELECT has_schema_privilege(oid, 'USAGE') AS usage, has_schema_privilege(oid, 'CREATE') AS create
    FROM pg_namespace WHERE nspname = :schema
""")
_TABLE_RIGHTS = text("""
    SELECT relname AS name, pg_has_role(relowner, 'USAGE') AS owned, ARRAY(
        SELECT kind FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) kind
        WHERE has_table_privilege(c.oid, kind)
    ) AS rights
    FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
    WHERE nspname = :schema AND relkind IN ('r', 'p', 'v', 'm')
""")
_SIZES = """
    SELECT pg_database_size(current_database()) AS database, coalesce((
        SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
        WHERE nspname = :schema AND relkind IN ('r', 'm')
    ), 0)::bigint AS ours
"""
# From the runs' own counts: the tables of a year are too large to count.
_STORED = """
    SELECT coalesce(sum(processed_markets), 0)::float8 AS markets,
        coalesce(sum(processed_markets) FILTER (WHERE run_date > CAST(:today AS date) - :days), 0)::float8 AS recent,
        greatest(least(:days, CAST(:today AS date) - min(run_date) + 1), 1) AS days
    FROM predictbench.processing_runs WHERE status IN ('completed', 'partial')
"""
_EXPOSED = """
    SELECT coalesce(array_agg(role ORDER BY role), '{}') AS exposed FROM (
        SELECT rolname::text AS role FROM pg_roles JOIN pg_namespace ON nspname = :schema
        WHERE rolname = ANY(:roles) AND has_schema_privilege(rolname, pg_namespace.oid, 'USAGE')
        UNION ALL
        SELECT 'PUBLIC' FROM pg_namespace WHERE nspname = :schema AND has_schema_privilege('public', oid, 'USAGE')
    ) AS open
"""
# Only these columns show of other users' connections.
_CONNECTIONS = """
    SELECT (SELECT count(*) FROM pg_stat_activity WHERE datid IS NOT NULL AND usesysid IS NOT NULL) AS used,
        current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer
            - coalesce(current_setting('reserved_connections', true)::integer, 0) AS allowed,
        (SELECT count(*) FROM pg_stat_activity WHERE datid IS NOT NULL AND usename = current_user) AS used_by_role,
        (SELECT nullif(rolconnlimit, -1) FROM pg_roles WHERE rolname = current_user) AS allowed_to_role
"""


def _read_briefly(engine: Engine, ask: Callable[[Connection], _Result]) -> _Result:
    """One try within a few seconds: who runs doctor is waiting."""
    with classified(), engine.begin() as connection:
        connection.execute(text(f"SET LOCAL statement_timeout = '{_LIMIT_SECONDS}s'"))
        return ask(connection)


def _one(engine: Engine, sql: str, **parameters: Any) -> Row[Any]:
    """The only row of a query."""
    return _read_briefly(engine, lambda connection: connection.execute(text(sql), parameters).one())


def _announced_pid(client: Connection) -> int:
    return cast("psycopg.Connection[Any]", client.connection.driver_connection).info.backend_pid


def _serving_pid(client: Connection) -> int:
    return int(client.execute(text("SELECT pg_backend_pid()")).scalar_one())
