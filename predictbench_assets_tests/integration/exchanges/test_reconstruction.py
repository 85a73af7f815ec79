"""A past day put together: which markets are of it, at which price, and what an exchange that is unwell does to it."""

import asyncio
import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import respx

from predictbench_assets.clock import FixedClock
from predictbench_assets.exchanges.exchange import Capture
from predictbench_assets.exchanges.polymarket.client import PolymarketClient
from predictbench_assets.exchanges.polymarket.kept_listings import KeptListings
from predictbench_assets.exchanges.polymarket.listed_rows import Listing, SeenRow
from predictbench_assets.exchanges.polymarket.reading import read_row
from predictbench_assets.exchanges.polymarket.reconstruction import PricesMissing, reconstruct
from predictbench_assets.markets.cohort import ReadMarket

GAMMA, CLOB = "https://gamma.test", "https://clob.test"
AS_OF = datetime(2026, 3, 2, 7, tzinfo=UTC)
START = datetime(2026, 3, 9, tzinfo=UTC)
NOW = datetime(2026, 4, 1, tzinfo=UTC)
HOUR, SECOND = timedelta(hours=1), timedelta(seconds=1)
Histories = Callable[[list[str], float], httpx.Response]


def row(number: int, **changes: Any) -> dict[str, Any]:
    """A settled market that is of the day."""
    usual = {
        "id": str(number),
        "question": f"Question {number}?",
        "endDate": "2026-03-09T12:00:00Z",
        "createdAt": "2026-02-20T00:00:00.25Z",
        "startDate": "2026-02-20T00:10:00Z",
        "outcomes": '["Yes", "No"]',
        "outcomePrices": '["1", "0"]',
        "clobTokenIds": json.dumps([str(1_000 + number), str(2_000 + number)]),
        "closed": True,
        "closedTime": "2026-03-09 14:00:00+00",
    }
    return {key: value for key, value in (usual | changes).items() if value is not None}


def told(tokens: list[str], ends: float) -> httpx.Response:
    """One price for each token."""
    return httpx.Response(200, json={"history": {token: [{"t": ends - 60, "p": 0.25}] for token in tokens}})


def day(
    closed: list[Any],
    opened: list[Any] | None = None,
    histories: Histories = told,
    *,
    alone: Histories | None = None,
    kept: KeptListings | None = None,
    now: datetime = NOW,
    as_of: datetime = AS_OF,
    at_once: int = 1,
) -> tuple[Capture, list[str]]:
    """What is put together, by as many at once, and what was asked for in order."""
    asked: list[str] = []

    def page(request: httpx.Request) -> httpx.Response:
        asked.append(f"closed={request.url.params['closed']}")
        rows = (
            closed if request.url.params["closed"] == "true" else [] if "order" in request.url.params else opened or []
        )
        return httpx.Response(200, json={"markets": rows})

    def history(request: httpx.Request) -> httpx.Response:
        asked.append("history")
        body = json.loads(request.content)
        return histories(body["markets"], body["end_ts"])

    def one_history(request: httpx.Request) -> httpx.Response:
        asked.append("one history")
        token, ends = request.url.params["market"], float(request.url.params["endTs"])
        answer = (alone or histories)([token], ends)
        if answer.status_code != 200 or not (known := json.loads(answer.content)["history"]):
            return httpx.Response(404, json={"error": "not found"})
        return httpx.Response(200, json={"history": known[token]})

    async def no_sleep(_: float) -> None: ...

    def client() -> PolymarketClient:
        return PolymarketClient(
            GAMMA, CLOB, clock=FixedClock(now), requests_per_second=1_000, slices=1, sleep=no_sleep, max_attempts=2
        )

    async def all_at_once() -> list[Capture]:
        window = START, START + timedelta(days=1)
        return await asyncio.gather(
            *(reconstruct(client(), *window, as_of, FixedClock(now), kept) for _ in range(at_once))
        )

    with respx.mock(assert_all_called=False) as mock:
        mock.get(f"{GAMMA}/markets/keyset").mock(side_effect=page)
        mock.post(f"{CLOB}/batch-prices-history").mock(side_effect=history)
        mock.get(f"{CLOB}/prices-history").mock(side_effect=one_history)
        made, *others = asyncio.run(all_at_once())
    assert all(other.rows == made.rows for other in others)
    return made, asked


def ids(capture: Capture) -> list[str]:
    return [str(one.market_id) for one in capture.rows]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"closedTime": "2026-03-02 07:00:00+00"}, "closed before"),
        ({"closedTime": None}, "closed at an unknown time"),
        ({"closed": "true", "closedTime": None}, "closed at an unknown time"),
        ({"closed": 1, "closedTime": None}, "closed at an unknown time"),
        ({"createdAt": "2026-03-02T07:00:01Z"}, "listed later"),
        ({"startDate": "2026-03-02T07:00:01Z"}, "opened later"),
        ({"startDate": None, "acceptingOrdersTimestamp": "2026-03-02T08:00:00Z"}, "opened later"),
        ({"startDate": None}, "opened later"),
        ({"endDate": None}, "ends at another time"),
        ({"outcomes": '["A", "B", "C"]', "clobTokenIds": '["1", "2", "3"]'}, "not two outcomes"),
        ({"clobTokenIds": '["1"]'}, "not two outcomes"),
        ({"archived": True}, "archived or inactive"),
    ],
    ids=str,
)
def test_a_market_that_is_none_of_the_day_is_left_out_and_counted(changes: dict[str, Any], reason: str) -> None:
    made, _ = day([row(1), row(2, **changes)])
    assert (ids(made), made.left_out) == (["1"], {reason: 1})


@pytest.mark.parametrize(
    "changes",
    [
        {"closedTime": "2026-03-02 07:00:01+00"},
        {"createdAt": "2026-03-02T07:00:00Z", "startDate": "2026-03-02T07:00:00Z"},
        {"startDate": None, "acceptingOrdersTimestamp": "2026-02-20T00:00:00Z"},
        {"endDate": "2026-03-09T23:59:59.999Z"},
        {"closed": False, "closedTime": None},
        {"closed": "false", "closedTime": None},
        {"volumeNum": 10**400},
    ],
    ids=lambda changes: " ".join(f"{key}={value}"[:50] for key, value in changes.items()),
)
def test_a_market_that_was_open_then_is_of_the_day(changes: dict[str, Any]) -> None:
    made, _ = day([row(1, **changes)])
    assert (ids(made), made.left_out) == (["1"], {})


def test_rows_that_are_no_markets_cost_themselves_alone() -> None:
    made, _ = day([row(1), 7, "text", [], None, {"id": "5", "events": 3, "tags": "?"}, row(6, events=[1, {"id": "9"}])])
    assert ids(made) == ["1", "6"]
    assert sum(made.left_out.values()) == 5


def test_a_market_that_closes_between_the_two_walks_is_there_once_as_it_is_now() -> None:
    still_open = row(1, closed=False, closedTime=None)
    made, asked = day([row(1, closedTime="2026-03-02 06:00:00+00"), row(2)], [still_open])
    assert [one for one in asked if one != "history"] == ["closed=false", "closed=false", "closed=true"]
    assert (ids(made), made.left_out) == (["2"], {"closed before": 1})


def test_two_markets_with_one_token_are_two() -> None:
    made, _ = day([row(1), row(2, clobTokenIds=row(1)["clobTokenIds"])])
    assert ids(made) == ["1", "2"]


def test_the_hash_is_over_both_walks() -> None:
    hashes = {
        day(closed, opened)[0].sha256 for closed, opened in (([row(1)], []), ([row(1)], [row(2)]), ([], [row(2)]))
    }
    assert len(hashes) == 3


def test_a_day_is_marked_and_its_rows_have_what_a_market_needs() -> None:
    made, _ = day([row(1)])
    assert (made.as_of, made.text_as_of, made.captured_at) == (AS_OF, NOW, NOW)
    assert made.rows_by_source == {"history": 1}
    [one] = made.rows
    found = read_row(one.raw, one.quote, NOW)
    assert isinstance(found, ReadMarket)
    price = found.market.price
    assert (price.value, price.bid, price.ask, price.source, price.quality) == (0.25, None, None, "history", "history")
    assert (found.market.volume, found.market.liquidity) == (None, None)


# Prices


def priced(*points: tuple[timedelta, Any]) -> tuple[float | None, float | None] | None:
    """Price and price of a day before, of points by their time before the hour; None where it is left out."""
    listed = [{"t": (AS_OF - before).timestamp(), "p": price} for before, price in points]
    made, _ = day(
        [row(1)], histories=lambda tokens, _: httpx.Response(200, json={"history": dict.fromkeys(tokens, listed)})
    )
    if not made.rows:
        assert made.left_out == {"no price in the hours before": 1}
        return None
    quote = made.rows[0].quote
    assert quote is not None
    return quote.midpoint, None if quote.day_ago is None else quote.day_ago.price


def test_the_price_is_the_last_one_of_six_hours_and_none_of_later() -> None:
    assert priced((-SECOND, 0.9), (timedelta(0), 0.3), (HOUR, 0.2)) == (0.3, None)
    assert priced((6 * HOUR, 0.2)) == (0.2, None)
    assert priced((6 * HOUR + SECOND, 0.2)) is None
    assert priced((HOUR, 0.3), (24 * HOUR, 0.2), (23 * HOUR, 0.6)) == (0.3, 0.2)
    assert priced((HOUR, 0.3), (30 * HOUR, 0.2)) == (0.3, 0.2)
    assert priced((HOUR, 0.3), (30 * HOUR + SECOND, 0.2)) == (0.3, None)
    assert priced() is None


def test_a_new_book_has_no_price_and_neither_has_a_payout() -> None:
    assert priced((2 * HOUR, 0.5), (HOUR, 0.5)) is None
    assert priced((25 * HOUR, 0.5), (HOUR, 0.4)) == (0.4, None)
    assert priced((25 * HOUR, 0.4), (HOUR, 0.5)) == (0.5, 0.4)
    assert priced((timedelta(0), 1), (HOUR, 0.4)) == (0.4, None)
    assert priced((timedelta(0), 0)) is None


# An exchange that is unwell


def half_of(tokens: list[str], ends: float) -> httpx.Response:
    return told([token for token in tokens if int(token) % 2], ends)


def gone(_: list[str], __: float) -> httpx.Response:
    return httpx.Response(404, json={"error": "gone"})


@pytest.mark.parametrize("histories", [gone, half_of, lambda *_: httpx.Response(200, json={"history": None})])
def test_a_price_history_that_does_not_answer_for_all_fails_for_now(histories: Histories) -> None:
    with pytest.raises(PricesMissing, match="of 40 markets"):
        day([row(number) for number in range(40)], histories=histories)


def test_tokens_that_are_not_in_the_answer_are_asked_for_one_by_one() -> None:
    def silent(tokens: list[str], ends: float) -> httpx.Response:
        known = json.loads(told(tokens, ends).content)["history"]
        return httpx.Response(
            200, json={"history": {token: [] if token == "1002" else known[token] for token in tokens}}
        )

    made, asked = day([row(number) for number in range(40)], histories=half_of, alone=silent)
    assert len(made.rows) == 39
    assert made.left_out == {"no price in the hours before": 1}
    assert (asked.count("history"), asked.count("one history")) == (2, 20)


def test_a_few_that_stay_unanswered_are_counted_and_an_empty_history_is_an_answer() -> None:
    def answer(tokens: list[str], ends: float) -> httpx.Response:
        if "1001" in tokens and len(tokens) > 1:
            return httpx.Response(400, json={"error": "invalid token"})
        known: Mapping[str, Any] = json.loads(told(tokens, ends).content)["history"]
        left = {token: [] if int(token) % 2 else points for token, points in known.items() if token != "1001"}
        return httpx.Response(200, json={"history": left})

    made, _ = day([row(number) for number in range(40)], histories=answer)
    assert made.left_out == {"no price in the hours before": 19, "price not told": 1}
    assert len(made.rows) == 20


# Listings that are kept


def test_a_listing_is_asked_for_once_in_a_day_and_says_when_it_was_read(tmp_path: Path) -> None:
    kept = KeptListings(tmp_path, GAMMA)
    first, _ = day([row(1), row(2)], [row(3, closed=False, closedTime=None)], kept=kept)
    later = NOW + 23 * HOUR
    again, asked = day([], kept=kept, now=later, as_of=AS_OF + timedelta(days=1))
    assert set(asked) == {"history"}
    assert ids(again) == ids(first) == ["3", "1", "2"]
    assert [msgspec.json.decode(one.raw) for one in again.rows] == [msgspec.json.decode(one.raw) for one in first.rows]
    assert (again.text_as_of, again.captured_at, again.sha256) == (NOW, later, first.sha256)


def test_several_at_once_read_a_listing_once(tmp_path: Path) -> None:
    made, asked = day([row(1), row(2)], kept=KeptListings(tmp_path, GAMMA), at_once=3)
    assert ids(made) == ["1", "2"]
    once = day([row(1), row(2)])[1]
    assert asked.count("closed=true") == once.count("closed=true")
    assert asked.count("history") == 3 * once.count("history")


def test_a_listing_is_not_used_when_it_is_old_or_of_another_exchange_or_read_before_the_hour(tmp_path: Path) -> None:
    day([row(1)], kept=KeptListings(tmp_path, GAMMA))
    for kept, now, as_of in (
        (KeptListings(tmp_path, "https://other.test"), NOW, AS_OF),
        (KeptListings(tmp_path, GAMMA), NOW, NOW),
        (KeptListings(tmp_path, GAMMA), NOW - HOUR, AS_OF),
        (KeptListings(tmp_path, GAMMA), NOW + 24 * HOUR, AS_OF),
    ):
        assert "closed=true" in day([row(1)], kept=kept, now=now, as_of=as_of)[1]


def test_old_listings_go_when_one_is_kept_and_damaged_ones_count_for_nothing(tmp_path: Path) -> None:
    kept = KeptListings(tmp_path, GAMMA)
    day([row(1)], kept=kept)
    [file] = tmp_path.rglob("*.zst")
    old = file.with_name("20260101T000000Z_20260102T000000Z.jsonl.zst")
    old.write_bytes(file.read_bytes())
    half_done = file.with_name(f".{file.name}.0123abcd.partial")
    half_done.touch()
    for one in (old, half_done):
        os.utime(one, (NOW.timestamp(), NOW.timestamp()))
    file.write_bytes(file.read_bytes()[:-9])
    made, asked = day([row(1)], kept=kept, now=NOW + 25 * HOUR)
    assert ids(made) == ["1"]
    assert "closed=true" in asked
    assert [one for one in tmp_path.rglob("*") if one.is_file()] == [file]


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x28\xb5\x2f\xfd garbage", None], ids=repr)
def test_a_listing_that_is_no_listing_is_read_again_and_replaced(tmp_path: Path, content: bytes | None) -> None:
    kept = KeptListings(tmp_path, GAMMA)
    day([row(1)], kept=kept)
    [file] = tmp_path.rglob("*.zst")
    whole = file.read_bytes()
    for damaged in [content] if content is not None else [whole[:end] for end in range(0, len(whole), 40)]:
        file.write_bytes(damaged)
        made, asked = day([row(1)], kept=kept)
        assert ids(made) == ["1"]
        assert "closed=true" in asked
        assert set(day([row(1)], kept=kept)[1]) == {"history"}


def test_several_writers_of_one_listing_leave_a_whole_one(tmp_path: Path) -> None:
    listings = [Listing(rows=[SeenRow(market_id=str(number))] * 50, read_at=NOW, sha256=str(number), received_bytes=1)
                for number in range(8)]  # fmt: skip
    end = START + timedelta(days=1)

    def write(listing: Listing) -> None:
        kept = KeptListings(tmp_path, GAMMA)  # as of another process
        for _ in range(10):
            kept.keep(START, end, listing)
            found = kept.find(START, end, now=NOW, as_of=AS_OF)
            assert found is None or found in listings  # none where it was replaced in the middle of the reading

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, listings))
    assert KeptListings(tmp_path, GAMMA).find(START, end, now=NOW, as_of=AS_OF) in listings
    assert len([one for one in tmp_path.rglob("*") if one.is_file()]) == 1


def test_a_folder_that_takes_no_files_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "listings").write_text("in the way")
    made, _ = day([row(1)], kept=KeptListings(tmp_path / "listings", GAMMA))
    assert ids(made) == ["1"]
