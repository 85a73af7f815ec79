"""Runs that are told to stop, and runs that meet another one: real processes."""

import random
import signal
import threading
from pathlib import Path

import pytest

from predictbench_assets.sandbox.models.server import StandIn
from predictbench_assets.sandbox.world import World
from predictbench_assets_tests.integration.daily_run.experiments import GATE
from predictbench_assets_tests.kit.daily_run import BASELINE, EXPERIMENT, MakeRun, Tables, differences

SETTINGS = {"PROCESSING_EXPERIMENTS": f"{BASELINE},{EXPERIMENT}:Gated"}


@pytest.fixture(scope="module")
def undisturbed(make_run: MakeRun) -> Tables:
    """What a run that nobody disturbs leaves in the database."""
    daily = make_run(World(markets_per_day=20), **SETTINGS)
    assert daily.here().exit_code == 0
    return daily.tables()


def test_of_two_runs_at_once_the_newer_wins(make_run: MakeRun, tmp_path: Path, undisturbed: Tables) -> None:
    daily = make_run(World(markets_per_day=20), **SETTINGS)
    gate = tmp_path / "gate"
    with daily.started(name="older", **{GATE: str(gate)}) as older:
        older.wait_for(Path(f"{gate}.reached").exists)
        newer = daily.process(name="newer")
        staged = [daily.staging.peek(name) for name in daily.staging.list("experiment_results")]
        gate.touch()
        loser = older.ended()
    assert staged == [daily.staging.peek(name) for name in daily.staging.list("experiment_results")]

    assert newer.exit_code == 0, newer.output
    assert newer.said["status"] == "completed"
    assert loser.exit_code == 1, loser.output
    [(host,)] = daily.rows("SELECT holder FROM predictbench.processing_attempts WHERE attempt = 2")
    words = f"attempt 1 of the run 2026-03-02|7 stops: attempt 2 took over at 2026-03-02T07:00:00+00:00 (held by {host}"
    assert words in loser.output
    assert loser.said["status"] == "failed"
    assert loser.said["attempt"] == 1
    assert loser.said["reason"].startswith(words)
    assert not differences(undisturbed, daily.tables())
    assert daily.rows("SELECT attempt, status FROM predictbench.processing_attempts ORDER BY attempt") == [
        (1, "interrupted"),
        (2, "completed"),
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_run_that_is_told_to_stop_stops_and_can_be_run_again(
    number: signal.Signals, make_run: MakeRun, tmp_path: Path, undisturbed: Tables
) -> None:
    daily = make_run(World(markets_per_day=20), **SETTINGS)
    gate = tmp_path / "gate"
    with daily.started(**{GATE: str(gate)}) as started:
        started.wait_for(Path(f"{gate}.reached").exists)
        started.process.send_signal(number)
        # A thread cannot be stopped from outside: the experiment's own code ends by itself, here a little later.
        threading.Timer(0.5, gate.touch).start()
        stopped = started.ended(within=30)

    assert stopped.exit_code == 1, stopped.output
    status, stage, reason = daily.run_row("status", "stage", "reason")
    assert (status, stage) == ("failed", "experiment_results")
    assert reason.startswith("stopped by a signal")
    assert daily.count("processed_markets") == 0
    assert daily.rows("SELECT market_id FROM predictbench.processing_failures WHERE market_id IS NOT NULL") == []

    assert daily.here().exit_code == 0
    assert not differences(undisturbed, _without_attempt_one(daily.tables()))


PAID = """\
[paid]
kind = "language_model"
model = "openai:stand-in-slow-0.05"
base_url = "{address}"
api_key = "STAND_IN_API_KEY"
limits = {{concurrency = {concurrency}}}
"""
CONCURRENCY = 4


def stop_at_random(make_run: MakeRun, folder: Path, stand_in: StandIn, *, stops: int, seed: int, **more: str) -> None:
    """Stop a paid run again and again, end it, and see that every answer that came is used and not paid for again."""
    (declared := folder / "declared.toml").write_text(PAID.format(address=stand_in.base_url, concurrency=CONCURRENCY))
    markets = 40 * stops
    settings = {"PROCESSING_EXPERIMENTS": BASELINE, "EXPERIMENTS_FILE": str(declared), "STAND_IN_API_KEY": "sk-1"}
    daily = make_run(World(markets_per_day=markets), **settings)
    moments = sorted(random.Random(seed).sample(range(1, markets - 20), stops))
    for number, at_least in enumerate(moments, start=1):
        with daily.started(**more) as started:
            started.wait_for(lambda least=at_least: stand_in.counts["delivered"] >= least)  # type: ignore[misc]
            started.process.send_signal(signal.SIGTERM)
            stopped = started.ended(within=30)
        assert stopped.exit_code == 1, stopped.output
        status, stage, reason = daily.run_row("status", "stage", "reason")
        assert (status, stage) == ("failed", "experiment_results")
        assert reason.startswith("stopped by a signal")
        under_way = daily.rows("SELECT unit_id FROM predictbench.model_calls WHERE status = 'unknown'")
        assert len(under_way) <= CONCURRENCY * number
        # What came back is kept; what was claimed may not have been sent.
        assert daily.count("model_calls") - len(under_way) >= at_least

    ran = daily.here()

    assert ran.exit_code == 0
    assert ran.said["experiments"]["paid"]["completed"] == markets
    calls = daily.rows("SELECT unit_id, status FROM predictbench.model_calls")
    unknown = [unit for unit, status in calls if status == "unknown"]
    assert sorted({unit for unit, status in calls if status == "answered"}) == sorted({unit for unit, _ in calls})
    assert stand_in.counts["requests"] <= len(calls) == markets + len(unknown)
    assert len(unknown) <= CONCURRENCY * stops
    assert [row[0] for row in daily.rows("SELECT status FROM predictbench.processing_attempts ORDER BY attempt")] == [
        *["failed"] * stops,
        "completed",
    ]


def test_a_paid_run_that_is_told_to_stop_uses_every_answer(
    make_run: MakeRun, tmp_path: Path, stand_in: StandIn
) -> None:
    stop_at_random(make_run, tmp_path, stand_in, stops=1, seed=1)


@pytest.mark.long
@pytest.mark.parametrize(("executor", "stops"), [("in_process", 5), ("multiprocess", 2)])
def test_a_paid_run_that_is_told_to_stop_several_times_uses_every_answer(
    executor: str, stops: int, make_run: MakeRun, tmp_path: Path, stand_in: StandIn
) -> None:
    stop_at_random(make_run, tmp_path, stand_in, stops=stops, seed=5, EXECUTOR=executor)


def _without_attempt_one(tables: Tables) -> Tables:
    """Without the failure of the run itself that the stopped attempt may have recorded."""
    return {**tables, "processing_failures": type(tables["processing_failures"])()}
