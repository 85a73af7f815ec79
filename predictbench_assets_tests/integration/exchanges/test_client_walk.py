"""The client against the sandbox exchange, over real HTTP."""

import asyncio
import json
import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from predictbench_assets.exchanges.polymarket.client import Walk, WalkInterrupted
from predictbench_assets.exchanges.polymarket.quotes import Quotes
from predictbench_assets.exchanges.polymarket.reading import read_row
from predictbench_assets.markets.cohort import Filters, normalize_cohort
from predictbench_assets.sandbox.exchange import ReplayWorld
from predictbench_assets.sandbox.poison import REJECTABLE, TOLERABLE
from predictbench_assets.sandbox.server import SandboxServer, serve
from predictbench_assets.sandbox.world import World

NOW = datetime(2026, 11, 23, 7, tzinfo=UTC)
START = datetime(2026, 11, 30, tzinfo=UTC)
END = START + timedelta(days=1)
MARKETS = 800


@pytest.fixture(scope="module")
def world() -> World:
    return World(seed=3, markets_per_day=MARKETS, poison=0.05, poisons=tuple(REJECTABLE | TOLERABLE))


@pytest.fixture(scope="module")
def exchange(world: World) -> Iterator[SandboxServer]:
    with serve(world, now=NOW) as server:
        yield server


@pytest.fixture
def fetch(connect: Any) -> Callable[..., Walk]:
    def walk(server: SandboxServer, **options: Any) -> Walk:
        async def work() -> Walk:
            async with connect(server.base_url, server.clob_url, **options) as client:
                return await client.fetch_window(START, END)  # type: ignore[no-any-return]

        return asyncio.run(work())

    return walk


def quotes_of(connect: Any, clob_url: str, tokens: list[str], **options: Any) -> Quotes:
    async def work() -> Quotes:
        async with connect("http://127.0.0.1:9", clob_url, **options) as client:
            return await client.fetch_quotes(tokens)  # type: ignore[no-any-return]

    return asyncio.run(work())


def test_the_whole_day_is_read_in_any_number_of_slices(exchange: SandboxServer, fetch: Callable[..., Walk]) -> None:
    walk = fetch(exchange)
    alone = fetch(exchange, slices=1, concurrency=1)
    assert walk.rows == alone.rows
    assert walk.rows == fetch(exchange, slices=7, page_size=33).rows
    ends = [datetime.fromisoformat(row.end_date) for row in walk.rows if row.end_date and row.end_date != "soon"]
    assert len(ends) >= MARKETS - len(walk.rows) * 0.05
    assert all(START <= end < END for end in ends)
    assert [row.market_id for row in walk.rows] == sorted((row.market_id or "" for row in walk.rows), key=int)
    assert walk.stats.cut_rows == alone.stats.cut_rows == 0, "the next midnight's crowd was asked for"
    assert walk.stats.retries == {}
    assert walk.stats.bytes > 1_000_000


def test_the_same_answers_have_the_same_hash(exchange: SandboxServer, fetch: Callable[..., Walk]) -> None:
    assert fetch(exchange).sha256 == fetch(exchange, concurrency=2).sha256
    assert fetch(exchange).sha256 != fetch(exchange, page_size=50).sha256


@pytest.mark.parametrize("seed", range(3))
def test_faults_change_no_row(
    world: World, exchange: SandboxServer, fetch: Callable[..., Walk], waits: list[float], seed: int
) -> None:
    faults = "http500=0.05,http429=0.02,reset=0.01,truncate=0.01,repeat=0.2,html403=0.02"
    with serve(world, now=NOW, faults=faults, seed=seed) as faulty:
        walk = fetch(faulty, page_size=20)
        assert walk.rows == fetch(exchange).rows
        assert walk.recheck is not None
        assert walk.recheck.share == 0
        injected = faulty.injected
        failed = sum(count for kind, count in injected.items() if kind != "repeat")
        assert sum(walk.stats.retries.values()) == failed == len(waits) > 0
        assert walk.stats.requests == walk.stats.pages + failed
        assert walk.stats.duplicates > 0
        assert walk.stats.backoff_seconds == pytest.approx(sum(waits))


def test_every_kind_of_fault_is_told_apart(world: World, fetch: Callable[..., Walk]) -> None:
    faults = "http500=0.1,http429=0.1,reset=0.1,truncate=0.1,html403=0.1"
    with serve(world, now=NOW, faults=faults, seed=1) as faulty:
        walk = fetch(faulty, max_attempts=12, page_size=25)
        assert walk.stats.retries == {
            "http_5xx": faulty.injected["http500"],
            "http_429": faulty.injected["http429"],
            "connection": faulty.injected["reset"],
            "truncated": faulty.injected["truncate"],
            "html": faulty.injected["html403"],
        }


def test_an_api_that_stays_unwell_fails_the_walk(world: World, fetch: Callable[..., Walk]) -> None:
    with serve(world, now=NOW, faults="http500=0.9") as broken, pytest.raises(WalkInterrupted) as caught:
        fetch(broken, max_attempts=2)
    assert caught.value.retriable
    assert "/markets/keyset failed 2 times" in str(caught.value)
    assert caught.value.slice[0] < END


def test_a_hostile_row_spoils_no_page(exchange: SandboxServer, fetch: Callable[..., Walk], connect: Any) -> None:
    walk = fetch(exchange)
    quotes = quotes_of(connect, exchange.clob_url, [token for row in walk.rows if (token := row.first_token_id)])
    rows = [(row.raw, quotes.get(row.first_token_id)) for row in walk.rows]
    cohort = normalize_cohort(rows, read_row, captured_at=NOW, filters=Filters(), core_size=300, seed=1)
    poisoned = MARKETS * 5 // 100
    assert len(cohort.markets) >= MARKETS - poisoned
    assert 0 < len(cohort.rejected) <= poisoned + 6  # of the days beside, rows that do not say when they end
    assert {row.field for row in cohort.rejected} >= {
        "question",
        "endDate",
        "outcomes",
        "outcomePrices",
        "clobTokenIds",
    }
    assert all(row.market_id for row in cohort.rejected)
    assert sum(market.price.source == "clob" for market in cohort.markets) > MARKETS / 2


def listed(number: int, end: str | None) -> dict[str, Any]:
    row = {"id": str(number), "conditionId": f"0x{number:064x}", "slug": f"m{number}", "closed": False, "question": "?"}
    tokens = {"clobTokenIds": json.dumps([str(number * 10), str(number * 10 + 1)])}
    return row | tokens | ({"endDate": end} if end else {})


def test_the_window_is_half_open_to_the_second(fetch: Callable[..., Walk]) -> None:
    ends = {
        1: "2026-11-29T23:59:59Z",
        2: "2026-11-30T00:00:00Z",
        3: "2026-11-30T23:59:59Z",
        4: "2026-12-01T00:00:00Z",
        5: "2026-11-30T12:00:37Z",
    }
    with serve(ReplayWorld([listed(number, end) for number, end in ends.items()]), now=NOW) as server:
        walk = fetch(server)
    assert [row.market_id for row in walk.rows] == ["2", "3", "5"]
    assert walk.stats.cut_rows == 1, "the second before the window; the midnight after it was not read"


def test_rows_are_the_bytes_that_were_served(fetch: Callable[..., Walk]) -> None:
    rows = [listed(1, "2026-11-30T00:00:00Z") | {"odd": "é\u2028", "big": 10**30}]
    with serve(ReplayWorld(rows), now=NOW) as server:
        (row,) = fetch(server).rows
    assert json.loads(row.raw) == rows[0]
    assert b"\n" not in row.raw


def test_an_empty_day_is_an_empty_walk(fetch: Callable[..., Walk]) -> None:
    with serve(ReplayWorld([]), now=NOW) as server:
        walk = fetch(server)
    assert (walk.rows, walk.recheck) == ([], None)
    assert walk.stats.pages == 24 + 1, "every slice, and the probe of the upper bound"


def test_the_slice_read_twice_is_drawn_at_random(exchange: SandboxServer, fetch: Callable[..., Walk]) -> None:
    drawn = {fetch(exchange, rng=random.Random(seed)).recheck for seed in range(8)}
    assert len(drawn) > 2
    for recheck in drawn:
        assert recheck is not None
        assert recheck.first == recheck.second > 0
        assert (recheck.differing, recheck.share) == (0, 0.0)


@pytest.mark.parametrize("options", [{"requests_per_second": 0.3}, {"requests_per_second": 0.6, "shared_by": 2}])
def test_requests_stay_within_the_rate_or_the_part_of_it(
    exchange: SandboxServer, connect: Any, options: dict[str, Any]
) -> None:
    before = sum(exchange.requests.values())

    def served() -> int:
        return sum(exchange.requests.values()) - before

    async def work() -> int:
        # A budget of 3 in 10 seconds: the fourth request has to wait for a third of that.
        async with connect(exchange.base_url, exchange.clob_url, **options) as client:
            walk = asyncio.create_task(client.fetch_window(START, END))
            async with asyncio.timeout(10):
                while served() < 3:  # noqa: ASYNC110 - the server counts in another thread
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            walk.cancel()
            with pytest.raises(asyncio.CancelledError):
                await walk
            return served()

    assert asyncio.run(work()) == 3


def test_quotes_come_in_batches_and_unknown_tokens_are_absent(
    exchange: SandboxServer, fetch: Any, connect: Any
) -> None:
    tokens = [token for row in fetch(exchange).rows if (token := row.first_token_id)]
    quotes = quotes_of(connect, exchange.clob_url, [*tokens, "123456", "no token", *tokens[:3]])
    assert quotes.available
    assert quotes.reason is None
    assert quotes.stats.requests == -(-(len(tokens) + 1) // 250)
    assert "123456" not in quotes.by_token
    assert len(quotes.by_token) > 0.8 * len(tokens)
    assert quotes.get(None) is None
    assert all(quote.at == NOW for quote in quotes.by_token.values())


def test_without_the_clob_there_are_no_quotes_and_a_reason(world: World, connect: Any) -> None:
    tokens = [str(number) for number in range(1_000)]
    nobody = quotes_of(connect, "http://127.0.0.1:9", tokens, max_attempts=2)
    assert (nobody.available, dict(nobody.by_token)) == (False, {})
    assert nobody.reason is not None
    assert "/prices failed 2 times" in nobody.reason
    with serve(world, now=NOW) as server:
        refused = quotes_of(connect, f"{server.base_url}/nothing-here", tokens)
    assert not refused.available
    assert "404" in (refused.reason or "")
    assert refused.stats.retries == {}


def test_asking_for_no_quotes_asks_nobody(connect: Any) -> None:
    quotes = quotes_of(connect, "http://127.0.0.1:9", [])
    assert (quotes.available, quotes.stats.requests) == (True, 0)
