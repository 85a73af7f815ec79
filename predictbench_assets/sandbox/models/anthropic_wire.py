"""Anthropic's wire: messages, as JSON in and out.

Source of the shapes: the published API reference, and what the client of 2026-11 sends and reads.
"""

import json
from collections.abc import Mapping
from typing import Any

from predictbench_assets.sandbox.models.answers import Answer, Asked
from predictbench_assets.sandbox.models.openai_wire import (
    Unreadable,
    arguments_of,
    pieces,
    returned_model,
    sample_of,
    text_of,
)

_STOPS = {"stop": "end_turn", "length": "max_tokens", "refusal": "refusal", "filter": "refusal"}


def read_message(body: Mapping[str, Any]) -> Asked:
    """Read a request for a message.

    Raises:
        Unreadable: there is no model, no limit of tokens or no message.
    """
    messages, limit = body.get("messages"), body.get("max_tokens")
    if not isinstance(body.get("model"), str) or not isinstance(limit, int) or not isinstance(messages, list):
        raise Unreadable("model, max_tokens and messages are required")
    wanted = (body.get("output_config") or {}).get("format") or body.get("output_format") or {}
    schema, tool, search = wanted.get("schema"), None, False
    choice = body.get("tool_choice") or {}
    for each in body.get("tools") or ():
        search = search or str(each.get("type")).startswith("web_search")
        chosen = choice.get("type") == "any" or (
            choice.get("type") == "tool" and choice.get("name") == each.get("name")
        )
        if schema is None and chosen and "input_schema" in each:
            schema, tool = each["input_schema"], each["name"]
    return Asked(
        model=body["model"],
        system=text_of(body.get("system")),
        user="\n".join(text_of(each.get("content")) for each in messages),
        schema=schema,
        tool=tool,
        seed=sample_of(body),
        max_tokens=limit,
        search=search,
        stream=bool(body.get("stream")),
    )


def message(asked: Asked, made: Answer, identity: str) -> dict[str, Any]:
    """A message; its input tokens are those that were not cached."""
    content: list[dict[str, Any]] = []
    if made.sources:
        use, found = f"srvtoolu_{identity}", [_found(each) for each in made.sources]
        query = {"query": asked.user[:80]}
        content.append({"type": "server_tool_use", "id": use, "name": "web_search", "input": query})
        content.append({"type": "web_search_tool_result", "tool_use_id": use, "content": found})
    stop = _STOPS[made.finish]
    if asked.tool and made.finish == "stop" and (given := arguments_of(made.text)) is not None:
        content.append({"type": "tool_use", "id": f"toolu_{identity}", "name": asked.tool, "input": given})
        stop = "tool_use"
    elif made.text and stop != "refusal":
        content.append({"type": "text", "text": made.text, "citations": None})
    usage: dict[str, Any] = {
        "input_tokens": made.usage.input - made.usage.cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": made.usage.cached,
        "output_tokens": made.usage.output,
        "output_tokens_details": {"thinking_tokens": made.usage.reasoning},
        "service_tier": "standard",
    }
    if made.sources:
        usage["server_tool_use"] = {"web_search_requests": 1, "web_fetch_requests": 0}
    return {
        "id": f"msg_{identity}",
        "type": "message",
        "role": "assistant",
        "model": returned_model(asked.model),
        "content": content,
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": usage,
    }


def message_events(whole: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The events of a message that is streamed."""
    usage = {**whole["usage"], "output_tokens": 1}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {**whole, "content": [], "stop_reason": None, "usage": usage}}
    ]
    for index, block in enumerate(whole["content"]):
        empty, deltas = block, []
        if block["type"] == "text":
            empty = {**block, "text": ""}
            deltas = [{"type": "text_delta", "text": piece} for piece in pieces(block["text"])]
        elif block["type"] in {"tool_use", "server_tool_use"}:
            empty = {**block, "input": {}}
            text = json.dumps(block["input"])
            deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces(text)]
        events.append({"type": "content_block_start", "index": index, "content_block": empty})
        events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        events.append({"type": "content_block_stop", "index": index})
    end = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    events.append({"type": "message_delta", "delta": end, "usage": whole["usage"]})
    events.append({"type": "message_stop"})
    return events


def _found(source: Mapping[str, str]) -> dict[str, Any]:
    return {"type": "web_search_result", **source, "encrypted_content": "c3RhbmQtaW4=", "page_age": None}
