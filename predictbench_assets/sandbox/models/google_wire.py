"""Google's wire: generateContent, as JSON in and out.

Source of the shapes: the published API reference, and what the client of 2026-11 sends and reads.
"""

from collections.abc import Mapping
from typing import Any

from predictbench_assets.sandbox.models.answers import Answer, Asked
from predictbench_assets.sandbox.models.openai_wire import Unreadable, arguments_of, returned_model, text_of

_FINISHES = {"stop": "STOP", "length": "MAX_TOKENS", "refusal": "SAFETY", "filter": "PROHIBITED_CONTENT"}


def read_generate(body: Mapping[str, Any]) -> Asked:
    """Read a request to generate content; the model, which is in the path, is expected in the body as well.

    Raises:
        Unreadable: there are no contents.
    """
    contents = body.get("contents")
    if not isinstance(contents, list) or not contents:
        raise Unreadable("contents are missing")
    config = body.get("generationConfig") or {}
    tools = body.get("tools") or ()
    functions = [each for tool in tools for each in tool.get("functionDeclarations") or ()]
    mode = ((body.get("toolConfig") or {}).get("functionCallingConfig") or {}).get("mode")
    schema, tool = config.get("responseJsonSchema") or config.get("responseSchema"), None
    if schema is None and functions and mode == "ANY":
        first = functions[0]
        # The client writes a name of its own here, the reference another.
        names = ("parameters_json_schema", "parametersJsonSchema", "parameters")
        schema, tool = next((first[name] for name in names if first.get(name)), {}), first["name"]
    return Asked(
        model=str(body["model"]),
        system=text_of((body.get("systemInstruction") or {}).get("parts")),
        user="\n".join(text_of(each.get("parts")) for each in contents),
        schema=schema,
        tool=tool,
        seed=str(config.get("seed", "")),
        max_tokens=config.get("maxOutputTokens"),
        search=any("googleSearch" in each for each in tools),
    )


def generated(asked: Asked, made: Answer, identity: str) -> dict[str, Any]:
    """A generated answer: one candidate."""
    candidate: dict[str, Any] = {"index": 0, "finishReason": _FINISHES[made.finish]}
    if made.finish in {"stop", "length"}:
        part: dict[str, Any] = {"text": made.text}
        if asked.tool and (given := arguments_of(made.text)) is not None:
            part = {"functionCall": {"name": asked.tool, "args": given}}
        candidate["content"] = {"role": "model", "parts": [part]}
    if made.sources:
        chunks = [{"web": {"uri": each["url"], "title": each["title"]}} for each in made.sources]
        candidate["groundingMetadata"] = {"webSearchQueries": [asked.user[:80]], "groundingChunks": chunks}
    return {
        "candidates": [candidate],
        "usageMetadata": {
            "promptTokenCount": made.usage.input,
            "cachedContentTokenCount": made.usage.cached,
            "candidatesTokenCount": made.usage.output - made.usage.reasoning,
            "thoughtsTokenCount": made.usage.reasoning,
            "totalTokenCount": made.usage.input + made.usage.output,
        },
        "modelVersion": returned_model(asked.model),
        "responseId": identity,
    }
