"""Answers that the sandbox does not give: requests that are refused, and rows of another market."""

import asyncio
from collections.abc import Callable
from datetime import timedelta

import httpx
import pytest
import respx

from predictbench_assets.clock import FixedClock
from predictbench_assets.polymarket.client import PolymarketClient
from predictbench_assets.resolution.report import SweepReport
from predictbench_assets.resolution.sweep import SweepInterrupted, sweep
from predictbench_assets.sandbox.world import Market
from predictbench_assets_tests.integration.resolution.conftest import EXCHANGE, NOW, Swept

GAMMA = "https://gamma.test"
LATER = NOW + timedelta(days=10)
Answer = Callable[[httpx.Request], httpx.Response]


def swept_from(swept: Swept, listing: Answer, single: Answer) -> SweepReport:
    async def work() -> SweepReport:
        clock = FixedClock(LATER)
        async with PolymarketClient(GAMMA, GAMMA, clock=clock, requests_per_second=10_000) as client:
            return await sweep(client, swept.engine, clock, exchange=EXCHANGE, max_requests=500)

    with respx.mock(assert_all_called=False) as mock:
        mock.get(f"{GAMMA}/markets/keyset").mock(side_effect=listing)
        mock.get(url__regex=f"{GAMMA}/markets/.*").mock(side_effect=single)
        return asyncio.run(work())


def refused(_: httpx.Request) -> httpx.Response:
    return httpx.Response(400, json={"error": "condition_ids are not valid"})


def settled(request: httpx.Request) -> httpx.Response:
    row = {"id": request.url.path.rpartition("/")[2], "closed": True, "outcomePrices": '["0","1"]'}
    return httpx.Response(200, json=row)


def test_a_batch_that_is_refused_is_asked_for_one_by_one(swept: Swept, cohort: list[Market]) -> None:
    swept.store(cohort)
    report = swept_from(swept, refused, settled)
    assert report.states == {"final": len(cohort)}
    # Both batches of forty; what was refused is not asked for once more as an open one.
    assert report.requests == 2 + len(cohort)


def test_a_market_that_is_refused_is_noted_and_holds_nobody_up(swept: Swept, cohort: list[Market]) -> None:
    odd = cohort[5].market_id
    swept.store(cohort)

    def single(request: httpx.Request) -> httpx.Response:
        return refused(request) if request.url.path.endswith(odd) else settled(request)

    report = swept_from(swept, refused, single)
    assert (report.remaining, report.unreadable) == (0, 1)
    assert "condition_ids are not valid" in str(swept.problem(odd))
    assert swept.resolution(odd) is None


def test_an_api_that_refuses_everything_ends_the_sweep(swept: Swept, cohort: list[Market]) -> None:
    swept.store(cohort)
    with pytest.raises(SweepInterrupted, match="refused"):
        swept_from(swept, refused, refused)


@pytest.mark.parametrize("body", [{"id": "1", "closed": True, "outcomePrices": '["1","0"]'}, [], "<html>", {}])
def test_an_answer_about_something_else_is_not_taken_for_the_market(swept: Swept, one: Market, body: object) -> None:
    swept.store([one], condition=None)
    report = swept_from(swept, refused, lambda _: httpx.Response(200, json=body))
    assert (report.unreadable, report.observations) == (1, 0)
    assert "no row of this market" in str(swept.problem(one.market_id))
