"""Encoding of records as the JSON rows that the database unpacks; refuses beforehand what it would refuse.

One market at a time: a value that cannot be stored costs its own market, with a reason that names the field. The raw
payload's bytes are passed on as they are; only a suspicious one is parsed.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from operator import attrgetter
from typing import Any, Final
from uuid import UUID

import msgspec
from sqlalchemy import DateTime, Double, Text
from sqlalchemy.types import TypeEngine

from predictbench_assets.database.schema import LONGEST, processed_markets
from predictbench_assets.experiments.protocol import Usage
from predictbench_assets.markets.market import Event, Market
from predictbench_assets.persistence.records import MarketRecord, ResultRecord
from predictbench_assets.texts import is_unicode

_LONGEST_REASON = 2_000

_FILLED_BY_THE_DATABASE = {
    *("run_id", "processed_at", "snapshot_hash", "reconstructed"),  # the same for all markets of a batch
    *("raw_archive_id", "withdrawn_at"),  # later
}
MARKET_COLUMNS: Final = [column.name for column in processed_markets.c if column.name not in _FILLED_BY_THE_DATABASE]
"""The columns of `processed_markets` that a market brings along."""

# Columns whose value a market has by another name, or its price has.
_ELSEWHERE = {
    *("processed_market_id", "raw_snapshot", "market_slug", "event_id", "as_of"),
    *("price", "bid", "ask", "spread", "price_source", "price_at", "price_quality"),
}
_OWN_COLUMNS = [name for name in MARKET_COLUMNS if name not in _ELSEWHERE]
_own_values = attrgetter(*_OWN_COLUMNS)


def _of_type(kind: type[TypeEngine[Any]]) -> list[str]:
    return [name for name in MARKET_COLUMNS if isinstance(processed_markets.c[name].type, kind)]


_TEXTS = [name for name in _of_type(Text) if name in LONGEST and name != "event_id"]  # which is checked as the event's
_PRICES = ["price", "bid", "ask"]
_NUMBERS = [name for name in _of_type(Double) if name not in _PRICES]
_TIMES = _of_type(DateTime)

_SUSPICIOUS = re.compile(rb"\\u(?:0000|[dD])")
"""The escapes of NUL and of half a surrogate pair; an expression finds them twice as fast as `in` does."""
_LEAKED = re.compile(b'"leaked"')
"""The key in a payload, which an expression finds without a copy of it."""
_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


class UnwritableMarket(ValueError):
    """A market that cannot be stored: the field at fault and why."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field} {reason}")
        self.field = field
        self.reason = reason


@dataclass(frozen=True, slots=True)
class RegisteredAttempt:
    """The attempt of an experiment that results belong to."""

    experiment_run_id: str
    mandatory: bool
    fill: bool
    """True for results that only go into markets without a result of this experiment."""


@dataclass(frozen=True, slots=True)
class EncodedMarket:
    """A market's rows as JSON, ready to be joined with others into one parameter; several of a table between commas."""

    market_id: str
    event_id: str | None
    event: bytes | None
    market: bytes
    contracts: bytes
    results: bytes
    size: int


class _Row(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A row of `jsonb_to_recordset`: an absent key is null."""


class _EventRow(_Row):
    event_id: str
    neg_risk: bool
    slug: str | None = None
    title: str | None = None


class _ContractRow(_Row):
    processed_contract_id: str
    processed_market_id: str
    contract_id: str
    name: str
    index: int
    price: float | None = None


class _ResultRow(_Row):
    experiment_result_id: str
    experiment_run_id: str
    processed_market_id: str
    status: str
    reason: str | None = None
    exception_type: str | None = None
    probability: float | None = None
    probabilities: tuple[float, ...] | None = None
    payload: Mapping[str, Any] | msgspec.Raw | None = None
    artifact_uri: str | None = None
    diagnostics: Mapping[str, Any] | msgspec.Raw | None = None
    forecast_at: datetime | None = None
    requests: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    cost: Decimal | None = None
    currency: str | None = None
    seconds: float | None = None
    model: str | None = None
    leaked: bool | None = None
    fill: bool = False


def _plain(value: object) -> object:
    """Make a dict of any other mapping, which msgspec does not know."""
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


_encode = msgspec.json.Encoder(enc_hook=_plain).encode
_skip = msgspec.json.Decoder(msgspec.Raw).decode


def encode_market(
    record: MarketRecord, run_id: UUID, attempts: Mapping[str, RegisteredAttempt], *, scattered_ids: bool = False
) -> EncodedMarket:
    """The rows of one market.

    Args:
        scattered_ids: True for a run that was first stored when the ids of its rows had nothing in common.

    Raises:
        UnwritableMarket: a value that Postgres cannot hold, or a mandatory experiment without a result.
    """
    market = record.market
    values = _market_row(market)
    _check_market(market, values)
    beginning = None if scattered_ids else run_id.hex[:8]
    market_uuid = fast_id(run_id.bytes, f"market|{market.market_id}", beginning)
    namespace = bytes.fromhex(market_uuid.replace("-", ""))

    def id_of(name: str) -> str:
        return fast_id(namespace, name, beginning)

    values |= {"processed_market_id": market_uuid, "raw_snapshot": _checked_raw(record.raw)}
    row = _checked_json("raw_snapshot", {name: value for name, value in values.items() if value is not None})
    contracts = [
        _ContractRow(
            processed_contract_id=id_of(f"contract|{contract.contract_id}"),
            processed_market_id=market_uuid,
            contract_id=contract.contract_id,
            name=contract.name,
            index=contract.index,
            price=contract.price,
        )
        for contract in market.contracts
    ]
    contract_rows = _checked_rows(contracts, lambda place: f"contracts[{market.contracts[place].index}]")
    results = [_result_row(result, attempts[result.experiment], market_uuid, id_of) for result in record.results]
    result_rows = _checked_rows(results, lambda place: f"results[{record.results[place].experiment}]")
    event = None if market.event is None else _checked_json("event", _event_row(market.event))
    size = len(row) + len(event or b"") + len(contract_rows) + len(result_rows)
    event_id = None if market.event is None else market.event.event_id
    return EncodedMarket(market.market_id, event_id, event, row, contract_rows, result_rows, size)


def fast_id(namespace: bytes, name: str, beginning: str | None) -> str:
    """The text of a `uuid5`, or of the `id_in_run` with that beginning, without the cost of the object: a run of 20,000
    markets needs 120,000 of them."""
    digest = hashlib.sha1(namespace + name.encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()
    first, version = (digest[:8], 5) if beginning is None else (beginning, 8)
    return f"{first}-{digest[8:12]}-{version}{digest[13:16]}-{_VARIANT[digest[16]]}{digest[17:20]}-{digest[20:32]}"


def _market_row(market: Market) -> dict[str, Any]:
    """The columns of a market, without its id in the run and its raw payload."""
    price = market.price
    return dict(zip(_OWN_COLUMNS, _own_values(market), strict=True)) | {
        "as_of": market.reconstructed_as_of,
        "market_slug": market.slug,
        "event_id": None if market.event is None else market.event.event_id,
        "price": price.value,
        "bid": price.bid,
        "ask": price.ask,
        "spread": price.spread,
        "price_source": price.source,
        "price_at": price.at,
        "price_quality": price.quality,
    }


def _event_row(event: Event) -> _EventRow:
    for column, value in (("event_id", event.event_id), ("slug", event.slug), ("title", event.title)):
        _check_length(f"event.{column}", column, value)
    return _EventRow(event_id=event.event_id, neg_risk=event.neg_risk, slug=event.slug, title=event.title)


def _result_row(
    result: ResultRecord, attempt: RegisteredAttempt, market_uuid: str, id_of: Callable[[str], str]
) -> _ResultRow:
    if attempt.mandatory and result.status != "completed":
        reason = f"is mandatory and {result.status}: {result.reason or 'no reason given'}"
        raise UnwritableMarket(f"results[{result.experiment}]", reason)
    try:
        _check_unit("probability", result.probability)
        for probability in result.probabilities or ():
            _check_unit("probabilities", probability)
        _check_length("artifact_uri", "artifact_uri", result.artifact_uri)
        _check_length("exception_type", "exception_type", result.exception_type)
        _check_zone("forecast_at", result.forecast_at)
        payload = _checked_mapping("payload", result.payload)
        diagnostics = _checked_mapping("diagnostics", result.diagnostics)
    except UnwritableMarket as error:
        raise UnwritableMarket(f"results[{result.experiment}].{error.field}", error.reason) from error.__cause__
    row = _ResultRow(
        experiment_result_id=id_of(f"result|{attempt.experiment_run_id}"),
        experiment_run_id=attempt.experiment_run_id,
        processed_market_id=market_uuid,
        status=result.status,
        reason=_clipped(result.reason),
        exception_type=result.exception_type,
        probability=result.probability,
        probabilities=None if result.probabilities is None else tuple(result.probabilities),
        payload=payload,
        artifact_uri=result.artifact_uri,
        diagnostics=diagnostics,
        forecast_at=result.forecast_at,
        leaked=_leaked(payload),
        fill=attempt.fill,
    )
    return row if result.usage is None else msgspec.structs.replace(row, **_usage_columns(result.usage))


def _leaked(payload: Mapping[str, Any] | msgspec.Raw | None) -> bool:
    if isinstance(payload, msgspec.Raw):
        payload = msgspec.json.decode(payload) if _LEAKED.search(payload) else None
    return payload is not None and payload.get("leaked") is True


def _usage_columns(usage: Usage) -> dict[str, Any]:
    columns = msgspec.structs.asdict(usage)
    return columns if usage.cost is not None else columns | {"currency": None}


def _check_market(market: Market, row: Mapping[str, Any]) -> None:
    for column in _TEXTS:
        _check_length(column, column, row[column])
    for column in _PRICES:
        _check_unit(column, row[column])
    for column in _NUMBERS:
        _check_finite(column, row[column])
    for column in _TIMES:
        _check_zone(column, row[column])
    seen = set()
    for contract in market.contracts:
        field = f"contracts[{contract.index}]"
        if contract.contract_id in seen:
            raise UnwritableMarket(field, f"repeats the contract id {contract.contract_id}")
        seen.add(contract.contract_id)
        _check_length(f"{field}.contract_id", "contract_id", contract.contract_id)
        _check_length(f"{field}.name", "name", contract.name)
        _check_unit(f"{field}.price", contract.price)


def _check_length(field: str, column: str, value: str | None) -> None:
    if value is not None and len(value) > LONGEST[column]:
        raise UnwritableMarket(field, f"has {len(value)} characters, {LONGEST[column]} fit")


def _check_unit(field: str, value: float | None) -> None:
    if value is not None and not 0.0 <= value <= 1.0:  # also false for NaN
        raise UnwritableMarket(field, f"is {value}, not in [0, 1]")


def _check_finite(field: str, value: float | None) -> None:
    if value is not None and not float("-inf") < value < float("inf"):
        raise UnwritableMarket(field, f"is {value}, not a finite number")


def _check_zone(field: str, value: datetime | None) -> None:
    if value is not None and value.tzinfo is None:
        raise UnwritableMarket(field, "has no time zone")


def _clipped(reason: str | None) -> str | None:
    if reason is None or len(reason) <= _LONGEST_REASON:
        return reason
    return reason[: _LONGEST_REASON - 1] + "…"


def _checked_raw(raw: bytes) -> msgspec.Raw:
    """The payload's bytes, if they are one JSON object that jsonb can hold."""
    try:
        raw.decode()
        _skip(raw)
    except UnicodeDecodeError as error:
        raise UnwritableMarket("raw_snapshot", f"is not UTF-8 at byte {error.start}") from error
    except RecursionError as error:
        raise UnwritableMarket("raw_snapshot", "is nested too deep") from error
    except msgspec.DecodeError as error:
        _check_suspicious("raw_snapshot", raw)  # its message is better for half a surrogate pair
        raise UnwritableMarket("raw_snapshot", f"is not JSON: {error}") from error
    if not raw.lstrip().startswith(b"{"):
        raise UnwritableMarket("raw_snapshot", "is not a JSON object")
    return msgspec.Raw(raw)


def _checked_mapping(
    field: str, value: Mapping[str, Any] | msgspec.Raw | None
) -> Mapping[str, Any] | msgspec.Raw | None:
    """The same mapping, once it is known to hold no number that JSON cannot: msgspec would write null, silently."""
    if not value or isinstance(value, msgspec.Raw):
        return value
    try:
        if b"null" in _encode(value):
            for path, number in _numbers(value, field):
                _check_finite(path, number)
    except RecursionError as error:
        raise UnwritableMarket(field, "is nested too deep") from error
    except (TypeError, ValueError, OverflowError) as error:
        if isinstance(error, UnwritableMarket):
            raise
        raise UnwritableMarket(field, f"cannot be written as JSON: {error}") from error
    return value


def _numbers(value: object, path: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, float):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _numbers(item, f"{path}.{key}")
    elif isinstance(value, list | tuple | set | frozenset):
        for position, item in enumerate(value):
            yield from _numbers(item, f"{path}[{position}]")


def _checked_json(field: str, row: _Row | Mapping[str, Any]) -> bytes:
    """The row as JSON without what text in Postgres cannot hold."""
    try:
        encoded = _encode(row)
    except RecursionError as error:
        raise UnwritableMarket(field, "is nested too deep") from error
    except (TypeError, ValueError, OverflowError) as error:
        raise UnwritableMarket(field, f"cannot be written as JSON: {error}") from error
    _check_suspicious(field, encoded)
    return encoded


def _checked_rows(rows: Sequence[_Row], field_of: Callable[[int], str]) -> bytes:
    """Rows of one table, between commas; one by one only where something is wrong, to name the field of that row."""
    try:
        encoded = _encode(rows)
    except (RecursionError, TypeError, ValueError, OverflowError):
        encoded = None
    if encoded is None or _is_suspicious(encoded):
        return b",".join(_checked_json(field_of(place), row) for place, row in enumerate(rows))
    return encoded[1:-1]


def _check_suspicious(field: str, encoded: bytes) -> None:
    """Check a text with NUL or half a surrogate pair; an emoji written as a pair is alike in bytes, and is fine."""
    if not _is_suspicious(encoded):
        return
    try:
        value = json.loads(encoded)
    except ValueError:
        return
    for path, text in _strings(value, ""):
        _check_text(path or field, text)


def _is_suspicious(encoded: bytes) -> bool:
    return _SUSPICIOUS.search(encoded) is not None


def _strings(value: object, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield f"{path}.{key[:50]}".lstrip("."), key
            yield from _strings(item, f"{path}.{key[:50]}".lstrip("."))
    elif isinstance(value, list):
        for position, item in enumerate(value):
            yield from _strings(item, f"{path}[{position}]")


def _check_text(field: str, text: str) -> None:
    if "\x00" in text:
        raise UnwritableMarket(field.encode("ascii", "replace").decode(), "contains a NUL character")
    if not is_unicode(text):
        raise UnwritableMarket(
            field.encode("ascii", "replace").decode(), "contains half a surrogate pair, which is no character"
        )
