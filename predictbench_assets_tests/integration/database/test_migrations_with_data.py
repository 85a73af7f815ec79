"""Migrations of a database that is in use: rows stay, tables are waited for, and Dagster's are left alone."""

import re
import subprocess
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import Engine, text
from sqlalchemy.engine import make_url

from predictbench_assets.database import embedded, migrations, revisions
from predictbench_assets.database.engine import make_engine
from predictbench_assets.database.errors import Backoff, DatabaseUnavailable
from predictbench_assets.database.schema import VERSION_TABLE
from predictbench_assets.failures import Failure
from predictbench_assets.persistence.leases import Lease, RunCounts
from predictbench_assets.persistence.writer import RunWriter
from predictbench_assets_tests.kit.builders import NOW, attempt, record, result
from predictbench_assets_tests.kit.daily_run import Row, differences, dump
from predictbench_assets_tests.kit.database import Database
from predictbench_assets_tests.kit.deployment import dagster_on

QUICK = Backoff(attempts=3, first=0.01, longest=0.02)
MISSED = "a0000000-0000-0000-0000-000000000001"
BOARD = "b0000000-0000-0000-0000-000000000001"
MORE = f"""
    INSERT INTO predictbench.processing_runs (run_id, run_date, window_days, target_date, started_at, status, attempt,
        holder, heartbeat_at, dagster_run_id, exchange)
    VALUES ('{MISSED}', '2026-02-03', 7, '2026-02-10', '2026-02-04T09:00Z', 'missed', 1, 'runner', '2026-02-04T09:00Z',
        'none', 'gamma.example');
    INSERT INTO predictbench.resolution_observations (market_id, observed_at, source, state, payout, outcome)
    SELECT market_id, close_time + interval '2 days', 'gamma', 'final', '[1, 0]', 1 FROM predictbench.processed_markets;
    INSERT INTO predictbench.snapshots VALUES (gen_random_uuid(), '2026-02-02', 7, '2026-02-02T07:00Z', 'a', 'snap', 6,
        1000, 's3://bucket/snapshot', 'gamma.example', 'clob', NULL, '{{}}');
    INSERT INTO predictbench.archives
    VALUES (gen_random_uuid(), 's3://bucket/archive', 'abc', 2, '2026-05-20T04:00:00.123456Z');
    UPDATE predictbench.processed_markets SET raw_snapshot = NULL,
        raw_archive_id = (SELECT archive_id FROM predictbench.archives) WHERE market_id IN ('m1', 'm4');
    INSERT INTO predictbench.resolution_checks VALUES ('m1', '2026-02-11T08:00Z', 3, 'not found');
    INSERT INTO predictbench.experiment_scores
    SELECT experiment_result_id, observation_id, 1, 0.36, 0.92, false, 0, 0, '1', '2026-02-12T08:00Z'
    FROM predictbench.experiment_results JOIN predictbench.processed_markets USING (processed_market_id)
        JOIN predictbench.resolution_observations USING (market_id) WHERE experiment_results.status = 'completed';
    INSERT INTO predictbench.leaderboards
    VALUES ('{BOARD}', '2026-02-12T08:00Z', '2026-02-12T08:01Z', '1', 'abc', '{{"curves": []}}');
    INSERT INTO predictbench.leaderboard_rows
    VALUES ('{BOARD}', 0, 'core', 7, 'all', 'all', 'baseline_snapshot', '1', 6, 2, 0, 0, 0, 1, '{{"flags": []}}');
    INSERT INTO predictbench.forecast_digests
    SELECT run_id, 'abc', 'sha256', 1, 18, '2026-02-02T07:05Z' FROM predictbench.processing_runs WHERE attempt = 1
        AND status = 'completed';
    INSERT INTO predictbench.model_calls (call_id, run_date, window_days, experiment, version, config_hash,
        snapshot_hash, unit, unit_id, sample, attempt, provider, model_asked, prompt_hash, status, asked_at, expires_at,
        owner)
    VALUES (gen_random_uuid(), '2026-02-02', 7, 'mini', '1', 'c', 'snap', 'market', 'm1', 0, 0, 'openai', 'gpt-5-mini',
        'p', 'unknown', '2026-02-02T07:01Z', '2026-02-02T07:03Z', 'host:1:1');
    INSERT INTO predictbench.scored_runs
    SELECT run_id, '1', 12, 12, 0, 6, 0 FROM predictbench.processing_runs WHERE status = 'completed';
"""
SCORING = {"resolution_checks", "experiment_scores", "leaderboards", "leaderboard_rows", "forecast_digests"}
"""Tables of the third revision; what was in them can be computed again, but for the digests."""
LATER = {"model_calls"}
"""Tables of later revisions with rows that nothing makes again."""
WIDENED = {"control", "stored_at", "group_item_title", "group_item_threshold", "refused"}
WIDENED |= {"requests", "input_tokens", "output_tokens", "cached_tokens", "cost", "currency", "seconds", "model"}
WIDENED |= {"forecasts", "leaked", "as_of", "knowledge_cutoff"}
"""Columns of later revisions in older tables. `resolution_observations.status` is one, too."""


@pytest.fixture
def in_use(engine: Engine, database_url: str, writer: Callable[..., RunWriter], take: Callable[..., Lease]) -> str:
    """A database with a run, a later attempt of an experiment, failures, final resolutions, scores and a board, a
    missed day and an archived snapshot."""
    writing = writer(take())
    results = (result(), result("devigged_event", 0.41), result("uniform", None, status="skipped", reason="no price"))
    # When its attempt ended is what a row without a time of its own is taken to be stored at.
    attempts = [attempt(name, finished_at=NOW) for name in ("baseline_snapshot", "devigged_event", "uniform")]
    writing.write([record(number, *results) for number in range(6)], attempts)
    failure = Failure(market_id="m9", stage="persisted_run", reason="too long", retriable=False, logged_at=NOW)
    writing.finish(RunCounts(offered=7, excluded=0, rejected=0, failed=1, processed=6), "completed", [failure])
    with engine.begin() as connection:
        connection.exec_driver_sql(MORE)
    return database_url


def test_rows_survive_the_way_down_and_up(in_use: str, database: Database) -> None:
    before, archive = dump(in_use), database.rows("SELECT * FROM predictbench.archives")
    assert all(before[table] for table in before), "every table has rows"

    migrations.downgrade(in_use, "0001")
    older = dump(in_use)
    for table in set(older) - {"processed_markets", "processing_runs"}:
        dropped = WIDENED | ({"status"} if table == "resolution_observations" else set())
        assert older[table] == without(dropped, before[table]), table
    assert database.scalar("SELECT count(*) FROM predictbench.processing_runs") == 1
    moved = database.rows("SELECT market_id FROM predictbench.processed_markets WHERE raw_snapshot::text LIKE '%s3:%'")
    assert sorted(moved) == [("m1",), ("m4",)]

    migrations.upgrade(in_use)
    assert database.rows("SELECT * FROM predictbench.archives") == archive
    changed = differences(before, dump(in_use))
    # The older schema has no word for a missed day. What was scored is looked at again, a run at a time.
    assert set(changed) == {"processing_runs", "scored_runs", *SCORING, *LATER}
    assert [run for run, market in database.rows("SELECT run_id, market_id FROM predictbench.scores_due")] == [
        run for [run] in database.rows("SELECT run_id FROM predictbench.processing_runs")
    ]
    assert not any(dump(in_use)[table] for table in SCORING)
    [[gone], new] = changed["processing_runs"]
    assert dict(gone)["run_id"] == f'"{MISSED}"'
    assert new == []

    migrations.downgrade(in_use, "0001")
    assert not differences(older, dump(in_use))


def without(columns: set[str], rows: Counter[Row]) -> Counter[Row]:
    """Rows as a table has them that lacks some columns."""
    return Counter({tuple(cell for cell in row if cell[0] not in columns): number for row, number in rows.items()})


def test_a_database_with_rows_is_removed_whole(in_use: str, database: Database) -> None:
    migrations.downgrade(in_use, "base")
    left = database.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'predictbench'")
    assert left in ([], [(VERSION_TABLE,)])


def schema_of(url: str) -> str:
    """What pg_dump says of our schema, without what differs from one call to the next."""
    address = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    done = subprocess.run(
        [str(embedded._binaries() / "pg_dump"), "--schema-only", "--schema=predictbench", address],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
    )
    return re.sub(r"^(--.*|\\(un)?restrict .*|)\n", "", done.stdout, flags=re.MULTILINE)


def test_the_seed_makes_what_the_migrations_make(database_url: str, empty_database_url: str) -> None:
    migrated = schema_of(database_url)
    assert "CREATE TABLE predictbench.processed_markets" in migrated
    address = make_url(empty_database_url)
    seeded = make_engine(address, pool_size=0)
    with seeded.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.connection.driver_connection.execute(migrations.SEED_FILE.read_bytes())  # type: ignore[union-attr]
    assert schema_of(empty_database_url) == migrated

    migrations.downgrade(empty_database_url, "0001")
    assert schema_of(empty_database_url) != migrated
    migrations.upgrade(empty_database_url)
    assert schema_of(empty_database_url) == migrated


def test_autogenerate_finds_nothing_beside_a_real_dagsters_tables(
    database_url: str, engine: Engine, tmp_path: Path
) -> None:
    with dagster_on(make_url(database_url), tmp_path) as instance:
        instance.add_dynamic_partitions("days", ["2026-02-02"])
        with engine.connect() as connection:
            dagsters = connection.execute(
                text("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
            ).scalar_one()
        assert dagsters > 15
        migrations._run(database_url, command.check)
        migrations.downgrade(database_url, "base")
        migrations.upgrade(database_url)
        migrations._run(database_url, command.check)
        assert instance.get_dynamic_partitions("days") == ["2026-02-02"]


@pytest.fixture
def at_first(database_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database at the first revision, and migrations in a hurry."""
    migrations.downgrade(database_url, "0001")
    monkeypatch.setattr(migrations, "LOCK_TIMEOUT", "100ms")
    monkeypatch.setattr(migrations, "_PATIENCE", QUICK)
    return database_url


def test_a_table_that_is_in_use_is_waited_for_in_spells(
    at_first: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "_PATIENCE", Backoff(attempts=30, first=0.02, longest=0.05))
    with engine.connect() as run:
        run.execute(text("SELECT count(*) FROM predictbench.processed_markets"))  # a transaction of a run
        migrating = threading.Thread(target=migrations.upgrade, args=(at_first,))
        migrating.start()
        with engine.connect() as other:
            # Those who come after the waiting ALTER get their turn between its spells.
            other.execute(text("SET lock_timeout = '5s'"))
            for _ in range(3):
                other.execute(text("SELECT count(*) FROM predictbench.processed_markets"))
        assert migrating.is_alive()
        run.rollback()
    migrating.join(30)
    assert revisions.is_current(engine)


def test_a_table_that_stays_in_use_leaves_the_database_as_it_was(at_first: str, engine: Engine) -> None:
    before = schema_of(at_first)
    with engine.connect() as run:
        run.execute(text("SELECT count(*) FROM predictbench.processed_markets"))
        with pytest.raises(DatabaseUnavailable, match="another session is at work on the same tables") as caught:
            migrations.upgrade(at_first)
        assert caught.value.retriable
        run.rollback()
    assert schema_of(at_first) == before
    assert revisions.current(engine) == "0001"


def test_a_revision_that_fails_takes_the_ones_before_it_back(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(empty_database_url, pool_size=0)
    with engine.begin() as connection:  # so that the second revision meets a table that is in its way
        connection.execute(text("CREATE SCHEMA predictbench"))
        connection.execute(text("CREATE TABLE predictbench.archives (mine int)"))
    with pytest.raises(Exception, match="archives"):
        migrations.upgrade(empty_database_url)
    assert revisions.current(engine) is None
    with engine.connect() as connection:
        tables = connection.execute(text("SELECT tablename FROM pg_tables WHERE schemaname = 'predictbench'"))
        assert tables.scalars().all() == ["archives"]
