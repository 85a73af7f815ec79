"""What a large day costs, stage by stage: processor and wall seconds and peak memory, beside a floor and a peer.

    python benchmarks/bench_scale.py [--sizes 5000,20000,100000] [--no-peer] [--quick] [--json FILE]

The daily job runs over a sandbox exchange of each size, with the default experiments, as `dagster job execute` does. It
is watched from outside: at the first and last event of each step its processor time is read, and its peak memory begins
anew (on Linux; elsewhere the memory that it has then). The server and the exchange have processes of their own, which
are not counted. Up to 1,000 requests a second are allowed, or the figures would be those of the limits.

- floor: `floor_daily.py`, the same requests without a look at the answers, and a bare COPY of the same rows;
- peer: `peer_daily.py`, the day as it is written without care, at 20,000 markets only: it takes minutes. It has seven
  of the nine default experiments, so the daily job runs with those seven to be compared with it: once before it and
  once after it, of which the mean counts, since a machine is not equally fast all the time.

A day of the sandbox holds 100,000 markets at most. The goals are in `GOALS`, for 20,000; less than 800 MB at 50,000;
and from the smallest size to the largest no stage grows by more than 1.25 times what the markets do.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import psutil  # type: ignore[import-untyped]
import psycopg
from bench_daily import HERE, WINDOW, Bench, commands, run
from floor_daily import TABLES
from sqlalchemy.engine import make_url

from predictbench_assets.runs import RunKey
from predictbench_assets.settings import DEFAULT_EXPERIMENTS

SIZES = (5_000, 20_000, 100_000)
GOAL_SIZE = 20_000
"""The size that the goals are for, and at which the peer runs."""
GOALS = {
    "peak MB": 400.0,
    "experiments, CPU s": 19.5,
    "persisted_run, CPU s": 4.1,
    "of the peer's wall s": 0.12,
    "of the peer's CPU s": 0.12,
}
GOAL_MB_LATER = (50_000, 800.0)
GOAL_GROWTH = 1.25
REST, WHOLE, FLOOR, PEER = "start, and between steps", "whole command", "floor", "peer"
LIKE_PEER = "whole, with the peer's experiments"
PEERS_EXPERIMENTS = [path for path in DEFAULT_EXPERIMENTS if ".builtin." in path]


@dataclass(frozen=True)
class Used:
    """What a stage or a command used."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_mb: float = 0.0
    """0 where it was not measured."""


class Watch:
    """Looks at a process from outside."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._status = Path(f"/proc/{pid}/status")
        self._since = self._now()

    def _now(self) -> tuple[float, float]:
        times = self._process.cpu_times()
        return time.monotonic(), times.user + times.system

    def lap(self) -> Used:
        """What was used since the last lap; its peak begins anew."""
        now, since = self._now(), self._since
        self._since = now
        peak = self._process.memory_info().rss / 2**20
        if self._status.exists():
            lines = dict(line.split(":", 1) for line in self._status.read_text().splitlines())
            peak = int(lines["VmHWM"].split()[0]) / 2**10
            self._status.with_name("clear_refs").write_text("5")
        return Used(now[0] - since[0], now[1] - since[1], peak)


def watched(command: Sequence[str], environment: Mapping[str, str]) -> dict[str, Used]:
    """What each stage of a daily job used."""
    used: dict[str, Used] = {REST: Used()}

    def add(name: str, lap: Used) -> None:
        one = used.setdefault(name, Used())
        used[name] = Used(one.wall_s + lap.wall_s, one.cpu_s + lap.cpu_s, max(one.peak_mb, lap.peak_mb))

    tail: list[str] = []
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    with subprocess.Popen(
        command,
        env=environment,
        cwd=environment["DAGSTER_HOME"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        watch = Watch(process.pid)
        assert process.stderr is not None
        for line in process.stderr:
            tail = [*tail[-40:], line]
            if '"STEP_START"' in line:
                add(REST, watch.lap())
            elif '"STEP_SUCCESS"' in line:
                add(str(json.loads(line)["process_stage"]), watch.lap())
    wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{''.join(tail)}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    steps = [one for name, one in used.items() if name != REST]
    rest = Used(
        wall - sum(one.wall_s for one in steps), cpu - sum(one.cpu_s for one in steps), peak_mb=used[REST].peak_mb
    )
    return used | {REST: rest, WHOLE: Used(wall, cpu, max(one.peak_mb for one in used.values()))}


def measured(markets: int, peer: bool) -> dict[str, Used]:
    """What each stage used over that many markets, and the floor; the peer too, if it is asked for."""
    key = RunKey(datetime.now(UTC).date(), WINDOW)
    with tempfile.TemporaryDirectory(prefix="pb-bench-") as name:
        folder = Path(name)
        bench = Bench(folder, markets)
        try:
            query = urlencode({"end_date_min": key.start.isoformat(), "end_date_max": key.end.isoformat()})
            urlopen(f"{bench.exchange}/_sandbox/warm?{query}", data=b"").close()
            given = {"LOG_LEVEL": "INFO", "LOG_FORMAT": "json", "POLYMARKET_REQUESTS_PER_SECOND": "1000"}
            environment = {**bench.environment(), **given}
            found = watched(commands(folder, key)["daily"], environment)
            keep_rows(bench.url, folder)
            day = [key.run_date.isoformat(), str(key.window_days)]

            def contend(script: str, *arguments: str) -> Used:
                forget_rows(bench.url)
                taken = run([sys.executable, str(HERE / script), *day, *arguments], environment)
                return Used(taken.wall_s, taken.cpu_s)

            found[FLOOR] = contend("floor_daily.py", name)
            if peer:
                before = like_peer(bench, folder, key, given)
                found[PEER] = contend("peer_daily.py")
                after = like_peer(bench, folder, key, given)
                found[LIKE_PEER] = Used(
                    (before.wall_s + after.wall_s) / 2,
                    (before.cpu_s + after.cpu_s) / 2,
                    max(before.peak_mb, after.peak_mb),
                )
        finally:
            bench.close()
    return found


def like_peer(bench: Bench, folder: Path, key: RunKey, given: Mapping[str, str]) -> Used:
    """What a daily job used with the experiments that the peer has."""
    few = {**bench.environment(), **given, "PROCESSING_EXPERIMENTS": ",".join(PEERS_EXPERIMENTS)}
    return watched(commands(folder, key)["daily"], few)[WHOLE]


def keep_rows(url: str, folder: Path) -> None:
    """Write the rows of a day as the floor sends them."""
    with connected(url) as connection, connection.cursor() as cursor:
        for table in TABLES:
            with (
                (folder / table).open("wb") as file,
                cursor.copy(f"COPY predictbench.{table} TO STDOUT (FORMAT binary)") as copy,
            ):
                for block in copy:
                    file.write(block)


def forget_rows(url: str) -> None:
    """Leave the run with its experiments, and none of its markets."""
    with connected(url) as connection:
        connection.execute("TRUNCATE predictbench.events, predictbench.processed_markets CASCADE")


def connected(url: str) -> psycopg.Connection[Any]:
    """A connection past SQLAlchemy."""
    return psycopg.connect(make_url(url).set(drivername="postgresql").render_as_string(hide_password=False))


def experiments(found: Mapping[str, Used]) -> float:
    """Processor seconds of all experiments."""
    return sum(one.cpu_s for name, one in found.items() if name.startswith("experiment_results/"))


def print_day(markets: int, found: Mapping[str, Used]) -> None:
    """Print the table of a size."""
    print(f"{f'{markets:,} markets':<36} {'wall s':>8} {'CPU s':>8} {'peak MB':>8}")
    for name, one in found.items():
        peak = f"{one.peak_mb:8.0f}" if one.peak_mb else ""
        print(f"{name:<36} {one.wall_s:8.1f} {one.cpu_s:8.1f} {peak}")
    print(f"{'all experiments':<36} {'':8} {experiments(found):8.1f}\n", flush=True)


def print_goals(days: Mapping[int, Mapping[str, Used]]) -> None:
    """Print what was found beside the goals."""
    if found := days.get(GOAL_SIZE):
        reached = {
            "peak MB": found[WHOLE].peak_mb,
            "experiments, CPU s": experiments(found),
            "persisted_run, CPU s": found["persisted_run"].cpu_s,
        }
        if PEER in found:
            reached["of the peer's wall s"] = found[LIKE_PEER].wall_s / found[PEER].wall_s
            reached["of the peer's CPU s"] = found[LIKE_PEER].cpu_s / found[PEER].cpu_s
        for name, value in reached.items():
            print(f"{f'{name} at {GOAL_SIZE:,}':<36} {value:8.2f}   goal: at most {GOALS[name]:g}")
    for markets, found in days.items():
        if markets <= GOAL_MB_LATER[0] and markets > GOAL_SIZE:
            print(f"{f'peak MB at {markets:,}':<36} {found[WHOLE].peak_mb:8.0f}   goal: at most {GOAL_MB_LATER[1]:g}")
    small, large = min(days), max(days)
    if small < large:
        times = large / small
        growth = {
            name: one.cpu_s / days[small][name].cpu_s / times
            for name, one in days[large].items()
            if name in days[small]
            and name not in (REST, WHOLE, FLOOR, PEER, LIKE_PEER)
            and days[small][name].cpu_s > 0.1
        }
        worst = max(growth, key=lambda name: growth[name])
        print(
            f"{f'growth from {small:,} to {large:,}':<36} {growth[worst]:8.2f} of the markets', {worst}"
            f"   goal: at most {GOAL_GROWTH}"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="markets of the day, separated by commas")
    parser.add_argument("--no-peer", action="store_true", help="leave the peer out")
    parser.add_argument("--quick", action="store_true", help="600 and 2,000 markets, no peer")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    options = parser.parse_args()
    sizes = (600, 2_000) if options.quick else tuple(int(size) for size in options.sizes.split(","))
    days = {}
    for markets in sizes:
        days[markets] = measured(markets, peer=markets == GOAL_SIZE and not options.no_peer)
        print_day(markets, days[markets])
    print_goals(days)
    if options.json:
        figures = {size: {name: asdict(one) for name, one in found.items()} for size, found in days.items()}
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
