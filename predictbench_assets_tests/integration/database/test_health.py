"""What doctor is told about the database."""

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.engine import make_url

from predictbench_assets.database import health, revisions
from predictbench_assets.database.engine import make_engine
from predictbench_assets.database.errors import DatabaseRefused, DatabaseUnavailable
from predictbench_assets.persistence.leases import Lease, RunCounts
from predictbench_assets.persistence.writer import RunWriter
from predictbench_assets.runs import RunKey
from predictbench_assets_tests.kit.builders import KEY, NOW, attempt, record


@pytest.fixture
def unmigrated(empty_database_url: str) -> Iterator[Engine]:
    made = make_engine(empty_database_url)
    yield made
    made.dispose()


def test_server_role_and_clock(engine: Engine) -> None:
    server = health.server(engine)
    assert int(server.version.partition(".")[0]) >= 15
    assert (server.role, server.superuser, server.read_only) == ("postgres", True, False)
    assert server.database == engine.url.database
    assert abs(server.now - datetime.now(UTC)) < timedelta(seconds=5)
    assert server.now.utcoffset() == timedelta(0)
    assert server.statement_timeout is None


def test_a_database_that_takes_no_writes_and_cuts_statements(engine: Engine) -> None:
    with engine.begin() as connection:
        name = engine.url.database
        connection.execute(text(f"ALTER DATABASE {name} SET default_transaction_read_only = on"))
        connection.execute(text(f"ALTER DATABASE {name} SET statement_timeout = '90s'"))
    engine.dispose()
    server = health.server(engine)
    assert server.read_only
    assert server.statement_timeout == timedelta(seconds=90)


def test_revision_of_a_migrated_and_of_an_empty_database(engine: Engine, unmigrated: Engine) -> None:
    assert health.revision(engine) == health.Revision(revisions.head(), revisions.head())
    assert health.revision(engine).current
    assert health.revision(unmigrated) == health.Revision(None, revisions.head())
    assert not health.revision(unmigrated).current


def test_everything_can_be_asked_of_an_empty_database(unmigrated: Engine) -> None:
    assert health.privileges(unmigrated).lacking == ("schema predictbench",)
    assert health.pooler(unmigrated).mode == "direct"
    assert health.exposed_to(unmigrated) == ()
    size = health.size(unmigrated, NOW)
    assert (size.ours, size.per_day) == (0, None)
    assert size.database > 1_000_000


def test_a_laptops_owner_lacks_nothing_and_has_everything(engine: Engine) -> None:
    found = health.privileges(engine)
    assert found.lacking == ()
    assert {"SUPERUSER", "ownership of the tables"} <= set(found.excessive)


def test_growth_is_told_from_the_runs_that_are_stored(
    engine: Engine, take: Callable[..., Lease], writer: Callable[..., RunWriter]
) -> None:
    assert health.size(engine, NOW).per_day is None
    for days_ago, markets in ((30, 40), (4, 10), (0, 30)):
        key = RunKey(KEY.run_date - timedelta(days=days_ago), 7)
        writing = writer(take(key))
        writing.write([record(number) for number in range(markets)], [attempt()])
        writing.finish(RunCounts(offered=markets, excluded=0, rejected=0, failed=0, processed=markets), "completed")

    size = health.size(engine, NOW)

    assert size.ours < size.database
    # 40 of the 80 markets are of the last fourteen days.
    assert size.per_day == pytest.approx(size.ours / 80 * 40 / 14)
    assert size.days_until_full(size.database + round(size.per_day) * 10) == pytest.approx(10, rel=0.01)
    assert size.days_until_full(size.database - 1) == 0
    assert health.size(engine, NOW + timedelta(days=60)).per_day == 0
    assert health.size(engine, NOW + timedelta(days=60)).days_until_full(10**12) is None


def test_a_young_database_is_not_taken_for_a_slow_one(
    engine: Engine, take: Callable[..., Lease], writer: Callable[..., RunWriter]
) -> None:
    writing = writer(take(RunKey(date(2026, 2, 1), 7)))
    writing.write([record(1)], [attempt()])
    writing.finish(RunCounts(offered=1, excluded=0, rejected=0, failed=0, processed=1), "completed")
    size = health.size(engine, NOW)
    assert size.per_day == pytest.approx(size.ours / 2)  # yesterday and today


def test_connections_are_counted(engine: Engine) -> None:
    before = health.connections(engine)
    assert 1 <= before.used_by_role <= before.used <= before.allowed
    assert before.allowed_to_role is None
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        assert health.connections(engine).used_by_role > before.used_by_role


def test_a_server_that_is_not_there_is_told_at_once(database_url: str, tmp_path: object) -> None:
    away = make_engine(f"postgresql+psycopg://postgres@/none?host={tmp_path}", pool_size=0)
    for ask in (
        health.server,
        health.revision,
        health.privileges,
        health.pooler,
        health.exposed_to,
        health.connections,
    ):
        with pytest.raises(DatabaseUnavailable):
            ask(away)
    with pytest.raises(DatabaseUnavailable):
        health.size(away, NOW)
    nowhere = make_engine(make_url(database_url).set(database="nowhere"), pool_size=0)
    with pytest.raises(DatabaseRefused, match="Check user"):
        health.server(nowhere)
