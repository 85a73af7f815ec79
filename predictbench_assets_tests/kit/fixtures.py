"""Fixtures that several rooms of tests share, loaded as a plugin by the outermost conftest.

`kit` has what more than one file of tests builds with: `builders` for single records, `ledger`, `stored_days` and
`releases` for databases with a past, and harnesses around whole programs (`daily_run`, `sweeps`, `workflows`,
`deployment`, `pooler`, ...). What one file alone needs, and the values that a test is about, stay there. Nothing here
asserts what a test is named for, and nothing imports from a `conftest`.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import settings as hsettings
from pydantic_ai import models
from sqlalchemy import Engine, delete, insert

# Settings that a test does not give are at their defaults, whatever the machine has set.
os.environ["PREDICTBENCH_ENV_FILE"] = ""

from predictbench_assets.database.embedded import EmbeddedPostgres
from predictbench_assets.database.engine import make_engine
from predictbench_assets.database.schema import model_calls
from predictbench_assets.persistence.leases import Lease
from predictbench_assets.persistence.writer import RunWriter
from predictbench_assets.runs import RunKey
from predictbench_assets.sandbox.exchange import ReplayWorld
from predictbench_assets.sandbox.models.server import Settings as ModelSettings
from predictbench_assets.sandbox.models.server import StandIn
from predictbench_assets.sandbox.models.server import serve as serve_models
from predictbench_assets.sandbox.server import SandboxServer, serve
from predictbench_assets.sandbox.world import World
from predictbench_assets.site.build import ReportSummary, write_report
from predictbench_assets.staging import StagingArea
from predictbench_assets_tests.kit.builders import KEY, QUICK, open_run
from predictbench_assets_tests.kit.daily_run import NOW, DailyRun, MakeRun, MakeSandbox
from predictbench_assets_tests.kit.database import Database, database_of, make_database
from predictbench_assets_tests.kit.planted_page import HOSTILE, plant, planted_board
from predictbench_assets_tests.kit.releases import Benchmark
from predictbench_assets_tests.kit.stored_days import Stored

# A machine that runs other things too can pause for longer than the default deadline of an example.
hsettings.register_profile("unhurried", deadline=None)
hsettings.load_profile("unhurried")


@pytest.fixture(scope="session")
def new_database(postgres_server: EmbeddedPostgres, migrated_template: str) -> Callable[[], str]:
    """Makes migrated, empty databases and returns their URLs; they go with the server when the session ends."""

    def make() -> str:
        return make_database(postgres_server, f"TEMPLATE {migrated_template}").render_as_string(hide_password=False)

    return make


@pytest.fixture(scope="module")
def make_sandbox() -> Iterator[MakeSandbox]:
    """Serves worlds until the module's tests are over."""
    running: list[ExitStack] = []

    def make(world: World | ReplayWorld, *, faults: str = "", seed: int = 0) -> SandboxServer:
        running.append(ExitStack())
        return running[-1].enter_context(serve(world, now=NOW, faults=faults, seed=seed))

    yield make
    with ThreadPoolExecutor(16) as pool:  # each takes its time to say goodbye
        list(pool.map(ExitStack.close, running))


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


@pytest.fixture(scope="module")
def stand_in_server() -> Iterator[StandIn]:
    """A stand-in model server of the module; `stand_in` is the same one with its counts at zero.

    Requests to models are allowed while it runs: they go to this machine.
    """
    with serve_models(ModelSettings(retry_after=0.01)) as running, models.override_allow_model_requests(True):
        yield running


@pytest.fixture
def stand_in(stand_in_server: StandIn) -> StandIn:
    """A stand-in model server over real HTTP, that has not been asked yet: `base_url`, `counts`, `calls`."""
    stand_in_server.reset()
    return stand_in_server


@pytest.fixture
def daily(make_run: MakeRun) -> DailyRun:
    """A run of a small day without faults."""
    return make_run()


@pytest.fixture
def archive(tmp_path: Path) -> StagingArea:
    return StagingArea(str(tmp_path / "archive"))


@pytest.fixture
def stored(engine: Engine, archive: StagingArea) -> Stored:
    return Stored(engine, archive)


@pytest.fixture(scope="session")
def planted_report(
    postgres_server: EmbeddedPostgres, migrated_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ReportSummary]:
    """Ten days with hostile markets, and a board on which everything that a page can show is."""
    with database_of(postgres_server, f"TEMPLATE {migrated_template}") as url:
        engine = make_engine(url)
        now = plant(engine, days=10, markets=6, special=HOSTILE)
        folder = tmp_path_factory.mktemp("page") / "report"
        yield write_report(engine, folder, now=now, leaderboard=planted_board(now))
        engine.dispose()


@pytest.fixture
def database(engine: Engine) -> Database:
    return Database(engine)


@pytest.fixture
def take(engine: Engine) -> Callable[..., Lease]:
    """Opens runs; every call is another Dagster run unless one is given."""
    numbers = count(1)

    def take_one(key: RunKey = KEY, **changes: Any) -> Lease:
        return open_run(engine, key, **({"dagster_run_id": f"dagster-{next(numbers)}"} | changes))

    return take_one


@pytest.fixture
def paid_rows(engine: Engine) -> Callable[..., None]:
    """Leaves the row of one paid call of a run, in place of those that are there."""

    def leave_one(key: RunKey, *, batch_id: str | None, status: str = "unknown") -> None:
        row = {
            "call_id": uuid4(),
            "run_date": key.run_date,
            "window_days": key.window_days,
            **dict.fromkeys(("experiment", "version", "config_hash", "snapshot_hash", "unit_id", "owner"), "x"),
            **dict.fromkeys(("provider", "model_asked", "prompt_hash"), "x"),
            "unit": "market",
            "sample": 0,
            "attempt": 0,
            "status": status,
            "asked_at": key.start,
            "expires_at": key.start,
            "batch_id": batch_id,
        }
        with engine.begin() as connection:
            connection.execute(delete(model_calls))
            connection.execute(insert(model_calls), row)

    return leave_one


@pytest.fixture
def writer(engine: Engine, take: Callable[..., Lease]) -> Callable[..., RunWriter]:
    """A writer with a lease of its own."""

    def make(lease: Lease | None = None, **changes: Any) -> RunWriter:
        held = lease or take()
        return RunWriter(engine, held, held.clock, **({"backoff": QUICK} | changes))

    return make


@pytest.fixture
def benchmark(engine: Engine, tmp_path: Path) -> Benchmark:
    return Benchmark(engine, tmp_path)
