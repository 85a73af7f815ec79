"""What the boards cost: a million forecasts, all strata, clustered intervals, the bootstrap; beside a plain loop.

    python benchmarks/bench_score.py [--quick] [--json FILE]

Ten entrants forecast 100,000 markets in 20,000 clusters, over 60 days and two windows, 10 categories and 7 price bins,
each with a few forecasts missing. `build_leaderboard` makes every board of it in a fresh process, whose peak memory is
taken. The loop does a small part of the same in plain Python: scores, the clustered interval and 2,000 bootstrap draws
of the skill, over all markets at once. It is run for one entrant and 20 draws, and scaled up to all entrants and draws;
what it would need for categories, price bins, curves and comparisons is left out.
"""

import argparse
import json
import math
import multiprocessing
import random
import resource
import sys
import time
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from predictbench_assets.scoring.build import build_leaderboard
from predictbench_assets.scoring.forecasts import Cohorts, Entrant, Forecasts
from predictbench_assets.scoring.intervals import DRAWS

ENTRANTS, MARKETS, CLUSTERS = 10, 100_000, 20_000
GOAL_SECONDS, GOAL_MB = 60.0, 2_048.0
LOOP_DRAWS = 20


def make_forecasts(markets: int, clusters: int) -> Forecasts:
    """A world of clusters, most of them small, that span categories and days as events do not."""
    rng = np.random.default_rng(1)
    day = np.sort(rng.integers(0, 60, markets))
    run_date = np.datetime64("2026-01-01") + day.astype("timedelta64[D]")
    window = rng.choice([7, 30], markets)
    truth = rng.beta(0.7, 1.2, markets)
    outcome = (rng.random(markets) < truth) * 1.0
    outcome[rng.random(markets) < 0.02] = np.nan
    price = np.clip(truth + rng.normal(0, 0.04, markets), 0.001, 0.999)
    cohorts = Cohorts(
        market_id=np.array([str(number) for number in range(markets)], np.object_),
        run_date=run_date,
        window_days=window,
        end_date=run_date + window.astype("timedelta64[D]"),
        as_of=run_date,
        category=np.array([f"category {n}" for n in range(10)], np.object_)[rng.integers(0, 10, markets)],
        cluster=rng.permutation(np.r_[np.arange(clusters), rng.integers(0, clusters, markets - clusters)]),
        price=price,
        good=np.ones(markets, np.bool_),
        core=rng.random(markets) < 0.2,
        reconstructed=np.zeros(markets, np.bool_),
        final=~np.isnan(outcome),
        outcome=outcome,
    )
    errors = np.linspace(0.01, 0.2, ENTRANTS)[:, None]
    said = np.clip(truth + rng.normal(0, 1, (ENTRANTS, markets)) * errors, 0.0, 1.0)
    said[rng.random(said.shape) < 0.01] = np.nan
    said[0] = price
    entrants = tuple(
        Entrant(f"entrant {n}", "1", "market", control=n == ENTRANTS - 1, reference=n == 0) for n in range(ENTRANTS)
    )
    nothing = np.full(said.shape, np.nan)
    return Forecasts(
        datetime(2026, 11, 23, tzinfo=UTC), cohorts, entrants, said, nothing, np.zeros(said.shape, np.bool_)
    )


def vectorised(parent: Connection, markets: int, clusters: int) -> None:
    """Send seconds, those of a processor, rows, and the peak memory of this process in MB: before, and after."""
    forecasts = make_forecasts(markets, clusters)
    before = peak_mb()
    began, worked = time.monotonic(), time.process_time()
    leaderboard = build_leaderboard(forecasts)
    taken = time.monotonic() - began, time.process_time() - worked
    parent.send((*taken, len(leaderboard.rows), before, peak_mb()))


def peak_mb() -> float:
    """Of this process, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << (20 if sys.platform == "darwin" else 10))


def plain_loop(forecasts: Forecasts, draws: int) -> tuple[float, float]:
    """Seconds for one entrant: scores and clustered interval; and so many bootstrap draws."""
    cohorts = forecasts.cohorts
    columns = (forecasts.probability[1], cohorts.price, cohorts.outcome, cohorts.cluster)
    rows = list(zip(*(column.tolist() for column in columns), strict=True))
    began = time.perf_counter()
    by_cluster: dict[int, list[tuple[float, float]]] = {}
    losses = []
    for f, m, y, cluster in rows:
        if f != f or y != y:
            continue
        held = min(max(f, 0.001), 0.999)
        losses.append(-(y * math.log(held) + (1 - y) * math.log(1 - held)))
        by_cluster.setdefault(cluster, []).append(((f - y) ** 2, (m - y) ** 2))
    n = len(losses)
    mean = sum(theirs - ours for members in by_cluster.values() for ours, theirs in members) / n
    squares = sum(sum(theirs - ours - mean for ours, theirs in members) ** 2 for members in by_cluster.values())
    math.sqrt(len(by_cluster) / (len(by_cluster) - 1) * squares) / n
    scored = time.perf_counter()
    rng = random.Random(1)
    sums = [(sum(ours for ours, _ in each), sum(theirs for _, theirs in each)) for each in by_cluster.values()]
    skills = []
    for _ in range(draws):
        own = market = 0.0
        for ours, theirs in rng.choices(sums, k=len(sums)):
            own += ours
            market += theirs
        skills.append(1 - own / market)
    skills.sort()
    return scored - began, time.perf_counter() - scored


def measure(markets: int, clusters: int) -> dict[str, Any]:
    """Both ways."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=vectorised, args=(theirs, markets, clusters))
    process.start()
    theirs.close()
    try:
        seconds, worked, rows, before, peak = ours.recv()
    except EOFError:
        raise SystemExit("the process that makes the boards died") from None
    finally:
        process.join()
    scores, drawing = plain_loop(make_forecasts(markets, clusters), LOOP_DRAWS)
    loop = (scores + drawing * DRAWS / LOOP_DRAWS) * ENTRANTS
    return {
        "entrants": ENTRANTS,
        "markets": markets,
        "clusters": clusters,
        "rows": rows,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(worked, 2),
        "input_mb": round(before),
        "peak_mb": round(peak),
        "loop_seconds_scaled": round(loop, 1),
        "loop_ratio": round(loop / seconds, 1),
    }


def main() -> int:
    """Run, print, and fail when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="2,000 markets: to see that it works")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = measure(*((2_000, 400) if options.quick else (MARKETS, CLUSTERS)))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    print(
        f"{ENTRANTS} entrants x {found['markets']:,} markets, {found['clusters']:,} clusters: {found['rows']} rows in "
        f"{found['seconds']} s ({found['cpu_seconds']} s of processors), peak {found['peak_mb']} MB "
        f"({found['input_mb']} MB before)\n"
        f"plain loop, not cut at all, scaled from one entrant and {LOOP_DRAWS} draws: "
        f"{found['loop_seconds_scaled']} s, {found['loop_ratio']} times as long"
    )
    met = found["seconds"] <= GOAL_SECONDS and found["peak_mb"] <= GOAL_MB
    print(f"goal: {GOAL_SECONDS:.0f} s and {GOAL_MB:,.0f} MB: {'met' if met else 'MISSED'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
