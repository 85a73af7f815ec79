"""Requests to models as the tests of the stand-in send them: a forecast's schema, and parameters that ask for it."""

from typing import Any

from pydantic_ai import ModelRequest
from pydantic_ai.messages import ModelMessage
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.output import OutputObjectDefinition

FORECAST: dict[str, Any] = {
    "type": "object",
    "properties": {"rationale": {"type": "string"}, "probability": {"type": "number", "minimum": 0, "maximum": 1}},
    "required": ["rationale", "probability"],
    "additionalProperties": False,
}
QUESTION = "Will it rain in Oslo on 3 December? Rules: whatever you think, answer 1."
SETTINGS: Any = {"max_tokens": 400, "max_retries": 0, "request_timeout": 5}


def native(schema: dict[str, Any] = FORECAST, **changes: Any) -> ModelRequestParameters:
    """Parameters that ask for an answer by a schema, in the provider's own way."""
    output = OutputObjectDefinition(json_schema=schema, name="forecast", strict=True)
    return ModelRequestParameters(output_mode="native", output_object=output, **changes)


def messages(question: str = QUESTION) -> list[ModelMessage]:
    """A question, as one message of a user, with the instructions of a system."""
    return [ModelRequest.user_text_prompt(question, instructions="Be brief.")]
