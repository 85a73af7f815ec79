"""What a sweep and scoring cost when little is new, beside a year of forecasts that were scored before.

    python benchmarks/bench_due.py [--quick] [--results N] [--json FILE]

The embedded server is filled with the runs of 365 closing days, in three windows, so that each market is in three of
them, with a forecast of each of three experiments; all of it has settled more than a month ago and is scored, and the
markets that close in the next 30 days are stored and looked at. The rows are made by the server, past triggers and
keys, at the revision before `scores_due`, and migrated. Then, each in a fresh process whose memory is taken: everything
is looked at for the first time; a sweep with nothing due; one changed resolution, as a sandbox exchange tells it; and a
day's settlements. What is timed is what `market_resolutions` and `experiment_scores` do: the sweep, scoring, and what
their checks read. The goals are for 5 million results; beside them is what one reading of all settled forecasts takes.
"""

import argparse
import asyncio
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, text

from predictbench_assets.assets.resolution import CLOSED_FOR, LONG_OPEN
from predictbench_assets.clock import FixedClock
from predictbench_assets.database import migrations
from predictbench_assets.database.embedded import EmbeddedPostgres
from predictbench_assets.database.engine import make_engine
from predictbench_assets.database.patience import Patience
from predictbench_assets.exchanges.polymarket.client import PolymarketClient
from predictbench_assets.exchanges.polymarket.exchange import Polymarket
from predictbench_assets.resolution.ledger import settled_cohorts
from predictbench_assets.resolution.sweep import sweep
from predictbench_assets.sandbox.server import SandboxServer, serve
from predictbench_assets.sandbox.world import Market, World
from predictbench_assets.scoring.rules import SCORING_VERSION
from predictbench_assets.scoring.store.checks import score_problems
from predictbench_assets.scoring.store.scores import score_settled

RESULTS = 5_000_000
WINDOWS, EXPERIMENTS = (1, 7, 30), ("baseline_snapshot", "devigged_event", "uniform")
DAYS = 365
"""So many closing days have settled."""
QUIET = 60
"""Days since the last of them: nothing is looked at again for being final lately."""
AHEAD = 30
"""So many closing days are still to come."""
GOALS = {"nothing due": 1.0, "one changed resolution": 2.0}
GOAL_GROWTH_MB = 40.0
ROUNDS = 3
FILLING = Patience(3600, "the limit of one statement of the benchmark")
PARTS = ("sweep", "cohorts", "scoring")
"""What is timed."""
FIRST = date(2026, 1, 1)
LAST = FIRST + timedelta(days=DAYS)
"""The last closing day that has settled."""
NOW = datetime.combine(LAST + timedelta(days=QUIET), datetime.min.time(), UTC)
EXCHANGE = "localhost"
BEFORE = "0004"
"""The revision that is filled."""

_FILL = (
    # Neither triggers nor foreign keys: the rows are what they would have let pass.
    "SET LOCAL session_replication_role = replica",
    f"""INSERT INTO predictbench.experiments
    SELECT md5(name)::uuid, name, '1', '', 'market', false, false, true FROM unnest(ARRAY{list(EXPERIMENTS)}) name""",
    f"""INSERT INTO predictbench.processing_runs (run_id, run_date, window_days, target_date, started_at, status,
        attempt, holder, heartbeat_at, dagster_run_id, exchange, offered_markets, excluded_markets, rejected_markets,
        total_markets, processed_markets, failed_markets)
    SELECT md5(format('%s %s', day, span))::uuid, day - span, span, day, :first, 'completed', 1,
        'bench', :first, 'bench', :exchange, :markets, 0, 0, :markets, :markets, 0
    FROM generate_series(:first + 1, cast(:now AS date) + :ahead, interval '1 day') at, cast(at AS date) day,
        unnest(ARRAY{list(WINDOWS)}) span
    WHERE day <= :last OR day > cast(:now AS date) AND day - span <= cast(:now AS date)""",
    """INSERT INTO predictbench.processing_attempts (run_id, attempt, dagster_run_id, holder, started_at, heartbeat_at,
        finished_at, status)
    SELECT run_id, 1, run_id::text, 'bench', run_date, run_date, run_date, 'completed'
    FROM predictbench.processing_runs""",
    """INSERT INTO predictbench.experiment_runs (experiment_run_id, run_id, experiment_id, attempt, status,
        content_hash, completed, skipped, failed, dagster_run_id)
    SELECT md5(format('%s %s', run_id, name))::uuid, run_id, experiment_id, 1, 'completed', '', :markets, 0, 0, 'bench'
    FROM predictbench.processing_runs, predictbench.experiments""",
    """INSERT INTO predictbench.processed_markets (processed_market_id, run_id, market_id, market_slug, question,
        close_time, raw_snapshot, processed_at, cluster, category, neg_risk, captured_at, price, price_source,
        price_quality, core, reconstructed, snapshot_hash)
    SELECT md5(format('%s %s', run_id, number))::uuid, run_id,
        (1000000 + (target_date - :first) * :markets + number)::text, 'slug', 'question', target_date,
        jsonb_build_object(), run_date, 'event:' || number / 4, 'sports', false, run_date, random(), 'clob', 'good',
        false, false, 'hash'
    FROM predictbench.processing_runs, generate_series(1, :markets) number""",
    """INSERT INTO predictbench.experiment_results (experiment_result_id, experiment_run_id, processed_market_id,
        status, probability, payload, forecast_at, stored_at, snapshot_hash)
    SELECT md5(format('%s %s', m.processed_market_id, e.name))::uuid, a.experiment_run_id, m.processed_market_id,
        'completed', CASE WHEN e.name = 'baseline_snapshot' THEN m.price ELSE random() END, jsonb_build_object('a', 1),
        m.captured_at, m.captured_at, 'hash'
    FROM predictbench.processed_markets m JOIN predictbench.experiment_runs a USING (run_id)
    JOIN predictbench.experiments e USING (experiment_id)""",
    # One is a market of the sandbox.
    """UPDATE predictbench.processed_markets SET market_id = :id, condition_id = :condition
    WHERE market_id = (1000000 + (:last - :first) * :markets + 1)::text""",
    """INSERT INTO predictbench.processed_contracts (processed_contract_id, processed_market_id, contract_id, name,
        metadata)
    SELECT gen_random_uuid(), processed_market_id, token, name, jsonb_build_object('index', place - 1)
    FROM predictbench.processed_markets, unnest(cast(:tokens AS text[]), cast(:names AS text[]))
        WITH ORDINALITY one(token, name, place)
    WHERE market_id = :id""",
    """INSERT INTO predictbench.resolution_observations (market_id, observed_at, source, state, outcome)
    SELECT market_id, min(captured_at) + state.late, 'gamma', state.name,
        CASE WHEN state.name = 'final' THEN CAST(market_id AS bigint) % 2 END
    FROM predictbench.processed_markets,
        (VALUES ('open', interval '1 hour'), ('final', interval '40 days')) state(name, late)
    WHERE state.name = 'open' OR close_time <= :last GROUP BY market_id, state.name, state.late""",
    """INSERT INTO predictbench.resolution_checks
    SELECT market_id, CASE WHEN count(*) = 1 THEN :now - interval '6 hours' ELSE max(observed_at) END, 2, NULL
    FROM predictbench.resolution_observations GROUP BY market_id""",
    """INSERT INTO predictbench.experiment_scores
    SELECT r.experiment_result_id, o.observation_id, o.outcome, (r.probability - o.outcome) ^ 2, 0.5, false,
        (m.price - o.outcome) * (m.price - o.outcome) - (r.probability - o.outcome) * (r.probability - o.outcome),
        (r.probability - m.price) * (r.probability - m.price), :version, :now
    FROM predictbench.experiment_results r JOIN predictbench.processed_markets m USING (processed_market_id)
    JOIN predictbench.resolution_observations o USING (market_id) WHERE o.state = 'final'""",
)
_ALL_SETTLED = """
    SELECT count(*) FROM predictbench.experiment_results r
    JOIN predictbench.processed_markets USING (processed_market_id)
    JOIN predictbench.market_resolutions n USING (market_id)
    LEFT JOIN predictbench.experiment_scores s USING (experiment_result_id)
    WHERE n.state = 'final' AND s.scoring_version IS DISTINCT FROM ''"""


def fill(engine: Engine, markets: int, known: Market) -> int:
    """Make the rows; returns the number of results."""
    values = {"first": FIRST, "last": LAST, "ahead": AHEAD, "markets": markets, "version": SCORING_VERSION, "now": NOW}
    values |= {"exchange": EXCHANGE, "id": known.market_id, "condition": known.condition_id}
    values |= {"tokens": list(known.token_ids), "names": list(known.outcomes)}
    with engine.begin() as connection:
        for statement in _FILL:
            connection.execute(text(statement), values)
        results = connection.execute(text("SELECT count(*) FROM predictbench.experiment_results")).scalar_one()
    return int(results)


def tidy(engine: Engine) -> None:
    """Do what autovacuum has done long since."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM ANALYZE")


def work(parent: Connection, url: str, base_url: str, clob_url: str) -> None:
    """Do what the assets do, and send what they said, the seconds of each, and how much memory that took on in MB."""
    engine = make_engine(url, pool_size=1)
    with engine.connect() as connection:
        connection.exec_driver_sql("SELECT 1")

    clock = FixedClock(NOW)
    exchange = Polymarket(PolymarketClient(base_url, clob_url, clock=clock), host=EXCHANGE, clock=clock)
    before, moments = peak_mb(), [time.monotonic()]
    report = asyncio.run(sweep(exchange, engine, clock, max_requests=1_000))
    moments.append(time.monotonic())
    cohorts = settled_cohorts(engine, NOW, closed_for=CLOSED_FOR, long_open=LONG_OPEN)
    moments.append(time.monotonic())
    scored = score_settled(engine, NOW)
    problems = score_problems(engine)
    moments.append(time.monotonic())
    found = {"queued": report.queued, "changed": len(report.changed), "final": sum(one.final for one in cohorts)}
    found |= asdict(scored) | {
        "checked": problems.scores,
        "impossible": problems.out_of_range + problems.reference_edges,
    }
    parts = [later - earlier for earlier, later in pairwise(moments)]
    parent.send((found, dict(zip(PARTS, parts, strict=True)), peak_mb() - before))


def peak_mb() -> float:
    """Of this process, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << (20 if sys.platform == "darwin" else 10))


def in_a_process(url: str, exchange: SandboxServer) -> tuple[dict[str, Any], dict[str, float], float]:
    """What `work` sends."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs, url, exchange.base_url, exchange.clob_url))
    process.start()
    theirs.close()
    try:
        return ours.recv()  # type: ignore[no-any-return]
    except EOFError:
        raise SystemExit("the process that sweeps and scores died") from None
    finally:
        process.join()


def settle(engine: Engine, where: str, days: int) -> None:
    """Observe that markets settled, so many days ago."""
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO predictbench.resolution_observations (market_id, observed_at, source, state, outcome)"
                " SELECT DISTINCT market_id, CAST(:at AS timestamptz), 'gamma', 'final', 0"
                f" FROM predictbench.processed_markets WHERE {where}"
            ),
            {"at": NOW - timedelta(days=days)},
        )


def timed(what: str, began: float, **more: int) -> dict[str, Any]:
    """A line of what took until now."""
    return {"what": what, **more, "seconds": round(time.monotonic() - began, 3)}


def measure(results: int) -> Iterator[dict[str, Any]]:
    """Everything that is measured, a line each, as it comes."""
    ahead = sum(min(window, AHEAD) for window in WINDOWS)
    markets = max(results // ((DAYS * len(WINDOWS) + ahead) * len(EXPERIMENTS)), 4)
    world = World(7, 20)
    known = next(one for one in world.day(LAST).markets if one.settlement.payout == (1, 0))
    with (
        tempfile.TemporaryDirectory(prefix="pb-bench-") as name,
        EmbeddedPostgres(Path(name) / "pg", durable=False) as server,
        serve(world, now=NOW) as exchange,
    ):
        migrations.upgrade(server.url, BEFORE)
        engine = make_engine(server.url, pool_size=1, patience=FILLING)
        began = time.monotonic()
        stored = fill(engine, markets, known)
        yield timed("made", began, results=stored)
        began = time.monotonic()
        migrations.upgrade(server.url)
        yield timed("migrated", began)
        tidy(engine)
        yield from measure_filled(engine, server.url, exchange, known, markets=markets, stored=stored)
        engine.dispose()


def measure_filled(
    engine: Engine, url: str, exchange: SandboxServer, known: Market, *, markets: int, stored: int
) -> Iterator[dict[str, Any]]:
    """What is measured beside so many stored results, of so many markets a day."""

    def take(
        what: str, rounds: int, expected: dict[str, int], payouts: Sequence[tuple[int, int]] = ()
    ) -> dict[str, Any]:
        each, growth = [], []
        for number in range(rounds):
            if payouts:
                exchange.settle(known.market_id, payouts[number % len(payouts)])
            said, parts, more = in_a_process(url, exchange)
            found = {key: said[key] for key in expected}
            if found != expected:
                raise SystemExit(f"{what}: {found} rather than {expected}")
            each.append(parts)
            growth.append(more)
        typical = sorted(each, key=lambda parts: sum(parts.values()))[rounds // 2]
        seconds = {"seconds": sum(typical.values())} | typical
        rounded = {name: round(value, 3) for name, value in seconds.items()}
        return {"what": what, **expected, **rounded, "growth_mb": round(max(growth))}

    settled = markets * DAYS * len(WINDOWS) * len(EXPERIMENTS)
    nothing = {"queued": 0, "changed": 0, "final": settled // len(EXPERIMENTS), "scored": 0, "rescored": 0}
    nothing |= {"removed": 0, "scores": settled, "waiting": stored - settled, "checked": settled, "impossible": 0}
    yield take("everything, for the first time", 1, nothing)
    yield take("nothing due", ROUNDS, nothing)
    per_market = len(WINDOWS) * len(EXPERIMENTS)
    # It was final lately, so it is looked at again.
    settle(engine, f"market_id = '{known.market_id}'", 1)
    changed = nothing | {"queued": 1, "changed": 1, "rescored": per_market}
    yield take("one changed resolution", ROUNDS, changed, ((1, 0), (0, 1)))
    settle(engine, f"close_time = '{NOW + timedelta(days=1)}'", 0)
    a_day = {"scored": markets * per_market, "scores": settled + markets * per_market}
    yield take("a day's settlements", 1, a_day)
    began = time.monotonic()
    with engine.connect() as connection:
        connection.exec_driver_sql(_ALL_SETTLED)
    yield timed("one reading of all settled forecasts", began)


def main() -> int:
    """Run, print, and fail when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="200,000 results: to see that it works")
    parser.add_argument("--results", type=int, default=RESULTS, help="about so many are stored")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    lines, missed = [], False
    for line in measure(200_000 if options.quick else options.results):
        lines.append(line)
        goal = GOALS.get(line["what"])
        rest = ", ".join(f"{key} {value:,}" for key, value in line.items() if key != "what")
        print(f"{line['what']}: {rest}", flush=True)
        if goal is not None:
            met = line["seconds"] <= goal and line["growth_mb"] <= GOAL_GROWTH_MB
            missed |= not met
            print(f"  goal: {goal} s and {GOAL_GROWTH_MB:.0f} MB more: {'met' if met else 'MISSED'}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(lines, indent=1))
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
