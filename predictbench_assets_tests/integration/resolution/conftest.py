"""A sandbox exchange whose markets are stored, and sweeps of it at any time."""

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine

from predictbench_assets.sandbox.server import serve
from predictbench_assets.sandbox.world import Market, World
from predictbench_assets_tests.kit.sweeps import CLOSING, NOW, Swept


@pytest.fixture
def world() -> World:
    """A small world."""
    return World(7, 60)


@pytest.fixture
def swept(engine: Engine, world: World) -> Iterator[Swept]:
    """An exchange on 2 March, with nothing stored yet."""
    with serve(world, now=NOW) as exchange:
        yield Swept(engine, exchange, world)


@pytest.fixture
def cohort(world: World) -> list[Market]:
    """The markets that close on 9 March and were open a week before."""
    at = int(NOW.timestamp())
    return [market for market in world.day(CLOSING).markets if market.created <= at and not market.is_closed(at)]


@pytest.fixture
def one(cohort: list[Market]) -> Market:
    """A market of the cohort that closes with the day, undisputed, and has a winner."""
    deadline = int(datetime(2026, 3, 11, tzinfo=UTC).timestamp())
    return next(
        market
        for market in cohort
        if market.ends <= market.settlement.closed < deadline
        and len(market.settlement.proposals) == 1
        and max(market.settlement.shown) == 1 == sum(market.settlement.shown)
    )
