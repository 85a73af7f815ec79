"""A Ray cluster of the session, and launchers for each engine on what they share."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from predictbench_assets.sandbox.server import SandboxServer, serve
from predictbench_assets.sandbox.world import World
from predictbench_assets_tests.integration.engines.experiments import CALLS
from predictbench_assets_tests.integration.engines.launcher import HALTING, Launcher, MakeLauncher
from predictbench_assets_tests.integration.instance.services import dagster_url
from predictbench_assets_tests.kit.daily_run import NOW, DailyRun
from predictbench_assets_tests.kit.ray_cluster import RayCluster, ray_cluster


@pytest.fixture(scope="session")
def exchange() -> Iterator[SandboxServer]:
    """A small exchange without faults."""
    with serve(World(markets_per_day=30), now=NOW) as server:
        yield server


@pytest.fixture(scope="session")
def cluster() -> Iterator[RayCluster]:
    with ray_cluster() as running:
        yield running


@pytest.fixture
def make_launcher(
    tmp_path: Path,
    database_url: str,
    store: dict[str, str],
    exchange: SandboxServer,
    request: pytest.FixtureRequest,
) -> MakeLauncher:
    """Makes a launcher for an engine, with a database and a bucket of its own."""

    def make(engine: str) -> Launcher:
        daily = DailyRun(tmp_path, database_url, exchange, store | {"DAGSTER_POSTGRES_URL": dagster_url(database_url)})
        return Launcher(daily, engine, request.getfixturevalue("cluster") if engine == "ray" else None)

    return make


@pytest.fixture(scope="session")
def in_one_process(
    tmp_path_factory: pytest.TempPathFactory, new_database: Callable[[], str], exchange: SandboxServer
) -> DailyRun:
    """The same day in one process, without shards and without faults: what all others have to come to."""
    folder = tmp_path_factory.mktemp("alone")
    alone = DailyRun(
        folder, new_database(), exchange, {"PROCESSING_EXPERIMENTS": HALTING, CALLS: str(folder / "calls")}
    )
    ran = alone.here()
    assert ran.exit_code == 0
    return alone
