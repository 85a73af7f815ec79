"""One row: what makes it a market, and at what price."""

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictbench_assets.exchanges.polymarket.reading import normalize_market
from predictbench_assets.markets.cohort import MarketRejected
from predictbench_assets.markets.market import Market, MarketPrice
from predictbench_assets.markets.quotes import Quote
from predictbench_assets_tests.kit.builders import wire_row

NOW = datetime(2026, 11, 23, 7, tzinfo=UTC)


def read(raw: bytes, quote: Quote | None = None) -> Market:
    return normalize_market(raw, captured_at=NOW, quote=quote)


def test_a_row_becomes_a_market() -> None:
    market = read(
        wire_row(
            description="Rain.",
            startDate="2026-11-01T00:00:00Z",
            createdAt="2026-10-31T23:00:00.5Z",
            negRisk=True,
            negRiskMarketID="0xgroup",
            groupItemThreshold="2",
            groupItemTitle="Rain",
            events=[{"id": "55", "slug": "weather", "title": "Weather", "negRisk": True, "seriesSlug": "rain"}],
        )
    )
    assert (market.market_id, market.condition_id, market.slug) == ("100", "0xabc", "will-it-rain")
    assert [(c.index, c.name, c.price, c.contract_id) for c in market.contracts] == [
        (0, "Yes", 0.6, "1000"),
        (1, "No", 0.4, "1001"),
    ]
    assert market.close_time == datetime(2026, 11, 30, 12, tzinfo=UTC)
    assert market.opened_at == datetime(2026, 11, 1, tzinfo=UTC)
    assert market.event is not None
    assert (market.event.event_id, market.event.neg_risk, market.series_slug) == ("55", True, "rain")
    assert (market.neg_risk, market.neg_risk_market_id, market.cluster) == (True, "0xgroup", "event:55")
    assert (market.group_item_threshold, market.volume, market.liquidity) == (2.0, 10.0, 5.5)
    assert market.captured_at == NOW


def test_a_mapping_is_read_like_its_bytes() -> None:
    assert normalize_market(json.loads(wire_row()), captured_at=NOW, quote=None) == read(wire_row())


def test_absent_optional_keys_are_none_and_an_empty_condition_id_too() -> None:
    market = read(wire_row(conditionId="", slug=None, volumeNum=None, liquidityNum=None, bestBid=None, bestAsk=None))
    assert (market.condition_id, market.slug, market.volume, market.liquidity) == (None, "100", None, None)


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"id": None}, "id", "missing"),
        ({"id": ""}, "id", "missing"),
        ({"id": "x" * 65}, "id", "not an id"),
        ({"id": 10**400}, "id", "unreadable"),
        ({"id": "a\nb"}, "id", "not an id"),
        ({"question": None}, "question", "missing"),
        ({"question": "  "}, "question", "missing"),
        ({"question": "x" * 2001}, "question", "2001 characters"),
        ({"question": 1.5}, "question", "unreadable"),
        ({"slug": "x" * 10_000}, "slug", "10000 characters"),
        ({"endDate": None}, "endDate", "missing"),
        ({"endDate": "soon"}, "endDate", "'soon'"),
        ({"endDate": "2026-11-30"}, "endDate", "not an instant"),
        ({"outcomes": None}, "outcomes", "missing"),
        ({"outcomes": "[]"}, "outcomes", "missing"),
        ({"outcomes": '["Yes"]'}, "outcomes", "fewer than two"),
        ({"outcomes": '["Yes", ""]'}, "outcomes", "empty"),
        ({"outcomes": '["Yes", "N\\u0000"]'}, "outcomes", "NUL"),
        ({"outcomes": 7}, "outcomes", "unreadable"),
        ({"outcomes": '["Yes"'}, "outcomes", "not a list"),
        ({"outcomePrices": None}, "outcomePrices", "missing"),
        ({"outcomePrices": '["1"]'}, "outcomePrices", "1 for 2"),
        ({"outcomePrices": '["0.3", "0.3", "0.4"]'}, "outcomePrices", "3 for 2"),
        ({"outcomePrices": '["NaN", "0.5"]'}, "outcomePrices", "not finite"),
        ({"outcomePrices": '["1e400", "0"]'}, "outcomePrices", "not finite"),
        ({"outcomePrices": '["", "1"]'}, "outcomePrices", "nothing is there"),
        ({"outcomePrices": "[true, false]"}, "outcomePrices", "not a number"),
        ({"outcomePrices": '["1.7", "-0.7"]'}, "outcomePrices", "outside"),
        ({"outcomePrices": '["1", "1"]'}, "outcomePrices", "sum to 2"),
        ({"outcomePrices": '["0.6", "0.37"]'}, "outcomePrices", "sum to 0.97"),
        ({"clobTokenIds": None}, "clobTokenIds", "missing"),
        ({"clobTokenIds": '["1"]'}, "clobTokenIds", "1 for 2"),
        ({"clobTokenIds": '["1", "1"]'}, "clobTokenIds", "twice"),
        ({"clobTokenIds": '["1", ""]'}, "clobTokenIds", "empty"),
        ({"clobTokenIds": None, "positionIds": ["1", "2"]}, "clobTokenIds", "missing"),
        ({"version": "v2"}, "positionIds", "missing"),
        ({"version": "v2", "positionIds": ["1"]}, "positionIds", "1 for 2"),
        ({"version": "v3", "positionIds": ["1", "2"]}, "version", "'v3'"),
    ],
)
def test_what_is_mandatory_is_checked_and_named(changes: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(MarketRejected) as caught:
        read(wire_row(**changes))
    assert caught.value.field == field
    assert words in caught.value.reason
    assert len(caught.value.reason) < 250
    assert caught.value.market_id == (None if field == "id" else "100")
    assert caught.value.as_row().reason.startswith(field)


@pytest.mark.parametrize("tokens", [None, '["1000", "1001"]', "nonsense"])
def test_the_outcomes_of_a_second_version_market_are_its_positions(tokens: str | None) -> None:
    market = read(wire_row(version="v2", positionIds=["71", "72"], clobTokenIds=tokens))
    assert [contract.contract_id for contract in market.contracts] == ["71", "72"]


def test_prices_need_to_sum_to_one_only_about() -> None:
    assert read(wire_row(outcomePrices='["0.6", "0.385"]')).contracts[1].price == 0.385
    three = wire_row(outcomes='["A","B","C"]', outcomePrices="[0.2,0.3,0.5]", clobTokenIds='["1","2","3"]')
    assert len(read(three).contracts) == 3


SECOND_BEFORE = NOW - timedelta(seconds=1)


def quote(bid: float | None, ask: float | None) -> Quote:
    return Quote(token_id="1000", bid=bid, ask=ask, at=SECOND_BEFORE)


@pytest.mark.parametrize(
    ("given_quote", "gamma", "expected"),
    [
        # The CLOB's quote first.
        (quote(0.50, 0.54), (0.1, 0.2), MarketPrice(value=0.52, bid=0.50, ask=0.54, source="clob", quality="good")),
        (quote(0.45, 0.55), (0.1, 0.2), MarketPrice(value=0.5, bid=0.45, ask=0.55, source="clob", quality="good")),
        (quote(0.40, 0.55), (0.5, 0.51), MarketPrice(value=0.475, bid=0.40, ask=0.55, source="clob", quality="thin")),
        (quote(0.40, None), (0.5, 0.51), MarketPrice(value=0.6, bid=0.40, source="clob", quality="thin")),
        (quote(None, None), (0.5, 0.5), MarketPrice(value=0.5, bid=0.5, ask=0.5, source="gamma", quality="good")),
        # Without one, Gamma's row.
        (None, (0.58, 0.62), MarketPrice(value=0.6, bid=0.58, ask=0.62, source="gamma", quality="good")),
        (None, (0.2, 0.9), MarketPrice(value=0.55, bid=0.2, ask=0.9, source="gamma", quality="thin")),
        (None, (None, 0.02), MarketPrice(value=0.6, ask=0.02, source="gamma", quality="thin")),
        (None, (0.999, 1), MarketPrice(value=0.6, bid=0.999, source="gamma", quality="thin")),
        # No order at all, sides that cross, and numbers that are no prices.
        (None, (None, 1), MarketPrice(value=0.6, source="gamma", quality="none")),
        (None, (0, 1), MarketPrice(value=0.6, source="gamma", quality="none")),
        (None, (0.7, 0.3), MarketPrice(value=0.6, source="gamma", quality="none")),
        (None, (-3, 40), MarketPrice(value=0.6, source="gamma", quality="none")),
    ],
)
def test_the_price_and_how_good_it_is(
    given_quote: Quote | None, gamma: tuple[float | None, float | None], expected: MarketPrice
) -> None:
    price = read(wire_row(bestBid=gamma[0], bestAsk=gamma[1]), given_quote).price
    assert price.value == pytest.approx(expected.value)
    at = SECOND_BEFORE if expected.source == "clob" else NOW
    assert price.model_copy(update={"value": None}) == expected.model_copy(update={"value": None, "at": at})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYS = [
    *("id", "question", "slug", "conditionId", "endDate", "outcomes", "outcomePrices", "clobTokenIds", "bestBid"),
    *("bestAsk", "volumeNum", "volume", "liquidity", "events", "tags", "category", "gameId", "negRisk", "feeType"),
    *("negRiskMarketID", "groupItemThreshold", "startDate", "sportsMarketType"),
]


@given(st.dictionaries(st.sampled_from(KEYS), json_values, max_size=4))
def test_a_spoilt_row_is_a_market_or_rejected_never_an_error(changes: dict[str, Any]) -> None:
    whole = json.loads(wire_row()) | changes
    for raw in (json.dumps(whole).encode(), json.dumps(whole, ensure_ascii=False).encode("utf-8", "surrogatepass")):
        market = None
        with suppress(MarketRejected):
            market = read(raw)
        if market is not None:
            assert market.model_dump_json()
            assert "\0" not in market.question + market.slug + "".join(market.outcomes)


@given(st.binary() | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_at_all_are_rejected_with_a_reason(raw: bytes) -> None:
    with pytest.raises(MarketRejected) as caught:
        read(raw)
    assert caught.value.reason
    assert caught.value.field
