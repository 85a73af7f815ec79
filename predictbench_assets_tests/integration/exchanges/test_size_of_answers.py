"""Answers that are larger than they look, and listings without an end: what is held has a bound."""

import asyncio
import gzip
import json
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
import zstandard

from predictbench_assets.exchanges.polymarket.client import Walk, WalkTooLong
from predictbench_assets.exchanges.transport import AnswerTooLarge
from predictbench_assets.failures import PermanentError

START = datetime(2026, 11, 30, tzinfo=UTC)
END = START + timedelta(days=1)
MEGABYTE = 1_000_000
ROW = {"id": "1", "endDate": "2026-11-30T12:00:00Z"}
Pack = Callable[[bytes], bytes]
PACKS: dict[str, Pack] = {
    "identity": lambda body: body,
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "zstd": lambda body: zstandard.ZstdCompressor().compress(body),
}


@contextmanager
def answering(body: Callable[[int], bytes], encoding: str = "identity", *, length: bool = True) -> Iterator[str]:
    """A server that answers the first, second, ... request with a body; its address."""
    count = 0

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            nonlocal count
            count += 1
            self.rfile.read(int(self.headers.get("content-length", 0)))
            sent = body(count)
            self.send_response(200)
            self.send_header("content-type", "application/json")
            if encoding != "identity":
                self.send_header("content-encoding", encoding)
            if length:
                self.send_header("content-length", str(len(sent)))
            else:
                self.send_header("connection", "close")
            self.end_headers()
            try:
                self.wfile.write(sent)
            except ConnectionError:
                self.close_connection = True

        do_POST = do_GET  # noqa: N815 - the server's name

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def walked(connect: Any, address: str, **options: Any) -> Walk:
    async def work() -> Walk:
        async with connect(address, address, **({"slices": 1} | options)) as client:
            return await client.fetch_window(START, END, recheck=False, probe=False)  # type: ignore[no-any-return]

    return asyncio.run(work())


def page(padding: int) -> bytes:
    return json.dumps({"markets": [ROW], "x": "a" * padding}).encode()


@pytest.mark.parametrize("encoding", PACKS)
def test_an_answer_within_the_limit_is_read_however_it_is_packed(connect: Any, encoding: str) -> None:
    with answering(lambda _: PACKS[encoding](page(MEGABYTE)), encoding) as address:
        walk = walked(connect, address, answer_limit=2 * MEGABYTE)
    assert [row.market_id for row in walk.rows] == ["1"]
    assert walk.stats.bytes == len(page(MEGABYTE))


@pytest.mark.parametrize("length", [True, False])
@pytest.mark.parametrize("encoding", PACKS)
def test_an_answer_above_the_limit_is_an_error_that_names_the_setting(
    connect: Any, waits: list[float], encoding: str, length: bool
) -> None:
    """Of the packed ones some kilobytes are sent, and nothing like the whole is ever held."""
    sent = PACKS[encoding](page(60 * MEGABYTE if encoding != "identity" else 3 * MEGABYTE))
    with answering(lambda _: sent, encoding, length=length) as address:
        tracemalloc.start()
        with pytest.raises(AnswerTooLarge, match=r"POLYMARKET_MAX_ANSWER_MB \(1 MB\)") as caught:
            walked(connect, address, answer_limit=MEGABYTE)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert isinstance(caught.value, PermanentError)
    assert waits == []
    assert most < 20 * MEGABYTE


def test_a_listing_that_is_packed_within_itself_is_bounded_too(connect: Any) -> None:
    """A second layer is no encoding that was asked for, so it is not undone."""
    twice = gzip.compress(gzip.compress(page(MEGABYTE)))
    with answering(lambda _: twice, "gzip, gzip") as address, pytest.raises(Exception, match="not asked for"):
        walked(connect, address, max_attempts=2)


def test_a_packed_answer_that_is_cut_is_asked_for_again(connect: Any) -> None:
    whole = gzip.compress(page(1_000))
    with answering(lambda count: whole[: len(whole) // 2] if count == 1 else whole, "gzip") as address:
        walk = walked(connect, address)
    assert walk.stats.retries == {"truncated": 1}
    assert len(walk.rows) == 1


def test_prices_that_are_too_large_cost_the_quotes_and_not_the_day(connect: Any) -> None:
    async def work(address: str) -> Any:
        async with connect(address, address, answer_limit=MEGABYTE, concurrency=1) as client:
            return await client.fetch_quotes([str(number) for number in range(1_000)])

    bomb = zstandard.ZstdCompressor().compress(b" " * 50 * MEGABYTE)
    with answering(lambda _: bomb, "zstd") as address:
        quotes = asyncio.run(work(address))
    assert not quotes.available
    assert "POLYMARKET_MAX_ANSWER_MB" in quotes.reason
    assert quotes.stats.requests <= 10


def test_a_listing_without_an_end_is_an_error_that_names_the_setting(connect: Any) -> None:
    def endless(count: int) -> bytes:
        rows = [ROW | {"id": str(1_000 * count + place), "x": "a" * 5_000} for place in range(100)]
        return json.dumps({"markets": rows, "next_cursor": f"c{count}"}).encode()

    with answering(endless) as address, pytest.raises(WalkTooLong, match="POLYMARKET_MAX_LISTING_MB") as caught:
        walked(connect, address, listing_limit=3 * MEGABYTE)
    assert not caught.value.retriable
    assert caught.value.page == 5, "600 kB a page"
