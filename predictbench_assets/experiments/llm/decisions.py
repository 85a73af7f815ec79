"""One request to a decision model: a question, and the probability of each of its answers from one forward pass."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from pydantic_ai.exceptions import ContentFilterError, ModelAPIError, UnexpectedModelBehavior, UserError
from pydantic_ai.models import Model, check_allow_model_requests
from pydantic_ai.models.decision import (
    ChoiceAnswer,
    ChoiceQuestion,
    DecisionModel,
    DecisionModelSettings,
    DecisionQuestion,
    DecisionRequest,
    DecisionResponse,
    NoulAnswer,
    NoulQuestion,
)

from predictbench_assets.clock import Clock
from predictbench_assets.experiments.llm.client import AnswerUnreadable, failure, of_kind
from predictbench_assets.experiments.llm.model import Reached
from predictbench_assets.experiments.model_calls.desk import CallFailed
from predictbench_assets.experiments.model_calls.prices import Tokens
from predictbench_assets.experiments.model_calls.records import Reply

YES: Final = "yes"
"""The name of the answer to a question about one market."""

_NAME: Final = "outcome"
_SHOWN: Final = 200


async def decide(model: Model, content: Mapping[str, Any], *, deadline_s: float, reached: Reached) -> Reply:
    """Send one request, once.

    Args:
        model: an opened one.
        content: `instructions`, `state`, and `options` (a description by name) or None for a question of yes or no.
        deadline_s: seconds for all of it.
        reached: the way to the model, with its price.

    Returns:
        A reply whose text is a JSON object of probabilities by option, of `YES` alone where there are none.

    Raises:
        CallFailed: there is no answer.
    """
    if not isinstance(model, DecisionModel):
        raise CallFailed("rejected", f"{model.model_name} is no decision model")
    check_allow_model_requests()
    options = content["options"]
    question: DecisionQuestion = (
        NoulQuestion(instructions=content["instructions"])
        if options is None
        else ChoiceQuestion(criteria=dict(options), instructions=content["instructions"])
    )
    request = DecisionRequest(state=content["state"], questions={_NAME: question})
    settings = DecisionModelSettings(max_retries=0, timeout=deadline_s)
    try:
        async with asyncio.timeout(deadline_s):
            response = await model.decide(request, settings)
    except TimeoutError:
        raise CallFailed("unknown", f"no answer within {deadline_s:g} s") from None
    except (ModelAPIError, UserError, UnexpectedModelBehavior, AnswerUnreadable) as error:
        return _unusable(error, reached)
    return _read(response, reached.clock, reached)


def _read(response: DecisionResponse, clock: Clock, reached: Reached) -> Reply:
    answer = response.answers[_NAME]
    if isinstance(answer, NoulAnswer):
        probabilities = {YES: answer.noul}
    elif isinstance(answer, ChoiceAnswer):
        probabilities = answer.probabilities
    else:
        return Reply(
            status="invalid", reason="invalid: an answer to another question", text="", answered_at=clock.now()
        )
    usage = response.usage
    tokens = Tokens(input=usage.input_tokens, cached=usage.cache_read_tokens, output=usage.output_tokens)
    return Reply(
        status="answered",
        text=msgspec.json.encode(probabilities).decode(),
        model=response.model_name,
        response_id=response.provider_response_id,
        finish_reason="stop",
        input_tokens=tokens.input,
        cached_tokens=tokens.cached,
        output_tokens=tokens.output,
        cost=reached.cost(tokens),
        answered_at=clock.now(),
        response=msgspec.to_builtins(probabilities),
    )


def _unusable(error: Exception, reached: Reached) -> Reply:
    """An answer that was paid for and is none; with its usage, where the body tells it.

    Raises:
        CallFailed: the error is not about an answer.
    """
    now = reached.clock.now()
    if (found := of_kind(error, AnswerUnreadable)) is not None:
        return Reply(status="invalid", reason=f"invalid: {found}", text="", answered_at=now)
    if not isinstance(error, UnexpectedModelBehavior):
        raise failure(error) from error
    body = _body(error)
    reported = body.get("usage")
    usage: Mapping[str, Any] = reported if isinstance(reported, dict) else {}
    read, written = (usage.get(name, usage.get(f"total_{name}")) for name in ("input_tokens", "output_tokens"))
    details = usage.get("input_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    tokens = None
    if isinstance(read, int) and read >= 0:
        tokens = Tokens(
            input=read,
            cached=cached if isinstance(cached, int) and 0 <= cached <= read else 0,
            output=written if isinstance(written, int) and written >= 0 else 0,
        )
    model = body.get("model")
    refused = isinstance(error, ContentFilterError)
    return Reply(
        status="refused" if refused else "invalid",
        reason="refused: the model declined to answer" if refused else f"invalid: {_problem(error, body)}",
        text="",
        model=model if isinstance(model, str) else None,
        finish_reason="content_filter" if refused else None,
        input_tokens=None if tokens is None else tokens.input,
        cached_tokens=None if tokens is None else tokens.cached,
        output_tokens=None if tokens is None else tokens.output,
        cost=None if tokens is None else reached.cost(tokens),
        answered_at=now,
        response={"body": (error.body or "")[:_KEPT]},
    )


_KEPT: Final = 20_000
"""Characters of an unusable answer that are kept."""


def _body(error: UnexpectedModelBehavior) -> dict[str, Any]:
    try:
        body = json.loads(error.body or "")  # it knows NaN
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def _problem(error: UnexpectedModelBehavior, body: Mapping[str, Any]) -> str:
    """The reason why an answer is unusable, in words of ours where its form lets it be told."""
    given = _given(body)
    if not body:
        return f"no answer of a decision model: {_shown(error.body or '')}"
    if [name for name, _ in given] != [_NAME]:
        return f"answers to {_shown([name for name, _ in given])} instead of the one question"
    [(_, one)] = given
    several = one.get("probabilities")
    if isinstance(several, list):
        shares = [each.get("probability") for each in several if isinstance(each, dict)]
    else:
        shares = list(several.values()) if isinstance(several, dict) else []
    for value in shares or [one.get("noul", one.get("probability"))]:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return f"a probability is {_shown(value)}, no number"
        if not 0 <= value <= 1:
            return f"a probability is {value}, not from 0 to 1"
    return "the probabilities are not of the options that were given, or do not sum to 1"


def _given(body: Mapping[str, Any]) -> list[tuple[object, Mapping[str, Any]]]:
    """The answers of a body, each with the name of its question, which Google has the number of."""
    answers = body.get("answers")
    if isinstance(answers, dict):
        return [(_NAME if name == "q0" else name, one) for name, one in answers.items() if isinstance(one, dict)]
    return [(one.get("name"), one) for one in answers if isinstance(one, dict)] if isinstance(answers, list) else []


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
