import math
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from itertools import count
from typing import Any
from uuid import UUID

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from predictbench_assets.database.schema import LONGEST
from predictbench_assets.experiments.outcomes import (
    MAX_ARTIFACT_URI,
    MAX_JSON_BYTES,
    Outcome,
    ResultRefused,
    completed,
    content_hash,
    total_usage,
)
from predictbench_assets.experiments.protocol import ExperimentResult, Usage
from predictbench_assets.experiments.runner import MAX_TYPE_NAME
from predictbench_assets.experiments.testing import CAPTURED_AT, make_market

MARKET = make_market()
FLOATS = st.floats(allow_nan=True, allow_infinity=True)


def outcome_of(result: ExperimentResult) -> Outcome:
    return completed(MARKET, result, forecast_at=CAPTURED_AT, seconds=0.25)


def test_an_experiment_without_forecasts_hands_on_what_it_has_and_no_probability() -> None:
    found = ExperimentResult(payload={"sources": ["a page"]}, artifact_uri="s3://sources.json")
    kept = completed(MARKET, found, forecast_at=CAPTURED_AT, seconds=0.25, forecasts=False)
    assert (kept.status, kept.probability, kept.probabilities, kept.forecast_at) == ("completed", None, None, None)
    handed_on = Outcome.decode(kept.encode()).result
    assert handed_on == found
    with pytest.raises(ValueError, match="gives no forecasts"):
        _ = found.probability


def test_only_an_experiment_without_forecasts_may_give_none_and_it_must() -> None:
    with pytest.raises(ResultRefused, match=r"0 probabilities for 2 outcomes \(Yes, No\)"):
        outcome_of(ExperimentResult(payload={"sources": []}))
    with pytest.raises(ResultRefused, match="`forecasts` is False"):
        completed(MARKET, ExperimentResult.binary(0.5), forecast_at=CAPTURED_AT, seconds=0.25, forecasts=False)


def with_payload(payload: dict[str, Any]) -> ExperimentResult:
    return ExperimentResult.binary(0.5, payload=payload)


@given(st.lists(FLOATS, max_size=6))
def test_a_result_is_accepted_exactly_when_it_is_a_distribution(probabilities: list[float]) -> None:
    proper = (
        len(probabilities) >= 2
        and all(math.isfinite(p) and 0 <= p <= 1 for p in probabilities)
        and abs(sum(probabilities) - 1) <= 1e-6
    )
    try:
        ExperimentResult(probabilities=tuple(probabilities))
    except ValidationError:
        assert not proper
    else:
        assert proper


@given(st.lists(st.floats(0.001, 1), min_size=2, max_size=40))
def test_weights_divided_by_their_sum_are_always_a_result(weights: list[float]) -> None:
    total = math.fsum(weights)
    result = ExperimentResult(probabilities=tuple(weight / total for weight in weights))
    assert result.probability == weights[0] / total


@given(st.floats(0, 1))
def test_every_probability_makes_a_binary_result(probability: float) -> None:
    assert ExperimentResult.binary(probability).probabilities == (probability, 1 - probability)


USAGE = Usage(
    requests=2,
    input_tokens=1_000,
    output_tokens=200,
    cached_tokens=400,
    cost=Decimal("0.00056"),
    currency="EUR",
    seconds=1.5,
    model="m-2026-10-01",
)

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    # Neither NUL nor surrogates, which are refused
    | st.text(st.characters(min_codepoint=1, exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(min_codepoint=1, exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text("abc", max_size=3), JSON, max_size=4))
def test_an_outcome_survives_encoding_and_decoding(payload: dict[str, Any]) -> None:
    outcome = outcome_of(ExperimentResult.binary(0.3, payload=payload, usage=USAGE, diagnostics={"tokens": 12}))
    line = outcome.encode()
    assert b"\n" not in line
    assert Outcome.decode(line) == outcome
    assert outcome.result == ExperimentResult.binary(0.3, payload=payload, usage=USAGE, diagnostics={"tokens": 12})


@given(st.dictionaries(st.text("abc", max_size=3), JSON, max_size=4))
def test_a_payload_that_is_plain_already_is_stored_as_any_other_of_the_same_content(payload: dict[str, Any]) -> None:
    plain = outcome_of(with_payload({"value": payload}))
    assert plain.payload_json == outcome_of(with_payload({"value": OrderedDict(payload)})).payload_json


def test_a_payload_is_stored_in_jsons_own_types() -> None:
    class Evidence(BaseModel):
        source: str

    outcome = outcome_of(
        with_payload(
            {
                "at": datetime(2026, 3, 2, tzinfo=UTC),
                "id": UUID(int=7),
                "cost": Decimal("0.10"),
                "pair": (1, 2),
                "evidence": [Evidence(source="news")],
            }
        )
    )
    assert outcome.payload == {
        "at": "2026-03-02T00:00:00Z",
        "id": "00000000-0000-0000-0000-000000000007",
        "cost": "0.10",
        "pair": [1, 2],
        "evidence": [{"source": "news"}],
    }


class Side(Enum):
    YES = "yes"


class Seen(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)

    weights: Any


@dataclass(frozen=True)
class Note:
    source: str
    weight: np.float32


class Mark(msgspec.Struct):
    at: time


def missing(name: str) -> object:
    """A value of the type that pandas has for one that is missing; pandas itself is no dependency."""
    return type(name, (), {"__module__": "pandas._libs.missing"})()


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (np.float64(0.25), 0.25),
        (np.float32(0.5), 0.5),
        (np.float16(0.5), 0.5),
        (np.longdouble(0.5), 0.5),
        (np.int64(7), 7),
        (np.uint8(7), 7),
        (np.bool_(True), True),
        (np.str_("text"), "text"),
        (np.datetime64("2026-03-02T07:00"), "2026-03-02T07:00"),
        (np.datetime64("NaT"), None),
        (np.array(0.5), 0.5),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (np.array(["a", None], dtype=object), ["a", None]),
        (np.array(["2026-03-02"], dtype="datetime64[D]"), ["2026-03-02"]),
        (missing("NAType"), None),
        (missing("NaTType"), None),
        (Decimal("0.10"), "0.10"),
        (date(2026, 3, 2), "2026-03-02"),
        (datetime(2026, 3, 2, 7), "2026-03-02T07:00:00"),  # noqa: DTZ001 - what people have
        (timedelta(seconds=90), "PT90S"),
        (Side.YES, "yes"),
        ({"b", "a"}, ["a", "b"]),
        (frozenset({(2, "b"), (1, "a")}), [[1, "a"], [2, "b"]]),
        (Note("news", np.float32(0.5)), {"source": "news", "weight": 0.5}),
        (Seen(weights=[0.5]), {"weights": [0.5]}),
        (Seen(weights=np.array([0.5])), {"weights": [0.5]}),
        (Mark(at=time(7, 30)), {"at": "07:30:00"}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_has_an_obvious_form_in_json_is_stored_in_it(value: object, stored: object) -> None:
    outcome = outcome_of(with_payload({"value": value, "inside": [value]}))
    assert outcome.payload == {"value": stored, "inside": [stored]}
    assert Outcome.decode(outcome.encode()) == outcome


@pytest.mark.parametrize(
    "number",
    [
        *(np.float64(0.25), np.float32(0.25), np.float16(0.25), np.array(0.25), np.array([0.25]), np.array([[0.25]])),
        *(Decimal("0.25"), Fraction(1, 4), "0.25", 0.25),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_probability_may_be_a_number_of_any_library(number: Any) -> None:
    forecast = ExperimentResult.binary(number)
    assert forecast.probabilities == (0.25, 0.75)
    assert {type(one) for one in forecast.probabilities} == {float}
    assert ExperimentResult(probabilities=(number, 0.75)) == ExperimentResult.binary(0.25)
    assert outcome_of(forecast).probability == 0.25


def test_an_array_of_probabilities_is_one_per_outcome() -> None:
    assert ExperimentResult(probabilities=np.array([0.25, 0.75])).probabilities == (0.25, 0.75)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (None, r"None \(NoneType\) is not a number"),
        ("30 %", r"'30 %' \(str\) is not a number"),
        (b"0.3", r"b'0\.3' \(bytes\) is not a number"),
        (np.array([0.3, 0.7]), r"array\(\[0\.3, 0\.7\]\) \(ndarray\) is not a number"),
        (list(range(100)), r"\[0, 1, 2.*… \(list\) is not a number"),
        (np.nan, "must be finite"),
        (np.float32(1.5), "in \\[0, 1\\]"),
    ],
)
def test_what_is_no_probability_is_named(number: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ExperimentResult.binary(number)


def nested(levels: int) -> Any:
    return {"deeper": nested(levels - 1)} if levels else 1


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        ({"a": {"b": [1.0, math.nan]}}, r"payload\.a\.b\[1\] is nan"),
        ({"a": math.inf}, r"payload\.a is inf"),
        ({"a": object()}, r"payload\.a is a object, which JSON cannot hold: store numbers"),
        ({"a": b"x"}, r"payload\.a is bytes: decode it to text, or store it by context\.artifact"),
        ({"a": np.array([0.5, np.nan])}, r"payload\.a\[1\] is nan"),
        ({"a": np.complex64(1)}, r"payload\.a is numpy's complex64, which JSON cannot hold"),
        ({"a": Decimal("NaN")}, r"payload\.a is NaN"),
        ({"a": {math.inf}}, r"payload\.a\{\} is inf"),
        ({"a": {1: "one"}}, r"payload\.a has the key 1, keys must be text"),
        ({"a": "x\0y"}, r"payload\.a contains a NUL"),
        ({"a\0": 1}, r"a key of payload contains a NUL"),
        ({"a": "x\ud800"}, r"payload\.a contains half a surrogate pair"),
        ({"a": 2**63}, r"payload\.a is an integer beyond 64 bits"),
        ({"a": nested(100)}, r"payload is nested deeper than 64 levels"),
        ({"a": "x" * MAX_JSON_BYTES}, r"payload needs more than 1,000,000 bytes as JSON"),
    ],
)
def test_a_payload_that_could_not_be_stored_is_refused_with_the_place(payload: dict[str, Any], reason: str) -> None:
    with pytest.raises(ResultRefused, match=reason):
        outcome_of(with_payload(payload))


def test_diagnostics_and_artifact_address_are_held_to_the_same() -> None:
    with pytest.raises(ResultRefused, match=r"diagnostics\.x is nan"):
        outcome_of(ExperimentResult.binary(0.5, diagnostics={"x": math.nan}))
    with pytest.raises(ResultRefused, match="artifact_uri contains a NUL"):
        outcome_of(ExperimentResult.binary(0.5, artifact_uri="s3://bucket/\0"))


def test_the_number_of_probabilities_must_be_the_markets() -> None:
    with pytest.raises(ResultRefused, match=r"3 probabilities for 2 outcomes \(Yes, No\)"):
        outcome_of(ExperimentResult(probabilities=(0.2, 0.3, 0.5)))


def test_a_line_of_an_earlier_version_is_read() -> None:
    line = (
        b'{"market_id":"1","status":"completed","reason":null,"probability":0.4,"probabilities":[0.4,0.6],"payload":{},'
        b'"score":1.5,"artifact_uri":null,"diagnostics":{},"forecast_at":"2026-03-02T07:00:00Z","seconds":1.0,'
        b'"exception_type":null,"retriable":false,"place":null,"source":"abc"}'
    )
    assert Outcome.decode(line) == msgspec.structs.replace(an_outcome(), source="abc", score=1.5)


def test_the_content_hash_of_an_attempt_that_is_stored_stays() -> None:
    assert content_hash([an_outcome()]) == "ff4ad295c06eff41dc0f6f0b174b4f57ae30a7daabb7f1bde09705c98e8de69c"


def test_the_content_hash_of_an_attempt_that_is_stored_with_scores_stays() -> None:
    # A line of a journal from before usage was kept, and the hash that its attempt was stored with.
    line = (
        b'{"market_id":"1","status":"completed","reason":null,"probability":0.25,"probabilities":[0.25,0.75],'
        b'"payload":{"who":"me"},"score":0.5,"artifact_uri":null,"diagnostics":{},'
        b'"forecast_at":"2026-11-29T00:43:48.536194Z","seconds":0.02,"exception_type":null,"retriable":false,'
        b'"place":null,"source":"693fb5201824"}'
    )
    again = Outcome.decode(Outcome.decode(line).encode())
    assert content_hash([again]) == "d54ba7865a6115f4ce03aacd8516ad6e05b2f29bf11875295d372e380cea1dfb"


@pytest.mark.parametrize(
    ("usage", "reason"),
    [
        ({"requests": -1}, "requests is -1, not a whole number"),
        ({"input_tokens": 1.5}, "input_tokens is 1.5, not a whole number"),
        ({"cached_tokens": 2**63}, "not a whole number"),
        ({"cost": -0.1}, "cost is -0.1, not a number from 0 on"),
        ({"cost": Decimal("NaN")}, "not a number from 0 on"),
        ({"cost": "free"}, "cost is 'free'"),
        ({"seconds": math.inf}, "seconds is inf"),
        ({"currency": "$"}, "currency is '\\$', not three capital letters"),
        ({"model": ""}, "not 1 to 255 printable"),
        ({"model": "a\0b"}, "not 1 to 255 printable"),
        ({"model": "x" * 256}, "not 1 to 255 printable"),
    ],
)
def test_usage_that_cannot_be_stored_is_refused(usage: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Usage(**usage)


def test_usage_takes_numbers_of_other_libraries() -> None:
    usage = Usage(requests=np.int64(2), cost=0.1, seconds=np.float32(0.5))  # type: ignore[arg-type]
    assert (usage.requests, usage.cost, usage.seconds) == (2, Decimal("0.1"), 0.5)
    assert [type(one) for one in (usage.requests, usage.cost, usage.seconds)] == [int, Decimal, float]


def test_usage_is_summed_up_by_currency() -> None:
    outcomes = [
        an_outcome("1", usage=USAGE),
        an_outcome("2", usage=Usage(requests=1, cost=Decimal("0.1"))),
        an_outcome("3", usage=Usage(cost=Decimal("0.2"))),
        an_outcome("4"),
    ]
    assert total_usage(outcomes) == {
        "requests": 3,
        "input_tokens": 1_000,
        "output_tokens": 200,
        "cached_tokens": 400,
        "cost_EUR": 0.00056,
        "cost_USD": 0.3,
    }
    assert total_usage([an_outcome()]) == {}


def test_a_line_of_another_shape_is_no_outcome() -> None:
    with pytest.raises(msgspec.MsgspecError):
        Outcome.decode(b'{"market_id": 7}')


def an_outcome(
    market_id: str = "1", *, forecast_at: datetime = CAPTURED_AT, seconds: float = 1.0, **result: Any
) -> Outcome:
    forecast = ExperimentResult(**({"probabilities": (0.4, 0.6)} | result))
    return completed(make_market(market_id=market_id), forecast, forecast_at=forecast_at, seconds=seconds)


def test_the_content_hash_ignores_order_time_duration_and_diagnostics() -> None:
    first = [an_outcome("1", payload={"a": 1, "b": 2}), an_outcome("2")]
    again = [
        an_outcome("2", forecast_at=CAPTURED_AT + timedelta(hours=1), seconds=3.0),
        an_outcome("1", payload={"b": 2, "a": 1}, diagnostics={"tokens": 5}, usage=USAGE),
    ]
    assert content_hash(first) == content_hash(again)


@pytest.mark.parametrize(
    "change",
    [
        {"probabilities": (0.5, 0.5)},
        {"payload": {"a": 1}},
    ],
)
def test_the_content_hash_sees_a_changed_forecast(change: dict[str, Any]) -> None:
    assert content_hash([an_outcome()]) != content_hash([an_outcome(**change)])


@pytest.mark.parametrize("hours", [0, 1, 2])
def test_a_forecast_that_was_made_before_keeps_its_time(hours: int) -> None:
    made_at = CAPTURED_AT + timedelta(hours=hours)
    there = made_at.astimezone(timezone(timedelta(hours=9)))
    found = an_outcome(forecast_at=CAPTURED_AT + timedelta(hours=2), made_at=there)
    assert found.forecast_at == made_at
    assert b"+00:00" in found.encode() or b"Z" in found.encode()


@pytest.mark.parametrize("made_at", [CAPTURED_AT - timedelta(seconds=1), CAPTURED_AT + timedelta(hours=2, seconds=1)])
def test_a_forecast_of_before_the_freeze_or_of_the_future_is_refused(made_at: datetime) -> None:
    with pytest.raises(ResultRefused, match="not between the freeze at 2026-03-02T07:00:00"):
        an_outcome(forecast_at=CAPTURED_AT + timedelta(hours=2), made_at=made_at)


def test_a_time_without_a_zone_is_no_instant() -> None:
    with pytest.raises(ValidationError, match="timezone"):
        ExperimentResult.binary(0.5, made_at=datetime(2026, 3, 2, 8))  # noqa: DTZ001 - that is the mistake


def test_the_content_hash_sees_a_failure() -> None:
    assert content_hash([an_outcome()]) != content_hash([Outcome(market_id="1", status="failed", reason="x")])


def test_the_content_hash_sees_a_missing_market() -> None:
    assert content_hash([an_outcome("1"), an_outcome("2")]) != content_hash([an_outcome("1")])


@pytest.mark.parametrize(
    "changed",
    [
        {"probabilities": (1.5, -0.5)},
        {"probabilities": (0.9, 0.9)},
        {"payload": [1]},
        {"artifact_uri": 5},
        {"artifact_uri": "u" * 2_001},
    ],
    ids=str,
)
def test_a_copy_that_was_changed_into_no_result_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(changed))):
        outcome_of(ExperimentResult.binary(0.5).model_copy(update=changed))


def test_the_longest_texts_of_an_outcome_are_those_that_the_database_takes() -> None:
    assert (LONGEST["artifact_uri"], LONGEST["exception_type"]) == (MAX_ARTIFACT_URI, MAX_TYPE_NAME)


class _Endless(dict[str, int]):
    def items(self) -> Any:
        return ((str(number), number) for number in count())


def test_a_payload_that_grows_without_end_is_refused() -> None:
    twice: list[Any] = [1]
    for _ in range(40):
        twice = [twice, twice]
    for endless in (twice, _Endless(), ["y" * MAX_JSON_BYTES] * 1_000_000, np.broadcast_to(0, 10**15)):
        with pytest.raises(ResultRefused, match=r"payload needs more than 1,000,000 bytes.*context\.artifact"):
            outcome_of(with_payload({"x": endless}))


class Tree(BaseModel):
    model_config = ConfigDict(extra="allow")

    left: Any = None
    right: Any = None
    raw: str = Field("", exclude=True)


def test_a_model_that_holds_itself_many_times_over_is_refused_before_it_is_written() -> None:
    twice = Tree()
    for _ in range(26):
        twice = Tree(left=twice, right=twice)
    wide = Tree(more=["y" * 10_000] * 1_000)
    for endless in (twice, wide, Tree(left=Note("x", twice))):  # type: ignore[arg-type]
        with pytest.raises(ResultRefused, match=r"payload needs more than 1,000,000 bytes"):
            outcome_of(with_payload({"x": endless}))
    kept = outcome_of(with_payload({"x": Tree(left=Tree(right=1), raw="y" * MAX_JSON_BYTES)})).payload
    assert kept == {"x": {"left": {"left": None, "right": 1}, "right": None}}
