"""The stand-in as pydantic-ai's direct layer sees it over OpenAI's chat wire: each behaviour is what its name says."""

import asyncio
import json
import re
import time
from typing import Any

import httpx
import pytest
from pydantic_ai import ModelRequest, ModelResponse
from pydantic_ai.direct import model_request
from pydantic_ai.exceptions import (
    ModelAuthenticationError,
    ModelConnectionError,
    ModelContextWindowExceededError,
    ModelNotFoundError,
    ModelOverloadedError,
    ModelQuotaExceededError,
    ModelRateLimitError,
    ModelRequestRejectedError,
    ModelRequestTimeout,
    ModelServerError,
    ModelTimeoutError,
    ModelUnavailableError,
    UnexpectedModelBehavior,
)
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from predictbench_assets.sandbox.latent import mixed
from predictbench_assets.sandbox.models.answers import Asked, answer
from predictbench_assets.sandbox.models.behaviours import behaviour_of
from predictbench_assets.sandbox.models.server import StandIn
from predictbench_assets_tests.kit.model_wires import FORECAST, QUESTION, SETTINGS, messages, native


async def ask(
    server: StandIn,
    model: str,
    *,
    schema: Any = FORECAST,
    question: str = QUESTION,
    parameters: ModelRequestParameters | None = None,
    **settings: Any,
) -> Any:
    async with OpenAIProvider(base_url=server.base_url, api_key="sk-planted-key") as provider:
        return await model_request(
            OpenAIChatModel(model, provider=provider),
            messages(question),
            model_settings={**SETTINGS, **settings},
            model_request_parameters=parameters or native(schema),
        )


def asked(server: StandIn, model: str, **settings: Any) -> ModelResponse:
    response = asyncio.run(ask(server, model, **settings))
    assert isinstance(response, ModelResponse)
    return response


def test_a_good_model_answers_what_the_schema_asks_for_alike_each_time(stand_in: StandIn) -> None:
    first, again, other = (asked(stand_in, "stand-in", seed=seed) for seed in (1, 1, 2))
    made = json.loads(first.text or "")
    assert list(made) == ["rationale", "probability"]
    assert 0 < made["probability"] < 1
    assert first.text == again.text != other.text
    assert first.finish_reason == "stop"
    assert first.model_name == "stand-in-2026-11-01"
    assert first.provider_response_id != again.provider_response_id
    assert first.usage.input_tokens > 50
    assert (
        first.usage.output_tokens == (len((first.text or "").encode()) + 3) // 4 + first.usage.output_reasoning_tokens
    )
    counts = stand_in.counts
    assert (counts["requests"], counts["distinct_prompts"], counts["duplicates"]) == (3, 2, 1)
    assert (counts["billed"], counts["delivered"], counts["billed_again"]) == (3, 3, 1)
    assert counts["output_tokens"] == sum(each.usage.output_tokens for each in (first, again, other))


def test_a_rationale_agrees_with_the_probability_after_it() -> None:
    heard = set()
    for number in range(60):
        made = json.loads(
            answer(Asked(model="stand-in", system="", user=f"Question {number}?", schema=FORECAST), "").text
        )
        found = re.search(r"In (\d+) of 1,000 .* what is new (.*)\.", made["rationale"])
        assert found, made
        base, said = int(found[1]) / 1000, made["probability"]
        expected = {
            "speaks for it": base < said,
            "speaks against it": base > said,
            "changes little": abs(base - said) < 1e-3,
        }
        assert expected[found[2]], made
        heard.add(found[2])
    assert len(heard) == 3


@pytest.mark.parametrize(
    ("model", "raised"),
    [
        ("stand-in-400", ModelRequestRejectedError),
        ("stand-in-401", ModelAuthenticationError),
        ("stand-in-403", ModelAuthenticationError),
        ("stand-in-404", ModelNotFoundError),
        ("stand-in-no-such-thing", ModelNotFoundError),
        ("stand-in-429", ModelRateLimitError),
        ("stand-in-rpm-0", ModelRateLimitError),
        ("stand-in-quota", ModelQuotaExceededError),
        ("stand-in-500", ModelServerError),
        ("stand-in-503", ModelUnavailableError),
        ("stand-in-529", ModelOverloadedError),
        ("stand-in-context", ModelContextWindowExceededError),
    ],
)
def test_an_error_is_told_apart_and_not_billed(stand_in: StandIn, model: str, raised: type[Exception]) -> None:
    with pytest.raises(raised):
        asked(stand_in, model)
    counts = stand_in.counts
    assert (counts["requests"], counts["billed"], counts["in_flight"]) == (1, 0, 0)


@pytest.mark.parametrize(
    ("model", "raised", "billed"),
    [
        ("stand-in-reset", ModelConnectionError, 1),
        ("stand-in-cut", ModelConnectionError, 1),
        ("stand-in-hang", ModelTimeoutError, 0),
        ("stand-in-drip", ModelRequestTimeout, 1),
        ("stand-in-html", UnexpectedModelBehavior, 1),
    ],
)
def test_a_connection_that_fails_leaves_the_outcome_unknown(
    stand_in: StandIn, model: str, raised: type[Exception], billed: int
) -> None:
    with pytest.raises(raised):
        asked(stand_in, model, timeout=0.4, request_timeout=0.6)
    deadline = time.monotonic() + 10
    while stand_in.counts["billed"] < billed and time.monotonic() < deadline:
        time.sleep(0.01)  # the server sees the end of the connection a moment later
    assert (stand_in.counts["requests"], stand_in.counts["billed"]) == (1, billed)


@pytest.mark.parametrize(
    ("model", "finish", "text"),
    [
        ("stand-in-refusal", "content_filter", None),
        ("stand-in-filter", "content_filter", None),
        ("stand-in-truncated", "length", '{"rationale": "In'),
        ("stand-in-prose", "stop", "Weighing"),
        ("stand-in-empty", "stop", None),
        ("stand-in-fenced", "stop", "```json\n{"),
        ("stand-in-scripts", "stop", '{"rationale": "<script>'),
        ("stand-in-nan", "stop", '{"rationale": "In'),
        ("stand-in-cites", "stop", '{"rationale": "As https://polymarket.com/'),
    ],
)
def test_an_answer_of_no_use_is_a_value_that_was_paid_for(
    stand_in: StandIn, model: str, finish: str, text: str | None
) -> None:
    response = asked(stand_in, model)
    assert response.finish_reason == finish
    assert (response.text or "").startswith(text) if text else not response.text
    assert response.usage.output_tokens > 0
    assert stand_in.counts["billed"] == 1


@pytest.mark.parametrize(
    ("model", "value"), [("stand-in-62", 62), ("stand-in-obeys", 1.0), ("stand-in-obeys-slow-0.01", 1.0)]
)
def test_a_model_that_answers_out_of_range_or_does_as_a_market_says(stand_in: StandIn, model: str, value: Any) -> None:
    assert json.loads(asked(stand_in, model).text or "")["probability"] == value


def test_a_probability_as_text_and_nan(stand_in: StandIn) -> None:
    assert isinstance(json.loads(asked(stand_in, "stand-in-text").text or "")["probability"], str)
    assert ": NaN}" in (asked(stand_in, "stand-in-nan").text or "")


def test_ten_megabytes_arrive_whole(stand_in: StandIn) -> None:
    response = asked(stand_in, "stand-in-10mb")
    assert len(response.text or "") > 10 * 2**20
    assert response.usage.output_tokens > 2_500_000


def test_a_redirect_and_a_body_that_grows_when_it_is_unpacked(stand_in: StandIn) -> None:
    body = {"model": "stand-in-redirect", "messages": [{"role": "user", "content": "Rain?"}]}
    sent = httpx.post(f"{stand_in.base_url}/chat/completions", json=body)
    assert (sent.status_code, sent.headers["location"][:17]) == (307, "http://localhost:")
    assert httpx.post(sent.headers["location"], json=body).status_code == 404
    assert stand_in.counts["by_route"] == {"POST /v1/chat/completions": 1, "POST /v1/elsewhere": 1}
    bomb = httpx.post(f"{stand_in.base_url}/chat/completions", json={**body, "model": "stand-in-bomb"})
    assert int(bomb.headers["content-length"]) < 100_000
    assert len(bomb.content) > 64 * 2**20
    assert bomb.json()["choices"]


def test_a_caller_that_left_is_billed_and_has_nothing(stand_in: StandIn) -> None:
    with pytest.raises(ModelTimeoutError):
        asked(stand_in, "stand-in-slow-1.5", timeout=0.7)
    while stand_in.counts["in_flight"]:
        pass
    (call,) = stand_in.calls
    assert (call.billed, call.delivered) == (True, False)


def test_characters_that_nobody_sees(stand_in: StandIn) -> None:
    rationale = json.loads(asked(stand_in, "stand-in-invisible").text or "")["rationale"]
    assert {"\u200b", "\u202e", "\x00", "\x1b", "\ud800"} <= set(rationale)


def test_once_is_the_first_request_of_each_prompt(stand_in: StandIn) -> None:
    for question in ("One?", "Two?"):
        with pytest.raises(ModelRateLimitError) as caught:
            asked(stand_in, "stand-in-429-once", question=question)
        assert caught.value.retry_after == pytest.approx(0.01)
        assert asked(stand_in, "stand-in-429-once", question=question).finish_reason == "stop"
    model = stand_in.counts["by_model"]["stand-in-429-once"]
    assert (model["requests"], model["billed"], model["faults"]) == (4, 2, {"429": 2})


def test_the_error_that_repeats_the_key(stand_in: StandIn) -> None:
    with pytest.raises(ModelAuthenticationError, match="sk-planted-key"):
        asked(stand_in, "stand-in-secret")


def test_the_limit_of_tokens_ends_an_answer(stand_in: StandIn) -> None:
    response = asked(stand_in, "stand-in", max_tokens=10)
    assert response.finish_reason == "length"
    assert response.usage.output_tokens == 10


def test_a_whole_event_has_each_markets_own_probability(stand_in: StandIn) -> None:
    markets = ["516710", "516711", "516712"]
    row = {
        "type": "object",
        "properties": {"market_id": {"type": "string", "enum": markets}, "probability": {"type": "number"}},
        "required": ["market_id", "probability"],
        "additionalProperties": False,
    }
    schema = {
        "type": "object",
        "properties": {"rationale": {"type": "string"}, "forecasts": {"type": "array", "items": row}},
        "required": ["rationale", "forecasts"],
        "additionalProperties": False,
    }
    made, other, missing = (
        json.loads(asked(stand_in, model, schema=schema).text or "")["forecasts"]
        for model in ("stand-in", "stand-in-other", "stand-in-missing")
    )
    assert [each["market_id"] for each in made] == markets
    assert len({each["probability"] for each in made}) == 3
    assert [each["market_id"] for each in other] == ["999999999", *markets[1:]]
    assert [each["market_id"] for each in missing] == markets[:2]


def test_a_schema_that_stands_in_the_prompt_is_kept_to(stand_in: StandIn) -> None:
    prompted = ModelRequestParameters(output_mode="prompted", output_object=native().output_object)
    assert set(json.loads(asked(stand_in, "stand-in", parameters=prompted).text or "")) == {"rationale", "probability"}


def test_a_price_that_is_shown_is_leant_on(stand_in: StandIn) -> None:
    for price in (0.03, 0.5, 0.96):
        question = f"Will it rain?\nPrice of that outcome on the market: {price:.3f}\nBest bid 0.010"
        made = json.loads(asked(stand_in, "stand-in", question=question).text or "")["probability"]
        assert made == pytest.approx(price, abs=0.25)
        assert made != price


def test_a_hundred_at_once_are_counted_and_none_waits_for_another(stand_in: StandIn) -> None:
    async def all_of_them() -> list[Any]:
        async with OpenAIProvider(base_url=stand_in.base_url, api_key="sk") as provider:
            model = OpenAIChatModel("stand-in-slow-0.5", provider=provider)
            return await asyncio.gather(
                *(
                    model_request(
                        model, [ModelRequest.user_text_prompt(f"{number}?")], model_settings={"max_tokens": 9}
                    )
                    for number in range(100)
                )
            )

    assert len(asyncio.run(all_of_them())) == 100
    counts = stand_in.counts
    assert (counts["requests"], counts["distinct_prompts"], counts["delivered"]) == (100, 100, 100)
    assert counts["most_in_flight"] > 50
    assert counts["in_flight"] == 0


def test_a_share_goes_wrong_and_what_is_flaky_can_be_asked_again() -> None:
    def faults(model: str, turn: int) -> list[str]:
        return [behaviour_of(model).fault(mixed(prompt), turn) for prompt in range(500)]

    flaky, again = faults("stand-in-flaky-20", 0), faults("stand-in-flaky-20", 1)
    assert 60 < 500 - flaky.count("") < 140
    assert set(flaky) == {"", "429", "500", "529", "reset", "cut"}
    assert any(one and not other for one, other in zip(flaky, again, strict=True))
    messy = faults("stand-in-messy-20", 0)
    assert messy == faults("stand-in-messy-20", 1)
    assert set(messy) == {"", "refusal", "prose", "empty", "62", "truncated"}
    assert 100 < faults("stand-in-500-share-30", 0).count("500") < 200
    assert set(faults("gpt-5-mini", 0)) == {""}
