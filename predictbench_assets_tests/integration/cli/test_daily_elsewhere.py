"""`predictbench daily` with steps that run on other machines: what it tells, stores, and how it ends."""

import json
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

from predictbench_assets_tests.kit.commands import command
from predictbench_assets_tests.kit.daily_run import BASELINE, EXPERIMENT
from predictbench_assets_tests.kit.elsewhere import EXECUTOR, FOLDER
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
            process.wait(timeout=240)
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


def until(reached: Callable[[], bool], within: float = 120.0) -> None:
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
