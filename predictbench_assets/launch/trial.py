"""A try of an experiment on a few markets of a staged day: asked here and now, and nothing of it is kept."""

import re
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date, datetime
from functools import cached_property
from typing import Final
from uuid import UUID

from sqlalchemy import Engine

from predictbench_assets.database.connection import opened_database
from predictbench_assets.experiments.forecast import outcomes_by_market, results_path, run_metadata, stale_reason
from predictbench_assets.experiments.history import settled_counts, settled_markets
from predictbench_assets.experiments.model_calls.allowance import Allowance
from predictbench_assets.experiments.model_calls.desk import Ledger
from predictbench_assets.experiments.model_calls.records import Call, CallScope, Claim, Reply, Settled
from predictbench_assets.experiments.outcomes import OUTCOMES, Outcome
from predictbench_assets.experiments.protocol import (
    Experiment,
    RunMetadata,
    SettledCount,
    SettledMarket,
    unit_of,
)
from predictbench_assets.experiments.registry import Registry
from predictbench_assets.experiments.runner import run_experiment_sync
from predictbench_assets.failures import PermanentError
from predictbench_assets.ingestion.cohort import COHORT, cohort_markets
from predictbench_assets.ingestion.headers import CohortHeader
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

    def chosen(self, experiment: Experiment, market_id: str | None, limit: int) -> list[Market]:
        """One market, or the first ones; where events are asked about as a whole, with the others of the same events.

        Raises:
            NotStaged: no market of the day has that id.
        """
        chosen = list(self.order[:limit])
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
class Trial:
    """The outcomes of a try, by market, with its paid calls and the bytes of the artifacts that addresses name."""

    markets: Sequence[Market]
    outcomes: Sequence[Outcome]
    artifacts: Mapping[str, bytes]
    calls: Sequence[Settled]
    """Its paid calls, with what was sent and what came back."""
    also_run: Sequence[str]
    """Names of required experiments that had to be asked as well, since nothing usable of them is staged."""

    def calls_of(self, market: Market) -> Iterator[Settled]:
        """The calls about a market; those about an event are the first one's of its markets."""
        event = market.event.event_id if market.event else None
        first = next(one for one in self.markets if one == market or (one.event and one.event.event_id == event))
        for paid in self.calls:
            own = paid.call.unit == "market" and paid.call.unit_id == market.market_id
            if own or (paid.call.unit == "event" and paid.call.unit_id == event and first == market):
                yield paid


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
        which = "no day is" if run_date is None else f"{run_date} is not"
        raise NotStaged(
            f"{which} staged with the window {window_days}. This stages today: "
            f"`predictbench daily --window-days {window_days} --experiment baseline_snapshot`"
        ) from None
    header = staged.header(CohortHeader)
    run = run_metadata(key, header.captured_at, header.snapshot_hash)
    return StagedDay(key, run, list(cohort_markets(staged)))


def try_experiment(
    settings: Settings,
    registry: Registry,
    name: str,
    day: StagedDay,
    markets: Sequence[Market],
) -> Trial:
    """Ask an experiment about some markets of a day, in this process: no journal, artifacts and calls kept in memory.

    The limits of its paid calls hold for the try alone; what the day has spent is not counted.

    Args:
        settings: limits, secrets to be taken out of texts, and the database of the history, opened when it is asked.
        registry: the experiments.
        name: the one to try; what it requires is taken from the day's staged results, or asked too.
        day: the day.
        markets: some of its markets.
    """
    with ExitStack() as stack:
        place = StagingArea(stack.enter_context(tempfile.TemporaryDirectory(prefix="predictbench-try-")))
        history = _History(settings, stack)
        kept: dict[str, bytes] = {}

        def keep(path: str, content: bytes) -> str:
            address = place.write_bytes(path, content)
            kept[address] = content
            return address

        answers: dict[str, dict[str, Outcome]] = {}
        calls: dict[str, _Calls] = {}
        also_run = []
        for one in _with_required(registry, name):
            staged = None if one.name == name else _staged(settings, registry, one, day)
            if staged is None:
                scope = CallScope(
                    run_date=day.key.run_date,
                    window_days=day.key.window_days,
                    experiment=one.name,
                    version=one.version,
                    config_hash=registry.config_hash(one.name),
                    snapshot_hash=day.run.snapshot_hash,
                )
                calls[one.name] = _Calls()
                outcomes = run_experiment_sync(
                    one,
                    markets,
                    run=day.run,
                    clock=settings.clock,
                    cohort=day.markets,
                    required={other: answers[other] for other in one.requires},
                    history=history.markets,
                    history_counts=history.counts,
                    artifacts=keep,
                    ledger=Ledger(calls[one.name], scope, one.allowance or Allowance()),
                    max_concurrency=settings.experiment_concurrency,
                    timeout_s=settings.experiment_timeout_seconds,
                    redact=settings.redact,
                )
                staged = {outcome.market_id: outcome for outcome in outcomes}
                also_run.append(one.name)
            answers[one.name] = staged
        also_run.remove(name)
        outcomes = [answers[name][market.market_id] for market in markets]
        return Trial(markets, outcomes, kept, calls[name].settled, also_run)


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


class _Calls:
    """A store of paid calls that is gone with the try."""

    def __init__(self) -> None:
        self.settled: list[Settled] = []
        self._claimed: list[Call] = []
        self._one_at_a_time = threading.Lock()

    def earlier(self) -> list[Call]:
        """No call was made before."""
        return []

    def now(self, call: Call) -> Call:
        """The call itself: nobody else has it."""
        return call

    def claim(self, calls: Sequence[Call], allowance: Allowance) -> list[Claim]:
        """Grant what the limits of a day allow."""
        with self._one_at_a_time:
            return [self._claim(call, allowance) for call in calls]

    def _claim(self, call: Call, allowance: Allowance) -> Claim:
        all_of_them = [*self._claimed, call]
        taken = {
            "usd_per_day": (sum(one.reserved_cost or 0 for one in all_of_them), allowance.usd_per_day),
            "tokens_per_day": (sum(one.reserved_tokens or 0 for one in all_of_them), allowance.tokens_per_day),
            "calls_per_day": (len(all_of_them), allowance.calls_per_day),
        }
        for name, (amount, most) in taken.items():
            if most is not None and amount > most:
                return Claim(over_budget=f"{name} = {most} does not cover this try")
        self._claimed.append(call)
        return Claim()

    def settle(self, settled: Sequence[Settled]) -> None:
        """Remember what came back."""
        with self._one_at_a_time:
            self.settled.extend(settled)

    def reply(self, call_id: UUID) -> Reply | None:
        """What came back, if that is known."""
        return next((one.reply for one in self.settled if one.call.call_id == call_id), None)


class _History:
    """What had settled, from the database, which is opened for the first question: most experiments have none."""

    def __init__(self, settings: Settings, stack: ExitStack) -> None:
        self._settings, self._stack, self._opening = settings, stack, threading.Lock()

    @cached_property
    def _opened(self) -> Engine:
        return self._stack.enter_context(opened_database(self._settings))

    def _engine(self) -> Engine:
        with self._opening:
            return self._opened

    def markets(self, as_of: datetime) -> Iterator[SettledMarket]:
        """The settled markets."""
        return settled_markets(self._engine(), as_of)

    def counts(self, as_of: datetime) -> Mapping[str, SettledCount]:
        """The same in short."""
        return settled_counts(self._engine(), as_of)
