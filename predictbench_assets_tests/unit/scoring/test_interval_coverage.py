"""Whether 95 % intervals cover what is true 95 % of the time, in worlds where events settle together."""

import pytest

from predictbench_assets_tests.unit.scoring.event_worlds import FORECAST_ERROR, KINDS, coverage, true_edge


@pytest.mark.long
@pytest.mark.parametrize("clusters", [30, 100, 300])
@pytest.mark.parametrize("edge_kind", FORECAST_ERROR)
@pytest.mark.parametrize("kind", KINDS)
def test_intervals_cover_the_truth(kind: str, edge_kind: str, clusters: int) -> None:
    found = coverage(kind, edge_kind, clusters, worlds=1_000)
    assert 0.93 <= found.clustered <= 0.97
    if kind == "ladder":
        assert found.independent < 0.75, "and clusters are the reason"


def test_a_ladder_needs_its_clusters() -> None:
    found = coverage("ladder", "edge", 100, worlds=150)
    assert 0.90 <= found.clustered <= 0.99
    assert found.independent < 0.75
    assert true_edge("ladder", "edge") > 0.005
