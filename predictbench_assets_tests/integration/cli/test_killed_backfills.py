"""A backfill of days that are reconstructed, with processes killed in the middle of it again and again."""

import json
import subprocess
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
from sqlalchemy import Engine, text

from predictbench_assets.sandbox.server import SandboxServer
from predictbench_assets_tests.kit.backfills import (
    BACKFILL,
    NOW,
    calls_of_models,
    declare_paid,
    exchange_weeks_later,
    paid_settings,
)
from predictbench_assets_tests.kit.commands import command
from predictbench_assets_tests.kit.daily_run import BASELINE, Tables, differences, dump

LOGS = {"model_calls", "processing_failures"}
"""Tables that say what was tried, and when."""
CLIENT = "predictbench_assets.exchanges.polymarket.client:PolymarketClient"
POINTS = {
    "target_window": "child predictbench_assets.ingestion.window:open_window:before:1",
    "raw_markets, in the walk": f"child {CLIENT}._read_page:after:2",
    "raw_markets, in the histories": f"both {CLIENT}._histories_of:after:1",
    "normalized_markets": "both predictbench_assets.markets.cohort:normalize_cohort:after:1",
    "an experiment": "both predictbench_assets.experiments.model_calls.store:PaidCalls.settle:before:3",
    "persisted_run": "child predictbench_assets.persistence.run_contents:RunContents.records:before:12",
}
"""Whose end it is, and where."""
LETHAL = """\
import os, sys
from pathlib import Path
from predictbench_assets.experiments.builtin.controls import UniformExperiment
from predictbench_assets_tests.kit import killing

HERE = Path(__file__).parent
left = (HERE / "points").read_text().splitlines()
if sys.argv[0].endswith("backfill_process.py") and left:
    # The next process that a backfill starts is for the next point.
    whose, point = left[0].split(" ")
    (HERE / "points").write_text("\\n".join(left[1:]))

    def victims():
        (HERE / "reached").open("a").write(f"{left[0]}\\n")
        return [os.getpid()] if whose == "child" else [os.getppid(), os.getpid()]

    killing.arm(point, victims)
"""


@pytest.fixture
def exchange() -> Iterator[SandboxServer]:
    """A small exchange, weeks after the days of the backfill."""
    with exchange_weeks_later() as server:
        yield server


WHOLE = """
    SELECT r.status, r.processed_markets = count(m.*), count(m.*) = count(DISTINCT m.market_id), count(m.*) = count(e.*)
    FROM predictbench.processing_runs r JOIN predictbench.processed_markets m USING (run_id)
    LEFT JOIN predictbench.latest_experiment_results e USING (processed_market_id) GROUP BY r.run_id
"""


def run_to_its_end(folder: Path, environment: Mapping[str, str]) -> int:
    """Run the backfill until it and the processes that it has started have ended."""
    children: set[psutil.Process] = set()
    with (
        (folder / "output").open("a") as output,
        subprocess.Popen(command(*BACKFILL), cwd=folder, env=environment, stdout=output, stderr=output) as process,
    ):
        while process.poll() is None:
            with suppress(psutil.NoSuchProcess):
                children.update(psutil.Process(process.pid).children())
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
    _, alive = psutil.wait_procs(children, timeout=60)
    assert alive == []
    return process.returncode


@pytest.mark.long
def test_after_any_number_of_kills_everything_is_there_once(
    environment: Mapping[str, str],
    exchange: SandboxServer,
    new_database: Callable[[], str],
    tmp_path: Path,
) -> None:
    paid: list[int] = []
    tables: list[Tables] = []
    for points in ([], list(POINTS.values())):
        folder, database = tmp_path / str(len(paid)), new_database()
        declare_paid(folder, exchange)
        (folder / "lethal.py").write_text(LETHAL)
        (folder / "points").write_text("\n".join(points))
        settings = {
            **paid_settings(tmp_path, exchange),
            "DATABASE_URL": database,
            "PROCESSING_EXPERIMENTS": f"{BASELINE},lethal:UniformExperiment",
        }
        exchange.app.requests.clear()
        codes = [run_to_its_end(folder, {**environment, **settings})]
        while points and codes[-1] != 0 and len(codes) <= len(POINTS):
            codes.append(run_to_its_end(folder, {**environment, **settings}))
        assert codes[-1] == 0, (folder / "output").read_text()
        paid.append(calls_of_models(exchange))
        tables.append(dump(database))

    assert (folder / "reached").read_text().splitlines() == list(POINTS.values())
    runs = json.loads((folder / "b.json").read_text())["runs"]
    assert {run["outcome"] for run in runs} <= {"stored", "stored_before"}
    assert paid == [paid[0], paid[0] + 1], "the call that was under way may have been paid for, and is asked again"
    found = differences(*({name: rows for name, rows in one.items() if name not in LOGS} for one in tables))
    assert found.keys() <= {"experiment_results"}
    [[once], [again]] = found["experiment_results"]
    assert {name for name, value in once if dict(again)[name] != value} == {"cost", "requests"}


@pytest.mark.long
def test_two_backfills_of_the_same_days_at_once_leave_each_day_once(
    environment: Mapping[str, str], exchange: SandboxServer, engine: Engine, tmp_path: Path
) -> None:
    settings = {**environment, "PREDICTBENCH_NOW": NOW.isoformat(), "PROCESSING_EXPERIMENTS": BASELINE}
    with ThreadPoolExecutor(2) as pool:
        codes = list(pool.map(lambda _: run_to_its_end(tmp_path, settings), range(2)))
    assert set(codes) <= {0, 1, 3}, (tmp_path / "output").read_text()
    assert run_to_its_end(tmp_path, settings) == 0, (tmp_path / "output").read_text()
    with engine.connect() as connection:
        assert [tuple(row) for row in connection.execute(text(WHOLE))] == [("completed", True, True, True)] * 4
