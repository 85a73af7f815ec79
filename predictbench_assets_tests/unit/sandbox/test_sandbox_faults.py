"""Faults on purpose: read from text, drawn by seed, and really seen by an HTTP client."""

import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import chain, pairwise

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictbench_assets.sandbox.faults import KINDS, Faults, FaultSource, UnknownFault
from predictbench_assets.sandbox.server import SandboxServer, serve
from predictbench_assets.sandbox.world import World

NOW = datetime(2026, 11, 23, 7, tzinfo=UTC)
DAY = {"end_date_min": "2026-11-30T00:00:00Z", "end_date_max": "2026-11-30T23:59:59Z", "limit": "100"}


@pytest.fixture(scope="module")
def server() -> Iterator[SandboxServer]:
    with serve(World(7, 450), now=NOW) as running:
        yield running


@pytest.fixture
def client(server: SandboxServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.base_url) as opened:
        yield opened
    server.set_faults("")


@given(st.dictionaries(st.sampled_from(KINDS), st.integers(1, 16).map(lambda n: n / 100)), st.integers(0, 500))
def test_faults_say_themselves_as_they_are_read(rates: dict[str, float], latency: int) -> None:
    faults = Faults(**rates, latency_ms=latency)
    assert Faults.parse(str(faults)) == faults


def test_spaces_and_nothing_are_read() -> None:
    assert Faults.parse("") == Faults()
    assert Faults.parse(" http500 = 0.05 , reset=0.01 ") == Faults(http500=0.05, reset=0.01)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("http501=0.1", "choose from"),
        ("reset", "name=number"),
        ("reset=often", "name=number"),
        ("reset=2", r"\[0, 1\]"),
        ("reset=0.6,truncate=0.6", "together"),
        ("reset=nan", r"\[0, 1\]"),
        ("latency_ms=-1", "latency_ms"),
        ("latency_ms=inf", "latency_ms"),
    ],
)
def test_a_fault_that_does_not_exist_is_a_clear_error(text: str, said: str) -> None:
    with pytest.raises(UnknownFault, match=said):
        Faults.parse(text)


def test_draws_follow_the_rates_and_the_seed() -> None:
    faults = Faults.parse("http500=0.05,http429=0.02,reset=0.01,truncate=0.01,repeat=0.02")
    source, again = FaultSource(faults, 3), FaultSource(faults, 3)
    drawn = [source.draw() for _ in range(20_000)]
    assert drawn[:500] == [again.draw() for _ in range(500)]
    counts = Counter(drawn)
    for kind in KINDS:
        assert counts[kind] / 20_000 == pytest.approx(getattr(faults, kind), abs=0.005)


def test_a_500_has_the_real_body(server: SandboxServer, client: httpx.Client) -> None:
    server.set_faults("http500=1")
    reply = client.get("/markets/keyset", params=DAY)
    assert (reply.status_code, reply.json()["type"]) == (500, "internal error")


def test_a_429_says_when_to_come_back_every_second_time(server: SandboxServer, client: httpx.Client) -> None:
    server.set_faults("http429=1,retry_after=2")
    replies = [client.get("/markets/keyset", params=DAY) for _ in range(4)]
    assert {reply.status_code for reply in replies} == {429}
    assert sorted(reply.headers.get("retry-after", "") for reply in replies) == ["", "", "2", "2"]


def test_a_blocking_page_is_html(server: SandboxServer, client: httpx.Client) -> None:
    server.set_faults("html403=1")
    reply = client.get("/markets/keyset", params=DAY)
    assert reply.status_code == 403
    assert reply.headers["content-type"].startswith("text/html")
    assert "Cloudflare" in reply.text


@pytest.mark.parametrize("request_of", ["GET /markets/keyset", "POST /clob/prices"])
def test_a_reset_connection_is_reset(server: SandboxServer, client: httpx.Client, request_of: str) -> None:
    method, path = request_of.split()
    server.set_faults("reset=1")
    with pytest.raises(httpx.ReadError) as caught:
        client.request(method, path, **({"params": DAY} if method == "GET" else {"json": []}))
    assert "reset" in str(caught.value).lower()


def test_a_truncated_body_ends_before_its_announced_length(server: SandboxServer, client: httpx.Client) -> None:
    server.set_faults("truncate=1")
    with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
        client.get("/markets/keyset", params=DAY)


def test_repeated_rows_repeat_the_page_before_and_lose_nothing(server: SandboxServer, client: httpx.Client) -> None:
    def walked() -> list[list[str]]:
        pages, cursor = [], None
        while True:
            reply = client.get("/markets/keyset", params=DAY | ({"after_cursor": cursor} if cursor else {})).json()
            pages.append([market["id"] for market in reply["markets"]])
            cursor = reply.get("next_cursor")
            if cursor is None:
                return pages

    clean = walked()
    before = server.injected.get("repeat", 0)
    server.set_faults("repeat=1")
    pages = walked()
    assert server.injected["repeat"] - before == len(pages) - 1  # the first page has none before it
    for page, following in pairwise(pages):
        assert following[:3] == page[-3:]
        assert len(following) <= 100
    assert list(dict.fromkeys(chain(*pages))) == list(chain(*clean))


def test_latency_delays_requests_side_by_side(server: SandboxServer, client: httpx.Client) -> None:
    server.set_faults("latency_ms=60")
    started = time.monotonic()
    client.get("/markets/keyset", params=DAY)
    assert time.monotonic() - started >= 0.06


def test_faults_can_be_changed_while_it_runs_and_are_counted(server: SandboxServer, client: httpx.Client) -> None:
    assert client.post("/_sandbox/faults", json={"faults": "http500=1"}).json() == {"faults": "http500=1"}
    before = server.injected.get("http500", 0)
    assert client.get("/markets/keyset", params=DAY).status_code == 500
    assert client.get("/_sandbox/status").json()["injected"]["http500"] == before + 1
    refused = client.post("/_sandbox/faults", json={"faults": "meteor=1"})
    assert refused.status_code == 409
    assert "choose from" in refused.json()["error"]
    assert client.post("/_sandbox/faults", json={"faults": ""}).json() == {"faults": ""}
    assert client.get("/markets/keyset", params=DAY).status_code == 200


def test_the_server_survives_many_broken_connections(server: SandboxServer, client: httpx.Client) -> None:
    server.set_faults("reset=0.3,truncate=0.3")
    outcomes: Counter[str] = Counter()
    for _ in range(60):
        try:
            outcomes[str(client.get("/markets/keyset", params=DAY).status_code)] += 1
        except httpx.TransportError as error:
            outcomes[type(error).__name__] += 1
    assert set(outcomes) == {"200", "ReadError", "RemoteProtocolError"}
    server.set_faults("")
    assert client.get("/markets/keyset", params=DAY).status_code == 200
