"""How long a language model's forecasts take: over desk and ledger, against a plain loop of the provider's client.

The stand-in model answers after two seconds, from a process of its own; both sides have 64 requests under way, and both
ask the same model for the same answers. The ideal is what the answers themselves take.

    python benchmarks/bench_calls.py [--quick] [--json FILE]
"""

import argparse
import asyncio
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import ceil
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import openai

from predictbench_assets.clock import SystemClock
from predictbench_assets.database import migrations
from predictbench_assets.database.embedded import EmbeddedPostgres
from predictbench_assets.database.engine import make_engine
from predictbench_assets.experiments.forecast import ledger_of
from predictbench_assets.experiments.llm.answers import Answer
from predictbench_assets.experiments.llm.language_model import LanguageModelTable
from predictbench_assets.experiments.llm.prompts import market_prompt
from predictbench_assets.experiments.runner import run_experiment_sync
from predictbench_assets.experiments.testing import make_context, make_market, make_run
from predictbench_assets.sandbox.models.server import Settings as ModelSettings
from predictbench_assets.sandbox.models.server import StandIn
from predictbench_assets.sandbox.models.server import run as run_models
from predictbench_assets.settings import load_settings
from predictbench_assets.staging import StagingArea

CONCURRENCY = 64
SECONDS = 2.0
GOAL = 1.15


def main() -> None:
    """Measure, print a table, and write the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="256 forecasts")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    markets = 256 if options.quick else 1_000

    ideal = ceil(markets / CONCURRENCY) * SECONDS
    with stand_in() as base_url, tempfile.TemporaryDirectory() as folder:
        plain, plain_ms = timed(lambda: asyncio.run(plain_loop(base_url, markets)), markets)
        before = peak_mb()
        ours, ours_ms = timed(lambda: over_the_desk(base_url, Path(folder), markets), markets)
        grown = peak_mb() - before
    figures = {"markets": markets, "ideal_s": ideal, "plain_s": plain, "ours_s": ours, "grown_mb": grown}
    figures |= {"plain_cpu_ms": plain_ms, "ours_cpu_ms": ours_ms}
    print(f"{markets:,} forecasts of {SECONDS:g} s, {CONCURRENCY} at once")
    for name in ("ideal", "plain", "ours"):
        print(f"{name:8}{figures[f'{name}_s']:>8.2f} s{figures[f'{name}_s'] / ideal:>8.3f} x ideal")
    print(f"processor time of a forecast: plain {plain_ms:.1f} ms, ours {ours_ms:.1f} ms (with the start of both)")
    print(f"memory: {grown:.0f} MB more than before")
    met = ours <= GOAL * ideal
    print(f"goal: within {GOAL} of the ideal: {'met' if met else 'MISSED'}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))


def timed(run: Callable[[], float], markets: int) -> tuple[float, float]:
    """Its own seconds, and the milliseconds of this process's processor time for each forecast."""
    began = time.process_time()
    return run(), 1_000 * (time.process_time() - began) / markets


async def plain_loop(base_url: str, markets: int) -> float:
    """Seconds of the provider's own client with nothing around it; the answers are thrown away."""
    waiting = iter([market_prompt(make_market(str(n)), make_context(str(n)), prices=False) for n in range(markets)])
    form = {"type": "json_schema", "json_schema": {"name": "forecast", "strict": True, "schema": Answer().schema}}

    async with openai.AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0) as client:

        async def work() -> None:
            for instructions, prompt in waiting:
                await client.chat.completions.create(
                    model="stand-in",
                    messages=[{"role": "system", "content": instructions}, {"role": "user", "content": prompt}],
                    response_format=form,  # type: ignore[arg-type]
                    max_completion_tokens=8_000,
                )

        began = time.monotonic()
        await asyncio.gather(*(work() for _ in range(CONCURRENCY)))
        return time.monotonic() - began


def over_the_desk(base_url: str, folder: Path, markets: int) -> float:
    """Seconds of the experiment, with rows in a durable database and transcripts on the disk."""
    table = {"kind": "language_model", "model": "openai:stand-in", "base_url": base_url}
    settings = load_settings(folder / "none.env", predictbench_home=folder)
    experiment = LanguageModelTable.model_validate(table).made("bench", settings)
    cohort = [make_market(str(number)) for number in range(markets)]
    with EmbeddedPostgres(folder / "pg") as server:
        url = server.url
        migrations.upgrade(url)
        engine = make_engine(url, pool_size=2)
        area = StagingArea(str(folder / "staging"))
        ledger = ledger_of(experiment, make_run(), "0" * 64, lambda: engine, area, "bench", settings)
        began = time.monotonic()
        outcomes = run_experiment_sync(experiment, cohort, run=make_run(), clock=SystemClock(), ledger=ledger)
        seconds = time.monotonic() - began
        engine.dispose()
    if {outcome.status for outcome in outcomes} != {"completed"}:
        raise SystemExit(f"not all were forecast: {outcomes[0].reason}")
    return seconds


def peak_mb() -> float:
    """The most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@contextmanager
def stand_in() -> Iterator[str]:
    """A stand-in in a process of its own: the address for OpenAI's clients."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs,), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        process.terminate()
        process.join()


def serve(parent: Connection) -> None:
    """Run the stand-in; its address goes to the parent."""

    def announce(running: StandIn) -> Any:
        parent.send(running.base_url)

    run_models(ModelSettings(seconds=SECONDS), port=0, announce=announce)


if __name__ == "__main__":
    main()
