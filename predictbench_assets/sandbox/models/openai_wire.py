"""OpenAI's wire: chat completions, responses, decisions, as JSON in and out.

Source of the shapes: the published API reference, and what the client of 2026-11 sends and reads.
"""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from predictbench_assets.sandbox.models.answers import Answer, Asked, Usage, probability, prompt_tokens, told

SNAPSHOT = "2026-11-01"
"""The date that the name of the model that answered ends with."""


class Unreadable(Exception):
    """A request that is none of its wire's; the text says why."""


def read_chat(body: Mapping[str, Any]) -> Asked:
    """Read a request for a chat completion.

    Raises:
        Unreadable: there are no messages, or the schema of the answer is not strict JSON schema.
    """
    system, user = _spoken(_list(body, "messages"))
    schema, tool = _format_of(body.get("response_format"), "json_schema"), None
    for each in body.get("tools") or ():
        function = each.get("function") or {}
        if schema is None and _chosen(body.get("tool_choice"), function.get("name")):
            schema, tool = function.get("parameters"), function.get("name")
    return Asked(
        model=_model(body),
        system=system,
        user=user,
        schema=schema,
        tool=tool,
        seed=sample_of(body),
        max_tokens=body.get("max_completion_tokens") or body.get("max_tokens"),
        search=body.get("web_search_options") is not None,
        stream=bool(body.get("stream")),
    )


def chat(asked: Asked, made: Answer, identity: str) -> dict[str, Any]:
    """A chat completion."""
    message: dict[str, Any] = {"role": "assistant", "content": made.text, "refusal": None, "annotations": []}
    finish = {"length": "length", "filter": "content_filter"}.get(made.finish, "stop")
    if made.finish == "refusal":
        message |= {"content": None, "refusal": made.text}
    elif made.finish == "filter":
        message["content"] = None
    elif asked.tool:
        function = {"name": asked.tool, "arguments": made.text}
        call = {"id": f"call_{identity}", "type": "function", "function": function}
        message |= {"content": None, "tool_calls": [call]}
        finish = "tool_calls" if finish == "stop" else finish
    message["annotations"] = [
        {"type": "url_citation", "url_citation": {"start_index": 0, "end_index": 0, **source}}
        for source in made.sources
    ]
    return {
        "id": f"chatcmpl-{identity}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": returned_model(asked.model),
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish}],
        "usage": {
            "prompt_tokens": made.usage.input,
            "completion_tokens": made.usage.output,
            "total_tokens": made.usage.input + made.usage.output,
            "prompt_tokens_details": {"cached_tokens": made.usage.cached, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": made.usage.reasoning,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        },
        "service_tier": "default",
        "system_fingerprint": "fp_stand_in",
    }


def chat_chunks(whole: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The chunks of a chat completion that is streamed: the role, the text in pieces, the end, the usage."""
    choice = whole["choices"][0]
    message = choice["message"]
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": piece} for piece in pieces(message["content"] or "")]
    if message["refusal"]:
        deltas.append({"refusal": message["refusal"]})
    for index, call in enumerate(message.get("tool_calls") or ()):
        deltas.append({"tool_calls": [{"index": index, **call}]})
    head = {key: whole[key] for key in ("id", "created", "model", "service_tier", "system_fingerprint")}
    head["object"] = "chat.completion.chunk"
    made = [{**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    made.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}]})
    made.append({**head, "choices": [], "usage": whole["usage"]})
    return made


def read_responses(body: Mapping[str, Any]) -> Asked:
    """Read a request for a response.

    Raises:
        Unreadable: there is no input.
    """
    given = body.get("input")
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    if not isinstance(given, list):
        raise Unreadable("input is missing")
    system, user = _spoken(given)
    system = "\n".join(filter(None, [str(body.get("instructions") or ""), system]))
    schema, tool, search = _format_of((body.get("text") or {}).get("format"), None), None, False
    for each in body.get("tools") or ():
        search = search or str(each.get("type")).startswith("web_search")
        if schema is None and each.get("type") == "function" and _chosen(body.get("tool_choice"), each.get("name")):
            schema, tool = each.get("parameters"), each.get("name")
    return Asked(
        model=_model(body),
        system=system,
        user=user,
        schema=schema,
        tool=tool,
        seed=sample_of(body),
        max_tokens=body.get("max_output_tokens"),
        search=search,
        stream=bool(body.get("stream")),
    )


def response(asked: Asked, made: Answer, identity: str) -> dict[str, Any]:
    """A response object."""
    content: dict[str, Any] = {"type": "output_text", "text": made.text, "logprobs": [], "annotations": []}
    if made.finish == "refusal":
        content = {"type": "refusal", "refusal": made.text}
    else:
        content["annotations"] = [
            {"type": "url_citation", "start_index": 0, "end_index": 0, **source} for source in made.sources
        ]
    unfinished = {"length": "max_output_tokens", "filter": "content_filter"}.get(made.finish)
    status = "incomplete" if unfinished else "completed"
    output: list[dict[str, Any]] = [{"type": "reasoning", "id": f"rs_{identity}", "summary": []}]
    if made.sources:
        action = {
            "type": "search",
            "query": asked.user[:80],
            "sources": [{"type": "url", "url": each["url"]} for each in made.sources],
        }
        output.append({"type": "web_search_call", "id": f"ws_{identity}", "status": "completed", "action": action})
    if asked.tool and made.finish != "refusal":
        call = {"type": "function_call", "id": f"fc_{identity}", "call_id": f"call_{identity}", "status": "completed"}
        output.append({**call, "name": asked.tool, "arguments": made.text})
    else:
        said = {"type": "message", "id": f"msg_{identity}", "role": "assistant", "status": status}
        output.append({**said, "content": [content]})
    return {
        "id": f"resp_{identity}",
        "object": "response",
        "created_at": int(time.time()),
        "completed_at": int(time.time()),
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": {"reason": unfinished} if unfinished else None,
        "instructions": None,
        "max_output_tokens": asked.max_tokens,
        "model": returned_model(asked.model),
        "output": output,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "store": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": _response_usage(made.usage),
        "metadata": {},
    }


def response_events(whole: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The events of a response that is streamed."""
    begun = {**whole, "status": "in_progress", "output": [], "usage": None, "completed_at": None}
    events: list[dict[str, Any]] = [{"type": "response.created", "response": begun}]
    for index, item in enumerate(whole["output"]):
        place = {"output_index": index}
        events.append({"type": "response.output_item.added", **place, "item": {**item, **_emptied(item)}})
        if item["type"] == "function_call":
            place["item_id"] = item["id"]
            kind = "response.function_call_arguments.delta"
            events += [{"type": kind, **place, "delta": piece} for piece in pieces(item["arguments"])]
        for part in item.get("content") or ():
            inner = {**place, "item_id": item["id"], "content_index": 0}
            refused = part["type"] == "refusal"
            key, kind = ("refusal", "response.refusal") if refused else ("text", "response.output_text")
            events.append({"type": "response.content_part.added", **inner, "part": {**part, key: ""}})
            more: dict[str, Any] = {} if refused else {"logprobs": []}
            events += [{"type": f"{kind}.delta", **inner, "delta": piece, **more} for piece in pieces(part[key])]
            events.append({"type": f"{kind}.done", **inner, key: part[key], **more})
            events.append({"type": "response.content_part.done", **inner, "part": part})
        events.append({"type": "response.output_item.done", "output_index": index, "item": item})
    end = "response.incomplete" if whole["status"] == "incomplete" else "response.completed"
    events.append({"type": end, "response": whole})
    return [{**event, "sequence_number": number} for number, event in enumerate(events)]


def _emptied(item: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an item of output that a stream fills later."""
    emptied: dict[str, dict[str, Any]] = {"message": {"content": []}, "function_call": {"arguments": ""}}
    return emptied.get(item["type"], {})


def read_decisions(body: Mapping[str, Any]) -> Asked:
    """Read a request for decisions; the questions are part of the prompt.

    Raises:
        Unreadable: there are no questions.
    """
    questions = _list(body, "questions")
    given = body.get("input")
    system, user = _spoken([{"role": "user", "content": given}] if isinstance(given, str) else _list(body, "input"))
    asked = "\n".join(json.dumps(each) for each in questions)
    return Asked(model=_model(body), system="\n".join(filter(None, [system, asked])), user=user, seed=sample_of(body))


def decisions(asked: Asked, questions: Sequence[Mapping[str, Any]], kind: str) -> tuple[dict[str, Any], Usage]:
    """The decisions on some questions, and their usage: input only."""
    usage = Usage(input=(read := prompt_tokens(asked)), cached=read // 4 // 128 * 128)
    answers = [decision(asked, each, kind) for each in questions]
    if kind == "missing":
        answers = answers[:-1]
    if kind == "other":
        answers[0]["name"] = "market_999999999"
    body = {"model": returned_model(asked.model), "answers": answers, "usage": _response_usage(usage)}
    return body, usage


def decision(asked: Asked, question: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The decision on one question."""
    name, form = question.get("name"), question.get("type")
    if kind in {"refusal", "filter"}:
        return {"name": name, "type": "refusal"}
    if form == "predicate":
        given = told(asked) if kind == "obeys" else None
        share = probability(asked, f"/{name}") if given is None else given
        return {"name": name, "type": form, "probability": _SPOILT_NUMBERS.get(kind, share)}
    offered = question.get("choices" if form == "choice" else "levels") or ()
    options = [each.get("value", each.get("label")) for each in offered]
    weights = [probability(asked, f"/{name}/{option}") for option in options]
    # Rounded, and one in sum all the same: readers check it.
    shares: list[Any] = [round(weight / sum(weights), 4) for weight in weights]
    best = max(range(len(shares)), key=shares.__getitem__)
    shares[best] = round(1 - sum(shares[:best]) - sum(shares[best + 1 :]), 4)
    made: dict[str, Any] = {"name": name, "type": form, "confidence": shares[best]}
    if form == "score":
        made["score"] = round(sum(level * share for level, share in enumerate(shares)), 4)
    else:
        made["choice"] = options[best]
    shares[0] = _SPOILT_NUMBERS.get(kind, shares[0])
    made["probabilities"] = [
        {"value": option, "probability": share}
        if form == "choice"
        else {"label": option, "value": level, "probability": share}
        for level, (option, share) in enumerate(zip(options, shares, strict=True))
    ]
    return made


_SPOILT_NUMBERS: Mapping[str, Any] = {"nan": float("nan"), "62": 62, "text": "0.9"}


def returned_model(model: str) -> str:
    """The name of the dated model that answers to a name."""
    return model if model[-11:-10] == "-" and model[-10:].replace("-", "").isdigit() else f"{model}-{SNAPSHOT}"


def sample_of(body: Mapping[str, Any]) -> str:
    """The sample that a request names: `seed`, or `sample` of its metadata; the empty text where it names none."""
    seed = body.get("seed")
    if seed is None:
        seed = (body.get("metadata") or {}).get("sample", "")
    return str(seed)


def arguments_of(text: str) -> Any:
    """The arguments of a tool; None for a text that is no JSON, which a model then just says."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def pieces(text: str, size: int = 40) -> list[str]:
    """A text cut up as a stream does."""
    return [text[start : start + size] for start in range(0, len(text), size)]


def _response_usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.input,
        "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": 0},
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.input + usage.output,
    }


def _model(body: Mapping[str, Any]) -> str:
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise Unreadable("model is missing")
    return model


def _list(body: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    found = body.get(name)
    if not isinstance(found, list) or not found or not all(isinstance(each, dict) for each in found):
        raise Unreadable(f"{name} is not a list of objects")
    return found


def _spoken(messages: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """The text of the system, and of all the others."""
    system: list[str] = []
    user: list[str] = []
    for message in messages:
        text = text_of(message.get("content"))
        (system if message.get("role") in {"system", "developer"} else user).append(text)
    return "\n".join(system), "\n".join(user)


def text_of(content: object) -> str:
    """The text of a message's content: a text, or parts with a text each."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "\n".join(str(part.get("text") or "") for part in parts if isinstance(part, dict))


def _format_of(wanted: Any, key: str | None) -> Mapping[str, Any] | None:
    """The schema of an answer's format; one that is strict is checked as the provider does."""
    if not isinstance(wanted, dict) or wanted.get("type") != "json_schema":
        return None
    named: Any = wanted.get(key) if key else wanted
    schema = named.get("schema") if isinstance(named, dict) else None
    if not isinstance(schema, dict):
        raise Unreadable("the format has no schema")
    if named.get("strict"):
        _check_strict(schema, "")
    return schema


def _check_strict(schema: Any, path: str) -> None:
    """Refuse what strict mode refuses: optional fields, and objects that are open."""
    if isinstance(schema, list):
        for each in schema:
            _check_strict(each, path)
    if not isinstance(schema, dict):
        return
    properties = schema.get("properties")
    if isinstance(properties, dict):
        if set(schema.get("required") or ()) != set(properties):
            raise Unreadable(f"strict: all properties of {path or 'the schema'} must be in required")
        if schema.get("additionalProperties") is not False:
            raise Unreadable(f"strict: additionalProperties of {path or 'the schema'} must be false")
        for name, each in properties.items():
            _check_strict(each, f"{path}/{name}")
    for key in ("items", "anyOf", "prefixItems"):
        _check_strict(schema.get(key), f"{path}/{key}")
    for name, each in (schema.get("$defs") or {}).items():
        _check_strict(each, f"$defs/{name}")


def _chosen(choice: Any, name: object) -> bool:
    """True where a tool must be called, or is the one that must be."""
    if isinstance(choice, dict):
        return name in {choice.get("name"), (choice.get("function") or {}).get("name")}
    return bool(choice == "required")
