"""What prices of a day before and our own limits cost: a day's run with the defaults against one without either.

Two comparisons, each side in turn, medians of the repetitions:

- run: `predictbench daily`'s job over 5,000 markets as it is by default, against the same without price histories and
  without a limit on requests (goal: at most 1.25 times its wall time);
- raw_markets: what the asset reads (listing, second walk of a slice, quotes, histories) with the defaults, against the
  bare walk of the listing, at some delay per request (goal: at most 3 times).

    python benchmarks/bench_limits.py [--runs 3] [--markets 5000] [--latency 100] [--quick] [--json FILE]
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from bench_daily import WINDOW, Bench, commands, run
from bench_fetch import NOW, exchange

from predictbench_assets.clock import FixedClock, SystemClock
from predictbench_assets.exchanges.polymarket.capture import capture
from predictbench_assets.exchanges.polymarket.client import PolymarketClient
from predictbench_assets.runs import RunKey

RUN_GOAL, WALK_GOAL = 1.25, 3.0
WITHOUT = {"POLYMARKET_PRICE_HISTORY": "false", "POLYMARKET_REQUESTS_PER_SECOND": "100000"}


def measure_runs(markets: int, runs: int) -> Mapping[str, float]:
    """Median seconds of a day's run with the defaults (`run`) and without histories and limits (`without`)."""
    key = RunKey(datetime.now(UTC).date(), WINDOW)
    with tempfile.TemporaryDirectory(prefix="pb-bench-") as name:
        bench = Bench(Path(name), markets)
        try:
            daily = commands(Path(name), key)["daily"]
            seconds: dict[str, list[float]] = {"run": [], "without": []}
            for repetition in range(runs + 1):  # the first builds the exchange's day and is not counted
                for side, more in (("run", {}), ("without", WITHOUT)):
                    taken = run(daily, {**bench.environment(), **more}).wall_s
                    if repetition:
                        seconds[side].append(taken)
        finally:
            bench.close()
    return {side: statistics.median(taken) for side, taken in seconds.items()}


def measure_reading(markets: int, runs: int, latency_ms: float) -> Mapping[str, float]:
    """Median seconds of what `raw_markets` reads, and of the bare walk."""
    seconds: dict[str, list[float]] = {"raw_markets": [], "walk": []}
    with exchange(markets, {}, latency_ms=latency_ms) as (base_url, clob_url):
        for repetition in range(runs + 1):
            for side, work in (("raw_markets", read_all), ("walk", read_listing)):
                taken = asyncio.run(work(base_url, clob_url))
                if repetition:
                    seconds[side].append(taken)
    return {side: statistics.median(taken) for side, taken in seconds.items()}


async def read_all(base_url: str, clob_url: str) -> float:
    """Seconds of a capture with a fresh client of the defaults, and so fresh limits."""
    client = PolymarketClient(base_url, clob_url, clock=SystemClock())
    began = time.monotonic()
    key = RunKey(NOW.date(), WINDOW)
    captured = await capture(client, key.start, key.end, FixedClock(NOW))
    taken = time.monotonic() - began
    if captured.quotes.reason or captured.past_prices.reason or not captured.past_prices.by_token:
        raise SystemExit(f"not all was read: {captured.quotes.reason}, {captured.past_prices.reason}")
    return taken


async def read_listing(base_url: str, clob_url: str) -> float:
    """Seconds of the walk alone."""
    key = RunKey(NOW.date(), WINDOW)
    async with PolymarketClient(base_url, clob_url, clock=SystemClock()) as client:
        began = time.monotonic()
        await client.fetch_window(key.start, key.end, recheck=False, probe=False)
        return time.monotonic() - began


def main() -> None:
    """Measure, print, and write the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="counted repetitions")
    parser.add_argument("--markets", type=int, default=5_000, help="markets of the day")
    parser.add_argument("--latency", type=float, default=100, help="milliseconds of each request, of raw_markets")
    parser.add_argument("--quick", action="store_true", help="one repetition of a small day")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    options = parser.parse_args()
    if options.quick:
        options.runs, options.markets = 1, min(options.markets, 1_000)
    reading = measure_reading(options.markets, options.runs, options.latency)
    runs = measure_runs(options.markets, options.runs)
    figures = {**runs, **reading}
    figures["run_ratio"] = runs["run"] / runs["without"]
    figures["reading_ratio"] = reading["raw_markets"] / reading["walk"]
    print(f"{options.markets:,} markets, medians of {options.runs}")
    print(f"run {runs['run']:.2f} s, without histories and limits {runs['without']:.2f} s", end=": ")
    print(f"{figures['run_ratio']:.2f}   goal: at most {RUN_GOAL:.2f}")
    print(f"raw_markets {reading['raw_markets']:.2f} s, bare walk {reading['walk']:.2f} s", end=" ")
    print(f"at {options.latency:g} ms a request: {figures['reading_ratio']:.2f}   goal: at most {WALK_GOAL:.2f}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
