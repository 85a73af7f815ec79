"""Daily runs of a test's own, each with its sandbox exchange, its folders and its database."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import pytest

# Settings that a test does not give are at their defaults, whatever the machine has set.
os.environ["PREDICTBENCH_ENV_FILE"] = ""

from predictbench_assets.database.embedded import EmbeddedPostgres
from predictbench_assets.sandbox.exchange import ReplayWorld
from predictbench_assets.sandbox.server import SandboxServer, serve
from predictbench_assets.sandbox.world import World
from predictbench_assets_tests.conftest import administer, in_database
from predictbench_assets_tests.integration.daily_run.harness import NOW, DailyRun

MakeRun = Callable[..., DailyRun]
MakeSandbox = Callable[..., SandboxServer]


@pytest.fixture(scope="session")
def new_database(postgres_server: EmbeddedPostgres, migrated_template: str) -> Iterator[Callable[[], str]]:
    """Makes migrated, empty databases and returns their URLs; they are gone when the session is."""
    names: list[str] = []

    def make() -> str:
        name = f"test_{uuid4().hex[:12]}"
        administer(postgres_server, f"CREATE DATABASE {name} TEMPLATE {migrated_template}")
        names.append(name)
        return in_database(postgres_server, name).render_as_string(hide_password=False)

    yield make
    for name in names:
        administer(postgres_server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="module")
def make_sandbox() -> Iterator[MakeSandbox]:
    """Serves worlds until the module's tests are over."""
    with ExitStack() as stack:

        def make(world: World | ReplayWorld, *, faults: str = "", seed: int = 0) -> SandboxServer:
            return stack.enter_context(serve(world, now=NOW, faults=faults, seed=seed))

        yield make


@pytest.fixture(scope="module")
def make_run(
    make_sandbox: MakeSandbox, new_database: Callable[[], str], tmp_path_factory: pytest.TempPathFactory
) -> MakeRun:
    """Makes a `DailyRun` on a world; the arguments are the sandbox's and the settings of every run."""

    def make(
        world: World | ReplayWorld | None = None, *, faults: str = "", seed: int = 0, **variables: str
    ) -> DailyRun:
        folder: Path = tmp_path_factory.mktemp("daily")
        sandbox = make_sandbox(world or World(markets_per_day=40), faults=faults, seed=seed)
        return DailyRun(folder, new_database(), sandbox, variables)

    return make


@pytest.fixture
def daily(make_run: MakeRun) -> DailyRun:
    """A run of a small day without faults."""
    return make_run()
