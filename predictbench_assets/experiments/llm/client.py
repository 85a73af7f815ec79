"""The client of one provider, opened once a run, and one request to a model by it: sent once, with a deadline.

Everything that comes back is a value: a refusal and a cut text are paid for. Only what was not answered raises.
"""

import sys
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
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

_MOST_TOKENS: Final = 1_000_000_000
"""More than any model can read or write in one call."""

_SHOWN: Final = 300
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
    name: str,
    *,
    key: SecretStr | None,
    base_url: str | None,
    connections: int,
    most_bytes: int = 8 << 20,
    chat: bool = True,
    output: OutputMode = "tool",
    settings: Iterable[str] = (),
) -> AsyncIterator[Model]:
    """A model, with a client that is closed afterwards.

    Args:
        name: as pydantic-ai has it, `provider:model`.
        key: None for a server that wants none.
        base_url: address of a server that is not the provider's own.
        connections: requests at once.
        most_bytes: of one answer that are read.
        chat: whether a server of one's own is asked over the API that all of them have; the other one has searches.
        output: the way in which it will be asked for the form of its answers.
        settings: names of the settings of requests.

    Raises:
        UserError: there is no such provider, it wants something else, or it cannot do what will be asked.
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
        opened = infer_model(f"{provider_name}:{model}", provider_factory=lambda _: provider)
        if output == "native" and not opened.profile.get("supports_json_schema_output", False):
            raise UserError(f'{name} is not known to take a JSON schema: add output = "tool" to its table')
        if unknown := sorted(set(settings) - _settings_of(opened)):
            raise UserError(f"{', '.join(unknown)} in settings: {name} has no such setting")
        yield opened


def _settings_of(model: Model) -> set[str]:
    """The settings of a request that a model's wire knows; others the library would drop without a word."""
    wire = vars(sys.modules[type(model).__module__])
    known = [kind for name, kind in wire.items() if name.endswith("ModelSettings")]
    return {name for kind in (ModelSettings, *known) for name in getattr(kind, "__annotations__", ())}


def _provider(name: str, key: SecretStr | None, base_url: str | None, http: httpx2.AsyncClient) -> Provider[Any]:
    try:
        kind: Any = infer_provider_class(name)
        given: dict[str, Any] = {"api_key": key.get_secret_value() if key is not None else "none", "http_client": http}
        return kind(**given, **({} if base_url is None else {"base_url": base_url}))  # type: ignore[no-any-return]
    except TypeError:
        raise UserError(
            f"the provider {name!r} cannot be used with an address or a client of our own: where its server speaks as "
            f"OpenAI's does, write model = \"openai:...\" with base_url, the address, and api_key, the key's variable"
        ) from None
    except (ValueError, ImportError) as error:
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
        status = getattr(error.__cause__, "status_code", None) or getattr(error.__cause__, "code", None) or 200
        if isinstance(error, UnexpectedModelBehavior) or (type(error) is ModelAPIError and status < 300):
            return _no_model(error, clock)
        raise failure(error) from error
    except (LookupError, ValueError, TypeError, AttributeError, RecursionError) as error:  # the library trips over it
        return _no_model(error, clock)
    return reply_of(response, answer=answer, price=price, answered_at=clock.now())


def _no_model(error: Exception, clock: Clock) -> Reply:
    """The reply that stands for a body that is none of a model's."""
    reason = f"invalid: no answer of a model: {_line(str(error).partition(chr(10))[0] or type(error).__name__)}"
    return Reply(status="invalid", reason=reason, text="", answered_at=clock.now())


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
    elif len(text) > _KEPT_TEXT:
        status, reason = "invalid", f"invalid: an answer of {len(text):,} characters, more than {_KEPT_TEXT:,}"
    elif sum(isinstance(part, ToolCallPart) for part in response.parts) > 1:
        status, reason = "invalid", "invalid: several answers"
    elif (problem := answer.problem(text)) is not None:
        status, reason = "invalid", f"invalid: {problem}"
    tokens, reasoning = _tokens(response)
    return Reply(
        status=_STATUSES[status],
        reason=reason,
        text=text[:_KEPT_TEXT],
        model=response.model_name,
        response_id=response.provider_response_id,
        finish_reason=response.finish_reason,
        input_tokens=None if tokens is None else tokens.input,
        cached_tokens=None if tokens is None else tokens.cached,
        output_tokens=None if tokens is None else tokens.output,
        reasoning_tokens=reasoning,
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
            trouble = "server" if error.status_code >= 500 or error.status_code in _LATER else "rejected"
    wait = error.retry_after if isinstance(error, ModelAPIError) else None
    return CallFailed(trouble, _told(error), retry_after_s=wait)


_LATER: Final = (408, 409, 425)
"""Statuses below 500 by which a server says that it did nothing yet: too slow, a conflict, too early."""


def _told(error: Exception) -> str:
    """What went wrong as one line: the provider's own words where it has some."""
    if isinstance(error, ModelRequestTimeout):
        return "no answer in time: raise timeout_seconds of its limits if the model needs longer"
    if isinstance(error, ModelHTTPError):
        return f"{_line(_message(error.body) or 'no reason is given')} (status {error.status_code})"
    if isinstance(error, ModelConnectionError):
        cause: BaseException = error
        while (deeper := cause.__cause__ or cause.__context__) is not None:
            cause = deeper
        return f"the connection failed: {_line(str(cause) or type(cause).__name__)}"
    return _line(str(error) or type(error).__name__)


def _message(body: object) -> str:
    """The words of a provider's error, wherever its wire has them."""
    if isinstance(body, Mapping):
        for name in ("message", "error", "detail"):
            if found := _message(body.get(name)):
                return found
        return ""
    return body if isinstance(body, str) else ""


def _line(text: str) -> str:
    """A text of a server or a library as a part of a sentence."""
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…"


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


def _tokens(response: ModelResponse) -> tuple[Tokens | None, int | None]:
    """The tokens that an answer has taken, and those of its reasoning; None where the provider tells nothing credible.

    Without them a call counts for the most that it can take: a server that counts nothing is not free.
    """
    usage, details = response.usage, response.usage.details or {}
    reasoning, searches = details.get("reasoning_tokens"), details.get("web_search_requests", 0)
    counts = (usage.input_tokens, usage.cache_read_tokens, usage.output_tokens, reasoning or 0, searches)
    if not all(isinstance(count, int) and 0 <= count <= _MOST_TOKENS for count in counts):
        return None, None
    if not usage.input_tokens and not usage.output_tokens:
        return None, None
    tokens = Tokens(
        input=usage.input_tokens,
        cached=min(usage.cache_read_tokens, usage.input_tokens),
        output=usage.output_tokens,
        searches=searches,
    )
    return tokens, reasoning


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
