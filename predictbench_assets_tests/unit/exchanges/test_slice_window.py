"""The day, cut by end time."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictbench_assets.exchanges.polymarket.client import slice_window

DAY = datetime(2026, 11, 30, tzinfo=UTC)


@given(st.integers(1, 200), st.floats(60, 30 * 86_400))
def test_slices_cover_the_window_and_overlap(count: int, seconds: float) -> None:
    end = DAY + timedelta(seconds=seconds)
    slices = slice_window(DAY, end, count)
    assert len(slices) == count
    assert slices[0][0] < DAY
    assert slices[-1][1] == end
    for (_, high), (low, _) in pairwise(slices):
        assert low < high
    assert all(low < high for low, high in slices)


@pytest.mark.parametrize("count", [1, 7, 24, 48, 96])
def test_no_instant_at_which_markets_end_is_in_two_slices(count: int) -> None:
    slices = slice_window(DAY, DAY + timedelta(days=1), count)
    for minute in range(0, 24 * 60, 5):
        instant = DAY + timedelta(minutes=minute)
        assert sum(low <= instant <= high for low, high in slices) == 1


@pytest.mark.parametrize(("start", "end"), [(DAY, DAY), (DAY, DAY.replace(tzinfo=None)), (DAY, DAY - timedelta(1))])
def test_what_is_no_window_is_refused(start: datetime, end: datetime) -> None:
    with pytest.raises(ValueError, match="window"):
        slice_window(start, end, 24)
