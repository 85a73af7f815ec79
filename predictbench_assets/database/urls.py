"""Database addresses: one driver for our tables, another for Dagster's, both always named in the URL.

SQLAlchemy 2.1 reads a bare `postgresql://` as psycopg 3 while Dagster's storage needs psycopg2, so a URL that does not
name its driver works on one side and breaks on the other.
"""

import re

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

OUR_DRIVER = "postgresql+psycopg"
DAGSTER_DRIVER = "postgresql+psycopg2"
TRANSACTION_POOLER_PORT = 6543
"""Where Supabase's pooler hands each transaction to another connection of the server."""

_SUPABASE_HOST = re.compile(r"(^|\.)supabase\.(co|com|in|net)$")
_PLACEHOLDER = re.compile(
    r"^[\[<{(][a-z _-]+[\]>})]$|^your[-_ ]?(db[-_ ]?|database[-_ ]?)?password([-_ ]here)?$|^change[-_]?me$", re.I
)


class DatabaseUrlError(ValueError):
    """A database address that cannot be used; the text says why and never repeats the address."""


def is_supabase(url: URL) -> bool:
    """Whether the host belongs to Supabase, directly or through its pooler."""
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
    """The address with its driver named and, for Supabase, TLS required.

    Raises:
        DatabaseUrlError: not a Postgres address, no database in it, or a password that was never filled in
            or has an @ that is not encoded.
    """
    try:
        url = make_url(text.strip())
    except (ArgumentError, ValueError) as error:
        # The library's message repeats the address, or what it took for the port, with the password.
        raise DatabaseUrlError(
            "is not a database URL; expected postgresql://user:password@host:port/database, "
            "with special characters of the password percent-encoded"
        ) from error
    backend = url.drivername.partition("+")[0]
    if backend not in ("postgres", "postgresql"):
        raise DatabaseUrlError(f"speaks {backend}; Predictbench stores in Postgres only")
    if "@" in f"{url.host}{url.database}":
        # The host would be the rest of the password, which errors and logs then tell.
        raise DatabaseUrlError("has an @ in its password, which ends there: write it as %40")
    if url.password and _PLACEHOLDER.match(str(url.password)):
        raise DatabaseUrlError("still has a placeholder where its password belongs")
    if not url.database:
        raise DatabaseUrlError(
            "names no database; add it after the port: postgresql://user:password@host:5432/database"
        )
    url = url.set(drivername=driver)
    if is_supabase(url) and "sslmode" not in url.query:
        url = url.update_query_dict({"sslmode": "require"})
    return url


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
