"""Rows are made as the database wants them, whatever the text in them."""

import json
import math
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import RFC_4122, UUID, uuid5

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import Raw

import predictbench_assets
from predictbench_assets.database.schema import id_in_run
from predictbench_assets.markets.market import MarketPrice
from predictbench_assets.persistence.rows import RegisteredAttempt, UnwritableMarket, encode_market, fast_id
from predictbench_assets_tests.kit.builders import record, result

RUN = UUID("59b8be11-4fdd-5aea-af10-3aa167c4392f")
ATTEMPTS = {"e": RegisteredAttempt(experiment_run_id=str(RUN), mandatory=False, fill=False)}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=()), max_size=8),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=10,
)


def storable(value: Any) -> bool:
    """Whether Postgres has a jsonb for it."""
    match value:
        case float():
            return math.isfinite(value)
        case str():
            return "\x00" not in value and not any("\ud800" <= character <= "\udfff" for character in value)
        case dict():
            return all(storable(key) and storable(item) for key, item in value.items())
        case list():
            return all(map(storable, value))
    return True


@given(st.uuids(), st.text())
def test_quick_ids_are_the_real_ones(namespace: UUID, name: str) -> None:
    assert fast_id(namespace.bytes, name, None) == str(uuid5(namespace, name))
    assert fast_id(namespace.bytes, name, namespace.hex[:8]) == str(id_in_run(namespace, name))


@given(st.uuids(version=5), st.text())
def test_ids_in_a_run_begin_as_it_does_and_say_that_they_are_custom(run_id: UUID, name: str) -> None:
    made = id_in_run(run_id, name)
    assert (made.version, made.variant) == (8, RFC_4122)
    assert (made.hex[:8], made.hex[8:12], made.hex[13:]) == (
        run_id.hex[:8],
        uuid5(run_id, name).hex[8:12],
        uuid5(run_id, name).hex[13:],
    )


@given(json_values)
@example(float("nan"))
@example([{"a": float("-inf")}])
@example({"a": "\x00"})
@example(["\ud800"])
@example({"NaN": "Infinity"})
@example("\\u0000")
def test_a_payload_is_kept_exactly_or_refused_with_its_field(value: Any) -> None:
    if not storable(value):
        with pytest.raises(UnwritableMarket, match=r"results\[e\]|payload"):
            encode_market(record(1, result("e", payload={"v": value})), RUN, ATTEMPTS)
    else:
        encoded = encode_market(record(1, result("e", payload={"v": value})), RUN, ATTEMPTS)
        assert json.loads(encoded.results)["payload"] == {"v": value}


@pytest.mark.parametrize(
    "beside", [{"v": 1}, {"v": "\U0001f600"}, Raw(b'{"v":"\\ud83d\\ude00"}'), Raw(b'{"v":1e999999}')]
)
@pytest.mark.parametrize("bad", ["a\0b", "\ud800"])
def test_of_several_results_the_bad_one_is_named(beside: Any, bad: str) -> None:
    names = ("a", "b", "c", "d")
    attempts = {name: RegisteredAttempt(experiment_run_id=name, mandatory=False, fill=False) for name in names}
    results = [result(name, payload={"v": bad} if name == "c" else beside) for name in names]
    with pytest.raises(UnwritableMarket, match=r"results\[c\]|^payload\.v contains"):
        encode_market(record(1, *results), RUN, attempts)
    whole = encode_market(record(1, *(one for one in results if one.experiment != "c")), RUN, attempts)
    assert [one["experiment_run_id"] for one in json.loads(b"[" + whole.results + b"]")] == ["a", "b", "d"]


@given(
    st.binary(max_size=40) | st.text(max_size=20).map(str.encode) | json_values.map(lambda v: json.dumps(v).encode())
)
def test_raw_bytes_pass_untouched_or_not_at_all(raw: bytes) -> None:
    try:
        encoded = encode_market(record(1, result("e"), raw=raw), RUN, ATTEMPTS)
    except UnwritableMarket:
        return
    assert raw in encoded.market
    assert isinstance(json.loads(raw), dict)


def test_what_is_absent_is_not_sent() -> None:
    encoded = encode_market(record(1, result("e"), price=MarketPrice(value=None)), RUN, ATTEMPTS)
    assert not {"price", "bid", "ask", "core_weight"} & set(json.loads(encoded.market))


def test_the_size_is_that_of_the_rows() -> None:
    encoded = encode_market(record(1, result("e")), RUN, ATTEMPTS)
    parts = [encoded.market, encoded.event or b"", encoded.contracts, encoded.results]
    assert encoded.size == sum(map(len, parts))


def test_a_long_reason_is_clipped_and_costs_no_market() -> None:
    failed = result("e", None, status="failed", reason="x" * 5_000)
    encoded = encode_market(record(1, failed), RUN, ATTEMPTS)
    assert json.loads(encoded.results)["reason"] == "x" * 1_999 + "…"


def test_a_result_of_an_unknown_experiment_is_a_fault_of_the_caller() -> None:
    with pytest.raises(KeyError):
        encode_market(record(1, result("unknown")), RUN, ATTEMPTS)


def test_a_field_of_a_market_is_written_down_in_six_places() -> None:
    """The payload, its reading, the domain, the schema with its revision, and the tables for others."""
    root = Path(predictbench_assets.__file__).parent.parent
    places = [*root.glob("predictbench_assets/**/*.py"), *root.glob("migrations/versions/*.py")]
    assert {path.name for path in places if "group_item_threshold" in path.read_text(encoding="utf-8")} == {
        *("payloads.py", "reading.py", "market.py", "schema.py", "0003_scoring.py", "tables.py")
    }


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"group_item_threshold": math.inf}, "group_item_threshold"),
        ({"volume": math.nan}, "volume"),
        ({"question": "?" * 2_001}, "question"),
        ({"close_time": datetime(2026, 2, 9)}, "close_time"),  # noqa: DTZ001
    ],
)
def test_a_value_that_the_schema_would_refuse_is_refused_by_its_column(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(UnwritableMarket) as refused:
        encode_market(record(1, result("e"), **changes), RUN, ATTEMPTS)
    assert refused.value.field == field
