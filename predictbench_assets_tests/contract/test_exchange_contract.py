"""`predictbench contract` passes the sandbox exchange, and sees each way in which an exchange could let us down.

Each misbehaviour is put in front of the sandbox as an application that changes requests on their way in, or answers on
their way out.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest
import uvicorn
from starlette.types import Message, Receive, Scope, Send

from predictbench_assets.clock import SystemClock
from predictbench_assets.exchanges.polymarket.contract import MOST_REQUESTS, Examination, ExchangeUnreachable, examine
from predictbench_assets.sandbox.server import SandboxApp, SandboxServer, serve
from predictbench_assets.sandbox.world import World
from predictbench_assets.settings import all_variables

NOW = datetime(2026, 3, 2, 7, tzinfo=UTC)
Json = Any
Params = dict[str, str]


class Twist:
    """A way to misbehave: what is done to requests and to answers of a route."""

    def __init__(
        self,
        *,
        asked: Callable[[Params], Params] = lambda params: params,
        answered: Callable[[Params, Json], Json] = lambda _, answer: answer,
        status: int | None = None,
        headers: dict[str, str] | None = None,
        path: str = "/markets/keyset",
    ) -> None:
        self.asked, self.answered, self.status, self.headers = asked, answered, status, headers or {}
        self.path = path


class Refused:
    """Instead of an answer: the request is refused."""


class Twisted:
    """An exchange in front of another."""

    def __init__(self, app: SandboxApp, twist: Twist) -> None:
        self.app, self.twist = app, twist

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not scope["path"].endswith(self.twist.path):
            await self.app(scope, receive, send)
            return
        params = dict(parse_qsl(scope["query_string"].decode()))
        inner = {**scope, "query_string": urlencode(self.twist.asked(params)).encode()}
        status, body = 0, b""

        async def keep(message: Message) -> None:
            nonlocal status, body
            status = message.get("status", status)
            body += message.get("body", b"")

        await self.app(inner, receive, keep)
        answer = json.loads(body)
        if status == 200:
            answer, status = self.twist.answered(params, answer), self.twist.status or status
        if isinstance(answer, Refused):
            answer, status = {"error": "No orderbook exists for the requested token id"}, 400
        told = {"content-type": "application/json", **self.twist.headers}
        headers = [(name.encode(), value.encode()) for name, value in told.items()]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})


@contextmanager
def running(app: Any) -> Iterator[str]:
    """The address of an application that is served in a thread."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, http="h11", ws="none", lifespan="off", log_config=None, date_header=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + 10
    while not server.started:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


async def no_sleep(_: float) -> None:
    await asyncio.sleep(0)


def examined(base_url: str, clob_url: str | None = None, **options: Any) -> Examination:
    """What is found about an exchange whose time is NOW."""
    options = {"timeout_s": 5.0, "clock": SystemClock(), "opens": NOW, "sleep": no_sleep} | options
    return asyncio.run(examine(base_url, clob_url or f"{base_url}/clob", **options))


def of_level(examination: Examination, level: str) -> set[str]:
    return {finding.name for finding in examination.findings if finding.level == level}


@pytest.fixture(scope="module")
def world() -> World:
    return World(7, 40)


@pytest.fixture(scope="module")
def exchange(world: World) -> Iterator[Callable[[Twist], str]]:
    """Misbehaves as it is told from then on, and says where it is."""
    app = Twisted(SandboxApp(world, now=NOW), Twist())
    with running(app) as base_url:

        def misbehave(twist: Twist) -> str:
            app.twist = twist
            return base_url

        yield misbehave


@pytest.fixture(scope="module")
def sandbox(world: World) -> Iterator[SandboxServer]:
    with serve(world, now=NOW) as server:
        yield server


def changed(**changes: Any) -> Callable[[Params, Json], Json]:
    """Values put into each market row; None takes the key out."""

    def change(_: Params, page: Json) -> Json:
        for row in page["markets"]:
            row.update(changes)
            for key in [key for key, value in changes.items() if value is None]:
                row.pop(key, None)
        return page

    return change


def rewritten(key: str, rewrite: Callable[[Any], Any]) -> Callable[[Params, Json], Json]:
    """The value of a key of each market row, made anew of the one before."""

    def change(_: Params, page: Json) -> Json:
        for row in page["markets"]:
            row[key] = rewrite(row[key])
        return page

    return change


def without(*names: str) -> Callable[[Params], Params]:
    return lambda params: {name: value for name, value in params.items() if name not in names}


def first_rows(count: int) -> Callable[[Params, Json], Json]:
    return lambda _, page: page | {"markets": page["markets"][:count]}


def always_more(params: Params, page: Json) -> Json:
    return page | {"next_cursor": "again"}


def never_more(_: Params, page: Json) -> Json:
    page.pop("next_cursor", None)
    return page


def filled(_: Params, page: Json) -> Json:
    return page if page["markets"] else {"markets": [{"id": "1", "question": "?"}]}


def swapped(_: Params, prices: Json) -> Json:
    names = {"BUY": "SELL", "SELL": "BUY"}
    return {token: {names[side]: price for side, price in sides.items()} for token, sides in prices.items()}


def of_the_other_outcome(_: Params, prices: Json) -> Json:
    names = {"BUY": "SELL", "SELL": "BUY"}
    return {
        token: {names[side]: str(round(1 - float(price), 4)) for side, price in sides.items()}
        for token, sides in prices.items()
    }


def with_unknown(_: Params, prices: Json) -> Json:
    return prices | {str(10**76 + 1): {"BUY": "0.4"}}


def unless_known(_: Params, prices: Json) -> Json:
    """Few tokens are asked for only where an unknown one is among them."""
    return prices if len(prices) > 6 else Refused()


def with_placeholder(_: Params, page: Json) -> Json:
    for row in page["markets"][:1]:
        row["active"] = False
    return page


def with_nothing_for_one(_: Params, prices: Json) -> Json:
    return prices | dict.fromkeys(list(prices)[:1])


HISTORIES = "/batch-prices-history"
CURSOR, BOUNDS = ("after_cursor",), ("end_date_min", "end_date_max")

# what an exchange does -> the deviations that are found, at least
DEVIATIONS: dict[str, tuple[Twist, set[str]]] = {
    "ignores the cursor": (Twist(asked=without(*CURSOR)), {"paging advances", "bad cursor"}),
    "names no next cursor": (Twist(answered=never_more), {"next cursor"}),
    "never stops naming one": (Twist(asked=without(*CURSOR), answered=always_more), {"last page", "empty window"}),
    "lists markets of other days": (
        Twist(answered=rewritten("endDate", lambda text: text.replace("2026", "2031"))),
        {"rows within the window"},
    ),
    "lists closed markets": (Twist(answered=changed(closed=True)), {"closed=false"}),
    "lists markets of a version to come": (
        Twist(answered=changed(version="v3")),
        {"versions", "rows that are read"},
    ),
    "withholds the ids of a version": (Twist(answered=changed(version="v2", positionIds=None)), {"mandatory keys"}),
    "lists archived markets": (Twist(answered=changed(archived=True)), {"listed markets"}),
    "fills empty windows": (Twist(answered=filled), {"empty window"}),
    "ignores the bounds": (Twist(asked=without(*BOUNDS)), {"empty window"}),
    "has renamed endDate": (
        Twist(answered=changed(endDate=None, endsAt="x")),
        {"mandatory keys", "rows that are read"},
    ),
    "withholds the prices": (Twist(answered=changed(outcomePrices=None)), {"mandatory keys", "rows that are read"}),
    "writes lists otherwise": (Twist(answered=changed(outcomes="Yes|No")), {"rows that are read"}),
    "writes volumes as objects": (
        Twist(answered=changed(volumeNum={"usd": 1}, volume={"usd": 1})),
        {"optional keys that are read"},
    ),
    "embeds no event": (Twist(answered=changed(events=None)), {"embedded event"}),
    "sends no tags": (Twist(answered=changed(tags=None)), {"include_tag=true"}),
    "sends a bare array": (Twist(answered=lambda _, page: page["markets"]), {"listing"}),
    "refuses the listing": (Twist(answered=lambda *_: {"error": "gone"}, status=410), {"listing"}),
    "has nothing": (Twist(answered=lambda *_: {"markets": []}), {"rows"}),
    "is in another hour": (Twist(headers={"date": "Mon, 02 Mar 2020 07:00:00 GMT"}), {"clock"}),
    "swaps the sides": (Twist(answered=swapped, path="/prices"), {"sides of a quote"}),
    "quotes the other outcome": (Twist(answered=of_the_other_outcome, path="/prices"), {"first outcome"}),
    "knows no token": (Twist(answered=lambda *_: {}, path="/prices"), {"quotes"}),
    "quotes what is not there": (Twist(answered=with_unknown, path="/prices"), {"unknown token"}),
    "quotes as a list": (Twist(answered=lambda *_: [], path="/prices"), {"quotes", "unknown token"}),
    "has moved the quotes": (Twist(answered=lambda *_: {}, status=404, path="/prices"), {"quotes", "unknown token"}),
}

# what an exchange does -> the notes that are found; the client copes, so nothing else is
NOTES: dict[str, tuple[Twist, set[str]]] = {
    "sends lists as arrays": (Twist(answered=rewritten("outcomes", json.loads)), {"lists"}),
    "sends ids as numbers": (Twist(answered=rewritten("id", int)), {"ids"}),
    "sends nulls": (
        Twist(answered=rewritten("description", lambda _: None)),
        {"absent values"},
    ),
    "has a smaller page": (
        Twist(asked=lambda params: params | {"limit": str(min(int(params["limit"]), 50))}),
        {"next cursor", "largest page"},
    ),
    "ignores a bad date": (
        Twist(asked=lambda params: params if params.get("end_date_min") != "soon" else without(*BOUNDS)(params)),
        {"bad date"},
    ),
    "tells more in the envelope": (Twist(answered=lambda _, page: page | {"count": 5}), {"envelope"}),
    "no longer sends a title": (Twist(answered=changed(groupItemTitle=None)), {"market keys"}),
    "does not tell the time": (Twist(), {"clock"}),
    "refuses a batch with an unknown token": (Twist(answered=unless_known, path="/prices"), {"unknown token"}),
    "lists a placeholder": (Twist(answered=with_placeholder), {"listed markets"}),
    "has no price histories": (Twist(answered=lambda *_: {}, status=404, path=HISTORIES), {"price history"}),
    "tells histories otherwise": (Twist(answered=lambda *_: {"history": []}, path=HISTORIES), {"price history"}),
    "tells empty histories": (Twist(answered=lambda *_: {"history": {}}, path=HISTORIES), {"price history"}),
}


def test_the_sandbox_is_as_the_client_expects(sandbox: SandboxServer) -> None:
    before = sum(sandbox.requests.values())
    examination = examined(sandbox.base_url)
    assert examination.deviations == []
    assert of_level(examination, "note") <= {
        *("absent values", "market keys", "event keys", "unread market keys", "unread event keys"),
    }
    assert len(of_level(examination, "ok")) >= 20
    assert examination.requests == sum(sandbox.requests.values()) - before <= MOST_REQUESTS


def test_a_brief_look_takes_two_requests(sandbox: SandboxServer) -> None:
    examination = examined(sandbox.base_url, brief=True)
    assert examination.deviations == []
    assert examination.requests == 2
    assert examination.skew is not None
    assert {"clock", "rows that are read", "mandatory keys", "quotes"} <= of_level(examination, "ok")


def test_a_day_of_poisoned_rows_is_told_and_no_deviation(world: World) -> None:
    with serve(World(7, 40, poison=0.05), now=NOW) as server:
        examination = examined(server.base_url)
    assert examination.deviations == []
    [rows] = [finding for finding in examination.findings if finding.name == "rows that are read"]
    assert "rejected: " in rows.seen


def test_a_token_without_prices_is_no_deviation(exchange: Callable[[Twist], str]) -> None:
    examination = examined(exchange(Twist(answered=with_nothing_for_one, path="/prices")))
    assert examination.deviations == []
    assert {"quotes", "sides of a quote", "first outcome"} <= of_level(examination, "ok")


@pytest.mark.parametrize("name", DEVIATIONS)
def test_a_deviation_is_seen(exchange: Callable[[Twist], str], name: str) -> None:
    twist, expected = DEVIATIONS[name]
    examination = examined(exchange(twist), max_attempts=1)
    assert expected <= of_level(examination, "deviation")


@pytest.mark.parametrize("name", NOTES)
def test_what_the_client_copes_with_is_noted(exchange: Callable[[Twist], str], name: str) -> None:
    twist, expected = NOTES[name]
    examination = examined(exchange(twist), max_attempts=1)
    assert examination.deviations == []
    assert expected <= of_level(examination, "note")


def test_failures_that_pass_are_no_deviations(world: World) -> None:
    with serve(world, now=NOW, faults="http500=0.2,html403=0.1,reset=0.1") as server:
        examination = examined(server.base_url, max_attempts=12)
        assert server.injected
    assert examination.deviations == []


def test_an_exchange_that_does_not_answer_is_unreachable() -> None:
    with pytest.raises(ExchangeUnreachable, match="POLYMARKET_BASE_URL"):
        examined("http://127.0.0.1:9", max_attempts=2)


def test_order_books_that_do_not_answer_are_a_deviation(sandbox: SandboxServer) -> None:
    examination = examined(sandbox.base_url, "http://127.0.0.1:9", max_attempts=2)
    assert of_level(examination, "deviation") == {"quotes", "unknown token"}


def contract(base_url: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    inherited = {name: value for name, value in os.environ.items() if name.upper() not in all_variables()}
    ours = {
        "PREDICTBENCH_ENV_FILE": "",
        "PREDICTBENCH_NOW": NOW.isoformat(),
        "POLYMARKET_BASE_URL": base_url,
        "POLYMARKET_CLOB_URL": f"{base_url}/clob",
        "POLYMARKET_MAX_ATTEMPTS": "1",
        "POLYMARKET_API_KEY": "key-0815-never-shown",
        "NO_PROXY": "127.0.0.1",
    }
    return subprocess.run(
        [sys.executable, "-m", "predictbench_assets.cli.main", "contract", *arguments],
        env=inherited | ours,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_command_prints_a_line_each(sandbox: SandboxServer) -> None:
    done = contract(sandbox.base_url)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) >= 20
    assert all(line.split()[0] in {"ok", "note"} and "; seen: " in line for line in lines)
    assert "no deviations" in done.stderr


def test_the_command_fails_on_a_deviation_and_shows_no_key(exchange: Callable[[Twist], str]) -> None:
    def echo(*_: Any) -> Json:
        return {"error": "no rights for Bearer key-0815-never-shown"}

    done = contract(exchange(Twist(answered=echo, status=403)), "--json")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert report["deviations"] >= 1
    assert {"level", "name", "expected", "seen"} == set(report["findings"][0])
    assert "no rights for Bearer ***" in done.stdout


def test_the_command_says_that_the_exchange_is_unreachable() -> None:
    done = contract("http://127.0.0.1:9")
    assert done.returncode == 1
    assert "the exchange does not answer" in done.stderr
    assert done.stdout == ""
