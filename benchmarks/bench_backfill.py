"""What a partition of a backfill costs: processor and wall seconds, memory, and what Dagster alone takes.

    python benchmarks/bench_backfill.py [--days 20] [--markets 500] [--at-once 2] [--quick] [--json FILE]

The snapshots of some days, each in three windows, are captured from a sandbox exchange. Then `predictbench backfill`
runs them twice, with the default experiments: at first nothing is forecast, then (`--again`) every journal is complete.
The processes that make the runs, `--at-once` of them, are looked at whenever one of these has ended.

The floor is Dagster's own share: an empty graph of as many assets, run as often in one process on the same kind of
instance. The goals are for 500 markets: at most 1.5 seconds of processor time a partition whose journals are complete,
at most one second of wall time with `--at-once 2`, and a process that is hardly larger after its last partition than it
was after the tenth.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from predictbench_assets.database.embedded import EmbeddedPostgres
from predictbench_assets.database.migrations import upgrade
from predictbench_assets.exchanges.configured import configured_exchange
from predictbench_assets.experiments.registry import load_registry
from predictbench_assets.ingestion.snapshot import freeze
from predictbench_assets.persistence.run_store import RunDatabase
from predictbench_assets.runs import RunKey
from predictbench_assets.sandbox.server import SandboxServer, serve
from predictbench_assets.sandbox.world import World
from predictbench_assets.schedule import days_between
from predictbench_assets.settings import load_settings
from predictbench_assets.staging import StagingArea

HERE = Path(__file__).parent
WINDOWS = (1, 3, 7)
FIRST = date(2026, 3, 1)
GOAL_S = 1.5
GOAL_WALL_S = 1.0
GOAL_GROWTH_MB = 20.0
SETTLED_AFTER = 10
"""Runs of a process after which its memory should not grow any more."""

EMPTY_RUNS = """
import json, resource, sys, time
import dagster as dg

def made(number):
    @dg.asset(name=f"asset_{number}", deps=[f"asset_{number - 1}"] if number else [])
    def one(): return None
    return one

defs = dg.Definitions(
    assets=[made(number) for number in range(int(sys.argv[1]))],
    jobs=[dg.define_asset_job("empty")],
    executor=dg.in_process_executor,
)
job = defs.resolve_job_def("empty")
with dg.DagsterInstance.get() as instance:
    job.execute_in_process(instance=instance)
    began, used = time.monotonic(), time.process_time()
    for _ in range(int(sys.argv[2])):
        job.execute_in_process(instance=instance)
print(json.dumps([(time.process_time() - used) / int(sys.argv[2]), (time.monotonic() - began) / int(sys.argv[2])]))
"""


@dataclass
class Figures:
    """Seconds a partition, and the size of the processes after each."""

    cpu_s: float
    wall_s: float
    """Wall time of all, divided by their number."""
    own_s: float | None = None
    """Wall time from the beginning of a partition's run to its end."""
    load: float = field(default_factory=lambda: os.getloadavg()[0])
    """Of the machine in the last minute of it."""
    rss_mb: list[list[float]] = field(default_factory=list)
    """After each partition, for each of the processes that made them."""
    at_once: int = 1

    @property
    def growth_mb(self) -> float:
        """The largest growth of a process after its tenth partition."""
        settled = SETTLED_AFTER * self.at_once  # each is looked at when any of them has ended one
        grown = (max(one[settled:]) - max(one[:settled]) for one in self.rss_mb if len(one) > settled)
        return max(grown, default=0.0)


class Bench:
    """A database, and a folder with the settings of a clone."""

    def __init__(self, folder: Path, exchange: SandboxServer) -> None:
        self._folder = folder
        self._server = EmbeddedPostgres(folder / "pg")
        url = str(self._server.start())
        upgrade(url)
        kept = ("PATH", "HOME", "LANG", "TMPDIR")
        self.environment = {name: os.environ[name] for name in kept if name in os.environ} | {
            "PREDICTBENCH_ENV_FILE": "",
            "PREDICTBENCH_HOME": str(folder / "home"),
            "DATABASE_URL": url,
            "POLYMARKET_BASE_URL": exchange.base_url,
            "POLYMARKET_CLOB_URL": exchange.clob_url,
            "POLYMARKET_REQUESTS_PER_SECOND": "1000",
            "LOG_FORMAT": "json",
        }

    def close(self) -> None:
        """Stop the database."""
        self._server.stop()

    def capture(self, exchange: SandboxServer, keys: Sequence[RunKey]) -> None:
        """Freeze the snapshot of each partition at seven in the morning of its day."""
        os.environ.update(self.environment)
        for key in keys:
            now = datetime.combine(key.run_date, datetime.min.time(), UTC) + timedelta(hours=7)
            exchange.set_time(now)
            os.environ["PREDICTBENCH_NOW"] = now.isoformat()
            settings = load_settings()
            database, staging = RunDatabase(settings), StagingArea(settings.staging, settings.staging_options)
            database.open(key, f"capture-{key}")
            freeze(
                configured_exchange(settings),
                staging,
                database,
                key,
                today=key.run_date,
                dagster_run_id=f"capture-{key}",
                refresh=False,
                allow_empty=False,
                warn=print,
            )
            database.engine.dispose()
        self.environment["PREDICTBENCH_NOW"] = (
            datetime.combine(keys[-1].run_date, datetime.min.time(), UTC) + timedelta(days=1, hours=7)
        ).isoformat()

    def backfill(self, keys: Sequence[RunKey], at_once: int, *options: str) -> Figures:
        """Run them all as a person would, and watch the processes that do the work."""
        first, last = keys[0].run_date, keys[-1].run_date
        windows = ",".join(str(window) for window in WINDOWS)
        command = [sys.executable, "-m", "predictbench_assets.cli.main", "backfill", "--yes", *options]
        command += ["--from", str(first), "--to", str(last), "--window-days", windows, "--at-once", str(at_once)]
        command += ["--summary", str(summary := self._folder / "backfill.json")]
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        rss: dict[int, list[float]] = {}
        with subprocess.Popen(
            command, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr is not None
            tail: list[str] = []
            for line in process.stderr:
                tail = [*tail[-40:], line]
                if '"persisted_run"' in line and '"STEP_SUCCESS"' in line:
                    for child in psutil.Process(process.pid).children():
                        rss.setdefault(child.pid, []).append(child.memory_info().rss / 1e6)
        if process.returncode != 0:
            sys.exit(f"{' '.join(command)} failed:\n{''.join(tail)}")
        after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - began
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        own = [run["seconds"] for run in json.loads(summary.read_text())["runs"]]
        return Figures(
            used / len(keys), wall / len(keys), sum(own) / len(own), rss_mb=list(rss.values()), at_once=at_once
        )

    def floor(self, runs: int) -> Figures:
        """Run an empty graph as often as that, in one process."""
        home = self._folder / "floor"
        home.mkdir()
        shutil.copy(HERE.parent / "dagster.yaml", home)
        script = self._folder / "empty_runs.py"
        script.write_text(EMPTY_RUNS)
        assets = 4 + len(load_registry().names)
        done = subprocess.run(
            [sys.executable, str(script), str(assets), str(runs)],
            env=self.environment | {"DAGSTER_HOME": str(home), "LOG_LEVEL": "WARNING"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            sys.exit(done.stderr[-4000:])
        return Figures(*json.loads(done.stdout.splitlines()[-1]))


def measure(days: int, markets: int, at_once: int) -> dict[str, Figures]:
    """Figures of each contender."""
    keys = days_between(FIRST, FIRST + timedelta(days=days - 1), WINDOWS)
    started = datetime.combine(FIRST, datetime.min.time(), UTC)
    with tempfile.TemporaryDirectory(prefix="pb-bench-") as folder, serve(World(7, markets), now=started) as exchange:
        bench = Bench(Path(folder), exchange)
        try:
            bench.capture(exchange, keys)
            return {
                "floor": bench.floor(len(keys)),
                "forecasting": bench.backfill(keys, at_once),
                "journals complete": bench.backfill(keys, at_once, "--again"),
            }
        finally:
            bench.close()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=20, help="days, each in three windows")
    parser.add_argument("--markets", type=int, default=500, help="markets of a partition")
    parser.add_argument("--at-once", type=int, default=1, help="partitions under way beside each other")
    parser.add_argument("--quick", action="store_true", help="four days")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    options = parser.parse_args()
    found = measure(4 if options.quick else options.days, options.markets, options.at_once)
    floor = found["floor"].cpu_s
    print(f"{'a partition':<20} {'CPU s':>7} {'wall s':>7} {'own s':>7} {'floors':>7} {'growth MB':>10} {'load':>6}")
    for name, one in found.items():
        own = f"{'' if one.own_s is None else format(one.own_s, '.2f'):>7}"
        times = f"{one.cpu_s:7.2f} {one.wall_s:7.2f} {own} {one.cpu_s / floor:7.1f}"
        print(f"{name:<20} {times} {one.growth_mb:10.0f} {one.load:6.1f}")
    goals = f"at most {GOAL_S} CPU s, {GOAL_WALL_S} wall s with --at-once 2, growth of at most {GOAL_GROWTH_MB:.0f} MB"
    print(f"goals with journals complete: {goals}")
    if options.json:
        options.json.write_text(json.dumps({name: asdict(one) for name, one in found.items()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
