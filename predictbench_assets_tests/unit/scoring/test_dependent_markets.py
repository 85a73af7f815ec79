"""Clusters over all cohorts: whatever shares a value belongs together, and so on from there."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictbench_assets.scoring.clusters import cluster_numbers

value = st.none() | st.integers(0, 12).map(str)


def test_markets_are_joined_over_any_chain_of_values() -> None:
    events = ["e1", "e1", None, "e2", "e3"]
    games = [None, "g1", "g1", None, None]
    assert cluster_numbers(events, games).tolist() == [0, 0, 0, 1, 2]


def test_equal_values_of_different_kinds_do_not_join() -> None:
    assert cluster_numbers(["1", "2"], ["2", "1"]).tolist() == [0, 1]


def test_a_market_without_any_link_is_alone() -> None:
    assert cluster_numbers([None, None, "a"]).tolist() == [0, 1, 2]
    assert cluster_numbers([], []).tolist() == []


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="one length"):
        cluster_numbers(["a"], [])


@given(st.lists(st.tuples(value, value, value), max_size=30))
def test_as_found_by_joining_one_by_one(markets: list[tuple[str | None, ...]]) -> None:
    found: list[int] = list(range(len(markets)))
    for _ in markets:
        for first, ours in enumerate(markets):
            for second, theirs in enumerate(markets):
                if any(one is not None and one == other for one, other in zip(ours, theirs, strict=True)):
                    found[first] = found[second] = min(found[first], found[second])
    order = list(dict.fromkeys(found))
    columns = list(zip(*markets, strict=True)) or [()]
    assert cluster_numbers(*columns).tolist() == [order.index(label) for label in found]
