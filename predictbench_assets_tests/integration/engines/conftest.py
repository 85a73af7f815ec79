"""A Ray cluster of the session, and runs whose steps are its jobs."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from predictbench_assets.sandbox.server import SandboxServer, serve
from predictbench_assets.sandbox.world import World
from predictbench_assets_tests.integration.instance.services import dagster_url, deployed_home
from predictbench_assets_tests.kit.daily_run import NOW, DailyRun
from predictbench_assets_tests.kit.ray_cluster import RayCluster, ray_cluster

HANDED = (
    *("DATABASE_URL", "DAGSTER_POSTGRES_URL", "STAGING_URI", "STAGING_S3_ENDPOINT_URL", "STAGING_S3_REGION"),
    *("STAGING_S3_ACCESS_KEY_ID", "STAGING_S3_SECRET_ACCESS_KEY"),
    *("PREDICTBENCH_NOW", "POLYMARKET_BASE_URL", "POLYMARKET_CLOB_URL", "POLYMARKET_REQUESTS_PER_SECOND"),
    *("GIT_SHA", "PROCESSING_EXPERIMENTS", "TEST_CALLS", "TEST_GATE"),
)
"""What the workers are told by the run; everything else they have of their node."""


@pytest.fixture(scope="session")
def exchange() -> Iterator[SandboxServer]:
    """A small exchange without faults."""
    with serve(World(markets_per_day=20), now=NOW) as server:
        yield server


@pytest.fixture(scope="session")
def cluster() -> Iterator[RayCluster]:
    with ray_cluster() as running:
        yield running


@pytest.fixture
def on_ray(
    tmp_path: Path,
    database_url: str,
    store: dict[str, str],
    exchange: SandboxServer,
    cluster: RayCluster,
) -> DailyRun:
    """A machine whose runs are executed by the cluster, with a database and a bucket that they share."""
    folder = tmp_path / "runner"
    deployed_home(folder / "dagster")
    options = {"ray": {"address": cluster.address, "env_vars": [*HANDED, "EXECUTOR=in_process"]}}
    engine = {
        "EXECUTOR": "ray",
        "EXECUTOR_OPTIONS": json.dumps(options),
        "DAGSTER_STEP_DELEGATING_EXECUTOR_SLEEP_SECONDS": "0.2",
    }
    return DailyRun(
        folder, database_url, exchange, store | engine | {"DAGSTER_POSTGRES_URL": dagster_url(database_url)}
    )
