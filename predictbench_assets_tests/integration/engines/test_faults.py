"""Faults against engines: the same rows as in one process, no answer paid for twice, the true reason told."""

import itertools
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from predictbench_assets_tests.integration.engines.launcher import ENGINES, STEP, Launcher, MakeLauncher, family
from predictbench_assets_tests.kit.daily_run import DailyRun, differences
from predictbench_assets_tests.kit.ray_cluster import RayCluster

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]
of_other_machines = pytest.mark.parametrize("launcher", ["elsewhere", "ray"], indirect=True)
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")


def differing(one: DailyRun, other: DailyRun) -> dict[str, set[str]]:
    """The columns that differ, by table; that a run has failed before is no difference."""
    found = {}
    for table, both in differences(one.tables(), other.tables()).items():
        if table == "processing_failures":
            both = tuple([row for row in rows if ("market_id", "null") not in row] for rows in both)
        if any(both):
            found[table] = {name for name, _ in {*itertools.chain(*both[0])} ^ {*itertools.chain(*both[1])}}
    return found


@pytest.fixture(params=ENGINES)
def launcher(request: pytest.FixtureRequest, make_launcher: MakeLauncher) -> Iterator[Launcher]:
    made = make_launcher(request.param)
    yield made
    made.gate.touch()  # nothing is left waiting


def goes_on(launcher: Launcher, alone: DailyRun, durable: set[str], *, at_once: int = 2) -> None:
    """Run it again: the same rows, and nobody is asked twice whose answer was durable."""
    launcher.gate.touch()
    code = launcher.run()
    assert code == 0, launcher.shown
    assert launcher.row("status") == "completed"
    assert not differing(alone, launcher.daily)
    calls = launcher.calls()
    assert all(calls[market] == 1 for market in durable), "an answer that was durable was paid for again"
    assert calls.total() - len(calls) <= at_once, f"more than what was under way was paid for again: {calls}"


def test_a_whole_run_and_its_shards(launcher: Launcher, in_one_process: DailyRun) -> None:
    launcher.shards = 3

    assert launcher.run() == 0, launcher.shown

    assert not differing(in_one_process, launcher.daily)
    assert set(launcher.calls().values()) == {1}
    assert launcher.said["status"] == "completed"
    assert launcher.row("status", "attempt", "reason") == ("completed", 1, None)


def test_the_process_of_a_step_is_killed(launcher: Launcher, in_one_process: DailyRun) -> None:
    with launcher.launched(halts=True) as process:
        launcher.halted(process)
        durable = launcher.durable()
        launcher.step(process).kill()
        launcher.gate.touch()
        code = process.wait(timeout=900)

    if launcher.engine in ("in_process", "multiprocess"):  # the command has begun again by itself
        assert (code, launcher.row("status")) == (0, "completed"), launcher.shown
    else:
        assert code != 0, launcher.shown
        assert launcher.row("status", "stage") == ("failed", "experiment_results")
    goes_on(launcher, in_one_process, durable)


def test_the_machine_of_a_step_is_killed(
    make_launcher: MakeLauncher, cluster: RayCluster, in_one_process: DailyRun
) -> None:
    launcher = make_launcher("ray")
    launcher.op_tags = {"dagster-ray/config": {"resources": {"second": 1}}}
    with cluster.node("second") as node, launcher.launched(halts=True) as process:
        launcher.halted(process)
        durable = launcher.durable()
        assert node.step(STEP) is not None
        node.kill()
        assert process.wait(timeout=900) != 0, launcher.shown

    assert launcher.row("status", "stage") == ("failed", "experiment_results")
    launcher.op_tags = {}
    goes_on(launcher, in_one_process, durable)


def test_the_launcher_is_killed(launcher: Launcher, in_one_process: DailyRun) -> None:
    with launcher.launched(halts=True) as process:
        launcher.halted(process)
        durable = launcher.durable()
        if launcher.engine != "elsewhere":  # its machines are children of the launcher
            dying = family(process.pid)
        else:
            dying = [one for one in family(process.pid) if one.pid != launcher.step(process).pid]
        for one in dying:
            one.kill()
        process.wait()
        goes_on(launcher, in_one_process, durable)


def test_the_launcher_is_told_to_end(launcher: Launcher, in_one_process: DailyRun) -> None:
    with launcher.launched(halts=True) as process:
        launcher.halted(process)
        durable, step = launcher.durable(), launcher.step(process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=300) != 0
        step.wait(timeout=60)

    assert launcher.row("status", "stage") == ("failed", "experiment_results")
    assert "signal" in launcher.row("reason")
    goes_on(launcher, in_one_process, durable)


def test_the_run_is_cancelled_in_the_ui(launcher: Launcher, in_one_process: DailyRun) -> None:
    with launcher.launched(halts=True) as process:
        launcher.halted(process)
        durable, step = launcher.durable(), launcher.step(process)
        with launcher.instance() as instance:
            [run] = instance.get_runs()
            instance.report_run_canceling(run)
        step.wait(timeout=120)
        paid = launcher.calls().total()
        assert process.wait(timeout=300) != 0

    assert paid <= 12
    assert launcher.row("status") == "failed"
    goes_on(launcher, in_one_process, durable)


@of_other_machines
def test_a_step_is_delivered_twice(launcher: Launcher, in_one_process: DailyRun) -> None:
    with launcher.launched(halts=True) as process:
        launcher.halted(process)
        step = launcher.step(process)
        subprocess.run(
            [
                sys.executable,
                "-m",
                "dagster",
                "api",
                "execute_step",
                *step.cmdline()[step.cmdline().index("execute_step") + 1 :],
            ],
            env=step.environ(),
            cwd=step.cwd(),
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        launcher.gate.touch()
        assert process.wait(timeout=600) == 0, launcher.shown

    assert not differing(in_one_process, launcher.daily)
    assert set(launcher.calls().values()) == {1}


@pytest.mark.parametrize("shift", ["-3h", "+3h"])
def test_the_clock_of_a_worker_is_off(launcher: Launcher, in_one_process: DailyRun, shift: str) -> None:
    if not FAKETIME.exists():
        pytest.skip("libfaketime is not installed")
    launcher.workers = {"LD_PRELOAD": str(FAKETIME), "FAKETIME": shift, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}

    code = launcher.run()
    assert code == 0, launcher.shown
    assert not differing(in_one_process, launcher.daily)


@of_other_machines
def test_the_settings_of_a_worker_differ(launcher: Launcher) -> None:
    launcher.workers = {"MIN_LIQUIDITY": "5"}

    assert launcher.run() != 0

    reason = launcher.said["reason"]
    assert "MIN_LIQUIDITY is unset there and 5.0 here" in reason
    assert launcher.daily.count("processed_markets") == 0
    assert not launcher.calls()


def test_a_dry_run_stores_nothing(launcher: Launcher) -> None:
    before = launcher.daily.tables()

    assert launcher.run("--dry-run") == 0, launcher.shown

    assert launcher.said["processed_markets"] == 30
    assert not differences(before, launcher.daily.tables())
    assert launcher.daily.count("processing_attempts") == 0
    assert not launcher.machines.exists()
