"""A sandbox exchange, a database, and the command as a person runs it: in a process of its own."""

import os
import subprocess
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from predictbench_assets.sandbox.server import SandboxServer, serve
from predictbench_assets.sandbox.world import World
from predictbench_assets.settings import all_variables, is_provider_variable
from predictbench_assets_tests.kit.commands import Predictbench, command


@pytest.fixture
def exchange() -> Iterator[SandboxServer]:
    """A small exchange at the real time."""
    with serve(World(7, 30), now=datetime.now(UTC)) as server:
        yield server


@pytest.fixture
def environment(exchange: SandboxServer, database_url: str) -> dict[str, str]:
    """Variables for a run against the exchange into a database of this test's own, and none of the machine's."""
    theirs = (name for name in os.environ if name.upper() not in all_variables() and not is_provider_variable(name))
    inherited = {name: os.environ[name] for name in theirs}
    inherited.pop("GITHUB_STEP_SUMMARY", None)
    return inherited | {
        "DATABASE_URL": database_url,
        "POLYMARKET_BASE_URL": exchange.base_url,
        "POLYMARKET_CLOB_URL": exchange.clob_url,
        "POLYMARKET_REQUESTS_PER_SECOND": "200",
        "NO_PROXY": "127.0.0.1",
    }


@pytest.fixture
def predictbench(environment: Mapping[str, str], tmp_path: Path) -> Predictbench:
    """Runs `predictbench` with the given arguments in an empty folder."""

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*arguments),
            cwd=tmp_path,
            env=environment | variables,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run
