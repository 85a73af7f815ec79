"""Migrations and the look at the database's state, through poolers of both modes."""

import multiprocessing
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

import pytest
from sqlalchemy import URL, Engine

from predictbench_assets.database import health, migrations, revisions
from predictbench_assets.database.engine import make_engine
from predictbench_assets.database.errors import DatabaseRefused, in_transaction
from predictbench_assets.database.privileges import OWNER, WRITER
from predictbench_assets_tests.kit.deployment import Deployment, run
from predictbench_assets_tests.kit.pooler import Pgbouncer, left_behind, others_taking_turns, show


@contextmanager
def engine_at(url: URL) -> Iterator[Engine]:
    engine = make_engine(url, pool_size=2)
    try:
        yield engine
    finally:
        engine.dispose()


@pytest.fixture
def unmigrated(deployment: Deployment) -> Iterator[str]:
    """The name of a database that has the roles' rights and no tables."""
    with deployment.database() as name:
        deployment.make_roles(name)
        yield name


def test_two_migrations_at_once_through_a_transaction_pooler(
    deployment: Deployment, pooler: Pgbouncer, unmigrated: str
) -> None:
    url = pooler.url(OWNER, unmigrated)
    left_behind(url, "SET statement_timeout = '1ms'")
    # Processes: Alembic keeps the migration under way in a global of the module.
    spawned = ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))
    with others_taking_turns(url, clients=1), spawned as processes:
        list(processes.map(migrations.upgrade, [url.render_as_string(hide_password=False)] * 2))
        migrations.downgrade(url, "0001")
        migrations.upgrade(url)

    with engine_at(deployment.url(OWNER, unmigrated)) as engine:
        assert revisions.is_current(engine)
    assert show(deployment, unmigrated, "SELECT * FROM pg_locks WHERE locktype = 'advisory'") == []


def test_a_pooler_is_recognised_by_what_it_does(deployment: Deployment, pooler: Pgbouncer, database: str) -> None:
    with engine_at(deployment.url(WRITER, database)) as engine:
        assert health.pooler(engine).mode == "direct"
    with engine_at(pooler.url(WRITER, database)) as engine:
        assert health.pooler(engine).mode == "transaction"
        with others_taking_turns(pooler.url(WRITER, database)):
            assert health.pooler(engine).mode == "transaction"
    pooler.restart(pool_mode="session")
    with engine_at(pooler.url(WRITER, database)) as engine:
        assert health.pooler(engine).mode == "session"


def test_everything_about_the_database_is_told_through_the_pooler(pooler: Pgbouncer, database: str) -> None:
    with engine_at(pooler.url(WRITER, database)) as engine:
        assert health.server(engine).role == WRITER
        assert health.revision(engine).current
        assert health.privileges(engine) == health.Privileges(WRITER, (), ())
        assert health.exposed_to(engine) == ()
        assert health.connections(engine).allowed_to_role == 20


def test_a_full_house_is_waited_for_and_a_closed_door_is_not(
    deployment: Deployment, pooler: Pgbouncer, database: str
) -> None:
    run(deployment.url("postgres", database), f"ALTER ROLE {WRITER} CONNECTION LIMIT 0")
    again = f"ALTER ROLE {WRITER} CONNECTION LIMIT 20"
    try:
        threading.Timer(0.4, run, (deployment.url("postgres", database), again)).start()
        with engine_at(deployment.url(WRITER, database)) as engine:
            assert in_transaction(engine, lambda connection: connection.exec_driver_sql("SELECT 1").scalar_one()) == 1
    finally:
        run(deployment.url("postgres", database), again)

    with engine_at(pooler.url("stranger", database)) as engine, pytest.raises(DatabaseRefused, match="Check user"):
        health.server(engine)
    with engine_at(pooler.url(WRITER, "nowhere")) as engine, pytest.raises(DatabaseRefused, match="nowhere"):
        health.server(engine)
