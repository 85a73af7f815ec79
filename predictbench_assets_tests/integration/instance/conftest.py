"""An object store, an exchange and a database, as settings of whoever works on them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from predictbench_assets.sandbox.server import SandboxServer, serve
from predictbench_assets.sandbox.world import World
from predictbench_assets_tests.integration.instance.services import dagster_url, deployed_home
from predictbench_assets_tests.kit.daily_run import NOW, DailyRun


@pytest.fixture(scope="session")
def exchange() -> Iterator[SandboxServer]:
    """A small exchange without faults."""
    with serve(World(markets_per_day=20), now=NOW) as server:
        yield server


@pytest.fixture
def runner(tmp_path: Path, database_url: str, store: dict[str, str], exchange: SandboxServer) -> DailyRun:
    """A machine that runs `dagster job execute` on the deployed instance; nothing of it is needed afterwards."""
    folder = tmp_path / "runner"
    deployed_home(folder / "dagster")
    return DailyRun(folder, database_url, exchange, store | {"DAGSTER_POSTGRES_URL": dagster_url(database_url)})
