"""Order books and weeks of prices over HTTP: what is wrong with one token costs that one."""

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import respx

from predictbench_assets.clock import FixedClock
from predictbench_assets.exchanges.exchange import MarketDataRead, ReadOf
from predictbench_assets.exchanges.polymarket.client import (
    BOOKS_PER_REQUEST,
    CLOB_LIMITS,
    HISTORIES_PER_REQUEST,
    PolymarketClient,
)
from predictbench_assets.exchanges.polymarket.exchange import Polymarket
from predictbench_assets.markets.market_data import OrderBook
from predictbench_assets.sandbox.server import serve
from predictbench_assets.sandbox.world import World

CLOB = "https://clob.test"
NOW = datetime(2026, 11, 23, 7, tzinfo=UTC)


def a_book(token: str) -> dict[str, Any]:
    return {"asset_id": token, "bids": [{"price": "0.4", "size": "5"}], "asks": [{"price": "0.42", "size": "5"}]}


def ask(connect: Any, count: int, answer: Callable[[list[str]], Any], **options: Any) -> tuple[ReadOf[OrderBook], int]:
    """The books of tokens 0 to `count`, and the number of requests; `answer` makes a body, or a status, for some."""

    def respond(request: httpx.Request) -> httpx.Response:
        made = answer([one["token_id"] for one in json.loads(request.content)])
        return httpx.Response(made) if isinstance(made, int) else httpx.Response(200, json=made)

    async def work() -> ReadOf[OrderBook]:
        async with connect("https://gamma.test", CLOB) as client:
            return await client.fetch_books([str(number) for number in range(count)], **options)  # type: ignore[no-any-return]

    with respx.mock(assert_all_called=False) as mock:
        route = mock.post(f"{CLOB}/books").mock(side_effect=respond)
        return asyncio.run(work()), route.call_count


def test_books_are_read_in_batches(connect: Any) -> None:
    found, requests = ask(connect, 250, lambda tokens: list(map(a_book, tokens)))
    assert len(found.found) == 250
    assert requests == -(-250 // BOOKS_PER_REQUEST)
    assert (found.missing, found.warning) == ({}, None)


def test_a_broken_book_and_an_unknown_token_are_told_apart(connect: Any) -> None:
    def answer(tokens: list[str]) -> Any:
        books = [a_book(token) for token in tokens if token != "7"]
        books[3]["bids"] = "broken"
        return [*books, a_book("999999"), 5]

    found, requests = ask(connect, 20, answer)
    assert requests == 1
    assert found.missing == {
        "3": "its book cannot be right: a side that is no list",
        "7": "the exchange has no order book of it",
    }
    assert len(found.found) == 18
    assert found.warning is None


@pytest.mark.parametrize("status", [400, 500])
def test_a_token_that_spoils_its_batch_costs_itself(connect: Any, status: int) -> None:
    found, _ = ask(connect, 150, lambda tokens: status if "77" in tokens else list(map(a_book, tokens)))
    assert found.missing.keys() == {"77"}
    assert "not answered: 1 of 150 tokens" in found.missing["77"]
    assert found.warning is not None


def test_a_clob_that_answers_nothing_is_left_alone_and_nothing_is_raised(connect: Any) -> None:
    found, requests = ask(connect, 20_000, lambda _: 500)
    assert requests < 100
    assert len(found.missing) == 20_000
    assert found.warning is not None


def test_it_ends_when_the_time_is_up(connect: Any) -> None:
    found, _ = ask(connect, 300, lambda tokens: list(map(a_book, tokens)), budget_s=0.0)
    assert found.warning is not None
    assert "not all answered within 0 s" in found.warning


def test_both_routes_keep_to_a_documented_limit() -> None:
    assert CLOB_LIMITS["/books"] == 500
    assert CLOB_LIMITS["/batch-prices-history"] == 1_000
    assert BOOKS_PER_REQUEST <= 500
    assert HISTORIES_PER_REQUEST <= 20


def test_the_sandbox_has_both_and_nothing_of_after_the_freeze() -> None:
    world = World(markets_per_day=40)
    at = int(NOW.timestamp())
    open_now = [market for market in world.listed(at) if not market.is_closed(at)][:30]
    tokens = [market.token_ids[0] for market in open_now]
    with serve(world, now=NOW) as server:
        client = PolymarketClient(server.base_url, server.clob_url, clock=FixedClock(NOW), requests_per_second=1_000)
        exchange = Polymarket(client, host="sandbox", clock=FixedClock(NOW))
        read: MarketDataRead = asyncio.run(exchange.market_data(tokens, NOW))
    assert read.books.found.keys() == set(tokens)
    assert read.histories.found
    for token, points in read.histories.found.items():
        assert all(instant <= at for instant, _ in points), token
    old = next(market for market in open_now if at - market.created > 9 * 86_400)
    points = read.histories.found[old.token_ids[0]]
    assert at - points[0][0] >= 7 * 86_400 - 3_600
    assert points[-1][1] == pytest.approx(old.quote(int(points[-1][0])).shown, abs=1e-4)
