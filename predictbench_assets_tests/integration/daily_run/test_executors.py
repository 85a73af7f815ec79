"""Steps in processes of their own: experiments that wait do so side by side."""

import json
from datetime import datetime

import pytest

from predictbench_assets.sandbox.world import World
from predictbench_assets_tests.integration.daily_run.experiments import WAIT
from predictbench_assets_tests.kit.daily_run import BASELINE, EXPERIMENT, MakeRun, Ran, differences

SLOW = ("Slow", "Slow2", "Slow3", "Slow4")
SETTINGS = {"PROCESSING_EXPERIMENTS": ",".join([BASELINE, *(f"{EXPERIMENT}:{name}" for name in SLOW)])}


@pytest.mark.long
@pytest.mark.parametrize("wait", [15.0])
def test_four_experiments_that_wait_do_so_together(wait: float, make_run: MakeRun) -> None:
    daily = make_run(World(markets_per_day=5), EXECUTOR="multiprocess", **SETTINGS)

    with daily.started(**{WAIT: str(wait)}) as started:
        ran = started.ended(within=280)

    assert ran.exit_code == 0, ran.output
    began = [_instant(ran, f"experiment_results/slow_{number}", "STEP_START") for number in range(1, 5)]
    ended = [_instant(ran, f"experiment_results/slow_{number}", "STEP_SUCCESS") for number in range(1, 5)]
    slowest = max((end - begin).total_seconds() for begin, end in zip(began, ended, strict=True))
    together = (max(ended) - min(began)).total_seconds()
    assert slowest >= wait
    assert together <= 1.3 * slowest, f"{together:.1f} s for four that take {slowest:.1f} s at most"
    assert ran.said["duration_seconds"] >= together
    assert {name: one["completed"] for name, one in ran.said["experiments"].items()} == dict.fromkeys(
        ("baseline_snapshot", "slow_1", "slow_2", "slow_3", "slow_4"), 5
    )


@pytest.mark.long
def test_steps_in_processes_of_their_own_store_the_same(make_run: MakeRun) -> None:
    one, many = make_run(), make_run(EXECUTOR="multiprocess")

    assert one.here().exit_code == 0
    ran = many.process()

    assert ran.exit_code == 0, ran.output
    assert not differences(one.tables(), many.tables())


@pytest.mark.long
def test_a_step_that_fails_in_a_process_of_its_own_is_reported(make_run: MakeRun) -> None:
    experiments = f"{BASELINE},{EXPERIMENT}:MandatoryFailsForAll"
    daily = make_run(World(markets_per_day=5), EXECUTOR="multiprocess", PROCESSING_EXPERIMENTS=experiments)

    ran = daily.process()

    assert ran.exit_code == 1
    assert daily.run_row("status", "stage", "reason") == ("failed", "persisted_run", ran.said["reason"])
    assert ran.said["reason"].startswith("none of 5 markets could be stored")
    assert ran.said["failed_markets"] == 5
    [why] = ran.said["experiments"]["mandatory_fails_for_all"]["reasons"]
    assert (why["markets"], why["place"].rpartition(" ")[2]) == (5, "run")
    assert [reason.partition(":")[0] for reason in ran.said["failed_by_reason"]] == [
        "mandatory_fails_for_all is mandatory and failed"
    ]


def _instant(ran: Ran, stage: str, event: str) -> datetime:
    """When something happened, by the log."""
    lines = [json.loads(line) for line in ran.output.splitlines() if line.startswith("{")]
    [line] = [line for line in lines if (line["process_stage"], line.get("event")) == (stage, event)]
    return datetime.fromisoformat(line["timestamp"])
