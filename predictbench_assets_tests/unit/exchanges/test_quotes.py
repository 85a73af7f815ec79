"""What the CLOB says about prices."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictbench_assets.exchanges.polymarket.quotes import UnreadablePrices, prices_request, read_prices

NOW = datetime(2026, 11, 23, 7, tzinfo=UTC)


@pytest.mark.parametrize(
    ("sides", "bid", "ask"),
    [
        ({"BUY": "0.45", "SELL": "0.46"}, 0.45, 0.46),
        ({"BUY": 0.45, "SELL": 0.46}, 0.45, 0.46),
        # Named the other way round, by whom the side belongs to.
        ({"BUY": "0.46", "SELL": "0.45"}, 0.45, 0.46),
        ({"BUY": "0.45"}, 0.45, None),
        ({"SELL": "0.46"}, None, 0.46),
        ({"BUY": "0", "SELL": "0.46"}, None, 0.46),
        ({"BUY": "0.45", "SELL": "1"}, 0.45, None),
        ({"BUY": "NaN", "SELL": True}, None, None),
        ({}, None, None),
    ],
)
def test_sides_of_a_token(sides: dict[str, object], bid: float | None, ask: float | None) -> None:
    quotes = read_prices(json.dumps({"7": sides}).encode(), at=NOW).quotes
    assert [(quote.token_id, quote.bid, quote.ask, quote.at) for quote in quotes] == (
        [("7", bid, ask, NOW)] if bid or ask else []
    )


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"<html>", b'{"error": "no"}', b'{"7": '])
def test_an_answer_of_another_shape_is_refused(body: bytes) -> None:
    with pytest.raises(UnreadablePrices):
        read_prices(body, at=NOW)


@pytest.mark.parametrize(
    ("value", "unreadable"),
    [(b"null", 0), (b"{}", 0), (b'"0.5"', 1), (b"[]", 1), (b'{"BUY": "\\ud800"}', 1), (b"1e999", 1)],
)
def test_an_odd_token_costs_itself_alone(value: bytes, unreadable: int) -> None:
    read = read_prices(b'{"7": ' + value + b', "8": {"BUY": "0.4"}}', at=NOW)
    assert [quote.token_id for quote in read.quotes] == ["8"]
    assert read.unreadable == unreadable


def test_both_sides_are_asked_for() -> None:
    assert prices_request(["7"]) == [{"token_id": "7", "side": "BUY"}, {"token_id": "7", "side": "SELL"}]


price = st.floats() | st.text() | st.none() | st.floats(0, 1).map(str)


@given(st.dictionaries(st.text(), st.fixed_dictionaries({}, optional={"BUY": price, "SELL": price})))
def test_a_quote_is_never_crossed_or_out_of_range(answer: dict[str, dict[str, object]]) -> None:
    body = json.dumps(answer, allow_nan=True).replace("NaN", "null").replace("Infinity", "9").replace("-9", "9")
    for quote in read_prices(body.encode(), at=NOW).quotes:
        assert quote.bid is None or 0 < quote.bid < 1
        assert quote.ask is None or 0 < quote.ask < 1
        assert quote.bid is None or quote.ask is None or quote.bid <= quote.ask
