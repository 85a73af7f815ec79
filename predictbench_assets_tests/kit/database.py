"""Databases of a test's own on a real Postgres, and a short way to ask one something."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import psycopg
from sqlalchemy import URL, Engine, text
from sqlalchemy.engine import make_url

from predictbench_assets.database.embedded import EmbeddedPostgres

TEMPLATE = "predictbench_template"


def in_database(server: EmbeddedPostgres, name: str) -> URL:
    """The URL of another database of the server."""
    return make_url(server.url).set(database=name)


def administer(server: EmbeddedPostgres, statement: str) -> None:
    """Run one statement outside of any transaction, as the server's owner."""
    url = in_database(server, "postgres").set(drivername="postgresql")
    with psycopg.connect(url.render_as_string(hide_password=False), autocommit=True) as connection:
        connection.execute(statement)


def make_database(server: EmbeddedPostgres, made: str) -> URL:
    """Make a database that lasts as long as the server, and return its URL; `made` as for `database_of`."""
    name = f"test_{uuid4().hex[:12]}"
    administer(server, f"CREATE DATABASE {name} {made}")
    return in_database(server, name)


@contextmanager
def database_of(server: EmbeddedPostgres, made: str) -> Iterator[str]:
    """The URL of a database that is gone when the block ends.

    Args:
        made: how, as in `TEMPLATE predictbench_template` or `ENCODING 'LATIN1' TEMPLATE template0`.
    """
    url = make_database(server, made)
    try:
        yield url.render_as_string(hide_password=False)
    finally:
        administer(server, f"DROP DATABASE {url.database} WITH (FORCE)")


@dataclass
class Database:
    """A database, to ask and to change past the pipeline."""

    engine: Engine

    def rows(self, sql: str, **values: Any) -> list[tuple[Any, ...]]:
        """Rows of a query."""
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(sql), values)]

    def scalar(self, sql: str, **values: Any) -> Any:
        """The only value of a query."""
        [[value]] = self.rows(sql, **values)
        return value

    def execute(self, sql: str, **values: Any) -> int:
        """Change what is stored, as somebody with the owner's password could; returns the number of rows."""
        with self.engine.begin() as connection:
            return connection.execute(text(sql), values).rowcount

    def counts(self) -> Mapping[str, int]:
        """Numbers of rows by table."""
        tables = ("events", "processed_markets", "processed_contracts", "experiment_runs", "experiment_results")
        return {table: self.scalar(f"SELECT count(*) FROM predictbench.{table}") for table in tables}
