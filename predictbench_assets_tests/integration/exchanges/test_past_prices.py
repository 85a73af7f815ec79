"""Prices of a day before: read after the freeze, frozen with the snapshot, and never worth a run."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import respx

from predictbench_assets.clock import FixedClock
from predictbench_assets.exchanges.exchange import CapturedRow
from predictbench_assets.exchanges.polymarket.capture import Captured, capture
from predictbench_assets.exchanges.polymarket.client import HISTORIES_PER_REQUEST, PolymarketClient
from predictbench_assets.exchanges.polymarket.price_history import LOOK_BACK, PAST, PastPrices
from predictbench_assets.exchanges.polymarket.quotes import Quotes
from predictbench_assets.exchanges.polymarket.reading import read_row
from predictbench_assets.ingestion.cohort import cohort_markets, stage_cohort
from predictbench_assets.ingestion.snapshot import SNAPSHOT, freeze_snapshot, snapshot_rows
from predictbench_assets.markets.cohort import Filters, normalize_cohort
from predictbench_assets.markets.quotes import Quote
from predictbench_assets.runs import RunKey
from predictbench_assets.sandbox.server import serve
from predictbench_assets.sandbox.world import World
from predictbench_assets.staging import Schema, StagedFile, StagingArea

CLOB = "https://clob.test"
NOW = datetime(2026, 11, 23, 7, tzinfo=UTC)
KEY = RunKey(date(2026, 11, 23), 7)
Answer = Callable[[httpx.Request], httpx.Response]


def ask(
    connect: Any, count: int, answer: Answer | list[httpx.Response], **options: Any
) -> tuple[PastPrices, list[Any]]:
    """What comes of asking for tokens 0 to `count`, and the bodies sent."""
    budget = {"budget_s": options.pop("budget_s")} if "budget_s" in options else {}

    async def work() -> PastPrices:
        async with connect("https://gamma.test", CLOB, **options) as client:
            return await client.fetch_past_prices([str(number) for number in range(count)], NOW, **budget)  # type: ignore[no-any-return]

    with respx.mock(assert_all_called=False) as mock:
        route = mock.post(f"{CLOB}/batch-prices-history").mock(side_effect=answer)
        found = asyncio.run(work())
        return found, [json.loads(call.request.content) for call in route.calls]


def histories(request: httpx.Request) -> httpx.Response:
    """A price for each token asked for, at the very end of the time."""
    asked = json.loads(request.content)
    points = [{"t": asked["end_ts"] - 3_600, "p": 0.1}, {"t": asked["end_ts"], "p": 0.25}]
    return httpx.Response(200, json={"history": dict.fromkeys(asked["markets"], points)})


def test_tokens_are_asked_for_in_batches_each_once(connect: Any) -> None:
    found, bodies = ask(connect, 45, histories)
    assert [len(body["markets"]) for body in bodies] == [20, 20, 5]
    assert HISTORIES_PER_REQUEST == 20
    assert found.by_token.keys() == {str(number) for number in range(45)}
    assert {(one.at, one.price) for one in found.by_token.values()} == {(NOW - PAST, 0.25)}
    assert (found.requested, found.reason) == (True, None)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (httpx.Response(500, json={"error": "no"}), "failed 2 times"),
        (httpx.Response(429, headers={"Retry-After": "1"}), "status 429"),
        (httpx.Response(404, json={"error": "gone"}), "answered 404"),
        (httpx.Response(400, json={"error": "invalid filters"}), "answered 400"),
        (httpx.Response(200, json=[]), "failed 2 times"),
        (httpx.Response(200, text="<html>", headers={"content-type": "text/html"}), "HTML page"),
    ],
    ids=["500", "429", "404", "400", "no object", "html"],
)
def test_an_exchange_without_histories_is_soon_left_alone(connect: Any, answer: httpx.Response, said: str) -> None:
    found, bodies = ask(connect, 2_000, lambda _: answer, max_attempts=2, concurrency=1)
    assert found.by_token == {}
    assert found.reason is not None
    assert said in found.reason
    assert found.reason.startswith("2,000 of 2,000 tokens: ")
    assert len(bodies) <= 8


def test_a_token_that_is_refused_costs_its_own_price_only(connect: Any) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        odd = "25" in json.loads(request.content)["markets"]
        return httpx.Response(400, json={"error": "invalid token"}) if odd else histories(request)

    found, bodies = ask(connect, 60, answer)
    assert found.by_token.keys() == {str(number) for number in range(60) if number != 25}
    assert found.reason is not None
    assert found.reason.startswith("1 of 60 tokens: /batch-prices-history answered 400: invalid token")
    assert len(bodies) <= 3 + 2 * 5, "two for each halving of twenty"


def test_an_exchange_that_fails_for_one_token_has_the_others(connect: Any) -> None:
    """A token that the server falls over whenever it is asked for: not refused, and never answered."""

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(500) if "7" in json.loads(request.content)["markets"] else histories(request)

    found, bodies = ask(connect, 60, answer)
    assert found.by_token.keys() == {str(number) for number in range(60) if number != 7}
    assert "1 of 60 tokens" in str(found.reason)
    assert len(bodies) <= 3 + 6 + 5 + 2 * 5


def test_tokens_are_read_about_while_they_come_in(connect: Any) -> None:
    """Two batches are asked for before the last token is known."""
    begun = asyncio.Event()

    async def tokens() -> Any:
        for number in range(45):
            if number == 40:
                await begun.wait()
            yield str(number % 44)

    def answer(request: httpx.Request) -> httpx.Response:
        begun.set()
        return histories(request)

    async def work() -> PastPrices:
        async with connect("https://gamma.test", CLOB) as client, asyncio.timeout(10):
            return await client.fetch_past_prices(tokens(), NOW, budget_s=10)  # type: ignore[no-any-return]

    with respx.mock() as mock:
        mock.post(f"{CLOB}/batch-prices-history").mock(side_effect=answer)
        found = asyncio.run(work())
    assert found.by_token.keys() == {str(number) for number in range(44)}


def test_a_failure_that_heals_is_none(connect: Any) -> None:
    waiting = [httpx.Response(500), httpx.Response(200, json={"error": "busy"})]
    found, _ = ask(connect, 5, lambda request: waiting.pop() if waiting else histories(request))
    assert len(found.by_token) == 5
    assert found.reason is None
    assert found.stats.retries == {"http_5xx": 1, "undecodable": 1}


def test_an_exchange_that_is_slow_for_too_long_leaves_what_came(connect: Any) -> None:
    async def answer(request: httpx.Request) -> httpx.Response:
        if "0" not in json.loads(request.content)["markets"]:
            await asyncio.Event().wait()
        return histories(request)

    found, _ = ask(connect, 60, answer, budget_s=0.1)
    assert found.by_token.keys() == {str(number) for number in range(20)}
    assert found.reason == "40 of 60 tokens: not all answered within 0.1 s"


def test_tokens_that_were_not_asked_for_are_not_taken(connect: Any) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        points = [{"t": json.loads(request.content)["end_ts"], "p": 0.4}]
        return httpx.Response(200, json={"history": {"0": points, "77": points}})

    found, _ = ask(connect, 1, answer)
    assert found.by_token.keys() == {"0"}


# The snapshot


@pytest.fixture(scope="module")
def world() -> World:
    return World(seed=11, markets_per_day=150)


def captured_of(world: World, **options: Any) -> Captured:
    with serve(world, now=NOW) as server:
        client = PolymarketClient(server.base_url, server.clob_url, clock=FixedClock(NOW), requests_per_second=1_000)
        return asyncio.run(capture(client, KEY.start, KEY.end, FixedClock(NOW), **options))


def frozen(captured: Captured, folder: Path) -> StagedFile:
    return freeze_snapshot(
        StagingArea(str(folder)), KEY, captured.for_port(), exchange="sandbox", dagster_run_id="0" * 32
    )


def offered(snapshot: StagedFile) -> list[tuple[bytes, Quote | None]]:
    return [(row.raw, row.quote) for row in snapshot_rows(snapshot)]


@pytest.fixture(scope="module")
def captured(world: World) -> Captured:
    return captured_of(world)


def test_a_market_has_its_price_of_a_day_before(world: World, captured: Captured, tmp_path: Path) -> None:
    snapshot = frozen(captured, tmp_path)
    cohort = normalize_cohort(offered(snapshot), read_row, captured_at=NOW, filters=Filters(), core_size=10, seed=1)
    priced = 0
    for market in cohort.markets:
        true = world.market(market.market_id)
        assert true is not None
        if market.price_24h_ago is None:
            young = true.created > (NOW - PAST - timedelta(hours=1)).timestamp()
            assert young or true.quote(int((NOW - PAST).timestamp())).shown == 0.5, "or an empty book has none"
            continue
        token = captured.quote_of(market.contracts[0].contract_id)
        assert token is not None
        assert token.day_ago is not None
        assert NOW - PAST - LOOK_BACK <= token.day_ago.at <= NOW - PAST
        assert market.price_24h_ago == true.quote(int(token.day_ago.at.timestamp())).shown
        priced += 1
    assert priced > 100
    assert snapshot.meta["past_prices"] == len(captured.past_prices.by_token)
    staged = stage_cohort(
        StagingArea(str(tmp_path)), "cohort.jsonl.zst", cohort, snapshot=snapshot, limit=None, dagster_run_id="0" * 32
    )
    assert staged.meta["priced_day_ago"] == priced
    assert list(cohort_markets(staged)) == cohort.markets


def test_the_snapshot_counts_where_its_prices_come_from(captured: Captured, tmp_path: Path) -> None:
    silent = len(captured.walk.rows) - len(captured.quotes.by_token)
    assert silent > 0, "books without orders"
    lost = dict(list(captured.quotes.by_token.items())[5:])
    fewer = replace(captured, quotes=Quotes(available=True, reason="5 of 150 tokens: refused", by_token=lost))
    meta = frozen(fewer, tmp_path).meta
    assert meta["rows_by_source"] == {"clob": len(lost), "gamma": silent + 5}
    assert (meta["quotes_available"], meta["quotes_reason"]) == (True, "5 of 150 tokens: refused")


def test_histories_are_asked_for_while_the_listing_is_read() -> None:
    """The second page is not answered before the first histories were asked for."""
    asked = asyncio.Event()

    async def page(request: httpx.Request) -> httpx.Response:
        params = request.url.params
        if "order" in params:
            return httpx.Response(200, json={"markets": []})
        if "after_cursor" in params:
            async with asyncio.timeout(10):
                await asked.wait()
            return httpx.Response(200, json={"markets": []})
        rows = [
            {"id": str(number), "endDate": f"{KEY.target_date}T00:00:30Z", "clobTokenIds": f'["{number}", "9{number}"]'}
            for number in range(100, 130)
        ]
        return httpx.Response(200, json={"markets": rows, "next_cursor": "more"})

    def history(request: httpx.Request) -> httpx.Response:
        asked.set()
        return histories(request)

    async def work() -> Captured:
        gamma = "https://gamma.test"
        client = PolymarketClient(gamma, CLOB, clock=FixedClock(NOW), requests_per_second=1_000, slices=1)
        with respx.mock() as mock:
            mock.get(f"{gamma}/markets/keyset").mock(side_effect=page)
            mock.post(f"{CLOB}/batch-prices-history").mock(side_effect=history)
            mock.post(f"{CLOB}/prices").mock(return_value=httpx.Response(200, json={}))
            return await capture(client, KEY.start, KEY.end, FixedClock(NOW))

    captured = asyncio.run(work())
    assert captured.past_prices.by_token.keys() == {str(number) for number in range(100, 130)}


def test_it_can_be_turned_off_and_then_costs_nothing(world: World, tmp_path: Path) -> None:
    captured = captured_of(world, price_history=False)
    snapshot = frozen(captured, tmp_path)
    assert (snapshot.meta["past_prices"], snapshot.meta["past_prices_asked"]) == (0, False)
    assert "price_history" not in captured.stats.seconds
    assert all(b"day_ago" not in line for line in snapshot.lines())


@pytest.mark.parametrize("version", [1, 2])
def test_a_snapshot_of_the_version_before_is_still_read(captured: Captured, tmp_path: Path, version: int) -> None:
    area = StagingArea(str(tmp_path))
    row, quote = captured.walk.rows[0].raw, next(iter(captured.quotes.by_token.values()))
    lines = [
        b'{"quote":' + quote.model_dump_json(exclude={"day_ago"}).encode() + b',"row":' + row + b"}",
        b'{"quote":null,"row":' + row + b"}",
    ]
    area.publish("old.jsonl.zst", Schema("raw_markets", version), {}, lines)
    read = list(snapshot_rows(area.open("old.jsonl.zst", SNAPSHOT)))
    market_id = captured.walk.rows[0].market_id
    assert read == [CapturedRow(market_id, row, quote), CapturedRow(market_id, row, None)]
    assert quote.day_ago is None


def test_a_market_without_orders_keeps_its_older_price(captured: Captured, tmp_path: Path) -> None:
    snapshot = frozen(replace(captured, quotes=Quotes(available=True)), tmp_path)
    rows = {msgspec.json.decode(raw)["id"]: (raw, quote) for raw, quote in offered(snapshot)}
    silent = [quote for _, quote in rows.values() if quote and quote.bid is None and quote.ask is None]
    assert silent
    assert all(quote.day_ago is not None for quote in silent)
    without = normalize_cohort(
        ((raw, None) for raw, quote in rows.values() if quote in silent),
        read_row, captured_at=NOW, filters=Filters(), core_size=0, seed=1,
    )  # fmt: skip
    cohort = normalize_cohort(
        ((raw, quote) for raw, quote in rows.values() if quote in silent),
        read_row, captured_at=NOW, filters=Filters(), core_size=0, seed=1,
    )  # fmt: skip
    assert [market.price for market in cohort.markets] == [market.price for market in without.markets]
    assert all(market.price_24h_ago is not None for market in cohort.markets)
