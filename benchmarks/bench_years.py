"""What five years of runs cost the work of a day: everything that reads or writes the database, beside less of them.

    python benchmarks/bench_years.py [--quick] [--years 5] [--results 2500000] [--folder DIR] [--only NAME]

Databases made by `five_years.py`: the one of so many years, one of its last two months, and one of its last 400 days,
which is what work that looks back a year is done on. Each piece of work is done on the first and on one of the others
in turn by the product's own code; the medians are compared, of wall seconds and of processor seconds of client and
server together (what to compare on a machine that others use). Work whose size does not depend on how much is stored
shall take at most 1.3 times as long; of the rest, marked `grows`, the ratio is only shown. With `--folder` databases
that are there are used again, and kept: they take about 1 KB a result.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import psutil
from bench_fetch import served
from bench_write import make_day
from five_years import EXPERIMENTS, LAST, NOW, SETTLED_AFTER_DAYS, WINDOWS, copy_day, fill
from sqlalchemy import Engine, text

from predictbench_assets.clock import FixedClock
from predictbench_assets.database.embedded import EmbeddedPostgres
from predictbench_assets.database.engine import make_engine
from predictbench_assets.database.patience import Patience
from predictbench_assets.dataset.export import export_tables
from predictbench_assets.exchanges.polymarket.client import PolymarketClient
from predictbench_assets.exchanges.polymarket.exchange import Polymarket
from predictbench_assets.experiments.history import settled_counts, settled_forecasts, settled_markets
from predictbench_assets.persistence.digests import check_digests, run_digest
from predictbench_assets.persistence.leases import RunCounts, open_lease
from predictbench_assets.persistence.records import ExperimentAttempt, MarketRecord
from predictbench_assets.persistence.stored_runs import stored_runs
from predictbench_assets.persistence.writer import RunWriter
from predictbench_assets.resolution.ledger import (
    Observation,
    pending_markets,
    record_observations,
    resolution_queue,
    settled_cohorts,
)
from predictbench_assets.resolution.sweep import sweep
from predictbench_assets.retention.raw_snapshots import prune_raw_snapshots
from predictbench_assets.retention.stored import registered_snapshots
from predictbench_assets.runs import RunKey
from predictbench_assets.sandbox.exchange import Recorded, ReplayWorld
from predictbench_assets.sandbox.server import run
from predictbench_assets.scoring.store.boards import rebuild_leaderboard, store_leaderboard, stored_leaderboard
from predictbench_assets.scoring.store.checks import score_problems
from predictbench_assets.scoring.store.scores import score_settled
from predictbench_assets.settings import Settings
from predictbench_assets.site.build import write_report
from predictbench_assets.staging import StagingArea

SMALL_DAYS = 60
YEAR_DAYS = 400
"""More than work looks back that looks back a year."""
GOAL = 1.3
LITTLE = 0.02
"""Seconds below which a difference is none."""
CLOCK = FixedClock(NOW)
EXCHANGE = "localhost"


@dataclass
class Stored:
    """A filled database, and how far it has been written on."""

    name: str
    server: EmbeddedPostgres
    engine: Engine
    folder: Path
    others: bool = False
    """True where the server ran before: somebody else uses it, so it goes on."""

    def ask(self, statement: str, **values: Any) -> Any:
        """A single value."""
        with self.engine.connect() as connection:
            return connection.execute(text(statement), values).scalar_one()

    def cpu(self) -> float:
        """Processor seconds of the server and of this process so far."""
        pid = self.server.status().pid
        own = psutil.Process().cpu_times()
        total = own.user + own.system
        server = psutil.Process(pid)
        for one in (server, *server.children(recursive=True)):
            try:
                times = one.cpu_times()
            except psutil.Error:
                continue
            total += times.user + times.system
        ended = server.cpu_times()
        return float(total + ended.children_user + ended.children_system)


def next_run(stored: Stored, size: int) -> tuple[RunKey, list[MarketRecord], list[ExperimentAttempt]]:
    """A run that is not stored yet, with markets of its own."""
    key = RunKey(stored.ask("SELECT max(run_date) FROM predictbench.processing_runs") + timedelta(days=1), 14)
    with stored.engine.connect() as connection:
        known = connection.execute(
            text(
                "SELECT name, version, description, information, mandatory, control, forecasts"
                " FROM predictbench.experiments WHERE is_active ORDER BY name"
            )
        ).all()
    hashes: dict[str, Any] = {"content_hash": str(key), "snapshot_hash": "s" * 64, "config_hash": "c" * 64}
    attempts = [ExperimentAttempt(**row._asdict(), status="completed", **hashes) for row in known]
    records = []
    for number, record in enumerate(make_day(size)):
        market_id = str(100_000 * (key.run_date - LAST).days + number + 900_000_000)
        market = record.market.model_copy(
            update={"market_id": market_id, "close_time": key.start + timedelta(hours=12), "captured_at": NOW}
        )
        results = tuple(
            type(record.results[0])(
                experiment=row.name,
                status="completed",
                probability=record.results[0].probability,
                probabilities=record.results[0].probabilities,
                payload=record.results[0].payload,
                diagnostics={},
                forecast_at=NOW,
            )
            for row in known
        )
        records.append(MarketRecord(market, record.raw, results))
    return key, records, attempts


def write(stored: Stored, size: int) -> Callable[[], object]:
    """The lease, the write, the digest and the end of a run."""
    key, records, attempts = next_run(stored, size)
    with stored.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("CHECKPOINT")  # a day lies between two runs: pages are logged whole once more

    def work() -> None:
        lease = open_lease(
            stored.engine,
            key,
            dagster_run_id=f"bench {key}",
            holder="bench",
            exchange=EXCHANGE,
            git_sha=None,
            clock=CLOCK,
        )
        lease.beat("raw_markets")
        writer = RunWriter(stored.engine, lease, CLOCK)
        report = writer.write(records, attempts)
        assert report.processed == size, report.failures[:3]
        digest = run_digest(stored.engine, key, NOW)
        writer.finish(RunCounts(size, 0, 0, 0, size), "completed", digest=digest)

    return work


def view(stored: Stored, where: str) -> Callable[[], object]:
    """The newest results that meet a condition."""
    day = LAST - timedelta(days=10)
    market = stored.ask(
        "SELECT min(market_id) FROM predictbench.processed_markets JOIN predictbench.processing_runs USING (run_id)"
        " WHERE run_date = :day",
        day=day,
    )
    query = text(f"SELECT * FROM predictbench.latest_experiment_results WHERE {where}")

    def work() -> None:
        with stored.engine.connect() as connection:
            values = {"day": day, "market": market}
            found = connection.execute(query, {name: values[name] for name in query.compile().params}).all()
        assert len(found) >= EXPERIMENTS

    return work


def sweep_of_few(stored: Stored) -> Callable[[], object]:
    """The statements of a sweep that looks at fifty markets and sees nothing new."""

    def work() -> None:
        queue = resolution_queue(stored.engine, NOW)[:50]
        pending = pending_markets(stored.engine, queue)
        seen = [Observation(one.market_id, state="open", closed_time=None) for one in pending if one.known]
        record_observations(stored.engine, seen, NOW)

    return work


# What the exchange would say: that is as it was of those that have settled, something of those that have closed since.
_SAID = text("""
    SELECT DISTINCT ON (m.market_id) m.market_id AS id, m.condition_id AS "conditionId", m.market_slug AS slug,
        m.question, m.close_time AS "endDate", of.outcomes::text, of.ids::text AS "clobTokenIds", now.closed,
        CASE WHEN now.closed THEN coalesce(newest.closed_time, m.close_time) END AS "closedTime",
        CASE WHEN now.closed THEN 'resolved' END AS "umaResolutionStatus",
        CASE WHEN NOT now.closed THEN '["0.4", "0.6"]' WHEN newest.outcome = 1 THEN '["1", "0"]' ELSE '["0", "1"]' END
            AS "outcomePrices"
    FROM predictbench.processed_markets m
    CROSS JOIN LATERAL (SELECT m.close_time <= :now AS closed) now
    CROSS JOIN LATERAL (
        SELECT jsonb_agg(name ORDER BY metadata->>'index') AS outcomes,
            jsonb_agg(contract_id ORDER BY metadata->>'index') AS ids
        FROM predictbench.processed_contracts c WHERE c.processed_market_id = m.processed_market_id
    ) of
    LEFT JOIN LATERAL (
        SELECT o.outcome, o.closed_time FROM predictbench.resolution_observations o
        WHERE o.market_id = m.market_id ORDER BY o.observed_at DESC LIMIT 1
    ) newest ON true
    WHERE m.market_id = ANY(:ids) ORDER BY m.market_id, m.captured_at""")


def whole_sweep(stored: Stored) -> Callable[[], object]:
    """A sweep of a day later over HTTP: what closed since is found settled, and what had settled is as it was."""
    now = stored.ask("SELECT max(checked_at) FROM predictbench.resolution_checks") + timedelta(days=1)
    with stored.engine.connect() as connection:
        rows = connection.execute(_SAID, {"ids": resolution_queue(stored.engine, now), "now": now}).all()
    clock, serving = FixedClock(now), ExitStack()
    base_url, clob_url = serving.enter_context(served(serve, [row._asdict() for row in rows], now))
    client = PolymarketClient(base_url, clob_url, clock=clock, requests_per_second=10_000)
    exchange = Polymarket(client, host=EXCHANGE, clock=clock)

    def work() -> None:
        with serving:
            swept = asyncio.run(sweep(exchange, stored.engine, clock, max_requests=20_000))
        assert swept.looked_at == len(rows), swept
        assert 0 < swept.became_final < swept.looked_at, swept
        assert not swept.problems, swept.problems

    return work


def serve(parent: Connection, rows: list[dict[str, Any]], now: datetime) -> None:
    """Run the exchange; its ready line goes to the parent."""
    run(Indexed(rows), port=0, now=now, announce=parent.send)


class Indexed(ReplayWorld):
    """Rows that are found by their condition at once: there are tens of thousands."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        super().__init__(rows)
        self._known = {one.condition_id: one for one in self.listed(0, None, None)}

    def find(self, *, condition_id: str = "", **others: str) -> Recorded | None:
        """The row with that identifier."""
        return self._known.get(condition_id) if condition_id else super().find(**others)


def export_day(stored: Stored) -> Callable[[], object]:
    """All tables of one day."""
    day = LAST - timedelta(days=10)

    def work() -> None:
        with tempfile.TemporaryDirectory() as name:
            export_tables(
                stored.engine, StagingArea(name, {}), since=day, until=day, format_="parquet", now=NOW, git_sha=None
            )

    return work


def prune_day(stored: Stored) -> Callable[[], object]:
    """The raw snapshots of the markets of one more day."""
    first = stored.ask(
        "SELECT min(target_date) FROM predictbench.processing_runs p WHERE EXISTS ("
        " SELECT FROM predictbench.processed_markets m WHERE m.run_id = p.run_id AND raw_snapshot IS NOT NULL)"
    )
    days = (NOW.date() - first).days - SETTLED_AFTER_DAYS - 1

    def work() -> None:
        area = StagingArea(str(stored.folder / "archive"), {})
        found = prune_raw_snapshots(stored.engine, area, now=NOW, days=days)
        assert found.count, "nothing was archived"

    return work


def verify(stored: Stored) -> Callable[[], object]:
    """The digest of a run that was written here."""
    day = stored.ask("SELECT max(run_date) FROM predictbench.processing_runs")

    def work() -> None:
        (found,) = check_digests(stored.engine, since=day, until=day)
        assert found.digests
        assert not found.problems, found.problems

    return work


def report(stored: Stored) -> Callable[[], object]:
    """The page of the newest board that is stored, with a page for each core market of the last 30 days."""

    def work() -> None:
        board = stored_leaderboard(stored.engine, NOW)
        if board is None:
            raise SystemExit("the page shows a stored board: measure `board` before it")
        write_report(
            stored.engine,
            stored.folder / "page",
            now=NOW,
            as_of=board.as_of,
            leaderboard=board,
            markets_since=LATELY,
        )

    return work


def published(engine: Engine) -> None:
    """The boards as they are published, stored."""
    since = Settings.model_construct().leaderboard_since(NOW)
    store_leaderboard(engine, rebuild_leaderboard(engine, NOW, since=since), NOW)


def same(action: Callable[[Engine], object]) -> Callable[[Stored], Callable[[], object]]:
    """Work that is the same each time."""
    return lambda stored: lambda: action(stored.engine)


@dataclass(frozen=True)
class Work:
    """Something that is measured."""

    name: str
    prepared: Callable[[Stored], Callable[[], object]]
    grows: str = ""
    """Why it takes longer the more is stored; empty where it should not."""
    rounds: int = 3
    beside: Literal["small", "year"] = "small"
    """The database that it is compared with."""


LATELY = LAST - timedelta(days=30)
WORKS = (
    Work("write 500", lambda stored: write(stored, 500), rounds=5),
    Work("write 2000", lambda stored: write(stored, 2_000)),
    Work("due", same(lambda engine: stored_runs(engine, LAST, LAST))),
    Work("view of a run", lambda stored: view(stored, "run_date = :day AND window_days = 7")),
    Work("view of a market", lambda stored: view(stored, "market_id = :market")),
    Work("resolve, few due", sweep_of_few),
    Work(
        "resolve, its report",
        same(lambda engine: settled_cohorts(engine, NOW, closed_for=timedelta(days=3), long_open=timedelta(days=14))),
        "a line for each run",
    ),
    Work("score, nothing due", same(lambda engine: (score_settled(engine, NOW), score_problems(engine)))),
    Work("verify a run", verify),
    Work("export a day", export_day),
    Work("prune a day", prune_day),
    Work("prune, list of snapshots", same(registered_snapshots), "a row for each run"),
    Work("settled_counts", same(lambda engine: settled_counts(engine, NOW)), beside="year"),
    Work("history", same(lambda engine: sum(1 for _ in settled_markets(engine, NOW))), beside="year"),
    Work(
        "settled_forecasts",
        same(lambda engine: sum(1 for _ in settled_forecasts(engine, "baseline_snapshot", "1", NOW, own=False))),
        beside="year",
    ),
    Work("board, last 30 days", same(lambda engine: rebuild_leaderboard(engine, NOW, since=LATELY))),
    Work("board", same(published), rounds=1, beside="year"),
    Work("page", report, rounds=1, beside="year"),
    Work("board of everything", same(lambda engine: rebuild_leaderboard(engine, NOW)), "every forecast", rounds=1),
    Work("resolve", whole_sweep, rounds=2),
)


def measure(work: Work, databases: Sequence[Stored]) -> dict[str, Any]:
    """The medians on each database, taken in turn; the first round warms caches and is not counted."""
    wall: dict[str, list[float]] = {stored.name: [] for stored in databases}
    cpu: dict[str, list[float]] = {stored.name: [] for stored in databases}
    for number in range(work.rounds + 1):
        for stored in databases:
            if number == 0 and work.rounds == 1:  # takes minutes: the disk's cache is a small part of it
                continue
            action = work.prepared(stored)
            before, began = stored.cpu(), time.monotonic()
            action()
            taken, used = time.monotonic() - began, stored.cpu() - before
            if number:
                wall[stored.name].append(taken)
                cpu[stored.name].append(used)
    found: dict[str, Any] = {"what": work.name, "grows": work.grows, "beside": databases[0].name}
    for kind, times in (("seconds", wall), ("cpu", cpu)):
        less, big = (round(statistics.median(times[stored.name]), 3) for stored in databases)
        found |= {f"{kind} less": less, f"{kind} big": big}
        found[f"{kind} ratio"] = round(max(big, LITTLE) / max(less, LITTLE), 2)
    return found


_SIZES = text("""
    SELECT c.relname AS name, coalesce(t.relname, c.relname) AS of, pg_relation_size(c.oid) AS bytes
    FROM pg_class c LEFT JOIN pg_index i ON i.indexrelid = c.oid LEFT JOIN pg_class t ON t.oid = i.indrelid
    WHERE c.relnamespace = 'predictbench'::regnamespace AND c.relkind IN ('r', 'i')
    UNION ALL
    SELECT c.relname || ' (toast)', c.relname, pg_total_relation_size(c.reltoastrelid)
    FROM pg_class c WHERE c.relnamespace = 'predictbench'::regnamespace AND c.relkind = 'r' AND c.reltoastrelid <> 0
    ORDER BY bytes DESC""")


def sizes(stored: Stored) -> list[dict[str, Any]]:
    """Bytes on disk of each table and index, and what that is for a market and a result."""
    with stored.engine.connect() as connection:
        rows = connection.execute(_SIZES).all()
        markets, results = (
            connection.execute(text(f"SELECT count(*) FROM predictbench.{table}")).scalar_one()
            for table in ("processed_markets", "experiment_results")
        )
    return [
        {
            "table": row.of,
            "name": row.name,
            "bytes": row.bytes,
            "a market": round(row.bytes / markets, 1),
            "a result": round(row.bytes / results, 1),
        }
        for row in rows
        if row.bytes > 100_000
    ]


def opened(folder: Path, name: str, days: int, markets: int) -> Stored:
    """A filled database, made unless it is there."""
    server = EmbeddedPostgres(folder / name)
    running = server.status().running
    filled = folder / f"{name}.filled"
    if not filled.exists():
        made = fill(server, copy_day(folder / "day", markets), days)
        filled.write_text(f"{made.days} days, {made.markets} markets a run")
        print(f"{name}: {made.results:,} results made in {made.seconds:.0f} s", flush=True)
    server.start()
    (folder / f"{name}-files").mkdir(exist_ok=True)
    engine = make_engine(server.url, pool_size=2, patience=Patience(3_600, "the limit of the benchmark"))
    return Stored(name, server, engine, folder / f"{name}-files", running)


def _shown(line: dict[str, Any], kind: str) -> str:
    return f"{line[f'{kind} less']:>9.3f}{line[f'{kind} big']:>9.3f} s{line[f'{kind} ratio']:>7.2f}"


def main() -> int:
    """Fill, measure, print, and fail when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="half a year of 100,000 results: to see that it works")
    parser.add_argument("--years", type=float, default=5)
    parser.add_argument("--results", type=int, default=2_500_000)
    parser.add_argument("--folder", type=Path, help="where the databases are, or stay")
    parser.add_argument("--only", action="append", help="only work whose name begins so (repeatable)")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    years, results = (0.5, 100_000) if options.quick else (options.years, options.results)
    days = round(years * 365.25)
    markets = max(results // (days * len(WINDOWS) * EXPERIMENTS), 10)
    missed = False
    with tempfile.TemporaryDirectory(prefix="pb-bench-") as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        of_days = {"small": SMALL_DAYS, "year": YEAR_DAYS, "big": days}
        if days <= YEAR_DAYS:
            del of_days["year"]
        databases = {name: opened(folder, name, of_days[name], markets) for name in of_days}
        lines: list[dict[str, Any]] = []
        try:
            for work in WORKS:
                if options.only and not any(work.name.startswith(name) for name in options.only):
                    continue
                less = databases.get(work.beside) or databases["small"]
                lines.append(line := measure(work, (less, databases["big"])))
                grows = work.grows or ("up to a year" if less.name != work.beside else "")
                met = grows or min(line["seconds ratio"], line["cpu ratio"]) <= GOAL
                missed |= not met
                verdict = f"grows: {grows}" if grows else "met" if met else "MISSED"
                shown = f"{_shown(line, 'seconds')}   cpu{_shown(line, 'cpu')}"
                print(f"{work.name:<24}{less.name:>6}{shown}   {verdict}", flush=True)
            for line in sizes(databases["big"])[:40]:
                print(f"{line['name']:<60}{line['bytes'] / 1e6:>10,.0f} MB {line['a market']:>9} {line['a result']:>7}")
        finally:
            for stored in databases.values():
                stored.engine.dispose()
                if not stored.others:
                    stored.server.stop()
    if options.json:
        options.json.write_text(json.dumps(lines, indent=1))
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
