"""The client of one provider, opened once a run, and one request to a model by it: sent once, with a deadline.

Everything that comes back is a value: a refusal and a cut text are paid for. Only what was not answered raises.
"""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final

import httpx2
from pydantic import SecretStr
from pydantic_ai import ModelMessagesTypeAdapter, ModelRequest, ModelResponse
from pydantic_ai.direct import model_request
from pydantic_ai.exceptions import (
    ModelAPIError,
    ModelAuthenticationError,
    ModelConnectionError,
    ModelHTTPError,
    ModelNotFoundError,
    ModelQuotaExceededError,
    ModelRateLimitError,
    ModelRequestTimeout,
    ModelServerError,
    ModelUnavailableError,
    UnexpectedModelBehavior,
    UserError,
)
from pydantic_ai.messages import TextPart, ToolCallPart
from pydantic_ai.models import Model, ModelRequestParameters, infer_model
from pydantic_ai.native_tools import AbstractNativeTool, WebSearchTool
from pydantic_ai.output import OutputObjectDefinition
from pydantic_ai.providers import Provider, infer_provider_class
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import ToolDefinition

from predictbench_assets.clock import Clock
from predictbench_assets.experiments.llm.answers import Answer, OutputMode
from predictbench_assets.experiments.llm.model import cost_of
from predictbench_assets.experiments.model_calls.desk import CallFailed, Trouble
from predictbench_assets.experiments.model_calls.prices import OwnPrice, PublicPrice, Tokens
from predictbench_assets.experiments.model_calls.records import Reply
from predictbench_assets.runs import CallStatus
from predictbench_assets.web import routes, trusted_certificates

_KEPT_TEXT: Final = 100_000
"""Characters of a model's text that are kept of an answer that is longer."""

_A_DAY_S: Final = 86_400
_LONGEST_ADDRESS: Final = 2_000
_OUTPUT: Final = "forecast"
_CHAT: Final = {"openai": "openai-chat"}
"""What a server of one's own understands of what the provider of that name does."""


class AnswerUnreadable(Exception):
    """An answer of more bytes than are read, or one that is packed although it was asked for plain."""


class _Client(httpx2.AsyncClient):
    """A client that reads so many bytes of an answer, and follows no redirect: it would take the key elsewhere."""

    def __init__(self, most_bytes: int, **options: Any) -> None:
        super().__init__(**options)
        self._most_bytes = most_bytes

    async def send(self, request: httpx2.Request, *, stream: bool = False, **options: Any) -> httpx2.Response:
        request.headers["Accept-Encoding"] = "identity"  # what is packed has no bound
        response = await super().send(request, stream=True, **(options | {"follow_redirects": False}))
        try:
            if response.headers.get("Content-Encoding", "identity") != "identity":
                raise AnswerUnreadable("the answer is packed, and was asked for plain")
            response.stream = _Bounded(response.stream, self._most_bytes)
            if not stream:
                await response.aread()
        except BaseException:
            await response.aclose()
            raise
        return response


class _Bounded(httpx2.AsyncByteStream):
    def __init__(self, stream: Any, most_bytes: int) -> None:
        self._stream, self._most_bytes = stream, most_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = self._most_bytes
        async for part in self._stream:
            left -= len(part)
            if left < 0:
                raise AnswerUnreadable(f"the answer has more than {self._most_bytes:,} bytes")
            yield part

    async def aclose(self) -> None:
        await self._stream.aclose()


@asynccontextmanager
async def opened_model(
    name: str, *, key: SecretStr | None, base_url: str | None, connections: int, most_bytes: int, chat: bool = True
) -> AsyncIterator[Model]:
    """A model, with a client that is closed afterwards.

    Args:
        name: as pydantic-ai has it, `provider:model`.
        key: None for a server that wants none.
        base_url: address of a server that is not the provider's own.
        connections: requests at once.
        most_bytes: of one answer that are read.
        chat: whether a server of one's own is asked over the API that all of them have; the other one has searches.

    Raises:
        UserError: there is no such provider, or it wants something else.
        WebEnvironmentError: a proxy or a certificate cannot be used.
    """
    provider_name, _, model = name.partition(":")
    if base_url is not None and chat:
        provider_name = _CHAT.get(provider_name, provider_name)
    certificates = trusted_certificates()
    limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)

    def through(proxy: Any) -> httpx2.AsyncHTTPTransport:
        other = httpx2.Proxy(str(proxy.url), auth=proxy.auth, headers=dict(proxy.headers))
        return httpx2.AsyncHTTPTransport(verify=certificates, proxy=other, limits=limits)

    # Each request has a deadline of its own.
    options: Any = {"trust_env": False, "mounts": routes(through), "limits": limits, "timeout": _A_DAY_S}
    http = _Client(most_bytes, verify=certificates, **options)
    async with http, _provider(provider_name, key, base_url, http) as provider:
        yield infer_model(f"{provider_name}:{model}", provider_factory=lambda _: provider)


def _provider(name: str, key: SecretStr | None, base_url: str | None, http: httpx2.AsyncClient) -> Provider[Any]:
    try:
        kind: Any = infer_provider_class(name)
        given: dict[str, Any] = {"api_key": key.get_secret_value() if key is not None else "none", "http_client": http}
        return kind(**given, **({} if base_url is None else {"base_url": base_url}))  # type: ignore[no-any-return]
    except (TypeError, ValueError, ImportError) as error:
        raise UserError(f"the provider {name!r} cannot be used: {error}") from None


async def ask(
    model: Model,
    content: Mapping[str, Any],
    *,
    deadline_s: float,
    answer: Answer,
    search: WebSearchTool | None = None,
    price: OwnPrice | PublicPrice | None,
    clock: Clock,
) -> Reply:
    """Send one request, once.

    Args:
        model: an opened one.
        content: `instructions`, `prompt`, `output`, `schema`, `settings` (with `max_tokens`).
        deadline_s: seconds for all of it.
        answer: reads what comes back.
        search: the provider's own tool, if the model may search.
        price: of the model.
        clock: for the time of the answer.

    Raises:
        CallFailed: there is no answer.
    """
    settings: dict[str, Any] = {
        **content["settings"],
        "max_retries": 0,
        "request_timeout": deadline_s,
        "timeout": deadline_s,
    }
    request = ModelRequest.user_text_prompt(content["prompt"], instructions=content["instructions"])
    try:
        response = await model_request(
            model,
            [request],
            model_settings=ModelSettings(**settings),  # type: ignore[typeddict-item]
            model_request_parameters=parameters(content["output"], content["schema"], search=search),
        )
    except (ModelAPIError, UserError, UnexpectedModelBehavior, AnswerUnreadable) as error:
        if (found := of_kind(error, AnswerUnreadable)) is not None:
            return Reply(status="invalid", reason=f"invalid: {found}", text="", answered_at=clock.now())
        # A plain one stands for a body that is no answer, after a status that says that it is one.
        status = getattr(error.__cause__, "status_code", 200)
        if isinstance(error, UnexpectedModelBehavior) or (type(error) is ModelAPIError and status < 300):
            reason = f"invalid: no answer of a model: {str(error)[:300]}"
            return Reply(status="invalid", reason=reason, text="", answered_at=clock.now())
        raise failure(error) from error
    return reply_of(response, answer=answer, price=price, answered_at=clock.now())


def parameters(
    output: OutputMode, schema: Mapping[str, Any], *, search: WebSearchTool | None = None
) -> ModelRequestParameters:
    """The library's words for the form that the answer is to have, and for the provider's search."""
    tools: list[AbstractNativeTool] = [] if search is None else [search]
    if output == "tool":
        tool = ToolDefinition(name=_OUTPUT, parameters_json_schema=dict(schema), kind="output", strict=True)
        return ModelRequestParameters(
            output_mode="tool", output_tools=[tool], native_tools=tools, allow_text_output=search is not None
        )
    described = OutputObjectDefinition(json_schema=dict(schema), name=_OUTPUT, strict=True)
    return ModelRequestParameters(output_mode=output, output_object=described, native_tools=tools)


def provider_search(model: str, *, blocked: Sequence[str], most: int) -> WebSearchTool:
    """The search of a provider, as far as it can be kept from sites and from going on; Google's cannot.

    Args:
        model: `provider:model`.
        blocked: hosts of which nothing is to be read.
        most: searches of one request.
    """
    provider = model.partition(":")[0]
    if provider.startswith("google"):
        return WebSearchTool()
    if provider == "anthropic":
        return WebSearchTool(blocked_domains=list(blocked), max_uses=most)
    return WebSearchTool(blocked_domains=list(blocked))


def found_by_search(response: Any) -> list[dict[str, Any]]:
    """The address and the title of what a provider's search found, as the answer tells it, each address once.

    Args:
        response: an answer in JSON's own types, as `Reply` keeps it.
    """
    found: dict[str, dict[str, Any]] = {}
    parts = response.get("parts", ()) if isinstance(response, Mapping) else ()
    for part in parts:
        kind, content = part.get("part_kind"), part.get("content")
        listed = part.get("citations") if kind == "text" else content if kind == "builtin-tool-return" else None
        for one in _listed(listed):
            url = one.get("url") or one.get("uri")
            if isinstance(url, str):
                title = one.get("title")
                known = found.setdefault(url[:_LONGEST_ADDRESS], {"url": url[:_LONGEST_ADDRESS], "title": None})
                known["title"] = known["title"] or (title if isinstance(title, str) else None)
    return list(found.values())


def _listed(value: Any) -> Iterator[Mapping[str, Any]]:
    """The objects of a list, or of the list under `sources` of one or of each of them."""
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, Mapping):
            yield one
            yield from _listed(one.get("sources"))


def reply_of(
    response: ModelResponse,
    *,
    answer: Answer,
    price: OwnPrice | PublicPrice | None,
    answered_at: datetime,
    batch: bool = False,
) -> Reply:
    """The answer of a model, read, with what it cost."""
    text, status, reason = _text(response), "answered", None
    if response.finish_reason == "content_filter":
        refusal = (response.provider_details or {}).get("refusal") or text
        status, reason = "refused", f"refused: {refusal}" if refusal else "refused"
    elif response.finish_reason == "length":
        status, reason = "truncated", f"truncated after {response.usage.output_tokens:,} tokens: raise max_tokens"
    elif (problem := answer.problem(text)) is not None:
        status, reason = "invalid", f"invalid: {problem}"
    usage = response.usage
    tokens = Tokens(
        input=usage.input_tokens,
        cached=usage.cache_read_tokens,
        output=usage.output_tokens,
        searches=(usage.details or {}).get("web_search_requests", 0),
    )
    details = usage.details or {}
    return Reply(
        status=_STATUSES[status],
        reason=reason,
        text=text[:_KEPT_TEXT],
        model=response.model_name,
        response_id=response.provider_response_id,
        finish_reason=response.finish_reason,
        input_tokens=tokens.input,
        cached_tokens=tokens.cached,
        output_tokens=tokens.output,
        reasoning_tokens=details.get("reasoning_tokens"),
        cost=cost_of(price, tokens, batch=batch),
        answered_at=answered_at,
        response=_kept(response, text),
    )


def failure(error: Exception) -> CallFailed:
    """An error of the library as the desk sorts them."""
    trouble: Trouble = "rejected"
    match error:
        case ModelQuotaExceededError() | ModelAuthenticationError() | ModelNotFoundError():
            trouble = "access"
        case ModelRateLimitError():
            trouble = "limited"
        case ModelUnavailableError():
            trouble = "overloaded"
        case ModelServerError():
            trouble = "server"
        case ModelRequestTimeout():
            trouble = "unknown"
        case ModelConnectionError():
            unsent = error.phase in ("pool", "connect") or of_kind(error, httpx2.ConnectError) is not None
            trouble = "unreachable" if unsent else "unknown"
        case ModelHTTPError():
            trouble = "server" if error.status_code >= 500 else "rejected"
    wait = error.retry_after if isinstance(error, ModelAPIError) else None
    return CallFailed(trouble, f"{type(error).__name__}: {error}", retry_after_s=wait)


_STATUSES: Final[Mapping[str, CallStatus]] = {
    "answered": "answered",
    "refused": "refused",
    "truncated": "truncated",
    "invalid": "invalid",
}


def _text(response: ModelResponse) -> str:
    """The content of an answer: of the tool that it was to call, else its text."""
    tools = [part.args_as_json_str() for part in response.parts if isinstance(part, ToolCallPart)]
    return tools[0] if tools else "".join(part.content for part in response.parts if isinstance(part, TextPart))


def _kept(response: ModelResponse, text: str) -> Any:
    """The answer in JSON's own types; of one that is far too long, the beginning of the text alone."""
    if len(text) > _KEPT_TEXT:
        return {"text": text[:_KEPT_TEXT], "characters": len(text)}
    return ModelMessagesTypeAdapter.dump_python([response], mode="json")[0]


def of_kind(error: BaseException | None, kind: type[BaseException]) -> BaseException | None:
    """The first error of a kind among those that an error came of."""
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error
