"""A database of years, made of one day: what a run of the product stored, again for every day and window.

The day is the demo's, by ten experiments. Each copy has ids, times, prices, forecasts and settlements of its own;
texts, payloads and all that makes up the size of a row are the day's. The server makes the rows, a month at a time,
without triggers, write-ahead log or indexes; the indexes and foreign keys are made afterwards, as the migrations have
them. The same numbers give the same rows, but for the instants of the day that is copied.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import psycopg

from predictbench_assets.database import migrations
from predictbench_assets.database.embedded import EmbeddedPostgres
from predictbench_assets.database.schema import experiment_run_id
from predictbench_assets.runs import RunKey
from predictbench_assets.scoring.rules import CLIP_HIGH, CLIP_LOW, SCORING_VERSION

LAST = date(2030, 12, 31)
"""The last run date; with five years the first one is that of the partition grid."""
NOW = datetime(2031, 1, 1, 7, tzinfo=UTC)
WINDOWS = (7, 30)
EXPERIMENTS = 10
"""Those of the demo."""
RAW_DAYS = 20
"""Raw snapshots of markets that have been final for longer were archived."""
SETTLED_AFTER_DAYS = 3
"""From the day on which markets close until they are observed as final."""

_COPIED = (
    *("events", "experiments", "processing_runs", "processing_attempts", "snapshots", "processed_markets"),
    *("processed_contracts", "experiment_runs", "experiment_results", "model_calls"),
)
_FILLED = (*_COPIED, "archives", "processing_failures", "forecast_digests", "resolution_observations")
_FILLED_TOO = ("resolution_checks", "resolutions_due", "experiment_scores", "scored_runs", "scores_due")

_UNINDEXED = """
    SELECT c.conrelid::regclass::text AS of, c.conname AS name, pg_get_constraintdef(c.oid) AS definition,
        c.contype = 'f' AS refers
    FROM pg_constraint c WHERE c.connamespace = 'predictbench'::regnamespace AND c.contype IN ('p', 'u', 'f')
    ORDER BY refers, c.conname"""
_INDEXES = """
    SELECT i.indexrelid::regclass::text AS name, pg_get_indexdef(i.indexrelid) AS definition
    FROM pg_index i JOIN pg_class t ON t.oid = i.indrelid
    WHERE t.relnamespace = 'predictbench'::regnamespace AND NOT EXISTS (
        SELECT FROM pg_constraint c WHERE c.conindid = i.indexrelid AND c.contype IN ('p', 'u')
    ) ORDER BY 1"""

_PREPARE = (
    # A number in [0, 1) that depends on nothing but two others.
    """CREATE FUNCTION pg_temp.unit(n bigint, salt bigint) RETURNS float8 LANGUAGE sql IMMUTABLE AS
        $$SELECT (hashint8extended(n, salt) & 9007199254740991) / 9007199254740992.0::float8$$""",
    """CREATE FUNCTION pg_temp.within(p float8) RETURNS float8 LANGUAGE sql IMMUTABLE AS
        $$SELECT greatest(0.001, least(0.999, round(p::numeric, 4)::float8))$$""",
    """CREATE TEMP TABLE t_markets AS
        SELECT row_number() OVER (ORDER BY market_id) AS n, dense_rank() OVER (ORDER BY event_id) AS event, m.*
        FROM t_processed_markets m""",
    "CREATE TEMP TABLE t_moment AS SELECT min(captured_at) AS captured_at FROM t_processed_markets",
    """CREATE TEMP TABLE t_results AS
        SELECT m.n, m.price, dense_rank() OVER (ORDER BY e.name) AS place, e.name, r.*
        FROM t_experiment_results r JOIN t_markets m USING (processed_market_id)
        JOIN t_experiment_runs USING (experiment_run_id) JOIN t_experiments e USING (experiment_id)
        ORDER BY m.n, e.name""",
    """CREATE TEMP TABLE t_contracts AS
        SELECT m.n, m.price AS market_price, c.* FROM t_processed_contracts c JOIN t_markets m
        USING (processed_market_id) ORDER BY m.n, c.metadata ->> 'index'""",
    "ANALYZE t_markets", "ANALYZE t_results", "ANALYZE t_contracts", "ANALYZE runs",
)  # fmt: skip

# Columns of a copy; `r` is its run, `t` the row that is copied, `k` its number.
# Those of a run begin alike, as `schema.id_in_run` has it.
_ID = """overlay(overlay(overlay(md5({of}) PLACING left(r.run_id::text, 8) FROM 1)
    PLACING '8' FROM 13) PLACING '8' FROM 17)::uuid"""
_MARKET = _ID.format(of="r.run_id::text || {n}")
_NUMBER = "(r.first_number + {n})"
_PRICE = "CASE WHEN {price} IS NOT NULL THEN pg_temp.within({price} + 0.1 * (pg_temp.unit({number}, 1) - 0.5)) END"
_SHIFTED = "t.{column} + r.shift"


def _price(row: str, column: str = "price") -> str:
    return _PRICE.format(price=f"{row}.{column}", number=_NUMBER.format(n=f"{row}.n"))


_FORECAST = f"""CASE WHEN t.probability IS NULL THEN NULL WHEN t.name = 'baseline_snapshot' THEN {_price("t")}
    ELSE pg_temp.within(t.probability + 0.05 * (pg_temp.unit({_NUMBER.format(n="t.n")} * 16 + t.place, 2) - 0.5)
        + coalesce({_price("t")} - t.price, 0)) END"""
_OUTCOME = "(pg_temp.unit({number}, 3) < coalesce({price}, 0.5))::int::float8"
_RESULT = _ID.format(of="r.attempts[t.place]::text || t.n")
_OBSERVATION = "md5(({number})::text || '{state}')::uuid"


def _statement(table: str, values: dict[str, str], source: str, *, like: str | None = None) -> str:
    """An INSERT of copies: the columns named with their values, all others as they are in `t`."""
    columns = dict.fromkeys(_columns_of(like), "") if like else {}
    chosen = {name: f"t.{name}" for name in columns} | values
    return f"INSERT INTO predictbench.{table} ({', '.join(chosen)}) SELECT {', '.join(chosen.values())} FROM {source}"


def _columns_of(table: str) -> list[str]:
    from predictbench_assets.database.schema import metadata

    return [column.name for column in metadata.tables[f"predictbench.{table}"].c]


_RUNS = "(SELECT * FROM runs WHERE month = %(month)s ORDER BY n) r"


def _each(table: str) -> str:
    """The rows of a table for every run, those of a run one after the other, as the product stores them."""
    return f"{_RUNS} CROSS JOIN LATERAL (SELECT * FROM {table} WHERE r.n IS NOT NULL OFFSET 0) t"


def _monthly() -> Iterator[str]:
    """The statements that are run for every month, in the order of the tables."""
    yield _statement(
        "processing_runs",
        {"run_id": "r.run_id", "run_date": "r.run_date", "window_days": "r.window_days"}
        | {"target_date": "r.target_date", "dagster_run_id": "gen_random_uuid()::text", "status": "'completed'"}
        | {name: _SHIFTED.format(column=name) for name in ("started_at", "finished_at", "heartbeat_at")},
        f"{_RUNS}, t_processing_runs t",
        like="processing_runs",
    )
    yield _statement(
        "processing_attempts",
        {"run_id": "r.run_id", "dagster_run_id": "md5(r.run_id::text)::uuid::text"}
        | {name: _SHIFTED.format(column=name) for name in ("started_at", "finished_at", "heartbeat_at")},
        f"{_RUNS}, t_processing_attempts t",
        like="processing_attempts",
    )
    yield _statement(
        "snapshots",
        {"snapshot_id": "md5(r.run_id::text || 'snapshot')::uuid", "run_date": "r.run_date"}
        | {"window_days": "r.window_days", "captured_at": "t.captured_at + r.shift"},
        f"{_RUNS}, t_snapshots t",
        like="snapshots",
    )
    yield _statement(
        "forecast_digests",
        {"run_id": "r.run_id", "digest": "md5(r.run_id::text) || md5(r.run_id::text || 'x')"}
        | {"algorithm": "'predictbench-forecasts-1'", "attempt": "1", "made_at": "t.finished_at + r.shift"}
        | {"forecasts": "(SELECT count(*) FROM t_results WHERE probability IS NOT NULL)"},
        f"{_RUNS}, t_processing_runs t",
    )
    yield _statement(
        "experiment_runs",
        {"experiment_run_id": "r.attempts[t.place]", "run_id": "r.run_id", "dagster_run_id": "md5(r.run_id::text)"}
        | {name: _SHIFTED.format(column=name) for name in ("started_at", "finished_at")},
        f"{_RUNS}, (SELECT dense_rank() OVER (ORDER BY name) AS place, a.* FROM t_experiment_runs a "
        "JOIN t_experiments USING (experiment_id)) t",
        like="experiment_runs",
    )
    yield _statement(
        "processing_failures",
        {"failure_id": "md5(r.run_id::text || k)::uuid", "run_id": "r.run_id", "attempt": "1", "market_id": "k::text"}
        | {"stage": "'normalized_markets'", "field": "'outcomes'", "reason": "'has one outcome, two are needed'"}
        | {"retriable": "false", "logged_at": "r.run_date::timestamptz"},
        f"{_RUNS}, generate_series(1, 3) k",
    )
    # Archives have 500 rows at most; an event's markets are captured by both windows, and its row is written once.
    yield _statement(
        "archives",
        {"archive_id": "md5(r.run_id::text || 'archive' || k)::uuid", "made_at": "r.target_date::timestamptz"}
        | {"uri": "'file:///archive/raw/' || r.run_date || '_w' || r.window_days || '/' || k || '.jsonl.zst'"}
        | {"sha256": "md5(r.run_id::text || k) || md5(r.run_id::text)", "rows": "500"},
        f"{_RUNS}, generate_series(0, %(markets)s / 501) k WHERE r.archived",
    )
    yield _statement(
        "events",
        {"event_id": "(r.first_number + 100000000 + k.event)::text"},
        f"{_RUNS}, (SELECT DISTINCT ON (event_id) event_id, event FROM t_markets) k JOIN t_events t USING (event_id)"
        " WHERE r.first_capture",
        like="events",
    )
    number, price = _NUMBER.format(n="t.n"), _price("t")
    yield _statement(
        "processed_markets",
        {"processed_market_id": _MARKET.format(n="t.n"), "run_id": "r.run_id", "market_id": f"{number}::text"}
        | {"event_id": "(r.first_number + 100000000 + t.event)::text", "price": price, "bid": _price("t", "bid")}
        | {"cluster": "'event:' || r.first_number + 100000000 + t.event", "ask": _price("t", "ask")}
        | {"condition_id": f"'0x' || md5({number}::text) || md5({number}::text || 'x')"}
        | {"close_time": "r.target_date + (t.close_time AT TIME ZONE 'UTC')::time AT TIME ZONE 'UTC'"}
        | {name: _SHIFTED.format(column=name) for name in ("processed_at", "captured_at", "price_at")}
        | {"raw_snapshot": f"CASE WHEN NOT r.archived THEN t.raw_snapshot || jsonb_build_object('id', {number}) END"}
        | {"raw_archive_id": "CASE WHEN r.archived THEN md5(r.run_id::text || 'archive' || t.n / 501)::uuid END"},
        _each("t_markets"),
        like="processed_markets",
    )
    yield _statement(
        "processed_contracts",
        {"processed_contract_id": _ID.format(of="r.run_id::text || t.n || t.contract_id")}
        | {"processed_market_id": _MARKET.format(n="t.n")}
        | {"contract_id": f"{number}::text || right(t.contract_id, 68)"},
        _each("t_contracts"),
        like="processed_contracts",
    )
    yield _statement(
        "experiment_results",
        {"experiment_result_id": _RESULT, "experiment_run_id": "r.attempts[t.place]"}
        | {"processed_market_id": _MARKET.format(n="t.n"), "probability": "f.p"}
        | {"probabilities": "CASE WHEN f.p IS NOT NULL THEN jsonb_build_array(f.p, 1 - f.p) END"}
        | {name: _SHIFTED.format(column=name) for name in ("forecast_at", "stored_at")},
        f"{_each('t_results')} CROSS JOIN LATERAL (SELECT {_FORECAST} AS p) f",
        like="experiment_results",
    )
    yield _statement(
        "experiment_scores",
        {"experiment_result_id": _RESULT, "observation_id": _OBSERVATION.format(number=number, state="final")}
        | {"outcome": "y.y", "brier": "(f.p - y.y) ^ 2"}
        | {"log_loss": f"-ln(1 - abs(y.y - least({CLIP_HIGH}, greatest({CLIP_LOW}, f.p))))"}
        | {"clipped": f"f.p < {CLIP_LOW} OR f.p > {CLIP_HIGH}"}
        | {"edge": "(m.p - y.y) * (m.p - y.y) - (f.p - y.y) * (f.p - y.y)", "disagreement": "(f.p - m.p) * (f.p - m.p)"}
        | {"scoring_version": f"'{SCORING_VERSION}'", "scored_at": "r.settled_at + interval '5 minutes'"},
        f"{_each('t_results')} CROSS JOIN LATERAL (SELECT {_FORECAST} AS p) f"
        f" CROSS JOIN LATERAL (SELECT {price} AS p) m"
        f" CROSS JOIN LATERAL (SELECT {_OUTCOME.format(number=number, price='m.p')} AS y) y"
        " WHERE r.settled AND t.status = 'completed' AND t.probability IS NOT NULL AND NOT t.leaked",
    )
    counted = "FROM t_results WHERE status = 'completed' AND probability IS NOT NULL AND NOT leaked"
    yield _statement(
        "scored_runs",
        {"run_id": "r.run_id", "scoring_version": f"'{SCORING_VERSION}'", "forecasts": f"(SELECT count(*) {counted})"}
        | {"scores": f"CASE WHEN r.settled THEN (SELECT count(*) {counted}) ELSE 0 END", "out_of_range": "0"}
        | {"reference_edges": "0"}
        | {
            "reference_scores": f"CASE WHEN r.settled THEN (SELECT count(*) {counted} AND name = 'baseline_snapshot')"
            " ELSE 0 END"
        },
        _RUNS,
    )
    for state, known in (("open", "r.first_capture"), ("final", "r.first_capture AND r.settled")):
        final = state == "final"
        yield _statement(
            "resolution_observations",
            {"observation_id": _OBSERVATION.format(number=number, state=state), "market_id": f"{number}::text"}
            | {"observed_at": "r.settled_at" if final else "r.captured_at + interval '1 hour'", "source": "'gamma'"}
            | {"state": f"'{state}'", "status": "'resolved'" if final else "NULL"}
            | {"outcome": "y.y" if final else "NULL"}
            | {"payout": "jsonb_build_array(y.y, 1 - y.y)" if final else "NULL"}
            | {"closed_time": "r.settled_at - interval '6 hours'" if final else "NULL"}
            | {
                "raw": f"jsonb_build_object('id', {number}::text, 'closed', {str(final).lower()},"
                " 'outcomes', '[\"Yes\", \"No\"]', 'outcomePrices', '[\"0\", \"1\"]',"
                " 'umaResolutionStatus', 'resolved', 'closedTime', r.settled_at,"
                " 'clobTokenIds', t.raw_snapshot ->> 'clobTokenIds', 'slug', t.market_slug,"
                " 'question', t.question, 'conditionId', t.condition_id,"
                " 'events', left(t.raw_snapshot ->> 'events', 200))"
            },
            f"{_each('t_markets')}"
            f" CROSS JOIN LATERAL (SELECT {_OUTCOME.format(number=number, price=price)} AS y) y WHERE {known}",
        )
    yield _statement(
        "resolution_checks",
        {"market_id": f"{number}::text", "checks": "4"}
        | {"checked_at": "CASE WHEN r.settled THEN r.settled_at ELSE %(now)s - interval '6 hours' END"},
        f"{_each('t_markets')} WHERE r.first_capture",
    )
    yield _statement(
        "resolutions_due",
        {"market_id": f"{number}::text"},
        f"{_each('t_markets')} WHERE r.first_capture AND NOT r.settled",
    )
    yield _statement(
        "model_calls",
        {"call_id": "md5(r.run_id::text || t.call_id)::uuid", "run_date": "r.run_date", "window_days": "r.window_days"}
        | {name: _SHIFTED.format(column=name) for name in ("asked_at", "answered_at", "expires_at", "claimed_at")},
        f"{_RUNS}, t_model_calls t",
        like="model_calls",
    )


@dataclass(frozen=True)
class Filled:
    """A database of so many days."""

    days: int
    markets: int
    """Markets of each run."""
    results: int
    seconds: float


@cache
def copy_day(folder: Path, markets: int) -> dict[str, tuple[list[str], bytes]]:
    """The rows of a demo's day, by table: columns, and what COPY made of them. The same for all databases of a call."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "predictbench_assets.cli.main"]
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}

    def run(*arguments: str) -> None:
        done = subprocess.run([*command, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"predictbench {arguments[0]} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")

    run("demo", "--fresh", "--markets", str(markets))
    server = EmbeddedPostgres(folder / ".predictbench" / "demo" / "postgres")
    try:
        found = {}
        with psycopg.connect(_plain(server.url)) as connection:
            for table in _COPIED:
                columns = _columns_of(table)
                sql = f"COPY predictbench.{table} ({', '.join(columns)}) TO STDOUT"
                with connection.cursor().copy(sql) as rows:
                    found[table] = columns, b"".join(bytes(block) for block in rows)
    finally:
        run("stop")
    return found


def fill(server: EmbeddedPostgres, day: dict[str, tuple[list[str], bytes]], days: int) -> Filled:
    """Make the rows of so many days in a server of this benchmark's own, which is started anew for it and after it."""
    began = time.monotonic()
    migrations.upgrade(server.start())
    with _settings(server, wal_level="minimal", max_wal_senders="0", shared_buffers="1GB", max_wal_size="4GB") as url:
        with psycopg.connect(url) as connection:
            markets = _fill(connection, day, days)
            results = _one(connection, "SELECT count(*) FROM predictbench.experiment_results")
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE")
    return Filled(days, markets, results, time.monotonic() - began)


def _fill(connection: psycopg.Connection[Any], day: dict[str, tuple[list[str], bytes]], days: int) -> int:
    run = connection.execute
    run("SET LOCAL session_replication_role = replica")
    run("SET LOCAL maintenance_work_mem = '1GB'")
    run("SET LOCAL work_mem = '256MB'")
    run("SET LOCAL jit = off")
    for table, (columns, rows) in day.items():
        run(f"CREATE TEMP TABLE t_{table} AS SELECT * FROM predictbench.{table} WITH NO DATA")
        with connection.cursor().copy(f"COPY t_{table} ({', '.join(columns)}) FROM STDIN") as copy:
            copy.write(rows)
    markets = _one(connection, "SELECT count(*) FROM t_processed_markets")
    _place_runs(connection, markets, days)
    for statement in _PREPARE:
        run(statement)
    # What is emptied in the transaction that fills it needs no log of its own.
    run(f"TRUNCATE {', '.join(f'predictbench.{table}' for table in (*_FILLED, *_FILLED_TOO))} CASCADE")
    constraints, indexes = run(_UNINDEXED).fetchall(), run(_INDEXES).fetchall()
    for table, name, _, _ in reversed(constraints):
        run(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
    for name, _ in indexes:
        run(f"DROP INDEX {name}")
    run("INSERT INTO predictbench.experiments SELECT * FROM t_experiments")
    for (month,) in run("SELECT DISTINCT month FROM runs ORDER BY month").fetchall():
        began = time.monotonic()
        for statement in _monthly():
            run(re.sub(r"%(?!\()", "%%", statement), {"month": month, "markets": markets, "now": NOW})
        print(f"  {month:%Y-%m}: {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
    for name, definition in indexes:
        _timed(connection, name, definition)
    for table, name, definition, _ in constraints:
        _timed(connection, name, f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition}")
    return markets


def _place_runs(connection: psycopg.Connection[Any], markets: int, days: int) -> None:
    """The runs to make, in the table `runs`: those of one closing day have the same markets."""
    names = [name for (name,) in connection.execute("SELECT name FROM t_experiments ORDER BY name").fetchall()]
    connection.execute(
        "CREATE TEMP TABLE runs (n int, run_id uuid, run_date date, window_days int, attempts uuid[], target_date date,"
        " captured_at timestamptz, settled_at timestamptz, settled bool, archived bool, first_capture bool, month date,"
        " first_number bigint, shift interval)"
    )
    first = LAST - timedelta(days=days - 1)
    (captured,) = connection.execute("SELECT min(captured_at) FROM t_processed_markets").fetchone() or (NOW,)
    keys = [RunKey(first + timedelta(days=day), window) for day in range(days) for window in WINDOWS]
    with connection.cursor().copy("COPY runs FROM STDIN") as copy:
        for n, key in enumerate(keys):
            at = datetime(key.run_date.year, key.run_date.month, key.run_date.day, 7, tzinfo=UTC)
            settled_at = key.start + timedelta(days=SETTLED_AFTER_DAYS, hours=8)
            number = 100_000 + (key.target_date - date(2025, 12, 1)).days * markets
            attempts = "{" + ",".join(str(experiment_run_id(key.run_id, name, 1)) for name in names) + "}"
            row = (n, key.run_id, key.run_date, key.window_days, attempts, key.target_date, at, settled_at)
            row += (settled_at <= NOW, settled_at <= NOW - timedelta(days=RAW_DAYS))
            # The longest window is the first to capture a day, unless it did not run yet.
            earliest = key.window_days == max(WINDOWS) or key.target_date - timedelta(days=max(WINDOWS)) < first
            copy.write_row((*row, earliest, key.run_date.replace(day=1), number, at - captured))


@contextmanager
def _settings(server: EmbeddedPostgres, **settings: str) -> Iterator[str]:
    """A server with other settings, which is started anew with its own afterwards."""
    url = _plain(server.url)

    def change(*statements: str) -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)
        server.stop()
        server.start()

    change(*(f"ALTER SYSTEM SET {name} = '{value}'" for name, value in settings.items()))
    try:
        yield url
    finally:
        change("ALTER SYSTEM RESET ALL")


def _timed(connection: psycopg.Connection[Any], name: str, statement: str) -> None:
    began = time.monotonic()
    connection.execute(statement)
    if (taken := time.monotonic() - began) > 1:
        print(f"  {name}: {taken:.1f} s", file=sys.stderr, flush=True)


def _one(connection: psycopg.Connection[Any], statement: str) -> int:
    row = connection.execute(statement).fetchone()
    assert row is not None
    return int(row[0])


def _plain(url: str) -> str:
    return url.replace("postgresql+psycopg://", "postgresql://")
