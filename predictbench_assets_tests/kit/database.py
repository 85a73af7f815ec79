"""What any test may ask for: a database of its own on a real Postgres, a bucket of its own on a real S3 API."""

import psycopg
from sqlalchemy import URL
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
