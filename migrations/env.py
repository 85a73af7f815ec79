"""How Alembic runs our migrations, online and as SQL.

Dagster keeps its own tables in the same database with its own Alembic: we look at our schema only and keep our version
in a table of our own. Commands go through `predictbench db ...`, which hands over the database; a developer who calls
`alembic` itself names one with `-x url=postgresql+psycopg://...`.

All revisions that are due run in one transaction: the database is at the old revision or at the new one, never between,
and nothing is kept in a session, so that a transaction-mode pooler is no matter here either.
"""

from alembic import context
from sqlalchemy import Connection, text

from predictbench_assets.database.engine import make_engine
from predictbench_assets.database.migrations import LOCK_TIMEOUT
from predictbench_assets.database.privileges import grants_sql
from predictbench_assets.database.schema import SCHEMA, VERSION_TABLE, metadata

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
        **what,  # type: ignore[arg-type]
    )


def make_schema() -> None:
    """The version table lives in the schema too, so it has to be there before the first revision."""
    context.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")


def take_turns(connection: Connection) -> None:
    """Make a second migration of the same database wait for the first, and none wait for ever.

    An ALTER that waits for a table makes everybody wait who comes after it. So it gives up within seconds, the whole
    migration with it, and is tried again: a daily run holds a table for as long as a batch takes. How long a migration
    may work is another matter; the usual limits of a role are for queries.
    """
    connection.execute(text("SELECT set_config('lock_timeout', '60s', true)"))
    connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('predictbench migrations'))"))
    connection.execute(
        text("SELECT set_config('lock_timeout', :lock, true), set_config('statement_timeout', '30min', true)"),
        {"lock": LOCK_TIMEOUT},
    )


def run_offline() -> None:
    """Write the SQL."""
    configure(dialect_name="postgresql", literal_binds=True, dialect_opts={"paramstyle": "named"})
    with context.begin_transaction():
        make_schema()
        context.run_migrations()
        context.execute(grants_sql())


def run_online(connection: Connection) -> None:
    """Migrate one database, and give the roles that it has their rights on what is there then."""
    configure(connection=connection)
    with context.begin_transaction():
        take_turns(connection)
        # Asked first: IF NOT EXISTS wants the right to make schemas even where there is nothing to make.
        if connection.execute(text("SELECT to_regnamespace(:name)"), {"name": SCHEMA}).scalar_one() is None:
            make_schema()
        context.run_migrations()
        connection.exec_driver_sql(grants_sql())


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
