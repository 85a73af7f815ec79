"""Behaviour by model name: `stand-in` answers well, `stand-in-429` never does, `stand-in-slow-2-500-once` does late.

After `stand-in` a name has a kind, and modifiers, in any order, with hyphens between. Text before `stand-in` and names
without it are good models: `gpt-5-mini` answers as `stand-in` does. The kinds are the keys of `KINDS`, the modifiers:

| modifier | effect |
|---|---|
| `slow-S` | each answer takes S seconds, such as `slow-2` or `slow-0.5` |
| `once` | only the first request of each prompt goes wrong |
| `share-N` | only N % of the prompts go wrong, always the same ones |
| `rpm-N` | more than N requests within a minute are answered 429 |
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from predictbench_assets.failures import PermanentError
from predictbench_assets.sandbox.latent import mixed

KINDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        # An error before an answer: nothing is billed.
        "400": "400, the request is invalid",
        "401": "401, the key is refused",
        "403": "403, the key may not use the model",
        "404": "404, there is no such model",
        "429": "429, the rate limit is reached, with Retry-After",
        "quota": "429 of a quota that is used up, which no waiting helps",
        "500": "500",
        "503": "503",
        "529": "529, overloaded",
        "context": "400, the prompt is longer than the model's context",
        "secret": "401, and the error repeats the caller's key",
        # A connection that fails after the request was read: the answer may have been billed.
        "reset": "the connection is reset after the request was read",
        "cut": "half of the body, then the connection closes",
        "hang": "no answer, ever",
        "drip": "the body comes byte by byte, ten in a second",
        "html": "200 with a page of HTML",
        "redirect": "307 to another host, where the key must not go: counted as `POST /v1/elsewhere` if it does",
        "bomb": "a body that is 64 MB of blanks once unpacked, and 64 kB on the wire",
        # An answer that was paid for, and is not what was asked.
        "refusal": "a refusal, in the provider's own field",
        "filter": "the provider's content filter ended the answer",
        "truncated": "half of the JSON, finished by length",
        "prose": "a sentence with the number in it, no JSON",
        "fenced": "the JSON within a Markdown fence",
        "empty": "no text",
        "nan": "NaN for each probability",
        "62": "62 for each probability",
        "text": 'each probability as text, such as "0.9"',
        "10mb": "a rationale of ten megabytes",
        "other": "the id of another market, one of none was asked for",
        "missing": "a market of several, or the probability, is left out",
        "extra": "a field that the schema does not have",
        "scripts": "HTML and scripts in the rationale",
        "invisible": "invisible, control and direction characters in the rationale",
        "obeys": "a weak model: does as a market's text says, such as `answer 1`; all other models do not",
        "cites": "a source of a prediction market is cited in the rationale",
        "leaky": "a search service that leaves nothing out, whatever it was told",
        # Some of the above, by a hash.
        "flaky": "`flaky-N`: N % of requests are 429, 500, 529, reset or cut; asked again they may be answered",
        "messy": "`messy-N`: N % of prompts are answered with a refusal, prose, nothing, 62 or half the JSON",
        # What happens to a batch of requests, whose rows otherwise go the way of single requests.
        "batchfailed": "a batch job fails before any of its rows is asked",
        "batchnever": "a batch job never ends",
        "batchlost": "a batch job is made, and the answer that names it is lost by a reset",
        "batchexpired": "a batch job expires: each second row has no answer",
    }
)

_TRANSIENT = ("429", "500", "529", "reset", "cut")
_MESSES = ("refusal", "prose", "empty", "62", "truncated")
_NUMBERED = ("slow", "share", "rpm", "flaky", "messy")


class UnknownBehaviour(PermanentError):
    """A model name with a part that means nothing; the text lists what does."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """Conduct of a model: what goes wrong, how often, and how long an answer takes."""

    kind: str = ""
    """A key of `KINDS`; empty for a good model."""
    seconds: float = 0.0
    once: bool = False
    percent: int = 100
    """Share of prompts (of requests for `flaky`) that go wrong."""
    per_minute: int | None = None

    def fault(self, digest: int, turn: int) -> str:
        """The kind of fault that a request meets; empty for a good answer.

        Args:
            digest: hash of the model and the prompt.
            turn: earlier requests of the same prompt.
        """
        if not self.kind or (self.once and turn):
            return ""
        drawn = mixed(digest, turn) if self.kind == "flaky" else mixed(digest)
        if drawn % 100 >= self.percent:
            return ""
        choices = {"flaky": _TRANSIENT, "messy": _MESSES}.get(self.kind, (self.kind,))
        return choices[drawn // 100 % len(choices)]


def behaviour_of(model: str) -> Behaviour:
    """The behaviour that a model's name asks for.

    Raises:
        UnknownBehaviour: a part of the name means nothing.
    """
    parts = [part for part in model.partition("stand-in")[2].split("-") if part]
    kind, seconds, once, percent, per_minute = "", 0.0, False, 100, None
    while parts:
        part = parts.pop(0)
        number = parts.pop(0) if part in _NUMBERED and parts else ""
        if part in _NUMBERED and not re.fullmatch(r"\d{1,6}(\.\d{1,3})?", number):
            raise UnknownBehaviour(f"{model!r}: {part} needs a number, such as {part}-2")
        if part == "slow":
            seconds = float(number)
        elif part == "rpm":
            per_minute = int(float(number))
        elif part == "once":
            once = True
        elif part == "share":
            percent = int(float(number))
        elif part in KINDS:
            kind = part
            percent = int(float(number)) if number else percent
        else:
            raise UnknownBehaviour(
                f"{model!r}: {part!r} is no behaviour of the stand-in; there are {', '.join(KINDS)}, and the "
                "modifiers once, slow-SECONDS, share-PERCENT, rpm-NUMBER"
            )
    return Behaviour(kind, seconds, once, percent, per_minute)
