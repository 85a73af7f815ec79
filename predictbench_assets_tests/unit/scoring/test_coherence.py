"""How coherent forecasts of related markets are."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictbench_assets.scoring.boards import Coherence
from predictbench_assets.scoring.coherence import Member, coherence, relations
from predictbench_assets.scoring.forecasts import Cohorts, Entrant, Forecasts

NOW = datetime(2026, 6, 23, 7, tzinfo=UTC)
NAN = float("nan")


def cohorts(
    prices: Sequence[float], windows: Sequence[int] | None = None, days: Sequence[date] | None = None
) -> Cohorts:
    count = len(prices)
    return Cohorts(
        market_id=np.array([str(number) for number in range(count)], np.object_),
        run_date=np.array(days or [NOW.date()] * count, "datetime64[D]"),
        window_days=np.array(windows or [7] * count, np.int64),
        end_date=np.array([date(2026, 6, 30)] * count, "datetime64[D]"),
        as_of=np.array(days or [NOW.date()] * count, "datetime64[D]"),
        category=np.array(["other"] * count, np.object_),
        cluster=np.zeros(count, np.int64),
        price=np.array(prices, np.float64),
        good=np.ones(count, np.bool_),
        core=np.ones(count, np.bool_),
        reconstructed=np.zeros(count, np.bool_),
        final=np.zeros(count, np.bool_),
        outcome=np.full(count, np.nan),
    )


def scored(markets: Cohorts, members: Sequence[Member], *forecasts: Sequence[float]) -> tuple[Coherence, ...]:
    entrants = tuple(Entrant(f"e{number}", "1", "market") for number in range(len(forecasts)))
    probability = np.array(forecasts, np.float64).reshape(len(forecasts), len(markets))
    given = Forecasts(
        NOW, markets, entrants, probability, np.full_like(probability, np.nan), np.zeros_like(probability, bool)
    )
    return coherence(given, relations(markets, members))


def member(column: int, question: str = "?", *, group: str | None = None, **changes: datetime) -> Member:
    times = {"close_time": datetime(2026, 6, 30, 12, tzinfo=UTC), "captured_at": NOW} | changes
    return Member(column, "e", group, question, **times)


def group_of(count: int) -> list[Member]:
    return [member(column, group="g") for column in range(count)]


def above(*numbers: int) -> list[Member]:
    return [member(column, f"Will Bitcoin be above ${number}?") for column, number in enumerate(numbers)]


def test_forecasts_that_sum_to_one_have_no_error() -> None:
    [row] = scored(cohorts([0.5, 0.3, 0.25]), group_of(3), [0.5, 0.25, 0.25])
    assert (row.n_groups, row.sum_error, row.worst_sum_error) == (1, 0.0, 0.0)
    assert (row.n_pairs, row.violations, row.mean_violation) == (0, 0, None)


def test_the_error_is_the_distance_from_one_and_the_worst_is_told() -> None:
    members = [*(member(column, group="a") for column in (0, 1)), *(member(column, group="b") for column in (2, 3))]
    [row] = scored(cohorts([0.5] * 4), members, [0.5, 0.5, 0.9, 0.7])
    assert row.n_groups == 2
    assert row.sum_error == pytest.approx(0.3)
    assert row.worst_sum_error == pytest.approx(0.6)


@pytest.mark.parametrize("prices", [[0.3, 0.3], [0.9, 0.9], [0.5, NAN], [1.0]], ids=["part", "none", "unknown", "one"])
def test_what_is_no_whole_group_is_not_judged(prices: list[float]) -> None:
    assert scored(cohorts(prices), group_of(len(prices)), [0.1] * len(prices)) == ()


def test_a_group_that_an_entrant_forecast_in_part_does_not_count_for_it() -> None:
    rows = scored(cohorts([0.5, 0.5]), group_of(2), [0.5, NAN], [0.5, 0.6])
    assert [(row.experiment, row.n_groups) for row in rows] == [("e1", 1)]


def test_a_lower_threshold_must_not_be_less_likely() -> None:
    markets, members = cohorts([0.5] * 3), above(70_000, 60_000, 65_000)
    fine, broken = scored(markets, members, [0.1, 0.5, 0.3], [0.5, 0.4, 0.3])
    assert (fine.n_pairs, fine.violations, fine.mean_violation) == (2, 0, 0.0)
    # 65,000 is less likely than 70,000 by 0.2; 60,000 is more likely than 65,000.
    assert (broken.n_pairs, broken.violations) == (2, 1)
    assert broken.mean_violation == pytest.approx(0.1)


def test_equal_forecasts_break_no_order() -> None:
    third = 1 / 3
    [row] = scored(cohorts([0.5] * 2), above(60, 70), [third, 1 - 2 * third])
    assert (row.n_pairs, row.violations) == (1, 0)


def test_rungs_of_other_events_and_other_days_are_not_compared() -> None:
    apart = [member(0, "Will it be above 60?"), Member(1, "other", None, "Will it be above 70?", NOW, NOW)]
    assert scored(cohorts([0.5, 0.5]), apart, [0.1, 0.9]) == ()
    days = [date(2026, 6, 23), date(2026, 6, 24)]
    assert scored(cohorts([0.5, 0.5], days=days), above(60, 70), [0.1, 0.9]) == ()


def test_deadlines_of_one_day_are_compared_across_windows_where_frozen_together() -> None:
    sooner = member(0, "Will it launch by June 30?")
    later = member(1, "Will it launch by July 7?", close_time=datetime(2026, 7, 7, 12, tzinfo=UTC))
    markets = cohorts([0.5, 0.5], windows=[7, 14])
    [row] = scored(markets, [sooner, later], [0.6, 0.5])
    assert (row.window_days, row.n_pairs, row.violations) == (14, 1, 1)
    hours_later = member(1, later.question, close_time=later.close_time, captured_at=NOW + timedelta(hours=2))
    assert scored(markets, [sooner, hours_later], [0.6, 0.5]) == ()


def test_windows_are_told_apart() -> None:
    members = [*group_of(2), member(2, group="g"), member(3, group="g")]
    rows = scored(cohorts([0.5] * 4, windows=[7, 7, 14, 14]), members, [0.5, 0.5, 0.9, 0.6])
    assert [(row.window_days, row.n_groups) for row in rows] == [(7, 1), (14, 1)]
    assert [row.sum_error for row in rows] == [0.0, pytest.approx(0.5)]


def test_nothing_related_is_nothing_to_say() -> None:
    assert scored(cohorts([]), []) == ()
    assert scored(cohorts([0.5]), [member(0)], [0.5]) == ()


probability = st.floats(0, 1) | st.just(NAN)


@given(st.lists(st.tuples(probability, probability, st.booleans(), st.integers(0, 3)), max_size=30))
def test_it_agrees_with_a_plain_loop(drawn: list[tuple[float, float, bool, int]]) -> None:
    markets = cohorts([price for price, _, _, _ in drawn])
    forecast = [given for _, given, _, _ in drawn]
    members = [
        member(column, f"Will it be above {column}?", group=str(number) if grouped else None)
        for column, (_, _, grouped, number) in enumerate(drawn)
    ]
    errors = []
    for name in {one.group for one in members} - {None}:
        columns = [one.column for one in members if one.group == name]
        total = markets.price[columns].sum()
        error = abs(sum(forecast[column] for column in columns) - 1)
        if len(columns) >= 2 and 0.8 <= total <= 1.5 and error == error:
            errors.append(error)
    rungs = [one.column for one in members if one.group is None]
    gaps = [forecast[high] - forecast[low] for low, high in pairwise(rungs)]
    gaps = [max(gap, 0.0) for gap in gaps if gap == gap]
    rows = scored(markets, members, forecast)
    if not errors and not gaps:
        assert rows == ()
        return
    [row] = rows
    assert (row.n_groups, row.n_pairs) == (len(errors), len(gaps))
    assert row.violations == sum(gap > 1e-9 for gap in gaps)
    assert row.worst_sum_error == (pytest.approx(max(errors)) if errors else None)
    assert row.mean_violation == (pytest.approx(sum(gaps) / len(gaps), abs=1e-8) if gaps else None)
