"""A backfill of days that are reconstructed, whose database goes away in the middle of it and comes back."""

import json
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from predictbench_assets.sandbox.server import SandboxServer
from predictbench_assets_tests.kit.backfills import (
    BACKFILL,
    calls_of_models,
    declare_paid,
    exchange_weeks_later,
    paid_settings,
)
from predictbench_assets_tests.kit.commands import command
from predictbench_assets_tests.kit.daily_run import differences, dump
from predictbench_assets_tests.kit.relay import Relay, relay_to

A_WRITE, AN_ANSWER = b"INSERT INTO predictbench.events", b"UPDATE predictbench.model_calls"
"""The first statement about a run's markets, and the one that notes what came back of a call."""


@pytest.fixture
def exchange() -> Iterator[SandboxServer]:
    """A small exchange, weeks after the days of the backfill."""
    with exchange_weeks_later() as server:
        yield server


class Outages:
    """Takes the database away for a second while the first run is written, and later until `relay.thaw`.

    Args:
        relay: the way to the database.
        answer: number of the answer of a model that is the first not to be noted.
    """

    def __init__(self, relay: Relay, answer: int) -> None:
        self._relay, self._answers_left = relay, answer
        self._back = threading.Timer(1.0, relay.thaw)
        self.begun: list[str] = []
        """Whether they happened, in order."""
        relay.on_request = self._asked

    def end(self) -> None:
        """Let the database stay."""
        self._relay.on_request = None
        self._relay.thaw()
        self._back.cancel()

    def _asked(self, sent: bytes) -> None:
        if A_WRITE in sent and not self.begun:
            self.begun.append("short")
            self._relay.cut()
            self._back.start()
        if AN_ANSWER in sent:
            self._answers_left -= 1
            if self._answers_left == 0:
                self.begun.append("long")
                self._relay.freeze()


def run_to_its_end(folder: Path, environment: Mapping[str, str], on_failed: Callable[[], None] = lambda: None) -> int:
    """Run the backfill, with something to be done when one of its runs has failed; what it said is in a file."""
    with (
        (folder / "output").open("w") as output,
        subprocess.Popen(
            command(*BACKFILL),
            cwd=folder,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            output.write(line)
            if "days: failed" in line:
                on_failed()
    return process.returncode


def outcomes(folder: Path) -> list[str]:
    """What became of each run of the last backfill, in order."""
    return [run["outcome"] for run in json.loads((folder / "b.json").read_text())["runs"]]


@pytest.mark.long
def test_a_database_that_goes_away_costs_at_most_the_run_under_way_until_the_next_start(
    environment: Mapping[str, str],
    exchange: SandboxServer,
    new_database: Callable[[], str],
    tmp_path: Path,
) -> None:
    folders = undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    databases = [new_database() for _ in folders]
    for folder in folders:
        declare_paid(folder, exchange)
    settings = {**environment, **paid_settings(tmp_path, exchange), "DB_TIMEOUT_SECONDS": "2"}
    with relay_to(databases[1]) as relay, ThreadPoolExecutor(1) as pool:
        # Beside each other: one of them waits most of its time.
        reference = pool.submit(run_to_its_end, undisturbed, {**settings, "DATABASE_URL": databases[0]})
        settings["DATABASE_URL"] = relay.url
        outages = Outages(relay, answer=30)
        try:
            code = run_to_its_end(disturbed, settings, relay.thaw)
        finally:
            outages.end()
        said = (disturbed / "output").read_text()
        assert outages.begun == ["short", "long"]
        assert (code, outcomes(disturbed)) == (1, ["stored", "stored", "failed", "stored"]), said
        failed = json.loads((disturbed / "b.json").read_text())["runs"][2]
        assert failed["stage"] == "experiment_results"
        assert "the database is not available" in failed["reason"]
        assert reference.result() == 0, (undisturbed / "output").read_text()
        whole, left = (dump(database) for database in databases)
        [not_completed] = differences(whole, left)["processing_runs"][1]
        assert dict(not_completed)["status"] in ('"running"', '"failed"')
        stored = [left[table].total() for table in ("snapshots", "experiment_runs", "forecast_digests")]
        assert stored == [4, 6, 3], "of the run that failed there is the snapshot alone"

        code = run_to_its_end(disturbed, settings)
        assert code == 0, (disturbed / "output").read_text()
        assert outcomes(disturbed) == ["stored_before", "stored_before", "stored", "stored_before"]
    assert differences(whole, dump(databases[1])).keys() <= {"model_calls"}, "which say when each call was made"
    assert calls_of_models(exchange) == 2 * whole["model_calls"].total(), (
        "what was answered is in the transcript, and not paid for again"
    )
