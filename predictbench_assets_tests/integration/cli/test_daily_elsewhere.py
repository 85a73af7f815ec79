"""`predictbench daily` with steps that run on other machines: what it tells, stores, and how it ends."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from sqlalchemy.engine import make_url

from predictbench_assets_tests.integration.daily_run.experiments import GATE
from predictbench_assets_tests.kit.commands import command
from predictbench_assets_tests.kit.daily_run import BASELINE, EXPERIMENT
from predictbench_assets_tests.kit.elsewhere import EXECUTOR, FOLDER, VARIABLES, start
from predictbench_assets_tests.kit.places import CLONE

GATED = f"{BASELINE},{EXPERIMENT}:Gated"


@dataclass
class Elsewhere:
    """A launcher, its machines, and the database that they share."""

    folder: Path
    variables: dict[str, str]

    @contextmanager
    def launched(self, *arguments: str, **variables: str) -> Iterator["subprocess.Popen[str]"]:
        """`predictbench daily` under way; whatever is left of it and of its steps is killed at the end."""
        with (self.folder / "stderr").open("w") as shown:
            process = subprocess.Popen(
                command("daily", "--summary", str(self.folder / "summary.json"), *arguments),
                cwd=self.folder,
                env=self.variables | variables,
                stdout=shown,
                stderr=shown,
                text=True,
            )
        try:
            yield process
        finally:
            pids = [process.pid, *(int(file.read_text()) for file in self.machines.glob("*/pid"))]
            for pid in pids:
                with suppress(psutil.NoSuchProcess):
                    for one in [*psutil.Process(pid).children(recursive=True), psutil.Process(pid)]:
                        one.kill()
            process.wait()

    def daily(self, *arguments: str, **variables: str) -> int:
        """Run it to its end."""
        with self.launched(*arguments, **variables) as process:
            process.wait(timeout=500)
        return process.returncode

    @property
    def machines(self) -> Path:
        """The folder with a machine for each step."""
        return self.folder / "machines"

    @property
    def said(self) -> dict[str, Any]:
        """The summary."""
        return json.loads((self.folder / "summary.json").read_text())

    @property
    def log(self) -> list[dict[str, Any]]:
        """The lines that the command has shown."""
        shown = (self.folder / "stderr").read_text().splitlines()
        return [json.loads(text) for text in shown if text.startswith("{")]

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Rows of a query of the benchmark's database."""
        url = make_url(self.variables["DATABASE_URL"]).set(drivername="postgresql")
        with psycopg.connect(url.render_as_string(hide_password=False)) as connection:
            return connection.execute(query).fetchall()

    def run_row(self) -> tuple[Any, ...]:
        """Status, stage, reason and attempt of the only run."""
        [row] = self.rows("SELECT status, stage, reason, attempt FROM predictbench.processing_runs")
        return row

    def deliver(self, command: list[str]) -> "subprocess.Popen[bytes]":
        """Hand a step to one more machine."""
        return start(self.folder / "one more", command, **self.variables)

    def pid(self, step: str) -> int:
        """The process of a step."""
        return int((self.machines / step / "pid").read_text())


@pytest.fixture
def elsewhere(
    environment: dict[str, str], store: Mapping[str, str], empty_database_url: str, tmp_path: Path
) -> Elsewhere:
    variables = (
        environment
        | store
        | {
            "DAGSTER_POSTGRES_URL": empty_database_url,
            "EXECUTOR": EXECUTOR,
            "PYTHONPATH": str(CLONE),
            "LOG_FORMAT": "json",
            "PROCESSING_EXPERIMENTS": BASELINE,
            "GIT_SHA": "0123abc",
            FOLDER: str(tmp_path / "machines"),
        }
    )
    return Elsewhere(tmp_path, variables)


def until(reached: Callable[[], bool], within: float = 300.0) -> None:
    """Wait for something that other processes do."""
    deadline = time.monotonic() + within
    while not reached():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def test_a_run_on_other_machines_is_told_as_one_here(elsewhere: Elsewhere) -> None:
    assert elsewhere.daily() == 0, (elsewhere.folder / "stderr").read_text()

    assert elsewhere.run_row() == ("completed", "persisted_run", None, 1)
    assert (elsewhere.said["status"], elsewhere.said["processed_markets"]) == ("completed", 30)
    assert elsewhere.said["duration_seconds"] > 0
    ended = [line["process_stage"] for line in elsewhere.log if line.get("event") == "STEP_SUCCESS"]
    assert ended == [
        "target_window",
        "raw_markets",
        "normalized_markets",
        "experiment_results/baseline_snapshot",
        "persisted_run",
    ]
    [kept] = (elsewhere.folder / ".predictbench").rglob("log.jsonl")
    assert [json.loads(line).get("event") for line in kept.read_text().splitlines()].count("STEP_START") == 5
    assert not list(elsewhere.machines.glob("*/home/postgres*")), "a machine has started a database of its own"


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_step_that_is_killed_fails_the_run_with_its_reason_and_the_next_run_completes(elsewhere: Elsewhere) -> None:
    gate = elsewhere.folder / "gate"
    gated = {"PROCESSING_EXPERIMENTS": GATED, GATE: str(gate)}
    with elsewhere.launched(**gated) as process:
        until(Path(f"{gate}.reached").exists)
        os.kill(elsewhere.pid("experiment_results__gated"), signal.SIGKILL)
        process.wait(timeout=300)

    assert process.returncode == 1
    status, stage, reason, _ = elsewhere.run_row()
    assert (status, stage) == ("failed", "experiment_results")
    assert reason == "Step experiment_results__gated failed health check: its process ended with -9"
    assert (elsewhere.said["stage"], elsewhere.said["reason"]) == ("experiment_results/gated", reason)
    gate.touch()
    assert elsewhere.daily(**gated) == 0
    assert elsewhere.run_row() == ("completed", "persisted_run", None, 2)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_launcher_that_is_told_to_stop_stops_its_steps(elsewhere: Elsewhere) -> None:
    gate = elsewhere.folder / "gate"
    with elsewhere.launched(PROCESSING_EXPERIMENTS=GATED, **{GATE: str(gate)}) as process:
        until(Path(f"{gate}.reached").exists)
        step = psutil.Process(elsewhere.pid("experiment_results__gated"))
        process.send_signal(signal.SIGTERM)
        gate.touch()  # a thread cannot be stopped from outside
        process.wait(timeout=300)
        until(lambda: not step.is_running() or step.status() == psutil.STATUS_ZOMBIE)

    assert process.returncode == 128 + signal.SIGTERM
    status, stage, reason, _ = elsewhere.run_row()
    assert (status, stage) == ("failed", "experiment_results")
    assert reason.startswith("stopped by ")
    assert elsewhere.rows("SELECT count(*) FROM predictbench.processed_markets") == [(0,)]


@pytest.mark.long
@pytest.mark.timeout(900)
def test_steps_that_outlive_their_launcher_or_come_twice_change_nothing(elsewhere: Elsewhere) -> None:
    gate = elsewhere.folder / "gate"
    gated = {"PROCESSING_EXPERIMENTS": GATED, GATE: str(gate)}
    with elsewhere.launched(**gated) as process:
        until(Path(f"{gate}.reached").exists)
        first = elsewhere.folder / "first"
        left = psutil.Process(elsewhere.pid("experiment_results__gated"))
        kill_launcher(process, spared=elsewhere.machines)
        (elsewhere.machines).rename(first)  # whose step goes on

        with elsewhere.launched(PROCESSING_EXPERIMENTS=GATED) as again:
            again.wait(timeout=500)
        assert again.returncode == 0, (elsewhere.folder / "stderr").read_text()
        stored = elsewhere.run_row()
        assert stored == ("completed", "persisted_run", None, 2)
        gate.touch()
        until(lambda: not left.is_running() or left.status() == psutil.STATUS_ZOMBIE)
        assert "attempt 2 took over" in (first / "experiment_results__gated" / "output").read_text()

        for step in ("target_window", "persisted_run", "experiment_results__gated"):
            recorded = next(path for path in (first / step, elsewhere.machines / step) if path.is_dir())
            command = json.loads((recorded / "command.json").read_text())
            again_here = elsewhere.deliver(command)
            assert again_here.wait(timeout=300) in (0, 1)
    assert elsewhere.run_row() == stored
    assert elsewhere.rows("SELECT count(*) FROM predictbench.processing_attempts") == [(2,)]


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_dry_run_stays_here_and_writes_nothing(elsewhere: Elsewhere) -> None:
    assert elsewhere.daily("--dry-run") == 0
    assert elsewhere.said["dry_run"] is True
    assert elsewhere.rows("SELECT count(*) FROM predictbench.processing_runs") == [(0,)]
    assert not elsewhere.machines.exists()


@pytest.mark.long
@pytest.mark.timeout(900)
def test_machines_that_are_set_up_otherwise_are_named(elsewhere: Elsewhere) -> None:
    assert elsewhere.daily(**{VARIABLES: json.dumps({"MIN_LIQUIDITY": "5"})}) == 1
    assert "MIN_LIQUIDITY is unset there and 5.0 here" in elsewhere.said["reason"]
    assert elsewhere.rows("SELECT count(*) FROM predictbench.processing_runs") == [(0,)]


def kill_launcher(process: "subprocess.Popen[str]", spared: Path) -> None:
    """Kill a launcher and what it has started, but for the steps, which are on machines of their own."""
    steps = {int(file.read_text()) for file in spared.glob("*/pid")}
    started = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    for one in started:
        if one.pid not in steps:
            with suppress(psutil.NoSuchProcess):
                one.kill()
