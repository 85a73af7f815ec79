"""What the CLOB says about the price of a day before."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictbench_assets.exchanges.polymarket.price_history import (
    LOOK_BACK,
    PAST,
    UnreadableHistory,
    history_request,
    past_span,
    read_past_prices,
)
from predictbench_assets_tests.kit.places import SAMPLES

NOW = datetime(2026, 11, 23, 7, 0, 30, tzinfo=UTC)
DAY_AGO = NOW - PAST


def point(before: timedelta, price: object) -> dict[str, object]:
    """A point that much before a day ago."""
    return {"t": int((DAY_AGO - before).timestamp()), "p": price}


def read(*points: object) -> tuple[timedelta, float] | None:
    found = read_past_prices(json.dumps({"history": {"7": points}}).encode(), NOW).get("7")
    return None if found is None else (DAY_AGO - found.at, found.price)


def test_the_newest_price_that_is_a_day_old_is_taken_whatever_the_order() -> None:
    minute, hour = timedelta(minutes=1), timedelta(hours=1)
    assert read(point(3 * hour, 0.1), point(minute, 0.4), point(hour, 0.2)) == (minute, 0.4)
    assert read(point(minute, 0.4), point(-minute, 0.9)) == (minute, 0.4), "a point after it would be too new"
    assert read(point(timedelta(0), 0.4)) == (timedelta(0), 0.4)


@pytest.mark.parametrize(
    "points",
    [
        [],
        [point(LOOK_BACK + timedelta(seconds=1), 0.4)],
        [point(timedelta(seconds=-1), 0.4)],
        [point(timedelta(0), 0.5)],
        [point(timedelta(hours=2), 0.5), point(timedelta(hours=1), 0.5)],
        [point(timedelta(0), 1.01)],
        [point(timedelta(0), -0.01)],
        [point(timedelta(0), None), point(timedelta(0), True), point(timedelta(0), "dear"), {"p": 0.5}, {"t": 1}, 7],
    ],
    ids=["none", "too old", "too new", "a new book", "an empty book", "above one", "below nought", "no points"],
)
def test_a_token_without_a_usable_point_is_absent(points: list[object]) -> None:
    assert read(*points) is None


def test_half_is_a_price_where_there_was_another_one() -> None:
    minute, hour = timedelta(minutes=1), timedelta(hours=1)
    assert read(point(hour, 0.4), point(minute, 0.5)) == (minute, 0.5)
    assert read(point(hour, 0.5), point(minute, 0.4)) == (minute, 0.4)
    assert read(point(minute, 0.5), point(-minute, 0.9)) is None, "what came later says nothing of it"


@pytest.mark.parametrize("odd", [b"null", b"{}", b"7", b'[{"t": "\\ud800"}]'])
def test_an_odd_history_costs_its_token_alone(odd: bytes) -> None:
    fine = json.dumps([point(timedelta(0), 0.4)]).encode()
    found = read_past_prices(b'{"history": {"7": ' + odd + b', "8": ' + fine + b"}}", NOW)
    assert found.keys() == {"8"}


def test_no_histories_may_be_null() -> None:
    assert read_past_prices(b'{"history": null}', NOW) == {}


def test_numbers_may_come_as_text() -> None:
    body = {"history": {"7": [{"t": str(int(DAY_AGO.timestamp())), "p": "0.25"}]}}
    assert read_past_prices(json.dumps(body).encode(), NOW)["7"].price == 0.25


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b"<html>", b'{"history": []}', b'{"history": {"7": ', b'{"error": "no"}']
)
def test_an_answer_of_another_shape_is_refused(body: bytes) -> None:
    with pytest.raises(UnreadableHistory):
        read_past_prices(body, NOW)


def test_what_is_asked_for_ends_a_day_before() -> None:
    asked = history_request(["7", "8"], *past_span(NOW))
    assert asked["markets"] == ["7", "8"]
    assert asked["end_ts"] == NOW.timestamp() - 86_400
    assert asked["end_ts"] - asked["start_ts"] == LOOK_BACK.total_seconds()


anything = st.none() | st.booleans() | st.floats() | st.text() | st.integers()
points = st.lists(st.fixed_dictionaries({}, optional={"t": anything | st.integers(0, 2 * 10**9), "p": anything}))


@given(st.dictionaries(st.text(), points))
def test_nothing_newer_than_a_day_or_out_of_range_is_ever_taken(histories: dict[str, object]) -> None:
    body = json.dumps({"history": histories}).replace("NaN", "null").replace("-Infinity", "null")
    for found in read_past_prices(body.replace("Infinity", "9").encode(), NOW).values():
        assert DAY_AGO - LOOK_BACK <= found.at <= DAY_AGO
        assert 0.0 <= found.price <= 1.0


@pytest.mark.recorded
@pytest.mark.skipif(not SAMPLES.is_dir(), reason="no recorded payloads here: set PREDICTBENCH_SAMPLES")
def test_a_recorded_history_is_read() -> None:
    recorded = json.loads((SAMPLES / "clob/prices_history_2026-03.json").read_text())["history"]
    body = json.dumps({"history": {"7": recorded}}).encode()
    for then in recorded:
        captured_at = datetime.fromtimestamp(then["t"], UTC) + PAST
        assert read_past_prices(body, captured_at)["7"].price == then["p"]
        assert read_past_prices(body, captured_at + timedelta(seconds=1))["7"].price == then["p"]
    assert read_past_prices(body, datetime.fromtimestamp(recorded[0]["t"] - 1, UTC) + PAST) == {}
