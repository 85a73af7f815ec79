"""A server as a deployment has it: an administrator who is no superuser, a public API's roles, and ours."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import dagster as dg
import psycopg
from sqlalchemy import URL
from sqlalchemy.engine import make_url

from predictbench_assets.addresses import DAGSTER_DRIVER
from predictbench_assets.database import migrations
from predictbench_assets.database.embedded import EmbeddedPostgres
from predictbench_assets.database.privileges import API_ROLES, DAGSTER, OWNER, READER, WRITER

ADMINISTRATOR = "administrator"
"""Makes roles and databases, and is refused what only a superuser may: as `postgres` on Supabase."""

ROLES = (OWNER, WRITER, READER, DAGSTER)


class Deployment:
    """One server with all the roles; each test makes a database of its own."""

    def __init__(self, server: EmbeddedPostgres) -> None:
        self.server = server
        run(self.url("postgres", "postgres"), f"CREATE ROLE {ADMINISTRATOR} LOGIN CREATEROLE CREATEDB")
        for role in API_ROLES:
            run(self.url(ADMINISTRATOR, "postgres"), f"CREATE ROLE {role} LOGIN")

    @classmethod
    @contextmanager
    def started(cls) -> Iterator["Deployment"]:
        """On a server of its own: roles belong to the whole server, and other tests know of none."""
        folder = Path(tempfile.mkdtemp(prefix="pb-"))  # short: the socket's path has a limit
        with EmbeddedPostgres(folder, durable=False) as server:
            yield cls(server)
        shutil.rmtree(folder)

    def url(self, role: str, database: str) -> URL:
        """The address of a database, past any pooler, as one of the roles."""
        return make_url(self.server.url).set(username=role, database=database)

    @contextmanager
    def database(self, *, template: str = "template1") -> Iterator[str]:
        """A database that belongs to the administrator."""
        name = f"test_{uuid4().hex[:12]}"
        run(self.url(ADMINISTRATOR, "postgres"), f"CREATE DATABASE {name} TEMPLATE {template}")
        yield name
        run(self.url("postgres", "postgres"), f"DROP DATABASE {name} WITH (FORCE)")

    def like_supabase(self, database: str) -> None:
        """Grant the API whatever comes into `public`, as Supabase does in a new project."""
        with connected(self.url(ADMINISTRATOR, database)) as administrator:
            for kind in ("TABLES", "ROUTINES", "SEQUENCES"):
                administrator.execute(
                    f"ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON {kind} TO {', '.join(API_ROLES)}"
                )

    def make_roles(self, database: str) -> None:
        """Run `migrations/roles.sql`."""
        with connected(self.url(ADMINISTRATOR, database)) as administrator:
            administrator.execute(migrations.ROLES_FILE.read_bytes())

    def migrated(self, database: str) -> None:
        """Roles, and then the tables as their owner."""
        self.like_supabase(database)
        self.make_roles(database)
        migrations.upgrade(self.url(OWNER, database))


@contextmanager
def connected(url: URL) -> Iterator[psycopg.Connection]:
    """A connection in autocommit."""
    address = url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(address, autocommit=True) as connection:
        yield connection


@contextmanager
def dagster_on(url: URL, home: Path) -> Iterator[dg.DagsterInstance]:
    """A real Dagster instance that keeps everything in that database."""
    address = url.set(drivername=DAGSTER_DRIVER).render_as_string(hide_password=False)
    (home / "dagster.yaml").write_text(
        f"storage: {{postgres: {{postgres_url: '{address}'}}}}\ntelemetry: {{enabled: false}}\n"
    )
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield instance


def run(url: URL, statement: str) -> list[tuple[object, ...]]:
    """Run one statement and return its rows, if it has any."""
    with connected(url) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []
