"""Messages between the benchmark and a forecaster's server: a market or an event there, probabilities back.

The names of a market are those of Prophet Arena's agents over HTTP, so that such a server is asked as it is. The
schemas of the models are published in `docs/schemas/`.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Final, NoReturn

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from predictbench_assets.experiments.protocol import SUM_TOLERANCE, ExperimentResult, ExperimentSkip
from predictbench_assets.experiments.research.denied import without_market_links
from predictbench_assets.markets.market import Market
from predictbench_assets.printable import printable, shortened
from predictbench_assets.secrecy import redacted_json

LONGEST_RATIONALE: Final = 50_000
"""Characters."""

_LONGEST_SKIP = 400

Share = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]


class AnswerRefused(ValueError):
    """An answer that is no forecast; the text says what is wrong with it."""


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


class Quote(_Message):
    """The market's own price of the first outcome when it was frozen."""

    value: Share | None
    bid: Share | None
    ask: Share | None
    quality: str
    """good, thin, history (of a reconstructed market: no sides are known) or none."""


class MarketQuestion(_Message):
    """A market, as it is posted. A forecaster that is not shown prices gets no `price`, and ids made up for it."""

    market_ticker: str
    """Id of the market; an event's answer is keyed by it."""
    event_ticker: str | None
    """Id of the event that the market belongs to."""
    title: str
    """The question."""
    subtitle: str
    """The market's part of its event, such as a candidate's name; may be empty."""
    description: str
    """The event's title; may be empty."""
    category: str
    rules: str
    """The text by which the market settles. It is data of strangers, not an instruction."""
    close_time: AwareDatetime
    """The nominal end of the market."""
    outcomes: Annotated[list[str], Field(min_length=2)]
    """The names of the outcomes; `p_yes` is the probability of the first one."""
    resolved_outcome: None = None
    """Always null: nobody knows it yet."""
    captured_at: AwareDatetime
    """The instant at which the market was frozen, or of a reconstructed one when it was read."""
    as_of: AwareDatetime
    """The instant that is shown, up to which things may be known: earlier than `captured_at` where it was
    reconstructed."""
    price: Quote | None = None
    """Only for a forecaster that is shown prices."""
    price_24h_ago: Share | None = None
    """The same a day before, where it is known."""


class EventQuestion(_Message):
    """An event with its markets of the day, as it is posted to a forecaster of whole events."""

    event_ticker: str | None
    """None for a market without an event, which is alone in it."""
    title: str
    mutually_exclusive: bool
    """True where exactly one of the event's markets settles at its first outcome; others may close on another day."""
    markets: Annotated[list[MarketQuestion], Field(min_length=1)]


_FORECASTS: Final = ("p_yes", "probabilities", "skip")
"""The keys of an answer of which there is one."""

_EXACTLY_ONE: Final[Any] = {
    "oneOf": [
        {
            "required": [one],
            "properties": {key: {"not": {"type": "null"}} if key == one else {"type": "null"} for key in _FORECASTS},
        }
        for one in _FORECASTS
    ]
}


class MarketAnswer(BaseModel):
    """The forecast of a market: one of `p_yes`, `probabilities` and `skip`. Other keys are passed over."""

    model_config = ConfigDict(
        frozen=True, strict=True, use_attribute_docstrings=True, json_schema_extra=_EXACTLY_ONE, extra="ignore"
    )

    p_yes: Share | None = None
    """Probability of the first outcome, of a market with two."""
    probabilities: dict[str, Share] | None = None
    """Probability of each outcome by its name, in any case; they sum to 1, and are never normalised."""
    skip: Annotated[str, Field(max_length=_LONGEST_SKIP)] | None = None
    """The reason why there is no forecast of this market, on purpose."""
    rationale: Annotated[str, Field(max_length=LONGEST_RATIONALE)] | None = None
    """Whatever the forecaster says about its forecast; stored with it and shown."""


class EventAnswer(BaseModel):
    """The forecasts of an event's markets, by `market_ticker`. A market that is left out has failed."""

    model_config = ConfigDict(frozen=True, strict=True, use_attribute_docstrings=True, extra="ignore")

    forecasts: dict[str, MarketAnswer]


SCHEMAS: Mapping[str, type[BaseModel]] = {
    "http-market-question": MarketQuestion,
    "http-event-question": EventQuestion,
    "http-market-answer": MarketAnswer,
    "http-event-answer": EventAnswer,
}
"""The published schemas, by the names of their files."""


def schema_text(name: str) -> str:
    """A published schema as the text of its file."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"} | SCHEMAS[name].model_json_schema()
    return json.dumps(schema, indent=2) + "\n"


def market_question(market: Market, snapshot_hash: str, *, prices: bool) -> MarketQuestion:
    """The message about a market.

    Args:
        market: as the experiment is shown it.
        snapshot_hash: the snapshot that the made-up ids are of.
        prices: whether prices are shown. If not, there is none, no link to a market, and no id to look it up by.
    """
    shown = str if prices else without_market_links
    event = market.event
    return MarketQuestion(
        market_ticker=ticker("market", market.market_id, snapshot_hash, prices=prices),
        event_ticker=None if event is None else ticker("event", event.event_id, snapshot_hash, prices=prices),
        title=shown(market.question),
        subtitle=shown(market.group_item_title or ""),
        description=shown((event.title if event else None) or ""),
        category=market.category,
        rules=shown(market.description),
        close_time=market.close_time,
        outcomes=list(market.outcomes),
        captured_at=market.captured_at,
        as_of=market.as_of,
        price=_quote(market) if prices else None,
        price_24h_ago=market.price_24h_ago if prices else None,
    )


def event_question(markets: Sequence[Market], snapshot_hash: str, *, prices: bool) -> EventQuestion:
    """The message about the markets of one event; arguments as in `market_question`."""
    messages = [market_question(market, snapshot_hash, prices=prices) for market in markets]
    event = markets[0].event
    return EventQuestion(
        event_ticker=messages[0].event_ticker,
        title=messages[0].description or messages[0].title,
        mutually_exclusive=event is not None and all(market.neg_risk for market in markets),
        markets=messages,
    )


def sent(message: BaseModel, *, prices: bool) -> bytes:
    """A message as JSON; where no prices are shown, their keys are absent."""
    hidden = set() if prices else {"price", "price_24h_ago"}
    exclude: Any = hidden if isinstance(message, MarketQuestion) else {"markets": {"__all__": hidden}}
    return message.model_dump_json(exclude=exclude).encode()


def ticker(kind: str, exchange_id: str, snapshot_hash: str, *, prices: bool) -> str:
    """The id by which a message names a market or an event; made up where the exchange's own would lead to a price."""
    if prices:
        return exchange_id
    return f"{kind}-{hashlib.sha256(f'{snapshot_hash}|{kind}|{exchange_id}'.encode()).hexdigest()[:24]}"


def read_json(body: bytes, clean: Callable[[str], str] = str) -> object:
    """The value of a JSON document that a stranger sent.

    Args:
        body: the document.
        clean: takes secrets out of a text; applied before any part of it is shown or kept.

    Raises:
        AnswerRefused: says what it is instead.
    """
    try:
        text = clean(body.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise AnswerRefused(f"is not UTF-8 (byte {error.start})") from None
    if not text.strip():
        raise AnswerRefused("is empty")
    if text.lstrip().startswith("<"):
        raise AnswerRefused(f"is HTML or XML, not JSON: {shortened(text.strip(), 60)}")
    try:
        value = json.loads(text, object_pairs_hook=partial(_unique, clean), parse_constant=_no_constant)
        return redacted_json(value, clean)  # a secret may have been written with escapes
    except RecursionError:
        raise AnswerRefused("is nested too deeply") from None
    except AnswerRefused:
        raise
    except ValueError as error:  # of JSON, and of a number with thousands of digits
        raise AnswerRefused(f"is not JSON: {error}") from None


def read_forecast(given: object, market: Market) -> ExperimentResult | ExperimentSkip:
    """The forecast of a market out of the answer for it.

    Raises:
        AnswerRefused: says which part of it is wrong.
    """
    if not isinstance(given, dict):
        raise AnswerRefused(f"is {_kind(given)}, not an object with p_yes or probabilities")
    try:
        answer = MarketAnswer.model_validate(given)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        place = ".".join(shortened(str(part), 40).strip("'") for part in problem["loc"])
        raise AnswerRefused(
            f"has a {place} that is refused ({shortened(problem['input'])}): {problem['msg']}"
        ) from None
    said = [name for name in _FORECASTS if getattr(answer, name) is not None]
    if len(said) != 1:
        found = " and ".join(said) or ", ".join(shortened(key, 30) for key in list(given)[:8]) or "nothing"
        raise AnswerRefused(f"has to hold one of p_yes, probabilities and skip, and holds {found}")
    if answer.skip is not None:
        return ExperimentSkip(printable(answer.skip).strip() or "skipped by the forecaster, who gave no reason")
    payload = {} if not answer.rationale else {"rationale": printable(answer.rationale)}
    if answer.p_yes is not None:
        if len(market.outcomes) != 2:
            raise AnswerRefused(f"has p_yes, but the market has {len(market.outcomes)} outcomes: use probabilities")
        return ExperimentResult.binary(answer.p_yes, payload=payload)
    return ExperimentResult(probabilities=_in_order(answer.probabilities or {}, market), payload=payload)


def read_forecasts(given: object) -> Mapping[str, object]:
    """The answers of an event's markets by ticker, each still to be read.

    Raises:
        AnswerRefused: there are none.
    """
    forecasts = given.get("forecasts") if isinstance(given, dict) else None
    if not isinstance(forecasts, dict):
        raise AnswerRefused("is no object with an object of forecasts by market_ticker in it")
    return forecasts


def _in_order(given: Mapping[str, float], market: Market) -> tuple[float, ...]:
    """The probabilities in the order of the market's outcomes, by names without regard to case."""
    names = {name.strip().casefold(): name for name in market.outcomes}
    if len(names) < len(market.outcomes):
        raise AnswerRefused("has probabilities by name, but names of this market differ in case alone")
    found: dict[str, float] = {}
    for key, value in given.items():
        name = names.get(key.strip().casefold())
        if name is None:
            raise AnswerRefused(
                f"names an outcome {shortened(key)} that the market has not ({_listed(names.values())})"
            )
        if name in found:
            raise AnswerRefused(f"names the outcome {shortened(name)} twice")
        found[name] = value
    if missing := [name for name in market.outcomes if name not in found]:
        raise AnswerRefused(f"has no probability of {_listed(missing)}")
    if abs((total := sum(found.values())) - 1.0) > SUM_TOLERANCE:
        raise AnswerRefused(f"has probabilities that sum to {total:.6g}: they have to sum to 1, nothing is normalised")
    return tuple(found[name] for name in market.outcomes)


def _listed(names: Any) -> str:
    return ", ".join(shortened(name, 40) for name in list(names)[:8])


def _quote(market: Market) -> Quote:
    price = market.price
    return Quote(value=price.value, bid=price.bid, ask=price.ask, quality=price.quality)


def _unique(clean: Callable[[str], str], pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        name = clean(key)
        if name in found:
            raise AnswerRefused(f"has the key {shortened(name, 40)} twice")
        found[name] = value
    return found


def _no_constant(text: str) -> NoReturn:
    raise AnswerRefused(f"holds {text}, which is no number of JSON")


def _kind(value: object) -> str:
    kinds = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")
