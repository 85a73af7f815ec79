"""A day that its schedule missed: running it later fails with the reason, and it stays known as missed."""

from datetime import timedelta

from predictbench_assets.clock import FixedClock
from predictbench_assets.database.engine import make_engine
from predictbench_assets.persistence.leases import record_missed
from predictbench_assets.sandbox.world import World
from predictbench_assets_tests.kit.daily_run import BASELINE, KEY, NOW, MakeRun


def test_a_missed_day_cannot_be_run_later_and_stays_missed(make_run: MakeRun) -> None:
    daily = make_run(World(markets_per_day=5), PROCESSING_EXPERIMENTS=BASELINE)
    record_missed(
        make_engine(daily.database_url, pool_size=0),
        [KEY],
        reason="the schedule was late",
        holder="host:1",
        exchange="localhost",
        git_sha=None,
        clock=FixedClock(NOW + timedelta(days=1)),
    )

    ran = daily.here(PREDICTBENCH_NOW=(NOW + timedelta(days=1)).isoformat(), PAST_SNAPSHOTS="refuse")

    assert ran.exit_code == 1
    assert (ran.said["status"], ran.said["stage"], ran.said["attempt"]) == ("failed", "raw_markets", 2)
    assert "a missed day cannot be captured later" in ran.said["reason"]
    assert daily.run_row("status", "stage", "reason") == ("missed", "target_window", "the schedule was late")
    assert daily.rows("SELECT attempt, status, stage FROM predictbench.processing_attempts") == [
        (2, "failed", "raw_markets")
    ]
    assert not sum(daily.sandbox.requests.values())
