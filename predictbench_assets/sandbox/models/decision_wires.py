"""The wires of decision models that are not OpenAI's: Google's and System One's, one protocol but for a few names.

Source of the shapes: what the client of 2026-11 sends and reads.
"""

import json
from collections.abc import Mapping
from typing import Any

from predictbench_assets.sandbox.models.answers import Asked, Usage, prompt_tokens
from predictbench_assets.sandbox.models.openai_wire import Unreadable, decision, returned_model


def read(body: Mapping[str, Any]) -> Asked:
    """Read a request for decisions; the questions are part of the prompt.

    Raises:
        Unreadable: there are no questions, or one without instructions, which both want.
    """
    questions, shown = body.get("questions"), body.get("input", body.get("state"))
    if not isinstance(questions, dict) or not questions:
        raise Unreadable("questions are missing")
    if not all(each.get("instructions") for each in questions.values()):
        raise Unreadable("instructions are missing")
    return Asked(
        model=str(body.get("model")),
        system="\n".join(json.dumps(each) for each in questions.values()),
        user=shown if isinstance(shown, str) else json.dumps(shown),
    )


def google(body: Mapping[str, Any], asked: Asked, kind: str, _: str) -> tuple[dict[str, Any], Usage]:
    """Google's answer, which names no model."""
    usage = Usage(input=prompt_tokens(asked))
    counted = {"total_input_tokens": usage.input, "total_output_tokens": 0}
    return {"answers": _answers(body, asked, kind), "usage": counted}, usage


def system_one(body: Mapping[str, Any], asked: Asked, kind: str, _: str) -> tuple[dict[str, Any], Usage]:
    """System One's answer."""
    usage = Usage(input=prompt_tokens(asked))
    counted = {"input_tokens": usage.input, "output_tokens": 0}
    return {"model": returned_model(asked.model), "answers": _answers(body, asked, kind), "usage": counted}, usage


def _answers(body: Mapping[str, Any], asked: Asked, kind: str) -> dict[str, Any]:
    answers = {name: _answer(asked, name, question, kind) for name, question in body["questions"].items()}
    first = next(iter(answers))
    if kind in {"missing", "other"}:
        gone = answers.pop(first)
        return answers if kind == "missing" else {"market_999999999": gone, **answers}
    return answers


def _answer(asked: Asked, name: str, question: Mapping[str, Any], kind: str) -> dict[str, Any]:
    offered = question.get("criteria") or {} if question.get("type") == "choice" else None
    form = {"type": "predicate"} if offered is None else {"type": "choice", "choices": [{"value": o} for o in offered]}
    made = decision(asked, {"name": name, **form}, kind)
    if made["type"] == "predicate":
        return {"type": "noul", "noul": made["probability"]}
    if made["type"] == "choice":
        made["probabilities"] = {each["value"]: each["probability"] for each in made["probabilities"]}
    del made["name"]
    return made
