"""Wires of the stand-in by name: how a request of each is read, and how its answer is written."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

from predictbench_assets.sandbox.models import anthropic_wire, decision_wires, google_wire, openai_wire, sources
from predictbench_assets.sandbox.models.answers import Answer, Asked, Usage, answer, schema_within
from predictbench_assets.sandbox.models.problems import Wire

Body = Mapping[str, Any]
Written = tuple[dict[str, Any], Usage]


@dataclass(frozen=True, slots=True)
class Route:
    """One kind of request that is answered as a model's name says."""

    wire: Wire
    """Wire of its errors and headers."""
    read: Callable[[Body], Asked]
    """Reader of a body; raises `Unreadable`."""
    write: Callable[[Body, Asked, str, str], Written]
    """Writer of the answer to a body: the request, the kind of fault and an identity are given."""
    chunks: Callable[[Mapping[str, Any]], list[dict[str, Any]]] | None = None
    """Cutter of an answer that is streamed; None where none is."""


def _written(form: Callable[[Asked, Answer, str], dict[str, Any]]) -> Callable[[Body, Asked, str, str], Written]:
    def write(_: Body, asked: Asked, kind: str, identity: str) -> Written:
        if asked.schema is None and (schema := schema_within(f"{asked.system}\n{asked.user}")):
            asked = replace(asked, schema=schema)
        made = answer(asked, kind)
        if asked.search:
            made = replace(made, sources=sources.cited(asked))
        return form(asked, made, identity), made.usage

    return write


def _decided(body: Body, asked: Asked, kind: str, _: str) -> Written:
    return openai_wire.decisions(asked, body["questions"], kind)


def _found(form: Callable[[Body, Asked, str, str], dict[str, Any]]) -> Callable[[Body, Asked, str, str], Written]:
    return lambda body, asked, kind, identity: (form(body, asked, kind, identity), Usage())


ROUTES: Final[Mapping[str, Route]] = MappingProxyType(
    {
        "/v1/chat/completions": Route(
            "openai", openai_wire.read_chat, _written(openai_wire.chat), openai_wire.chat_chunks
        ),
        "/v1/responses": Route(
            "openai", openai_wire.read_responses, _written(openai_wire.response), openai_wire.response_events
        ),
        "/v1/decisions": Route("openai", openai_wire.read_decisions, _decided),
        "/v1beta/decisions": Route("google", decision_wires.read, decision_wires.google),
        "/v1/systemone": Route("openai", decision_wires.read, decision_wires.system_one),
        "/v1/messages": Route(
            "anthropic",
            anthropic_wire.read_message,
            _written(anthropic_wire.message),
            anthropic_wire.message_events,
        ),
        "/exa/search": Route("openai", sources.read_search("exa"), _found(sources.exa)),
        "/exa/contents": Route("openai", sources.read_search("exa"), _found(sources.exa)),
        "/tavily/search": Route("openai", sources.read_search("tavily"), _found(sources.tavily)),
    }
)
GOOGLE: Final = Route("google", google_wire.read_generate, _written(google_wire.generated))
