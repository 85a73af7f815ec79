"""A database that has grown: what asks for a part of it reads a part, and it is migrated while it is written to."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, text

from predictbench_assets.database import migrations, revisions
from predictbench_assets.database.engine import make_engine
from predictbench_assets.retention.stored import _SETTLED_RUNS, settled_runs
from predictbench_assets.scoring.store import costs
from predictbench_assets.site import data
from predictbench_assets_tests.kit.database import Database

RUNS, MARKETS = 300, 30
YEARS_LATER = datetime(2027, 6, 1, tzinfo=UTC)
GROWN = (
    "SET LOCAL session_replication_role = replica",
    """INSERT INTO predictbench.experiments (experiment_id, name, version, description, information, mandatory,
        is_active)
    SELECT md5(name)::uuid, name, '1', '', 'market', false, true FROM unnest(ARRAY['one', 'two']) name""",
    f"""INSERT INTO predictbench.processing_runs (run_id, run_date, window_days, target_date, started_at, status,
        attempt, holder, heartbeat_at, dagster_run_id, exchange, offered_markets, excluded_markets, rejected_markets,
        total_markets, processed_markets, failed_markets)
    SELECT md5(day::text)::uuid, day, 7, day + 7, day, 'completed', 1, '', day, '', 'gamma.example', {MARKETS}, 0, 0,
        {MARKETS}, {MARKETS}, 0
    FROM generate_series(0, {RUNS - 1}) n, LATERAL (SELECT date '2026-01-01' + n AS day) d""",
    """INSERT INTO predictbench.experiment_runs (experiment_run_id, run_id, experiment_id, attempt, status,
        content_hash, dagster_run_id)
    SELECT md5(run_id::text || name)::uuid, run_id, experiment_id, 1, 'completed', '', ''
    FROM predictbench.processing_runs, predictbench.experiments""",
    f"""INSERT INTO predictbench.processed_markets (processed_market_id, run_id, market_id, market_slug, question,
        close_time, raw_snapshot, raw_archive_id, processed_at, cluster, category, neg_risk, captured_at, price_source,
        price_quality, core)
    SELECT md5(run_id::text || n)::uuid, run_id, run_date || '-' || n, 'slug', 'question', target_date,
        CASE WHEN run_date > '2026-10-20' THEN jsonb_build_object() END, md5('')::uuid, run_date, 'c', 'sports', false,
        run_date, 'clob', 'good', false
    FROM predictbench.processing_runs, generate_series(1, {MARKETS}) n""",
    """INSERT INTO predictbench.experiment_results (experiment_result_id, experiment_run_id, processed_market_id,
        status, probability, stored_at)
    SELECT md5(processed_market_id::text || experiment_run_id)::uuid, experiment_run_id, processed_market_id,
        'completed', 0.5, captured_at
    FROM predictbench.processed_markets JOIN predictbench.experiment_runs USING (run_id)""",
)


@pytest.fixture
def grown(engine: Engine) -> Database:
    """Three hundred runs of thirty markets, with the raw snapshots of the last week."""
    with engine.begin() as connection:
        for statement in GROWN:
            connection.exec_driver_sql(statement)
        connection.exec_driver_sql("ANALYZE")
    return Database(engine)


def rows_read(database: Database, query: str, table: str, **values: Any) -> float:
    """Rows of a table that the server goes through to answer."""
    with database.engine.connect() as connection:
        (plan,) = connection.execute(text(f"EXPLAIN (ANALYZE, FORMAT JSON) {query}"), values).scalar_one()

    def steps(one: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield one
        for below in one.get("Plans", ()):
            yield from steps(below)

    return sum(
        step["Actual Loops"] * (step["Actual Rows"] + step.get("Rows Removed by Filter", 0))
        for step in steps(plan["Plan"] if isinstance(plan, dict) else json.loads(plan)["Plan"])
        if step.get("Relation Name") == table
    )


def test_the_newest_results_of_a_part_are_read_alone(grown: Database) -> None:
    parts = {
        "run_date = '2026-05-05' AND window_days = 7": MARKETS,
        "run_date > '2026-10-25' AND withdrawn_at IS NULL": 2 * MARKETS,
        "market_id = '2026-05-05-7'": 1,
        "market_id = '2026-05-05-7' AND experiment = 'two'": 1,
    }
    for asked, markets in parts.items():
        query = f"SELECT * FROM predictbench.latest_experiment_results WHERE {asked}"
        assert markets <= len(grown.rows(query)) <= 2 * markets
        assert rows_read(grown, query, "experiment_results") <= 2 * markets, asked


def test_page_and_costs_read_the_results_of_the_attempts_that_they_are_of(grown: Database) -> None:
    asked: dict[str, Any] = {"as_of": YEARS_LATER, "attempts": data.NEWEST_ATTEMPTS}
    newest = 2 * data.NEWEST_ATTEMPTS * MARKETS
    assert newest < 2 * RUNS * MARKETS / 10
    for query in (data._REASONS, data._SPREADS):
        assert rows_read(grown, query.text, "experiment_results", **asked) <= newest, query.text
    runs = [run for (run,) in grown.rows("SELECT run_id FROM predictbench.processing_runs ORDER BY run_date LIMIT 30")]
    asked = {"as_of": YEARS_LATER, "runs": runs}
    assert rows_read(grown, costs._USAGE.text, "experiment_results", **asked) == 2 * 30 * MARKETS


def test_a_prune_looks_at_the_raw_snapshots_that_are_left(grown: Database) -> None:
    values = {"settled_before": YEARS_LATER, "silent": YEARS_LATER, "last_day": YEARS_LATER.date()}
    query = str(
        _SETTLED_RUNS.bindparams(**values).compile(
            grown.engine, compile_kwargs={"literal_binds": True, "render_postcompile": True}
        )
    )
    left = grown.scalar("SELECT count(*) FROM predictbench.processed_markets WHERE raw_snapshot IS NOT NULL")
    assert settled_runs(grown.engine, settled_before=YEARS_LATER, now=YEARS_LATER) == []
    assert rows_read(grown, query, "processed_markets") == left < RUNS * MARKETS / 10


@pytest.fixture
def before(empty_database_url: str) -> str:
    """A database at the revision before the index, with rows."""
    migrations.upgrade(empty_database_url, "0010")
    engine = make_engine(empty_database_url, pool_size=0)
    with engine.begin() as connection:
        for statement in GROWN:
            connection.exec_driver_sql(statement)
    return empty_database_url


def plain(url: str) -> str:
    return url.replace("postgresql+psycopg", "postgresql")


INDEX = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('predictbench.ix_processed_markets_raw')"
A_WRITE = "UPDATE predictbench.processed_markets SET category = 'x' WHERE market_id = %s"


def test_an_index_whose_building_was_cut_short_is_built_by_the_next_migration(before: str) -> None:
    with psycopg.connect(plain(before)) as writer, psycopg.connect(plain(before), autocommit=True) as builder:
        writer.execute(A_WRITE, ["2026-05-05-7"])  # whom the building waits for, longer than it may
        builder.execute("SET statement_timeout = '300ms'")
        with pytest.raises(psycopg.errors.QueryCanceled):
            builder.execute(
                "CREATE INDEX CONCURRENTLY ix_processed_markets_raw ON predictbench.processed_markets (run_id)"
                " WHERE raw_snapshot IS NOT NULL"
            )
        assert builder.execute(INDEX).fetchall() == [(False,)]
        writer.rollback()
        migrations.upgrade(before)
        assert builder.execute(INDEX).fetchall() == [(True,)]
        migrations.upgrade(before)
        migrations.downgrade(before, "0010")
        assert builder.execute(INDEX).fetchall() == []
        migrations.upgrade(before)
        assert builder.execute(INDEX).fetchall() == [(True,)]


def test_a_run_is_written_while_the_index_is_built(before: str) -> None:
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX%' AND wait_event_type = 'Lock'"
    with (
        ThreadPoolExecutor(1) as threads,
        psycopg.connect(plain(before)) as first,
        psycopg.connect(plain(before), autocommit=True) as second,
    ):
        first.execute(A_WRITE, ["2026-05-05-7"])
        migrated = threads.submit(migrations.upgrade, before)
        deadline = time.monotonic() + 20
        while second.execute(waiting).fetchone() == (0,):
            assert not migrated.done(), migrated.result()
            assert time.monotonic() < deadline
        second.execute("SET lock_timeout = '2s'")
        assert second.execute(A_WRITE, ["2026-05-05-8"]).rowcount == 1
        first.commit()
        migrated.result(timeout=30)
    assert revisions.is_current(make_engine(before, pool_size=0))
