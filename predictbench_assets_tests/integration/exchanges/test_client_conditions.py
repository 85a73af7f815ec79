"""Asking for markets by condition and by id: what is sent, and what the answers mean."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import httpx
import pytest
import respx

from predictbench_assets.exchanges.polymarket.client import PolymarketClient, RawRow
from predictbench_assets.exchanges.stats import ApiStats
from predictbench_assets.exchanges.transport import RequestFailed, RequestRefused, UnexpectedAnswer

GAMMA, CLOB = "https://gamma.test", "https://clob.test"
CONDITIONS = [f"0x{number:064x}" for number in range(40)]
LIST = f"{GAMMA}/markets/keyset"
Ask = Callable[[Callable[[PolymarketClient], Coroutine[Any, Any, Any]]], Any]


@pytest.fixture
def ask(connect: Any) -> Ask:
    """Runs something with a client."""

    def run(work: Callable[[PolymarketClient], Coroutine[Any, Any, Any]]) -> Any:
        async def session() -> Any:
            async with connect(GAMMA, CLOB, max_attempts=3) as client:
                return await work(client)

        return asyncio.run(session())

    return run


def page(*ids: int, cursor: str | None = None) -> httpx.Response:
    body: dict[str, Any] = {"markets": [{"id": str(one)} for one in ids]}
    return httpx.Response(200, json=body | ({"next_cursor": cursor} if cursor else {}))


def conditions(ask: Ask, *answers: httpx.Response, closed: bool = True) -> tuple[list[RawRow], list[httpx.Request]]:
    with respx.mock() as mock:
        route = mock.get(LIST).mock(side_effect=[*answers])
        rows = ask(lambda client: client.fetch_conditions(CONDITIONS, closed=closed, stats=ApiStats()))
        return rows, [call.request for call in route.calls]


@pytest.mark.parametrize("closed", [True, False])
def test_forty_conditions_are_one_request_that_says_which_state(ask: Ask, closed: bool) -> None:
    rows, [request] = conditions(ask, page(1, 2), closed=closed)
    assert [row.market_id for row in rows] == ["1", "2"]
    params = request.url.params
    assert params.get_list("condition_ids") == CONDITIONS
    assert params["closed"] == str(closed).lower()
    assert params["limit"] == "100", "twenty is the default"
    assert len(str(request.url)) < 4_000


def test_a_page_that_is_shorter_than_it_was_asked_for_is_not_the_last(ask: Ask) -> None:
    rows, requests = conditions(ask, page(1, 2, cursor="a"), page(3, cursor="b"), page())
    assert [row.market_id for row in rows] == ["1", "2", "3"]
    assert [request.url.params.get("after_cursor") for request in requests] == [None, "a", "b"]
    assert all(request.url.params.get_list("condition_ids") == CONDITIONS for request in requests)


def test_a_listing_without_an_end_is_not_followed_for_ever(ask: Ask) -> None:
    with pytest.raises(UnexpectedAnswer, match="no end"):
        conditions(ask, *(page(1, cursor="a") for _ in range(100)))


def test_more_than_forty_are_not_asked_for(ask: Ask) -> None:
    with pytest.raises(ValueError, match="40"):
        ask(lambda client: client.fetch_conditions([*CONDITIONS, "0x1"], closed=True, stats=ApiStats()))


@pytest.mark.parametrize(("status", "known"), [(200, True), (404, False), (422, False)])
def test_a_market_by_its_id_is_its_body_or_nothing(ask: Ask, status: int, known: bool) -> None:
    with respx.mock() as mock:
        mock.get(f"{GAMMA}/markets/12").mock(httpx.Response(status, json={"id": "12"}))
        mock.get(f"{CLOB}/markets/0xab").mock(httpx.Response(status, json={"closed": True}))
        bodies = [
            ask(lambda client: client.fetch_market("12", stats=ApiStats())),
            ask(lambda client: client.fetch_clob_market("0xab", stats=ApiStats())),
        ]
    assert [body is not None for body in bodies] == [known, known]


def test_an_id_cannot_lead_to_another_route(ask: Ask) -> None:
    with respx.mock() as mock:
        route = mock.get(url__startswith=GAMMA).mock(httpx.Response(404))
        assert ask(lambda client: client.fetch_market("../a?b#c", stats=ApiStats())) is None
        assert route.calls[0].request.url.raw_path == b"/markets/..%2Fa%3Fb%23c"


def test_a_refusal_is_told_and_a_passing_failure_is_asked_again(ask: Ask) -> None:
    with respx.mock() as mock:
        mock.get(f"{GAMMA}/markets/1").mock(httpx.Response(400, json={"error": "no"}))
        with pytest.raises(RequestRefused, match="no"):
            ask(lambda client: client.fetch_market("1", stats=ApiStats()))
        mock.get(f"{GAMMA}/markets/2").mock(side_effect=[httpx.Response(500), httpx.Response(200, json={"id": "2"})])
        assert ask(lambda client: client.fetch_market("2", stats=ApiStats())) == b'{"id":"2"}'
        mock.get(f"{GAMMA}/markets/3").mock(httpx.Response(500))
        with pytest.raises(RequestFailed, match="3 times"):
            ask(lambda client: client.fetch_market("3", stats=ApiStats()))
