"""Answers that the sandbox does not give: each wire detail on its own."""

import asyncio
import json
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import respx
from pydantic import SecretStr

from predictbench_assets.clock import FixedClock
from predictbench_assets.exchanges.polymarket.batches import MOST_HALVED
from predictbench_assets.exchanges.polymarket.client import PolymarketClient, Walk, WalkInterrupted, WalkStuck
from predictbench_assets.exchanges.stats import ApiStats
from predictbench_assets.exchanges.transport import RegionBlocked, RequestRefused, Transport, UnexpectedAnswer
from predictbench_assets.failures import PermanentError
from predictbench_assets.sandbox.exchange import ReplayWorld
from predictbench_assets.sandbox.server import serve

GAMMA = "https://gamma.test"
CLOB = "https://clob.test"
START = datetime(2026, 11, 30, tzinfo=UTC)
END = START + timedelta(days=1)
Answer = httpx.Response | Exception


def page(*numbers: int, cursor: str | None = None, end: str = "2026-11-30T12:00:00Z", **more: Any) -> httpx.Response:
    rows = [{"id": str(number), "endDate": end} | more for number in numbers]
    return httpx.Response(200, json={"markets": rows} | ({"next_cursor": cursor} if cursor else {}))


@pytest.fixture
def fetch(connect: Any) -> Callable[..., tuple[Walk, list[httpx.Request]]]:
    """Walks the day as one slice while the exchange gives the answers in turn, and the last one for ever."""

    def walk(
        *answers: Answer, recheck: bool = False, probe: bool = False, **options: Any
    ) -> tuple[Walk, list[httpx.Request]]:
        async def work() -> Walk:
            async with connect(GAMMA, CLOB, **({"slices": 1} | options)) as client:
                return await client.fetch_window(START, END, recheck=recheck, probe=probe)  # type: ignore[no-any-return]

        with respx.mock(assert_all_called=False) as mock:
            route = mock.get(f"{GAMMA}/markets/keyset").mock(side_effect=in_turn(answers))
            result = asyncio.run(work())
            return result, [call.request for call in route.calls]

    return walk


def in_turn(answers: Sequence[Answer]) -> Callable[[httpx.Request], httpx.Response]:
    waiting = list(answers)

    def answer(request: httpx.Request) -> httpx.Response:
        given = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        if isinstance(given, Exception):
            raise given
        return httpx.Response(given.status_code, headers=given.headers, content=given.content)

    return answer


def numbers(walk: Walk) -> list[int]:
    return [int(row.market_id or 0) for row in walk.rows]


def test_all_filters_are_sent_with_every_page_and_the_cursor_by_its_name(fetch: Any) -> None:
    walk, requests = fetch(page(1, cursor="aa=="), page(2, cursor="bb"), page(3))
    assert numbers(walk) == [1, 2, 3]
    filters = {
        "closed": "false",
        "end_date_min": "2026-11-29T23:59:59Z",
        "end_date_max": "2026-12-01T00:00:00Z",
        "include_tag": "true",
        "limit": "100",
    }
    assert [dict(request.url.params) for request in requests] == [
        filters,
        filters | {"after_cursor": "aa=="},
        filters | {"after_cursor": "bb"},
    ]


def test_a_short_page_or_an_empty_one_is_not_the_end(fetch: Any) -> None:
    walk, _ = fetch(page(1, cursor="a"), page(cursor="b"), page(2, cursor="c"), page())
    assert numbers(walk) == [1, 2]
    assert walk.stats.pages == 4


@pytest.mark.parametrize("more", [{}, {"$schema": "x"}, {"next_cursor": None}, {"odd": "\ud800"}])
def test_a_list_that_is_null_is_an_empty_page(fetch: Any, more: dict[str, Any]) -> None:
    walk, requests = fetch(httpx.Response(200, content=json.dumps({"markets": None} | more).encode()))
    assert (walk.rows, len(requests)) == ([], 1)


@pytest.mark.parametrize("none", [None, "", False])
def test_an_error_that_is_none_is_no_error(fetch: Any, none: object) -> None:
    walk, _ = fetch(httpx.Response(200, json={"markets": [], "error": none}))
    assert walk.rows == []


def test_a_cursor_that_fits_into_no_request_is_told(fetch: Any) -> None:
    with pytest.raises(UnexpectedAnswer, match=r"/markets/keyset cannot be asked for with what was answered before"):
        fetch(page(1, cursor="a" * 100_000))


def test_a_null_cursor_is_the_end(fetch: Any) -> None:
    walk, _ = fetch(httpx.Response(200, json={"markets": [], "next_cursor": None, "$schema": "x"}))
    assert walk.rows == []


@pytest.mark.parametrize(
    ("passing", "cause"),
    [
        (httpx.Response(429), "http_429"),
        (httpx.Response(500, json={"type": "internal error"}), "http_5xx"),
        (httpx.Response(503, html="<html>busy</html>"), "html"),
        (httpx.Response(403, html="<html>blocked</html>"), "html"),
        (httpx.Response(200, html="<html>challenge</html>"), "html"),
        (httpx.Response(200, json={"error": "Too Many Requests"}), "error_object"),
        (httpx.Response(200, json={"markets": None, "error": "busy"}), "error_object"),
        (httpx.Response(200, json={"markets": [], "error": "timed out", "next_cursor": None}), "error_object"),
        (httpx.Response(200, content=b'{"markets":[{"x":"\\ud800"}],"error":{"code":5}}'), "error_object"),
        (httpx.Response(200, content=b'{"markets": [{"id": "1"'), "undecodable"),
        (httpx.Response(200, content=b""), "undecodable"),
        (httpx.ConnectError("refused"), "connection"),
        (httpx.ReadError("reset"), "connection"),
        (httpx.RemoteProtocolError("Server disconnected without sending a response."), "connection"),
        (httpx.RemoteProtocolError("peer closed connection without sending complete message body"), "truncated"),
        (httpx.ReadTimeout("slow"), "timeout"),
    ],
)
def test_what_may_pass_is_asked_for_again_with_the_same_cursor(
    fetch: Any, waits: list[float], passing: Answer, cause: str
) -> None:
    walk, requests = fetch(page(1, cursor="a"), passing, passing, page(2))
    assert numbers(walk) == [1, 2]
    assert walk.stats.retries == {cause: 2}
    assert [request.url.params.get("after_cursor") for request in requests] == [None, "a", "a", "a"]
    assert len(waits) == 2
    assert all(wait <= 2 for wait in waits)


@pytest.mark.parametrize(
    ("headers", "at_least", "at_most"),
    [
        ({"Retry-After": "12"}, 12, 12),
        ({"Retry-After": "86400"}, 60, 60),
        ({"Retry-After": "Mon, 23 Nov 2026 07:00:30 GMT"}, 30, 30),
        # The server's clock, where it tells it, and not ours.
        ({"Retry-After": "Mon, 23 Nov 2026 09:00:05 GMT", "Date": "Mon, 23 Nov 2026 09:00:00 GMT"}, 5, 5),
        ({"Retry-After": "Mon, 23 Nov 2020 07:00:00 GMT"}, 0, 1),
        ({"Retry-After": "soon"}, 0, 1),
        ({}, 0, 1),
    ],
)
def test_retry_after_is_honoured_within_reason(
    fetch: Any, waits: list[float], headers: dict[str, str], at_least: float, at_most: float
) -> None:
    walk, _ = fetch(httpx.Response(429, headers=headers), page(1))
    assert numbers(walk) == [1]
    assert at_least <= waits[0] <= at_most


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 408, 422])
def test_a_refusal_is_final_and_tells_the_reason(fetch: Any, waits: list[float], status: int) -> None:
    refusal = httpx.Response(status, json={"type": "validation error", "error": "after_cursor is\nnot valid"})
    with pytest.raises(
        RequestRefused, match=rf"/markets/keyset answered {status}: after_cursor is not valid"
    ) as caught:
        fetch(refusal)
    assert isinstance(caught.value, PermanentError)
    assert waits == []


@pytest.mark.parametrize("body", [{"json": {"error": "blocked"}}, {"html": "<html>blocked</html>"}, {}])
def test_a_blocked_region_is_said_so_and_final(connect: Any, fetch: Any, waits: list[float], body: Any) -> None:
    blocked = httpx.Response(451, **body)
    with pytest.raises(RegionBlocked, match="451: the exchange does not serve the region") as caught:
        fetch(blocked, probe=True)
    assert isinstance(caught.value, PermanentError)
    found = quotes(connect, [str(number) for number in range(1_500)], blocked, concurrency=1)
    assert "does not serve the region" in found.reason
    assert (found.available, found.stats.requests) == (False, 1)
    assert waits == []


@pytest.mark.parametrize("body", [[], [{"id": "1"}], {"data": []}, {"markets": {}}, {"markets": 7}, "text", None])
def test_an_answer_that_is_no_page_says_so(fetch: Any, body: Any) -> None:
    with pytest.raises(UnexpectedAnswer, match="POLYMARKET_BASE_URL"):
        fetch(httpx.Response(200, content=json.dumps(body).encode()))


def test_a_listing_that_ignores_its_cursor_is_noticed(fetch: Any) -> None:
    with pytest.raises(WalkStuck, match="page 2: its cursor was given before"):
        fetch(page(1, cursor="same"))


def test_pages_without_anything_new_are_noticed(fetch: Any) -> None:
    with pytest.raises(WalkStuck, match="3 pages in a row held nothing new") as caught:
        fetch(*(page(1, cursor=str(number)) for number in range(9)))
    assert not caught.value.retriable


def test_a_listing_that_ignores_the_end_dates_is_noticed(fetch: Any) -> None:
    with pytest.raises(WalkStuck, match="ignores end_date_min"):
        fetch(page(1, cursor="a", end="2027-03-01T00:00:00Z"), page(2))


def test_attempts_end(fetch: Any) -> None:
    with pytest.raises(WalkInterrupted, match=r"page 2: /markets/keyset failed 7 times.*status 500: overload"):
        fetch(page(1, cursor="a"), httpx.Response(500, json={"error": "overload"}))


def test_of_a_row_that_changed_the_later_one_is_kept(fetch: Any) -> None:
    again = page(1, 2, cursor="b", question="edited")
    walk, _ = fetch(page(1, cursor="a"), again, page(2, question="edited"))
    assert [json.loads(row.raw).get("question") for row in walk.rows] == ["edited", "edited"]
    assert (walk.stats.duplicates, walk.stats.changed_duplicates) == (2, 1)


def test_rows_without_a_readable_end_date_or_id_are_kept(fetch: Any) -> None:
    rows = [
        {"id": "1"},
        {"id": "2", "endDate": "soon"},
        {"id": "3", "endDate": "2027-01-01T00:00:00Z"},
        7,
        None,
        {"id": "0"},
    ]
    walk, _ = fetch(httpx.Response(200, json={"markets": rows}))
    assert [row.market_id for row in walk.rows] == ["0", "1", "2", None, None]
    assert [row.raw for row in walk.rows[3:]] == [b"7", b"null"]


def test_rows_on_several_lines_become_one(fetch: Any) -> None:
    body = json.dumps({"markets": [{"id": "1", "question": "a\nb"}]}, indent=2).replace("\n", "\r\n").encode()
    walk, _ = fetch(httpx.Response(200, content=body))
    (row,) = walk.rows
    assert b"\n" not in row.raw
    assert b"\r" not in row.raw
    assert json.loads(row.raw) == {"id": "1", "question": "a\nb"}


def test_a_slice_that_has_changed_is_measured(fetch: Any) -> None:
    walk, _ = fetch(page(1, 2, 3), page(2, 3, 4, 5), recheck=True)
    assert numbers(walk) == [1, 2, 3]
    assert walk.recheck is not None
    assert (walk.recheck.first, walk.recheck.second, walk.recheck.differing) == (3, 4, 3)
    assert walk.recheck.share == pytest.approx(3 / 5)
    assert (walk.recheck.slice_start, walk.recheck.slice_end) == (
        START - timedelta(seconds=1),
        END,
    )


def test_the_key_goes_to_gamma_and_into_no_text(fetch: Any, caplog: pytest.LogCaptureFixture) -> None:
    key = SecretStr("s3cret-key")
    with caplog.at_level(logging.DEBUG):
        _, requests = fetch(httpx.Response(500), page(1), api_key=key)
        with pytest.raises(RequestRefused) as caught:
            fetch(httpx.Response(401, json={"error": "no"}), api_key=key)
    assert requests[0].headers["Authorization"] == "Bearer s3cret-key"
    assert "s3cret" not in str(caught.value) + caplog.text


def test_an_answer_that_only_trickles_in_is_given_up(connect: Any) -> None:
    hung_up = asyncio.Event()

    async def trickle(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
            while True:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.005)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        hung_up.set()

    async def work() -> None:
        async with await asyncio.start_server(trickle, "127.0.0.1", 0) as server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            try:
                async with connect(url, CLOB, timeout_s=0.1, max_attempts=1, slices=1) as client:
                    await client.fetch_window(START, END)
            finally:
                async with asyncio.timeout(10):
                    await hung_up.wait()

    with pytest.raises(WalkInterrupted, match="no whole answer"):
        asyncio.run(work())


def test_an_address_that_is_none_names_the_settings(connect: Any) -> None:
    async def work() -> None:
        async with connect("ftp://gamma.test", CLOB) as client:
            await client.fetch_window(START, END)

    with pytest.raises(PermanentError, match="POLYMARKET_BASE_URL"):
        asyncio.run(work())


@pytest.mark.parametrize(
    "options",
    [
        *({"page_size": 101}, {"page_size": 0}, {"slices": 0}, {"requests_per_second": 0.05}),
        {"requests_per_second": 0.15, "shared_by": 2},
    ],
)
def test_impossible_options_are_refused(connect: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        asyncio.run(connect(GAMMA, CLOB, **options).__aenter__())


def quotes(connect: Any, tokens: list[str], *answers: Answer, **options: Any) -> Any:
    async def work() -> Any:
        client: PolymarketClient
        async with connect(GAMMA, CLOB, **options) as client:
            return await client.fetch_quotes(tokens)

    with respx.mock(assert_all_called=False) as mock:
        mock.post(f"{CLOB}/prices").mock(side_effect=in_turn(answers))
        return asyncio.run(work())


def test_quotes_that_fail_to_come_are_asked_for_again(connect: Any) -> None:
    fine = httpx.Response(200, json={"7": {"BUY": "0.4", "SELL": "0.5"}})
    found = quotes(connect, ["7"], httpx.Response(200, json={"error": "busy"}), httpx.Response(502), fine)
    assert found.available
    assert (found.by_token["7"].bid, found.by_token["7"].ask) == (0.4, 0.5)
    assert found.stats.retries == {"undecodable": 1, "http_5xx": 1}


def refusing(*bad: str, answer: Callable[[list[str]], Any]) -> Callable[[httpx.Request], httpx.Response]:
    """An exchange that refuses every batch with one of some tokens in it."""

    def respond(request: httpx.Request) -> httpx.Response:
        asked = list(dict.fromkeys(entry["token_id"] for entry in json.loads(request.content)))
        if set(bad) & set(asked):
            return httpx.Response(400, json={"error": "No orderbook exists for the requested token id"})
        return httpx.Response(200, content=json.dumps(answer(asked)).encode())

    return respond


def priced(asked: list[str]) -> dict[str, Any]:
    return {token: {"BUY": "0.4", "SELL": "0.5"} for token in asked}


def quotes_from(connect: Any, count: int, respond: Callable[[httpx.Request], httpx.Response], **options: Any) -> Any:
    async def work() -> Any:
        async with connect(GAMMA, CLOB, **options) as client:
            return await client.fetch_quotes([str(number) for number in range(count)])

    with respx.mock() as mock:
        mock.post(f"{CLOB}/prices").mock(side_effect=respond)
        return asyncio.run(work())


@pytest.mark.parametrize("bad", [["0"], ["249"], ["7", "300", "600", "900"], [str(number) for number in range(5)]])
def test_a_token_that_is_refused_costs_its_own_quote_only(connect: Any, bad: list[str]) -> None:
    found = quotes_from(connect, 1_000, refusing(*bad, answer=priced))
    assert found.available
    assert found.by_token.keys() == {str(number) for number in range(1_000)} - set(bad)
    assert found.reason.startswith(f"{len(bad)} of 1,000 tokens: /prices answered 400: No orderbook exists")
    assert found.stats.requests <= 4 + len(bad) * 2 * 8, "two for each halving of 250"


@pytest.mark.parametrize("every", [100, 10, 2])
def test_many_tokens_that_are_refused_cost_so_many_requests_and_not_all_quotes(connect: Any, every: int) -> None:
    bad = {str(number) for number in range(0, 5_000, every)}
    found = quotes_from(connect, 5_000, refusing(*bad, answer=priced))
    assert not found.by_token.keys() & bad
    assert found.stats.requests <= 20 + 2 * MOST_HALVED
    assert found.by_token
    if every == 100:
        assert len(found.by_token) == 5_000 - len(bad)


def test_a_clob_that_refuses_everything_is_soon_left_alone(connect: Any) -> None:
    everything = [str(number) for number in range(5_000)]
    found = quotes_from(connect, 5_000, refusing(*everything, answer=priced))
    assert not found.available
    assert found.stats.requests <= 8 * 10 + 8
    assert found.reason.startswith("5,000 of 5,000 tokens: /prices answered 400")


@pytest.mark.parametrize("odd", [None, "0.5", 7, [], "\ud800", {"BUY": "\ud800"}])
def test_a_token_that_is_odd_in_the_answer_costs_its_own_quote_only(connect: Any, odd: Any) -> None:
    found = quotes_from(
        connect, 300, refusing(answer=lambda asked: priced(asked) | ({"7": odd} if "7" in asked else {}))
    )
    assert found.by_token.keys() == {str(number) for number in range(300)} - {"7"}
    assert found.stats.requests == 2
    # No price is no news; what should have been one and is not, is.
    assert (found.reason is None) == (odd is None)


def test_a_quote_of_another_token_is_not_taken(connect: Any) -> None:
    found = quotes_from(connect, 1, refusing(answer=lambda _: priced(["0", "77"])))
    assert found.by_token.keys() == {"0"}


def test_a_clob_that_goes_away_leaves_what_came_and_a_reason(connect: Any) -> None:
    fine = httpx.Response(200, json={"7": {"BUY": "0.4"}})
    tokens = [str(number) for number in range(1_500)]
    found = quotes(connect, tokens, fine, httpx.Response(500), max_attempts=2, concurrency=1)
    assert found.available
    assert list(found.by_token) == ["7"]
    assert found.reason.startswith("1,250 of 1,500 tokens: /prices failed 2 times")
    # The rest was not asked for once a batch had used up its attempts.
    assert found.stats.requests < 12


def test_rows_that_end_outside_the_window_are_cut_and_counted(fetch: Any) -> None:
    ends = ["2026-11-29T23:59:59Z", "2026-11-30T00:00:00Z", "2026-11-30T23:59:59Z", "2026-12-01T00:00:00Z"]
    rows = [{"id": str(number), "endDate": end} for number, end in enumerate(ends)]
    walk, _ = fetch(httpx.Response(200, json={"markets": rows}))
    assert numbers(walk) == [1, 2]
    assert walk.stats.cut_rows == 2


MIDNIGHT, LAST_SECOND = "2026-12-01T00:00:00Z", "2026-11-30T23:59:59Z"
BETWEEN = "2026-11-30T23:59:59.999Z"


def ending(*ends: str | None, cursor: str | None = None) -> httpx.Response:
    rows = [{"id": str(number)} | ({"endDate": end} if end else {}) for number, end in enumerate(ends, 7)]
    return httpx.Response(200, json={"markets": rows} | ({"next_cursor": cursor} if cursor else {}))


@pytest.mark.parametrize(
    ("tail", "asked", "found"),
    [
        # Inclusive: the next day's crowd is left out, and what ends in the last second's fractions is not.
        (ending(MIDNIGHT, cursor="more"), LAST_SECOND, []),
        (ending(LAST_SECOND, BETWEEN, BETWEEN, MIDNIGHT, cursor="more"), LAST_SECOND, [8, 9]),
        (ending(BETWEEN, cursor="more"), MIDNIGHT, []),  # exclusive, or more of them than a page has
        (ending(), MIDNIGHT, []),  # nothing ends then
        (ending(MIDNIGHT, BETWEEN), MIDNIGHT, []),  # the order is not heeded
        (ending(None, MIDNIGHT), MIDNIGHT, []),
        (ending("2026-11-30T12:00:00Z"), MIDNIGHT, []),  # the filters are not heeded
        (httpx.Response(422, json={"error": "order fields are not valid"}), MIDNIGHT, []),
    ],
    ids=["inclusive", "fractions", "exclusive", "nothing", "no order", "no end", "ignored", "refused"],
)
def test_the_upper_bound_is_asked_for_as_the_api_treats_it(
    fetch: Any, tail: httpx.Response, asked: str, found: list[int]
) -> None:
    walk, requests = fetch(tail, page(1), probe=True)
    assert numbers(walk) == [1, *found]
    params = requests[0].url.params
    assert (params["end_date_min"], params["end_date_max"], params["order"]) == (LAST_SECOND, MIDNIGHT, "endDate")
    assert requests[1].url.params["end_date_max"] == asked
    assert "order" not in requests[1].url.params


@pytest.mark.parametrize("slices", [1, 24])
def test_fractions_are_legal_at_both_ends_of_a_window(connect: Any, slices: int) -> None:
    ends = {
        "2026-11-29T23:59:59.999Z": False,
        "2026-11-30T00:00:00Z": True,
        "2026-11-30T00:00:00.001Z": True,
        "2026-11-30T03:59:59.999Z": True,
        "2026-11-30T23:59:59Z": True,
        "2026-11-30T23:59:59.677Z": True,
        "2026-11-30T23:59:59.999Z": True,
        "2026-12-01T00:00:00Z": False,
        "2026-12-01T00:00:00.5Z": False,
    }
    rows = [{"id": str(number), "endDate": end} for number, end in enumerate(ends)]
    # So many markets of the next day that they fill the page.
    rows += [{"id": str(number), "endDate": MIDNIGHT} for number in range(100, 350)]

    async def work(server: Any) -> Walk:
        async with connect(server.base_url, server.clob_url, slices=slices) as client:
            return await client.fetch_window(START, END)  # type: ignore[no-any-return]

    with serve(ReplayWorld(rows), now=START) as server:
        walk = asyncio.run(work(server))
        asked = server.requests["GET /markets/keyset"]
    assert numbers(walk) == [number for number, inside in enumerate(ends.values()) if inside]
    assert asked <= slices + 2, "the next day's crowd was not read"


def test_a_probe_that_is_never_answered_ends_the_walk(fetch: Any) -> None:
    with pytest.raises(WalkInterrupted):
        fetch(httpx.Response(500), probe=True)


def test_each_route_has_its_own_limit() -> None:
    """Of one request in ten seconds the second has to wait; the longest beginning of a path counts."""
    limits = {"/markets": 0.1, "/markets/free": 1_000.0, "": 1_000.0}

    async def work() -> None:
        clock = FixedClock(START)
        async with Transport(
            GAMMA,
            clock=clock,
            headers={},
            limits=limits,
            concurrency=2,
            timeout_s=5,
            max_attempts=1,
            sleep=asyncio.sleep,
        ) as transport:
            stats = ApiStats()
            for path in ("/markets/1", "/markets/free/1", "/markets/free/2", "/prices", "/prices"):
                await transport.answer("GET", path, stats)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await transport.answer("GET", "/markets/2", stats)
            assert stats.requests == 5

    with respx.mock() as mock:
        mock.get(url__regex=f"{GAMMA}/.*").mock(return_value=httpx.Response(200, json={}))
        asyncio.run(work())
