"""What a schedule owes: whenever it fires, and whatever is stored, each window is told once and no past day is run."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictbench_assets.database.schema import RUN_STATUSES
from predictbench_assets.runs import WINDOW_DAYS, RunKey
from predictbench_assets.schedule import (
    STALE_AFTER,
    days_between,
    is_running,
    missed_reason,
    plan_requested,
    plan_scheduled,
    scheduled_day,
    why_not_runnable,
)

SEVEN = time(7, 0)


@dataclass(frozen=True)
class Stored:
    status: str
    heartbeat_at: datetime = datetime(2026, 11, 23, 7, 0, tzinfo=UTC)
    attempt: int = 1
    holder: str = "host:1"
    abandoned: bool = False
    reason: str | None = None


def at(text: str) -> datetime:
    return datetime.fromisoformat(f"{text}:00+00:00")


moments = st.timedeltas(timedelta(0), timedelta(days=1500)).map(lambda since: at("2026-01-02T00:00") + since)
windows = st.lists(st.sampled_from(WINDOW_DAYS), min_size=1, unique=True)
runs = st.dictionaries(
    st.sampled_from(WINDOW_DAYS), st.builds(Stored, status=st.sampled_from(RUN_STATUSES), heartbeat_at=moments)
)


@pytest.mark.parametrize(
    ("now", "day"),
    [
        ("2026-11-23T07:00", "2026-11-23"),
        ("2026-11-23T13:17", "2026-11-23"),
        ("2026-11-23T23:59", "2026-11-23"),
        ("2026-11-24T00:00", "2026-11-23"),
        ("2026-11-24T06:59", "2026-11-23"),
        ("2026-11-24T07:00", "2026-11-24"),
    ],
)
def test_a_schedule_belongs_to_the_latest_time_of_the_daily_run(now: str, day: str) -> None:
    assert scheduled_day(at(now), SEVEN) == date.fromisoformat(day)


@given(moments, st.times())
def test_the_day_is_the_only_one_whose_run_was_due_within_the_last_24_hours(now: datetime, run_at: time) -> None:
    due_at = datetime.combine(scheduled_day(now, run_at), run_at, tzinfo=UTC)
    assert due_at <= now < due_at + timedelta(days=1)


@given(moments, st.times(), windows, runs)
def test_every_window_is_told_once_and_only_today_is_run(
    now: datetime, run_at: time, scheduled: list[int], stored: dict[int, Stored]
) -> None:
    due = plan_scheduled(scheduled_day(now, run_at), now, scheduled, stored)
    assert sorted([*due.windows, *due.done, *due.missed, *due.running]) == sorted(scheduled)
    assert due.run_date == scheduled_day(now, run_at)
    assert set(due.done) == {one for one in scheduled if one in stored and stored[one].status == "completed"}
    if due.run_date == now.date():
        assert not due.missed
        assert not due.running
    else:
        assert not due.windows


def test_what_is_complete_is_left_out_and_the_rest_of_today_is_run() -> None:
    stored = {1: Stored("completed"), 7: Stored("failed"), 14: Stored("partial"), 30: Stored("running")}
    due = plan_scheduled(date(2026, 11, 23), at("2026-11-23T09:17"), [30, 14, 7, 3, 1], stored)
    assert (due.windows, due.done) == ((30, 14, 7, 3), (1,))


def test_a_window_with_a_batch_under_way_is_run_again_while_the_day_lasts() -> None:
    stored = {1: Stored("completed"), 7: Stored("completed"), 30: Stored("failed")}
    due = plan_scheduled(date(2026, 11, 23), at("2026-11-23T17:17"), [30, 7, 1], stored, batches={7, 14})
    assert (due.windows, due.done) == ((30, 7), (1,))
    late = plan_scheduled(date(2026, 11, 23), at("2026-11-24T00:31"), [30, 7, 1], stored, batches={7, 14})
    assert (late.windows, late.done, late.missed) == ((), (7, 1), (30,))


def test_a_late_schedule_runs_nothing() -> None:
    now = at("2026-11-24T00:31")
    stored = {
        1: Stored("completed"),
        2: Stored("running", now - timedelta(minutes=2)),
        3: Stored("running", now - STALE_AFTER),
        7: Stored("failed"),
        14: Stored("missed"),
    }
    due = plan_scheduled(scheduled_day(now, SEVEN), now, [1, 2, 3, 7, 14, 30], stored)
    assert (due.run_date, due.windows, due.done) == (date(2026, 11, 23), (), (1,))
    assert (due.missed, due.running) == ((3, 7, 14, 30), (2,))


@given(windows, runs)
def test_all_that_a_person_asks_for_is_run(asked: list[int], stored: dict[int, Stored]) -> None:
    due = plan_requested(date(2026, 11, 20), asked, stored)
    assert due.windows == tuple(asked)
    assert set(due.done) <= set(asked)
    assert not due.missed


def test_a_run_that_was_not_heard_of_for_long_is_not_under_way() -> None:
    now = at("2026-11-23T12:00")
    assert is_running(Stored("running", now - STALE_AFTER + timedelta(seconds=1)), now)
    assert not is_running(Stored("running", now - STALE_AFTER), now)
    assert not is_running(Stored("completed", now), now)
    assert not is_running(Stored("running", now, abandoned=True), now)


def test_the_reason_of_a_missed_day_says_when_the_schedule_came() -> None:
    reason = missed_reason(date(2026, 11, 23), at("2026-11-24T00:31"), "https://ci.example/1")
    assert "2026-11-24 00:31 UTC" in reason
    assert "2026-11-23" in reason
    assert reason.endswith("(https://ci.example/1)")


def test_a_range_is_in_order_day_by_day() -> None:
    assert [str(key) for key in days_between(date(2026, 2, 27), date(2026, 3, 1), [7, 1])] == [
        *("2026-02-27|7", "2026-02-27|1", "2026-02-28|7", "2026-02-28|1", "2026-03-01|7", "2026-03-01|1"),
    ]
    assert days_between(date(2026, 3, 2), date(2026, 3, 1), [7]) == []


def test_what_can_be_run_and_why_the_rest_cannot() -> None:
    now = at("2026-11-23T09:00")
    today, before = RunKey(date(2026, 11, 23), 7), RunKey(date(2026, 11, 22), 7)
    assert why_not_runnable(today, now, None, frozen=False) is None
    assert why_not_runnable(before, now, Stored("completed"), frozen=True) is None
    assert why_not_runnable(before, now, Stored("running", now - STALE_AFTER), frozen=True) is None
    assert "nothing was run on that day" in str(why_not_runnable(before, now, None, frozen=False))
    assert r"is missed (it\nrained)" in str(
        why_not_runnable(before, now, Stored("missed", reason="it\nrained"), frozen=False)
    )
    assert "is under way, held by host:1" in str(why_not_runnable(today, now, Stored("running", now), frozen=True))
