"""Long reads are cut where they must be, and nothing is read twice or left out."""

from hypothesis import given
from hypothesis import strategies as st

from predictbench_assets.database.chunks import chunks_by_size


def test_neighbours_share_a_portion_while_there_is_room() -> None:
    assert [*chunks_by_size([2, 3, 5, 1, 4], 5)] == [slice(0, 2), slice(2, 3), slice(3, 5)]


def test_what_is_too_large_alone_is_a_portion() -> None:
    assert [*chunks_by_size([1, 9, 1], 5)] == [slice(0, 1), slice(1, 2), slice(2, 3)]


@given(st.lists(st.integers(0, 9), max_size=30), st.integers(1, 20))
def test_everything_is_in_one_portion_and_none_is_too_large(sizes: list[int], most: int) -> None:
    found = [sizes[part] for part in chunks_by_size(sizes, most)]
    assert [size for part in found for size in part] == sizes
    assert all(part and (sum(part) <= most or len(part) == 1 or not any(part[1:])) for part in found)
