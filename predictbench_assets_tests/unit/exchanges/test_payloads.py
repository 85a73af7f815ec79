"""The wire, read tolerantly."""

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictbench_assets.exchanges.json_text import UnreadableJson, json_members
from predictbench_assets.exchanges.polymarket.payloads import (
    UnreadableField,
    parse_instant,
    read_head,
    read_market,
)
from predictbench_assets_tests.kit.builders import wire_row

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-10-29T03:59:00Z", datetime(2026, 10, 29, 3, 59, tzinfo=UTC)),
        ("2026-06-04 00:34:19+00", datetime(2026, 6, 4, 0, 34, 19, tzinfo=UTC)),
        ("2026-06-04 00:34:19.5+00", datetime(2026, 6, 4, 0, 34, 19, 500_000, tzinfo=UTC)),
        ("2026-06-04T00:34:19+00:00:00", datetime(2026, 6, 4, 0, 34, 19, tzinfo=UTC)),
        ("2026-06-17T23:05:57.720052Z", datetime(2026, 6, 17, 23, 5, 57, 720_052, tzinfo=UTC)),
        ("2026-01-24T18:00:00-05:00", datetime(2026, 1, 24, 23, tzinfo=UTC)),
    ],
)
def test_every_real_date_format_is_read(text: str, instant: datetime) -> None:
    assert parse_instant(text) == instant


@pytest.mark.parametrize("text", ["2026-06-04", "2026-06-04T00:00:00", "NOW()", "January 12, 2022", "", None, 12])
def test_what_names_no_instant_is_none(text: object) -> None:
    assert parse_instant(text) is None


@given(st.datetimes(timezones=st.just(UTC)).filter(lambda at: 2 < at.year < 9998), st.integers(-14, 14))
def test_any_instant_survives_the_wire(at: datetime, hours: int) -> None:
    assert parse_instant(at.astimezone(timezone(timedelta(hours=hours))).isoformat()) == at


@given(st.text())
def test_no_text_makes_the_date_reader_fall_over(text: str) -> None:
    parse_instant(text)


@given(st.dictionaries(st.text(), json_values) | st.lists(json_values))
def test_members_are_those_of_the_json(value: Any) -> None:
    for text in (json.dumps(value), json.dumps(value, indent=1), json.dumps(value, ensure_ascii=False)):
        members = list(json_members(text.encode("utf-8", "surrogatepass")))
        if isinstance(value, dict):
            assert {key: json.loads(slice_) for key, slice_ in members} == value
        else:
            assert [json.loads(slice_) for _, slice_ in members] == value


@given(json_values.filter(lambda value: isinstance(value, (dict, list)) and value), st.data())
def test_a_cut_text_is_noticed(value: Any, data: st.DataObject) -> None:
    whole = json.dumps(value).encode()
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(UnreadableJson):
        list(json_members(whole[:cut]))


@given(st.binary())
def test_no_bytes_make_the_splitter_fall_over(text: bytes) -> None:
    with suppress(UnreadableJson):
        list(json_members(text))
    read_head(text)


def test_members_that_no_parser_takes_are_handed_out() -> None:
    deep = b"[" * 5_000 + b"]" * 5_000
    found = dict(json_members(b'{"a": "\\ud800", "b": ' + deep + b', "c": 1e999, "d": NaN}'))
    assert found == {"a": b'"\\ud800"', "b": deep, "c": b"1e999", "d": b"NaN"}


def test_the_head_of_a_hostile_row_is_still_read() -> None:
    head = read_head(b'{"id": "7", "x": "\\ud800", "endDate": "2026-11-30T00:00:00Z"}')
    assert (head.market_id, head.end_date) == ("7", "2026-11-30T00:00:00Z")
    assert read_head(b'{"id": 7}').market_id == "7"
    for nothing in (b"null", b"[]", b"7", b'{"id": {}, "endDate": []}', b'{"id": "\\ud800"}'):
        assert (read_head(nothing).market_id, read_head(nothing).end_date) == (None, None)


def test_numbers_in_strings_lists_in_strings_and_real_ones_are_the_same() -> None:
    sent = read_market(wire_row(volumeNum="10", bestBid="0.58", id=100))
    real = read_market(wire_row(outcomes=["Yes", "No"], outcomePrices=[0.6, 0.4], clobTokenIds=["1000", "1001"]))
    assert sent == real == read_market(wire_row())


def test_optional_keys_that_cannot_be_read_are_absent_and_named() -> None:
    odd = wire_row(
        liquidityNum={"much": 1},
        startDate="NOW()",
        events=[{"id": "5", "gameId": [], "tags": [{"slug": 1.5}, {"slug": "nba"}]}, 7],
    )
    market, unreadable = read_market(odd)
    assert unreadable == ("events", "events.gameId", "events.tags.slug", "liquidityNum", "startDate")
    assert market.liquidity is None
    assert market.events is not None
    assert market.events[0].id == "5"
    assert [tag.slug for tag in market.events[0].tags or []] == [None, "nba"]


def test_the_other_name_of_a_number_is_used_where_one_is_unreadable() -> None:
    market, unreadable = read_market(wire_row(volumeNum="NaN", volume="12.5"))
    assert (market.volume, unreadable) == (12.5, ("volumeNum",))
    market, unreadable = read_market(wire_row(volumeNum="NaN", volume=[]))
    assert (market.volume, unreadable) == (None, ("volume", "volumeNum"))


@pytest.mark.parametrize(
    ("spoilt", "field", "words"),
    [
        (b'{"id":"1","question":"half \\ud83d"}', "question", "unreadable"),
        (b'{"id":"1","extra":"a\\u0000b"}', "extra", "NUL"),
        (b'{"id":"1","deep":' + b"[" * 3_000 + b"]" * 3_000 + b"}", "deep", "recursion"),
        (b'{"id":"1","text":"\xff"}', "text", "unreadable"),
        (b'["id"]', "payload", "not a JSON object"),
        (b"null", "payload", "not a JSON object"),
        (b'{"id":', "payload", "unreadable"),
    ],
)
def test_a_row_that_cannot_be_stored_names_the_key_at_fault(spoilt: bytes, field: str, words: str) -> None:
    with pytest.raises(UnreadableField) as caught:
        read_market(spoilt)
    assert caught.value.field == field
    assert words in caught.value.reason


def test_an_escaped_backslash_before_u0000_is_harmless_text() -> None:
    assert read_market(wire_row(description="the escape \\u0000"))[0].description == "the escape \\u0000"


def test_the_first_token_is_found_in_either_form() -> None:
    assert read_head(wire_row()).first_token_id == "1000"
    assert read_head(wire_row(clobTokenIds=["12", "13"])).first_token_id == "12"
    assert read_head(wire_row(closed=False)).first_token_id == "1000"
    assert read_head(wire_row(closed=True)).first_token_id is None, "it has no order book"
    for unusable in (None, "[]", "nonsense", '["x"]', 7, "[5.5]", '["5", null]'):
        assert read_head(wire_row(clobTokenIds=unusable)).first_token_id is None


@pytest.mark.parametrize(
    ("version", "ids"),
    [
        (None, ["1000", "1001"]),
        ("v1", ["1000", "1001"]),
        ("", ["1000", "1001"]),
        ("v2", ["7", "8"]),
        ("V2", ["7", "8"]),
        (2, ["7", "8"]),
        ("v3", None),
        ("later", None),
    ],
)
def test_the_ids_of_outcomes_go_by_the_version_alone(version: Any, ids: list[str] | None) -> None:
    """Rows of either version carry both lists."""
    text = wire_row(version=version, positionIds=["7", "8"])
    assert read_head(text).first_token_id == (ids[0] if ids else None)
    assert read_market(text)[0].outcome_ids == ids
    # The other list may hold anything.
    odd = wire_row(version=version, positionIds=[None, {}]) if ids and ids[0] == "1000" else None
    odd = wire_row(version=version, clobTokenIds="[", positionIds=["7", "8"]) if ids and ids[0] == "7" else odd
    if odd is not None:
        market, skipped = read_market(odd)
        assert (market.outcome_ids, read_head(odd).first_token_id) == (ids, ids[0] if ids else None)
        assert len(skipped) == 1


@pytest.mark.parametrize(("version", "key"), [("v1", "clobTokenIds"), ("v2", "positionIds")])
def test_ids_of_its_version_that_cannot_be_read_are_named(version: str, key: str) -> None:
    with pytest.raises(UnreadableField) as caught:
        read_market(wire_row(version=version, clobTokenIds="[", positionIds="["))
    assert caught.value.field == key
