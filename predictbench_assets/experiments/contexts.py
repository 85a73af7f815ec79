"""Markets and contexts as an experiment is given them, with every price taken out where prices are withheld."""

import hashlib
import itertools
import logging
import random
import threading
import traceback
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import lru_cache
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any, Final

from predictbench_assets.clock import Clock
from predictbench_assets.experiments.model_calls.desk import Calls, Desk, Ledger
from predictbench_assets.experiments.protocol import (
    SEES,
    ContextSource,
    Experiment,
    ExperimentResult,
    Memo,
    PipelineContext,
    RunMetadata,
    SettledCount,
    SettledForecast,
    SettledMarket,
    count_settled,
)
from predictbench_assets.markets.market import Market

LOGGED_LINES: Final = 50
"""Log lines of one experiment's run that go where those of the project go; the others go past it."""

FURTHER_LINES: Final = "predictbench.experiment"
"""The logger of those others: none below the project's own, whose lines Dagster keeps."""

_NO_RESULTS: Mapping[str, ExperimentResult] = MappingProxyType({})
_FOLDER_DIGITS: Final = 32
"""Length of the hash that names a market's artifacts."""

_further = logging.getLogger(FURTHER_LINES)

History = Callable[[datetime], Iterable[SettledMarket]]
"""The settled markets whose resolution was known at an instant."""

HistoryCounts = Callable[[datetime], Mapping[str, SettledCount]]
"""The same in short, by category."""

SettledForecasts = Callable[[str, datetime], Iterable[SettledForecast]]
"""The earlier forecasts of an experiment, by its name, for the markets whose resolution was known at an instant."""

Artifacts = Callable[[str, bytes], str]
"""Stores bytes under a relative path and returns their address; called from several threads at once."""


class Contexts(ContextSource):
    """Factory of the market and the context that one experiment is handed for each market of a cohort."""

    def __init__(
        self,
        experiment: Experiment,
        markets: Sequence[Market],
        *,
        run: RunMetadata,
        clock: Clock,
        history: History | None,
        history_counts: HistoryCounts | None = None,
        settled_forecasts: SettledForecasts | None = None,
        market_data: Mapping[str, bytes] | None = None,
        artifacts: Artifacts | None,
        ledger: Ledger | None = None,
        lines: "LogLines",
        redact: Callable[[str], str] = str,
    ) -> None:
        blind = not SEES[experiment.information].prices
        visible_history = _nothing if history is None else _without_prices(history) if blind else history
        self._experiment = experiment
        self._blinded = {market.market_id: market.blinded() for market in markets} if blind else None
        self.run = run
        self.clock = clock
        self.cohort = tuple(markets if self._blinded is None else self._blinded.values())
        self.memo = Memo()
        self._own_memo = Memo()  # the names in the other one are the experiment's
        self._history = _remembered(visible_history)
        self._history_counts = history_counts
        self._forecasts = None if settled_forecasts is None else _permitted(settled_forecasts, experiment)
        self._market_data = (market_data or {}) if experiment.market_data and not blind else {}
        self._artifacts = artifacts
        self._desk = None if ledger is None else Desk(ledger, clock)
        self._lines = lines
        self._redact = redact

    def _markets_of_events(self) -> Mapping[str, Sequence[Market]]:
        """The markets of an event, by the id of each of them."""
        events: dict[str, list[Market]] = defaultdict(list)
        for market in self.cohort:
            if market.event is not None:
                events[market.event.event_id].append(market)
        return {market.market_id: others for others in events.values() for market in others}

    def shown(self, market: Market) -> Market:
        """The market as the experiment may see it."""
        return market if self._blinded is None else self._blinded[market.market_id]

    def context(self, market: Market, required: Mapping[str, ExperimentResult]) -> PipelineContext:
        """The context of one market."""
        return PipelineContext(market.market_id, MappingProxyType(dict(required)) if required else _NO_RESULTS, self)

    def contexts(
        self, markets: Sequence[Market], required: Callable[[Market], Mapping[str, ExperimentResult]]
    ) -> Mapping[str, PipelineContext]:
        """The contexts of the markets of one call, by market id, each made when it is looked at.

        One that nobody keeps is made anew the next time: of a cohort of 20,000 they would take 160 MB together.
        """
        return _MadeWhenLookedAt({one.market_id: one for one in markets}, lambda one: self.context(one, required(one)))

    async def close(self) -> None:
        """Let the answers of paid calls that have come back become durable."""
        if self._desk is not None:
            await self._desk.close()

    def log_fields(self, market_id: str | None) -> dict[str, str]:
        """The fields of a log line about a market, or about the experiment alone."""
        market = {} if market_id is None else {"market_id": market_id}
        return market | {
            "run_id": str(self.run.run_id),
            "process_stage": f"experiment_results/{self._experiment.name}",
            "experiment": self._experiment.name,
        }

    def logger(self, market_id: str) -> "_RedactingLogger":
        return _RedactingLogger(self._lines, self.log_fields(market_id), self._redact)

    def rng(self, market_id: str) -> random.Random:
        return generator(self._experiment, market_id)

    def siblings(self, market_id: str) -> tuple[Market, ...]:
        others = self._own_memo.get("events", self._markets_of_events).get(market_id, ())
        return tuple(other for other in others if other.market_id != market_id)

    def market_data(self, market_id: str) -> bytes | None:
        return self._market_data.get(market_id)

    def history(self, as_of: datetime) -> Iterable[SettledMarket]:
        return self._history(as_of)

    def settled_counts(self, as_of: datetime) -> Mapping[str, SettledCount]:
        return count_settled(self.history(as_of)) if self._history_counts is None else self._history_counts(as_of)

    def settled_forecasts(self, name: str, as_of: datetime) -> Iterable[SettledForecast]:
        return () if self._forecasts is None else self._forecasts(name, as_of)

    def artifact(self, market_id: str, name: str, content: bytes) -> str:
        if self._artifacts is None:
            raise RuntimeError("this context has no place for artifacts")
        path = PurePosixPath(name)
        if not name or path.is_absolute() or ".." in path.parts:
            raise ValueError(f"an artifact needs a relative name, got {name!r}")
        # By its hash: the id is the exchange's, which does not decide where files go.
        market_folder = hashlib.sha256(market_id.encode()).hexdigest()[:_FOLDER_DIGITS]
        return self._artifacts(f"{self._experiment.name}/{self._experiment.version}/{market_folder}/{path}", content)

    def calls(self, market_id: str) -> Calls:
        return Calls(self._desk, market_id)


class _MadeWhenLookedAt(Mapping[str, PipelineContext]):
    """Contexts by market id; whoever keeps one is given the same again."""

    def __init__(self, markets: Mapping[str, Market], make: Callable[[Market], PipelineContext]) -> None:
        self._markets, self._make = markets, make
        self._alive: weakref.WeakValueDictionary[str, PipelineContext] = weakref.WeakValueDictionary()

    def __getitem__(self, market_id: str) -> PipelineContext:
        context = self._alive.get(market_id)
        if context is None:
            context = self._alive[market_id] = self._make(self._markets[market_id])
        return context

    def __iter__(self) -> Iterator[str]:
        return iter(self._markets)

    def __len__(self) -> int:
        return len(self._markets)

    def __contains__(self, market_id: object) -> bool:
        return market_id in self._markets


class LogLines:
    """Route the log lines of one experiment's run: the first ones to a logger, all further ones past it.

    The logger may be one that keeps each line as a row of a database, with a transaction for each, and a line for each
    market is what experiments write. Past it they reach the process's log, which has all of them.

    Args:
        logger: for the first `LOGGED_LINES` lines, and one that names the place of the others.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self.first = logger
        self._numbers = itertools.count(1)

    def log(self, level: int, text: str, fields: Mapping[str, object]) -> None:
        """Log a line, with these fields beside its text."""
        number = next(self._numbers)
        if number == LOGGED_LINES + 1:
            self.first.info("further lines of this experiment are in the log of the process alone", extra=dict(fields))
        (self.first if number <= LOGGED_LINES else _further).log(level, "%s", text, extra=dict(fields))


class _RedactingLogger(logging.LoggerAdapter[logging.Logger]):
    """Logger that takes secrets out of lines: Dagster keeps them as they are, past our formatters."""

    def __init__(self, lines: LogLines, fields: Mapping[str, str], redact: Callable[[str], str]) -> None:
        super().__init__(lines.first, fields)
        self._lines = lines
        self._redact = redact

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Log a line, for every method; a traceback becomes part of the text."""
        if not self.isEnabledFor(level):
            return
        try:
            text = str(msg) % args if args else str(msg)
        except (TypeError, ValueError):  # the placeholders do not fit
            text = f"{msg} {args}"
        if kwargs.pop("exc_info", None):
            text += f"\n{traceback.format_exc()}"
        self._lines.log(level, self._redact(text), self.extra or {})


def generator(experiment: Experiment, market_id: str) -> random.Random:
    """The random generator of one experiment for one market: the same draws in every run."""
    seed = hashlib.sha256(f"{experiment.name}|{experiment.version}|{market_id}".encode()).digest()
    return random.Random(int.from_bytes(seed))  # noqa: S311 - reproducible on purpose


def _nothing(_: datetime) -> Iterable[SettledMarket]:
    return ()


def _remembered(history: History) -> History:
    """Memoize by instant: every call of a run asks for the same, from many threads, and the answer is long."""
    one_at_a_time = threading.Lock()

    @lru_cache(maxsize=4)
    def memoized(as_of: datetime) -> tuple[SettledMarket, ...]:
        return tuple(history(as_of))

    def remembered(as_of: datetime) -> Iterable[SettledMarket]:
        with one_at_a_time:
            return memoized(as_of)

    return remembered


def _without_prices(history: History) -> History:
    def blinded(as_of: datetime) -> Iterable[SettledMarket]:
        return (replace(settled, price=None) for settled in history(as_of))

    return blinded


def _permitted(forecasts: SettledForecasts, experiment: Experiment) -> SettledForecasts:
    """Forecasts of the experiment itself and of those that it requires, without prices where they are withheld."""
    names = {experiment.name, *experiment.requires}
    blind = not SEES[experiment.information].prices

    def permitted(name: str, as_of: datetime) -> Iterable[SettledForecast]:
        if name not in names:
            raise ValueError(f"{experiment.name} asked for forecasts of {name!r}, which it does not require")
        found = forecasts(name, as_of)
        return (replace(one, price=None) for one in found) if blind else found

    return permitted
