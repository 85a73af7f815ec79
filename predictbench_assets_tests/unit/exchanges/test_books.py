"""Order books as the CLOB writes them; a book that cannot be right costs that one alone."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from predictbench_assets.exchanges.polymarket.books import LEVELS, UnreadableBooks, books_request, read_books
from predictbench_assets.exchanges.polymarket.price_history import (
    FIDELITY_MINUTES,
    LOOK_BACK,
    WEEK,
    UnreadableHistory,
    history_request,
    read_histories,
)
from predictbench_assets.sandbox import payloads
from predictbench_assets.sandbox.world import World

AT = datetime(2026, 11, 23, 7, tzinfo=UTC)
THE_WEEK = (AT - WEEK - LOOK_BACK, AT)


def side(*levels: tuple[Any, Any]) -> list[dict[str, Any]]:
    return [{"price": price, "size": size} for price, size in levels]


def book(token: str = "1", bids: Any = None, asks: Any = None, **more: Any) -> dict[str, Any]:
    return {
        "asset_id": token,
        "bids": side(("0.39", "50"), ("0.40", "100")) if bids is None else bids,
        "asks": side(("0.43", "10.5"), ("0.42", "7")) if asks is None else asks,
        "hash": "0x0",
        **more,
    }


def read(*books: Any) -> Any:
    return read_books(json.dumps(list(books)).encode(), at=AT)


def test_a_book_has_its_best_levels_first() -> None:
    found = read(book()).books["1"]
    assert found.bids == ((0.40, 100.0), (0.39, 50.0))
    assert found.asks == ((0.42, 7.0), (0.43, 10.5))
    assert found.at == AT


def test_the_best_levels_are_kept_in_whatever_order_they_come() -> None:
    many = [(f"0.{number:02d}", "1") for number in range(10, 40)]
    found = read(book(bids=side(*many)), book("2", bids=side(*reversed(many)))).books
    assert found["1"].bids == found["2"].bids
    assert len(found["1"].bids) == LEVELS
    assert found["1"].bids[0] == (0.39, 1.0)


def test_the_sandboxs_books_are_read() -> None:
    world = World(markets_per_day=40)
    at = int(AT.timestamp())
    markets = [market for market in world.listed(at) if not market.is_closed(at)][:40]
    body = json.dumps([payloads.book(market, 0, at) for market in markets]).encode()
    found = read_books(body, at=AT)
    assert not found.unreadable
    for market in markets:
        quote, got = market.quote(at), found.books[market.token_ids[0]]
        assert (got.bids[0][0] if got.bids else None) == quote.bid
        assert (got.asks[0][0] if got.asks else None) == quote.ask


def test_a_side_may_be_empty_or_null_and_what_is_taken_back_is_left_out() -> None:
    found = read(book(bids=[], asks=[]), {"asset_id": "2", "bids": side(("0.4", "0"), ("0.3", 2))}).books
    assert (found["1"].bids, found["1"].asks) == ((), ())
    assert found["2"].bids == ((0.3, 2.0),)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (book("2", bids=side(("0.5", "1")), asks=side(("0.5", "1"))), "not below"),
        (book("2", bids=side(("0.7", "1")), asks=side(("0.5", "1"))), "not below"),
        (book("2", bids="0.4"), "no list"),
        (book("2", bids={"price": "0.4"}), "no list"),
        (book("2", bids=["0.4"]), "a level without"),
        (book("2", bids=side(("62", "1"))), "a level without"),
        (book("2", bids=side(("0.4", "-1"))), "a level without"),
        (book("2", bids=side(("0.4", "NaN"))), "a level without"),
        (book("2", bids=side(("0.4", None))), "a level without"),
        (book("2", bids=side((True, "1"))), "a level without"),
        (book("2", bids=side(("0.4", "1" * 400))), "a level without"),
    ],
)
def test_one_bad_book_costs_that_one(bad: dict[str, Any], reason: str) -> None:
    found = read(book("1"), bad, book("3"))
    assert found.books.keys() == {"1", "3"}
    assert found.unreadable.keys() == {"2"}
    assert reason in found.unreadable["2"]


def test_a_book_that_no_strict_parser_takes_costs_that_one() -> None:
    text = json.dumps([book("1"), "@", book("3")]).replace('"@"', '{"asset_id": "2", "bids": [{"price": "\\ud800"}]}')
    found = read_books(text.encode(), at=AT)
    assert found.books.keys() == {"1", "3"}
    assert found.unreadable.keys() == {"2"}


@pytest.mark.parametrize("strange", [1, None, "book", [], {}, {"asset_id": None}, {"asset_id": 1.5}])
def test_what_names_no_token_is_passed_over(strange: Any) -> None:
    found = read(strange, book())
    assert found.books.keys() == {"1"}
    assert not found.unreadable


@pytest.mark.parametrize("body", [b"", b"{}", b'{"error":"x"}', b"null", b'[{"asset_id":"1"', b"<html>"])
def test_what_is_no_list_is_refused(body: bytes) -> None:
    with pytest.raises(UnreadableBooks):
        read_books(body, at=AT)


KEYS = st.sampled_from(["asset_id", "bids", "price", "size"])
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda one: st.lists(one) | st.dictionaries(KEYS, one),
)


@given(ANYTHING)
def test_any_list_is_read_or_passed_over(value: Any) -> None:
    found = read(value, book())
    assert "1" in found.books
    for one in found.books.values():
        assert not (one.bids and one.asks) or one.bids[0][0] < one.asks[0][0]


def test_books_are_asked_for_by_token() -> None:
    assert books_request(["1", "2"]) == [{"token_id": "1"}, {"token_id": "2"}]


def points(*pairs: tuple[float, Any]) -> list[dict[str, Any]]:
    """Points by the hours before the capture."""
    return [{"t": int(AT.timestamp() - hours * 3600), "p": price} for hours, price in pairs]


def weeks(**histories: Any) -> dict[str, tuple[tuple[float, float], ...]]:
    return read_histories(json.dumps({"history": histories}).encode(), *THE_WEEK)


def test_a_week_comes_oldest_first_and_has_nothing_of_after_the_capture() -> None:
    found = weeks(t=points((-1, 0.9), (-0.01, 0.8), (0, 0.7), (24, "0.6"), (168, 0.5), (173, 0.4), (175, 0.3)))
    assert [price for _, price in found["t"]] == [0.4, 0.5, 0.6, 0.7]
    instants = [at for at, _ in found["t"]]
    assert instants == sorted(instants)
    assert max(instants) <= AT.timestamp()


def test_what_is_no_history_is_left_out_by_itself() -> None:
    found = weeks(good=points((1, 0.4)), empty=[], idle=points((1, 0.5), (2, 0.5)), odd=[1, {"t": "x"}], no=None, bad=7)
    assert {token for token, prices in found.items() if prices} == {"good"}
    assert found.keys() == {"good", "empty", "idle", "odd", "no"}, "an answer without prices is an answer"


SECONDS = st.integers(-3, 180).map(lambda hours: AT.timestamp() - 3600 * hours)
NUMBERS = st.floats(-0.5, 1.5) | st.sampled_from([0, 1, 0.5, "0.5", "0.7", "much", None, True, 10**400, [0.5], {}])
USUAL = st.fixed_dictionaries({"t": SECONDS, "p": st.floats(0, 1)}, optional={"resolution_seconds": st.integers(0, 2)})
TIMES, PRICES = SECONDS | SECONDS.map(str) | NUMBERS, st.just(0.4) | NUMBERS
ODD = NUMBERS | st.fixed_dictionaries(
    {}, optional={"t": TIMES, "p": PRICES, "resolution_seconds": NUMBERS, "x": ANYTHING}
)
POINTS = st.tuples(st.lists(USUAL, max_size=5), st.lists(ODD, max_size=1)).map(lambda both: [*both[0], *both[1]])


@given(POINTS, POINTS | NUMBERS)
@example([{"t": AT.timestamp() - 3600}], [{"p": 0.4}])
def test_how_a_history_is_read_does_not_depend_on_those_beside_it(one: Any, other: Any) -> None:
    """An answer in which all is as it should be is read at once, any other value by value."""
    alone, together = weeks(one=one), weeks(one=one, other=other, unreadable=7)
    assert alone.get("one") == together.get("one")
    assert weeks(other=other).get("other") == together.get("other")
    for points_of in together.values():
        assert all(
            0.0 < price < 1.0 and THE_WEEK[0].timestamp() <= at <= THE_WEEK[1].timestamp() for at, price in points_of
        )


@pytest.mark.parametrize("strange", [b"1e999", b"[-1e999]", b'"\xff"', b'{"y": 1e400}'])
def test_a_point_with_something_that_cannot_be_read_costs_its_own_history(strange: bytes) -> None:
    point = b'{"t": %d, "p": 0.4' % (AT.timestamp() - 3600)
    body = b'{"history": {"odd": [' + point + b', "x": ' + strange + b'}], "good": [' + point + b"}]}}"
    assert read_histories(body, *THE_WEEK).keys() == {"good"}


def test_a_new_book_has_no_price_before_its_first_order() -> None:
    found = weeks(t=points((9, 0.5), (8, 0.5), (7, 0.3), (6, 0.5)))
    assert [price for _, price in found["t"]] == [0.3, 0.5]


def test_the_payout_of_a_settled_market_is_no_price_whatever_time_it_bears() -> None:
    payout = {"t": AT.timestamp(), "p": 0.25, "resolution_seconds": 0}
    found = weeks(t=[*points((3, 0.4), (2, 1), (1, 0), (0.5, "1.0")), payout])
    assert [price for _, price in found["t"]] == [0.4]


def test_no_map_of_histories_is_refused() -> None:
    with pytest.raises(UnreadableHistory):
        read_histories(b"[]", *THE_WEEK)


def test_a_week_is_asked_for_in_one_span_that_the_exchange_allows() -> None:
    asked = history_request(["1"], *THE_WEEK)
    assert asked["end_ts"] == AT.timestamp()
    assert asked["end_ts"] - asked["start_ts"] == (WEEK + LOOK_BACK).total_seconds() < 15 * 86_400
    assert asked["fidelity"] == FIDELITY_MINUTES >= 5
