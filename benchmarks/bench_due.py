"""What scoring costs when little is new, beside a year of forecasts that were scored before.

    python benchmarks/bench_due.py [--quick] [--results N] [--json FILE]

The embedded server is filled with runs of a year, in three windows, so that each market is in three of them, with a
forecast of each of three experiments; all but the newest closing day have settled and are scored, as a database of
before `scores_due` is. The rows are made by the server, past triggers and keys. Then, each in a fresh process whose
memory is taken: everything is looked at for the first time; a sweep with nothing due; one changed resolution; and a
day's settlements. What is measured is what `experiment_scores` does: scoring, and the numbers for its checks. The goals
are for 5 million results; beside them is what one reading of all settled forecasts takes.
"""

import argparse
import json
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, text

from predictbench_assets.database import migrations
from predictbench_assets.database.embedded import EmbeddedPostgres
from predictbench_assets.database.engine import make_engine
from predictbench_assets.scoring.rules import SCORING_VERSION
from predictbench_assets.scoring.store.checks import score_problems
from predictbench_assets.scoring.store.scores import score_settled

RESULTS = 5_000_000
WINDOWS, EXPERIMENTS = (1, 7, 30), ("baseline_snapshot", "devigged_event", "uniform")
DAYS = 365
GOALS = {"nothing due": 1.0, "one changed resolution": 2.0}
GOAL_GROWTH_MB = 40.0
ROUNDS = 3
FIRST = date(2026, 1, 1)
NOW = datetime.combine(FIRST + timedelta(days=DAYS), datetime.min.time(), UTC)

_FILL = (
    # Neither triggers nor foreign keys: the rows are what they would have let pass.
    "SET LOCAL session_replication_role = replica",
    f"""INSERT INTO predictbench.experiments
    SELECT md5(name)::uuid, name, '1', '', 'market', false, false, true FROM unnest(ARRAY{list(EXPERIMENTS)}) name""",
    f"""INSERT INTO predictbench.processing_runs (run_id, run_date, window_days, target_date, started_at, status,
        attempt, holder, heartbeat_at, dagster_run_id, exchange, offered_markets, excluded_markets, rejected_markets,
        total_markets, processed_markets, failed_markets)
    SELECT md5(format('%s %s', day, span))::uuid, :first + day - span, span, :first + day, :first, 'completed', 1,
        'bench', :first, 'bench', 'bench', :markets, 0, 0, :markets, :markets, 0
    FROM generate_series(1, :days) day, unnest(ARRAY{list(WINDOWS)}) span""",
    """INSERT INTO predictbench.experiment_runs (experiment_run_id, run_id, experiment_id, attempt, status,
        content_hash, completed, skipped, failed, dagster_run_id)
    SELECT md5(format('%s %s', run_id, name))::uuid, run_id, experiment_id, 1, 'completed', '', :markets, 0, 0, 'bench'
    FROM predictbench.processing_runs, predictbench.experiments""",
    """INSERT INTO predictbench.processed_markets (processed_market_id, run_id, market_id, market_slug, question,
        close_time, raw_snapshot, processed_at, cluster, category, neg_risk, captured_at, price, price_source,
        price_quality, core, reconstructed, snapshot_hash)
    SELECT md5(format('%s %s', run_id, number))::uuid, run_id,
        ((target_date - :first) * :markets + number)::text, 'slug', 'question', target_date, jsonb_build_object(),
        run_date, 'event:' || number / 4, 'sports', false, run_date, random(), 'clob', 'good', false, false, 'hash'
    FROM predictbench.processing_runs, generate_series(1, :markets) number""",
    """INSERT INTO predictbench.experiment_results (experiment_result_id, experiment_run_id, processed_market_id,
        status, probability, payload, forecast_at, stored_at, snapshot_hash)
    SELECT md5(format('%s %s', m.processed_market_id, e.name))::uuid, a.experiment_run_id, m.processed_market_id,
        'completed', CASE WHEN e.name = 'baseline_snapshot' THEN m.price ELSE random() END, jsonb_build_object('a', 1),
        m.captured_at, m.captured_at, 'hash'
    FROM predictbench.processed_markets m JOIN predictbench.experiment_runs a USING (run_id)
    JOIN predictbench.experiments e USING (experiment_id)""",
    """INSERT INTO predictbench.resolution_observations (market_id, observed_at, source, state, outcome)
    SELECT market_id, min(captured_at) + state.late, 'gamma', state.name,
        CASE WHEN state.name = 'final' THEN CAST(market_id AS bigint) % 2 END
    FROM predictbench.processed_markets,
        (VALUES ('open', interval '1 hour'), ('final', interval '40 days')) state(name, late)
    WHERE state.name = 'open' OR close_time < :first + :days GROUP BY market_id, state.name, state.late""",
    """INSERT INTO predictbench.resolution_checks SELECT market_id, max(observed_at), 2, NULL
    FROM predictbench.resolution_observations GROUP BY market_id""",
    """INSERT INTO predictbench.experiment_scores
    SELECT r.experiment_result_id, o.observation_id, o.outcome, (r.probability - o.outcome) ^ 2, 0.5, false,
        (m.price - o.outcome) * (m.price - o.outcome) - (r.probability - o.outcome) * (r.probability - o.outcome),
        (r.probability - m.price) * (r.probability - m.price), :version, :now
    FROM predictbench.experiment_results r JOIN predictbench.processed_markets m USING (processed_market_id)
    JOIN predictbench.resolution_observations o USING (market_id) WHERE o.state = 'final'""",
    "INSERT INTO predictbench.scores_due (run_id) SELECT run_id FROM predictbench.processing_runs",
)
_ALL_SETTLED = """
    SELECT count(*) FROM predictbench.experiment_results r
    JOIN predictbench.processed_markets USING (processed_market_id)
    JOIN predictbench.market_resolutions n USING (market_id)
    LEFT JOIN predictbench.experiment_scores s USING (experiment_result_id)
    WHERE n.state = 'final' AND s.scoring_version IS DISTINCT FROM ''"""


def fill(engine: Engine, markets: int) -> float:
    """Make the rows; returns the seconds it took."""
    began = time.monotonic()
    values = {"first": FIRST, "days": DAYS, "markets": markets, "version": SCORING_VERSION, "now": NOW}
    with engine.begin() as connection:
        for statement in _FILL:
            connection.execute(text(statement), values)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM ANALYZE")  # as autovacuum has done long since
    return time.monotonic() - began


def score(parent: Connection, url: str) -> None:
    """Do what the asset does, and send what it said, the seconds, and how much memory it took on in MB."""
    engine = make_engine(url, pool_size=1)
    with engine.connect() as connection:
        connection.exec_driver_sql("SELECT 1")
    before, began = peak_mb(), time.monotonic()
    report = score_settled(engine, NOW)
    problems = score_problems(engine)
    impossible = problems.out_of_range + problems.reference_edges
    found = asdict(report) | {"checked": problems.scores, "impossible": impossible}
    parent.send((found, time.monotonic() - began, peak_mb() - before))


def peak_mb() -> float:
    """Of this process, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << (20 if sys.platform == "darwin" else 10))


def in_a_process(url: str) -> tuple[dict[str, Any], float, float]:
    """What `score` sends."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=score, args=(theirs, url))
    process.start()
    theirs.close()
    try:
        return ours.recv()  # type: ignore[no-any-return]
    except EOFError:
        raise SystemExit("the process that scores died") from None
    finally:
        process.join()


def settle(engine: Engine, where: str, outcome: float, late: int) -> int:
    """Observe that markets settled so; returns how many."""
    with engine.begin() as connection:
        return connection.execute(
            text(
                "INSERT INTO predictbench.resolution_observations (market_id, observed_at, source, state, outcome)"
                f" SELECT DISTINCT market_id, :now + make_interval(secs => :late), 'gamma', 'final', :outcome"
                f" FROM predictbench.processed_markets WHERE {where}"
            ),
            {"now": NOW, "late": late, "outcome": outcome},
        ).rowcount


def measure(results: int) -> list[dict[str, Any]]:
    """Everything that is measured, a line each."""
    markets = max(results // (DAYS * len(WINDOWS) * len(EXPERIMENTS)), 4)
    lines: list[dict[str, Any]] = []
    with (
        tempfile.TemporaryDirectory(prefix="pb-bench-") as name,
        EmbeddedPostgres(Path(name) / "pg", durable=False) as server,
    ):
        migrations.upgrade(server.url)
        engine = make_engine(server.url, pool_size=1)
        stored = markets * DAYS * len(WINDOWS) * len(EXPERIMENTS)
        lines.append({"what": "made", "results": stored, "seconds": round(fill(engine, markets), 1)})

        def take(what: str, rounds: int, expected: dict[str, int], each: tuple[str, float] | None = None) -> None:
            seconds, growth = [], []
            for number in range(rounds):
                if each is not None:
                    settle(engine, each[0], each[1] + number / 10, number)
                said, took, more = in_a_process(server.url)
                found = {key: said[key] for key in expected}
                if found != expected:
                    raise SystemExit(f"{what}: {found} rather than {expected}")
                seconds.append(took)
                growth.append(more)
            worst = {"growth_mb": round(max(growth))}
            lines.append({"what": what, **expected, "seconds": round(statistics.median(seconds), 3), **worst})

        a_day = markets * len(WINDOWS) * len(EXPERIMENTS)
        nothing = {"scored": 0, "rescored": 0, "removed": 0, "scores": stored - a_day, "waiting": a_day}
        nothing |= {"checked": stored - a_day, "impossible": 0}
        take("everything, for the first time", 1, nothing)
        take("nothing due", ROUNDS, nothing)
        per_market = len(WINDOWS) * len(EXPERIMENTS)
        take(
            "one changed resolution", ROUNDS, nothing | {"rescored": per_market}, (f"market_id = '{markets + 1}'", 0.5)
        )
        day = (f"close_time = '{FIRST + timedelta(days=DAYS)}'", 0.0)
        settled = nothing | {"scored": a_day, "scores": stored, "checked": stored, "waiting": 0}
        take("a day's settlements", 1, settled, day)
        began = time.monotonic()
        with engine.connect() as connection:
            connection.exec_driver_sql(_ALL_SETTLED)
        lines.append({"what": "one reading of all settled forecasts", "seconds": round(time.monotonic() - began, 3)})
        engine.dispose()
    return lines


def main() -> int:
    """Run, print, and fail when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="200,000 results: to see that it works")
    parser.add_argument("--results", type=int, default=RESULTS, help="about so many are stored")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    lines = measure(200_000 if options.quick else options.results)
    if options.json:
        options.json.write_text(json.dumps(lines, indent=1))
    missed = False
    for line in lines:
        goal = GOALS.get(line["what"])
        print(line["what"] + ": " + ", ".join(f"{key} {value:,}" for key, value in line.items() if key != "what"))
        if goal is not None:
            met = line["seconds"] <= goal and line["growth_mb"] <= GOAL_GROWTH_MB
            missed |= not met
            print(f"  goal: {goal} s and {GOAL_GROWTH_MB:.0f} MB more: {'met' if met else 'MISSED'}")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
