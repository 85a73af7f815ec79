"""What a database error is taken to mean."""

import pytest

from predictbench_assets.database.errors import Backoff, DatabaseRefused, DatabaseUnavailable, error_kind


@pytest.mark.parametrize(
    ("sqlstate", "meaning"),
    [
        ("21000", "data"),  # the same market twice in a batch
        ("22003", "data"),
        ("22P05", "data"),
        ("23502", "data"),
        ("23514", "data"),
        ("54000", "data"),
        ("08006", "unavailable"),
        ("26000", "unavailable"),
        ("34000", "unavailable"),
        ("40001", "unavailable"),
        ("40P01", "unavailable"),
        ("53300", "unavailable"),
        ("55P03", "unavailable"),
        ("57014", "unavailable"),
        ("57P01", "unavailable"),
        (None, "unavailable"),
        ("42P01", "refused"),
        ("42501", "refused"),
        ("28P01", "refused"),
    ],
)
def test_only_the_verdict_on_the_data_blames_the_data(sqlstate: str | None, meaning: str) -> None:
    assert error_kind(sqlstate) == meaning


def test_unavailable_is_tried_again_and_then_raised() -> None:
    calls = []

    def away() -> None:
        calls.append(1)
        raise DatabaseUnavailable("gone")

    with pytest.raises(DatabaseUnavailable):
        Backoff(attempts=3, first=0.001, longest=0.002).run(away)
    assert len(calls) == 3


def test_refused_is_not_tried_again() -> None:
    calls = []

    def refuse() -> None:
        calls.append(1)
        raise DatabaseRefused("no")

    with pytest.raises(DatabaseRefused):
        Backoff(attempts=3, first=0.001).run(refuse)
    assert len(calls) == 1
