"""A real pgbouncer in transaction mode in front of a server of its own, and clients that take turns with us."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from predictbench_assets.database.privileges import WRITER
from predictbench_assets.sandbox.server import SandboxServer, serve
from predictbench_assets.sandbox.world import World
from predictbench_assets_tests.kit.daily_run import BASELINE, NOW, DailyRun, Tables
from predictbench_assets_tests.kit.deployment import Deployment
from predictbench_assets_tests.kit.pooler import PGBOUNCER, Pgbouncer


@pytest.fixture(scope="session")
def deployment() -> Iterator[Deployment]:
    """A server that may be stopped, with all roles."""
    if PGBOUNCER is None:
        pytest.skip("pgbouncer is not installed (apt install pgbouncer; .ci/run does)")
    with Deployment.started() as made:
        yield made


@pytest.fixture(scope="session")
def template(deployment: Deployment) -> Iterator[str]:
    """The name of a migrated database that nobody connects to, for copies."""
    with deployment.database() as name:
        deployment.migrated(name)
        yield name


@pytest.fixture
def database(deployment: Deployment, template: str) -> Iterator[str]:
    """The name of a migrated, empty database."""
    with deployment.database(template=template) as name:
        yield name


@pytest.fixture
def pooler(deployment: Deployment) -> Iterator[Pgbouncer]:
    """A pooler in transaction mode."""
    folder = Path(tempfile.mkdtemp(prefix="pb-b-"))
    made = Pgbouncer(folder, deployment.server)
    made.start()
    yield made
    made.stop()
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def sandbox() -> Iterator[SandboxServer]:
    """A small day's exchange."""
    with serve(World(markets_per_day=40), now=NOW) as server:
        yield server


@pytest.fixture
def pooled(
    pooler: Pgbouncer, deployment: Deployment, database: str, sandbox: SandboxServer, tmp_path: Path
) -> DailyRun:
    """Runs as the writer, through the pooler, with as many connections as production has; looked at past it."""
    looking = deployment.url("postgres", database).render_as_string(hide_password=False)
    variables = {
        "DATABASE_URL": pooler.url(WRITER, database).render_as_string(hide_password=False),
        "DB_POOL_MAX_SIZE": "2",
        "PROCESSING_EXPERIMENTS": BASELINE,
    }
    return DailyRun(tmp_path, looking, sandbox, variables)


@pytest.fixture(scope="session")
def direct(
    deployment: Deployment, template: str, sandbox: SandboxServer, tmp_path_factory: pytest.TempPathFactory
) -> Tables:
    """What a run leaves that has the server to itself."""
    with deployment.database(template=template) as name:
        url = deployment.url("postgres", name).render_as_string(hide_password=False)
        daily = DailyRun(tmp_path_factory.mktemp("direct"), url, sandbox, {"PROCESSING_EXPERIMENTS": BASELINE})
        assert daily.here().exit_code == 0
        return daily.tables()
