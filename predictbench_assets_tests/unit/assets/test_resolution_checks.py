"""When the state of resolutions is worth a look."""

from datetime import date

import pytest

from predictbench_assets.assets.checks import RESOLUTION_CHECKS, check_resolutions
from predictbench_assets.resolution.ledger import CohortSettled


def passed(*cohorts: tuple[int, int, int, int]) -> dict[str, bool]:
    """Cohorts as markets, final ones, splits, long open ones."""
    given = [
        CohortSettled(date(2026, 3, day), 7, markets, final, 0, splits, long_open)
        for day, (markets, final, splits, long_open) in enumerate(cohorts, 1)
    ]
    return {result.check_name or "": result.passed for result in check_resolutions(given)}


@pytest.mark.parametrize(
    ("cohorts", "failing"),
    [
        ([], set()),
        ([(100, 100, 0, 0)], set()),
        ([(100, 95, 0, 0)], set()),
        ([(100, 94, 0, 0)], {"cohorts_final"}),
        ([(100, 100, 0, 0), (10, 9, 0, 0)], {"cohorts_final"}),
        ([(100, 100, 2, 0)], set()),
        ([(100, 100, 3, 0)], {"split_share"}),
        ([(20, 20, 10, 0)], set()),  # too few to say
        ([(100, 95, 0, 5)], set()),
        ([(100, 94, 0, 6)], {"cohorts_final", "long_open"}),
    ],
)
def test_checks_warn_where_something_is_behind(cohorts: list[tuple[int, int, int, int]], failing: set[str]) -> None:
    results = passed(*cohorts)
    assert {*results, "settlements_stable"} == {spec.name for spec in RESOLUTION_CHECKS}
    assert {name for name, well in results.items() if not well} == failing


def test_the_cohorts_that_are_behind_are_named() -> None:
    [behind, *_] = check_resolutions([CohortSettled(date(2026, 3, 1), 7, 100, 50, 0, 0, 0)])
    assert behind.metadata["behind"].value == {"2026-03-01|7": 0.5}
