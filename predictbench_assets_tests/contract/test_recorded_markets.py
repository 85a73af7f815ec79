"""Real markets, as others recorded them from 2020 to 2026: which are read, and why the others are not."""

import json
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest

from predictbench_assets.exchanges.polymarket.categories import CATEGORIES
from predictbench_assets.exchanges.polymarket.payloads import parse_instant
from predictbench_assets.exchanges.polymarket.quotes import prices_request, read_prices
from predictbench_assets.exchanges.polymarket.reading import read_row
from predictbench_assets.markets.cohort import Cohort, Filters, normalize_cohort
from predictbench_assets.markets.market import Market
from predictbench_assets_tests.kit.places import SAMPLES

pytestmark = [
    pytest.mark.recorded,
    pytest.mark.skipif(not SAMPLES.is_dir(), reason="no recorded payloads here: set PREDICTBENCH_SAMPLES"),
]
NOW = datetime(2026, 11, 23, 7, tzinfo=UTC)

# file -> markets read, {(field, reason): rows rejected}
EXPECTED: dict[str, tuple[int, dict[tuple[str, str], int]]] = {
    "closing_day_2024-11-30/markets_resolved": (160, {}),
    "gamma/btc_5m_open_2026-03": (1, {}),
    "gamma/closed_but_status_proposed_or_missing": (60, {}),
    "gamma/closed_no_uma_status_2026-06": (1, {}),
    "gamma/closed_scalar_legacy": (1, {}),
    # Nobody was paid: prices of an abandoned automated market maker.
    "gamma/closed_zero_zero_legacy": (0, {("outcomePrices", "sum to 0, not to 1"): 1}),
    "gamma/disputed": (15, {}),
    "gamma/esports_handicap_2026-04": (1, {}),
    # A draft inside an event, without condition, prices and tokens.
    "gamma/ladder_events_2026-07": (7, {("outcomePrices", "are missing"): 1}),
    "gamma/market_closed_sports_2026-10": (1, {}),
    "gamma/market_newest_schema_2026-10": (1, {}),
    "gamma/market_with_schema_key_2026-08": (1, {}),
    "gamma/missing_end_date": (0, {("endDate", "is missing"): 20}),
    # Three to seven outcomes are markets too; two of these lack an end date, or were never on the order book.
    "gamma/multi_outcome_3_to_7_legacy": (8, {("endDate", "is missing"): 1, ("clobTokenIds", "are missing"): 1}),
    "gamma/negrisk_markets_2026-07": (3, {}),
    "gamma/non_ascii": (20, {}),
    "gamma/open_markets_2025-05": (98, {("endDate", "is missing"): 1, ("outcomePrices", "are missing"): 1}),
    "gamma/open_markets_2026-02": (499, {("endDate", "is missing"): 1}),
    # A 50-50 payout written as 1 and 1: fit for a resolution, not for a price.
    "gamma/resolved_void_and_half": (22, {("outcomePrices", "sum to 2, not to 1"): 11, ("endDate", "is missing"): 1}),
}


def rows_of(name: str) -> list[dict[str, Any]]:
    """The market rows of a file: bare, in a list, inside events, or wrapped by the recorder."""

    def flat(value: Any) -> list[dict[str, Any]]:
        if isinstance(value, list):
            return [row for each in value for row in flat(each)]
        if "body" in value or ("markets" in value and "question" not in value):
            return flat(value.get("body") or value["markets"])
        return [value]

    return flat(json.loads((SAMPLES / f"{name}.json").read_text()))


def cohort_of(name: str, *, reopened: bool = True) -> Cohort:
    """The rows as if they had been listed while open, since most were recorded after; or just as they are."""
    open_again = {"closed": False, "active": True} if reopened else {}
    rows = ((json.dumps(row | open_again, ensure_ascii=False).encode(), None) for row in rows_of(name))
    return normalize_cohort(rows, read_row, captured_at=NOW, filters=Filters(), core_size=300, seed=1)


def test_every_recorded_file_of_markets_is_in_the_table() -> None:
    found = {f"{path.parent.name}/{path.stem}" for path in SAMPLES.glob("*/*.json")}
    assert {name for name in found if name.startswith(("gamma/", "closing_day_"))} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_recorded_rows_are_read_or_rejected_for_the_right_reason(name: str) -> None:
    read, rejected = EXPECTED[name]
    cohort = cohort_of(name)
    assert len(cohort.markets) == read
    written = [Market.model_validate_json(market.model_dump_json()) for market in cohort.markets]
    assert written == cohort.markets, "what is staged is what a step of the same process goes on with"
    assert Counter((row.field, row.reason.removeprefix(f"{row.field} ")) for row in cohort.rejected) == rejected
    assert cohort.unreadable == {}
    assert cohort.offered == len(rows_of(name))
    assert {market.category for market in cohort.markets} <= set(CATEGORIES)


@pytest.mark.parametrize("name", EXPECTED)
def test_recorded_rows_that_are_closed_are_no_markets_of_a_day(name: str) -> None:
    closed = sum(row["closed"] for row in rows_of(name))
    cohort = cohort_of(name, reopened=False)
    assert cohort.excluded.get("closed", 0) == closed
    assert cohort.offered == len(rows_of(name))
    assert len(cohort.markets) <= len(rows_of(name)) - closed


def test_the_day_in_february_has_its_33_markets() -> None:
    day = (datetime(2026, 2, 9, tzinfo=UTC), datetime(2026, 2, 10, tzinfo=UTC))
    markets = [m for m in cohort_of("gamma/open_markets_2026-02").markets if day[0] <= m.close_time < day[1]]
    assert len(markets) == 33
    assert sum(len(market.contracts) for market in markets) == 66


@pytest.mark.parametrize("name", ["gamma/open_markets_2025-05", "gamma/open_markets_2026-02"])
def test_the_midpoint_is_what_gamma_itself_shows(name: str) -> None:
    for market in cohort_of(name).markets:
        if market.price.bid is not None and market.price.ask is not None:
            assert market.price.value == pytest.approx(market.contracts[0].price, abs=1e-9)
        assert market.price.value is not None


def test_all_dates_are_read_that_are_dates() -> None:
    seen: Counter[str] = Counter()
    for name in EXPECTED:
        for row in rows_of(name):
            for key in ("endDate", "startDate", "createdAt", "updatedAt", "closedTime", "gameStartTime"):
                if key in row:
                    seen[key] += 1
                    assert parse_instant(row[key]) is not None, (name, key, row[key])
    assert all(seen[key] > 10 for key in ("endDate", "createdAt", "closedTime", "gameStartTime"))


def test_the_facts_of_the_newest_schema() -> None:
    (market,) = cohort_of("gamma/market_newest_schema_2026-10").markets
    assert market.event is not None
    assert (market.category, market.cluster, market.series_slug) == ("economics", "event:606422", "fomc")
    assert (market.price.bid, market.price.ask, market.price.value) == (0.74, 0.75, pytest.approx(0.745))
    assert market.price.quality == "good"
    assert market.neg_risk
    assert market.event.neg_risk
    assert market.close_time == datetime(2026, 10, 29, 3, 59, tzinfo=UTC)
    (game,) = cohort_of("gamma/market_closed_sports_2026-10").markets
    assert (game.category, game.cluster, game.outcomes) == ("sports", "game:90106163", ("Over", "Under"))


def best(levels: list[dict[str, str]]) -> str | None:
    """The CLOB's books list the best level last."""
    return levels[-1]["price"] if levels else None


def prices_of(books: list[dict[str, Any]]) -> bytes:
    """What `POST /prices` answers for these books: sides without orders are absent."""
    answer = {}
    for book in books:
        sides = {"BUY": best(book["bids"]), "SELL": best(book["asks"])}
        answer[book["asset_id"]] = {side: price for side, price in sides.items() if price}
    return json.dumps(answer).encode()


@pytest.mark.parametrize("name", ["books_negrisk_2026-05", "book_2026-07", "book_one_sided_2026-08"])
def test_quotes_are_the_best_levels_of_recorded_books(name: str) -> None:
    recorded = json.loads((SAMPLES / "clob" / f"{name}.json").read_text())
    books = recorded if isinstance(recorded, list) else [recorded]
    quotes = {quote.token_id: quote for quote in read_prices(prices_of(books), at=NOW).quotes}
    for book in books:
        quote = quotes[book["asset_id"]]
        bids, asks = ([float(level["price"]) for level in book[side]] for side in ("bids", "asks"))
        assert quote.bid == max(bids, default=None)
        assert quote.ask == min(asks, default=None)
        assert book["asset_id"] in {entry["token_id"] for entry in prices_request([book["asset_id"]])}
