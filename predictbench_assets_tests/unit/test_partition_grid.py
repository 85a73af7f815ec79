"""Run keys, windows and the partition grid."""

from datetime import UTC, date, datetime, timedelta

import pytest
from dagster import partition_loading_context
from hypothesis import given
from hypothesis import strategies as st

from predictbench_assets.partitions import partition_key, run_partitions
from predictbench_assets.runs import FIRST_RUN_DATE, WINDOW_DAYS, RunKey, UnknownPartition, checked_key, parsed_key

run_dates = st.dates(min_value=FIRST_RUN_DATE, max_value=date(2099, 12, 31))
windows = st.sampled_from(WINDOW_DAYS)
keys = st.builds(RunKey, run_dates, windows)


@given(keys)
def test_a_window_is_one_utc_day_that_begins_at_midnight(key: RunKey) -> None:
    assert key.end - key.start == timedelta(days=1)
    assert key.start.tzinfo is UTC
    assert (key.start.hour, key.start.minute, key.start.second, key.start.microsecond) == (0, 0, 0, 0)
    assert key.start.date() == key.target_date == key.run_date + timedelta(days=key.window_days)


@given(run_dates, windows)
def test_windows_of_successive_days_touch_and_do_not_overlap(run_date: date, window: int) -> None:
    assert RunKey(run_date, window).end == RunKey(run_date + timedelta(days=1), window).start


@given(keys)
def test_the_text_of_a_key_is_dagsters_and_reads_back(key: RunKey) -> None:
    assert str(key) == str(partition_key(key))
    assert parsed_key(str(key)) == key


@given(keys, keys)
def test_two_keys_share_an_id_only_if_they_are_the_same(one: RunKey, other: RunKey) -> None:
    assert (one.run_id == other.run_id) == (one == other)


def test_the_id_of_a_run_never_changes() -> None:
    assert str(RunKey(date(2026, 11, 23), 7).run_id) == "3a9539a7-6633-5aed-b8a9-510de26d26f3"


@pytest.mark.parametrize("text", ["", "2026-11-23", "2026-11-23|", "2026-11-23|x", "7|2026-11-23", "2026-13-01|7"])
def test_what_is_no_key_is_refused_with_the_form_it_should_have(text: str) -> None:
    with pytest.raises(UnknownPartition, match=r"2026-11-23\|7"):
        parsed_key(text)


@pytest.mark.parametrize(
    ("run_date", "window", "said"),
    [
        (date(2026, 11, 24), 7, "in the future"),
        (date(2025, 12, 31), 7, "first day"),
        (date(2026, 11, 23), 15, "not in the grid"),
        (date(2026, 11, 23), 0, "not in the grid"),
    ],
)
def test_a_cell_outside_the_grid_is_refused(run_date: date, window: int, said: str) -> None:
    with pytest.raises(UnknownPartition, match=said):
        checked_key(run_date, window, today=date(2026, 11, 23))


def test_the_day_itself_is_a_partition_from_its_first_second() -> None:
    with partition_loading_context(effective_dt=datetime(2026, 11, 23, tzinfo=UTC)):
        assert run_partitions.has_partition_key(partition_key(RunKey(date(2026, 11, 23), 7)))
        assert not run_partitions.has_partition_key(partition_key(RunKey(date(2026, 11, 24), 7)))


@given(st.sampled_from(WINDOW_DAYS))
def test_every_window_of_the_constant_is_in_the_grid(window: int) -> None:
    now = datetime(2026, 11, 23, 7, tzinfo=UTC)
    key = partition_key(checked_key(date(2026, 11, 23), window, today=now.date()))
    with partition_loading_context(effective_dt=now):
        assert run_partitions.has_partition_key(key)
