"""A run that is killed, wherever that happens, and run again, leaves what an undisturbed run leaves."""

import random
import signal
from pathlib import Path

import pytest

from predictbench_assets.experiments.journal import Journal, JournalKey
from predictbench_assets.sandbox.world import World
from predictbench_assets_tests.integration.daily_run.experiments import CALLS
from predictbench_assets_tests.kit.daily_run import BASELINE, EXPERIMENT, KEY, DailyRun, MakeRun, Tables, differences

MARKETS = 40
SETTINGS = {"PROCESSING_EXPERIMENTS": f"{BASELINE},{EXPERIMENT}:Noted"}

RECORDS = "predictbench_assets.persistence.run_contents:RunContents.records"
POINTS = {
    "target_window": "predictbench_assets.staging:StagingArea.publish:before:1",
    "raw_markets, in the walk": "predictbench_assets.exchanges.polymarket.client:PolymarketClient._read_page:after:7",
    "raw_markets, before its registration": "predictbench_assets.persistence.snapshots:register_snapshot:before:1",
    "raw_markets, before Dagster knows": "predictbench_assets.persistence.snapshots:register_snapshot:after:1",
    "normalized_markets": "predictbench_assets.markets.cohort:normalize_cohort:after:1",
    "an experiment, before its first answer": f"{EXPERIMENT}:Noted.run:before:1",
    "an experiment, in its middle": f"{EXPERIMENT}:Noted.run:before:30",
    "an experiment, before its file": "predictbench_assets.experiments.outcomes:content_hash:after:2",
    "persisted_run, before the first batch": f"{RECORDS}:before:1",
    "persisted_run, between batches": f"{RECORDS}:before:36",
    "persisted_run, before the end": "predictbench_assets.persistence.leases:Lease.finish:before:1",
    "persisted_run, before Dagster knows": "predictbench_assets.persistence.leases:Lease.finish:after:1",
}


@pytest.fixture(scope="module")
def undisturbed(make_run: MakeRun) -> Tables:
    """What a run that nobody disturbs leaves in the database."""
    daily = make_run(World(markets_per_day=MARKETS), **SETTINGS)
    assert daily.here().exit_code == 0
    return daily.tables()


@pytest.mark.parametrize("point", POINTS.values(), ids=POINTS)
def test_a_killed_run_is_finished_by_the_next(
    point: str, make_run: MakeRun, tmp_path: Path, undisturbed: Tables
) -> None:
    calls = tmp_path / "calls"
    calls.touch()
    daily = make_run(World(markets_per_day=MARKETS), **SETTINGS, **{CALLS: str(calls)})

    killed = daily.forked(killed_at=point)
    assert killed.exit_code == -signal.SIGKILL, killed.output
    [(status, dagster_run)] = daily.rows("SELECT status, dagster_run_id FROM predictbench.processing_runs")
    assert status == ("completed" if "Lease.finish:after" in point else "running")
    before = calls.read_text().split()
    journalled = _journalled(daily)
    if "run:before:30" in point:
        assert journalled
    if "records:before:36" in point:
        assert 0 < daily.count("processed_markets") < MARKETS

    again = daily.here()

    assert again.exit_code == 0
    assert not differences(undisturbed, daily.tables())
    repeated = calls.read_text().split()[len(before) :]
    assert not journalled & set(repeated)
    stored = daily.rows("SELECT market_id FROM predictbench.processed_markets")
    assert {*before, *repeated} == {market_id for (market_id,) in stored}
    attempts = daily.rows(
        "SELECT attempt, status, dagster_run_id = %s FROM predictbench.processing_attempts ORDER BY attempt",
        dagster_run,
    )
    first = "completed" if status == "completed" else "interrupted"
    assert attempts == [(1, first, True), (2, "completed", False)]
    assert again.said["processed_markets"] == MARKETS


@pytest.mark.long
@pytest.mark.parametrize("seed", [1, 2])
def test_a_run_that_is_killed_again_and_again_is_finished_in_the_end(
    seed: int, make_run: MakeRun, tmp_path: Path, undisturbed: Tables
) -> None:
    calls = tmp_path / "calls"
    calls.touch()
    daily = make_run(World(markets_per_day=MARKETS), **SETTINGS, **{CALLS: str(calls)})
    draw = random.Random(seed)

    for _ in range(8):
        daily.forked(killed_after=draw.uniform(0.5, 4.0))
    ended = daily.forked()

    assert ended.exit_code == 0, ended.output
    assert not differences(undisturbed, daily.tables())
    # Only calls that were under way, or not yet in the journal, at a kill are made again.
    noted = calls.read_text().split()
    assert len(set(noted)) == MARKETS
    assert len(noted) < 2 * MARKETS


def _journalled(daily: DailyRun) -> set[str]:
    """The markets whose forecast by `noted` was durable when the process was killed."""
    known: set[str] = set()
    prefix = f"journals/{KEY.slug}/noted"
    for name in daily.staging.list(prefix):
        version, snapshot, config = name.split("/")[3].split("_")
        key = JournalKey(KEY.slug, "noted", version, snapshot, config)
        known |= Journal(daily.staging, key, "reader").load().keys()
    return known
