"""What counts on a board at a moment: which runs, markets, forecasts and resolutions."""

from datetime import date, datetime, timedelta

import numpy as np
import pytest
from sqlalchemy import Engine

from predictbench_assets.markets.market import Event
from predictbench_assets.runs import RunKey
from predictbench_assets.scoring.build import build_leaderboard
from predictbench_assets.scoring.forecasts import Forecasts
from predictbench_assets.scoring.store.forecasts import load_forecasts
from predictbench_assets.scoring.store.scores import score_settled
from predictbench_assets_tests.kit.ledger import DAY, KEY, Forecaster, Ledger, at

LATER = at(date(2026, 4, 1))
PRICES = {"m0": 0.2, "m1": 0.5, "m3": 0.9}


def said(forecasts: Forecasts, experiment: str, version: str = "1", *, late: bool = False) -> dict[str, float]:
    """What an entrant's row has, by market."""
    [row] = [n for n, one in enumerate(forecasts.entrants) if (one.experiment, one.version) == (experiment, version)]
    matrix = forecasts.late if late else forecasts.probability
    ids = forecasts.cohorts.market_id
    return {str(ids[n]): float(matrix[row, n]) for n in np.flatnonzero(~np.isnan(matrix[row]))}


def names(forecasts: Forecasts) -> list[str]:
    return [one.label for one in forecasts.entrants]


def test_an_empty_database_has_nothing_to_score(engine: Engine) -> None:
    forecasts = load_forecasts(engine, LATER)
    assert len(forecasts.cohorts) == 0
    assert forecasts.entrants == ()
    assert forecasts.probability.shape == forecasts.late.shape == (0, 0)
    assert forecasts.cohorts.run_date.dtype == "datetime64[D]"


def test_a_run_as_it_was_stored(engine: Engine, ledger: Ledger) -> None:
    ledger.run(
        PRICES, Forecaster("bold", {"m0": 0.1, "m3": 1.0}), Forecaster("half", dict.fromkeys(PRICES, 0.5), control=True)
    )
    ledger.observe({"m0": 1.0, "m3": 0.5}, at(date(2026, 2, 11)), closed=at(date(2026, 2, 10)))
    ledger.observe({"m1": 1.0}, at(date(2026, 2, 11)), state="proposed")
    forecasts = load_forecasts(engine, LATER)
    cohorts = forecasts.cohorts

    assert forecasts.as_of == LATER
    assert cohorts.market_id.tolist() == ["m0", "m1", "m3"]
    assert cohorts.run_date.tolist() == [DAY] * 3
    assert cohorts.window_days.tolist() == [7] * 3
    assert cohorts.end_date.tolist() == [KEY.target_date] * 3
    assert cohorts.category.tolist() == ["politics"] * 3
    assert cohorts.price.tolist() == [0.2, 0.5, 0.9]
    assert cohorts.good.tolist() == [True] * 3
    assert cohorts.core.tolist() == [True, False, False]
    assert cohorts.final.tolist() == [True, False, True]
    np.testing.assert_array_equal(cohorts.outcome, [1.0, np.nan, 0.5])
    assert cohorts.cluster[0] == cohorts.cluster[1] != cohorts.cluster[2]

    assert names(forecasts) == ["baseline_snapshot 1", "bold 1", "half 1"]
    assert [one.reference for one in forecasts.entrants] == [True, False, False]
    assert [one.control for one in forecasts.entrants] == [False, False, True]
    assert said(forecasts, "baseline_snapshot") == PRICES
    assert said(forecasts, "bold") == {"m0": 0.1, "m3": 1.0}
    assert said(forecasts, "bold", late=True) == {}


def test_a_forecast_that_cites_a_price_counts_nowhere_and_is_counted(engine: Engine, ledger: Ledger) -> None:
    ledger.run(PRICES, Forecaster("reader", {"m0": 0.1, "m1": 0.4, "m3": 0.8}, leaked={"m0", "m3"}), core=True)
    ledger.observe({"m1": 1.0}, at(date(2026, 2, 11)), closed=at(date(2026, 2, 10)))
    forecasts = load_forecasts(engine, LATER)
    assert said(forecasts, "reader") == {"m1": 0.4}
    assert said(forecasts, "reader", late=True) == {}
    [row] = [one for one in build_leaderboard(forecasts).rows if one.experiment == "reader" and one.board == "core"][:1]
    assert (row.n_leaked, row.n_markets, row.n_board) == (2, 1, 3)
    assert len(ledger.rows("SELECT FROM predictbench.experiment_results WHERE probability = 0.8 AND leaked")) == 1
    ledger.observe({"m3": 1.0}, at(date(2026, 2, 11)), closed=at(date(2026, 2, 10)))
    report = score_settled(engine, LATER)
    assert (report.scored, report.waiting) == (3, 1)  # the price of both that have settled, and one forecast


def test_a_leak_hides_no_earlier_forecast(engine: Engine, ledger: Ledger) -> None:
    ledger.run(PRICES, Forecaster("reader", {"m0": 0.1}), now=at(DAY, 8))
    ledger.run(PRICES, Forecaster("reader", {"m0": 0.3}, leaked={"m0"}), now=at(DAY, 10))
    forecasts = load_forecasts(engine, LATER)
    assert said(forecasts, "reader") == {"m0": 0.1}
    assert not forecasts.leaked.any()


def test_an_experiment_without_forecasts_is_no_entrant(engine: Engine, ledger: Ledger) -> None:
    ledger.run(PRICES, Forecaster("news", {"m0": 0.5}, forecasts=False))
    assert names(load_forecasts(engine, LATER)) == ["baseline_snapshot 1"]
    kept = ledger.rows("SELECT payload FROM predictbench.experiment_results WHERE payload ? 'sources'")
    assert kept == [({"sources": []},)]


def test_of_timely_attempts_the_newest_counts_and_a_late_one_replaces_nothing(engine: Engine, ledger: Ledger) -> None:
    for hour, value in ((8, 0.1), (10, 0.2)):
        ledger.run(PRICES, Forecaster("bold", dict.fromkeys(PRICES, value)), now=at(DAY, hour))
    late = at(DAY) + timedelta(hours=24, microseconds=1)
    ledger.run(PRICES, Forecaster("bold", dict.fromkeys(PRICES, 0.3), made_at=late), now=late)
    forecasts = load_forecasts(engine, LATER)
    assert said(forecasts, "bold") == dict.fromkeys(PRICES, 0.2)
    assert said(forecasts, "bold", late=True) == dict.fromkeys(PRICES, 0.3)


def test_the_last_instant_of_the_freeze_window_is_in_time(engine: Engine, ledger: Ledger) -> None:
    ledger.run(PRICES, Forecaster("bold", PRICES, made_at=at(DAY) + timedelta(hours=24)), now=at(date(2026, 2, 4)))
    assert said(load_forecasts(engine, LATER), "bold") == PRICES


def test_an_attempt_that_gave_nothing_hides_nothing(engine: Engine, ledger: Ledger) -> None:
    ledger.run(PRICES, Forecaster("bold", {"m0": 0.1, "m1": 0.1}), now=at(DAY, 8))
    ledger.run(PRICES, Forecaster("bold", {"m0": 0.2, "m1": None}), now=at(DAY, 9))
    ledger.run(PRICES, Forecaster("bold", {}, status="not_run"), now=at(DAY, 10))
    assert said(load_forecasts(engine, LATER), "bold") == {"m0": 0.2, "m1": 0.1}


def test_a_forecast_after_the_close_is_late(engine: Engine, ledger: Ledger) -> None:
    key = RunKey(DAY, 1)
    made = at(DAY, 20)
    ledger.run(PRICES, Forecaster("bold", PRICES, made_at=made), key=key, now=made)
    assert said(load_forecasts(engine, LATER), "bold") == PRICES
    # m0 turned out to be decided half an hour before, m1 at that very moment.
    ledger.observe({"m0": 1.0}, at(date(2026, 2, 4)), closed=made - timedelta(minutes=30))
    ledger.observe({"m1": 1.0}, at(date(2026, 2, 4)), closed=made)
    ledger.observe({"m3": 1.0}, at(date(2026, 2, 4)), closed=made + timedelta(seconds=1))
    forecasts = load_forecasts(engine, LATER)
    assert said(forecasts, "bold") == {"m3": 0.9}
    assert said(forecasts, "bold", late=True) == {"m0": 0.2, "m1": 0.5}


def test_a_reconstructed_snapshot_is_for_the_board_of_backfills(engine: Engine, ledger: Ledger) -> None:
    ledger.run(PRICES, Forecaster("bold", PRICES), reconstructed=True)
    forecasts = load_forecasts(engine, LATER)
    assert forecasts.cohorts.reconstructed.all()
    assert said(forecasts, "bold") == {}
    assert said(forecasts, "bold", late=True) == PRICES


def test_what_was_said_of_a_snapshot_that_was_replaced_counts_nowhere(engine: Engine, ledger: Ledger) -> None:
    ledger.run(PRICES, Forecaster("bold", PRICES), now=at(DAY, 8))
    newer = dict.fromkeys(PRICES, 0.4)
    ledger.run(newer, Forecaster("bold", {}, status="not_run"), now=at(DAY, 9), snapshot="newer")
    forecasts = load_forecasts(engine, LATER)
    assert forecasts.cohorts.price.tolist() == [0.4] * 3
    assert said(forecasts, "baseline_snapshot") == newer
    assert said(forecasts, "bold") == said(forecasts, "bold", late=True) == {}


def test_versions_are_never_mixed(engine: Engine, ledger: Ledger) -> None:
    ledger.run(PRICES, Forecaster("bold", dict.fromkeys(PRICES, 0.1)), now=at(DAY, 8))
    ledger.run(PRICES, Forecaster("bold", dict.fromkeys(PRICES, 0.2), version="2"), now=at(DAY, 9))
    forecasts = load_forecasts(engine, LATER)
    assert names(forecasts) == ["baseline_snapshot 1", "bold 1", "bold 2"]
    assert said(forecasts, "bold", "1") == dict.fromkeys(PRICES, 0.1)
    assert said(forecasts, "bold", "2") == dict.fromkeys(PRICES, 0.2)


def test_who_skips_everything_is_an_entrant_and_who_never_ran_is_none(engine: Engine, ledger: Ledger) -> None:
    ledger.run(PRICES, Forecaster("shy", {}), Forecaster("absent", {}, status="not_run"))
    assert names(load_forecasts(engine, LATER)) == ["baseline_snapshot 1", "shy 1"]


def test_only_complete_runs_count_and_stay_so_while_they_are_run_again(engine: Engine, ledger: Ledger) -> None:
    ledger.run(PRICES, finished=False, now=at(DAY, 8))
    assert len(load_forecasts(engine, LATER).cohorts) == 0
    ledger.run(PRICES, now=at(DAY, 9))
    ledger.run(PRICES, finished=False, now=at(DAY, 10))
    assert len(load_forecasts(engine, LATER).cohorts) == 3
    assert len(load_forecasts(engine, at(DAY, 8, 30)).cohorts) == 0


def test_nothing_that_came_later_is_known(engine: Engine, ledger: Ledger) -> None:
    moment = at(date(2026, 2, 12))
    ledger.run(PRICES, Forecaster("bold", PRICES))
    ledger.observe({"m0": 1.0}, at(date(2026, 2, 10)))
    ledger.run({"m6": 0.5}, key=RunKey(date(2026, 2, 3), 7), now=moment + timedelta(seconds=1))
    ledger.run(PRICES, Forecaster("bold", {"m0": 0.99}), Forecaster("late", PRICES), now=moment + timedelta(hours=1))
    ledger.observe({"m0": 0.0, "m1": 1.0}, moment + timedelta(hours=2))
    ledger.run({"m0": 0.2, "m1": 0.5}, now=moment + timedelta(days=1))  # m3 is withdrawn

    then = load_forecasts(engine, moment)
    assert then.cohorts.market_id.tolist() == ["m0", "m1", "m3"]
    assert names(then) == ["baseline_snapshot 1", "bold 1"]
    assert said(then, "bold") == PRICES
    np.testing.assert_array_equal(then.cohorts.outcome, [1.0, np.nan, np.nan])

    now = load_forecasts(engine, LATER)
    assert now.cohorts.market_id.tolist() == ["m0", "m1", "m6"]
    assert names(now) == ["baseline_snapshot 1", "bold 1", "late 1"]
    np.testing.assert_array_equal(now.cohorts.outcome, [0.0, 1.0, np.nan])


def test_a_snapshot_that_was_refreshed_later_was_not_known_before(engine: Engine, ledger: Ledger) -> None:
    """The row has the newer price by then, which nobody knew; the forecasts on the older one are no board's."""
    ledger.run(PRICES, now=at(DAY, 8))
    ledger.run(dict.fromkeys(PRICES, 0.4), now=at(DAY, 10), snapshot="newer", captured_at=at(DAY, 9, 30))
    assert len(load_forecasts(engine, at(DAY, 9)).cohorts) == 0
    assert load_forecasts(engine, at(DAY, 11)).cohorts.price.tolist() == [0.4] * 3


def test_a_market_that_a_later_attempt_added_was_not_known_before(engine: Engine, ledger: Ledger) -> None:
    """As when a run with a limit is followed by the whole one: both are of the same snapshot."""
    ledger.run({"m0": 0.2}, now=at(DAY, 8))
    ledger.run(PRICES, now=at(DAY, 10))
    assert load_forecasts(engine, at(DAY, 9)).cohorts.market_id.tolist() == ["m0"]
    assert len(load_forecasts(engine, at(DAY, 11)).cohorts) == 3


def test_related_markets_are_one_cluster_across_cohorts(engine: Engine, ledger: Ledger) -> None:
    tomorrow, event = date(2026, 2, 3), {"event": None, "cluster": "series|2026-02-09"}
    ledger.run({"m0": 0.2, "m4": 0.5})
    ledger.run({"m0": 0.3, "m8": 0.5}, key=RunKey(tomorrow, 6))
    ledger.run({"m20": 0.3}, key=RunKey(tomorrow, 7), **event)
    ledger.run({"m30": 0.3}, key=RunKey(tomorrow, 8), **event)
    ledger.run(
        {"m40": 0.3},
        key=RunKey(tomorrow, 9),
        event=Event(event_id="e1", slug=None, title=None, neg_risk=False),
        neg_risk_market_id="n",
    )
    ledger.run({"m50": 0.3}, key=RunKey(tomorrow, 10), neg_risk_market_id="n")
    cohorts = load_forecasts(engine, LATER).cohorts
    number = dict(zip(zip(cohorts.market_id, cohorts.window_days, strict=True), cohorts.cluster, strict=True))
    assert number["m0", 7] == number["m0", 6]
    assert number["m20", 7] == number["m30", 8]
    assert number["m4", 7] == number["m40", 9] == number["m50", 10]  # by the event, and by the group
    assert len(set(cohorts.cluster)) == 4


@pytest.mark.parametrize(
    ("since", "until", "left"),
    [
        (date(2026, 2, 3), None, ["m3", "m6"]),
        (None, date(2026, 2, 3), ["m0", "m3"]),
        (date(2026, 2, 3), date(2026, 2, 3), ["m3"]),
    ],
)
def test_run_dates_can_be_chosen(
    since: date | None, until: date | None, left: list[str], engine: Engine, ledger: Ledger
) -> None:
    for number in range(3):
        day = DAY + timedelta(days=number)
        ledger.run({f"m{3 * number}": 0.5}, Forecaster(f"of_{day.day}", {f"m{3 * number}": 0.5}), key=RunKey(day, 7))
    forecasts = load_forecasts(engine, LATER, since=since, until=until)
    assert forecasts.cohorts.market_id.tolist() == left
    assert len(forecasts.entrants) == 1 + len(left)


def test_the_order_is_by_date_window_and_id(engine: Engine, ledger: Ledger) -> None:
    moments: list[tuple[date, int, str]] = []
    for day, window in ((date(2026, 2, 3), 7), (DAY, 7), (DAY, 1)):
        ledger.run({"m10": 0.5, "m9": 0.5, "m1": 0.5}, key=RunKey(day, window))
        moments += [(day, window, one) for one in ("m1", "m10", "m9")]
    cohorts = load_forecasts(engine, LATER).cohorts
    found = zip(cohorts.run_date.tolist(), cohorts.window_days.tolist(), cohorts.market_id.tolist(), strict=True)
    assert list(found) == sorted(moments)


def test_times_before_and_after_the_epoch_of_the_server_are_read_alike(engine: Engine, ledger: Ledger) -> None:
    captured = datetime.fromisoformat("2026-02-02T07:00:00.123456+02:00")
    made = captured + timedelta(hours=24)
    ledger.run(PRICES, Forecaster("bold", PRICES, made_at=made), captured_at=captured)
    assert said(load_forecasts(engine, LATER), "bold") == PRICES
