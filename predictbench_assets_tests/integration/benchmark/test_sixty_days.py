"""Sixty days of a world whose edges are known: the boards find them, in the right order, and find no others."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import combinations

import pytest

from predictbench_assets.scoring.boards import BoardName, BoardRow, Leaderboard
from predictbench_assets_tests.integration.benchmark.planted import PLANTED, WITHOUT_EDGE
from predictbench_assets_tests.integration.benchmark.season import BUILT_IN, Season, correct_one, days, season, whole

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

MARKETS = 40
BOARDS: tuple[BoardName, ...] = ("core", "full")
CONTROLS = {"uniform", "base_rate", "shuffled_price", "price_24h_ago"}


@dataclass(frozen=True)
class Played:
    """A season that is over, and what was known half-way."""

    season: Season
    ended: datetime
    board: Leaderboard
    half_way: datetime
    board_half_way: Leaderboard

    def rows(self, board: BoardName) -> dict[str, BoardRow]:
        """The rows that are cut by nothing."""
        return whole(self.board, board)

    def truth(self, board: BoardName) -> dict[str, float]:
        """The edge that each experiment deserves."""
        return {name: edge for name, (_, edge) in self.season.true_edges(core=board == "core").items()}


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory, season_database: str) -> Iterator[Played]:
    """Sixty daily runs, a sweep after every tenth, and one when all has settled."""
    folder = tmp_path_factory.mktemp("season")
    with season(folder, season_database, PLANTED, BUILT_IN, markets=MARKETS) as running:
        run_dates = days(60)
        half_way = board_half_way = None
        for place, run_date in enumerate(run_dates, start=1):
            assert running.day(run_date).exit_code == 0, f"the daily run of {run_date} failed"
            if place % 10 == 0:
                swept = running.sweep(run_date)
                assert swept.success
            if place == 30:
                half_way = running.daily.sandbox.now
                board_half_way = running.board(half_way)
        assert running.sweep(run_dates[-1] + timedelta(days=33)).success
        ended = running.daily.sandbox.now
        assert half_way is not None
        assert board_half_way is not None
        yield Played(running, ended, running.board(ended), half_way, board_half_way)


@pytest.mark.parametrize("board", BOARDS)
def test_every_edge_that_can_be_seen_is_found_with_its_sign(played: Played, board: BoardName) -> None:
    rows, truth = played.rows(board), played.truth(board)
    seen = set()
    for name, edge in truth.items():
        row = rows[name]
        # None for those that are the price: what never varies has no least edge.
        if row.minimum_detectable_edge is not None and abs(edge) >= 2 * row.minimum_detectable_edge:
            seen.add(name)
            found = row.edge_low if edge > 0 else row.edge_high
            assert found is not None
            assert found * edge > 0, f"{name} deserves {edge:+.4f}, the board says {row.edge_low} to {row.edge_high}"
    assert seen >= {"oracle", "half_oracle", "faint_oracle", "contrarian", "noisy", "uniform"}


@pytest.mark.parametrize("board", BOARDS)
def test_the_interval_holds_the_edge_that_was_deserved(played: Played, board: BoardName) -> None:
    """Of intervals at 95 % some may miss, all on the same markets; none misses by its own width again."""
    rows, truth = played.rows(board), played.truth(board)
    for name, edge in truth.items():
        row = rows[name]
        assert row.mean_edge is not None
        assert row.edge_low is not None
        assert row.edge_high is not None
        width = row.edge_high - row.edge_low
        assert abs(row.mean_edge - edge) <= width + 1e-12, f"{name} deserves {edge:+.4f}: {row}"


@pytest.mark.parametrize("board", BOARDS)
def test_experiments_that_differ_stand_in_the_right_order(played: Played, board: BoardName) -> None:
    rows, truth = played.rows(board), played.truth(board)
    pairs = 0
    for better, worse in combinations(sorted(truth, key=lambda name: -truth[name]), 2):
        one, other = rows[better], rows[worse]
        if truth[better] - truth[worse] <= _half_width(one) + _half_width(other):
            continue
        pairs += 1
        assert one.mean_edge is not None
        assert other.mean_edge is not None
        assert one.mean_edge > other.mean_edge, f"{better} is better than {worse}"
        if one.rank is not None and other.rank is not None:
            assert one.rank < other.rank, f"{better} is better than {worse}"
    assert pairs >= 20, "hardly any pair of experiments was compared"
    ranked = [row for row in rows.values() if row.rank is not None]
    assert [row.experiment for row in sorted(ranked, key=lambda row: row.rank or 0)][:2] == ["oracle", "half_oracle"]


@pytest.mark.parametrize("board", BOARDS)
def test_of_two_experiments_the_better_one_is_found_better(played: Played, board: BoardName) -> None:
    truth = played.truth(board)
    found = [pair for pair in played.board.comparisons if pair.board == board and pair.significant]
    assert len(found) >= 20, "hardly any pair of experiments was told apart"
    for pair in found:
        deserved = truth[pair.first.split()[0]] - truth[pair.second.split()[0]]
        assert pair.mean_difference is not None
        assert pair.mean_difference * deserved > 0, f"{pair} and not {deserved:+.4f}"


@pytest.mark.parametrize("board", BOARDS)
def test_nobody_without_an_edge_is_declared_a_winner(played: Played, board: BoardName) -> None:
    rows = played.rows(board)
    for name in (*WITHOUT_EDGE, *CONTROLS):
        low = rows[name].edge_low
        assert low is not None
        assert low <= 0, f"{name} has no edge, and the board says at least {low}"
    for name in CONTROLS:
        assert rows[name].control
        assert rows[name].rank is None
    assert not any("control_beats_market" in row.flags for row in played.board.rows)


def test_an_echo_is_called_one(played: Played) -> None:
    row = played.rows("core")["echo"]
    assert row.mean_edge == row.edge_low == row.edge_high == 0.0
    assert "price_echo" in row.flags


def test_the_board_of_half_the_season_is_rebuilt(played: Played) -> None:
    """Thirty runs and four sweeps later nothing of it has moved."""
    assert played.season.board(played.half_way) == played.board_half_way
    assert any("provisional" in row.flags for row in played.board_half_way.rows)
    assert played.board_half_way != played.board


def _half_width(row: BoardRow) -> float:
    assert row.edge_low is not None
    assert row.edge_high is not None
    return (row.edge_high - row.edge_low) / 2


def test_a_resolution_changed_afterwards_scores_one_market_again(played: Played) -> None:
    """The last test here, since it changes the season."""
    correct_one(played.season, played.ended)
    assert played.season.board(played.ended) == played.board
    assert played.season.board(played.half_way) == played.board_half_way
