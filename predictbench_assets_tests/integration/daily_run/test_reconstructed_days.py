"""Days that nobody captured, reconstructed after the fact: settled, scored, and marked wherever they are shown."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, time, timedelta

import pytest
from sqlalchemy import Engine

from predictbench_assets.database.connection import make_engine
from predictbench_assets.persistence.stored_runs import run_states
from predictbench_assets.resolution.ledger import pending_markets
from predictbench_assets.runs import RunKey
from predictbench_assets.sandbox.world import World
from predictbench_assets.scoring.store.boards import rebuild_leaderboard
from predictbench_assets.scoring.store.scores import score_settled
from predictbench_assets_tests.kit.daily_run import BASELINE, NOW, DailyRun, MakeRun, Ran
from predictbench_assets_tests.kit.sweeps import Swept

DAYS = (RunKey(date(2026, 2, 10), 3), RunKey(date(2026, 2, 11), 3))
CONTROL = "predictbench_assets.experiments.builtin.controls:UniformExperiment"


@dataclass(frozen=True)
class Played:
    """The days, run and swept."""

    daily: DailyRun
    engine: Engine
    world: World
    runs: tuple[Ran, ...]


@pytest.fixture(scope="module")
def played(make_run: MakeRun) -> Iterator[Played]:
    """Both days, run weeks later, and one sweep."""
    world = World(markets_per_day=40)
    daily = make_run(world, PROCESSING_EXPERIMENTS=f"{BASELINE},{CONTROL}", PREDICTBENCH_NOW=NOW.isoformat())
    runs = tuple(daily.here(key, {"raw_markets": {"reconstruct": True}}) for key in DAYS)
    assert [one.exit_code for one in runs] == [0, 0]
    engine = make_engine(daily.database_url)
    Swept(engine, daily.sandbox, world).again()
    score_settled(engine, NOW + timedelta(minutes=1))
    yield Played(daily, engine, world, runs)
    engine.dispose()


def test_they_are_settled_and_scored_on_the_backfill_board_alone(played: Played) -> None:
    stored = int(played.daily.rows("SELECT count(*) FROM predictbench.processed_markets")[0][0])
    scored = int(played.daily.rows("SELECT count(*) FROM predictbench.experiment_scores")[0][0])
    assert scored > stored > 20
    board = rebuild_leaderboard(played.engine, NOW + timedelta(hours=1))
    whole = {one.experiment: one for one in board.rows if one.is_whole}
    assert {(one.board, one.reconstructed) for one in board.rows} == {("backfill", True)}
    assert set(whole) == {"baseline_snapshot", "uniform"}
    assert whole["baseline_snapshot"].mean_edge == 0.0
    assert whole["uniform"].n_markets == whole["uniform"].n_board - whole["uniform"].n_splits > 20
    assert all(one.reconstructed for one in board.cohorts)


def test_a_market_counts_as_open_at_the_hour_of_the_run(played: Played) -> None:
    """Not at the crawl of weeks later: a close of after that hour is believed, and forecasts count up to it."""
    ids = [row[0] for row in played.daily.rows("SELECT DISTINCT market_id FROM predictbench.processed_markets")]
    assert {one.open_at for one in pending_markets(played.engine, ids)} == {key.at(time(7)) for key in DAYS}
    assert played.daily.rows(
        "SELECT count(*) FROM predictbench.resolution_observations WHERE closed_time IS NULL AND state = 'final'"
    ) == [(0,)]


def test_the_calendar_has_them_as_reconstructed(played: Played) -> None:
    states = run_states(played.engine, NOW + timedelta(hours=1))
    assert {key: (one.status, one.reconstructed) for key, one in states.items()} == dict.fromkeys(
        DAYS, ("completed", True)
    )
