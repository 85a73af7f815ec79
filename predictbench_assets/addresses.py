"""Database addresses: one driver for our tables, another for Dagster's, both always named in the URL.

SQLAlchemy 2.1 reads a bare `postgresql://` as psycopg 3 while Dagster's storage needs psycopg2, so a URL that does not
name its driver works on one side and breaks on the other.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from psycopg import pq
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from predictbench_assets.texts import trimmed, unusable_character

OUR_DRIVER = "postgresql+psycopg"
DAGSTER_DRIVER = "postgresql+psycopg2"
TRANSACTION_POOLER_PORT = 6543
"""Port at which Supabase's pooler hands each transaction to another connection of the server."""

_SUPABASE_HOST = re.compile(r"(^|\.)supabase\.(co|com|in|net)$")
_PLACEHOLDER = re.compile(
    r"^[\[<{(][a-z _-]+[\]>})]$|^your[-_ ]?(db[-_ ]?|database[-_ ]?)?password([-_ ]here)?$|^change[-_]?me$", re.I
)


_CHOICES: Mapping[str, tuple[str, ...]] = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "sslnegotiation": ("postgres", "direct"),
    "channel_binding": ("disable", "prefer", "require"),
    "gssencmode": ("disable", "prefer", "require"),
    "target_session_attrs": ("any", "read-write", "read-only", "primary", "standby", "prefer-standby"),
    "load_balance_hosts": ("disable", "random"),
}
_NUMBERS = (
    *("connect_timeout", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count"),
    "tcp_user_timeout",
)
_CERTIFICATES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
_SECURITY = re.compile(r"ssl|tls|gss|krb|cert|channel|auth", re.I)
"""Names of parameters that must not be left out: a connection would be less safe than it was meant to be."""


class DatabaseUrlError(ValueError):
    """A database address that cannot be used; the text has the reason and never the address."""


def is_supabase(url: URL) -> bool:
    """True where the host belongs to Supabase, directly or through its pooler."""
    return bool(url.host and _SUPABASE_HOST.search(url.host))


def supabase_project(url: URL) -> str | None:
    """The project of a Supabase address: in its host (`db.<ref>.supabase.co`) or its user (`role.<ref>`)."""
    if not is_supabase(url):
        return None
    if url.host and (match := re.fullmatch(r"db\.([a-z0-9]+)\.supabase\.\w+", url.host)):
        return match.group(1)
    if url.username and "." in url.username:
        return url.username.rpartition(".")[2]
    return None


def normalized_url(text: str, *, driver: str = OUR_DRIVER) -> URL:
    """The address with its driver named, other clients' parameters left out and, for Supabase, TLS required.

    Raises:
        DatabaseUrlError: not a Postgres address, no database in it, a password that was never filled in or has an @
            that is not encoded, or a parameter that cannot be used.
    """
    url = _parsed(text)
    backend = url.drivername.partition("+")[0]
    if backend not in ("postgres", "postgresql"):
        raise DatabaseUrlError(f"speaks {backend}; Predictbench stores in Postgres only")
    if "@" in f"{url.host}{url.database}":
        # The host would be the rest of the password, and errors and logs name the host.
        raise DatabaseUrlError("has an @ in its password, which ends there: write it as %40")
    # libpq takes both among the parameters, as JDBC does; there they would be shown.
    named = {"username": url.query.get("user"), "password": url.query.get("password")}
    url = url.difference_update_query(["user", "password"])
    url = url.set(**{key: value for key, value in named.items() if isinstance(value, str) and not getattr(url, key)})  # type: ignore[arg-type]
    if url.password and _PLACEHOLDER.match(str(url.password)):
        raise DatabaseUrlError("still has a placeholder where its password belongs")
    if "\ufffd" in f"{url.username}{url.password}{url.host}{url.database}":
        raise DatabaseUrlError("has percent signs that stand for no UTF-8 text; a percent sign itself is %25")
    if url.port is not None and not 0 < url.port < 65536:
        raise DatabaseUrlError("has a port that is none: expected one from 1 to 65535")
    if url.host and re.search(r"\s", url.host):
        raise DatabaseUrlError("has a blank in its host")
    if not url.database:
        raise DatabaseUrlError(
            "names no database; add it after the port: postgresql://user:password@host:5432/database"
        )
    url = url.difference_update_query(_left_out(url)).set(drivername=driver)
    _check_parameters(url)
    if is_supabase(url) and "sslmode" not in url.query:
        url = url.update_query_dict({"sslmode": "require"})
    return url


def other_clients_parameters(text: str) -> tuple[str, ...]:
    """The names of the parameters that `normalized_url` leaves out of an address: Prisma's, JDBC's, a pool's."""
    return _left_out(_parsed(text))


def _parsed(text: str) -> URL:
    text = trimmed(re.sub(r"^(jdbc:|psql\s+)", "", trimmed(text)))  # as consoles of JDBC and of hosts show it
    if (found := unusable_character(text)) is not None:
        raise DatabaseUrlError(f"has {found} in it: write it on one line, without invisible characters")
    try:
        return make_url(text)
    except (ArgumentError, ValueError) as error:
        # The library's message repeats the address, or what it took for the port, with the password.
        raise DatabaseUrlError(
            "is not a database URL; expected postgresql://user:password@host:port/database, "
            "with special characters of the password percent-encoded"
        ) from error


@lru_cache(maxsize=1)
def _known() -> frozenset[str]:
    """The parameters that libpq reads."""
    return frozenset(option.keyword.decode() for option in pq.Conninfo.get_defaults())


def _left_out(url: URL) -> tuple[str, ...]:
    return tuple(name for name in url.query if name not in _known() and not _SECURITY.search(name))


def _check_parameters(url: URL) -> None:
    for name, value in url.query.items():
        if name not in _known():
            raise DatabaseUrlError(
                f"has {name} among its parameters, which is another client's: write sslmode=require (encrypted), or "
                "sslmode=verify-full with sslrootcert (and the server's name is checked)"
            )
        if not isinstance(value, str):
            if name in ("host", "port"):
                continue
            raise DatabaseUrlError(f"has {name} twice among its parameters")
        if name in _CHOICES and value not in _CHOICES[name]:
            raise DatabaseUrlError(f"has {name}={value}; expected one of {', '.join(_CHOICES[name])}")
        if name in _NUMBERS and not re.fullmatch(r"-?\d{1,9}", value):
            raise DatabaseUrlError(f"has {name}={value}; expected a whole number")
        if name in _CERTIFICATES and value != "system" and not Path(value).is_file():
            raise DatabaseUrlError(f"has {name}={value}; there is no such file")


def dagster_storage_url(text: str) -> URL:
    """The address of Dagster's storage, as `normalized_url` with the driver that it needs.

    Raises:
        DatabaseUrlError: as there, or the address of a transaction pooler.
    """
    url = normalized_url(text, driver=DAGSTER_DRIVER)
    if url.port == TRANSACTION_POOLER_PORT:
        # Dagster's web server sets a time-out on its connections, which such a pooler hands on to others.
        raise DatabaseUrlError(
            f"is a transaction pooler's (port {url.port}), which would pass Dagster's session settings on to other "
            "programs; use the session pooler or the direct connection, port 5432"
        )
    return url
