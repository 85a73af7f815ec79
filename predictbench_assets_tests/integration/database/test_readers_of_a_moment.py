"""One database, and every reader of it: at any instant they see the same runs, markets, settlements and forecasts."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard
from numpy.typing import NDArray
from sqlalchemy import Engine

import predictbench_assets as pb
from predictbench_assets.dataset.export import export_tables
from predictbench_assets.dataset.release import NothingToRelease, make_release
from predictbench_assets.experiments.history import settled_counts, settled_markets
from predictbench_assets.resolution.ledger import settled_cohorts
from predictbench_assets.runs import RunKey
from predictbench_assets.scoring.store.boards import rebuild_leaderboard
from predictbench_assets.scoring.store.forecasts import load_forecasts
from predictbench_assets.scoring.store.scores import score_settled
from predictbench_assets.site import data
from predictbench_assets.staging import StagingArea
from predictbench_assets_tests.kit.ledger import Forecaster, Ledger, at

Place = tuple[date, int, str]
"""Run date, window and market."""


def day(number: int, hour: int = 7, minute: int = 0) -> datetime:
    return at(date(2026, 2, number), hour, minute)


def key(number: int, window: int = 7) -> RunKey:
    return RunKey(date(2026, 2, number), window)


END = day(25)


@pytest.fixture
def planted(engine: Engine) -> Ledger:
    """All that may befall a run, a market and a settlement."""
    ledger = Ledger(engine)

    def run(*markets: int, price: float = 0.4, said: float = 0.6, of: RunKey, **how: Any) -> None:
        prices = {f"m{one}": price for one in markets}
        ledger.run(prices, Forecaster("bold", dict.fromkeys(prices, said)), key=of, core=True, core_weight=1.0, **how)

    run(0, 1, 2, 3, of=key(2))
    run(0, 1, 2, of=key(2), now=day(2, 20), said=0.7)  # m3 is withdrawn
    run(0, 5, of=key(3, 6))  # m0 again, in another window
    run(10, of=key(3, 7), status="partial")
    run(10, 11, of=key(3, 7), now=day(3, 9), said=0.7)  # m11 is added by a later attempt, on the same snapshot
    run(20, of=key(4), finished=False)  # never ends
    run(30, of=key(5), now=day(5, 8))
    run(30, price=0.5, of=key(5), now=day(5, 10), captured_at=day(5, 9, 30), snapshot="newer", said=0.8)  # refreshed
    run(40, of=key(6))
    run(40, of=key(6), now=day(6, 9), finished=False, said=0.9)  # is being made again

    ledger.observe({"m3": 1.0}, day(2, 12))
    ledger.observe({"m10": 1.0, "m11": 1.0}, day(3, 8, 30))
    ledger.observe({"m20": 1.0}, day(5, 9))
    ledger.observe({"m30": 0.0}, day(5, 9, 10))
    ledger.observe({"m0": 1.0, "m1": 0.5, "m40": 1.0}, day(12))
    ledger.observe({"m2": None, "m5": None}, day(12), state="disputed")
    ledger.observe({"m0": None, "m5": None}, day(14), state="disputed")  # taken back
    ledger.observe({"m0": 0.0}, day(16))
    ledger.observe({"m5": None}, day(16), state="final")  # without an outcome that can be read
    ledger.observe({"m2": 1.0}, day(24))
    return ledger


@dataclass(frozen=True)
class Seen:
    """What a reader has of an instant."""

    markets: set[Place]
    outcomes: dict[Place, float]
    """Of those that have settled."""
    forecasts: dict[Place, float]
    """Of the experiment `bold`, those that count."""


def on_the_board(engine: Engine, as_of: datetime) -> Seen:
    found = load_forecasts(engine, as_of)
    cohorts = found.cohorts
    columns = (cohorts.run_date.tolist(), cohorts.window_days.tolist(), map(str, cohorts.market_id))
    places = list(zip(*columns, strict=True))

    def numbers(column: NDArray[np.float64]) -> dict[Place, float]:
        return {place: value for place, value in zip(places, column.tolist(), strict=True) if value == value}

    bold = [n for n, one in enumerate(found.entrants) if one.experiment == "bold"]
    return Seen(set(places), numbers(cohorts.outcome), numbers(found.probability[bold[0]]) if bold else {})


def on_the_page(engine: Engine, as_of: datetime) -> Seen:
    ids = [f"m{one}" for one in range(50)]
    seen = Seen(set(), {}, {})
    for market in data.markets(engine, as_of, ids):
        for capture in market.captures:
            place = (capture.run_date, capture.window_days, market.market_id)
            seen.markets.add(place)
            if market.settled is not None and market.settled.outcome is not None:
                seen.outcomes[place] = market.settled.outcome
            for one in capture.forecasts:
                if one.experiment == "bold" and one.timely and one.probability is not None:
                    seen.forecasts[place] = one.probability
    core = {
        (sample.run_date, sample.window_days, one.market_id)
        for sample in data.cohorts(engine, as_of, date.min, date.max)
        for one in sample.markets
    }
    assert core == seen.markets, "all of them are in the core sample"
    assert sum(window.core for window in data.overview(engine, as_of, date.min, date.max).windows) == len(core)
    return seen


def _place(row: dict[str, Any]) -> Place:
    day = row["run_date"]
    return (day if isinstance(day, date) else date.fromisoformat(day), row["window_days"], row["market_id"])


def in_a_release(engine: Engine, as_of: datetime, folder: Path) -> Seen:
    """Its files, read without us, but for what a reader must leave out: `withdrawn_at`, and later captures."""
    try:
        make_release(engine, folder, as_of=as_of, version="one", git_sha=None)
    except NothingToRelease:
        return Seen(set(), {}, {})

    def lines(table: str) -> Iterator[dict[str, Any]]:
        with zstandard.open(folder / f"{table}.jsonl.zst", "rt") as file:
            yield from map(json.loads, file)

    markets = {
        _place(row)
        for row in lines("markets")
        if row["withdrawn_at"] is None and datetime.fromisoformat(row["captured_at"]) <= as_of
    }
    scores = {_place(row): row["outcome"] for row in lines("scores") if row["experiment"] == "baseline_snapshot"}
    board = pb.open_benchmark(release=folder, frames="pandas").boards(category="every", price_bin="every")
    stored = pb.open_benchmark(url=_url(engine), as_of=as_of, frames="pandas").boards(
        category="every", price_bin="every"
    )
    assert board.to_json() == stored.to_json()
    newest = {
        (_place(row), row["attempt"]): row["probability"]
        for row in lines("forecasts")
        if row["experiment"] == "bold" and _place(row) in markets
    }
    return Seen(
        markets,
        {place: outcome for place, outcome in scores.items() if place in markets},
        {place: value for (place, _), value in sorted(newest.items())},
    )


def _url(engine: Engine) -> str:
    return engine.url.render_as_string(hide_password=False)


def in_frames(engine: Engine, as_of: datetime) -> set[Place]:
    there = pb.open_benchmark(url=_url(engine), as_of=as_of).arrow("markets").read_all().to_pylist()
    return {_place(row) for row in there if row["withdrawn_at"] is None and row["captured_at"] <= as_of}


INSTANTS = [
    (day(2, 6), set(), set()),
    (day(2, 13), {"m0", "m1", "m2", "m3"}, {"m3"}),
    (day(3, 7, 30), {"m0", "m1", "m2", "m5", "m10"}, set()),
    (day(3, 8, 40), {"m0", "m1", "m2", "m5", "m10"}, {"m10"}),
    (day(3, 9, 30), {"m0", "m1", "m2", "m5", "m10", "m11"}, {"m10", "m11"}),
    (day(5, 9, 20), {"m0", "m1", "m2", "m5", "m10", "m11"}, {"m10", "m11"}),
    (day(5, 11), {"m0", "m1", "m2", "m5", "m10", "m11", "m30"}, {"m10", "m11", "m30"}),
    (day(13), {"m0", "m1", "m2", "m5", "m10", "m11", "m30", "m40"}, {"m0", "m1", "m10", "m11", "m30", "m40"}),
    (day(15), {"m0", "m1", "m2", "m5", "m10", "m11", "m30", "m40"}, {"m1", "m10", "m11", "m30", "m40"}),
    (END, {"m0", "m1", "m2", "m5", "m10", "m11", "m30", "m40"}, {"m0", "m1", "m2", "m10", "m11", "m30", "m40"}),
]


def test_all_readers_of_an_instant_see_the_same(engine: Engine, planted: Ledger, tmp_path: Path) -> None:
    del planted
    for as_of, listed, settled in INSTANTS:
        board = on_the_board(engine, as_of)
        assert {market for _, _, market in board.markets} == listed, as_of
        assert {market for _, _, market in board.outcomes} == settled, as_of
        assert board.forecasts.keys() == board.markets, as_of

        assert on_the_page(engine, as_of) == board, as_of
        assert in_a_release(engine, as_of, tmp_path / as_of.strftime("%d-%H%M")) == board, as_of
        assert in_frames(engine, as_of) == board.markets, as_of
        history = {one.market_id: one.outcome for one in settled_markets(engine, as_of)}
        assert history == {market: outcome for (_, _, market), outcome in board.outcomes.items()}, as_of
        assert sum(one.markets for one in settled_counts(engine, as_of).values()) == len(history), as_of


def test_readers_of_the_present_see_what_a_board_of_now_sees(engine: Engine, planted: Ledger, tmp_path: Path) -> None:
    score_settled(engine, END)
    board = on_the_board(engine, END)
    scores = {
        tuple(place): outcome
        for *place, outcome in planted.rows(
            """SELECT run_date, window_days, market_id, outcome FROM predictbench.experiment_scores s
            JOIN predictbench.experiment_results r USING (experiment_result_id)
            JOIN predictbench.processed_markets m USING (processed_market_id)
            JOIN predictbench.processing_runs p USING (run_id)"""
        )
    }
    cohorts = {
        (one.run_date, one.window_days): (one.markets, one.final)
        for one in settled_cohorts(engine, END, closed_for=timedelta(0), long_open=timedelta(0))
    }
    counted = {
        (one.run_date, one.window_days): (one.n_markets, one.n_final)
        for one in rebuild_leaderboard(engine, END).cohorts
    }
    first, last = date(2026, 2, 1), date(2026, 2, 28)
    export_tables(engine, StagingArea(str(tmp_path)), since=first, until=last, format_="jsonl", now=END, git_sha=None)
    exported = {_place(row): row for row in map(json.loads, (tmp_path / "markets.jsonl").read_text().splitlines())}
    outcomes = {place: row["outcome"] for place, row in exported.items() if row["resolution"] == "final"}
    view = dict(planted.rows("SELECT market_id, outcome FROM predictbench.market_resolutions WHERE state = 'final'"))

    assert {place: view.get(place[2]) for place in board.outcomes} == board.outcomes
    # Scores and exports have all that is stored: with what was withdrawn, and runs that never ended.
    beyond = {(date(2026, 2, 2), 7, "m3"), (date(2026, 2, 4), 7, "m20")}
    assert scores.keys() - board.outcomes.keys() == beyond
    assert {place: outcome for place, outcome in scores.items() if place not in beyond} == board.outcomes
    assert exported.keys() - board.markets == beyond
    assert {place: outcomes.get(place) for place in board.outcomes} == board.outcomes
    assert [place[2] for place, row in exported.items() if row["withdrawn_at"] is not None] == ["m3"]
    # The report counts states of the ledger: there m5 is final, although nothing can be scored by it.
    assert cohorts == counted | {(date(2026, 2, 3), 6): (2, 2)}
