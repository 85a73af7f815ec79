"""Boards: which markets are on them, what a row says, who gets a rank, what is flagged."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime

import msgspec
import numpy as np
import pytest

from predictbench_assets.scoring.boards import BoardName, BoardRow, Leaderboard
from predictbench_assets.scoring.build import build_leaderboard
from predictbench_assets.scoring.forecasts import Cohorts, Entrant, Floats, Forecasts
from predictbench_assets.scoring.intervals import clustered_mean
from predictbench_assets.scoring.rules import edge

AS_OF = datetime(2026, 11, 23, tzinfo=UTC)
MARKETS = 400
Said = Callable[["Floats", "Floats"], "Floats"]


def reference() -> Entrant:
    return Entrant("baseline_snapshot", "1", "market", reference=True)


def settled(markets: int = MARKETS, days: int = 5) -> Cohorts:
    """Markets that all settled at 0 or 1, in pairs of one cluster, evenly over days and two categories."""
    rng = np.random.default_rng(8)
    truth = rng.uniform(0.05, 0.95, markets)
    run_date = np.datetime64("2026-01-01") + np.sort(np.arange(markets) % days).astype("timedelta64[D]")
    return Cohorts(
        market_id=np.array([str(number) for number in range(markets)], np.object_),
        run_date=run_date,
        window_days=np.full(markets, 7),
        end_date=run_date + np.timedelta64(7, "D"),
        as_of=run_date,
        category=np.array(["politics", "sports"], np.object_)[np.arange(markets) % 2],
        cluster=np.arange(markets) // 2,
        price=np.clip(truth + rng.uniform(-0.1, 0.1, markets), 0.01, 0.99),
        good=np.ones(markets, np.bool_),
        core=np.arange(markets) < markets // 2,
        reconstructed=np.zeros(markets, np.bool_),
        final=np.ones(markets, np.bool_),
        outcome=(rng.random(markets) < truth) * 1.0,
    )


def board_of(
    cohorts: Cohorts,
    said: Sequence[tuple[Entrant, Floats]],
    late: Sequence[Floats] = (),
) -> Leaderboard:
    nothing = np.full((len(said), len(cohorts)), np.nan)
    forecast = np.array([numbers for _, numbers in said]) if said else nothing
    entrants = tuple(entrant for entrant, _ in said)
    leaked = np.zeros(forecast.shape, np.bool_)
    return build_leaderboard(Forecasts(AS_OF, cohorts, entrants, forecast, np.array(late) if late else nothing, leaked))


def row(
    leaderboard: Leaderboard,
    experiment: str,
    board: str = "full",
    category: str = "all",
    price_bin: str = "all",
    *,
    reconstructed: bool = False,
) -> BoardRow:
    wanted = experiment, board, category, price_bin, reconstructed
    (found,) = (
        one
        for one in leaderboard.rows
        if (one.experiment, one.board, one.category, one.price_bin, one.reconstructed) == wanted
    )
    return found


def better(cohorts: Cohorts, by: float = 0.05) -> Floats:
    """Forecasts that know the outcome a little."""
    return np.clip(cohorts.price + by * np.sign(cohorts.outcome - 0.5), 0.0, 1.0)


def entrant(name: str, *, control: bool = False) -> Entrant:
    return Entrant(name, "1", "market", control=control)


def test_a_row_is_what_its_forecasts_come_to() -> None:
    cohorts = settled()
    known = better(cohorts)
    found = row(board_of(cohorts, [(reference(), cohorts.price), (entrant("knows"), known)]), "knows")
    edges = edge(known, cohorts.price, cohorts.outcome)
    by_hand = clustered_mean(edges, cohorts.cluster)
    assert (found.n_markets, found.n_events, found.n_board, found.coverage) == (400, 200, 400, 1.0)
    assert (found.mean_edge, found.edge_low, found.edge_high) == pytest.approx(
        (by_hand.mean, by_hand.low, by_hand.high), abs=1e-9
    )
    assert found.minimum_detectable_edge == pytest.approx(2.8 * (by_hand.se or 0), abs=1e-9)
    by_date = clustered_mean(edges, np.arange(400) // 80)
    assert (found.edge_low_by_date, found.edge_high_by_date) == pytest.approx((by_date.low, by_date.high), abs=1e-9)
    assert found.brier is not None
    assert found.market_brier is not None
    assert found.mean_edge == pytest.approx(found.market_brier - found.brier, abs=1e-9)
    assert found.skill == pytest.approx(1 - found.brier / found.market_brier, abs=1e-8)
    assert found.skill_low is not None
    assert found.skill_high is not None
    assert 0 < found.skill_low < (found.skill or 0) < found.skill_high
    assert found.intention_to_treat_edge == found.mean_edge
    assert found.flags == ()


def test_the_market_against_itself_has_an_edge_of_exactly_0() -> None:
    cohorts = settled()
    found = row(board_of(cohorts, [(reference(), cohorts.price)]), "baseline_snapshot", "core")
    assert (found.mean_edge, found.edge_low, found.edge_high, found.skill) == (0.0, 0.0, 0.0, 0.0)
    assert (found.minimum_detectable_edge, found.effective_n) == (None, None)
    assert (found.rank, found.flags) == (1, ())


def test_each_market_is_on_the_boards_that_its_snapshot_allows() -> None:
    cohorts = settled()
    cohorts = replace(
        cohorts,
        good=np.arange(400) != 0,
        reconstructed=np.arange(400) >= 390,
        price=np.where(np.arange(400) == 0, np.nan, cohorts.price),
    )
    late = np.where(np.arange(400) >= 380, 0.5, np.nan)
    leaderboard = board_of(cohorts, [(entrant("half"), np.full(400, 0.5))], [late])
    boards = {board: row(leaderboard, "half", board) for board in ("core", "full", "backfill")}
    assert {name: one.n_board for name, one in boards.items()} == {"core": 199, "full": 389, "backfill": 10}
    assert boards["backfill"].n_markets == 10
    assert {one.rank for one in boards.values()} <= {1, None}
    assert boards["backfill"].rank is None


def test_reconstructed_markets_are_in_no_mean_with_captured_ones() -> None:
    """Their price comes from a history, which is never a good one; each board's numbers are of its own kind alone."""
    cohorts = settled()
    afterwards = np.arange(400) >= 300
    cohorts = replace(cohorts, reconstructed=afterwards, good=~afterwards, core=np.ones(400, np.bool_))
    in_time, late = np.where(afterwards, np.nan, better(cohorts)), np.where(afterwards, better(cohorts, -0.1), np.nan)
    late[:20] = 0.5
    leaderboard = board_of(cohorts, [(entrant("knows"), in_time)], [late])

    apart = row(leaderboard, "knows", "backfill", reconstructed=True)
    by_hand = clustered_mean(edge(late, cohorts.price, cohorts.outcome)[300:], cohorts.cluster[300:])
    assert (apart.n_board, apart.n_markets, apart.n_events, apart.rank) == (100, 100, 50, None)
    assert (apart.mean_edge, apart.edge_low) == pytest.approx((by_hand.mean, by_hand.low), abs=1e-9)
    assert row(leaderboard, "knows", "backfill").n_markets == 20
    for board in ("core", "full"):
        assert row(leaderboard, "knows", board).n_board == 300
        assert (row(leaderboard, "knows", board).mean_edge or 0) > 0 > by_hand.mean
    kinds: list[tuple[BoardName, bool, int]] = [("core", False, 300), ("full", False, 300), ("backfill", False, 20)]
    kinds.append(("backfill", True, 100))
    for board, reconstructed, markets in kinds:
        (curve,) = (one for one in leaderboard.curves if (one.board, one.reconstructed) == (board, reconstructed))
        points = [one for one in leaderboard.edges if (one.board, one.reconstructed) == (board, reconstructed)]
        assert sum(one.n_markets for one in curve.points) == sum(one.n_markets for one in points) == markets
    assert [one.reconstructed for one in leaderboard.cohorts] == [False, False, False, True, True]


def test_markets_asked_about_before_a_models_cutoff_are_counted_and_marked() -> None:
    """Days 1 to 5 of January; the cutoff is the last day of which the model may know. Nothing leaves the mean."""
    cohorts = settled()
    cohorts.outcome[0], cohorts.final[0] = np.nan, False
    said = better(cohorts)
    said[0], said[1] = 0.5, np.nan
    knows = replace(entrant("knows"), knowledge_cutoff=date(2026, 1, 2))
    early = replace(entrant("early"), knowledge_cutoff=date(2025, 12, 31))
    leaderboard = board_of(cohorts, [(knows, said), (early, said), (entrant("unknown"), said)])
    found = row(leaderboard, "knows")
    assert (found.n_may_know, found.n_markets) == (160 - 2, 400 - 2)
    assert found.flags == ("may_know_the_answer",)
    for name in ("early", "unknown"):
        other = row(leaderboard, name)
        assert (other.n_may_know, other.flags, other.mean_edge) == (0, (), found.mean_edge)


def test_who_may_search_is_held_against_the_price_of_its_own_time() -> None:
    cohorts = settled()
    drifted, said = better(cohorts, 0.1), better(cohorts, 0.05)
    thinker, late_price = Entrant("thinker", "1", "search_blind"), Entrant("price_at_forecast", "1", "search", True)
    blind = Entrant("blind", "1", "blind")
    leaderboard = board_of(cohorts, [(thinker, said), (late_price, drifted), (blind, said)])
    found = row(leaderboard, "thinker")
    by_hand = clustered_mean(edge(said, drifted, cohorts.outcome), cohorts.cluster)
    assert (found.edge_at_forecast, found.edge_at_forecast_low, found.edge_at_forecast_high) == pytest.approx(
        (by_hand.mean, by_hand.low, by_hand.high), abs=1e-9
    )
    assert (found.mean_edge or 0) > 0 > (found.edge_at_forecast or 0)
    assert row(leaderboard, "blind").edge_at_forecast is None
    assert row(board_of(cohorts, [(thinker, said)]), "thinker").edge_at_forecast is None


def test_the_price_of_today_may_beat_that_of_the_freeze_without_an_alarm() -> None:
    cohorts = settled()
    for information, alarm in (("search", False), ("market", True)):
        control = Entrant("price_at_forecast", "1", information, control=True)
        assert (
            "control_beats_market" in row(board_of(cohorts, [(control, better(cohorts))]), control.experiment).flags
        ) == alarm


def test_thin_prices_are_on_no_board() -> None:
    cohorts = settled()
    cohorts = replace(cohorts, good=np.arange(400) % 10 != 0)
    leaderboard = board_of(cohorts, [(entrant("half"), np.full(400, 0.5))], [np.full(400, 0.5)])
    found = {board: row(leaderboard, "half", board) for board in ("core", "full", "backfill")}
    assert {name: one.n_markets for name, one in found.items()} == {"core": 180, "full": 360, "backfill": 360}
    assert {name: one.n_board for name, one in found.items()} == {"core": 180, "full": 360, "backfill": 360}


def test_ninety_five_in_a_hundred_are_enough_for_a_rank() -> None:
    cohorts = settled()
    known = better(cohorts)
    for missing, rank in ((20, 1), (21, None)):
        said = np.where(np.arange(400) < missing, np.nan, known)
        found = row(board_of(cohorts, [(entrant("knows"), said)]), "knows")
        assert (found.rank, "low_coverage" in found.flags) == (rank, rank is None)


def test_strata_add_up_to_the_board_and_come_in_order() -> None:
    cohorts = settled()
    rows = [one for one in board_of(cohorts, [(entrant("a"), better(cohorts))]).rows if one.board == "full"]
    order = [(one.category, one.price_bin) for one in rows]
    bins = ["0-5", "5-20", "20-40", "40-60", "60-80", "80-95", "95-100"]
    assert order == [("all", "all"), ("politics", "all"), ("sports", "all"), *(("all", label) for label in bins)]
    for part in (rows[1:3], rows[3:]):
        assert sum(one.n_markets for one in part) == 400
        assert sum((one.mean_edge or 0) * one.n_markets for one in part) == pytest.approx(
            (rows[0].mean_edge or 0) * 400, abs=1e-6
        )


def test_a_forecaster_has_no_row_where_it_said_nothing_but_on_the_whole_board() -> None:
    cohorts = settled()
    sports_only = np.where(cohorts.category == "sports", cohorts.price, np.nan)
    silent = np.full(400, np.nan)
    leaderboard = board_of(cohorts, [(entrant("sports"), sports_only), (entrant("silent"), silent)])
    full = [
        (one.experiment, one.category) for one in leaderboard.rows if one.board == "full" and one.price_bin == "all"
    ]
    assert full == [("sports", "all"), ("silent", "all"), ("sports", "sports")]
    found = row(leaderboard, "silent")
    assert (found.coverage, found.n_markets, found.mean_edge, found.brier, found.rank) == (0.0, 0, None, None, None)
    assert found.intention_to_treat_brier == pytest.approx(0.25)
    assert not [one for one in leaderboard.rows if one.board == "backfill"]


def test_splits_and_open_markets_are_counted_and_in_no_mean() -> None:
    cohorts = settled()
    outcome = cohorts.outcome.copy()
    outcome[:3], outcome[3:5] = 0.5, np.nan
    cohorts = replace(cohorts, outcome=outcome, final=~np.isnan(outcome))
    said = np.where(np.arange(400) == 2, np.nan, 0.5)
    found = row(board_of(cohorts, [(entrant("half"), said)]), "half")
    assert (found.n_markets, found.n_splits, found.n_open, found.n_board) == (395, 2, 2, 400)
    assert found.brier == pytest.approx(0.25)
    assert found.coverage == pytest.approx(399 / 400)


def test_skipping_is_never_free() -> None:
    cohorts = settled()
    timid = np.where(np.abs(cohorts.price - cohorts.outcome) < 0.5, cohorts.price, np.nan)
    found = row(board_of(cohorts, [(entrant("timid"), timid)]), "timid")
    assert found.mean_edge == 0.0
    assert (found.intention_to_treat_brier or 0) > (found.brier or 0)
    assert found.rank is None
    assert "low_coverage" in found.flags


def test_ranks_are_on_the_markets_that_all_who_cover_enough_forecast() -> None:
    cohorts = settled()
    nearly = better(cohorts).copy()
    nearly[:8] = np.nan
    few = better(cohorts, 0.2).copy()
    few[20:] = np.nan
    leaderboard = board_of(
        cohorts,
        [
            (reference(), cohorts.price),
            (entrant("worse"), better(cohorts, -0.05)),
            (entrant("nearly"), nearly),
            (entrant("few"), few),
            (entrant("echo"), cohorts.price),
            (entrant("leaky", control=True), better(cohorts, 0.3)),
        ],
    )
    full = {
        one.experiment: one
        for one in leaderboard.rows
        if (one.board, one.category, one.price_bin) == ("full", "all", "all")
    }
    assert {name: one.rank for name, one in full.items()} == {
        "baseline_snapshot": 2,
        "worse": 4,
        "nearly": 1,
        "few": None,
        "echo": 2,
        "leaky": None,
    }
    assert {one.n_ranked for one in full.values()} == {392, None}
    expected = edge(better(cohorts, -0.05), cohorts.price, cohorts.outcome)[8:].mean()
    assert full["worse"].ranked_edge == pytest.approx(expected, abs=1e-9)
    assert full["worse"].mean_edge != full["worse"].ranked_edge
    assert all(one.rank is None for one in leaderboard.rows if (one.category, one.price_bin) != ("all", "all"))
    assert "control_beats_market" in full["leaky"].flags
    assert "price_echo" in full["echo"].flags
    assert full["baseline_snapshot"].flags == ()


def test_with_few_events_nothing_is_ranked() -> None:
    cohorts = settled(58)
    leaderboard = board_of(
        cohorts, [(reference(), cohorts.price), (entrant("leaky", control=True), better(cohorts, 0.3))]
    )
    found = row(leaderboard, "leaky")
    assert found.n_events == 29
    assert {"too_few_events"} <= set(found.flags)
    assert "control_beats_market" not in found.flags
    assert row(leaderboard, "baseline_snapshot").rank is None
    assert row(board_of(settled(60), [(reference(), settled(60).price)]), "baseline_snapshot").rank == 1


def test_a_cohort_is_provisional_until_95_in_100_are_final() -> None:
    cohorts = settled(400, days=4)
    outcome = cohorts.outcome.copy()
    outcome[:5], outcome[100:106] = np.nan, np.nan
    cohorts = replace(cohorts, outcome=outcome, final=~np.isnan(outcome))
    leaderboard = board_of(cohorts, [(entrant("half"), np.full(400, 0.5))])
    assert [(one.run_date, one.n_final, one.provisional) for one in leaderboard.cohorts] == [
        (date(2026, 1, 1), 95, False),
        (date(2026, 1, 2), 94, True),
        (date(2026, 1, 3), 100, False),
        (date(2026, 1, 4), 100, False),
    ]
    found = row(leaderboard, "half")
    assert found.n_provisional == 94
    assert "provisional" in found.flags


def test_neighbours_that_events_would_rank_otherwise_are_flagged() -> None:
    cohorts = settled(400)
    # Half of the markets are in one cluster of 200, on which alone the first is better.
    cohorts = replace(cohorts, cluster=np.where(np.arange(400) < 200, 0, np.arange(400)))
    ahead = better(cohorts, 0.1)
    ahead[200:] = better(cohorts, -0.01)[200:]
    steady = better(cohorts, 0.0)
    leaderboard = board_of(cohorts, [(entrant("ahead"), ahead), (entrant("steady"), steady)])
    first, second = row(leaderboard, "ahead"), row(leaderboard, "steady")
    assert (first.rank, second.rank) == (1, 2)
    assert (first.event_mean_edge or 0) < (second.event_mean_edge or 0)
    assert "order_differs_by_event" in first.flags
    assert "order_differs_by_event" in second.flags


def test_every_two_entrants_are_compared_and_chance_is_kept_in_bounds() -> None:
    cohorts = settled()
    rng = np.random.default_rng(9)
    entrants = [(entrant(f"noise{n}"), np.clip(cohorts.price + rng.normal(0, 0.02, 400), 0, 1)) for n in range(8)]
    leaderboard = board_of(cohorts, [(entrant("knows"), better(cohorts, 0.1)), *entrants])
    full = [one for one in leaderboard.comparisons if one.board == "full"]
    assert len(full) == 36
    against = [one for one in full if one.first == "knows 1"]
    assert all(one.significant and (one.low or 0) > 0 for one in against)
    others = [one for one in full if one.first != "knows 1"]
    assert sum(one.significant for one in others) <= 2
    by_hand = edge(better(cohorts, 0.1), entrants[0][1], cohorts.outcome).mean()
    assert against[0].mean_difference == pytest.approx(by_hand, abs=1e-9)


def test_significance_is_benjamini_hochbergs() -> None:
    cohorts = settled()
    rng = np.random.default_rng(10)
    entrants = [
        (entrant(f"e{n}"), np.clip(better(cohorts, 0.004 * n) + rng.normal(0, 0.05, 400), 0, 1)) for n in range(7)
    ]
    full = [one for one in board_of(cohorts, entrants).comparisons if one.board == "full"]
    p_values = sorted(one.p_value or 0.0 for one in full)
    bound = max(p for rank, p in enumerate(p_values, 1) if p <= 0.10 * rank / len(p_values))
    assert {one.significant for one in full} == {True, False}
    assert [one.significant for one in full] == [(one.p_value or 0.0) <= bound for one in full]
    assert any(not one.significant and (one.p_value or 0.0) <= 0.10 for one in full)


def test_reliability_curves_hold_what_was_observed() -> None:
    cohorts = settled()
    (curve,) = [one for one in board_of(cohorts, [(entrant("a"), cohorts.price)]).curves if one.board == "full"]
    assert sum(point.n_markets for point in curve.points) == 400
    assert [point.forecast for point in curve.points] == sorted(point.forecast for point in curve.points)
    assert all(point.low is not None and point.low <= point.observed <= (point.high or 0) for point in curve.points)


def test_edges_over_time_end_at_the_boards_edge() -> None:
    cohorts = settled()
    leaderboard = board_of(cohorts, [(entrant("a"), better(cohorts))])
    points = [one for one in leaderboard.edges if one.board == "full"]
    assert [(one.run_date.day, one.n_markets) for one in points] == [(day, 80) for day in range(1, 6)]
    found = row(leaderboard, "a")
    assert (points[-1].cumulative_edge, points[-1].cumulative_low, points[-1].cumulative_high) == pytest.approx(
        (found.mean_edge, found.edge_low, found.edge_high), abs=1e-8
    )
    assert points[0].mean_edge == pytest.approx(points[0].cumulative_edge, abs=1e-9)


def test_the_same_forecasts_give_the_same_bytes_and_others_change_no_row() -> None:
    cohorts = settled()
    mine = (entrant("mine"), better(cohorts))
    other = (entrant("other"), np.where(np.arange(400) % 3 == 0, np.nan, 0.4))
    alone, again, together = board_of(cohorts, [mine]), board_of(cohorts, [mine]), board_of(cohorts, [mine, other])
    assert msgspec.json.encode(alone) == msgspec.json.encode(again)
    unranked = [
        [
            msgspec.structs.replace(one, rank=None, n_ranked=None, ranked_edge=None)
            for one in board.rows
            if one.experiment == "mine"
        ]
        for board in (alone, together)
    ]
    assert unranked[0] == unranked[1]
    assert msgspec.json.decode(msgspec.json.encode(together), type=Leaderboard) == together


def test_nothing_to_score_is_a_board_without_rows() -> None:
    empty = board_of(settled(0), [])
    assert (empty.rows, empty.comparisons, empty.curves, empty.edges, empty.cohorts) == ((), (), (), (), ())
    nobody = board_of(settled(), [])
    assert nobody.rows == ()
    assert len(nobody.cohorts) == 5


def test_nothing_settled_yet_says_so_in_nulls() -> None:
    cohorts = settled(80)
    cohorts = replace(cohorts, outcome=np.full(80, np.nan), final=np.zeros(80, np.bool_))
    leaderboard = board_of(cohorts, [(reference(), cohorts.price)])
    found = row(leaderboard, "baseline_snapshot")
    assert (found.n_markets, found.n_open, found.mean_edge, found.skill, found.ece) == (0, 80, None, None, None)
    assert (found.coverage, found.rank, found.price_correlation) == (1.0, None, 1.0)
    assert b"NaN" not in msgspec.json.encode(leaderboard)
    assert leaderboard.curves == ()
