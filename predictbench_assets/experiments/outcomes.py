"""The outcome of one market in one experiment, in the form that is journalled, staged and stored.

A result that could not be stored later is refused here, where it costs one market of one experiment: the database
would refuse the whole market.
"""

import hashlib
import math
import operator
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Final
from uuid import UUID

import msgspec
from pydantic import BaseModel
from pydantic_core import PydanticSerializationError

from predictbench_assets.experiments.protocol import ExperimentResult, Usage, are_proper
from predictbench_assets.markets.market import Market
from predictbench_assets.runs import OutcomeStatus
from predictbench_assets.secrecy import redacted_json
from predictbench_assets.staging import Schema
from predictbench_assets.texts import is_unicode

OUTCOMES = Schema("experiment_results", 1)
"""The staged file of an experiment: one `Outcome` a row, in the order of the cohort."""

MAX_JSON_BYTES: Final = 1_000_000
"""The most that a payload, or the diagnostics, of one market may need as JSON."""

MAX_ARTIFACT_URI: Final = 2_000
"""Characters of an artifact's address; the database refuses longer ones."""

_NULL = msgspec.Raw(b"null")
_EMPTY = msgspec.Raw(b"{}")
_MAX_DEPTH = 64
_SMALL = 20_000
"""Items and characters of a value that is looked at for being plain already."""
_MARKET_ID = operator.attrgetter("market_id")
_HASHED_TOGETHER = 200
"""Outcomes that are encoded and hashed in one go."""
_DOUBLE = 8
"""Bytes of the floating point number that JSON holds."""


class ResultRefused(ValueError):
    """An experiment's result cannot be stored; the text names the part and the reason."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One market's result, skip or failure in one experiment: a row of the experiment's staged file."""

    market_id: str
    status: OutcomeStatus
    reason: str | None = None
    """The reason of a skip or a failure: one sentence without secrets; None when completed."""
    probability: float | None = None
    """Probability of the first outcome; None unless completed, and of an experiment without forecasts."""
    probabilities: tuple[float, ...] | None = None
    """One per outcome, in the market's order; None as `probability`."""
    payload_json: msgspec.Raw = msgspec.field(default=_NULL, name="payload")
    """Encoded, keys sorted: a large day's payloads as objects would take several times the memory."""
    artifact_uri: str | None = None
    diagnostics_json: msgspec.Raw = msgspec.field(default=_NULL, name="diagnostics")
    forecast_at: datetime | None = None
    """Instant of the forecast, UTC; None without one."""
    seconds: float = 0.0
    """Duration of the call; that of a call for several is shared out evenly among them."""
    exception_type: str | None = None
    retriable: bool = False
    """True if the same call may succeed later; never true of one that completed."""
    place: str | None = None
    """Place of the failure in the experiment's own code, see `source.place_of`; None unless failed."""
    source: str | None = None
    """Digest of the experiment's source when it answered, see `source.source_digest`."""
    usage: Usage | None = None
    """Requests, tokens and cost, of skips and failures too; None where the experiment does not know."""
    score: float | None = None
    """Number in journals from before usage was kept, for the hash that their attempts are stored with."""

    @property
    def is_final(self) -> bool:
        """True if the call need not be made again for the same snapshot, version and configuration."""
        return not self.retriable

    @property
    def payload(self) -> dict[str, Any] | None:
        """Data that the experiment stores with its forecast."""
        return _decoded(self.payload_json)

    @property
    def diagnostics(self) -> dict[str, Any] | None:
        """Numbers and notes for debugging."""
        return _decoded(self.diagnostics_json)

    @property
    def result(self) -> ExperimentResult | None:
        """The result as an experiment that requires it is given it; None unless completed."""
        if self.status != "completed":
            return None
        return _result(
            probabilities=self.probabilities or (),
            payload=self.payload or {},
            artifact_uri=self.artifact_uri,
            diagnostics=self.diagnostics or {},
            usage=self.usage,
        )

    def encode(self) -> bytes:
        """The outcome as one line of JSON, without the line feed."""
        return msgspec.json.encode(self)

    @classmethod
    def decode(cls, line: bytes) -> "Outcome":
        """The outcome that `encode` wrote.

        Raises:
            msgspec.MsgspecError: the line is no outcome.
        """
        return _decode(line)


_decode = msgspec.json.Decoder(Outcome).decode


def completed(
    market: Market,
    result: ExperimentResult,
    *,
    forecast_at: datetime,
    seconds: float,
    forecasts: bool = True,
    source: str | None = None,
    redact: Callable[[str], str] = str,
) -> Outcome:
    """The outcome of a market that was forecast; `redact` takes secrets out of what is stored with it.

    With `forecasts` False it is that of an experiment without forecasts, whose results have no probabilities.

    It was made at `forecast_at`, unless the result says that it was made before, since the market's capture.

    What is stored is in JSON's own types. Enumerations, models, dataclasses, dates, decimals, UUIDs, sets (sorted), and
    scalars and arrays of numpy become what they obviously are; pandas' missing value becomes null.

    Raises:
        ResultRefused: the number of probabilities is not the market's number of outcomes (not 0 without forecasts), it
            claims to be of before the capture or of after `forecast_at`, or a part cannot be stored.
        ValidationError: the result was changed into one that cannot be made (`model_copy` checks nothing).
    """
    if not _is_sound(result):
        result = _result(**{name: getattr(result, name) for name in ExperimentResult.model_fields})
    artifact_uri = None if result.artifact_uri is None else _text("artifact_uri", redact(result.artifact_uri))
    if artifact_uri is not None and len(artifact_uri) > MAX_ARTIFACT_URI:
        raise ResultRefused(f"artifact_uri has {len(artifact_uri):,} characters, {MAX_ARTIFACT_URI:,} fit")
    probabilities, outcomes = result.probabilities, len(market.contracts)
    if not forecasts and probabilities:
        raise ResultRefused("the result has probabilities, but the experiment's `forecasts` is False")
    if forecasts and len(probabilities) != outcomes:
        names = ", ".join(market.outcomes)
        raise ResultRefused(f"{len(probabilities)} probabilities for {outcomes} outcomes ({names})")
    made_at = forecast_at if result.made_at is None else result.made_at.astimezone(UTC)
    if result.made_at is not None and not market.captured_at <= made_at <= forecast_at:
        raise ResultRefused(
            f"made_at is {made_at.isoformat()}, not between the freeze at {market.captured_at.isoformat()} and now, "
            f"{forecast_at.isoformat()}"
        )
    return Outcome(
        market_id=market.market_id,
        status="completed",
        probability=probabilities[0] if forecasts else None,
        probabilities=probabilities if forecasts else None,
        payload_json=_storable("payload", result.payload, redact),
        artifact_uri=artifact_uri,
        diagnostics_json=_storable("diagnostics", result.diagnostics, redact),
        forecast_at=made_at if forecasts else None,
        seconds=seconds,
        source=source,
        usage=storable_usage(result.usage, redact),
    )


def _is_sound(result: ExperimentResult) -> bool:
    """True for nearly all results: what checking once more, which takes a third of the time, would leave as it is."""
    return (
        type(result) is ExperimentResult
        and are_proper(result.probabilities)
        and type(result.payload) is dict
        and type(result.diagnostics) is dict
        and result.artifact_uri is None
        and result.usage is None
        and result.made_at is None
    )


def _result(**parts: Any) -> ExperimentResult:
    """A result of these parts, checked; without probabilities where there are none."""
    return ExperimentResult(**{name: part for name, part in parts.items() if name != "probabilities" or part != ()})


def storable_usage(usage: object, redact: Callable[[str], str]) -> Usage | None:
    """Usage as it is stored, without secrets; None for anything else."""
    if not isinstance(usage, Usage) or usage.model is None:
        return usage if isinstance(usage, Usage) else None
    return msgspec.structs.replace(usage, model=redact(usage.model))


def total_usage(outcomes: Iterable[Outcome]) -> dict[str, int | float]:
    """The sums of what is known of the usage, costs by currency: `{"requests": 300, "cost_USD": 0.41}`."""
    totals: defaultdict[str, Any] = defaultdict(int)
    for usage in (outcome.usage for outcome in outcomes if outcome.usage is not None):
        for name in ("requests", "input_tokens", "output_tokens", "cached_tokens"):
            if (count := getattr(usage, name)) is not None:
                totals[name] += count
        if usage.cost is not None:
            totals[f"cost_{usage.currency}"] += usage.cost
    return {name: float(total) if isinstance(total, Decimal) else total for name, total in totals.items()}


def content_hash(outcomes: Iterable[Outcome]) -> str:
    """Identity of what was forecast, whatever the order: two attempts that agree in it are one and the same.

    Times, durations, usage, diagnostics and places in the code differ between attempts that agree: they are left out.
    """
    encode, digest = msgspec.json.Encoder().encode_lines, hashlib.sha256()
    in_order = sorted(outcomes, key=_MARKET_ID)
    for begin in range(0, len(in_order), _HASHED_TOGETHER):
        some = in_order[begin : begin + _HASHED_TOGETHER]
        # The score keeps the hashes of attempts that are stored.
        digest.update(
            encode([(o.market_id, o.status, o.reason, o.probabilities, o.payload_json, o.score) for o in some])
        )
    return digest.hexdigest()


def _decoded(json: msgspec.Raw) -> dict[str, Any] | None:
    value: dict[str, Any] | None = msgspec.json.decode(json)
    return value


def _storable(field: str, value: Mapping[str, Any], redact: Callable[[str], str]) -> msgspec.Raw:
    if not value:
        return _EMPTY
    plain = value if _is_plain(value) else _plain(field, value, 0, _Room(field))
    encoded = msgspec.json.encode(plain, order="sorted")
    if redact(text := encoded.decode()) != text:
        encoded = msgspec.json.encode(redacted_json(plain, redact), order="sorted")
    if len(encoded) > MAX_JSON_BYTES:
        raise _too_large(field)
    return msgspec.Raw(encoded)


class _Room:
    """Room left in one value: what is endless, or holds itself many times over, is given up early."""

    def __init__(self, field: str) -> None:
        self._field = field
        self._left = MAX_JSON_BYTES

    def take(self, size: int) -> None:
        """Count at least so many bytes of JSON; raises `ResultRefused` beyond the limit."""
        self._left -= size
        if self._left < 0:
            raise _too_large(self._field)


def _too_large(field: str) -> ResultRefused:
    return ResultRefused(f"{field} needs more than {MAX_JSON_BYTES:,} bytes as JSON; context.artifact() takes more")


def _is_plain(value: object) -> bool:
    """True for what nearly all values are and `_plain` would give back: a small dict of JSON's own types."""
    if type(value) is not dict:
        return False
    held: list[Any] = [value]
    left = _SMALL
    for container in held:  # which grows meanwhile
        left -= len(container)
        items, texts = container, []
        if type(container) is dict:
            items, texts = container.values(), [*container]
            for key in texts:
                if type(key) is not str:
                    return False
        if left < 0 or len(held) > _MAX_DEPTH:
            return False
        for item in items:
            kind = type(item)
            if kind is float:
                if not math.isfinite(item):
                    return False
            elif kind is str:
                texts.append(item)
            elif kind is int:
                if not -(2**63) <= item < 2**63:
                    return False
            elif kind is dict or kind is list:
                held.append(item)
            elif item is not None and kind is not bool:
                return False
        left -= sum(map(len, texts))
        if left < 0 or "\0" in (text := "".join(texts)) or not is_unicode(text):
            return False
    return True


def _plain(path: str, value: Any, depth: int, room: _Room) -> Any:
    """The value in JSON's own types; the path to what has no such form is part of the refusal."""
    if depth > _MAX_DEPTH:
        raise ResultRefused(f"{path.split('.')[0]} is nested deeper than {_MAX_DEPTH} levels")
    room.take(1)
    match value:  # what nearly all values are comes first
        case None | bool():
            return value
        case Enum():
            return _plain(path, value.value, depth + 1, room)
        case str():
            return _text(path, value, room)
        case int():
            if not -(2**63) <= value < 2**63:
                raise ResultRefused(f"{path} is an integer beyond 64 bits, store it as text")
            return int(value)
        case float():
            if not math.isfinite(value):
                raise ResultRefused(f"{path} is {value}, which JSON cannot hold")
            return float(value)
        case Mapping():
            return {
                _key(path, key, room): _plain(f"{path}.{key}", item, depth + 1, room) for key, item in value.items()
            }
        case list() | tuple():
            return [_plain(f"{path}[{index}]", item, depth + 1, room) for index, item in enumerate(value)]
        case _ if _is_missing(value):  # before the datetimes, as one of them is one
            return None
        case set() | frozenset():
            # In an order of its own, or two equal runs would differ.
            return sorted((_plain(f"{path}{{}}", item, depth + 1, room) for item in value), key=msgspec.json.encode)
        case BaseModel():
            _count(path, value, depth, _Room(path.partition(".")[0]))
            return _plain(path, _of_model(value), depth + 1, room)
        case msgspec.Struct():
            return _plain(path, msgspec.structs.asdict(value), depth + 1, room)
        case Decimal() if not value.is_finite():
            raise ResultRefused(f"{path} is {value}, which JSON cannot hold")
        case datetime():
            return value.isoformat().replace("+00:00", "Z")  # a subclass (pandas' Timestamp) too
        case date() | time() | timedelta() | UUID() | Decimal():
            return msgspec.to_builtins(value)
        case bytes() | bytearray() | memoryview():
            raise ResultRefused(
                f"{path} is {type(value).__name__}: decode it to text, or store it by context.artifact()"
            )
        case _ if is_dataclass(value) and not isinstance(value, type):
            return _plain(path, {each.name: getattr(value, each.name) for each in fields(value)}, depth + 1, room)
        case _ if _module(value) == "numpy":
            return _plain(path, _of_numpy(path, value, room), depth + 1, room)
        case _:
            raise ResultRefused(
                f"{path} is a {type(value).__name__}, which JSON cannot hold: store numbers, texts, lists or dicts"
            )


def _module(value: object) -> str:
    """The package that a value's class is of; asked for where importing that package would be too slow."""
    return type(value).__module__.partition(".")[0]


def _is_missing(value: object) -> bool:
    """True for a missing value of pandas."""
    return _module(value) == "pandas" and type(value).__name__ in ("NAType", "NaTType")


def _count(path: str, value: Any, depth: int, room: _Room) -> None:
    """Refuse a model that holds itself many times over, or too much, before pydantic writes all of it down."""
    if depth > _MAX_DEPTH:
        raise ResultRefused(f"{path.split('.')[0]} is nested deeper than {_MAX_DEPTH} levels")
    room.take(1)
    match value:
        case str():
            room.take(len(value))
        case BaseModel():
            left_out = {name for name, each in type(value).model_fields.items() if each.exclude}
            held = vars(value) | (value.model_extra or {})
            _count(path, {name: item for name, item in held.items() if name not in left_out}, depth + 1, room)
        case Mapping():
            for key, item in value.items():
                room.take(len(key) if isinstance(key, str) else 1)
                _count(path, item, depth + 1, room)
        case list() | tuple() | set() | frozenset():
            for item in value:
                _count(path, item, depth + 1, room)
        case _ if is_dataclass(value) and not isinstance(value, type):
            _count(path, {each.name: getattr(value, each.name, None) for each in fields(value)}, depth + 1, room)


def _of_model(model: BaseModel) -> Any:
    """A model as it would be sent; one that holds what pydantic cannot send, field by field."""
    try:
        return model.model_dump(mode="json")
    except PydanticSerializationError:
        return {name: getattr(model, name) for name in type(model).model_fields}


def _of_numpy(path: str, value: Any, room: _Room) -> Any:
    """A scalar or an array of numpy by what Python has for it."""
    room.take(int(value.size))
    if (kind := value.dtype.kind) in "Mm":  # in Python's own types these would lose their unit
        return (
            None
            if str(value) == "NaT"
            else str(value)
            if value.ndim == 0
            else [_of_numpy(path, one, room) for one in value]
        )
    if kind in "biuUO" or (kind == "f" and value.dtype.itemsize <= _DOUBLE):
        return value.tolist()
    if kind == "f":
        return [_of_numpy(path, one, room) for one in value] if value.ndim else float(value)
    raise ResultRefused(f"{path} is numpy's {value.dtype}, which JSON cannot hold: convert it to numbers or texts")


def _key(path: str, key: object, room: _Room) -> str:
    if not isinstance(key, str):
        raise ResultRefused(f"{path} has the key {key!r}, keys must be text")
    return _text(f"a key of {path}", key, room)


def _text(path: str, text: str, room: _Room | None = None) -> str:
    """Postgres' jsonb holds neither NUL nor half a surrogate pair."""
    if room is not None:
        room.take(len(text))
    if "\0" in text:
        raise ResultRefused(f"{path} contains a NUL character, which the database cannot hold")
    if not is_unicode(text):
        raise ResultRefused(f"{path} contains half a surrogate pair, which is no Unicode text")
    return str(text)
