"""Answers that the sandbox does not give: requests that are refused, and rows of another market."""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta

import httpx
import pytest
import respx

from predictbench_assets.clock import FixedClock
from predictbench_assets.exchanges.polymarket.client import PolymarketClient
from predictbench_assets.exchanges.polymarket.exchange import Polymarket
from predictbench_assets.resolution.summary import SweepReport
from predictbench_assets.resolution.sweep import SweepInterrupted, sweep
from predictbench_assets.sandbox.world import Market, World
from predictbench_assets_tests.kit.sweeps import EXCHANGE, NOW, Swept

GAMMA = "https://gamma.test"
CLOB = "https://clob.test"
LATER = NOW + timedelta(days=10)
WORLD = World(7, 60)
Answer = Callable[[httpx.Request], httpx.Response]


def swept_from(
    swept: Swept, listing: Answer, single: Answer, *, clob: Answer | None = None, now: datetime = LATER
) -> SweepReport:
    async def work() -> SweepReport:
        clock = FixedClock(now)
        client = PolymarketClient(GAMMA, CLOB, clock=clock, requests_per_second=10_000)
        return await sweep(Polymarket(client, host=EXCHANGE, clock=clock), swept.engine, clock, max_requests=500)

    with respx.mock(assert_all_called=False) as mock:
        mock.get(f"{GAMMA}/markets/keyset").mock(side_effect=listing)
        mock.get(url__regex=f"{GAMMA}/markets/.*").mock(side_effect=single)
        mock.get(url__regex=f"{CLOB}/markets/.*").mock(side_effect=clob or unknown)
        return asyncio.run(work())


def refused(_: httpx.Request) -> httpx.Response:
    return httpx.Response(400, json={"error": "condition_ids are not valid"})


def unknown(_: httpx.Request) -> httpx.Response:
    return httpx.Response(404, json={"error": "not found"})


def settled(request: httpx.Request, **changed: object) -> httpx.Response:
    """A row without ids of its outcomes, which the second of them has won."""
    market = WORLD.market(request.url.path.rpartition("/")[2])
    assert market is not None
    row = {"id": market.market_id, "closed": True, "outcomes": market.outcomes, "outcomePrices": '["0","1"]'}
    return httpx.Response(200, json=row | changed)


def test_a_batch_that_is_refused_is_asked_for_one_by_one(swept: Swept, cohort: list[Market]) -> None:
    swept.store(cohort)
    report = swept_from(swept, refused, settled)
    assert report.states == {"final": len(cohort)}
    # Both batches of forty; what was refused is not asked for once more as an open one.
    assert report.requests == 2 + len(cohort)


def test_a_market_whose_two_rows_contradict_each_other_is_asked_for_by_its_id(swept: Swept, one: Market) -> None:
    swept.store([one])
    row = {"id": one.market_id, "closed": True, "outcomes": one.outcomes, "outcomePrices": '["0","1"]'}
    rows = {"markets": [row, row | {"outcomePrices": '["1","0"]'}]}
    report = swept_from(swept, lambda _: httpx.Response(200, json=rows), settled)
    assert (report.states, report.requests) == ({"final": 1}, 2)
    assert swept.resolution(one.market_id) == ("final", 0.0, "gamma")


def test_a_market_that_is_refused_is_noted_and_holds_nobody_up(swept: Swept, cohort: list[Market]) -> None:
    odd = cohort[5].market_id
    swept.store(cohort)

    def single(request: httpx.Request) -> httpx.Response:
        return refused(request) if request.url.path.endswith(odd) else settled(request)

    report = swept_from(swept, refused, single)
    assert (report.remaining, report.unreadable) == (0, 1)
    assert "condition_ids are not valid" in str(swept.problem(odd))
    assert swept.resolution(odd) is None


def test_a_market_that_is_refused_is_not_given_up(swept: Swept, one: Market) -> None:
    swept.store([one])
    report = swept_from(swept, refused, refused, now=NOW + timedelta(days=100))
    assert (report.unreadable, report.gave_up) == (1, 0)
    assert swept.resolution(one.market_id) is None
    assert swept_from(swept, refused, unknown, now=NOW + timedelta(days=100)).gave_up == 1


def test_a_clob_that_refuses_is_no_second_word_for_taking_a_settlement_back(swept: Swept, one: Market) -> None:
    swept.store([one])
    swept_from(swept, refused, settled)

    def otherwise(request: httpx.Request) -> httpx.Response:
        return settled(request, outcomePrices='["1","0"]')

    blocked = lambda _: httpx.Response(403, json={"error": "not from your country"})  # noqa: E731
    report = swept_from(swept, refused, otherwise, clob=blocked)
    assert swept.resolution(one.market_id) == ("final", 0.0, "gamma")
    assert (report.changed, report.remaining) == ((), 1)
    assert "not from your country" in report.problems[0]
    # One that does not know the market is asked in vain: then Gamma is all there is.
    assert len(swept_from(swept, refused, otherwise).changed) == 1


def test_outcomes_that_come_turned_round_settle_by_their_names(swept: Swept, cohort: list[Market]) -> None:
    """Twenty rows without ids: the place of an outcome is no evidence of which one it is."""
    swept.store(cohort[:20])

    def turned(request: httpx.Request) -> httpx.Response:
        market = WORLD.market(request.url.path.rpartition("/")[2])
        assert market is not None
        return settled(request, outcomes=market.outcomes[::-1])

    report = swept_from(swept, refused, turned)
    assert report.states == {"final": 20}
    assert {row[0] for row in swept.rows("SELECT outcome FROM market_resolutions")} == {1.0}


def test_a_row_that_shows_no_order_settles_by_another_source_or_waits(swept: Swept, one: Market) -> None:
    swept.store([one])

    def nameless(request: httpx.Request) -> httpx.Response:
        return settled(request, outcomes=["One", "Other"])

    report = swept_from(swept, refused, nameless)
    assert (report.states, report.unreadable) == ({"open": 1}, 1)
    assert "which outcome was first" in str(swept.problem(one.market_id))

    def clob(_: httpx.Request) -> httpx.Response:
        tokens = [
            {"token_id": token, "outcome": name, "winner": place == 0}
            for place, (token, name) in enumerate(zip(one.token_ids, one.outcomes, strict=True))
        ]
        return httpx.Response(200, json={"closed": True, "tokens": tokens[::-1]})

    assert swept_from(swept, refused, nameless, clob=clob).became_final == 1
    assert swept.resolution(one.market_id) == ("final", 1.0, "clob")


def test_a_row_that_shows_no_order_takes_no_settlement_back(swept: Swept, one: Market) -> None:
    swept.store([one])
    assert swept_from(swept, refused, settled).became_final == 1
    report = swept_from(swept, refused, lambda request: settled(request, outcomes=["One", "Other"]))
    assert (report.changed, report.observations, report.unreadable) == ((), 0, 1)
    assert swept.resolution(one.market_id) == ("final", 0.0, "gamma")
    assert "which outcome was first" in str(swept.problem(one.market_id))


def test_an_api_that_has_changed_ends_the_sweep_with_what_was_seen(swept: Swept, cohort: list[Market]) -> None:
    swept.store(cohort)
    with pytest.raises(SweepInterrupted, match="the API has changed") as raised:
        swept_from(swept, lambda _: httpx.Response(200, json={"data": []}), settled)
    assert raised.value.report.remaining == len(cohort)


@pytest.mark.parametrize("closed", ["0001-01-01T00:00:00Z", "2021-05-05T00:00:00Z", "9999-12-31T23:59:59Z"])
def test_a_time_of_closing_that_cannot_be_is_noted_and_not_taken(swept: Swept, one: Market, closed: str) -> None:
    def single(request: httpx.Request) -> httpx.Response:
        return settled(request, closedTime=closed)

    swept.store([one])
    assert swept_from(swept, refused, single).observations == 1
    assert swept.rows("SELECT state, closed_time FROM market_resolutions") == [("final", None)]
    assert "cannot have closed at" in str(swept.problem(one.market_id))
    assert swept_from(swept, refused, single).observations == 0


def test_an_api_that_refuses_everything_ends_the_sweep(swept: Swept, cohort: list[Market]) -> None:
    swept.store(cohort)
    with pytest.raises(SweepInterrupted, match="refused"):
        swept_from(swept, refused, refused)


def test_a_blocked_region_ends_the_sweep_at_once(swept: Swept, cohort: list[Market]) -> None:
    swept.store(cohort)
    blocked = lambda _: httpx.Response(451, html="<html>no</html>")  # noqa: E731
    with pytest.raises(SweepInterrupted, match="does not serve the region") as raised:
        swept_from(swept, blocked, settled)
    assert raised.value.report.requests <= 2, "one for each forty"


@pytest.mark.parametrize("body", [{"id": "1", "closed": True, "outcomePrices": '["1","0"]'}, [], "<html>", {}])
def test_an_answer_about_something_else_is_not_taken_for_the_market(swept: Swept, one: Market, body: object) -> None:
    swept.store([one], condition=None)
    report = swept_from(swept, refused, lambda _: httpx.Response(200, json=body))
    assert (report.unreadable, report.observations) == (1, 0)
    assert "no row of this market" in str(swept.problem(one.market_id))
