"""What becomes of an experiment whose process is killed, interrupted, or wants to end."""

import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from predictbench_assets.experiments.journal import Journal, JournalKey
from predictbench_assets.staging import StagingArea

KEY = JournalKey("2026-03-02_w7", "noted", "1", "a" * 64, "b" * 64)
COUNT = 500
CONCURRENCY = 8

SCRIPT = """
import asyncio, os, sys, time, threading
from predictbench_assets.clock import SystemClock
from predictbench_assets.experiments.protocol import Experiment, ExperimentResult
from predictbench_assets.experiments.journal import Journal, JournalKey
from predictbench_assets.experiments.runner import run_experiment_sync
from predictbench_assets.experiments.testing import make_market, make_run
from predictbench_assets.staging import StagingArea

staging, calls, kind = sys.argv[1:]
noted = os.open(calls, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

class Noted(Experiment):
    name, version, description = "noted", "1", "Notes every call in a file."

    def run(self, market, context):
        os.write(noted, f"{market.market_id}\\n".encode())
        time.sleep(0.02)
        return ExperimentResult.binary(0.5)

class NotedAsync(Noted):
    async def run(self, market, context):
        os.write(noted, f"{market.market_id}\\n".encode())
        await asyncio.sleep(0.02)
        return ExperimentResult.binary(0.5)

class NotedEvents(Noted):
    run = Experiment.run

    def run_event(self, markets, contexts):
        os.write(noted, "".join(f"{market.market_id}\\n" for market in markets).encode())
        time.sleep(0.02)
        return {market.market_id: ExperimentResult.binary(0.5) for market in markets}

class Hanging(Noted):
    def run(self, market, context):
        os.write(noted, f"{market.market_id}\\n".encode())
        if int(market.market_id) % 2:
            threading.Event().wait()
        return ExperimentResult.binary(0.5)

experiment = {"sync": Noted, "async": NotedAsync, "events": NotedEvents, "hanging": Hanging}[kind]()
markets = [make_market(str(n), event_id=str(n // 3) if kind == "events" else None) for n in range(COUNT)]
outcomes = run_experiment_sync(
    experiment, markets, run=make_run(), clock=SystemClock(), max_concurrency=CONCURRENCY,
    journal=Journal(StagingArea(staging), JournalKey("2026-03-02_w7", "noted", "1", "a" * 64, "b" * 64), "w"),
    timeout_s=0.1 if kind == "hanging" else 600,
)
print(sum(outcome.status == "completed" for outcome in outcomes), "completed")
""".replace("COUNT", str(COUNT)).replace("CONCURRENCY", str(CONCURRENCY))

Start = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Starts the script with one kind of experiment; whatever is left of it at the end is killed."""
    (tmp_path / "script.py").write_text(SCRIPT)

    def popen(kind: str) -> "subprocess.Popen[str]":
        command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path), str(tmp_path / "calls"), kind]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    return popen


def calls_made(tmp_path: Path) -> list[str]:
    noted = tmp_path / "calls"
    return noted.read_text().split() if noted.exists() else []


def wait_for_calls(tmp_path: Path, count: int) -> None:
    deadline = time.monotonic() + 30
    while len(calls_made(tmp_path)) < count:
        assert time.monotonic() < deadline, "the experiment does not get on"
        time.sleep(0.005)


def end(process: "subprocess.Popen[str]", how: signal.Signals) -> str:
    process.send_signal(how)
    output, _ = process.communicate(timeout=30)
    return output


@pytest.mark.parametrize("kind", ["sync", "async", "events"])
def test_a_killed_experiment_repeats_no_journalled_call(tmp_path: Path, start: Start, kind: str) -> None:
    process = start(kind)
    wait_for_calls(tmp_path, 150)
    end(process, signal.SIGKILL)
    before = calls_made(tmp_path)
    journalled = Journal(StagingArea(str(tmp_path)), KEY, "reader").load()
    assert len(before) < COUNT
    assert len(journalled) > 50

    second = start(kind)
    output, _ = second.communicate(timeout=60)
    assert output.strip().splitlines()[-1] == f"{COUNT} completed"
    counts = Counter(calls_made(tmp_path))
    assert set(counts) == {str(number) for number in range(COUNT)}
    repeated = {market_id for market_id, count in counts.items() if count > 1}
    assert repeated.isdisjoint(journalled)
    # Repeated are those under way, and those answered while one write was under way.
    assert len(repeated) == len(before) - len(journalled) <= 12 * CONCURRENCY
    assert max(counts.values()) <= 2


def test_a_hung_experiment_does_not_keep_the_process_from_ending(tmp_path: Path, start: Start) -> None:
    process = start("hanging")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    # 64 hung calls are left behind, then the experiment is given up.
    assert 0 < int(output.split()[0]) < COUNT


def test_an_interrupt_ends_the_run_and_keeps_what_was_answered(tmp_path: Path, start: Start) -> None:
    process = start("sync")
    wait_for_calls(tmp_path, 100)
    output = end(process, signal.SIGINT)
    assert process.returncode != 0
    assert "KeyboardInterrupt" in output
    before = calls_made(tmp_path)
    assert len(before) < COUNT
    journalled = Journal(StagingArea(str(tmp_path)), KEY, "reader").load()
    assert len(before) - len(journalled) <= CONCURRENCY  # only those under way
