"""The wire: what Polymarket sends, read tolerantly. Nothing here decides whether a market is acceptable.

Real rows leave out keys rather than sending nulls, hold lists inside strings and numbers as strings, and mix date
formats. One row can also be legal JSON that a strict parser refuses (a lone surrogate, a number of a thousand digits,
deep nesting), which must cost that row and not the page it came in: `json_members` splits it without decoding it.
"""

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, NamedTuple, cast

import msgspec
from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from predictbench_assets.exchanges.json_text import (
    DECODE_ERRORS,
    MOST_DIGITS,
    UnreadableJson,
    json_members,
    scalar_text,
)
from predictbench_assets.printable import shortened

MANDATORY = ("id", "question", "endDate", "outcomes", "outcomePrices")
"""The keys without which a row is no market, by their names on the wire; its outcome ids (`ids_key`) are another."""

_IDS_KEYS: Mapping[str, str] = {"1": "clobTokenIds", "2": "positionIds"}

_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_JSON_ERROR_SHOWN = 160
_FLAG: TypeAdapter[bool | None] = TypeAdapter(bool | None)


class UnreadableField(ValueError):
    """A row in which one key, named as on the wire (`payload` for the row as a whole), cannot be read."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


def parse_instant(text: object) -> datetime | None:
    """An instant in any of the formats seen on the wire, in UTC; None where the text is not one.

    Accepted are RFC 3339 with any fraction, a space for the `T`, and offsets such as `+00`. A bare date or a time
    without an offset names no instant.
    """
    if not isinstance(text, str):
        return None
    try:
        instant = datetime.fromisoformat(text.strip())
        return instant.astimezone(UTC) if instant.tzinfo else None
    except (ValueError, OverflowError):
        return None


def _instant(value: object) -> object:
    if value is None:
        return None
    instant = parse_instant(value)
    if instant is None:
        raise ValueError(f"is not an instant with an offset: {shortened(value)}")
    return instant


def _number(value: object) -> object:
    """A finite float from a JSON number or a string that holds one; an empty string holds none."""
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"is not a number: {shortened(value)}")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise ValueError(f"is not a number: {shortened(value)}") from None
    if not math.isfinite(number):
        raise ValueError(f"is not finite: {shortened(value)}")
    return number


def read_closed(value: object) -> tuple[bool, str | None]:
    """True for a closed market, as `GammaMarket` reads it (texts and numbers too); with the reason where it is neither.

    What cannot be read is open, as for a listing, which drops it.
    """
    try:
        return bool(_FLAG.validate_python(value)), None
    except ValidationError:
        return False, f"closed is neither true nor false: {shortened(value)}"


def _text(value: object) -> object:
    """A string; ids are also sent as integers."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if abs(value) < 10**MOST_DIGITS else value
    return value


def _listed(value: object) -> object:
    """A list, which the wire mostly sends as JSON inside a string."""
    if not isinstance(value, str):
        return value
    try:
        return msgspec.json.decode(value)
    except (*DECODE_ERRORS, UnicodeEncodeError):
        raise ValueError(f"is not a list: {shortened(value)}") from None


def _required_number(value: object) -> object:
    number = _number(value)
    if number is None:
        raise ValueError("is not a number: nothing is there")
    return number


def ids_key(version: object) -> str | None:
    """The key that holds a row's outcome ids, by which books, prices, histories and trades are asked for.

    It goes by the row's `version` alone, also where both keys are there: rows of either version carry both. Rows from
    before 2026-08 have no version and are of the first. None for a version that is not known.
    """
    if version is None or version == "":
        return _IDS_KEYS["1"]
    return _IDS_KEYS.get(str(version).strip().lower().removeprefix("v"))


def outcome_ids(row: Mapping[str, Any]) -> list[str] | None:
    """The ids of a decoded row's outcomes, as `ids_key` chooses them; None where there is no such list."""
    key = ids_key(row.get("version"))
    try:
        listed = None if key is None else _listed(row.get(key))
    except ValueError:
        return None
    if not isinstance(listed, list):
        return None
    ids = [text for one in listed if isinstance(text := _text(one), str)]
    return ids if len(ids) == len(listed) else None


Instant = Annotated[datetime | None, BeforeValidator(_instant)]
Number = Annotated[float | None, BeforeValidator(_number)]
Text = Annotated[str | None, BeforeValidator(_text)]
Texts = Annotated[list[Annotated[str, BeforeValidator(_text)]] | None, BeforeValidator(_listed)]
Numbers = Annotated[list[Annotated[float, BeforeValidator(_required_number)]] | None, BeforeValidator(_listed)]


class Payload(BaseModel):
    """Base of the wire's models: what is not named here is ignored, and every key may be missing or null."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=False)


class GammaTag(Payload):
    """A tag of a market or an event; sent only when asked for."""

    slug: Text = None
    label: Text = None


class GammaSeries(Payload):
    """The recurring series that an event is an instalment of."""

    slug: Text = None


class GammaEvent(Payload):
    """The event inside a market row (without its markets)."""

    id: Text = None
    slug: Text = None
    title: Text = None
    category: Text = None
    neg_risk: bool | None = Field(None, alias="negRisk")
    neg_risk_market_id: Text = Field(None, alias="negRiskMarketID")
    parent_event_id: Text = Field(None, alias="parentEventId")
    game_id: Text = Field(None, alias="gameId")
    series_slug: Text = Field(None, alias="seriesSlug")
    series: list[GammaSeries] | None = None
    tags: list[GammaTag] | None = None


class GammaMarket(Payload):
    """A row of Gamma's market listings: the keys that the benchmark uses."""

    id: Text = None
    question: Text = None
    slug: Text = None
    description: Text = None
    condition_id: Text = Field(None, alias="conditionId")
    end_date: Instant = Field(None, alias="endDate")
    created_at: Instant = Field(None, alias="createdAt")
    start_date: Instant = Field(None, alias="startDate")
    outcomes: Texts = None
    outcome_prices: Numbers = Field(None, alias="outcomePrices")
    version: Text = None
    clob_token_ids: Texts = Field(None, alias="clobTokenIds")
    position_ids: Texts = Field(None, alias="positionIds")
    closed: bool | None = None
    active: bool | None = None
    archived: bool | None = None
    best_bid: Number = Field(None, alias="bestBid")
    best_ask: Number = Field(None, alias="bestAsk")
    volume: Number = Field(None, validation_alias=AliasChoices("volumeNum", "volume"))
    volume_24h: Number = Field(None, alias="volume24hr")
    liquidity: Number = Field(None, validation_alias=AliasChoices("liquidityNum", "liquidity"))
    neg_risk: bool | None = Field(None, alias="negRisk")
    neg_risk_market_id: Text = Field(None, alias="negRiskMarketID")
    game_id: Text = Field(None, alias="gameId")
    group_item_title: Text = Field(None, alias="groupItemTitle")
    group_item_threshold: Number = Field(None, alias="groupItemThreshold")
    sports_market_type: Text = Field(None, alias="sportsMarketType")
    fee_type: Text = Field(None, alias="feeType")
    category: Text = None
    tags: list[GammaTag] | None = None
    events: list[GammaEvent] | None = None

    @property
    def outcome_ids(self) -> list[str] | None:
        """The ids of the outcomes, as `ids_key` chooses them."""
        return {"clobTokenIds": self.clob_token_ids, "positionIds": self.position_ids, None: None}[
            ids_key(self.version)
        ]


def wire_names(model: type[Payload]) -> dict[str, tuple[str, ...]]:
    """The keys that each field of a model is read from; the first one that is there wins."""
    found = {}
    for name, field in model.model_fields.items():
        alias = field.validation_alias
        found[name] = tuple(map(str, alias.choices)) if isinstance(alias, AliasChoices) else (str(alias or name),)
    return found


def list_keys(model: type[Payload]) -> tuple[str, ...]:
    """The keys whose lists are sent as JSON inside a string; `positionIds` is a list."""
    listed = {name for name, field in model.model_fields.items() if BeforeValidator(_listed) in field.metadata}
    listed -= {"position_ids"}
    return tuple(key for name, keys in wire_names(model).items() if name in listed for key in keys)


def read_market(raw: bytes) -> tuple[GammaMarket, tuple[str, ...]]:
    """A market row, and the names of the optional keys that held something unreadable (they are read as absent).

    Raises:
        UnreadableField: a mandatory key is unreadable, or the row cannot be stored as JSON (it is none, or holds NUL).
    """
    if b"\\u0000" in raw and _NUL.search(raw):
        raise UnreadableField(_field_with(raw, _NUL), "holds a NUL character, which no database text can")
    try:
        return GammaMarket.model_validate_json(raw), ()
    except ValidationError as error:
        faults = _faults(error)
    if faults[0]["type"] in ("json_invalid", "json_type"):
        raise _not_json(raw, faults[0]["msg"])
    document = json.loads(raw)
    mandatory = {*MANDATORY, ids_key(document.get("version") if isinstance(document, dict) else None)}
    dropped: set[str] = set()
    # Twice, since a number has two names, and the second may be as unreadable as the first.
    for _ in range(2):
        for fault in faults:
            if not fault["loc"]:
                raise UnreadableField("payload", "is not a JSON object")
            if fault["loc"][0] in mandatory:
                raise UnreadableField(str(fault["loc"][0]), _as_reason(fault["msg"]))
            # Ids that a row does not go by are not needed.
            _drop(document, fault["loc"][:1] if fault["loc"][0] in _IDS_KEYS.values() else fault["loc"])
            dropped.add(_dotted(fault["loc"]))
        try:
            return GammaMarket.model_validate(document), tuple(sorted(dropped))
        except ValidationError as error:
            faults = _faults(error)
    raise UnreadableField(str(faults[0]["loc"][0]), _as_reason(faults[0]["msg"]))


def _faults(error: ValidationError) -> list[ErrorDetails]:
    return error.errors(include_url=False, include_context=False, include_input=False)


class RowHead(NamedTuple):
    """The values of a row that are needed before it is read as a market; None where one cannot be read."""

    market_id: str | None
    end_date: str | None
    first_token_id: str | None
    """The id of the first outcome; None too where it cannot be asked about: a closed market has no order book, and
    would have a batch refused."""


class _Head(msgspec.Struct):
    id: msgspec.Raw = msgspec.Raw(b"null")
    endDate: msgspec.Raw = msgspec.Raw(b"null")  # noqa: N815 - the wire's name
    version: msgspec.Raw = msgspec.Raw(b"null")
    closed: msgspec.Raw = msgspec.Raw(b"null")
    clobTokenIds: msgspec.Raw = msgspec.Raw(b"null")  # noqa: N815 - the wire's name
    positionIds: msgspec.Raw = msgspec.Raw(b"null")  # noqa: N815 - the wire's name


_decode_head = msgspec.json.Decoder(_Head).decode


def read_head(raw: bytes) -> RowHead:
    """The head of a row, which is gone through once for it; never raises."""
    try:
        head = _decode_head(raw)
    except DECODE_ERRORS:
        try:
            members = dict(json_members(raw))
        except UnreadableJson:
            members = {}
        return RowHead(scalar_text(members.get("id")), scalar_text(members.get("endDate")), None)
    return RowHead(scalar_text(head.id), scalar_text(head.endDate), _first_token_id(head))


def _first_token_id(head: _Head) -> str | None:
    decode = msgspec.json.decode
    try:
        closed, version = decode(head.closed), decode(head.version)
        if closed is not False and read_closed(closed)[0]:  # which takes a while, and nearly all are false
            return None
        key = ids_key(version)
        # What is wrong with the ids that the row does not go by does not matter.
        ids = None if key is None else outcome_ids({"version": version, key: decode(getattr(head, key))})
    except DECODE_ERRORS:
        return None
    return ids[0] if ids and ids[0].isascii() and ids[0].isdecimal() else None


def _not_json(raw: bytes, message: str) -> UnreadableField:
    """Names the key whose value spoils the row, where one can be found."""
    try:
        for key, value in json_members(raw):
            if key is None:
                return UnreadableField("payload", "is not a JSON object")
            try:
                GammaMarket.model_validate_json(b'{"_":' + value + b"}")
            except ValidationError as error:
                reason = error.errors(include_url=False, include_input=False)[0]["msg"]
                return UnreadableField(shortened(key)[1:-1] or "payload", _as_reason(reason))
    except UnreadableJson:
        pass
    return UnreadableField("payload", _as_reason(message))


def _field_with(raw: bytes, pattern: re.Pattern[bytes]) -> str:
    try:
        for key, value in json_members(raw):
            if key is not None and pattern.search(value):
                return shortened(key)[1:-1] or "payload"
    except UnreadableJson:
        pass
    return "payload"


def _as_reason(message: str) -> str:
    """Pydantic's message as the end of a sentence that begins with the key."""
    own = message.removeprefix("Value error, ")
    if own != message:
        return own
    return f"is unreadable: {message[:1].lower()}{message[1:_JSON_ERROR_SHOWN].partition(' at line ')[0]}"


def _drop(document: Any, path: tuple[int | str, ...]) -> None:
    """Blanks the value at a path; a list keeps its length, so that the other paths stay right."""
    *parents, last = path
    for step in parents:
        try:
            document = document[step]
        except (KeyError, IndexError, TypeError):
            return  # an outer value was blanked already
    if isinstance(document, dict):
        document.pop(cast(str, last), None)
    elif isinstance(document, list):
        document[cast(int, last)] = {}


def _dotted(path: tuple[int | str, ...]) -> str:
    return ".".join(str(step) for step in path if isinstance(step, str))
