"""A daily run whose steps are jobs of a real Ray cluster, in processes that share nothing with the runner's."""

from collections.abc import Callable
from pathlib import Path

import pytest

from predictbench_assets_tests.kit.daily_run import BASELINE, DailyRun, differences
from predictbench_assets_tests.kit.ray_cluster import RayCluster


@pytest.mark.long
def test_steps_on_ray_store_what_one_process_stores(
    on_ray: DailyRun, cluster: RayCluster, new_database: Callable[[], str], tmp_path: Path
) -> None:
    on_ray.variables["PROCESSING_EXPERIMENTS"] = BASELINE

    with on_ray.started() as started:
        ran = started.ended(within=900)

    assert ran.exit_code == 0, ran.output
    alone = DailyRun(tmp_path / "alone", new_database(), on_ray.sandbox, {"PROCESSING_EXPERIMENTS": BASELINE})
    assert alone.here().exit_code == 0
    assert not differences(alone.tables(), on_ray.tables())
    assert not (on_ray.folder / "home" / "staging").exists()
    head = cluster.nodes["head"].folder
    assert not [file for home in ("home", "state/staging") for file in (head / home).rglob("*.zst")]
