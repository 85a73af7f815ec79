"""Why a market that was captured once is none of the day any more: what the exchange shows of it now."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime

from predictbench_assets.exchanges.polymarket.client import PolymarketClient
from predictbench_assets.exchanges.polymarket.reconstruction import why_missing
from predictbench_assets.sandbox.exchange import ReplayWorld
from predictbench_assets.sandbox.server import serve
from predictbench_assets_tests.kit.builders import wire_row

Connect = Callable[..., AbstractAsyncContextManager[PolymarketClient]]
START, END = datetime(2026, 11, 30, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)
AS_OF = datetime(2026, 11, 23, 7, tzinfo=UTC)
CASES = (
    ("no price in the hours before", {}),
    ("ends at another time", {"endDate": "2026-12-07T12:00:00Z"}),
    ("closed before", {"closed": True, "closedTime": "2026-11-22 10:00:00+00"}),
    ("no price in the hours before", {"closed": True, "closedTime": "2026-11-24 10:00:00+00"}),
    ("listed later", {"createdAt": "2026-11-23T08:00:00Z"}),
)


def test_the_cause_is_that_of_the_row_as_it_is_now_wherever_it_is_listed(connect: Connect) -> None:
    opened = {"createdAt": "2026-11-01T00:00:00Z", "startDate": "2026-11-01T00:00:00Z"}
    rows = [
        wire_row(**{"id": str(number), "conditionId": f"0x{number:064x}"} | opened | changes)
        for number, (_, changes) in enumerate(CASES, 100)
    ]
    asked = {str(number): f"0x{number:064x}" for number in range(100, 190)} | {"1": None}

    async def ask(base_url: str, clob_url: str) -> Mapping[str, str]:
        async with connect(base_url, clob_url) as client:
            return await why_missing(client, asked, START, END, AS_OF)

    with serve(ReplayWorld(rows), now=AS_OF) as exchange:
        found = asyncio.run(ask(exchange.base_url, exchange.clob_url))

    assert [found[str(number)] for number, _ in enumerate(CASES, 100)] == [cause for cause, _ in CASES]
    assert {found[market_id] for market_id in found if int(market_id) > 104} == {"not listed any more"}
    assert set(asked) - set(found) == {"1"}
