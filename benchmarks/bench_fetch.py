"""How long it takes to list a day: our slices side by side against one chain of pages, at 100 ms a request.

Three days of 100 pages: end times spread evenly, 80 % at one instant (which no slice can split), and most at midnight
and noon, as on real days (where the margin of the window also takes in the next midnight). The sandbox exchange serves
them from a process of its own. Our figure includes the second walk of one slice. Both sides keep to the default
limits.

    python benchmarks/bench_fetch.py [--quick] [--json FILE]
"""

import argparse
import asyncio
import json
import multiprocessing
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from datetime import time as time_of_day
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from predictbench_assets.clock import SystemClock
from predictbench_assets.exchanges.polymarket.client import PolymarketClient
from predictbench_assets.sandbox.faults import Faults
from predictbench_assets.sandbox.server import run
from predictbench_assets.sandbox.world import World

NOW = datetime(2026, 11, 23, 7, tzinfo=UTC)
START = datetime(2026, 11, 30, tzinfo=UTC)
GOAL = 0.3
DAYS: dict[str, dict[str, Any]] = {
    "uniform": {"concentration": 0.0},
    "80 % at one instant": {"concentration": 0.8, "instants": (time_of_day(12),)},
    "75 % at midnight and noon": {"concentration": 0.75},
}


def main() -> None:
    """Measure, print a table, and write the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20 pages, once")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    markets, repeats = (2_000, 1) if options.quick else (10_000, 5)

    figures = {name: measure(markets, repeats, **day) for name, day in DAYS.items()}
    print(f"{markets} markets, 100 ms a request, medians of {repeats}")
    print(f"{'day':28}{'one chain':>12}{'ours':>9}{'ratio':>8}{'requests':>10}{'throttled':>11}")
    for name, each in figures.items():
        print(
            f"{name:28}{each['chain_s']:>10.2f} s{each['ours_s']:>7.2f} s{each['ratio']:>8.2f}"
            f"{each['ours_api']['requests']:>10}{each['ours_api']['throttle_seconds']:>9.1f} s"
        )
    met = figures["uniform"]["ratio"] <= GOAL
    print(f"goal: uniform within {GOAL} of one chain: {'met' if met else 'MISSED'}")
    if options.json:
        options.json.write_text(json.dumps({"markets": markets, "repeats": repeats, "days": figures}, indent=2))


def measure(markets: int, repeats: int, **day: Any) -> dict[str, Any]:
    """Medians of one chain and of ours, taken in turn."""
    chain, ours = [], []
    with exchange(markets, day) as (base_url, clob_url):
        asyncio.run(walk(base_url, clob_url, recheck=False, slices=1, concurrency=8))  # builds the exchange's day
        for repeat in range(repeats):
            chain.append(asyncio.run(walk(base_url, clob_url, recheck=False, slices=1, concurrency=1)))
            ours.append(asyncio.run(walk(base_url, clob_url, recheck=True, rng=random.Random(repeat))))
    rows = {found for _, found, _ in (*chain, *ours)}
    if len(rows) != 1:
        raise SystemExit(f"the two ways read different days: {rows} rows")
    seconds = [statistics.median(taken for taken, _, _ in side) for side in (chain, ours)]
    return {"chain_s": seconds[0], "ours_s": seconds[1], "ratio": seconds[1] / seconds[0], "ours_api": ours[-1][2]}


async def walk(base_url: str, clob_url: str, *, recheck: bool, **options: Any) -> tuple[float, int, dict[str, Any]]:
    """Seconds, rows and figures of one walk with a fresh client, and so a fresh budget of requests."""
    async with PolymarketClient(base_url, clob_url, clock=SystemClock(), **options) as client:
        began = time.monotonic()
        found = await client.fetch_window(START, START + timedelta(days=1), recheck=recheck)
        return time.monotonic() - began, len(found.rows), found.stats.as_dict()


def exchange(markets: int, day: dict[str, Any], *, latency_ms: float = 100) -> AbstractContextManager[tuple[str, str]]:
    """A sandbox in a process of its own: its addresses."""
    return served(serve, markets, day, latency_ms)


@contextmanager
def served(serve: Callable[..., None], *arguments: Any) -> Iterator[tuple[str, str]]:
    """An exchange in a process of its own, which is not counted: its addresses.

    Args:
        serve: runs it there, and sends its ready line over the connection that it is given before the arguments.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs, *arguments), daemon=True)
    process.start()
    try:
        _, _, base_url, _, clob_url, *_ = ours.recv().split()
        yield base_url, clob_url
    finally:
        process.terminate()
        process.join()


def serve(parent: Connection, markets: int, day: dict[str, Any], latency_ms: float) -> None:
    """Run the sandbox; its ready line goes to the parent."""
    run(
        World(markets_per_day=markets, **day),
        port=0,
        now=NOW,
        faults=Faults(latency_ms=latency_ms),
        announce=parent.send,
    )


if __name__ == "__main__":
    main()
