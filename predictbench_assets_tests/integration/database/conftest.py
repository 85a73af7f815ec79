"""Leases, markets and experiments to write, plain enough to predict every row."""

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
from sqlalchemy import Engine

from predictbench_assets.clock import FixedClock
from predictbench_assets.persistence.leases import Lease, open_lease
from predictbench_assets.persistence.writer import RunWriter
from predictbench_assets.runs import RunKey
from predictbench_assets_tests.kit.builders import KEY, NOW, QUICK, Database


@pytest.fixture
def database(engine: Engine) -> Database:
    return Database(engine)


@pytest.fixture
def take(engine: Engine) -> Callable[..., Lease]:
    """Open a lease; every call is another Dagster run unless told."""
    numbers = count(1)

    def open_one(key: RunKey = KEY, **changes: Any) -> Lease:
        values: dict[str, Any] = {
            "dagster_run_id": f"dagster-{next(numbers)}",
            "holder": "host:1",
            "exchange": "gamma.example",
            "git_sha": "abc",
            "clock": FixedClock(NOW),
        }
        return open_lease(engine, key, **(values | changes))

    return open_one


@pytest.fixture
def writer(engine: Engine, take: Callable[..., Lease]) -> Callable[..., RunWriter]:
    """A writer with a lease of its own."""

    def make(lease: Lease | None = None, **changes: Any) -> RunWriter:
        held = lease or take()
        return RunWriter(engine, held, held.clock, **({"backoff": QUICK} | changes))

    return make
