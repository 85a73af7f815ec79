"""A try of an experiment on a few markets of a staged day: asked here and now, and nothing of it is kept."""

import copy
import dataclasses
import re
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date, datetime
from functools import cached_property
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Engine

from predictbench_assets.database.connection import opened_database
from predictbench_assets.experiments.forecast import (
    learnable_forecasts,
    ledger_of,
    outcomes_by_market,
    results_path,
    run_metadata,
    stale_reason,
)
from predictbench_assets.experiments.history import settled_counts, settled_forecasts, settled_markets
from predictbench_assets.experiments.model_calls.allowance import Allowance
from predictbench_assets.experiments.model_calls.records import Call, Claim, Reply, Settled
from predictbench_assets.experiments.model_calls.store import CallStore
from predictbench_assets.experiments.outcomes import OUTCOMES, Outcome
from predictbench_assets.experiments.protocol import (
    SEES,
    Experiment,
    RunMetadata,
    SettledCount,
    SettledForecast,
    SettledMarket,
    unit_of,
)
from predictbench_assets.experiments.registry import Registry
from predictbench_assets.experiments.runner import Progress, run_experiment_sync
from predictbench_assets.failures import PermanentError
from predictbench_assets.ingestion.cohort import COHORT, cohort_markets
from predictbench_assets.ingestion.headers import CohortHeader
from predictbench_assets.ingestion.market_data import frozen_market_data
from predictbench_assets.ingestion.names import open_staged
from predictbench_assets.markets.core_sample import sampling_order
from predictbench_assets.markets.market import Market
from predictbench_assets.runs import RunKey
from predictbench_assets.settings import Settings
from predictbench_assets.staging import StagedFileMissing, StagingArea

_COHORT: Final = ("normalized_markets",)
_STAGED: Final = re.compile(r"normalized_markets/(\d{4}-\d\d-\d\d)/(\d+)\.")


class NotStaged(PermanentError):
    """There is no staged day to try an experiment on, or no such market on it; the text names a command that helps."""


@dataclass(frozen=True)
class StagedDay:
    """The cohort of a day and a window, as its run staged it."""

    key: RunKey
    run: RunMetadata
    markets: Sequence[Market]

    @cached_property
    def order(self) -> Sequence[Market]:
        """The markets in the order in which an experiment with a limit is asked about them, the core first."""
        return sampling_order(self.markets, self.run.snapshot_hash)

    def chosen(
        self, experiment: Experiment, market_id: str | None, limit: int | None, *, core: bool = False
    ) -> list[Market]:
        """One market, or the first ones; where events are asked about as a whole, with the others of the same events.

        Args:
            experiment: the one that is asked.
            market_id: id, or condition id, of the one market.
            limit: the most markets; None for all.
            core: the core sample alone.

        Raises:
            NotStaged: no market of the day has that id.
        """
        chosen = [market for market in self.order if market.core or not core][:limit]
        if market_id is not None:
            chosen = [market for market in self.markets if market_id in (market.market_id, market.condition_id)]
        if not chosen:
            which = "no market" if market_id is None else f"no market {market_id!r}"
            raise NotStaged(f"there is {which} among the {len(self.markets):,} of {self.key}")
        if unit_of(experiment) != "event":
            return chosen
        events = {market.event.event_id for market in chosen if market.event}
        ids = {market.market_id for market in chosen}
        return [
            market
            for market in self.order
            if market.market_id in ids or (market.event and market.event.event_id in events)
        ]


@dataclass(frozen=True)
class Seen:
    """A paid call of a try: what was sent, None where an earlier one was paid for, and what came back."""

    call: Call
    content: Any
    reply: Reply | None


@dataclass(frozen=True)
class Trial:
    """The outcomes of a try, by market, with the bytes of the artifacts that their addresses name."""

    markets: Sequence[Market]
    outcomes: Sequence[Outcome]
    artifacts: Mapping[str, bytes]
    calls: Sequence[Seen]
    """Its paid calls."""
    also_run: Sequence[str]
    """Names of required experiments that had to be asked as well, since nothing usable of them is staged."""

    def calls_of(self, market: Market) -> Iterator[Seen]:
        """The calls about a market; those about an event are the first one's of its markets."""
        event = market.event.event_id if market.event else None
        first = next(one for one in self.markets if one == market or (one.event and one.event.event_id == event))
        for seen in self.calls:
            own = seen.call.unit == "market" and seen.call.unit_id == market.market_id
            if own or (seen.call.unit == "event" and seen.call.unit_id == event and first == market):
                yield seen


def staged_day(settings: Settings, run_date: date | None, window_days: int) -> StagedDay:
    """The staged cohort of a day; without a date the newest one of that window.

    Raises:
        NotStaged: there is none.
    """
    area = StagingArea(settings.staging, settings.staging_options)
    if run_date is None:
        found = [match.groups() for name in area.list(_COHORT[0]) if (match := _STAGED.match(name))]
        run_date = max((date.fromisoformat(day) for day, window in found if int(window) == window_days), default=None)
    try:
        if run_date is None:
            raise StagedFileMissing("none of that window")
        key = RunKey(run_date, window_days)
        staged = open_staged(area, _COHORT, key, COHORT)
    except StagedFileMissing:
        if run_date is None or run_date == settings.clock.now().date():
            which = "no day is" if run_date is None else f"{run_date} is not"
            helps = f"This stages today: `predictbench daily --window-days {window_days}"
        else:
            which = f"{run_date} is not"
            helps = (
                "This stages it from its snapshot, where there is one: "
                f"`predictbench backfill --from {run_date} --to {run_date} --window-days {window_days}"
            )
        raise NotStaged(
            f"{which} staged with the window {window_days}. {helps} --experiment baseline_snapshot`"
        ) from None
    header = staged.header(CohortHeader)
    run = run_metadata(key, header.captured_at, header.snapshot_hash, as_of=header.as_of)
    return StagedDay(key, run, list(cohort_markets(staged)))


def try_experiment(
    settings: Settings,
    registry: Registry,
    name: str,
    day: StagedDay,
    markets: Sequence[Market],
    *,
    engine: Engine | None = None,
    why_not_asked: Callable[[Experiment], str | None] = lambda _: None,
    progress: Callable[[Progress], None] | None = None,
) -> Trial:
    """Ask an experiment about some markets of a day, in this process, with no journal and a place for artifacts.

    Paid calls are kept in the ledger all the same: the day's own run takes the answers from there.

    Args:
        settings: limits, secrets to be taken out of texts, and the database, opened when it is needed.
        registry: the experiments.
        name: the one to try; what it requires is taken from the day's staged results, or asked too.
        day: the day.
        markets: some of its markets.
        engine: the database, where it is open already.
        why_not_asked: the reason why an experiment may make no paid call and no search, only take those answers that
            the ledger has; None where it may.
        progress: called while each experiment works, from changing threads.
    """
    with ExitStack() as stack:
        place = StagingArea(stack.enter_context(tempfile.TemporaryDirectory(prefix="predictbench-try-")))
        area = StagingArea(settings.staging, settings.staging_options)
        database = _Database(settings, stack, engine)
        kept: dict[str, bytes] = {}

        def keep(path: str, content: bytes) -> str:
            address = place.write_bytes(path, content)
            kept[address] = content
            return address

        answers: dict[str, dict[str, Outcome]] = {}
        watched: dict[str, _Watched] = {}
        also_run = []
        for one in _with_required(registry, name):
            staged = None if one.name == name else _staged(settings, registry, one, day)
            if staged is None:
                reason, config_hash = why_not_asked(one), registry.config_hash(one.name)
                ledger = ledger_of(
                    one, day.run, config_hash, database.engine, area, "try", settings, asks=reason is None
                )
                watched[one.name] = _Watched(ledger.store)
                if reason is not None and _needs_answers(one, markets) and not _has_answers(ledger.store):
                    skipped = (
                        Outcome(market_id=market.market_id, status="skipped", reason=reason) for market in markets
                    )
                    answers[one.name] = {outcome.market_id: outcome for outcome in skipped}
                    also_run.append(one.name)
                    continue
                outcomes = run_experiment_sync(
                    _for_trial(one),
                    markets,
                    run=day.run,
                    clock=settings.clock,
                    cohort=day.markets,
                    required={other: answers[other] for other in one.requires},
                    history=database.markets,
                    history_counts=database.counts,
                    settled_forecasts=learnable_forecasts(database.forecasts, registry, one),
                    market_data=frozen_market_data(area, day.key, day.run.snapshot_hash) if one.market_data else {},
                    artifacts=keep,
                    ledger=dataclasses.replace(ledger, store=watched[one.name]),
                    max_concurrency=settings.experiment_concurrency,
                    timeout_s=settings.experiment_timeout_seconds,
                    redact=settings.redact,
                    progress=progress,
                )
                staged = {outcome.market_id: outcome for outcome in outcomes}
                also_run.append(one.name)
            answers[one.name] = staged
        also_run.remove(name)
        outcomes = [answers[name][market.market_id] for market in markets]
        return Trial(markets, outcomes, kept, watched[name].seen, also_run)


def _needs_answers(experiment: Experiment, markets: Sequence[Market]) -> bool:
    """True for one that searches, or that says that it costs something; it may do so without the ledger."""
    cost = experiment.estimate(markets)
    return SEES[experiment.information].search or (cost is not None and cost.at_most > 0)


def _has_answers(store: CallStore) -> bool:
    """True where answers were paid for before: then it asks over the ledger, which lets nothing else through."""
    return any(call.is_paid for call in store.earlier())


def _for_trial(experiment: Experiment) -> Experiment:
    """The experiment as it is to be tried: so that it answers at once."""
    if experiment.trial_unit is None:
        return experiment
    one = copy.copy(experiment)
    one.unit = experiment.trial_unit
    return one


def _with_required(registry: Registry, name: str) -> list[Experiment]:
    """The experiment of that name last, and before it all that it needs."""
    names, found = {registry[name].name}, []
    for one in reversed(list(registry)):  # requirements come before what requires them
        if one.name in names:
            names.update(one.requires)
            found.append(one)
    return found[::-1]


def _staged(settings: Settings, registry: Registry, one: Experiment, day: StagedDay) -> dict[str, Outcome] | None:
    """The staged outcomes of a required experiment; None where they are not there, or of another state of it."""
    try:
        area = StagingArea(settings.staging, settings.staging_options)
        staged = open_staged(area, results_path(one.name), day.key, OUTCOMES)
    except StagedFileMissing:
        return None
    stale = stale_reason(staged, one, registry.config_hash(one.name), day.run.snapshot_hash)
    return outcomes_by_market(staged) if stale is None else None


class _Watched:
    """The ledger's store, which remembers what was sent and what came back, to be shown."""

    def __init__(self, store: CallStore) -> None:
        self._store = store
        self._earlier: dict[UUID, Call] = {}
        self.seen: list[Seen] = []

    def earlier(self) -> list[Call]:
        """As the ledger's."""
        found = self._store.earlier()
        self._earlier = {call.call_id: call for call in found}
        return found

    def now(self, call: Call) -> Call:
        """As the ledger's."""
        return self._store.now(call)

    def claim(self, calls: Sequence[Call], allowance: Allowance) -> list[Claim]:
        """As the ledger's."""
        return self._store.claim(calls, allowance)

    def settle(self, settled: Sequence[Settled]) -> None:
        """As the ledger's."""
        self._store.settle(settled)
        self.seen.extend(Seen(one.call, one.content, one.reply) for one in settled)

    def submitted(self, intent: str, batch_id: str) -> None:
        """As the ledger's."""
        self._store.submitted(intent, batch_id)

    def reply(self, call_id: UUID) -> Reply | None:
        """As the ledger's."""
        reply = self._store.reply(call_id)
        if call_id in self._earlier:
            self.seen.append(Seen(self._earlier[call_id], None, reply))
        return reply

    def close(self) -> None:
        """As the ledger's."""
        self._store.close()


class _Database:
    """The database, which is opened for the first question: most experiments have none."""

    def __init__(self, settings: Settings, stack: ExitStack, engine: Engine | None) -> None:
        self._settings, self._stack, self._opening = settings, stack, threading.Lock()
        self._given = engine

    @cached_property
    def _opened(self) -> Engine:
        return self._given or self._stack.enter_context(opened_database(self._settings))

    def engine(self) -> Engine:
        """The opened database."""
        with self._opening:
            return self._opened

    def markets(self, as_of: datetime) -> Iterator[SettledMarket]:
        """The settled markets."""
        return settled_markets(self.engine(), as_of)

    def forecasts(self, name: str, version: str, as_of: datetime, *, own: bool) -> Iterator[SettledForecast]:
        """The forecasts of a version of an experiment for settled markets."""
        return settled_forecasts(self.engine(), name, version, as_of, own=own)

    def counts(self, as_of: datetime) -> Mapping[str, SettledCount]:
        """The same in short."""
        return settled_counts(self.engine(), as_of)
