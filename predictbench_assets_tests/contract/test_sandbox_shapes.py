"""The sandbox against recorded payloads: no key that the real API does not send, each of a type that it sends, and
none missing of those that it always sends."""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from predictbench_assets.sandbox.exchange import ReplayWorld
from predictbench_assets.sandbox.server import SandboxServer, serve
from predictbench_assets.sandbox.world import World
from predictbench_assets_tests.kit.places import SAMPLES

pytestmark = pytest.mark.recorded

if not SAMPLES.is_dir():
    pytest.skip("recorded payloads are missing: set PREDICTBENCH_SAMPLES to their folder", allow_module_level=True)

NOW = datetime(2026, 11, 23, 7, tzinfo=UTC)
DAY = {"end_date_min": "2026-11-30T00:00:00Z", "end_date_max": "2026-11-30T23:59:59Z", "limit": "100"}
Row = dict[str, Any]

DOCUMENTED = {"tags"}
"""Keys of markets that are documented and in no recorded sample: sent only when asked for."""

FORMATTED = (
    "id", "outcomes", "outcomePrices", "clobTokenIds", "umaResolutionStatuses", "volume", "liquidity", "endDate",
    "endDateIso", "closedTime", "gameStartTime", "groupItemThreshold", "umaBond",
)  # fmt: skip
"""Strings on which a reader depends for what is inside."""


def kind(value: object) -> str:
    """The JSON type."""
    names = {bool: "boolean", int: "number", float: "number", str: "string", list: "array", dict: "object"}
    return "null" if value is None else names[type(value)]


def inner(value: object) -> str | None:
    """What a string holds, as far as it looks the same in every row."""
    if not isinstance(value, str) or not value:
        return None
    if value.startswith("["):
        return "list"
    try:
        float(value)
    except ValueError:
        pass
    else:
        return "number"
    for name, form in (("date", "%Y-%m-%d"), ("spaced", "%Y-%m-%d %H:%M:%S+00"), ("instant", "%Y-%m-%dT%H:%M:%SZ")):
        try:
            datetime.strptime(value, form)  # noqa: DTZ007
        except ValueError:
            continue
        return name
    return "text"


def shape(rows: Iterable[Mapping[str, Any]]) -> dict[str, set[str]]:
    """The types seen for each key."""
    found: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        for key, value in row.items():
            found[key].add(kind(value))
    return found


def always(rows: list[Row]) -> set[str]:
    """Keys that every row has."""
    return set.intersection(*(set(row) for row in rows))


def recorded(*names: str) -> list[Any]:
    """The rows of sample files: arrays, single objects, or wrapped ones."""
    rows: list[Any] = []
    for name in names:
        found = json.loads((SAMPLES / name).read_text())
        found = found.get("body", found) if isinstance(found, dict) else found
        rows += found if isinstance(found, list) else [found]
    return rows


def markets_of_2026() -> list[Row]:
    names = (
        "open_markets_2026-02", "market_newest_schema_2026-10", "negrisk_markets_2026-07",
        "market_closed_sports_2026-10", "btc_5m_open_2026-03", "esports_handicap_2026-04",
        "market_with_schema_key_2026-08", "closed_no_uma_status_2026-06",
    )  # fmt: skip
    rows = recorded(*(f"gamma/{name}.json" for name in names))
    nested = [market for event in recorded("gamma/ladder_events_2026-07.json") for market in event["markets"]]
    return [*rows, *nested]


def of_v1(rows: list[Row]) -> list[Row]:
    """Rows of the version that all recorded rows are of."""
    return [row for row in rows if row["version"] == "v1"]


def tokens_of(row: Row) -> list[str]:
    """What the outcomes are traded under, by the row's version."""
    return row["positionIds"] if row["version"] == "v2" else json.loads(row["clobTokenIds"])  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def server() -> Iterator[SandboxServer]:
    with serve(World(7, 400), now=NOW) as running:
        yield running


@pytest.fixture(scope="module")
def get(server: SandboxServer) -> Iterator[Callable[..., Any]]:
    with httpx.Client(base_url=server.base_url) as client:
        yield lambda path, **params: client.get(path, params=params).json()


@pytest.fixture(scope="module")
def open_rows(get: Callable[..., Any]) -> list[Row]:
    rows: list[Row] = []
    for hour in range(24):
        window = {"end_date_min": f"2026-11-30T{hour:02}:00:00Z", "end_date_max": f"2026-11-30T{hour:02}:59:59Z"}
        rows += get("/markets/keyset", **window, limit="100")["markets"]
    return rows


@pytest.fixture(scope="module")
def short_rows() -> list[Row]:
    """Up-or-down markets, which exist on their last day only."""
    with (
        serve(World(7, 60), now=NOW + timedelta(days=6, hours=10)) as late,
        httpx.Client(base_url=late.base_url) as client,
    ):
        rows = client.get("/markets/keyset", params=DAY).json()["markets"]
        return [row for row in rows if "Up or Down" in row["question"]]


@pytest.fixture(scope="module")
def closed_rows() -> list[Row]:
    with serve(World(7, 400), now=NOW + timedelta(days=40)) as late, httpx.Client(base_url=late.base_url) as client:
        return client.get("/markets/keyset", params=DAY | {"closed": "true"}).json()["markets"]


def test_every_key_of_a_market_is_one_that_the_real_api_sends_with_that_type(
    open_rows: list[Row], closed_rows: list[Row], short_rows: list[Row]
) -> None:
    real = shape([*markets_of_2026(), *recorded("closing_day_2024-11-30/markets_resolved.json")])
    assert short_rows
    ours = shape([*open_rows, *closed_rows, *short_rows])
    assert set(ours) - set(real) - DOCUMENTED == set()
    assert {key: types - real[key] for key, types in ours.items() if types - real[key]} == {}


def test_strings_hold_what_they_hold_in_reality(open_rows: list[Row], closed_rows: list[Row]) -> None:
    real: dict[str, set[str | None]] = defaultdict(set)
    for row in [*markets_of_2026(), *recorded("closing_day_2024-11-30/markets_resolved.json")]:
        for key, value in row.items():
            real[key].add(inner(value))
    for row in [*open_rows, *closed_rows]:
        for key in FORMATTED:
            assert inner(row.get(key, "")) in {*real[key], None}, (key, row.get(key))
    for rows in (open_rows, closed_rows):
        assert {inner(price) for row in rows for price in json.loads(row["outcomePrices"])} == {"number"}
        assert {type(name) for row in rows for name in json.loads(row["outcomes"])} == {str}


def test_no_key_that_every_open_market_of_2026_has_is_missing(open_rows: list[Row]) -> None:
    real = [row for row in markets_of_2026() if row.get("closed") is False and row.get("conditionId")]
    listed = [row for row in real if "events" in row]
    assert always(real) - always(of_v1(open_rows)) == set()
    # Among markets in a listing these are always there, or are in 98 % of them.
    common = {key for key in shape(listed) if sum(key in row for row in listed) >= 0.98 * len(listed)}
    often = {key for key in common if sum(key in row for row in open_rows) < 0.5 * len(open_rows)}
    assert often - {"seriesColor", "showGmpSeries", "showGmpOutcome", "negRiskRequestID", "negRiskMarketID"} == set()


def test_no_key_that_every_closed_market_has_is_missing(closed_rows: list[Row]) -> None:
    real = [row for row in markets_of_2026() if row.get("closed") is True]
    assert real
    assert always(real) - always(of_v1(closed_rows)) == set()


def test_an_absent_value_is_a_missing_key(open_rows: list[Row]) -> None:
    nulls = {key for row in open_rows for key, value in row.items() if value is None}
    assert nulls <= {"feeType"}
    assert any("bestBid" not in row for row in open_rows)
    assert any("volume24hr" not in row for row in open_rows)


def test_events_have_the_real_shape_alone_and_around_markets(open_rows: list[Row], get: Callable[..., Any]) -> None:
    listed = [event for row in markets_of_2026() for event in row.get("events", [])]
    real = shape([*listed, *recorded("gamma/ladder_events_2026-07.json")])
    ours = [event for row in open_rows for event in row["events"]]
    whole = get("/events/keyset", **DAY)["events"]
    assert whole
    found = shape([*ours, *whole])
    assert set(found) - set(real) == set()
    assert {key: types - real[key] for key, types in found.items() if types - real[key]} == {}
    assert always(listed) - always(ours) == set()
    series = shape(part for event in ours for part in event.get("series", []))
    real_series = shape(part for event in listed for part in event.get("series", []))
    assert {key: types - real_series[key] for key, types in series.items() if types - real_series[key]} == {}


def test_order_books_have_the_real_shape(open_rows: list[Row], get: Callable[..., Any]) -> None:
    real = recorded("clob/books_negrisk_2026-05.json", "clob/book_2026-07.json", "clob/book_one_sided_2026-08.json")
    books = [get("/clob/book", token_id=tokens_of(row)[0]) for row in open_rows[:40]]
    for book in books:
        assert always(real) <= set(book) <= set(shape(real))
        assert {key: kind(value) for key, value in book.items()} == {key: kind(real[0][key]) for key in book}
        for level in (*book["bids"], *book["asks"]):
            assert {key: kind(value) for key, value in level.items()} == {"price": "string", "size": "string"}
    for side, sign in (("bids", 1), ("asks", -1)):
        for book in (*real, *books):
            prices = [sign * float(level["price"]) for level in book[side]]
            assert prices == sorted(prices), "the best level is the last"


def test_a_settled_market_on_the_order_books_host_has_the_real_shape(closed_rows: list[Row]) -> None:
    [real] = recorded("clob/market_resolved_2026-06.json")
    with serve(World(7, 400), now=NOW + timedelta(days=40)) as late, httpx.Client(base_url=late.base_url) as client:
        markets = [client.get(f"/clob/markets/{row['conditionId']}").json() for row in closed_rows[:30]]
        conditions = ",".join(row["conditionId"] for row in closed_rows[:20])
        resolutions = client.get("/data/v2/resolutions", params={"condition": conditions}).json()
    for market in markets:
        assert set(market) == set(real)
        assert {key for key in market if kind(market[key]) != kind(real[key])} <= {"game_start_time"}
        assert [set(token) for token in market["tokens"]] == [set(token) for token in real["tokens"]]
        assert shape(market["tokens"]) == shape(real["tokens"])
    [recorded_resolutions] = recorded("data_v2/data_v2_resolutions.json")
    assert shape(resolutions["data"]) == shape(recorded_resolutions["data"])


def test_a_price_history_has_the_real_shape(open_rows: list[Row], get: Callable[..., Any]) -> None:
    [real] = recorded("clob/prices_history_2026-03.json")
    token = tokens_of(open_rows[0])[0]
    ours = get("/clob/prices-history", market=token, interval="1d", fidelity="60")
    assert set(ours) == set(real)
    assert shape(ours["history"]) == shape(real["history"])


def test_recorded_markets_are_replayed_over_http_as_they_are() -> None:
    path = SAMPLES / "gamma/open_markets_2026-02.json"
    real = {row["id"]: row for row in json.loads(path.read_text())}
    window = {"end_date_min": "2026-02-09T00:00:00Z", "end_date_max": "2026-02-09T23:59:59Z", "limit": "100"}
    now = datetime(2026, 2, 2, 7, tzinfo=UTC)
    with serve(ReplayWorld.from_file(path), now=now) as running, httpx.Client(base_url=running.base_url) as client:
        found = client.get("/markets/keyset", params=window).json()
        walked, cursor = [], None
        while True:
            page = client.get("/markets/keyset", params={"limit": "100"} | ({"after_cursor": cursor} if cursor else {}))
            walked += page.json()["markets"]
            cursor = page.json().get("next_cursor")
            if cursor is None:
                break
    assert len(found["markets"]) == 33
    assert "next_cursor" not in found
    assert all(row == real[row["id"]] for row in walked)
    assert len(walked) == len(real)
