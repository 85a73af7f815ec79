"""What a day would take past one machine: a simulation from constants that were measured on one.

    python benchmarks/simulate_scale.py [--markets N] [--quantitative N] [--models N] [--shards N] [--workers N]
        [--call-seconds S] [--at-once N] [--calls-per-second R] [--requests-per-second R] [--seed N] [--json]

The day is the asset graph: the snapshot is captured at the exchange's rate limit, read, forecast and written. Workers
(one core each) take the shards of the experiments as they become free. A quantitative shard costs processor time for
each of its markets; a shard of a language model waits for calls, so many at once, whose seconds are drawn from a
log-normal distribution, and the provider answers no more calls a second than its limit. The constants are those of
`docs/scale.md`, which says what each was measured with; options change what is yours: limits, prices, machines.

The last column of the output says what a stage waits for: what is worth buying, or asking for, first.
"""

import argparse
import heapq
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np

SPREAD = 0.5
"""Standard deviation of the logarithm of a call's seconds: one call in a hundred takes three times the median."""


@dataclass(frozen=True)
class Constants:
    """Figures of one core of the machine that `docs/scale.md` names: seconds, requests and bytes."""

    start_s: float = 2.1
    """A cold command until its first step."""
    requests_per_market: float = 0.065
    capture_s: float = 0.00011
    """Processor seconds a market, without waiting for the exchange."""
    normalise_s: float = 0.00009
    inline_s: float = 0.05
    """A step in the process of the run, which all are where there is one worker."""
    step_s: float = 3.0
    """A step on a step-delegating executor: its process, imports and the event log."""
    decode_s: float = 0.00003
    """A cohort is decoded once in each step's process, a shard's included."""
    quantitative_s: float = 0.000035
    call_s: float = 0.0027
    """Processor seconds around one call of a language model: prompt, ledger, journal."""
    write_market_s: float = 0.0002
    write_result_s: float = 0.00003
    market_bytes: float = 2_700
    """With contracts and observations; its raw snapshot takes 3,600 more for as long as it is kept."""
    result_bytes: float = 690
    """With its score."""
    staged_bytes: float = 3_700
    peak_bytes: float = 11_000
    """Memory of the largest step a market, beside what the process has at its start."""
    process_bytes: float = 134e6


@dataclass(frozen=True)
class Plan:
    """A day: how much is forecast, and with what."""

    markets: int
    quantitative: int
    models: int
    shards: int
    workers: int
    call_seconds: float
    at_once: int
    calls_per_second: float
    requests_per_second: float
    dollars_per_call: float
    seed: int


class Stage(NamedTuple):
    """A stage of the simulated day; instants in seconds since the start."""

    name: str
    begins: float
    ends: float
    processor_s: float
    waits_for: str


def simulate(plan: Plan, of: Constants) -> list[Stage]:
    """The stages of a day, in order.

    Args:
        plan: the day.
        of: the constants.
    """
    asked, captured = plan.markets * of.requests_per_market / plan.requests_per_second, plan.markets * of.capture_s
    at = of.start_s + max(asked, captured)
    waits = "the exchange's rate limit" if asked > captured else "one core"
    stages = [Stage("raw_markets", of.start_s, at, captured, waits)]
    read = plan.markets * of.normalise_s
    stages.append(Stage("normalized_markets", at, at + read, read, "one core"))
    at += read
    stages.extend(_forecast(plan, of, at))
    at = max(stage.ends for stage in stages)
    written = plan.markets * (of.write_market_s + of.write_result_s * (plan.quantitative + plan.models))
    stages.append(Stage("persisted_run", at, at + written, written, "one writer of the database"))
    return stages


def _forecast(plan: Plan, of: Constants, begins: float) -> Iterator[Stage]:
    """The experiments: shards taken by the workers in turn, the longest kind first."""
    numbers = np.random.default_rng(plan.seed)
    own = math.ceil(plan.markets / plan.shards)
    # In one process the cohort is decoded once.
    fixed = of.inline_s if plan.workers == 1 else of.step_s + plan.markets * of.decode_s
    free = [begins] * plan.workers
    heapq.heapify(free)
    answered = begins  # when the provider has answered all calls that were handed to it
    ends = {"models": begins, "quantitative": begins}
    busy = dict.fromkeys(ends, 0.0)
    limited = 0.0
    for kind, shards in (("models", plan.models * plan.shards), ("quantitative", plan.quantitative * plan.shards)):
        for _ in range(shards):
            start = heapq.heappop(free)
            if kind == "models":
                called, core = _calls(plan, own, numbers), own * of.call_s
                answered = max(answered, start) + own / plan.calls_per_second
                alone = start + fixed + max(called, core)
                end = max(alone, answered)
                limited += end - alone
            else:
                core = own * of.quantitative_s
                end = start + fixed + core
            busy[kind] += fixed + core
            ends[kind] = max(ends[kind], end)
            heapq.heappush(free, end)
    if plan.models:
        waits = "the provider's rate limit" if limited > 0 else "answers: more shards, more workers"
        yield Stage("language models", begins, ends["models"], busy["models"], waits)
    if plan.quantitative:
        yield Stage("quantitative", begins, ends["quantitative"], busy["quantitative"], "workers")


def _calls(plan: Plan, calls: int, numbers: np.random.Generator) -> float:
    """Seconds that so many calls take, `at_once` at a time.

    Past 10,000 calls their mean is as good as their sum: only the first 10,000 are drawn.
    """
    drawn = numbers.lognormal(math.log(plan.call_seconds), SPREAD, min(calls, 10_000))
    slots = [0.0] * plan.at_once
    for seconds in drawn:
        heapq.heapreplace(slots, slots[0] + float(seconds))
    return max(slots) * calls / len(drawn) if calls else 0.0


def totals(plan: Plan, of: Constants, stages: list[Stage]) -> dict[str, float]:
    """The day in sum: hours, requests, calls, dollars, gigabytes."""
    results = plan.markets * (plan.quantitative + plan.models)
    stored = plan.markets * of.market_bytes + results * of.result_bytes
    return {
        "hours": max(stage.ends for stage in stages) / 3600,
        "processor hours": sum(stage.processor_s for stage in stages) / 3600,
        "requests to the exchange": plan.markets * of.requests_per_market,
        "model calls": plan.markets * plan.models,
        "dollars for models": plan.markets * plan.models * plan.dollars_per_call,
        "results": results,
        "GB in the database a day": stored / 1e9,
        "GB in the database a year": stored * 365 / 1e9,
        "GB staged a day": plan.markets * of.staged_bytes / 1e9,
        "GB of memory, largest step": (of.process_bytes + plan.markets * of.peak_bytes) / 1e9,
    }


def main() -> None:
    """Print a simulated day."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markets", type=int, default=1_000_000, help="markets of the day")
    parser.add_argument("--quantitative", type=int, default=90, help="experiments that only compute")
    parser.add_argument("--models", type=int, default=10, help="experiments that call a language model a market")
    parser.add_argument("--shards", type=int, default=16, help="shards of each experiment")
    parser.add_argument("--workers", type=int, default=64, help="steps at once, a core each")
    parser.add_argument("--call-seconds", type=float, default=2.0, help="median seconds of a call")
    parser.add_argument("--at-once", type=int, default=64, help="calls at once in each shard")
    parser.add_argument("--calls-per-second", type=float, default=500.0, help="limit of the provider, over all models")
    parser.add_argument("--requests-per-second", type=float, default=10.0, help="limit at the exchange")
    parser.add_argument("--dollars-per-call", type=float, default=0.0005)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = vars(parser.parse_args())
    as_json = options.pop("json")
    if too_small := [
        name for name, value in options.items() if name not in ("quantitative", "models", "seed") and value <= 0
    ]:
        parser.error(f"--{too_small[0].replace('_', '-')} must be above 0")
    plan, constants = Plan(**options), Constants()
    stages = simulate(plan, constants)
    found = totals(plan, constants, stages)
    if as_json:
        print(
            json.dumps({"plan": asdict(plan), "stages": [one._asdict() for one in stages], "totals": found}, indent=1)
        )
        return
    print(f"{'stage':20}{'begins':>12}{'ends':>12}{'core hours':>12}  waits for")
    for stage in stages:
        begins, ends = (f"{at / 3600:.2f} h" for at in (stage.begins, stage.ends))
        print(f"{stage.name:20}{begins:>12}{ends:>12}{stage.processor_s / 3600:>12.2f}  {stage.waits_for}")
    print()
    for name, value in found.items():
        print(f"{name:28}{value:>18,.2f}")


if __name__ == "__main__":
    main()
