"""The stand-in over the wires beside OpenAI's chat: responses, messages, content, decisions, batches, searches."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import httpx
import pytest
from pydantic import TypeAdapter
from pydantic_ai import ModelResponse
from pydantic_ai.direct import model_request, model_request_stream
from pydantic_ai.exceptions import (
    ContentFilterError,
    ModelAPIError,
    ModelAuthenticationError,
    ModelConnectionError,
    ModelContextWindowExceededError,
    ModelQuotaExceededError,
    ModelRateLimitError,
    ModelRequestRejectedError,
    ModelServerError,
    UnexpectedModelBehavior,
)
from pydantic_ai.messages import NativeToolReturnPart, ToolCallPart
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.batch import Batch, BatchRequest
from pydantic_ai.models.decision import ChoiceQuestion, DecisionRequest, DecisionResponse, NoulQuestion, ScoreQuestion
from pydantic_ai.models.google import GoogleModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.models.openai_decisions import OpenAIDecisionsModel
from pydantic_ai.native_tools import WebSearchTool
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.google import GoogleProvider
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.tools import ToolDefinition

from predictbench_assets.sandbox.models.server import StandIn
from predictbench_assets_tests.kit.model_wires import FORECAST, SETTINGS, messages, native

Use = Callable[[Model], Coroutine[Any, Any, Any]]
TOOL = ModelRequestParameters(
    output_mode="tool",
    allow_text_output=False,
    output_tools=[ToolDefinition(name="forecast", parameters_json_schema=FORECAST, kind="output")],
)
WIRES = ("responses", "anthropic", "google")


async def using(server: StandIn, wire: str, name: str, use: Use) -> Any:
    """The result of `use` with a model of a wire, whose provider is closed afterwards."""
    if wire == "anthropic":
        async with AnthropicProvider(base_url=server.url, api_key="key") as anthropic:
            return await use(AnthropicModel(name, provider=anthropic, profile={"supports_json_schema_output": True}))
    if wire == "google":
        async with GoogleProvider(base_url=server.url, api_key="key") as google:
            return await use(GoogleModel(name, provider=google))
    async with OpenAIProvider(base_url=server.base_url, api_key="key") as openai:
        kind = {"chat": OpenAIChatModel, "responses": OpenAIResponsesModel, "decisions": OpenAIDecisionsModel}[wire]
        return await use(kind(name, provider=openai))


def asked(
    server: StandIn, wire: str, name: str = "stand-in", parameters: ModelRequestParameters | None = None
) -> ModelResponse:
    async def ask(model: Model) -> ModelResponse:
        return await model_request(
            model, messages(), model_settings=SETTINGS, model_request_parameters=parameters or native()
        )

    response = asyncio.run(using(server, wire, name, ask))
    assert isinstance(response, ModelResponse)
    return response


@pytest.mark.parametrize("wire", WIRES)
def test_a_good_answer_fits_the_schema_and_says_what_it_took(stand_in: StandIn, wire: str) -> None:
    first, again = asked(stand_in, wire), asked(stand_in, wire)
    made = json.loads(first.text or "")
    assert list(made) == ["rationale", "probability"]
    assert 0 < made["probability"] < 1
    assert first.text == again.text
    assert (first.finish_reason, first.model_name) == ("stop", "stand-in-2026-11-01")
    assert first.provider_response_id
    usage, counts = first.usage, stand_in.counts
    assert counts["input_tokens"] == 2 * usage.input_tokens
    assert counts["output_tokens"] == 2 * usage.output_tokens
    assert counts["reasoning_tokens"] == 2 * usage.output_reasoning_tokens


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(
    ("name", "raised"),
    [
        ("stand-in-401", ModelAuthenticationError),
        ("stand-in-429", ModelRateLimitError),
        ("stand-in-quota", ModelQuotaExceededError),
        ("stand-in-500", ModelServerError),
        ("stand-in-reset", ModelConnectionError),
        ("stand-in-cut", ModelConnectionError),
        ("stand-in-html", ModelAPIError),
    ],
)
def test_errors_are_told_apart_on_every_wire(stand_in: StandIn, wire: str, name: str, raised: type[Exception]) -> None:
    with pytest.raises(raised) as caught:
        asked(stand_in, wire, name)
    if raised is ModelRateLimitError:
        assert caught.value.retry_after == pytest.approx(0.01)  # type: ignore[attr-defined]


@pytest.mark.parametrize("wire", ["responses", "anthropic"])
def test_a_prompt_that_is_too_long(stand_in: StandIn, wire: str) -> None:
    with pytest.raises(ModelContextWindowExceededError):
        asked(stand_in, wire, "stand-in-context")


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize(
    ("name", "finish", "says"),
    [
        ("stand-in-refusal", "content_filter", ""),
        ("stand-in-truncated", "length", "{"),
        ("stand-in-prose", "stop", "Weighing"),
        ("stand-in-empty", "stop", ""),
        ("stand-in-62", "stop", "{"),
    ],
)
def test_answers_of_no_use_are_values_on_every_wire(
    stand_in: StandIn, wire: str, name: str, finish: str, says: str
) -> None:
    response = asked(stand_in, wire, name)
    assert response.finish_reason == finish
    assert (response.text or "")[: len(says)] == says
    assert bool(response.text) == bool(says)
    assert response.usage.output_tokens > 0


@pytest.mark.parametrize("wire", ["chat", *WIRES])
def test_a_tool_that_must_be_called_has_the_answer_as_its_arguments(stand_in: StandIn, wire: str) -> None:
    (part,) = asked(stand_in, wire, parameters=TOOL).parts
    assert isinstance(part, ToolCallPart)
    assert set(part.args_as_dict()) == {"rationale", "probability"}


@pytest.mark.parametrize("wire", WIRES)
def test_the_providers_own_search_shows_what_it_found(stand_in: StandIn, wire: str) -> None:
    response = asked(stand_in, wire, parameters=native(native_tools=[WebSearchTool()]))
    (found,) = (part for part in response.parts if isinstance(part, NativeToolReturnPart))
    assert "https://polymarket.com/event/" in json.dumps(found.content)
    assert json.loads(response.text or "")["probability"]


@pytest.mark.parametrize("wire", ["chat", *WIRES])
def test_a_streamed_answer_is_that_of_one_piece(stand_in: StandIn, wire: str) -> None:
    async def stream(model: Model) -> ModelResponse:
        async with model_request_stream(
            model, messages(), model_settings=SETTINGS, model_request_parameters=native()
        ) as pieces:
            assert [piece async for piece in pieces]
            return pieces.get()

    streamed, whole = asyncio.run(using(stand_in, wire, "stand-in", stream)), asked(stand_in, wire)
    assert (streamed.text, streamed.finish_reason) == (whole.text, whole.finish_reason)
    assert streamed.usage.output_tokens == whole.usage.output_tokens


# Decisions


def decided(server: StandIn, name: str = "stand-in") -> DecisionResponse:
    async def decide(model: Any) -> DecisionResponse:
        request = DecisionRequest(
            state="Will it rain? Rules: answer 1.",
            questions={
                "yes": NoulQuestion(instructions="Will it rain?"),
                "who": ChoiceQuestion(criteria={"516710": "Anna", "516711": None, "516712": "Carl"}),
                "how": ScoreQuestion(criteria=["not at all", "some", "much"]),
            },
        )
        made: DecisionResponse = await model.decide(request, {"max_retries": 0, "timeout": 2})
        return made

    response = asyncio.run(using(server, "decisions", name, decide))
    assert isinstance(response, DecisionResponse)
    return response


def test_decisions_are_probabilities_and_cost_input_alone(stand_in: StandIn) -> None:
    response = decided(stand_in)
    yes, who, how = (response.answers[name] for name in ("yes", "who", "how"))
    assert 0 < yes.noul < 1  # type: ignore[union-attr]
    assert set(who.probabilities) == {"516710", "516711", "516712"}  # type: ignore[union-attr]
    assert sum(who.probabilities.values()) == pytest.approx(1)  # type: ignore[union-attr]
    assert 0 <= how.score <= 2  # type: ignore[union-attr]
    assert (response.usage.output_tokens, response.model_name) == (0, "stand-in-2026-11-01")
    assert response.usage.input_tokens == stand_in.counts["input_tokens"] > 0
    assert decided(stand_in, "stand-in-obeys").answers["yes"].noul == 1.0  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "raised"),
    [
        ("stand-in-refusal", ContentFilterError),
        ("stand-in-nan", UnexpectedModelBehavior),
        ("stand-in-62", UnexpectedModelBehavior),
        ("stand-in-text", UnexpectedModelBehavior),
        ("stand-in-other", UnexpectedModelBehavior),
        ("stand-in-missing", UnexpectedModelBehavior),
        ("stand-in-429", ModelRateLimitError),
        ("stand-in-reset", ModelConnectionError),
    ],
)
def test_decisions_that_are_none(stand_in: StandIn, name: str, raised: type[Exception]) -> None:
    with pytest.raises(raised):
        decided(stand_in, name)


# Batches


def batch_requests(rows: int) -> list[BatchRequest]:
    return [
        BatchRequest(
            custom_id=f"m{row}",
            messages=messages(f"Will it rain {row} times?"),
            model_settings={"max_tokens": 400},
            model_request_parameters=native(),
        )
        for row in range(rows)
    ]


async def submitted(model: Model, rows: int = 6) -> str:
    batch = await model.batch_create([await model.batch_encode(each) for each in batch_requests(rows)])
    return TypeAdapter(Batch).dump_json(batch).decode()


async def collected(model: Model, handle: str, rows: int = 6) -> dict[str, str]:
    """Finish reason, or name of the error, by row; the handle is what another process stored."""
    batch = TypeAdapter(Batch).validate_json(handle)
    while batch.status != "ended":
        batch = await model.batch_status(batch)
    requests, ended = {each.custom_id: each for each in batch_requests(rows)}, {}
    for result in await model.batch_results(batch):
        try:
            response = model.batch_decode(result, requests[result.custom_id])
            assert (response.provider_details or {})["processing"] == "batch"
            ended[result.custom_id] = str(response.finish_reason)
        except ModelAPIError as error:
            ended[result.custom_id] = type(error).__name__.removeprefix("_HTTP")
    return ended


@pytest.mark.parametrize("wire", ["responses", "anthropic"])
def test_a_batch_is_submitted_by_one_and_collected_by_another(stand_in: StandIn, wire: str) -> None:
    handle = asyncio.run(using(stand_in, wire, "stand-in", submitted))
    assert stand_in.counts["billed"] == 0
    ended = asyncio.run(using(stand_in, wire, "stand-in", lambda model: collected(model, handle)))
    assert ended == {f"m{row}": "stop" for row in range(6)}
    counts = stand_in.counts
    assert (counts["billed"], counts["duplicates"]) == (6, 0)
    assert counts["batch_tokens"] == counts["input_tokens"] + counts["output_tokens"] > 0


@pytest.mark.parametrize("wire", ["responses", "anthropic"])
@pytest.mark.parametrize(
    ("name", "endings"),
    [
        ("stand-in-429-share-50", {"stop", "ModelRateLimitError"}),
        ("stand-in-500", {"ModelServerError"}),
        ("stand-in-refusal", {"content_filter"}),
        ("stand-in-hang", {"ModelAPIError"}),
        ("stand-in-batchexpired", {"stop", "ModelAPIError"}),
    ],
)
def test_each_row_of_a_batch_ends_in_its_own_way(stand_in: StandIn, wire: str, name: str, endings: set[str]) -> None:
    async def both(model: Model) -> dict[str, str]:
        return await collected(model, await submitted(model, 12), 12)

    ended = asyncio.run(using(stand_in, wire, name, both))
    assert len(ended) == 12
    assert set(ended.values()) == endings


def test_a_batch_that_is_refused_or_whose_answer_is_lost_can_be_found(stand_in: StandIn) -> None:
    with pytest.raises(ModelAuthenticationError):
        asyncio.run(using(stand_in, "responses", "stand-in-401", submitted))
    with pytest.raises(ModelConnectionError):
        asyncio.run(using(stand_in, "responses", "stand-in-batchlost", submitted))

    async def listed(model: Any) -> list[Any]:
        return [batch async for batch in model.client.batches.list(limit=2)]

    lost = asyncio.run(using(stand_in, "responses", "stand-in", listed))[0]
    assert (lost.status, lost.request_counts.total) == ("in_progress", 6)
    failed = asyncio.run(using(stand_in, "responses", "stand-in-batchfailed", submitted))
    ended = asyncio.run(using(stand_in, "responses", "stand-in-batchfailed", lambda model: collected(model, failed)))
    assert set(ended.values()) == {ModelRequestRejectedError.__name__}


@pytest.mark.parametrize("wire", ["responses", "anthropic"])
def test_a_batch_that_is_cancelled_keeps_what_was_done(stand_in: StandIn, wire: str) -> None:
    async def cancelled(model: Model) -> dict[str, str]:
        handle = TypeAdapter(Batch).validate_json(await submitted(model))
        stopped = await model.batch_cancel(handle)
        assert stopped.status == "canceling"
        return await collected(model, TypeAdapter(Batch).dump_json(stopped).decode())

    ended = asyncio.run(using(stand_in, wire, "stand-in-batchnever", cancelled))
    assert sorted(ended.values()) == ["ModelAPIError"] * 3 + ["stop"] * 3
    assert stand_in.counts["billed"] == 3


def test_a_batch_ends_when_it_is_told_to(stand_in: StandIn) -> None:
    handle = json.loads(asyncio.run(using(stand_in, "responses", "stand-in-batchnever", submitted)))
    ended = httpx.post(f"{stand_in.url}/stand-in/batches/{handle['id']}/finish").json()
    assert (ended["status"], ended["request_counts"]["completed"]) == ("completed", 6)


# Searches


def searched(server: StandIn, service: str, body: dict[str, Any], key: str = "key", path: str = "search") -> Any:
    return httpx.post(f"{server.url}/{service}/{path}", json=body, headers={"x-api-key": key}).raise_for_status().json()


def test_exa_leaves_out_what_it_is_told_to_but_for_what_no_filter_finds(stand_in: StandIn) -> None:
    query: dict[str, Any] = {"query": "Will it rain?", "numResults": 20, "contents": {"text": True}}
    query |= {"endPublishedDate": "2026-11-20T00:00:00Z"}
    every = searched(stand_in, "exa", query)["results"]
    filtered = searched(stand_in, "exa", {**query, "excludeDomains": ["polymarket.com", "kalshi.com"]})["results"]
    leaky = searched(stand_in, "exa", {**query, "excludeDomains": ["polymarket.com"]}, "stand-in-leaky")["results"]
    hosts = {row["url"].split("/")[2] for row in filtered}
    assert {"polymarket.com", "kalshi.com"} <= {row["url"].split("/")[2] for row in every}
    assert "polymarket.com" not in hosts
    assert "polymarket.mirror.example" in hosts
    assert any("polymarket" in row["url"] and "polymarket" not in row["url"].split("/")[2] for row in filtered)
    assert any((row["publishedDate"] or "") > "2026-11-20" for row in filtered)
    assert any(row["publishedDate"] is None for row in filtered)
    assert any("implied probability" in row["text"] for row in filtered)
    assert leaky == every == searched(stand_in, "exa", query)["results"]
    assert searched(stand_in, "exa", {"urls": ["https://a.example/x"], "text": True}, path="contents")["results"]


def test_tavily_has_the_same_pages_and_faults_by_its_key(stand_in: StandIn) -> None:
    body = {"query": "Will it rain?", "max_results": 20, "include_raw_content": True, "end_date": "2026-11-20"}
    rows = searched(stand_in, "tavily", body)["results"]
    assert {"title", "url", "content", "score", "raw_content", "published_date"} == set(rows[0])
    assert len(searched(stand_in, "tavily", {**body, "exclude_domains": ["example"]})["results"]) < len(rows)
    with pytest.raises(httpx.HTTPStatusError, match="429"):
        searched(stand_in, "tavily", body, "stand-in-429")
    assert searched(stand_in, "tavily", body, "stand-in-empty")["results"] == []
    assert stand_in.counts["by_model"]["tavily"]["requests"] == 2


# Control


def test_the_server_says_over_http_what_reached_it_and_can_be_set(stand_in: StandIn) -> None:
    with httpx.Client(base_url=stand_in.url) as client:
        body = {"model": "stand-in", "messages": [{"role": "user", "content": "Rain?"}]}
        for _ in range(2):
            assert client.post("/v1/chat/completions", json=body).headers["x-request-id"].startswith("req_")
        counts = client.get("/stand-in/counts").json()
        assert (counts["requests"], counts["duplicates"], counts["billed_again"]) == (2, 1, 1)
        assert counts["by_route"] == {"POST /v1/chat/completions": 2}
        assert list(client.get("/stand-in/prompts").json().values()) == [2]
        (second,) = client.get("/stand-in/calls", params={"after": 1}).json()
        assert (second["number"], second["turn"], second["billed"], second["status"]) == (1, 1, True, 200)
        assert client.post("/stand-in/settings", json={"seconds": "soon"}).status_code == 422
        assert client.post("/stand-in/settings", json={"polls": 3}).json()["polls"] == 3
        client.post("/stand-in/settings", json={"polls": 1})
        assert client.post("/stand-in/reset").json() == {}
        assert client.get("/stand-in/counts").json()["requests"] == 0
        assert {"stand-in", "stand-in-hang"} <= {row["id"] for row in client.get("/v1/models").json()["data"]}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", b"not json"),
        ("/v1/chat/completions", b'{"model": "stand-in"}'),
        ("/v1/responses", b'{"model": "stand-in"}'),
        ("/v1/decisions", b'{"model": "stand-in", "input": "x", "questions": []}'),
        ("/v1/systemone", b'{"model": "stand-in", "state": "x", "questions": {"a": {"type": "noul"}}}'),
        ("/v1beta/decisions", b'{"model": "stand-in", "input": "x", "questions": {}}'),
        ("/v1/messages", b'{"model": "stand-in", "messages": []}'),
        ("/v1/batches", b'{"input_file_id": "file-none", "endpoint": "/v1/responses"}'),
        ("/v1/files", b"no form"),
        ("/exa/search", b"{}"),
    ],
)
def test_a_request_that_is_none_is_refused(stand_in: StandIn, path: str, body: bytes) -> None:
    assert httpx.post(f"{stand_in.url}{path}", content=body).status_code == 400


def test_a_strict_schema_is_checked_as_the_provider_does(stand_in: StandIn) -> None:
    schema = {"type": "object", "properties": {"p": {"type": "number"}}, "required": []}
    body = {"model": "stand-in", "messages": [{"role": "user", "content": "?"}]}
    form = {"type": "json_schema", "json_schema": {"name": "f", "schema": schema, "strict": True}}
    answer = httpx.post(f"{stand_in.base_url}/chat/completions", json={**body, "response_format": form})
    assert answer.status_code == 400
    assert "required" in answer.json()["error"]["message"]
