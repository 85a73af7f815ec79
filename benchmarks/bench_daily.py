"""What Dagster costs: the daily job against a plain script of the same parts, and an empty graph as the floor.

Three commands, each in a fresh process, in turn, medians of the repetitions, of wall and of processor seconds:

- floor: the cold run of an empty six-asset graph through `dagster job execute`;
- plain: capture, normalise, experiments and write of one day, called one after another by a script;
- daily: the same day through `dagster job execute -j daily_run`.

The goal is that daily minus plain is at most 1.3 times the floor. Processor seconds (user and system, of the command
and its children) are what to compare on a machine that others use. With `--memory N` a daily run over N markets is
measured as well: its peak memory (goal: under 600 MB at 20,000) and its processor seconds.

    python benchmarks/bench_daily.py [--runs 5] [--markets 600] [--memory 20000] [--quick] [--json FILE]
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from predictbench_assets.database.embedded import EmbeddedPostgres
from predictbench_assets.database.migrations import upgrade
from predictbench_assets.runs import RunKey, partition_tags

HERE = Path(__file__).parent
WINDOW = 7

EMPTY_GRAPH = """
import dagster as dg

@dg.asset
def one(): return 1

@dg.asset
def two(one): return one

@dg.asset
def three(two): return two

@dg.asset
def four(two): return two

@dg.asset
def five(two, four): return two

@dg.asset
def six(three, five): return three

defs = dg.Definitions(
    assets=[one, two, three, four, five, six],
    jobs=[dg.define_asset_job("empty", selection=[one, two, three, four, five, six])],
    executor=dg.in_process_executor,
)
"""


class Bench:
    """One database, one sandbox exchange in a process of its own, and a fresh place for every run."""

    def __init__(self, folder: Path, markets: int) -> None:
        self.folder = folder
        self.server = EmbeddedPostgres(folder / "pg")
        self.url = str(self.server.start())
        upgrade(self.url)
        command = [str(Path(sys.executable).with_name("predictbench")), "sandbox", "serve", "--port", "0"]
        self.sandbox = subprocess.Popen(
            [*command, "--markets", str(markets)], stdout=subprocess.PIPE, text=True, env=_clean_environment()
        )
        assert self.sandbox.stdout is not None
        ready = self.sandbox.stdout.readline().split()
        self.exchange = ready[ready.index("ready:") + 1]

    def close(self) -> None:
        """End what this bench has started."""
        self.sandbox.terminate()
        self.sandbox.wait()
        self.server.stop()

    def environment(self) -> Mapping[str, str]:
        """Settings for a run that finds nothing stored and nothing staged."""
        home = Path(tempfile.mkdtemp(dir=self.folder))
        (home / "dagster").mkdir()
        shutil.copy(HERE.parent / "dagster.yaml", home / "dagster")
        self._forget()
        return _clean_environment() | {
            "PREDICTBENCH_HOME": str(home),
            "DAGSTER_HOME": str(home / "dagster"),
            "DATABASE_URL": self.url,
            "POLYMARKET_BASE_URL": self.exchange,
            "POLYMARKET_CLOB_URL": f"{self.exchange}/clob",
            "LOG_LEVEL": "WARNING",
        }

    def _forget(self) -> None:
        from sqlalchemy import create_engine, text

        engine = create_engine(self.url)
        with engine.begin() as connection:
            connection.execute(text("TRUNCATE predictbench.processing_runs, predictbench.snapshots CASCADE"))
        engine.dispose()


class Taken(NamedTuple):
    """What a command took."""

    wall_s: float
    cpu_s: float
    """User and system seconds, of the command and of the children that it waited for."""


def run(command: list[str], environment: Mapping[str, str]) -> Taken:
    """What a command took, which must succeed."""
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(
        command,
        env=dict(environment),
        cwd=environment["DAGSTER_HOME"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    output, _ = process.communicate()
    seconds = time.monotonic() - began
    if process.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{output.decode()[-4000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Taken(seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def commands(folder: Path, key: RunKey) -> dict[str, list[str]]:
    """The three contenders."""
    (folder / "empty_graph.py").write_text(EMPTY_GRAPH)
    job = [sys.executable, "-m", "dagster", "job", "execute"]
    return {
        "floor": [*job, "-f", str(folder / "empty_graph.py"), "-j", "empty"],
        "plain": [sys.executable, str(HERE / "plain_daily.py"), key.run_date.isoformat(), str(key.window_days)],
        "daily": [
            *job,
            *("-m", "predictbench_assets.definitions", "-j", "daily_run", "--tags", json.dumps(partition_tags(key))),
        ],
    }


def measure(markets: int, runs: int) -> dict[str, float]:
    """Median seconds of each contender, and the overhead as a multiple of the floor; `_cpu` are processor seconds."""
    with tempfile.TemporaryDirectory(prefix="pb-bench-") as name:
        folder = Path(name)
        bench = Bench(folder, markets)
        try:
            key = RunKey(datetime.now(UTC).date(), WINDOW)
            contenders = commands(folder, key)
            taken: dict[str, list[Taken]] = {contender: [] for contender in contenders}
            for repetition in range(runs + 1):  # the first warms the disk's cache and is not counted
                for contender, command in contenders.items():
                    one = run(command, bench.environment())
                    if repetition:
                        taken[contender].append(one)
        finally:
            bench.close()
    wall = {contender: statistics.median(one.wall_s for one in each) for contender, each in taken.items()}
    cpu = {contender: statistics.median(one.cpu_s for one in each) for contender, each in taken.items()}
    return (
        wall
        | {f"{contender}_cpu": seconds for contender, seconds in cpu.items()}
        | {"overhead_over_floor": _overhead(wall), "overhead_over_floor_cpu": _overhead(cpu)}
    )


def _overhead(seconds: Mapping[str, float]) -> float:
    return (seconds["daily"] - seconds["plain"]) / seconds["floor"]


def measure_memory(markets: int) -> tuple[float, float]:
    """Peak megabytes and processor seconds of a daily run over that many markets."""
    with tempfile.TemporaryDirectory(prefix="pb-bench-") as name:
        folder = Path(name)
        bench = Bench(folder, markets)
        try:
            command = commands(folder, RunKey(datetime.now(UTC).date(), WINDOW))["daily"]
            # A child of its own, so that the sandbox and earlier runs are not what is measured.
            code = (
                "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=sys.stderr);"
                "used = resource.getrusage(resource.RUSAGE_CHILDREN);"
                "print(used.ru_maxrss / 1024, used.ru_utime + used.ru_stime)"
            )
            environment = bench.environment()
            done = subprocess.run(
                [sys.executable, "-c", code, *command],
                env=dict(environment),
                cwd=environment["DAGSTER_HOME"],
                capture_output=True,
                text=True,
                check=False,
            )
        finally:
            bench.close()
    if done.returncode != 0:
        sys.exit(done.stderr[-4000:])
    peak, seconds = done.stdout.split()
    return float(peak), float(seconds)


def _clean_environment() -> dict[str, str]:
    kept = ("PATH", "HOME", "LANG", "TMPDIR")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"PREDICTBENCH_ENV_FILE": ""}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="counted repetitions")
    parser.add_argument("--markets", type=int, default=600, help="markets of the day")
    parser.add_argument("--memory", type=int, default=20_000, help="markets of the memory run; 0 leaves it out")
    parser.add_argument("--quick", action="store_true", help="one repetition, a small memory run")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    options = parser.parse_args()
    if options.quick:
        options.runs, options.memory = 1, min(options.memory, 2_000)
    figures = measure(options.markets, options.runs)
    for contender in ("floor", "plain", "daily"):
        print(f"{contender:<8} {figures[contender]:6.2f} s   {figures[contender + '_cpu']:6.2f} s of processor")
    print(
        f"(daily - plain) / floor = {figures['overhead_over_floor']:.2f}   goal: at most 1.30"
        f"   ({figures['overhead_over_floor_cpu']:.2f} of processor)"
    )
    if options.memory:
        figures["peak_mb"], figures["peak_cpu"] = measure_memory(options.memory)
        print(
            f"{options.memory:,} markets: peak memory {figures['peak_mb']:.0f} MB   goal: under 600"
            f"   ({figures['peak_cpu']:.1f} s of processor)"
        )
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
