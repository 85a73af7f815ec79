"""How Alembic runs our migrations, online and as SQL.

Dagster keeps its own tables in the same database with its own Alembic: we look at our schema only and keep our version
in a table of our own. Commands go through `predictbench db ...`, which hands over the database; a developer who calls
`alembic` itself names one with `-x url=postgresql+psycopg://...`.
"""

from alembic import context
from sqlalchemy import Connection, text

from predictbench_assets.database.engine import make_engine
from predictbench_assets.database.migrations import VERSION_TABLE
from predictbench_assets.database.schema import SCHEMA, metadata

config = context.config


def include_name(name: str | None, type_: str, _parents: object) -> bool:
    """Whether autogenerate looks at it: only our schema."""
    return name == SCHEMA if type_ == "schema" else True


def configure(**what: object) -> None:
    """Everything that both ways have in common."""
    context.configure(
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        version_table_schema=SCHEMA,
        include_schemas=True,
        include_name=include_name,
        compare_server_default=True,
        transaction_per_migration=True,
        **what,  # type: ignore[arg-type]
    )


def make_schema() -> None:
    """The version table lives in the schema too, so it has to be there before the first revision."""
    context.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")


def run_offline() -> None:
    """Write the SQL."""
    configure(dialect_name="postgresql", literal_binds=True, dialect_opts={"paramstyle": "named"})
    with context.begin_transaction():
        make_schema()
        context.run_migrations()


def run_online(connection: Connection) -> None:
    """Migrate one database. A lock makes a second migration of the same database wait for the first."""
    connection.execute(text("SELECT pg_advisory_lock(hashtext('predictbench migrations'))"))
    connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
    connection.commit()
    try:
        configure(connection=connection)
        with context.begin_transaction():
            context.run_migrations()
    finally:
        connection.rollback()
        connection.execute(text("SELECT pg_advisory_unlock(hashtext('predictbench migrations'))"))
        connection.commit()


if context.is_offline_mode():
    run_offline()
elif "connection" in config.attributes:
    run_online(config.attributes["connection"])
else:
    address = context.get_x_argument(as_dictionary=True).get("url")
    if address is None:
        raise SystemExit("name a database: alembic -x url=postgresql+psycopg://..., or use `predictbench db upgrade`")
    engine = make_engine(address, pool_size=0, application_name="predictbench migrations")
    with engine.connect() as opened:
        run_online(opened)
