"""Eight days of a small world, from the daily run to the board: what the sixty days prove, as far as it shows here."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import dagster as dg
import pytest

from predictbench_assets.scoring.boards import Leaderboard
from predictbench_assets_tests.integration.benchmark.planted import Contrarian, Echo, Oracle
from predictbench_assets_tests.integration.benchmark.season import (
    BUILT_IN,
    WINDOW,
    Season,
    correct_one,
    days,
    season,
    whole,
)

DAYS = 8
MARKETS = 20


@dataclass(frozen=True)
class Played:
    """A season that is over."""

    season: Season
    swept: dg.ExecuteInProcessResult
    ended: datetime
    board: Leaderboard


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory, season_database: str) -> Iterator[Played]:
    """Eight daily runs, and a sweep when all has settled."""
    folder = tmp_path_factory.mktemp("season")
    with season(folder, season_database, (Oracle, Contrarian, Echo), BUILT_IN, markets=MARKETS) as running:
        run_dates = days(DAYS)
        for run_date in run_dates:
            assert running.day(run_date).exit_code == 0, f"the daily run of {run_date} failed"
        swept = running.sweep(run_dates[-1] + timedelta(days=33), report=True)
        assert swept.success
        ended = running.daily.sandbox.now
        yield Played(running, swept, ended, running.board(ended))


def test_every_market_settles_as_the_world_says(played: Played) -> None:
    found = played.season.daily.rows("SELECT market_id, state, outcome FROM predictbench.market_resolutions")
    assert len(found) == played.season.daily.count("processed_markets") > DAYS * MARKETS / 2
    for market_id, state, outcome in found:
        market = played.season.world.market(market_id)
        assert market is not None
        assert (state, outcome) == ("final", market.settlement.payout[0])


def test_every_forecast_of_a_settled_market_has_its_score(played: Played) -> None:
    [(forecasts,)] = played.season.daily.rows(
        "SELECT count(*) FROM predictbench.experiment_results WHERE status = 'completed'"
    )
    assert len(played.season.scores()) == forecasts


def test_the_board_tells_good_from_bad(played: Played) -> None:
    rows = whole(played.board, "core")
    truth = played.season.true_edges(core=True)
    for name, (markets, _) in truth.items():
        assert rows[name].n_markets == markets
    oracle, contrarian = rows["oracle"], rows["contrarian"]
    assert oracle.mean_edge is not None
    assert contrarian.mean_edge is not None
    assert oracle.mean_edge > 0 > contrarian.mean_edge
    assert rows["echo"].mean_edge == rows["baseline_snapshot"].mean_edge == 0.0
    assert "price_echo" in rows["echo"].flags
    assert not any("control_beats_market" in row.flags for row in played.board.rows)
    assert {row.window_days for row in played.board.rows} == {WINDOW}


def test_a_sweep_that_finds_nothing_new_changes_nothing(played: Played) -> None:
    before = played.season.scores(), played.season.daily.count("resolution_observations")
    assert played.season.sweep(played.ended.date()).success
    assert (played.season.scores(), played.season.daily.count("resolution_observations")) == before


def test_a_resolution_changed_afterwards_scores_one_market_again(played: Played) -> None:
    """The last test here, since it changes the season."""
    correct_one(played.season, played.ended)
    assert played.season.board(played.ended) == played.board
    corrected = played.season.board(played.season.daily.sandbox.now)
    assert whole(corrected, "core")["oracle"].brier != whole(played.board, "core")["oracle"].brier
