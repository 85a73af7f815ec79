"""A daily run whose steps are jobs of a real Ray cluster, in processes that share nothing with the runner's."""

from predictbench_assets_tests.kit.daily_run import BASELINE, DailyRun, MakeRun, differences
from predictbench_assets_tests.kit.ray_cluster import RayCluster


def test_steps_on_ray_store_what_one_process_stores(on_ray: DailyRun, cluster: RayCluster, make_run: MakeRun) -> None:
    on_ray.variables["PROCESSING_EXPERIMENTS"] = BASELINE
    with on_ray.started() as started:
        ran = started.ended(within=900)

    assert ran.exit_code == 0, ran.output
    alone = make_run(on_ray.sandbox.world, PROCESSING_EXPERIMENTS=BASELINE)
    assert alone.here().exit_code == 0
    assert not differences(alone.tables(), on_ray.tables())
    homes = [cluster.nodes["head"].folder / name for name in ("home", "dagster", "state/staging")]
    print([list(home.rglob("*")) if home.exists() else None for home in homes])
