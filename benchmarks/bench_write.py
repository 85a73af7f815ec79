"""How close the writer comes to the floor: a bare COPY of the same rows into the same tables.

    python benchmarks/bench_write.py [--quick] [--json FILE]

Three ways to store the same day, interleaved, medians of five: `copy` (the floor: one transaction, rows flattened and
ids computed beforehand, nothing checked, no rerun possible), `writer` (`RunWriter.write`, from domain objects, checks
and lease included), `executemany` (SQLAlchemy Core upserts, batches of 1,000, rows flattened beforehand). Each
starts on empty tables with a connection that is already open. Once straight, once through a proxy that holds every
byte back 20 ms each way. The server is the embedded one, with durable commits.
"""

import argparse
import asyncio
import json
import multiprocessing
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb
from sqlalchemy import Engine, Table, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import make_url

from predictbench_assets.clock import FixedClock
from predictbench_assets.database import migrations
from predictbench_assets.database.embedded import EmbeddedPostgres
from predictbench_assets.database.engine import make_engine
from predictbench_assets.database.schema import (
    events,
    experiment_results,
    experiment_run_id,
    processed_contracts,
    processed_markets,
)
from predictbench_assets.markets.market import Contract, Event, Market, MarketPrice
from predictbench_assets.persistence.leases import open_lease
from predictbench_assets.persistence.records import ExperimentAttempt, MarketRecord, ResultRecord
from predictbench_assets.persistence.rows import fast_id
from predictbench_assets.persistence.writer import RunWriter
from predictbench_assets.runs import RunKey

KEY = RunKey(date(2026, 2, 2), 7)
NOW = datetime(2026, 2, 2, 7, tzinfo=UTC)
CLOCK = FixedClock(NOW)
DELAY = 0.020
EXPERIMENTS = ("baseline_snapshot", "devigged_event", "uniform")
TABLES = (events, processed_markets, processed_contracts, experiment_results)
GOALS = {0: 1.25, 40: 1.5}


def make_day(size: int) -> list[MarketRecord]:
    """Markets whose raw rows are about as long and as compressible as real ones (5.9 KB), with three results each."""
    rng = random.Random(size)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(2_000)]

    def prose(count: int) -> str:
        return " ".join(rng.choices(words, k=count))

    return [_make_market(number, rng, prose) for number in range(size)]


def _make_market(number: int, rng: random.Random, prose: Callable[[int], str]) -> MarketRecord:
    price = round(rng.random(), 3)
    tokens = [str(rng.getrandbits(250)) for _ in range(2)]
    raw = {
        "id": str(500_000 + number),
        "question": prose(12),
        "slug": prose(8).replace(" ", "-"),
        "description": prose(250),
        "outcomes": '["Yes", "No"]',
        "outcomePrices": json.dumps([str(price), str(1 - price)]),
        "clobTokenIds": json.dumps(tokens),
        "events": [
            {"id": str(number // 4), "description": prose(250), **{f"eventField{n}": rng.random() for n in range(25)}}
        ],
        **{f"number{n}": rng.random() * 1e6 for n in range(25)},
        **{f"flag{n}": rng.random() < 0.5 for n in range(30)},
    }
    market = Market(
        market_id=str(500_000 + number),
        condition_id=f"0x{rng.getrandbits(256):064x}",
        slug=raw["slug"],
        question=raw["question"],
        description=raw["description"],
        contracts=tuple(
            Contract(contract_id=token, index=index, name=name, price=abs(index - price))
            for index, (token, name) in enumerate(zip(tokens, ("Yes", "No"), strict=True))
        ),
        event=Event(event_id=str(number // 4), slug=f"event-{number // 4}", title=f"Event {number // 4}"),
        category="sports",
        neg_risk=False,
        neg_risk_market_id=None,
        game_id=None,
        series_slug="series",
        group_item_title=None,
        group_item_threshold=None,
        cluster=f"event:{number // 4}",
        created_at=NOW,
        opened_at=NOW,
        close_time=KEY.start + timedelta(hours=12),
        volume=rng.random() * 1e6,
        volume_24h=None,
        liquidity=rng.random() * 1e4,
        price=MarketPrice(value=price, bid=price, ask=price, source="clob", quality="good", at=NOW),
        captured_at=NOW,
    )
    results = tuple(
        ResultRecord(
            experiment=name,
            status="completed",
            probability=price,
            probabilities=(price, 1 - price),
            payload={"question": market.question, "price": price, "note": prose(40)},
            diagnostics={"milliseconds": rng.random()},
            forecast_at=NOW,
        )
        for name in EXPERIMENTS
    )
    return MarketRecord(market, json.dumps(raw).encode(), results)


def _made(value: object) -> Jsonb:
    """JSON whose text is made now, not when it is sent."""
    return Jsonb(value if isinstance(value, bytes) else json.dumps(value).encode(), dumps=lambda encoded: encoded)


def flatten(day: Sequence[MarketRecord]) -> dict[str, list[dict[str, Any]]]:
    """The same rows as plain dictionaries, ids and JSON made, for the two strategies that only send."""
    rows: dict[str, list[dict[str, Any]]] = {table.name: [] for table in TABLES}
    seen = set()
    for record in day:
        market, price = record.market, record.market.price
        beginning = KEY.run_id.hex[:8]
        market_uuid = fast_id(KEY.run_id.bytes, f"market|{market.market_id}", beginning)
        namespace = UUID(market_uuid).bytes
        assert market.event is not None
        if market.event.event_id not in seen:
            seen.add(market.event.event_id)
            rows["events"].append(market.event.model_dump())
        same = ("market_id", "question", "close_time", "condition_id", "cluster", "category", "series_slug", "game_id")
        rows["processed_markets"].append(
            {name: getattr(market, name) for name in same}
            | {name: getattr(market, name) for name in ("neg_risk", "neg_risk_market_id", "captured_at", "volume")}
            | {name: getattr(market, name) for name in ("liquidity", "core", "core_weight")}
            | {
                "processed_market_id": market_uuid,
                "run_id": str(KEY.run_id),
                "market_slug": market.slug,
                "raw_snapshot": _made(record.raw),
                "processed_at": NOW,
                "event_id": market.event.event_id,
                "price": price.value,
                "bid": price.bid,
                "ask": price.ask,
                "spread": price.spread,
                "price_source": price.source,
                "price_at": price.at,
                "price_quality": price.quality,
                "snapshot_hash": None,
                "reconstructed": False,
                "withdrawn_at": None,
            }
        )
        rows["processed_contracts"].extend(
            {
                "processed_contract_id": fast_id(namespace, f"contract|{contract.contract_id}", beginning),
                "processed_market_id": market_uuid,
                "contract_id": contract.contract_id,
                "name": contract.name,
                "price": contract.price,
                "metadata": _made({"index": contract.index}),
            }
            for contract in market.contracts
        )
        for result in record.results:
            attempt = str(experiment_run_id(KEY.run_id, result.experiment, 1))
            rows["experiment_results"].append(
                {
                    "experiment_result_id": fast_id(namespace, f"result|{attempt}", beginning),
                    "experiment_run_id": attempt,
                    "processed_market_id": market_uuid,
                    "status": result.status,
                    "reason": None,
                    "exception_type": None,
                    "probability": result.probability,
                    "probabilities": _made(result.probabilities),
                    "payload": _made(result.payload),
                    "score": None,
                    "artifact_uri": None,
                    "diagnostics": _made(result.diagnostics),
                    "forecast_at": result.forecast_at,
                    "snapshot_hash": "s" * 64,
                    "config_hash": "c" * 64,
                }
            )
    return rows


def attempts() -> list[ExperimentAttempt]:
    """The three experiments, as their assets would report them."""
    shared = {"version": "1", "description": "d", "information": "market", "mandatory": False, "status": "completed"}
    hashes = {"content_hash": "a" * 64, "snapshot_hash": "s" * 64, "config_hash": "c" * 64}
    return [ExperimentAttempt(name=name, **shared, **hashes) for name in EXPERIMENTS]  # type: ignore[arg-type]


class Bench:
    """One server, seen straight or through the proxy."""

    def __init__(self, direct: Engine, engine: Engine) -> None:
        self.direct, self.engine = direct, engine

    def prepare(self) -> RunWriter:
        """Empty tables, a lease, the experiments' rows, an open connection; none of it is timed."""
        with self.direct.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("TRUNCATE predictbench.processing_runs, predictbench.events CASCADE"))
            connection.execute(text("CHECKPOINT"))
        lease = open_lease(
            self.engine,
            KEY,
            dagster_run_id=str(time.monotonic_ns()),
            holder="bench",
            exchange="bench",
            git_sha=None,
            clock=CLOCK,
        )
        return RunWriter(self.engine, lease, CLOCK)

    def writer(self, day: Sequence[MarketRecord], _: object) -> float:
        """Ours: everything that `write` does."""
        writer = self.prepare()
        begun = time.perf_counter()
        report = writer.write(day, attempts())
        spent = time.perf_counter() - begun
        assert report.processed == len(day), report.failures[:3]
        return spent

    def copy(self, _: object, rows: dict[str, list[dict[str, Any]]]) -> float:
        """The floor: COPY into the final tables in one transaction."""
        self.prepare().write([], attempts())
        with self.engine.connect() as pooled:
            connection: Any = pooled.connection.driver_connection
            begun = time.perf_counter()
            with connection.cursor() as cursor:
                for table in TABLES:
                    columns = list(rows[table.name][0])
                    with cursor.copy(f"COPY predictbench.{table.name} ({', '.join(columns)}) FROM STDIN") as stream:
                        for row in rows[table.name]:
                            stream.write_row(list(row.values()))
            connection.commit()
            return time.perf_counter() - begun

    def executemany(self, _: object, rows: dict[str, list[dict[str, Any]]]) -> float:
        """The peer: SQLAlchemy Core upserts, a transaction for every 1,000 markets."""
        self.prepare().write([], attempts())
        begun = time.perf_counter()
        for table in TABLES:
            statement = _upsert(table)
            values = [
                {name: json.loads(value.obj) if isinstance(value, Jsonb) else value for name, value in row.items()}
                for row in rows[table.name]
            ]
            for start in range(0, len(values), 1_000):
                with self.engine.begin() as connection:
                    connection.execute(statement, values[start : start + 1_000])
        return time.perf_counter() - begun


def _upsert(table: Table) -> Any:
    statement = insert(table)
    key = [column.name for column in table.primary_key]
    changes = {column.name: statement.excluded[column.name] for column in table.columns if column.name not in key}
    return statement.on_conflict_do_update(index_elements=key, set_=changes)


def proxy(upstream: str, listen: str) -> None:
    """Hold every byte back for a while, in both directions, without limiting how many are on their way."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        async def deliver() -> None:
            while True:
                due, data = await queue.get()
                await asyncio.sleep(max(0.0, due - loop.time()))
                if not data:
                    writer.close()
                    return
                writer.write(data)
                await writer.drain()

        task = asyncio.create_task(deliver())
        while data := await reader.read(1 << 18):
            queue.put_nowait((loop.time() + DELAY, data))
        queue.put_nowait((loop.time() + DELAY, b""))
        await task

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_unix_connection(upstream, limit=1 << 20)
        await asyncio.gather(pump(reader, up_writer), pump(up_reader, writer), return_exceptions=True)

    async def serve() -> None:
        server = await asyncio.start_unix_server(accept, listen, limit=1 << 20)
        await server.serve_forever()

    asyncio.run(serve())


@contextmanager
def benches() -> Iterator[dict[int, Bench]]:
    """A server, straight (0) and through 40 ms of round trip (40)."""
    with tempfile.TemporaryDirectory(prefix="pb-bench-") as name, EmbeddedPostgres(Path(name) / "pg") as server:
        folder = Path(name)
        migrations.upgrade(server.url)
        url = make_url(server.url)
        upstream = f"{url.query['host']}/.s.PGSQL.5432"
        (folder / "slow").mkdir()
        relay = multiprocessing.get_context("spawn").Process(
            target=proxy, args=(upstream, str(folder / "slow" / ".s.PGSQL.5432")), daemon=True
        )
        relay.start()
        deadline = time.monotonic() + 20
        while not (folder / "slow" / ".s.PGSQL.5432").exists():
            if time.monotonic() > deadline:
                raise TimeoutError("the proxy does not come up")
            time.sleep(0.05)
        direct = make_engine(url)
        slow = make_engine(url.update_query_dict({"host": str(folder / "slow")}))
        try:
            yield {0: Bench(direct, direct), 40: Bench(direct, slow)}
        finally:
            direct.dispose()
            slow.dispose()
            relay.terminate()
            relay.join()


def measure(sizes: Sequence[int], rounds: int, peer: bool) -> list[dict[str, Any]]:
    """Medians of every strategy, size and latency."""
    found = []
    with benches() as by_latency:
        for size in sizes:
            day = make_day(size)
            rows = flatten(day)
            for latency, bench in by_latency.items():
                strategies = ["copy", "writer", *(["executemany"] if peer else [])]
                seconds: dict[str, list[float]] = {name: [] for name in strategies}
                for number in range(rounds):
                    for name in strategies if number % 2 == 0 else reversed(strategies):
                        seconds[name].append(getattr(bench, name)(day, rows))
                medians = {name: statistics.median(values) for name, values in seconds.items()}
                found += [
                    {
                        "markets": size,
                        "latency_ms": latency,
                        "strategy": name,
                        "median_s": round(median, 3),
                        "times_copy": round(median / medians["copy"], 3),
                        "runs_s": [round(value, 3) for value in seconds[name]],
                    }
                    for name, median in medians.items()
                ]
                for line in found[-len(strategies) :]:
                    print(
                        f"{line['markets']:>7,} markets  {latency:>2} ms  {line['strategy']:<12}"
                        f"{line['median_s']:>8.2f} s  {line['times_copy']:>5.2f} x COPY",
                        flush=True,
                    )
    return found


def main() -> int:
    """Run, print, and fail when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="1,000 markets, one round: to see that it works")
    parser.add_argument("--no-peer", action="store_true", help="leave SQLAlchemy's executemany out")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=[5_000, 20_000])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    sizes, rounds = ([1_000], 1) if options.quick else (options.sizes, options.rounds)
    found = measure(sizes, rounds, not options.no_peer)
    text_form = json.dumps(found, indent=1)
    if options.json:
        options.json.write_text(text_form)
    else:
        print(text_form)
    missed = [line for line in found if line["strategy"] == "writer" and line["times_copy"] > GOALS[line["latency_ms"]]]
    for line in missed if not options.quick else []:
        print(f"missed: {line['times_copy']} x COPY, the goal is {GOALS[line['latency_ms']]}", file=sys.stderr)
    return 1 if missed and not options.quick else 0


if __name__ == "__main__":
    sys.exit(main())
