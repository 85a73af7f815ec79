"""Answers that fit the JSON schema which a request sent, the same for the same model, prompt and sample.

The probability of each market is drawn from a hash, near the price where the prompt shows one; samples of one prompt
differ a little. A token is four bytes.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any, Final

MAX_DEPTH: Final = 24
"""Depth at which a schema that refers to itself is left."""

_ID_NAMES = re.compile(r"(?:^|_)ids?$|^market$", re.IGNORECASE)
_IDS_IN_TEXT = re.compile(r"""["']?\b(?:market_id|market|id)["']?\s*[:=]\s*["']?([\w-]{1,80})""", re.IGNORECASE)
_TOLD = re.compile(r"\banswer\s+(?:(?:with|exactly|only)\s+)*(\d+(?:\.\d+)?)(\s*%)?", re.IGNORECASE)
_BOUNDS_IN_TEXT = re.compile(r"\b(minimum|maximum)\W+(-?\d+(?:\.\d+)?)")
_PRICES_IN_TEXT = re.compile(r"\bprice\b[^\n:]{0,60}: *(0?\.\d+)", re.IGNORECASE)
_SCRIPTS = (
    "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\"> "
    "<a href=\"javascript:document.title='taken'\">why</a> </textarea></style><svg/onload=alert(1)> "
    "[link](javascript:alert(1)) "
)
_INVISIBLE = "\u200b\u200d\ufeff\u202eback\u202c\u2066\u2069\x00\x07\x1b[31m\x7f\x85\u2028\U000e0041\ud800 "
_CITED = "As https://polymarket.com/event/the-question trades at 37 cents, "
_NUMBERS = frozenset({"number", "integer"})
_TEN_MEGABYTES = 10 * 2**20
_OTHER_ID = "999999999"
_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Asked:
    """One request for an answer, whatever wire it came on."""

    model: str
    system: str
    user: str
    """Text of all messages that are not the system's, in order."""
    schema: Mapping[str, Any] | None = None
    """JSON schema of the answer; None where text was asked for."""
    tool: str | None = None
    """Name of the tool whose arguments are the answer; None for an answer as text."""
    seed: str = ""
    """Sample; requests that differ in nothing else get another answer."""
    max_tokens: int | None = None
    search: bool = False
    """True where the provider's own web search was offered."""
    stream: bool = False

    digest: str = field(init=False, repr=False)
    """SHA-256 of the model, the prompt, the schema and the sample."""
    prompt_digest: str = field(init=False, repr=False)
    """SHA-256 of the model and the prompt alone."""

    def __post_init__(self) -> None:
        """Work out the digests once: an answer draws from them many times."""
        prompt = [self.model, self.system, self.user]
        object.__setattr__(self, "prompt_digest", _digest(*prompt))
        schema = json.dumps(self.schema, sort_keys=True)
        object.__setattr__(self, "digest", _digest(*prompt, schema, self.tool or "", self.seed))


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one answer: `cached` of the input, `reasoning` of the output."""

    input: int = 0
    cached: int = 0
    output: int = 0
    reasoning: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that was worked out, whatever wire it leaves on."""

    text: str
    finish: str
    """stop, length, filter or refusal."""
    usage: Usage
    sources: Sequence[Mapping[str, str]] = field(default_factory=tuple)
    """URL and title of pages that the provider's own search found."""


def answer(asked: Asked, kind: str) -> Answer:
    """The answer to a request, good where `kind` is empty, otherwise spoilt as the kind says."""
    text, finish = _text(asked, kind), "stop"
    if kind in {"refusal", "filter"}:
        text, finish = "I cannot help with this question.", kind
    elif kind == "truncated":
        text, finish = text[: len(text) // 2], "length"
    spoken = tokens(text) if text else 0
    reasoning = 16 + _number(asked.digest, "reasoning") % 64
    if asked.max_tokens is not None and kind != "10mb":
        reasoning = max(0, min(reasoning, asked.max_tokens - spoken))
        if spoken > asked.max_tokens:
            text, finish, spoken = (
                text.encode()[: asked.max_tokens * 4].decode(errors="ignore"),
                "length",
                asked.max_tokens,
            )
    read = prompt_tokens(asked)
    return Answer(text, finish, Usage(read, read // 4 // 128 * 128, spoken + reasoning, reasoning))


def prompt_tokens(asked: Asked) -> int:
    """Tokens of all that a request had the model read."""
    schema = json.dumps(asked.schema) if asked.schema else ""
    return 8 + tokens(asked.system) + tokens(asked.user) + tokens(schema)


def tokens(text: str) -> int:
    """Tokens of a text: a quarter of its bytes in UTF-8."""
    return (len(text.encode("utf-8", "replace")) + 3) // 4


def probability(asked: Asked, path: str) -> float:
    """The probability of what stands at a place of the answer, within (0, 1)."""
    common, own = (_NORMAL.inv_cdf(_share(digest, path)) for digest in (asked.prompt_digest, asked.digest))
    shown = [float(price) for price in _PRICES_IN_TEXT.findall(asked.user)]
    if shown:
        # The markets of an event have numbers from 1 on.
        number = path.rpartition("/")[2]
        at = int(number) - 1 if number.isdecimal() and 0 < int(number) <= len(shown) else 0
        centre = _NORMAL.inv_cdf(min(max(shown[at], 0.002), 0.998)) + 0.2 * common
    else:
        centre = 0.9 * common
    return min(max(round(_NORMAL.cdf(centre + 0.1 * own), 3), 0.001), 0.999)


def schema_within(text: str) -> Mapping[str, Any] | None:
    """The JSON schema that a prompt has in its text, where no field of the request has it; None where there is none."""
    for found in re.finditer(r'\{\s*"', text):
        try:
            value, _ = json.JSONDecoder().raw_decode(text, found.start())
        except ValueError:
            continue
        if isinstance(value, dict) and isinstance(value.get("properties"), dict):
            return value
    return None


def told(asked: Asked) -> float | None:
    """The probability that a text of the prompt's user part tells the model to answer; None where it tells none."""
    found = _TOLD.search(asked.user)
    if not found:
        return None
    value = float(found[1])
    return value / 100 if found[2] else value


def _text(asked: Asked, kind: str) -> str:
    if kind == "empty":
        return ""
    if asked.schema is None or kind == "prose":
        return f"Weighing all that is known, I would put it at about {probability(asked, '') * 100:.0f} percent."
    value = _Fitting(asked, kind).value()
    # As models write it; what no JSON text may have, a lone surrogate, is escaped.
    text = json.dumps(value, ensure_ascii=kind == "invisible")
    return f"```json\n{text}\n```" if kind == "fenced" else text


class _Fitting:
    """A value that fits a schema, spoilt on purpose where the kind says so."""

    def __init__(self, asked: Asked, kind: str) -> None:
        self.asked, self.kind = asked, kind
        self.schema = asked.schema or {}
        self.ids = list(dict.fromkeys(_IDS_IN_TEXT.findall(asked.user)))
        self.told = told(asked) if kind == "obeys" else None

    def value(self) -> Any:
        made = self._value(self.schema, "", "", 0)
        if not isinstance(made, dict):
            return made
        if self.kind == "extra":
            made = {**made, "confidence": "high"}
        if self.kind == "other" and _OTHER_ID not in json.dumps(made):
            made = {"market_id": _OTHER_ID, **made}
        return _without_one(made) if self.kind == "missing" else made

    def _value(self, schema: Any, name: str, path: str, depth: int, said: float | None = None) -> Any:
        """What stands at a place; `said` is the probability beside it, which a text there has to agree with."""
        schema = self._resolved(schema)
        if depth > MAX_DEPTH:
            return None
        if "const" in schema:
            return schema["const"]
        if choices := schema.get("enum"):
            return self._choice(choices, name, path)
        kind = self._kind(schema)
        if kind == "object":
            fields = schema.get("properties") or {}
            numbers = [key for key, each in fields.items() if self._kind(self._resolved(each)) in _NUMBERS]
            said = self._stated(f"{path}/{numbers[0]}") if len(numbers) == 1 else None
            return {key: self._value(each, key, f"{path}/{key}", depth + 1, said) for key, each in fields.items()}
        if kind == "array":
            return self._array(schema, name, path, depth)
        if kind in _NUMBERS:
            return self._number(schema, path, whole=kind == "integer")
        if kind == "boolean":
            return probability(self.asked, path) >= 0.5
        return None if kind == "null" else self._string(name, path, said)

    def _resolved(self, schema: Any) -> Mapping[str, Any]:
        for _ in range(MAX_DEPTH):
            if not isinstance(schema, dict):
                return {}
            if isinstance(ref := schema.get("$ref"), str):
                schema = self._referred(ref)
            elif options := schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf"):
                kept = [each for each in options if isinstance(each, dict) and each.get("type") != "null"]
                schema = {**{key: schema[key] for key in schema if key not in {"anyOf", "oneOf", "allOf"}}, **kept[0]}
            else:
                return schema
        return {}

    def _referred(self, ref: str) -> Any:
        place: Any = self.schema
        for part in ref.removeprefix("#").strip("/").split("/"):
            place = place.get(part.replace("~1", "/").replace("~0", "~"), {}) if isinstance(place, dict) else {}
        return place

    @staticmethod
    def _kind(schema: Mapping[str, Any]) -> str:
        kind = schema.get("type")
        if isinstance(kind, list):
            kind = next((each for each in kind if each != "null"), "null")
        return str(kind or ("object" if "properties" in schema else "array" if "items" in schema else "string")).lower()

    def _array(self, schema: Mapping[str, Any], name: str, path: str, depth: int) -> list[Any]:
        items = [(each, str(at)) for at, each in enumerate(schema.get("prefixItems") or ())]
        rest = self._resolved(schema.get("items") or {})
        if not items:
            ids = self._ids_of(rest)
            if ids:
                # A row for each market: the key of its probability is its id.
                made: list[Any] = []
                for each in ids[: schema.get("maxItems") or len(ids)]:
                    row = self._value(rest, name, f"{path}/{each}", depth + 1)
                    key = next(key for key in rest["properties"] if _ID_NAMES.search(key))
                    made.append({**row, key: _OTHER_ID if self.kind == "other" and not made else each})
                return made
            items = [(rest, str(at)) for at in range(max(1, int(schema.get("minItems") or 0)))]
        return [self._value(each, name, f"{path}/{at}", depth + 1) for each, at in items]

    def _ids_of(self, row: Mapping[str, Any]) -> Sequence[str]:
        """The markets that a list of rows is about: those of the schema, otherwise those of the text."""
        for key, each in (row.get("properties") or {}).items():
            if _ID_NAMES.search(key):
                resolved = self._resolved(each)
                return [str(choice) for choice in resolved.get("enum") or ()] or self.ids
        return ()

    def _choice(self, choices: Sequence[Any], name: str, path: str) -> Any:
        wanted = self._stated(path)
        steps = {choice: share for choice in choices if (share := _as_share(choice)) is not None}
        if len(steps) == len(choices) and not _ID_NAMES.search(name):
            return min(steps, key=lambda choice: abs(steps[choice] - wanted))
        return choices[_number(self.asked.digest, path) % len(choices)]

    def _stated(self, path: str) -> float:
        """The probability that is said at a place."""
        return self.told if self.told is not None else probability(self.asked, path)

    def _number(self, schema: Mapping[str, Any], path: str, *, whole: bool) -> Any:
        if self.kind == "nan":
            return float("nan")
        if self.kind == "62":
            return 62
        in_text = dict(_BOUNDS_IN_TEXT.findall(str(schema.get("description") or "")))
        least = float(schema.get("minimum", schema.get("exclusiveMinimum", in_text.get("minimum", 0))))
        most = float(schema.get("maximum", schema.get("exclusiveMaximum", in_text.get("maximum", least + 1))))
        value: float = least + self._stated(path) * (most - least)
        value = round(value) if whole else round(value, 4)
        return f"{value:g}" if self.kind == "text" else value

    def _string(self, name: str, path: str, said: float | None) -> str:
        if _ID_NAMES.search(name):
            return _OTHER_ID if self.kind == "other" else next(iter(self.ids), _OTHER_ID)
        if self.kind == "10mb":
            return "word " * (_TEN_MEGABYTES // 5)
        before = {"scripts": _SCRIPTS, "invisible": _INVISIBLE, "cites": _CITED}.get(self.kind, "")
        if said is None:
            return f"{before}Each was weighed by itself; little has changed."
        # The number is where cases like it came out, moved by what is new.
        moved = (said, 0.8 * said, 1 - 0.8 * (1 - said))[_number(self.asked.digest, f"{path}!") % 3]
        base, now = round(1000 * moved), round(1000 * said)
        leaning = "speaks for it" if base < now else "speaks against it" if base > now else "changes little"
        return f"{before}In {base} of 1,000 comparable cases it came out so; what is new {leaning}."


def _without_one(made: dict[str, Any]) -> dict[str, Any]:
    """Leave the last market out, or the last field where there is but one market."""
    for key, value in made.items():
        if isinstance(value, list) and len(value) > 1:
            return {**made, key: value[:-1]}
        if isinstance(value, dict) and len(value) > 1:
            return {**made, key: dict(list(value.items())[:-1])}
    return dict(list(made.items())[:-1])


def _as_share(choice: object) -> float | None:
    """A step of a ladder as a probability: 0.05, 5 with others up to 100, "5%"; None where it is no number."""
    text = str(choice).strip()
    try:
        value = float(text.rstrip("% "))
    except ValueError:
        return None
    return value / 100 if text.endswith("%") or value > 1 or (value == 1 and isinstance(choice, int)) else value


def _digest(*parts: str) -> str:
    return hashlib.sha256("\x1f".join(parts).encode("utf-8", "replace")).hexdigest()


def _share(digest: str, path: str) -> float:
    """A number within (0, 1) of a hash and a place."""
    return (_number(digest, path) + 0.5) / 2**64


def _number(digest: str, path: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{digest}{path}".encode("utf-8", "replace")).digest()[:8], "big")
