"""Runs one experiment over a cohort: many markets at once, each with a time limit, every answer journalled.

Whatever an experiment does, the runner returns one outcome per market, in the order of the cohort.
"""

import asyncio
import contextvars
import copy
import functools
import inspect
import itertools
import logging
import operator
import statistics
import threading
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, ParamSpec, TypeVar

from pydantic import ValidationError

from predictbench_assets.clock import Clock
from predictbench_assets.experiments.calls import (
    OVERDUE_LIMIT,
    Answer,
    Call,
    CallCancelled,
    Caller,
    CallTimedOut,
    Lifetime,
)
from predictbench_assets.experiments.contexts import (
    Artifacts,
    Contexts,
    History,
    HistoryCounts,
    LogLines,
    SettledForecasts,
)
from predictbench_assets.experiments.crashes import CrashMark
from predictbench_assets.experiments.isolation import Crash, Isolated, Served, Setup
from predictbench_assets.experiments.journal import Journal
from predictbench_assets.experiments.model_calls.desk import Ledger
from predictbench_assets.experiments.outcomes import Outcome, ResultRefused, completed, storable_usage
from predictbench_assets.experiments.protocol import (
    METHODS,
    SEES,
    Experiment,
    ExperimentResult,
    ExperimentSkip,
    RetriableError,
    RunMetadata,
    UnitName,
    unit_of,
)
from predictbench_assets.experiments.source import ExperimentSource
from predictbench_assets.failures import PredictbenchError
from predictbench_assets.markets.core_sample import sampling_order
from predictbench_assets.markets.market import Market

MAX_REASON: Final = 500
"""Characters of a reason that are kept."""

NO_SEARCH: Final = "reconstructed: a search now would find what came later"
"""Reason of those that may search, for markets of a snapshot that was reconstructed."""

NO_BOOK: Final = "reconstructed: nobody knows the order book of then"
"""Reason of those that ask for market data."""

MAX_TYPE_NAME: Final = 255
"""Characters of the name of an error's class; the database refuses longer ones."""

_IS_CORE, _IS_FINAL = operator.attrgetter("core"), operator.attrgetter("is_final")
_BACKLOG = 100  # series of calls whose answers may wait for the journal before further calls wait for it too
_PROGRESS_EVERY_S = 1.0
_LOOK_S = 0.05
"""Seconds between two looks at how threads get on."""
_QUICK_S = 0.0005
"""Seconds for a market, of the calls that one thread makes alone where they do nothing but compute."""
_BUSY = 0.8
"""Share of a core from which on the process computes rather than waits."""
_CLEANUP_S = 5.0

_logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")
Unit = tuple[Market, ...]
"""The markets of one call: one, those of an event, or those of the cohort."""


@dataclass(frozen=True)
class Progress:
    """The progress of an experiment."""

    experiment: str
    total: int
    completed: int
    skipped: int
    failed: int
    resumed: int
    """Markets, among the above, that an earlier attempt had journalled."""
    outdated: int
    """Resumed markets that were answered by other code than the experiment's present one."""
    seconds: float

    @property
    def done(self) -> int:
        """Markets that have an outcome."""
        return self.completed + self.skipped + self.failed


async def run_experiment(
    experiment: Experiment,
    markets: Sequence[Market],
    *,
    run: RunMetadata,
    clock: Clock,
    cohort: Sequence[Market] | None = None,
    only: frozenset[str] | None = None,
    required: Mapping[str, Mapping[str, Outcome]] | None = None,
    history: History | None = None,
    history_counts: HistoryCounts | None = None,
    settled_forecasts: SettledForecasts | None = None,
    market_data: Mapping[str, bytes] | None = None,
    artifacts: Artifacts | None = None,
    ledger: Ledger | None = None,
    journal: Journal | None = None,
    crash_mark: CrashMark | None = None,
    remake: Callable[[], Experiment] | None = None,
    max_concurrency: int = 8,
    shared_by: int = 1,
    timeout_s: float = 60.0,
    time_budget_s: float | None = None,
    redact: Callable[[str], str] = str,
    progress: Callable[[Progress], None] | None = None,
    logger: logging.Logger = _logger,
) -> list[Outcome]:
    """Run an experiment over the markets of a cohort, those of the core sample first.

    One that is declared, or has a limit of markets, goes on with a seeded, stratified sample of the others.

    Args:
        experiment: the one to run; its own `max_concurrency` and `timeout_seconds` come before the arguments here. Past
            its `max_markets` markets are skipped without a call, and not journalled, because the limit may be raised.
        markets: the cohort, with prices; they are taken out here where prices are withheld.
        run: handed to the experiment.
        clock: for the time of each forecast.
        cohort: what contexts know of the day, where `markets` are a part of it.
        only: ids of the markets that are called and come back, events as a whole; others are with other processes, and
            count for `max_markets` and the order of the calls alone. None for all.
        required: outcomes of the required experiments by name and market id. A market for which one did not complete
            is skipped without a call, and not journalled, because the requirement may come later. So is a reconstructed
            market, of an experiment that may search or asks for market data: it would see what came later.
        history: settled markets as of an instant; asked once for each, whatever the number of calls.
        history_counts: the same in short; made of `history` where it is not given.
        settled_forecasts: earlier forecasts of an experiment whose markets had settled by an instant.
        market_data: the encoded `MarketData` of each market, for an experiment that asks for them.
        artifacts: stores an artifact under a relative path, returns its address; called from several threads.
        ledger: keeps its paid calls; None for a run that makes none.
        journal: record of answers, read before a call; None to keep none.
        crash_mark: stands while its calls are made in this process; where one was left by a process that died, they are
            made in processes of their own, see `isolation`. None to know of no crash.
        remake: makes the experiment again in such a process, see `Registry.remake`; by default it is pickled.
        max_concurrency: calls under way at once.
        shared_by: processes that share these, of whichever number, with other runs; each has at least one.
        timeout_s: limit for one call, in seconds.
        time_budget_s: limit for the whole, in seconds; markets whose call has not begun by then fail as retriable.
        redact: takes secrets out of reasons and tracebacks.
        progress: called at the beginning, once a second, and at the end, from changing threads. An error of it ends
            the run.
        logger: receives the first of the experiment's log lines, see `LogLines`.

    Raises:
        JournalUnwritable: an answer could not be made durable. Nothing that an experiment does raises.
    """
    lines, source = LogLines(logger), ExperimentSource(experiment)
    digest = source.digest()  # read before the time begins to count
    limit_s = experiment.timeout_seconds or timeout_s
    isolated = None
    if crash_mark is not None and crash_mark.is_left():
        isolated = Isolated(
            Setup(
                remake=remake or functools.partial(copy.copy, experiment),
                markets=tuple(markets if cohort is None else cohort),
                run=run,
                clock=clock,
                required={name: [one.encode() for one in given.values()] for name, given in (required or {}).items()},
                limit_s=limit_s,
                log_level=logger.getEffectiveLevel(),
                is_opened=type(experiment).opened is not Experiment.opened,
                has_history=history is not None,
                has_history_counts=history_counts is not None,
                has_settled_forecasts=settled_forecasts is not None,
                market_data=dict(market_data or {}) if experiment.market_data else {},
                has_artifacts=artifacts is not None,
                ledger=None if ledger is None else (ledger.scope, ledger.allowance),
            ),
            Served(
                history,
                history_counts,
                settled_forecasts,
                artifacts,
                None if ledger is None else ledger.store,
                redact,
                lines.log,
            ),
        )
    attempt = Attempt(
        experiment=experiment,
        contexts=Contexts(
            experiment,
            markets if cohort is None else cohort,
            run=run,
            clock=clock,
            history=history,
            history_counts=history_counts,
            settled_forecasts=settled_forecasts,
            market_data=market_data,
            artifacts=artifacts,
            ledger=ledger,
            lines=lines,
            redact=redact,
        ),
        required=required or {},
        clock=clock,
        journal=journal,
        limit_s=limit_s,
        until=None if time_budget_s is None else time.monotonic() + time_budget_s,
        redact=redact,
        progress=progress,
        total=sum(only is None or market.market_id in only for market in markets),
        only=only,
        lines=lines,
        source=source,
        digest=digest,
        isolated=isolated,
    )
    if isolated is not None:
        logger.warning("%s has ended the process that it ran in: it is run in a process of its own", experiment.name)
    elif crash_mark is not None:
        crash_mark.set()
    try:
        await attempt.run(markets, workers=max(1, (experiment.max_concurrency or max_concurrency) // shared_by))
    finally:
        if isolated is not None:
            await isolated.close()
        elif crash_mark is not None:
            # A call that was left behind may still crash, while another experiment is at work.
            crash_mark.clear(at_exit=bool(attempt.overdue))
        if journal is not None:
            await journal.close()
        if ledger is not None:
            await attempt.contexts.close()
            await asyncio.to_thread(ledger.store.close)
    if isolated is not None and crash_mark is not None and isolated.calls and not isolated.deaths and only is None:
        crash_mark.forget()  # it was another's crash, or somebody killed the process
    asked = markets if only is None else [market for market in markets if market.market_id in only]
    return [attempt.outcomes[market.market_id] for market in asked]


def _blocking(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """The function for callers that are not coroutines.

    The event loop runs in a daemon thread: the caller may have a loop of its own, stays open to signals, and does not
    wait for ever on a coroutine that refuses to end.
    """

    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        answer: Future[T] = Future()
        started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[None]]] = Future()

        async def deliver() -> None:
            task = asyncio.current_task()
            assert task is not None
            started.set_result((asyncio.get_running_loop(), task))
            try:
                answer.set_result(await function(*args, **kwargs))
            except BaseException as error:
                answer.set_exception(error)

        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(asyncio.run, deliver()), name="experiment", daemon=True)
        thread.start()
        try:
            return answer.result()
        except BaseException:
            if not answer.done():  # a signal: the caller is to stop
                loop, task = started.result()
                loop.call_soon_threadsafe(task.cancel)
            raise
        finally:
            thread.join(timeout=_CLEANUP_S)

    return call


run_experiment_sync = _blocking(run_experiment)
"""`run_experiment` for code without an event loop, or with one that it must not block (an asset's body)."""


@dataclass
class Attempt:
    """The state of one run of one experiment."""

    experiment: Experiment
    contexts: Contexts
    required: Mapping[str, Mapping[str, Outcome]]
    clock: Clock
    journal: Journal | None
    limit_s: float
    until: float | None
    redact: Callable[[str], str]
    progress: Callable[[Progress], None] | None
    total: int
    lines: LogLines
    source: ExperimentSource
    digest: str | None
    """Digest of the experiment's present source."""
    only: frozenset[str] | None = None
    """Ids of the markets that are called here; None for all."""
    refused: tuple[str, str | None] | None = None
    """The reason why the experiment could not be opened, and the place in its code."""
    isolated: Isolated | None = None
    """The processes that make its calls; None to make them here."""
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    overdue: set["asyncio.Future[Answer]"] = field(default_factory=set)
    unwritten: "asyncio.Queue[list[list[Outcome]] | None]" = field(default_factory=lambda: asyncio.Queue(_BACKLOG))
    """Answers on their way to the journal; None ends them."""
    is_busy: bool = False
    """True if the process used more than `_BUSY` of a core between the last two looks."""
    quick_worker: Caller | None = None
    """The worker to which the others leave quick calls."""
    no_unit_left: bool = False
    """True once a worker found no unit to go on with."""
    started: float = field(default_factory=time.monotonic)

    async def run(self, markets: Sequence[Market], workers: int) -> None:
        """Give every market an outcome."""
        units = await self._open_units(markets)
        self._report()
        try:
            if units:
                async with self.opened() if self.isolated is None else nullcontext():
                    await self._make_calls(units, workers)
        except BaseExceptionGroup as group:
            raise _first(group) from None  # the first one cancelled the others
        self._report()

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Keep the experiment open meanwhile; `refused` has the reason where it could not be opened."""
        lifetime = Lifetime(lambda: self.experiment.opened(self.contexts.run))
        try:
            if (error := await lifetime.enter(self.limit_s)) is not None:
                place = self.source.place_of(error)
                self.refused = (
                    f"opened() failed: {_describe_error(error)}",
                    None if place is None else self._clean(place),
                )
            yield
        finally:
            if (error := await lifetime.leave()) is not None:
                line = self._clean(f"{self.experiment.name} was not closed: {_describe_error(error)}")
                self.lines.log(logging.WARNING, line, self.contexts.log_fields(None))

    async def _make_calls(self, units: Sequence[Unit], workers: int) -> None:
        waiting = iter(units)
        async with asyncio.TaskGroup() as writing:
            writing.create_task(self._write_journal())
            reporting = writing.create_task(self._report_regularly())
            async with asyncio.TaskGroup() as calling:
                await self._keep_at_work(calling, waiting, min(workers, len(units)))
            await self.unwritten.put(None)
            reporting.cancel()

    async def _keep_at_work(self, calling: asyncio.TaskGroup, units: Iterator[Unit], most: int) -> None:
        """Start workers until no unit is left, `most` at once at most: all at the start where they are no threads.

        Of threads that compute one makes quick calls sooner alone than several do, which have to pass the interpreter's
        lock to each other. While answers are slow to come, or the process waits, they double; see `_may_leave`.
        """
        names = (f"{self.experiment.name}-{number}" for number in itertools.count())
        at_work: set[asyncio.Task[None]] = set()
        wanted = 1 if self._in_threads else most
        while not self.no_unit_left:
            while len(at_work) < wanted:
                at_work.add(calling.create_task(self._work(units, next(names))))
            answered, used, since = len(self.outcomes), time.process_time(), time.monotonic()
            _, at_work = await asyncio.wait(at_work, timeout=_LOOK_S if self._in_threads else None)
            seconds = time.monotonic() - since
            self.is_busy = time.process_time() - used > _BUSY * seconds
            wanted = 1
            if not self.is_busy or (len(self.outcomes) - answered) * _QUICK_S < seconds:
                wanted, self.quick_worker = max(1, min(2 * len(at_work), most)), None

    async def _open_units(self, markets: Sequence[Market]) -> list[Unit]:
        """The calls to make: without journalled markets, those that cannot be asked about, those past the limit."""
        if self._not_reconstructable or self.experiment.requires:
            markets = self._without_impossible(markets)
        known = await asyncio.to_thread(self.journal.load) if self.journal else {}
        calls = []
        for unit in self._units(markets):
            if known and all(market.market_id in known for market in unit):
                resumed = [known[market.market_id] for market in unit]
                self._take(resumed)
                self.counts["outdated"] += sum(one.source not in (None, self.digest) for one in resumed)
                self.counts["resumed"] += len(unit)
            else:
                calls.append(unit)
        calls = self._within_limit(calls)
        return calls if self.only is None else self._without_others(calls, self.only, known)

    def _without_impossible(self, markets: Sequence[Market]) -> list[Market]:
        """The markets that can be asked about; the others are skipped."""
        left, not_reconstructable = [], self._not_reconstructable
        for market in markets:
            reason = not_reconstructable if market.reconstructed else None
            reason = reason or self._missing_requirement(market)
            if reason is None:
                left.append(market)
            else:
                self._take([Outcome(market_id=market.market_id, status="skipped", reason=reason)])
        return left

    def _without_others(self, calls: Sequence[Unit], only: frozenset[str], known: Mapping[str, Outcome]) -> list[Unit]:
        """The calls that are made here, once it is known of all which are; the others' markets are let go."""
        self.outcomes = {one: outcome for one, outcome in self.outcomes.items() if one in only}
        self.counts = Counter(outcome.status for outcome in self.outcomes.values())
        self.counts["resumed"] = len(self.outcomes.keys() & known.keys())
        return [unit for unit in calls if unit[0].market_id in only]

    def _in_order(self, markets: Sequence[Market]) -> Sequence[Market]:
        """The markets in the order of their calls; a sample's where some limit may cut them short."""
        if self.experiment.kind == "code" and self.experiment.max_markets is None:
            return sorted(markets, key=_IS_CORE, reverse=True)  # those of the core first, in the order that they have
        return sampling_order(markets, self.contexts.run.snapshot_hash)

    def _units(self, markets: Sequence[Market]) -> list[Unit]:
        """The markets of each call, in the order of the calls; as one call the cohort has as many as `max_markets`
        allows, then the rest. Within a call they have the order of the cohort."""
        ordered = self._in_order(markets)
        if self._unit_name == "market":
            return [(market,) for market in ordered]
        if self._unit_name == "cohort":
            chosen = {market.market_id for market in ordered[: self.experiment.max_markets]}
            parts = [[market for market in markets if (market.market_id in chosen) is among] for among in (True, False)]
            return [tuple(part) for part in parts if part]
        place = {market.market_id: number for number, market in enumerate(ordered)}
        return sorted(_by_event(markets), key=lambda unit: min(place[market.market_id] for market in unit))

    def _within_limit(self, calls: Sequence[Unit]) -> list[Unit]:
        """The calls that the experiment's `max_markets` allows beside what is journalled; the rest is skipped.

        An event is asked about as a whole or not at all: one that does not fit leaves its place to smaller ones.
        """
        limit = self.experiment.max_markets
        if limit is None:
            return list(calls)
        made, left = [], limit - self.counts["resumed"]
        reason = f"budget: markets = {limit:,} of this day's {self.total:,}"
        for unit in calls:
            if len(unit) <= left:
                made.append(unit)
                left -= len(unit)
                continue
            self._take([Outcome(market_id=market.market_id, status="skipped", reason=reason) for market in unit])
        return made

    @property
    def _not_reconstructable(self) -> str | None:
        """The reason for which the experiment cannot go back to a reconstructed market's day; None where it can."""
        if SEES[self.experiment.information].search:
            return NO_SEARCH
        return NO_BOOK if self.experiment.market_data else None

    def _missing_requirement(self, market: Market) -> str | None:
        for name in self.experiment.requires:
            outcome = self.required.get(name, {}).get(market.market_id)
            if outcome is None:
                return f"requires {name}, which was not run for this market"
            if outcome.status != "completed":
                return self._clean(f"requires {name}, which {outcome.status}: {outcome.reason}")
        return None

    async def _work(self, units: Iterator[Unit], name: str) -> None:
        """One of the workers: calls, one after another, until none is left."""
        caller = Caller(name, self.overdue)
        try:
            while calls := await self._next_calls(caller, units):
                self._take([outcome for outcomes in calls for outcome in outcomes])
                if final := _final(calls):
                    await self.unwritten.put(final)
                if self._in_threads and self._may_leave(caller, calls):
                    return
            self.no_unit_left = True
        except asyncio.CancelledError:
            with suppress(asyncio.QueueFull):  # the journal does not write any more
                self.unwritten.put_nowait(_final(self._outcomes_of(caller.interrupt())))
            raise
        finally:
            caller.close()

    def _may_leave(self, caller: Caller, calls: Sequence[Sequence[Outcome]]) -> bool:
        """Note whether a worker's calls were quick and did nothing but compute; True where another one's were too."""
        # By the median, since a call in which a thread waited for its turn seems slow.
        seconds = statistics.median(outcome.seconds for outcomes in calls for outcome in outcomes)
        is_quick = self.is_busy and seconds < _QUICK_S and not caller.in_series
        if is_quick and self.quick_worker is None:
            self.quick_worker = caller
        elif not is_quick and self.quick_worker is caller:
            self.quick_worker = None
        return is_quick and self.quick_worker is not caller

    async def _next_calls(self, caller: Caller, units: Iterator[Unit]) -> list[list[Outcome]]:
        """The outcomes of the next call, or of several quick ones; none where no unit is left."""
        reason = self._given_up()
        if self._in_threads and (reason is None or caller.in_series):
            made = await caller.call_in_series(units, self._bound, limit_s=self.limit_s)
            return self._outcomes_of(made)
        unit = next(units, None)
        if unit is None:
            return []
        return [await self._answer(caller, unit) if reason is None else self._not_tried(unit, *reason)]

    async def _write_journal(self) -> None:
        """Write what has gathered while the last write was under way, until there will be no more.

        No call waits for the disk, and quick answers share one write and one sync.
        """
        ended = False
        try:
            while not ended:
                gathered = [await self.unwritten.get(), *self._gathered()]
                ended = None in gathered
                await self._append(gathered)
        except asyncio.CancelledError:
            await self._append(self._gathered())  # what was answered until now
            raise

    def _gathered(self) -> list[list[list[Outcome]] | None]:
        return [self.unwritten.get_nowait() for _ in range(self.unwritten.qsize())]

    async def _append(self, gathered: Sequence[list[list[Outcome]] | None]) -> None:
        calls = [outcomes for some in gathered for outcomes in some or ()]
        if self.journal is not None and calls:
            await self.journal.append(calls)

    def _given_up(self) -> tuple[str, str | None] | None:
        """The reason why no more calls are made, once the experiment hangs or has run out of time, and its place."""
        overdue = len(self.overdue) if self.isolated is None else self.isolated.overdue
        if self.refused is not None:
            return self.refused
        if self.isolated is not None and self.isolated.given_up is not None:
            return self.isolated.given_up, None
        if overdue >= OVERDUE_LIMIT:
            return f"{overdue} calls of this experiment are still running past their time limit", None
        if self.until is not None and time.monotonic() >= self.until:
            return "the experiment's time was up", None
        return None

    def _not_tried(self, unit: Unit, reason: str, place: str | None) -> list[Outcome]:
        reason = self._clean(f"not tried: {reason}")
        return [
            Outcome(market_id=market.market_id, status="failed", reason=reason, retriable=True, place=place)
            for market in unit
        ]

    async def _answer(self, caller: Caller, unit: Unit) -> list[Outcome]:
        if self.isolated is None:
            return await self.call(caller, unit)
        answer = await self.isolated.call([market.market_id for market in unit], self.limit_s)
        if not isinstance(answer, Crash):
            return answer
        place = None if answer.retriable else self.source.place_of(None)
        return [
            Outcome(
                market_id=market.market_id,
                status="failed",
                reason=self._clean(answer.reason),
                exception_type=Crash.__name__,
                retriable=answer.retriable,
                place=None if place is None else self._clean(place),
                source=self.digest,
            )
            for market in unit
        ]

    async def call(self, caller: Caller, unit: Unit) -> list[Outcome]:
        """Ask the experiment about the markets of one call, in this process."""
        bound, begun = self._bound(unit), time.monotonic()
        answer = await caller.call(bound.func, *bound.args, limit_s=self.limit_s)
        [outcomes] = self._outcomes_of([Call(unit, answer, time.monotonic() - begun)])
        return outcomes

    @property
    def _in_threads(self) -> bool:
        """True where calls are made in threads of this process."""
        return self.isolated is None and not inspect.iscoroutinefunction(self._function)

    @functools.cached_property
    def _function(self) -> Callable[..., Any]:
        name = self._unit_name
        function: Callable[..., Any] = getattr(self.experiment, "run" if name == "market" else METHODS[name])
        return function

    @functools.cached_property
    def _unit_name(self) -> UnitName:
        return unit_of(self.experiment)

    def _bound(self, unit: Unit) -> "functools.partial[Any]":
        """The experiment's function with the arguments of one call."""
        if self._unit_name == "market":
            (market,) = unit
            context = self.contexts.context(market, self._results_for(market))
            return functools.partial(self._function, self.contexts.shown(market), context)
        contexts = self.contexts.contexts(unit, self._results_for)
        return functools.partial(self._function, [self.contexts.shown(market) for market in unit], contexts)

    def _outcomes_of(self, calls: Iterable[Call[Unit]]) -> list[list[Outcome]]:
        """The outcomes of the markets of each call, which were answered by now."""
        name = self._unit_name
        if name == "market":
            now = self.clock.now()
            return [[self._outcome(unit[0], answer, seconds, now)] for unit, answer, seconds in calls]
        made = []
        for unit, answer, seconds in calls:
            answers = self._split(unit, METHODS[name], answer)
            now = self.clock.now()  # after that: a mapping may make its answers as they are looked at
            each = zip(unit, answers, strict=True)
            made.append([self._outcome(market, one, seconds / len(unit), now) for market, one in each])
        return made

    def _results_for(self, market: Market) -> dict[str, ExperimentResult]:
        if not self.experiment.requires:
            return {}
        results = {name: self.required[name][market.market_id].result for name in self.experiment.requires}
        return {name: result for name, result in results.items() if result is not None}

    def _split(self, unit: Unit, method: str, answer: Answer) -> list[Answer]:
        """The answer for several markets as one answer per market."""
        if answer.error is not None:
            return [answer] * len(unit)
        try:
            return self._by_market(unit, method, answer.value)
        except BaseException as broken:  # the answer is the experiment's own object, with any bug
            return [Answer(error=_unreadable(broken))] * len(unit)

    def _by_market(self, unit: Unit, method: str, given: object) -> list[Answer]:
        if not isinstance(given, Mapping):
            refused = ResultRefused(f"{method} returned a {type(given).__name__}, not a mapping by market id")
            return [Answer(error=refused)] * len(unit)
        unknown = sorted(str(key) for key in given.keys() - {market.market_id for market in unit})
        if unknown:
            problem = f"{self.experiment.name} answered for markets that it was not asked about"
            line = self.redact(f"{problem}: {', '.join(unknown[:10])}")
            self.lines.log(logging.WARNING, line, self.contexts.log_fields(unit[0].market_id))
        left_out = Answer(error=ResultRefused(f"{method} left this market out of its answer"))
        return [Answer(given[m.market_id]) if m.market_id in given else left_out for m in unit]

    def _outcome(self, market: Market, answer: Answer, seconds: float, now: datetime) -> Outcome:
        """Turn the answer for a market into an outcome; one that cannot be read is a failure of that market alone."""
        try:
            return self._read(market, answer, seconds, now)
        except BaseException as broken:  # answers and errors are the experiment's own objects, with any bug
            return self._read(market, Answer(error=_unreadable(broken)), seconds, now)

    def _read(self, market: Market, answer: Answer, seconds: float, now: datetime) -> Outcome:
        value, error = answer.value, answer.error
        if isinstance(value, Exception):  # of one market among several, or a skip that was returned
            error = value
        elif error is None:
            try:
                if not isinstance(value, ExperimentResult):
                    raise ResultRefused(f"the answer is a {type(value).__name__}, not an ExperimentResult")
                return completed(
                    market,
                    value,
                    forecast_at=now,
                    seconds=seconds,
                    forecasts=self.experiment.forecasts,
                    source=self.digest,
                    redact=self.redact,
                )
            except ResultRefused as refused:
                error = refused
            except Exception as broken:  # a payload may be any object, with any bug
                error = ResultRefused(f"the answer cannot be stored: {_describe_error(broken)}")
        if isinstance(error, ExperimentSkip):
            return Outcome(
                market_id=market.market_id,
                status="skipped",
                reason=self._clean(str(error.reason)),
                seconds=seconds,
                retriable=bool(getattr(error, "retriable", False)),
                source=self.digest,
                usage=storable_usage(error.usage, self.redact),
            )
        self._log_traceback(market, error)
        place = self.source.place_of(error)
        return Outcome(
            market_id=market.market_id,
            status="failed",
            reason=self._clean(_describe_error(error)),
            seconds=seconds,
            exception_type=self._clean(str(type(error).__name__))[:MAX_TYPE_NAME],
            retriable=_is_retriable(error),
            place=None if place is None else self._clean(place),
            source=self.digest,
            usage=storable_usage(getattr(error, "usage", None), self.redact),
        )

    def _clean(self, reason: str) -> str:
        """A reason as it may be stored: one line, no secret, no character that the database refuses."""
        plain = self.redact(reason).encode(errors="replace").decode().replace("\0", "?")
        line = " ".join(plain.split())
        return line if len(line) <= MAX_REASON else line[: MAX_REASON - 1] + "…"

    def _log_traceback(self, market: Market, error: BaseException) -> None:
        if self.lines.first.isEnabledFor(logging.DEBUG):
            text = self.redact("".join(traceback.format_exception(error)))
            self.lines.log(logging.DEBUG, text, self.contexts.log_fields(market.market_id))

    def _take(self, outcomes: Sequence[Outcome]) -> None:
        self.outcomes.update((outcome.market_id, outcome) for outcome in outcomes)
        self.counts.update([outcome.status for outcome in outcomes])

    async def _report_regularly(self) -> None:
        """Report once a second, whatever calls do, and in a thread: the callback may write a heartbeat."""
        while True:
            await asyncio.sleep(_PROGRESS_EVERY_S)
            await asyncio.to_thread(self._report)

    def _report(self) -> None:
        if self.progress is not None:
            self.progress(
                Progress(
                    experiment=self.experiment.name,
                    total=self.total,
                    completed=self.counts["completed"],
                    skipped=self.counts["skipped"],
                    failed=self.counts["failed"],
                    resumed=self.counts["resumed"],
                    outdated=self.counts["outdated"],
                    seconds=time.monotonic() - self.started,
                )
            )


def _final(calls: Sequence[list[Outcome]]) -> list[list[Outcome]]:
    """The calls that need not be made again."""
    return [outcomes for outcomes in calls if all(map(_IS_FINAL, outcomes))]


def _first(error: BaseException) -> BaseException:
    """The first error of a group of errors, or of groups of them."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _by_event(markets: Sequence[Market]) -> list[Unit]:
    """The markets of each event, in the order of the cohort; a market without an event is by itself."""
    groups: dict[tuple[str, str], list[Market]] = {}
    for market in markets:
        key = ("event", market.event.event_id) if market.event else ("market", market.market_id)
        groups.setdefault(key, []).append(market)
    return [tuple(group) for group in groups.values()]


def _describe_error(error: BaseException | None) -> str:
    """Type and message of an error; pydantic's without its report's layout, a group's with its first one."""
    try:
        if isinstance(error, ValidationError):
            message = "; ".join(
                f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}" for problem in error.errors()
            )
        elif isinstance(error, BaseExceptionGroup):
            message = f"{error}: {_describe_error(error.exceptions[0])}"
        else:
            message = str(error)
    except Exception:  # an experiment's own exception may be broken as well
        message = "(its message cannot be shown)"
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def _unreadable(error: BaseException) -> ResultRefused:
    """Failure for an answer that raises when it is read; the error's own text is not read again."""
    return ResultRefused(f"the answer cannot be read: {type(error).__name__} when it was looked at")


def _is_retriable(error: BaseException | None) -> bool:
    if isinstance(error, PredictbenchError):
        return error.retriable
    return isinstance(error, RetriableError | CallTimedOut | CallCancelled)
