"""Answers of models are read as they are given, or refused with the reason."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictbench_assets.experiments.llm.answers import Answer
from predictbench_assets.experiments.llm.language_model import aggregated

ONE = Answer()
SEVERAL = Answer([1, 2, 3])
UNIT = st.floats(0, 1)


@given(st.text(), UNIT)
def test_a_whole_answer_is_taken_as_it_is(rationale: str, probability: float) -> None:
    text = json.dumps({"rationale": rationale, "probability": probability})
    try:
        rationale.encode()
    except UnicodeEncodeError:
        return
    assert ONE.read(text) == (rationale, {"": probability})


@given(st.lists(UNIT, min_size=3, max_size=3))
def test_probabilities_of_an_event_are_taken_as_they_are_whatever_they_sum_to(given: list[float]) -> None:
    text = json.dumps({"rationale": "", "probabilities": dict(zip(("1", "2", "3"), given, strict=True))})
    assert SEVERAL.read(text)[1] == dict(zip(("1", "2", "3"), given, strict=True))


@given(
    st.one_of(st.text(), st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists).map(json.dumps))
)
def test_nothing_else_is_an_answer_and_nothing_breaks(text: str) -> None:
    problem = ONE.problem(text)
    assert problem is not None
    assert len(problem) < 200


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("I would say 40 %.", "no JSON: 'I would say 40 %.'"),
        ('```json\n{"rationale": "", "probability": 0.4}\n```', "no JSON"),
        ("[0.4]", "no JSON object"),
        ({"probability": 0.4}, "no rationale"),
        ({"rationale": 1, "probability": 0.4}, "a rationale that is no text"),
        ({"rationale": ""}, "no probability"),
        ({"rationale": "", "probability": None}, "no probability"),
        ({"rationale": "", "probability": 62}, "the probability is 62, not from 0 to 1"),
        ({"rationale": "", "probability": -0.01}, "the probability is -0.01, not from 0 to 1"),
        ({"rationale": "", "probability": "0.9"}, "the probability is '0.9', no number"),
        ({"rationale": "", "probability": True}, "the probability is True, no number"),
        ({"rationale": "", "probability": [0.9]}, "no number"),
        ({"rationale": "", "probability": 0.4, "market_id": "7"}, "a key that was not asked for: 'market_id'"),
        ('{"rationale": "", "probability": NaN}', "no JSON"),
        ('{"rationale": "", "probability": 1e999}', "no JSON"),
        ("[" * 100_000, "no JSON"),
    ],
)
def test_what_is_no_answer_is_refused_with_the_reason(given: Any, problem: str) -> None:
    text = given if isinstance(given, str) else json.dumps(given)
    assert problem in (ONE.problem(text) or "")


@pytest.mark.parametrize(
    ("probabilities", "problem"),
    [
        ({"1": 0.1, "2": 0.2}, "no probability of 3"),
        ({"1": 0.1, "2": 0.2, "3": 0.3, "4": 0.4}, "a probability of what was not asked: '4'"),
        ([0.1, 0.2, 0.3], "no probabilities"),
        ({"1": 0.1, "2": 2, "3": 0.3}, "the probability is 2, not from 0 to 1"),
    ],
)
def test_an_event_needs_a_probability_of_each_market_and_of_no_other(probabilities: Any, problem: str) -> None:
    assert SEVERAL.problem(json.dumps({"rationale": "", "probabilities": probabilities})) == problem


def test_the_form_asks_for_the_rationale_first_and_for_nothing_else() -> None:
    schema = SEVERAL.schema
    assert list(schema["properties"]) == ["rationale", "probabilities"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["probabilities"]["required"] == ["1", "2", "3"]


@given(st.lists(st.floats(0.001, 0.999), min_size=1, max_size=9))
def test_aggregates_lie_between_the_samples(samples: list[float]) -> None:
    for aggregate in ("mean", "median", "logit_mean"):
        value = aggregated(samples, aggregate)
        assert value is not None
        assert min(samples) - 1e-9 <= value <= max(samples) + 1e-9


def test_aggregates_are_those_that_a_hand_computes() -> None:
    assert aggregated([0.1, 0.2, 0.9], "mean") == pytest.approx(0.4)
    assert aggregated([0.1, 0.2, 0.9], "median") == 0.2
    # Odds 1/4 and 4: their geometric mean is 1.
    assert aggregated([0.2, 0.8], "logit_mean") == pytest.approx(0.5)
    assert aggregated([0.0, 0.3], "logit_mean") == 0.0
    assert aggregated([1.0, 0.3], "logit_mean") == 1.0
    assert aggregated([0.0, 1.0], "logit_mean") is None
