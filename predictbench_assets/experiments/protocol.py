"""The protocol of an experiment: what a forecaster implements, what it is given, what it returns.

An experiment is an object with a few attributes and one method. Most are the only instance of their class::

    class Contrarian(Experiment):
        name = "contrarian"
        version = "1"
        description = "Moves every price a fifth of the way towards one half."
        information = "market"

        def run(self, market: Market, context: PipelineContext) -> ExperimentResult:
            price = market.price.value
            if price is None:
                raise ExperimentSkip("no price to move")
            return ExperimentResult.binary(0.5 + 0.8 * (price - 0.5))

Others are several instances of one class that differ in their values: any attribute can be set on the instance.

`run` may be a coroutine function. An experiment that needs all markets of an event, or of the cohort, at once
implements `run_event` or `run_cohort` instead. Sync code runs in threads, so an instance must not keep state that two
markets would fight over.
"""

import logging
import math
import operator
import random
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, Self, SupportsFloat, TypeGuard, TypeVar, cast
from uuid import UUID

import msgspec
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidatorFunctionWrapHandler, field_validator

from predictbench_assets.clock import Clock
from predictbench_assets.experiments.model_calls.allowance import Allowance
from predictbench_assets.markets.market import Market
from predictbench_assets.markets.market_data import MarketData, OrderBook

if TYPE_CHECKING:
    from predictbench_assets.experiments.model_calls.desk import Calls

Information = Literal["blind", "market", "search_blind", "search"]
"""A word for each way of what an experiment may see, see `SEES`."""


class Sees(NamedTuple):
    """The two axes of what an experiment may see."""

    prices: bool
    """True if it is shown the prices of the snapshot; False if they are withheld."""
    search: bool
    """True if it may look at the world at run time."""

    def more_than(self, other: "Sees") -> bool:
        """True if it sees more on either axis."""
        return self.prices > other.prices or self.search > other.search


SEES: Mapping[Information, Sees] = {
    "blind": Sees(prices=False, search=False),
    "market": Sees(prices=True, search=False),
    "search_blind": Sees(prices=False, search=True),
    "search": Sees(prices=True, search=True),
}


def information_of(*, prices: bool, search: bool) -> Information:
    """The word for what an experiment may see."""
    sees = Sees(prices=prices, search=search)
    return next(word for word, each in SEES.items() if each == sees)


UnitName = Literal["market", "event", "cohort"]
"""The markets of one call."""

METHODS: Mapping[UnitName, str] = {"market": "run", "event": "run_event", "cohort": "run_cohort"}
"""The method that is called for each unit."""

MOST_SHARDS = 1_000
"""The most shards of an experiment; each reads the whole cohort."""

SUM_TOLERANCE = 1e-6

_MOST = 10**12
_CURRENCY = re.compile("[A-Z]{3}")
_MODEL = re.compile("[^\\x00-\\x1f\\ud800-\\udfff]{1,255}")

_SHOWN_VALUE = 60
"""Characters of a refused value that an error quotes."""

T = TypeVar("T")


class Usage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The use of a model or a service for one market; None where it is not known.

    Raises:
        ValueError: a count that is no whole number from 0 on, a cost or seconds below 0, a currency or a model that
            cannot be stored.
    """

    requests: int | None = None
    input_tokens: int | None = None
    """All tokens that were sent, the cached ones included."""
    output_tokens: int | None = None
    """All tokens that came back, those of reasoning included."""
    cached_tokens: int | None = None
    """Input tokens that the provider had in its cache."""
    cost: Decimal | None = None
    """Amount in units of `currency`; exact, so made of a text rather than of a float."""
    currency: str = "USD"
    """ISO 4217."""
    seconds: float | None = None
    """Seconds from the first request to the last answer."""
    model: str | None = None
    """The model as the provider named it in its answer, at most 255 characters."""

    def __post_init__(self) -> None:
        """Refuse what could not be stored, and make plain numbers of those of other libraries."""
        for name in ("requests", "input_tokens", "output_tokens", "cached_tokens"):
            if (count := getattr(self, name)) is not None:
                if not (hasattr(count, "__index__") and 0 <= count < 2**63):
                    raise ValueError(f"{name} is {count!r}, not a whole number from 0 on")
                msgspec.structs.force_setattr(self, name, operator.index(count))
        for name, kind in (("cost", Decimal), ("seconds", float)):
            if (amount := getattr(self, name)) is not None:
                if not (hasattr(amount, "__float__") and math.isfinite(amount) and 0 <= amount < _MOST):
                    raise ValueError(f"{name} is {amount!r}, not a number from 0 on")
                plain = amount if isinstance(amount, kind) else kind(str(amount))
                msgspec.structs.force_setattr(self, name, plain)
        if not (isinstance(self.currency, str) and _CURRENCY.fullmatch(self.currency)):
            raise ValueError(f"currency is {self.currency!r}, not three capital letters")
        if self.model is not None and not (isinstance(self.model, str) and _MODEL.fullmatch(self.model)):
            raise ValueError(f"model is {self.model!r:.300}, not 1 to 255 printable characters")


class ExperimentResult(BaseModel):
    """A forecast of one market; or of an experiment without forecasts, what it has for those that require it.

    Attributes:
        probabilities: one per outcome, in the market's order; finite, in [0, 1], summing to 1 (to 1e-6). Numbers and
            arrays of other libraries (numpy) are taken for what they hold. Left out by an experiment whose
            `forecasts` is False, and by no other.
        payload: whatever the experiment wants stored with the forecast; JSON-serialisable, see `outcomes`.
        artifact_uri: where something bigger was put, see `PipelineContext.artifact`.
        diagnostics: numbers and notes for debugging, kept apart from the payload.
        usage: what the forecast took of a model or a service.
        made_at: instant of a forecast that was made before it was asked for (a submission, a batch), with its time
            zone; between the freeze and now. None for now.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    probabilities: tuple[float, ...] = ()
    payload: Mapping[str, Any] = Field(default_factory=dict)
    artifact_uri: str | None = None
    diagnostics: Mapping[str, Any] = Field(default_factory=dict)
    usage: Usage | None = None
    made_at: AwareDatetime | None = None

    @field_validator("probabilities", mode="wrap")
    @classmethod
    def _proper(cls, given: object, check: ValidatorFunctionWrapHandler) -> tuple[float, ...]:
        if are_proper(given):
            return given
        plain = given.tolist() if _is_array(given) else given
        if isinstance(plain, Sequence) and not isinstance(plain, str):
            plain = tuple(map(_number, plain))
        probabilities: tuple[float, ...] = check(plain)
        if len(probabilities) < 2:
            raise ValueError("probabilities needs one number per outcome, at least two")
        if not all(math.isfinite(p) and 0.0 <= p <= 1.0 for p in probabilities):
            raise ValueError(f"probabilities must be finite and in [0, 1], got {probabilities}")
        if abs(sum(probabilities) - 1.0) > SUM_TOLERANCE:
            raise ValueError(f"probabilities must sum to 1, these sum to {sum(probabilities):.6g}")
        return probabilities

    @property
    def probability(self) -> float:
        """Probability of the market's first outcome: the number that is scored.

        Raises:
            ValueError: it is the result of an experiment without forecasts.
        """
        if not self.probabilities:
            raise ValueError("the result has no probabilities: it is of an experiment that gives no forecasts")
        return self.probabilities[0]

    @classmethod
    def binary(cls, probability: float, **rest: Any) -> Self:
        """A forecast of a two-outcome market by the probability of its first outcome.

        Raises:
            ValueError: it is no number in [0, 1].
        """
        first = _number(probability)
        return cls(probabilities=(first, 1.0 - first), **rest)


def are_proper(probabilities: object) -> TypeGuard[tuple[float, ...]]:
    """True for what nearly all results have: a tuple of Python's own floats that a result may have as they are."""
    if type(probabilities) is not tuple or len(probabilities) < 2:
        return False
    for probability in probabilities:
        if type(probability) is not float or not 0.0 <= probability <= 1.0:  # true of NaN
            return False
    return abs(sum(probabilities) - 1.0) <= SUM_TOLERANCE


class _Array(Protocol):
    def tolist(self) -> Any: ...


def _is_array(value: object) -> TypeGuard[_Array]:
    """True for an array of another library (numpy, torch, Arrow), which all have this method."""
    return not isinstance(value, type) and callable(getattr(value, "tolist", None))


def _number(value: object) -> float:
    """A number of any library as a float; an array that holds exactly one number counts as that."""
    plain = value.tolist() if _is_array(value) else value
    while isinstance(plain, list) and len(plain) == 1:
        [plain] = plain
    try:
        if isinstance(plain, bytes | list):
            raise TypeError("no number")
        return float(cast(SupportsFloat, plain))
    except (TypeError, ValueError):
        kind = type(value)
        shown = repr(value) if len(repr(value)) <= _SHOWN_VALUE else f"{repr(value)[:_SHOWN_VALUE]}…"
        raise ValueError(f"{shown} ({kind.__name__}) is not a number") from None


class ExperimentSkip(Exception):
    """Raised by an experiment that opts out of a market. Not a failure, unless the experiment is mandatory.

    Args:
        reason: one sentence.
        retriable: the next run of the day is to ask again (a budget was spent); else the skip counts for the day.
        usage: what was used all the same.
    """

    def __init__(self, reason: str, *, retriable: bool = False, usage: Usage | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retriable = retriable
        self.usage = usage


class RetriableError(Exception):
    """Raised by an experiment whose failure may pass (a model's API was busy); recorded as retriable."""

    def __init__(self, *args: object, usage: Usage | None = None) -> None:
        super().__init__(*args)
        self.usage = usage


@dataclass(frozen=True)
class RunMetadata:
    """Identity of a run, and of the frozen snapshot that it works on."""

    run_id: UUID
    run_date: date
    window_days: int
    target_date: date
    captured_at: datetime
    """Instant at which the exchange was read, UTC."""
    as_of: datetime
    """Instant of the freeze: nothing later may be used by an experiment that may not search. It is that of the capture,
    or in a reconstructed snapshot the hour of its run."""
    snapshot_hash: str


@dataclass(frozen=True)
class SettledMarket:
    """A market of the past whose resolution is known, for experiments that learn."""

    market_id: str
    question: str
    category: str
    close_time: datetime
    outcome: float
    """Settled value of the first outcome: 0, 1, or 0.5 for a split."""
    price: float | None
    """The market's own price at its capture; None where prices are withheld, or it was only reconstructed."""
    settled_at: datetime


@dataclass(frozen=True)
class SettledForecast:
    """An earlier forecast of a market whose resolution is known, for experiments that learn from forecasts."""

    market_id: str
    category: str
    outcome: float
    """Settled value of the first outcome: 0, 1, or 0.5 for a split."""
    price: float | None
    """The market's own price at its capture; None where prices are withheld."""
    probability: float
    """Forecast of the first outcome."""
    payload: Mapping[str, Any]
    """That of one of the experiment's own forecasts; empty for one of another's, which may be a long text."""
    settled_at: datetime


@dataclass(frozen=True)
class SettledCount:
    """The settled markets of a category, in short."""

    markets: int
    first_outcomes: float
    """Number of them that settled at their first outcome, a split counting as half of one."""


def count_settled(history: Iterable[SettledMarket]) -> Mapping[str, SettledCount]:
    """A history in short, by category."""
    outcomes: dict[str, list[float]] = {}
    for market in history:
        outcomes.setdefault(market.category, []).append(market.outcome)
    return {category: SettledCount(len(each), math.fsum(each)) for category, each in outcomes.items()}


@dataclass(frozen=True)
class Estimate:
    """The cost of forecasting some markets, in US dollars."""

    expected: Decimal
    at_most: Decimal


class HistoryInTheFuture(ValueError):
    """An experiment asked for resolutions that were not known when the snapshot was frozen."""


class Memo:
    """Values that are made at most once each, by name, whatever thread asks first."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._made: dict[str, object] = {}

    def get(self, name: str, make: Callable[[], T]) -> T:
        """The thing of that name, made now if it is not there; what `make` raises is raised, and nothing kept."""
        with self._lock:
            if name not in self._made:
                self._made[name] = make()
            return cast(T, self._made[name])


@dataclass(frozen=True)
class Prerequisite:
    """Something outside of this program that an experiment needs: a key, a price, a server, a folder."""

    found: str
    """What is there, or what is wrong; without a secret."""
    level: Literal["ok", "warn", "fail"] = "ok"
    """"fail" where the experiment cannot forecast without it."""
    fix: str = ""
    """What mends it, by the name of the setting."""
    address: str | None = None
    """Address of a server of which it remains to be seen whether it answers."""
    allow_private: bool = True
    """Whether that may be an address of this machine or of a private network."""


class ContextSource(ABC):
    """What the contexts of one experiment's run have in common, and what each has made when it is first asked for."""

    run: RunMetadata
    clock: Clock
    cohort: Sequence[Market]
    memo: Memo

    @abstractmethod
    def logger(self, market_id: str) -> logging.LoggerAdapter[logging.Logger]:
        """The logger of a market."""

    @abstractmethod
    def rng(self, market_id: str) -> random.Random:
        """The random generator of a market."""

    @abstractmethod
    def siblings(self, market_id: str) -> tuple[Market, ...]:
        """The other markets of a market's event."""

    @abstractmethod
    def market_data(self, market_id: str) -> bytes | None:
        """The encoded `MarketData` of a market; None where none was frozen."""

    @abstractmethod
    def history(self, as_of: datetime) -> Iterable[SettledMarket]:
        """The settled markets whose resolution was known at an instant."""

    @abstractmethod
    def settled_counts(self, as_of: datetime) -> Mapping[str, SettledCount]:
        """The same in short, by category."""

    @abstractmethod
    def settled_forecasts(self, name: str, as_of: datetime) -> Iterable[SettledForecast]:
        """The earlier forecasts of an experiment, for the markets whose resolution was known at an instant."""

    @abstractmethod
    def artifact(self, market_id: str, name: str, content: bytes) -> str:
        """Store an artifact of a market; returns its address."""

    def calls(self, market_id: str) -> "Calls":
        """The desk that a market's paid calls go over.

        Raises:
            RuntimeError: there is no ledger here.
        """
        raise RuntimeError(f"the context of market {market_id} has no ledger of paid calls")


@dataclass(frozen=True)
class PipelineContext:
    """The context of one market, which an experiment is given beside it.

    Where prices are withheld, the context has no price of any kind: siblings, cohort and history come without, and
    `required` can only hold results of other experiments without prices.
    """

    market_id: str
    required: Mapping[str, ExperimentResult]
    """Results of the required experiments for this market, by name; one that gave none is absent."""
    _source: ContextSource = field(repr=False)

    @property
    def run(self) -> RunMetadata:
        """Identity of the run."""
        return self._source.run

    @property
    def clock(self) -> Clock:
        """The time, in UTC."""
        return self._source.clock

    @cached_property
    def logger(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger whose lines name the run, the experiment and the market."""
        return self._source.logger(self.market_id)

    @cached_property
    def rng(self) -> random.Random:
        """Seeded by experiment, version and market: the same draw in every run."""
        return self._source.rng(self.market_id)

    @cached_property
    def siblings(self) -> tuple[Market, ...]:
        """The other markets of the same event in this cohort."""
        return self._source.siblings(self.market_id)

    @property
    def cohort(self) -> Sequence[Market]:
        """All markets of this cohort, this one among them; one for all, so going through it in each call is slow."""
        return self._source.cohort

    @cached_property
    def calls(self) -> "Calls":
        """The desk that paid calls go over: each is kept in the ledger, and none is made twice.

        Raises:
            RuntimeError: there is no ledger here.
        """
        return self._source.calls(self.market_id)

    @property
    def book(self) -> OrderBook | None:
        """The order book, for experiments whose `market_data` asks for it; None where none was frozen."""
        frozen = self._source.market_data(self.market_id)
        return None if frozen is None else _market_data(frozen).book

    @property
    def price_history(self) -> tuple[tuple[datetime, float], ...]:
        """Instants and prices of the week up to the freeze, oldest first, for experiments that ask as for `book`.

        Empty where none was frozen.
        """
        frozen = self._source.market_data(self.market_id)
        return () if frozen is None else _market_data(frozen).price_history

    def settled_forecasts(self, name: str, as_of: datetime | None = None) -> Iterable[SettledForecast]:
        """Earlier forecasts of an experiment for markets whose resolution was known at `as_of`, one a market.

        They are of its present version, were stored by then, and were made in time: within the freeze window and before
        their market closed.

        Args:
            name: this experiment's, or that of one that it requires.
            as_of: the freeze, where it is not given.

        Raises:
            ValueError: it is another experiment's name.
            HistoryInTheFuture: as `history`.
        """
        return self._source.settled_forecasts(name, self._past(as_of))

    def history(self, as_of: datetime | None = None) -> Iterable[SettledMarket]:
        """Markets whose resolution was known at `as_of` (default: the freeze), oldest first, each of them once.

        Raises:
            HistoryInTheFuture: `as_of` is later than the freeze; that would leak outcomes into forecasts.
        """
        return self._source.history(self._past(as_of))

    def settled_counts(self, as_of: datetime | None = None) -> Mapping[str, SettledCount]:
        """The history in short, by category: after a year it is long, and this is a line for each category.

        Raises:
            HistoryInTheFuture: as `history`.
        """
        return self._source.settled_counts(self._past(as_of))

    def _past(self, as_of: datetime | None) -> datetime:
        moment = as_of or self.run.as_of
        if moment > self.run.as_of:
            raise HistoryInTheFuture(
                f"history(as_of={moment.isoformat()}) is later than the freeze at {self.run.as_of.isoformat()}"
            )
        return moment

    def memo(self, name: str, make: Callable[[], T]) -> T:
        """Return the value of `make`, which is called for one market of this run and remembered for all others.

        For what is the same for each market and takes long: a summary of the history, a model read from a file.
        """
        return self._source.memo.get(name, make)

    def artifact(self, name: str, content: bytes) -> str:
        """Store something bigger beside the forecast (a transcript, a picture); returns its address."""
        return self._source.artifact(self.market_id, name, content)


_market_data = msgspec.json.Decoder(MarketData).decode

Forecasts = Mapping[str, ExperimentResult | Exception] | Awaitable[Mapping[str, ExperimentResult | Exception]]
"""Answers for several markets, by market id; an exception, such as a skip, is that of its market alone."""


class Experiment(ABC):
    """Base class of all experiments. Set the attributes, on the class or on the instance, and implement one method.

    Attributes:
        name: lower-case identifier, letters, digits and underscores; names the asset and the rows.
        version: change it whenever the forecasts may change; results of different versions are never mixed.
        description: one sentence, shown in the UI and on the board.
        requires: names of experiments whose results `context.required` must hold; they run first.
        mandatory: a market without a result of a mandatory experiment is not stored.
        information: what the experiment may see, a word of `SEES`; decides what context it gets.
        control: whether it knows nothing on purpose; a board on which one beats the market warns in red.
        forecasts: False for one that only prepares what others require (research): its results have no probabilities,
            are kept with their payload and artifact, and are on no board, page or release.
        market_data: whether its contexts have the order book and the prices of the week before, which are frozen beside
            the snapshot if any experiment asks; only for those that see prices. It skips reconstructed markets, as one
            does that may search.
        unit: the markets of one call: "market", "event" or "cohort"; None for that of the method it implements.
        trial_unit: the unit of a trial, where the answers of the usual one come hours later; None for the usual one.
        timeout_seconds: limit for one call; None for the setting's default.
        max_concurrency: calls under way at once; None for the setting's default.
        allowance: the most that its paid calls may take, see `PipelineContext.calls`.
        max_markets: markets of a run that it is asked about at most, those of the core first; the others are skipped.
        knowledge_cutoff: the last day of which its model may know by itself; None where it has none, or nobody knows.
            A forecast of a market that was asked as of that day or an earlier one is marked "may know the answer".
        kind: the word of its table's `kind` in `experiments.toml`; "code" for one that no table declares.
        declared_arguments: what its table gave to its constructor; decides its forecasts as `config` does.
        shards: processes that share out its calls, where EXECUTOR is not `in_process`: each takes a part of the events,
            and `max_concurrency` holds for each. Not for one that is called once for the whole cohort.
        op_tags: tags of its steps for Dagster and its executors: a GPU, a queue, the resources of a pod. JSON.
        journalled: whether answers are kept in the journal, and taken from it; False where they cost nothing and may be
            replaced.
    """

    name: str
    version: str
    description: str
    requires: tuple[str, ...] = ()
    mandatory: bool = False
    information: Information = "market"
    control: bool = False
    forecasts: bool = True
    market_data: bool = False
    unit: UnitName | None = None
    trial_unit: UnitName | None = None
    timeout_seconds: float | None = None
    max_concurrency: int | None = None
    allowance: Allowance | None = None
    max_markets: int | None = None
    knowledge_cutoff: date | None = None
    kind: str = "code"
    declared_arguments: Mapping[str, Any] = MappingProxyType({})
    journalled: bool = True
    shards: int = 1
    op_tags: Mapping[str, Any] = MappingProxyType({})

    @property
    def config(self) -> Mapping[str, Any]:
        """Everything else that decides the forecasts (a model's name, a temperature); each result stores its hash."""
        return {}

    def opened(self, run: RunMetadata) -> AbstractAsyncContextManager[object]:  # noqa: ARG002 - of those that need it
        """An async context around all calls of a run, for a client that is made once; by default it does nothing.

        Implement it with `contextlib.asynccontextmanager` and keep on `self` what the calls need. It is entered before
        the first call, in the event loop that coroutines run in, and left after the last one, also when the run fails
        or is cancelled. An error before its `yield` fails all markets, to be tried again by the next run.
        """
        return nullcontext()

    def prerequisites(self) -> Iterable[Prerequisite]:
        """What it needs from outside, for `doctor` to say before a run does; nothing is paid, and nobody is asked."""
        return ()

    def estimate(self, markets: Sequence[Market]) -> Estimate | None:  # noqa: ARG002 - of those that cost something
        """The cost of forecasting these markets, for people to see before they spend it; None where it is not known."""
        return None

    def run(self, market: Market, context: PipelineContext) -> ExperimentResult | Awaitable[ExperimentResult]:
        """Forecast one market.

        Raises:
            ExperimentSkip: to opt out, with the reason.
            RetriableError: a failure that may pass. Any other exception is a failure that will not.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement run")

    def run_event(self, markets: Sequence[Market], contexts: Mapping[str, PipelineContext]) -> Forecasts:
        """Forecast all markets of one event together; keys of both mappings are market ids.

        Implement this instead of `run` where markets of an event must be consistent. A market left out of the answer
        is a failure of that market.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement run_event")

    def run_cohort(self, markets: Sequence[Market], contexts: Mapping[str, PipelineContext]) -> Forecasts:
        """Forecast all markets of the cohort together, as `run_event` those of an event.

        For a fitted model, a file of forecasts, or a service that takes all questions at once.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement run_cohort")


def implemented_units(experiment: Experiment) -> list[UnitName]:
    """The units whose method the experiment's class implements."""
    kind = type(experiment)
    return [unit for unit, method in METHODS.items() if getattr(kind, method) is not getattr(Experiment, method)]


def unit_of(experiment: Experiment) -> UnitName:
    """The unit of the experiment's calls: its own word, or that of the method it implements."""
    return experiment.unit if experiment.unit is not None else implemented_units(experiment)[0]
