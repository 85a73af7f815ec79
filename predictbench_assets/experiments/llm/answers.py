"""The form that a model's answer is to have, and the reading of it: as given, or refused with the reason."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

OutputMode = Literal["native", "tool", "prompted"]
"""How the form is asked for: by the provider's own JSON schema, by a tool to be called, or in the prompt."""

_SHOWN: Final = 60


class Answer:
    """The form of an answer about one market, or about several with a number each."""

    def __init__(self, numbers: Sequence[int] | None = None) -> None:
        self._numbers = None if numbers is None else [str(number) for number in numbers]

    @property
    def schema(self) -> dict[str, Any]:
        """The form as a JSON schema; the rationale is before what it leads to, since models write in that order."""
        probability = {"type": "number", "minimum": 0, "maximum": 1}
        if self._numbers is None:
            return _object({"rationale": {"type": "string"}, "probability": probability})
        each = _object(dict.fromkeys(self._numbers, probability))
        return _object({"rationale": {"type": "string"}, "probabilities": each})

    def problem(self, text: str) -> str | None:
        """The reason why a text is no such answer; None for one that is."""
        try:
            self.read(text)
        except ValueError as error:
            return str(error)
        return None

    def read(self, text: str) -> tuple[str, dict[str, float]]:
        """The rationale, and the probabilities by number; of one market under `""`.

        Raises:
            ValueError: it is no such answer; the text has the reason.
        """
        if not text.strip():
            raise ValueError("empty")
        try:
            given = msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
            raise ValueError(f"no JSON: {_shown(text)}") from None
        if not isinstance(given, dict):
            raise ValueError(f"no JSON object: {_shown(text)}")
        if unknown := sorted(given.keys() - self.schema["properties"].keys()):
            raise ValueError(f"a key that was not asked for: {_shown(unknown[0])}")
        rationale = given.get("rationale")
        if not isinstance(rationale, str):
            raise ValueError("no rationale" if rationale is None else "a rationale that is no text")
        if self._numbers is None:
            return rationale, {"": _probability("probability", given)}
        several = given.get("probabilities")
        if not isinstance(several, dict):
            raise ValueError("no probabilities")
        if unknown := sorted(several.keys() - set(self._numbers)):
            raise ValueError(f"a probability of what was not asked: {_shown(unknown[0])}")
        return rationale, {number: _probability(number, several) for number in self._numbers}


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def _probability(name: str, given: Mapping[str, Any]) -> float:
    value = given.get(name)
    if value is None:
        raise ValueError(f"no {name}" if name == "probability" else f"no probability of {name}")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"the probability is {_shown(value)}, no number")
    if not (math.isfinite(value) and 0 <= value <= 1):
        raise ValueError(f"the probability is {_shown(value)}, not from 0 to 1")
    return float(value)


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
