"""What comes back of a model's provider, as replies and as troubles: whatever it is, none breaks anything."""

import asyncio
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from pydantic import SecretStr
from pydantic_ai import ModelResponse
from pydantic_ai.exceptions import ModelConnectionError, ModelHTTPError, ModelRateLimitError, UserError
from pydantic_ai.messages import TextPart, ToolCallPart
from pydantic_ai.usage import RequestUsage

from predictbench_assets.experiments.llm.answers import Answer
from predictbench_assets.experiments.llm.client import failure, opened_model, reply_of
from predictbench_assets.experiments.model_calls.prices import OwnPrice
from predictbench_assets.experiments.model_calls.records import Reply

GOOD = '{"rationale": "r", "probability": 0.5}'
PRICE = OwnPrice(model="openai:m", input=Decimal(1), output=Decimal(2))


def reply(*parts: TextPart | ToolCallPart, **usage: Any) -> Reply:
    response = ModelResponse(parts=parts or [TextPart(GOOD)], usage=RequestUsage(**usage), finish_reason="stop")
    return reply_of(response, answer=Answer(), price=PRICE, answered_at=datetime(2026, 3, 2, tzinfo=UTC))


def test_tokens_that_are_told_are_paid_for() -> None:
    told = reply(input_tokens=100, cache_read_tokens=50, output_tokens=10)
    assert (told.status, told.cost, told.input_tokens) == ("answered", Decimal("0.00012"), 100)


@pytest.mark.parametrize(
    "usage",
    [{}, {"input_tokens": -5, "output_tokens": 5}, {"input_tokens": 10**30, "output_tokens": 5}],
    ids=["none", "negative", "past all belief"],
)
def test_an_answer_without_credible_tokens_is_not_free(usage: dict[str, int]) -> None:
    told = reply(**usage)
    assert (told.status, told.cost, told.input_tokens, told.output_tokens) == ("answered", None, None, None)


def test_a_text_that_is_not_kept_whole_is_no_answer() -> None:
    told = reply(TextPart('{"rationale": "' + "r" * 150_000 + '", "probability": 0.5}'), input_tokens=9)
    assert (told.status, told.reason) == ("invalid", "invalid: an answer of 150,037 characters, more than 100,000")
    assert len(told.text) == 100_000


def test_of_several_answers_none_is_chosen() -> None:
    first, second = (ToolCallPart("forecast", GOOD.replace("5", digit)) for digit in "57")
    assert reply(TextPart("I think"), first).status == "answered"
    assert reply(first, second).reason == "invalid: several answers"


def test_half_a_character_is_no_answer() -> None:
    assert reply(TextPart('{"rationale": "\ud800", "probability": 0.5}')).status == "invalid"


@pytest.mark.parametrize(
    ("error", "trouble", "reason"),
    [
        (
            ModelHTTPError.for_category(
                ModelRateLimitError,
                status_code=429,
                model_name="m",
                body={"error": {"message": "Too many.", "code": 1}},
            ),
            "limited",
            "Too many. (status 429)",
        ),
        (ModelHTTPError(408, "m", body="slow"), "server", "slow (status 408)"),
        (ModelHTTPError(418, "m", body=[1]), "rejected", "no reason is given (status 418)"),
        (ModelHTTPError(400, "m", body={"message": "x\n " * 999}), "rejected", "x x"),
        (ModelConnectionError("m", "Connection error."), "unknown", "the connection failed: Connection error."),
    ],
)
def test_a_trouble_is_told_in_one_line_without_the_body_around_it(error: Exception, trouble: str, reason: str) -> None:
    failed = failure(error)
    assert failed.trouble == trouble
    assert failed.reason.startswith(reason)
    assert len(failed.reason) < 400
    assert "\n" not in failed.reason


@pytest.mark.parametrize(
    ("model", "given", "problem"),
    [
        ("anthropic:a-new-one", {"output": "native"}, 'add output = "tool" to its table'),
        ("openai:m", {"settings": {"temprature": 1}}, "temprature in settings: openai:m has no such setting"),
        ("deepseek:m", {"base_url": "http://127.0.0.1:9/v1"}, 'write model = "openai:..." with base_url'),
        ("nobody:m", {}, "the provider 'nobody' cannot be used"),
    ],
)
def test_what_cannot_be_asked_is_told_when_the_client_is_opened(model: str, given: Any, problem: str) -> None:
    async def open_it() -> None:
        async with opened_model(model, **{"key": SecretStr("k" * 9), "base_url": None, "connections": 1, **given}):
            pass

    with pytest.raises(UserError, match=problem.replace(".", r"\.")):
        asyncio.run(open_it())


@pytest.mark.parametrize("model", ["openai:m", "openai-chat:m", "anthropic:m", "google:m"])
def test_settings_of_a_wire_are_known(model: str) -> None:
    own = {"openai": "openai_reasoning_effort", "anthropic": "anthropic_effort", "google": "google_safety_settings"}

    async def open_it() -> None:
        settings = {"temperature": 1, own[model.partition(":")[0].partition("-")[0]]: "x"}
        async with opened_model(model, key=SecretStr("k" * 9), base_url=None, connections=1, settings=settings):
            pass

    asyncio.run(open_it())
