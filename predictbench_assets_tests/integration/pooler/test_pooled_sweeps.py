"""A resolution sweep as the writer, through a transaction-mode pooler whose connections others use as well."""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from predictbench_assets.database.engine import make_engine
from predictbench_assets.database.privileges import WRITER
from predictbench_assets.sandbox.server import serve
from predictbench_assets.sandbox.world import Market, World
from predictbench_assets_tests.kit.pooler import Pgbouncer, left_behind, others_taking_turns
from predictbench_assets_tests.kit.sweeps import CLOSING, NOW, Swept

pytestmark = pytest.mark.long

LATER = timedelta(days=40)


@pytest.fixture
def swept(pooler: Pgbouncer, database: str) -> Iterator[Swept]:
    """Sweeps through the pooler."""
    engine = make_engine(pooler.url(WRITER, database), pool_size=2)
    world = World(7, 60)
    with serve(world, now=NOW) as exchange:
        yield Swept(engine, exchange, world)
    engine.dispose()


@pytest.fixture
def stored(swept: Swept) -> list[Market]:
    """Markets of a day."""
    at = int(NOW.timestamp())
    markets = [one for one in swept.world.day(CLOSING).markets if one.created <= at and not one.is_closed(at)]
    swept.store(markets)
    return markets


def right(swept: Swept, markets: list[Market]) -> bool:
    found = swept.rows("SELECT market_id, outcome, closed_time FROM market_resolutions WHERE state = 'final'")
    seen = sorted((market_id, outcome, int(at.timestamp())) for market_id, outcome, at in found)
    return seen == sorted((one.market_id, one.settlement.payout[0], one.settlement.closed) for one in markets)


def test_a_sweep_and_another_while_others_take_turns(
    swept: Swept, stored: list[Market], pooler: Pgbouncer, database: str
) -> None:
    with others_taking_turns(pooler.url(WRITER, database)):
        assert swept.at(LATER).became_final == len(stored)
        assert swept.again().observations == 0
    assert right(swept, stored)


def test_what_another_client_leaves_in_the_sessions_does_no_harm(
    swept: Swept, stored: list[Market], pooler: Pgbouncer, database: str
) -> None:
    url = pooler.url(WRITER, database)
    left_behind(url, "SET search_path = nowhere; SET TimeZone = 'Asia/Tokyo'; SET datestyle = 'SQL, DMY'")
    assert swept.at(LATER).became_final == len(stored)
    left_behind(url, "SET lock_timeout = '1ms'; SET statement_timeout = '1ms'")
    assert swept.again().observations == 0
    assert right(swept, stored)
