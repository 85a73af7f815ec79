"""A daily run of its own for each test, with its sandbox exchange and its database."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

# The definitions read the environment when they are imported; here that is the defaults, whatever the machine has set.
os.environ["PREDICTBENCH_ENV_FILE"] = ""

from predictbench_assets.sandbox.exchange import ReplayWorld
from predictbench_assets.sandbox.server import serve
from predictbench_assets.sandbox.world import World
from predictbench_assets_tests.integration.daily_run.harness import NOW, DailyRun

MakeRun = Callable[..., DailyRun]


@pytest.fixture
def make_run(tmp_path: Path, database_url: str) -> Iterator[MakeRun]:
    """Makes a `DailyRun` on a world; the arguments are the sandbox's and the settings of every run."""
    with ExitStack() as stack:

        def make(world: World | ReplayWorld | None = None, *, faults: str = "", seed: int = 0, **variables: Any) -> DailyRun:
            sandbox = stack.enter_context(serve(world or World(markets_per_day=40), now=NOW, faults=faults, seed=seed))
            return DailyRun(tmp_path, database_url, sandbox, variables)

        yield make


@pytest.fixture
def daily(make_run: MakeRun) -> DailyRun:
    """A run of a small day without faults."""
    return make_run()
