"""The routes over real HTTP: paging, filters, order books, resolution, and time that only goes forward."""

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from predictbench_assets.sandbox.exchange import ReplayWorld
from predictbench_assets.sandbox.poison import REJECTABLE, TOLERABLE
from predictbench_assets.sandbox.server import SandboxServer, TimeGoesForward, serve
from predictbench_assets.sandbox.world import World

NOW = datetime(2026, 11, 23, 7, tzinfo=UTC)
DAY = {"end_date_min": "2026-11-30T00:00:00Z", "end_date_max": "2026-11-30T23:59:59Z"}
PAGE = DAY | {"limit": "100"}
Get = Callable[..., Any]


@pytest.fixture(scope="module")
def server() -> Iterator[SandboxServer]:
    with serve(World(7, 250), now=NOW) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: SandboxServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.base_url) as opened:
        yield opened


@pytest.fixture(scope="module")
def day(client: httpx.Client) -> list[dict[str, Any]]:
    """All rows of the closing day."""
    rows, cursor = [], None
    while True:
        reply = client.get("/markets/keyset", params=PAGE | ({"after_cursor": cursor} if cursor else {})).json()
        rows += reply["markets"]
        cursor = reply.get("next_cursor")
        if cursor is None:
            return rows


def ids(reply: httpx.Response) -> list[str]:
    assert reply.status_code == 200, reply.text
    body = reply.json()
    return [row["id"] for row in (body if isinstance(body, list) else body["markets"])]


def tokens_of(row: dict[str, Any]) -> list[str]:
    """What the outcomes are traded under, by the row's version."""
    return row["positionIds"] if row["version"] == "v2" else json.loads(row["clobTokenIds"])


# Keyset


def test_a_walk_finds_every_market_of_the_day_once(day: list[dict[str, Any]]) -> None:
    assert len(day) == 250
    assert [row["id"] for row in day] == sorted({row["id"] for row in day}, key=int)
    assert all(row["closed"] is False and "2026-11-30" <= row["endDate"] < "2026-12-01" for row in day)


def test_a_page_has_twenty_rows_unless_asked_and_never_more_than_a_hundred(client: httpx.Client) -> None:
    assert len(ids(client.get("/markets/keyset", params=DAY))) == 20
    assert len(ids(client.get("/markets/keyset", params=DAY | {"limit": "5000"}))) == 100


def test_the_cursor_is_there_only_while_pages_are_full(client: httpx.Client, day: list[dict[str, Any]]) -> None:
    full = client.get("/markets/keyset", params=PAGE).json()
    assert "next_cursor" in full
    few = client.get("/markets/keyset", params=PAGE | {"id": [row["id"] for row in day[:3]]}).json()
    assert "next_cursor" not in few
    exact = PAGE | {"id": [row["id"] for row in day[:100]]}
    first = client.get("/markets/keyset", params=exact).json()
    last = client.get("/markets/keyset", params=exact | {"after_cursor": first["next_cursor"]}).json()
    assert last == {"markets": []}


@pytest.mark.parametrize("name", ["cursor", "next_cursor", "after", "page_cursor", "start_cursor"])
def test_a_cursor_by_another_name_is_page_one_for_ever(client: httpx.Client, name: str) -> None:
    first = client.get("/markets/keyset", params=PAGE)
    assert ids(client.get("/markets/keyset", params=PAGE | {name: first.json()["next_cursor"]})) == ids(first)


@pytest.mark.parametrize(
    "wrong",
    [
        {"offset": "0"},
        {"order": "volume_num"},
        {"after_cursor": "nonsense"},
        {"end_date_min": "yesterday"},
        {"tag_id": "1,2"},
        {"limit": "many"},
        {"closed": "perhaps"},
        {"volume_num_min": "much"},
    ],
)
def test_what_cannot_be_read_is_a_422(client: httpx.Client, wrong: dict[str, str]) -> None:
    reply = client.get("/markets/keyset", params=wrong)
    assert reply.status_code == 422
    assert reply.json()["type"] == "validation error"


def test_a_cursor_belongs_to_its_filters(client: httpx.Client) -> None:
    cursor = client.get("/markets/keyset", params=PAGE).json()["next_cursor"]
    assert client.get("/markets/keyset", params=PAGE | {"after_cursor": cursor}).status_code == 200
    assert client.get("/markets/keyset", params={"limit": "100", "after_cursor": cursor}).status_code == 422
    assert client.get("/markets/keyset", params=PAGE | {"after_cursor": cursor, "tag_id": "1"}).status_code == 422


def test_unknown_parameters_are_ignored(client: httpx.Client) -> None:
    plain = ids(client.get("/markets/keyset", params=PAGE))
    assert ids(client.get("/markets/keyset", params=PAGE | {"active": "false", "end_data_min": "2030-01-01"})) == plain


def test_end_dates_are_inclusive_and_take_dates_and_offsets(client: httpx.Client) -> None:
    at_midnight = ids(client.get("/markets/keyset", params={
        "end_date_min": "2026-11-30T00:00:00Z", "end_date_max": "2026-11-30T00:00:00Z", "limit": "100",
    }))  # fmt: skip
    assert len(at_midnight) == 100
    dated = {"end_date_min": "2026-11-30", "end_date_max": "2026-11-30", "limit": "100"}
    assert ids(client.get("/markets/keyset", params=dated)) == at_midnight
    shifted = {"end_date_min": "2026-11-30T02:00:00+02:00", "end_date_max": "2026-11-29T19:00:00-05:00", "limit": "100"}
    assert ids(client.get("/markets/keyset", params=shifted)) == at_midnight


def test_filters_and_orders_do_what_they_say(client: httpx.Client, day: list[dict[str, Any]]) -> None:
    def asked(**params: Any) -> list[str]:
        return ids(client.get("/markets/keyset", params=PAGE | params))

    some = day[7]
    assert asked(slug=some["slug"]) == [some["id"]]
    assert asked(condition_ids=some["conditionId"]) == [some["id"]]
    assert asked(clob_token_ids=tokens_of(some)[1]) == [some["id"]]
    assert sorted(asked(id=[day[3]["id"], day[5]["id"], "12"])) == sorted([day[3]["id"], day[5]["id"]])
    rich = {row["id"] for row in day if row["volumeNum"] >= 5000}
    assert set(asked(volume_num_min="5000")) == set(sorted(rich, key=int)[:100])
    assert asked(order="volumeNum", ascending="false") == [
        row["id"] for row in sorted(day, key=lambda row: (-row["volumeNum"], -int(row["id"])))[:100]
    ]
    soccer, tennis, both = asked(tag_id="100350"), asked(tag_id="864"), asked(tag_id=["100350", "864"])
    assert tennis
    assert sorted(both, key=int) == sorted([*soccer, *tennis], key=int)[:100]
    assert asked(uma_resolution_status="resolved") == []


def test_an_ordered_walk_loses_nothing(client: httpx.Client, day: list[dict[str, Any]]) -> None:
    walked, cursor = [], None
    while True:
        params = PAGE | {"order": "endDate", "ascending": "true"} | ({"after_cursor": cursor} if cursor else {})
        reply = client.get("/markets/keyset", params=params).json()
        walked += reply["markets"]
        cursor = reply.get("next_cursor")
        if cursor is None:
            break
    assert sorted(row["id"] for row in walked) == sorted(row["id"] for row in day)
    assert [row["endDate"] for row in walked] == sorted(row["endDate"] for row in day)


def test_tags_come_only_when_asked_for_and_events_come_along(client: httpx.Client, day: list[dict[str, Any]]) -> None:
    assert all("tags" not in row and len(row["events"]) == 1 and "markets" not in row["events"][0] for row in day)
    tagged = client.get("/markets/keyset", params=PAGE | {"include_tag": "true"}).json()["markets"]
    assert all(row["tags"] for row in tagged)


# Other routes of Gamma


def test_the_legacy_route_is_a_bare_array_deprecated_and_shallow(client: httpx.Client) -> None:
    reply = client.get("/markets", params=PAGE | {"offset": "200"})
    assert len(ids(reply)) == 50
    assert reply.headers["deprecation"] == "true"
    assert client.get("/markets", params=PAGE | {"offset": "2000"}).status_code == 200
    deep = client.get("/markets", params=PAGE | {"offset": "2001"})
    assert (deep.status_code, "offset too large" in deep.json()["error"]) == (422, True)


def test_the_legacy_route_has_no_tie_breaker(client: httpx.Client) -> None:
    pages = [ids(client.get("/markets", params=PAGE | {"order": "endDate"})) for _ in range(2)]
    assert pages[0] != pages[1]


def test_one_market_by_id_or_slug_carries_its_event_and_tags_have_a_route(
    client: httpx.Client, day: list[dict[str, Any]]
) -> None:
    row = day[0]
    assert client.get(f"/markets/{row['id']}").json() == row
    assert client.get(f"/markets/slug/{row['slug']}").json() == row
    assert client.get(f"/markets/{row['id']}/tags").json()[0]["label"]
    assert client.get("/markets/1").status_code == 404


def test_markets_inside_an_event_have_no_events_and_may_be_placeholders(client: httpx.Client) -> None:
    events, cursor = [], None
    while True:
        reply = client.get("/events/keyset", params=PAGE | ({"after_cursor": cursor} if cursor else {})).json()
        events += reply["events"]
        cursor = reply.get("next_cursor")
        if cursor is None:
            break
    nested = [market for event in events for market in event["markets"]]
    assert all("events" not in market for market in nested)
    assert any("outcomePrices" not in market and market["active"] is False for market in nested)
    assert any(market["conditionId"] == "" and "clobTokenIds" not in market for market in nested)
    assert len({market["id"] for market in nested}) == len(nested)
    groups = [event for event in events if event["negRisk"]]
    assert groups
    assert all(len({market["negRisk"] for market in event["markets"]}) == 1 for event in groups)
    assert client.get(f"/events/{events[0]['id']}").json() == events[0]
    bare = client.get("/events/keyset", params=DAY | {"include_markets": "false"}).json()["events"]
    assert all("markets" not in event for event in bare)


# Order books


def test_markets_of_both_versions_are_traded_under_their_own_ids_only(
    day: list[dict[str, Any]], client: httpx.Client
) -> None:
    kinds = {(row["version"], "clobTokenIds" in row, "positionIds" in row) for row in day}
    assert kinds == {("v1", True, False), ("v1", True, True), ("v2", False, True), ("v2", True, True)}
    share = sum(row["version"] == "v2" for row in day) / len(day)
    assert 0.15 < share < 0.35
    both = [row for row in day if "clobTokenIds" in row and "positionIds" in row]
    others = [json.loads(row["clobTokenIds"])[0] if row["version"] == "v2" else row["positionIds"][0] for row in both]
    asked = [{"token_id": token, "side": "BUY"} for token in (*others, *(tokens_of(row)[0] for row in both))]
    quoted = client.post("/clob/prices", json=asked[:500]).json()
    assert len(both) > 50
    assert not quoted.keys() & set(others)
    assert len(quoted) > len(both) / 2
    second = next(row for row in day if row["version"] == "v2")
    assert ids(client.get("/markets/keyset", params=PAGE | {"position_ids": tokens_of(second)[0]})) == [second["id"]]
    assert "umaResolutionStatus" not in second


def test_batched_prices_are_the_books_best_levels(server: SandboxServer, day: list[dict[str, Any]]) -> None:
    tokens = [token for row in day[:60] for token in tokens_of(row)]
    with httpx.Client(base_url=server.clob_url) as clob:
        asked = [{"token_id": token, "side": side} for token in tokens for side in ("BUY", "SELL")]
        prices = clob.post("/prices", json=asked).json()
        books = {book["asset_id"]: book for book in clob.post("/books", json=[{"token_id": t} for t in tokens]).json()}
        middles = clob.post("/midpoints", json=[{"token_id": token} for token in tokens]).json()
        assert set(books) == set(tokens)
        one_sided = 0
        for token in tokens:
            book, quoted = books[token], prices.get(token, {})
            assert [float(level["price"]) for level in book["bids"]] == sorted(float(b["price"]) for b in book["bids"])
            assert quoted.get("BUY") == (book["bids"][-1]["price"] if book["bids"] else None)
            assert quoted.get("SELL") == (book["asks"][-1]["price"] if book["asks"] else None)
            one_sided += len(quoted) < 2
            assert (token in middles) == (len(quoted) == 2)
            if len(quoted) == 2:
                assert float(quoted["BUY"]) < float(quoted["SELL"])
                assert float(middles[token]) == pytest.approx((float(quoted["BUY"]) + float(quoted["SELL"])) / 2)
        assert one_sided > 0
        both = next(token for token in tokens if len(prices.get(token, {})) == 2)
        assert clob.get("/price", params={"token_id": both, "side": "BUY"}).json() == {"price": prices[both]["BUY"]}
        assert clob.get("/midpoint", params={"token_id": both}).json() == {"mid": middles[both]}
        assert clob.get("/book", params={"token_id": both}).json() == books[both]


def test_gammas_quote_is_of_the_first_outcome(server: SandboxServer, day: list[dict[str, Any]]) -> None:
    first = {tokens_of(row)[0]: row for row in day}
    with httpx.Client(base_url=server.clob_url) as clob:
        prices = clob.post("/prices", json=[{"token_id": token, "side": "SELL"} for token in first]).json()
    asks = [(float(sides["SELL"]), first[token]["bestAsk"]) for token, sides in prices.items()]
    assert sum(abs(clob_ask - gamma_ask) < 0.05 for clob_ask, gamma_ask in asks) > 0.95 * len(asks)


def test_the_order_books_host_refuses_what_it_does_not_know(server: SandboxServer) -> None:
    with httpx.Client(base_url=server.clob_url) as clob:
        assert clob.get("/book", params={"token_id": "12"}).status_code == 404
        assert clob.get("/price", params={"token_id": "12", "side": "HOLD"}).status_code == 400
        assert clob.post("/prices", json=[{"token_id": "12", "side": "BUY"}]).json() == {}
        assert clob.post("/prices", json=[{"token_id": "12", "side": "BUY"}] * 501).status_code == 422
        assert clob.post("/prices", content=b"{").status_code == 422
        assert clob.get("/markets/0x12").status_code == 404


def test_a_price_history_has_its_limits(server: SandboxServer, day: list[dict[str, Any]]) -> None:
    row = next(row for row in day if row.get("bestBid") and row["spread"] < 0.05)
    token, second = tokens_of(row)
    now = int(NOW.timestamp())
    with httpx.Client(base_url=server.clob_url) as clob:

        def history(**params: Any) -> httpx.Response:
            return clob.get("/prices-history", params={"market": token} | params)

        assert history(startTs=now - 15 * 86_400 - 1, endTs=now).status_code == 400
        assert history(interval="1w", fidelity=4).status_code == 400
        assert history(interval="1m", fidelity=9).status_code == 400
        assert history(interval="2w").status_code == 400
        assert history().status_code == 400
        points = history(startTs=now - 86_400, endTs=now, fidelity=60).json()["history"]
        assert [point["t"] for point in points] == list(range(now - 86_400, now + 1, 3600))
        assert all(0 < point["p"] < 1 for point in points)
        mirrored = clob.get("/prices-history", params={"market": second, "startTs": now - 86_400, "endTs": now,
                                                       "fidelity": 60}).json()["history"]  # fmt: skip
        assert [1 - point["p"] for point in mirrored] == pytest.approx([point["p"] for point in points])
        batch = {"markets": [token, second, "1"], "start_ts": now - 86_400, "end_ts": now, "fidelity": 60}
        assert clob.post("/batch-prices-history", json=batch).json() == {
            "history": {token: points, second: mirrored, "1": []}
        }
        for refused in ({"markets": [token] * 21}, {"markets": []}, {"markets": None}, {"fidelity": "x"}):
            assert clob.post("/batch-prices-history", json=batch | refused).status_code == 400
        ahead = history(startTs=now, endTs=now + 86_400, fidelity=60).json()["history"]
        assert len(ahead) == 1, "nobody is told the future"


# Time


def test_time_moves_forward_and_markets_close_and_settle_by_their_truth() -> None:
    with serve(World(5, 120), now=NOW) as running, httpx.Client(base_url=running.base_url) as client:
        before = {row["id"]: row for row in client.get("/markets/keyset", params=PAGE).json()["markets"]}
        truth = client.get("/_sandbox/truth", params=DAY).json()["markets"]
        assert client.post("/_sandbox/time", json={"advance_hours": 24}).json() == {"now": "2026-11-24T07:00:00Z"}
        moved = {row["id"]: row for row in client.get("/markets/keyset", params=PAGE).json()["markets"]}
        assert {key: row["outcomePrices"] for key, row in moved.items()} != {
            key: row["outcomePrices"] for key, row in before.items()
        }
        refused = client.post("/_sandbox/time", json={"now": "2026-11-24T06:59:59Z"})
        assert refused.status_code == 409
        with pytest.raises(TimeGoesForward):
            running.set_time(NOW)
        with pytest.raises(TimeGoesForward, match="time zone"):
            running.set_time(datetime(2027, 1, 1))  # noqa: DTZ001
        running.set_time(NOW + timedelta(days=60))
        assert ids(client.get("/markets/keyset", params=PAGE)) == []
        assert ids(client.get("/markets/keyset", params=PAGE | {"id": list(before)})) == []
        settled = client.get("/markets/keyset", params=PAGE | {"closed": "true", "id": list(before)}).json()["markets"]
        assert {row["id"] for row in settled} == set(before)
        for row in settled:
            payout = truth[row["id"]]["outcome"]
            assert json.loads(row["outcomePrices"]) == [f"{payout:g}", f"{1 - payout:g}"]
            assert row["closedTime"][10] == " "
            assert row["closedTime"].endswith("+00")
            told = client.get(f"/clob/markets/{row['conditionId']}").json()
            assert told["closed"] is True
            assert [token["winner"] for token in told["tokens"]] == [payout == 1, payout == 0]
            token = tokens_of(row)[0]
            assert client.get("/clob/book", params={"token_id": token}).status_code == 404
            gone = client.get("/clob/prices-history", params={"market": token, "interval": "max"})
            assert gone.json() == {"history": []}
        conditions = ",".join(row["conditionId"] for row in settled[:20])
        resolutions = client.get("/data/v2/resolutions", params={"condition": conditions}).json()["data"]
        assert all(row["status"] == "resolved" and sum(row["payouts"]) == 1_000_000 for row in resolutions)


def test_markets_that_do_not_exist_yet_are_nowhere(client: httpx.Client, server: SandboxServer) -> None:
    world = server.app.view.exchange.world
    assert world is not None
    young = next(m for m in world.day(datetime(2026, 11, 30).date()).markets if m.created > NOW.timestamp())  # noqa: DTZ001
    assert client.get(f"/markets/{young.market_id}").status_code == 404
    assert ids(client.get("/markets/keyset", params={"id": young.market_id})) == []
    assert client.get(f"/clob/markets/{young.condition_id}").status_code == 404


def test_the_truth_is_told_to_tests(client: httpx.Client, day: list[dict[str, Any]]) -> None:
    told = client.get("/_sandbox/truth", params={"market_id": [row["id"] for row in day[:5]]}).json()
    assert told["at"] == "2026-11-23T07:00:00Z"
    assert all(0 <= market["probability"] <= 1 for market in told["markets"].values())
    end = client.get("/_sandbox/truth", params=DAY | {"at": "2027-03-01T00:00:00Z"}).json()["markets"]
    assert len(end) >= 250
    assert all(market["probability"] in (0, 1) for market in end.values())
    assert client.get("/_sandbox/truth").status_code == 422


def test_the_status_counts_requests_by_route(server: SandboxServer, client: httpx.Client) -> None:
    before = server.requests["GET /markets/{}"]
    client.get("/markets/123")
    client.get("/markets/124")
    status = client.get("/_sandbox/status", params=DAY).json()
    assert status["requests"]["GET /markets/{}"] == before + 2
    assert (status["now"], status["open"], status["poison"]) == ("2026-11-23T07:00:00Z", 250, {})


def test_rows_can_be_prepared_ahead(client: httpx.Client, day: list[dict[str, Any]]) -> None:
    assert client.post("/_sandbox/warm", params=DAY).json() == {"rows": 250}
    assert client.get("/markets/keyset", params=PAGE).json()["markets"] == day[:100]


# Poison and replay


def test_poisoned_rows_are_broken_as_named_and_leave_the_page_readable_by_row() -> None:
    kinds = (*REJECTABLE, *TOLERABLE)
    world = World(7, 100, poison=len(kinds) / 100, poisons=kinds)
    with serve(world, now=NOW) as running, httpx.Client(base_url=running.base_url) as client:
        body = client.get("/markets/keyset", params=PAGE).content
        status = client.get("/_sandbox/status", params=DAY).json()
    assert status["poison"] == dict.fromkeys(kinds, 1)
    rows = json.loads(body)["markets"]
    assert len(rows) == 100
    assert b"\\ud83d half" in body
    assert b"\\u0000" in body
    assert sum(len(row["slug"]) > 9000 for row in rows) == 1
    assert sum("question" not in row for row in rows) == 1
    assert sum("endDate" not in row for row in rows) == 1
    assert sum("outcomePrices" not in row for row in rows) == 1


def test_recorded_rows_are_replayed_byte_for_byte_through_the_same_routes(day: list[dict[str, Any]]) -> None:
    bodies = [json.dumps(row).encode() for row in reversed(day)]
    with serve(ReplayWorld(bodies), now=NOW) as running, httpx.Client(base_url=running.base_url) as client:
        reply = client.get("/markets/keyset", params=PAGE)
        assert [row["id"] for row in reply.json()["markets"]] == [row["id"] for row in day[:100]]
        assert bodies[-1] in reply.content
        assert client.get(f"/markets/{day[4]['id']}").json() == day[4]
        assert len(ids(client.get("/markets", params=PAGE | {"offset": "200"}))) == 50
        assert ids(client.get("/markets/keyset", params={"end_date_min": "2026-12-01T00:00:00Z"})) == []
        token = tokens_of(day[0])[0]
        assert client.get("/clob/book", params={"token_id": token}).status_code == 404
        assert client.post("/clob/prices", json=[{"token_id": token, "side": "BUY"}]).json() == {}


def test_the_blocking_form_says_in_one_line_where_it_is() -> None:
    script = (
        "from datetime import datetime, UTC\n"
        "from predictbench_assets.sandbox.server import run\n"
        "from predictbench_assets.sandbox.world import World\n"
        "run(World(7, 20), port=0, now=datetime(2026, 11, 23, 7, tzinfo=UTC))"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            address = line.split()[2]
            assert line == f"sandbox ready: {address} clob {address}/clob at 2026-11-23T07:00:00Z\n"
            with httpx.Client(base_url=address) as client:
                assert len(ids(client.get("/markets/keyset", params=DAY))) == 20
        finally:
            process.terminate()


def test_a_taken_port_is_an_error_at_once() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(OSError, match="in use"),
        serve(World(7, 1), now=NOW, port=taken.getsockname()[1]),
    ):
        pass
