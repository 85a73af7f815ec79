"""Exa and Tavily over HTTP: what is sent, what is read, and how each trouble is told to the desk of paid calls."""

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from pydantic import SecretStr

from predictbench_assets.clock import FixedClock
from predictbench_assets.experiments.model_calls.desk import CallFailed
from predictbench_assets.experiments.model_calls.records import Reply
from predictbench_assets.experiments.research import search
from predictbench_assets.experiments.research.search import LONGEST_TEXT, Exa, HttpSearch, Search, Tavily, instant
from predictbench_assets_tests.kit.http_services import SearchService, search_service

NOW = datetime(2026, 3, 2, 7, 0, tzinfo=UTC)
SEARCH = Search("Will it rain?", NOW + timedelta(hours=24), ("polymarket.com", "kalshi.com"), 5)
PAGE: dict[str, Any] = {
    "url": "https://news.example/rain",
    "title": " Rain\n ahead ",
    "text": "It will rain.",
    "published": "2026-03-01T10:00:00.000Z",
}


@pytest.fixture
def service() -> Iterator[SearchService]:
    with search_service() as serving:
        serving.pages = [PAGE]
        yield serving


def exa(service: SearchService) -> Exa:
    return Exa(("EXA_API_KEY", SecretStr("the-key")), f"{service.base_url}/exa/")


def tavily(service: SearchService) -> Tavily:
    return Tavily(("TAVILY_API_KEY", SecretStr("the-key")), f"{service.base_url}/tavily", Decimal("0.008"))


def answered(client: HttpSearch, limit_s: float = 5.0) -> Reply:
    async def send() -> Reply:
        async with client.opened(2):
            return await client.send(client.content(SEARCH), FixedClock(NOW), limit_s)

    return asyncio.run(send())


def test_a_search_of_exa(service: SearchService) -> None:
    client = exa(service)
    reply = answered(client)
    [(path, headers, body)] = service.asked
    assert (path, headers["x-api-key"]) == ("/exa/search", "the-key")
    assert body == {
        "query": "Will it rain?",
        "numResults": 5,
        "endPublishedDate": "2026-03-03T07:00:00.000Z",
        "excludeDomains": ["polymarket.com", "kalshi.com"],
        "contents": {"text": True},
    }
    assert (reply.status, reply.cost, reply.response_id, reply.answered_at) == (
        "answered",
        Decimal("0.007"),
        "r-1",
        NOW,
    )
    [found] = client.sources(reply.response, reply.answered_at)
    assert (found.url, found.title, found.text) == (PAGE["url"], "Rain ahead", "It will rain.")
    assert found.published_at == datetime(2026, 3, 1, 10, tzinfo=UTC)
    assert found.fetched_at == NOW
    assert "the-key" not in json.dumps(client.content(SEARCH))


def test_a_search_of_tavily(service: SearchService) -> None:
    service.pages = [PAGE | {"published": "Sun, 01 Mar 2026 10:00:00 GMT"}, PAGE | {"text": ""}]
    client = tavily(service)
    reply = answered(client)
    [(path, headers, body)] = service.asked
    assert (path, headers["authorization"]) == ("/tavily/search", "Bearer the-key")
    assert (body["end_date"], body["exclude_domains"]) == ("2026-03-03", ["polymarket.com", "kalshi.com"])
    assert (body["max_results"], body["include_raw_content"]) == (5, True)
    assert reply.cost == Decimal("0.016")  # two credits
    [found] = client.sources(reply.response, reply.answered_at)
    assert (found.text, found.published_at) == ("It will rain.", datetime(2026, 3, 1, 10, tzinfo=UTC))


@pytest.mark.parametrize(
    ("status", "headers", "trouble"),
    [
        (401, {}, "access"),
        (402, {}, "access"),
        (432, {}, "access"),
        (429, {"retry-after": "7"}, "limited"),
        (503, {}, "overloaded"),
        (500, {}, "server"),
        (400, {}, "rejected"),
        (307, {"location": "http://127.0.0.1:1/elsewhere"}, "rejected"),
    ],
)
def test_each_refusal_has_its_trouble(
    service: SearchService, status: int, headers: dict[str, str], trouble: str
) -> None:
    service.status, service.headers = status, headers
    with pytest.raises(CallFailed) as caught:
        answered(exa(service))
    assert caught.value.trouble == trouble
    assert caught.value.retry_after_s == (7.0 if status == 429 else None)
    assert len(service.asked) == 1


def test_nobody_there_is_not_paid_for_and_a_silence_may_be(service: SearchService) -> None:
    with pytest.raises(CallFailed) as caught:
        answered(Exa(("EXA_API_KEY", SecretStr("key")), "http://127.0.0.1:9"))
    assert caught.value.trouble == "unreachable"
    service.headers = {"content-length": "1000"}  # and then its own: the answer never ends
    with pytest.raises(CallFailed) as caught:
        answered(exa(service), limit_s=0.3)
    assert caught.value.trouble == "unknown"


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"results": {}}', b'{"results": ' + b"[" * 100_000])
def test_what_is_no_answer_is_paid_for_and_of_no_use(service: SearchService, body: bytes) -> None:
    service.raw = body
    reply = answered(exa(service))
    assert (reply.status, reply.response) == ("invalid", None)
    assert exa(service).sources(reply.response, NOW) == []


def test_more_than_is_read_is_left(service: SearchService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "LONGEST_ANSWER", 10_000)
    service.pages = [PAGE | {"text": "x" * 20_000}]
    assert answered(exa(service)).reason == "the answer is longer than 10,000 bytes"


def test_one_page_s_trouble_costs_that_page(service: SearchService) -> None:
    rows = [
        {"url": 7, "text": "a number for an address"},
        {"url": "https://news.example/none", "text": None},
        "no row",
        {"url": "https://news.example/nan", "text": "fine", "title": None, "publishedDate": "yesterday", "score": 1},
        {"url": "https://news.example/half", "text": "half a pair: \ud800", "title": "t", "publishedDate": 3},
        {"url": "https://news.example/long", "text": "y" * (LONGEST_TEXT + 5), "publishedDate": "2026-03-01"},
    ]
    service.raw = json.dumps({"results": rows}).replace('"score": 1', '"score": NaN').encode()
    reply = answered(exa(service))
    nan, half, long = exa(service).sources(reply.response, NOW)
    assert (nan.title, nan.published_at) == ("", None)
    assert half.text == "half a pair: ?"
    assert (len(long.text), long.published_at) == (LONGEST_TEXT, datetime(2026, 3, 1, tzinfo=UTC))
    assert len({nan.sha256, half.sha256, long.sha256}) == 3


def test_dates_as_services_write_them() -> None:
    for text in ("2026-03-01T10:00:00.000Z", "2026-03-01T11:00:00+01:00", "Sun, 01 Mar 2026 10:00:00 GMT"):
        assert instant(text) == datetime(2026, 3, 1, 10, tzinfo=UTC)
    for other in (None, "", "soon", 20260301, "x" * 1000, "9999-99-99"):
        assert instant(other) is None
