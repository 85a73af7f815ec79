"""A replay: an experiment tried on whole stored partitions and scored beside the market; nothing of it is stored."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from heapq import nsmallest
from typing import Any, Final

import numpy as np
from sqlalchemy import Engine

from predictbench_assets.experiments.model_calls.store import NOT_ASKED
from predictbench_assets.experiments.outcomes import total_usage
from predictbench_assets.experiments.protocol import SEES, Estimate, Experiment
from predictbench_assets.experiments.reasons import count_outcomes
from predictbench_assets.experiments.registry import Registry
from predictbench_assets.experiments.runner import Progress
from predictbench_assets.failures import PredictbenchError
from predictbench_assets.launch.trial import NotStaged, StagedDay, Trial, staged_day, try_experiment
from predictbench_assets.markets.market import REFERENCE
from predictbench_assets.reporting.replay import ReplayedForecast, ReplayedPartition
from predictbench_assets.runs import FREEZE_WINDOW_HOURS, RunKey
from predictbench_assets.scoring.boards import BoardRow, Leaderboard
from predictbench_assets.scoring.build import build_leaderboard, whole_rows
from predictbench_assets.scoring.collection import Attempt, ForecastCollection, Results, microseconds
from predictbench_assets.scoring.forecasts import Entrant
from predictbench_assets.scoring.store.forecasts import load_cohort
from predictbench_assets.settings import Settings

_SHOWN_DISAGREEMENTS: Final = 10
_SEARCHES: Final = "it searches, and what is found now could not be known then"

Columns = Mapping[str, Sequence[Any]]


class Replay:
    """An experiment on stored partitions, one after the other; of each only what scores need is held.

    A forecast counts as if it had been made at the freeze; one for a market that had closed by then counts on no live
    board, as ever. Histories are those of the freeze.

    Args:
        settings: limits, staging, the clock: settlements are those known now.
        registry: the experiments.
        name: the one to replay.
        engine: the database; it is only read, but for the ledger of paid calls where `asks`.
        limit: the most markets of a partition, the core first; None for all.
        core: the core samples alone.
        asks: whether calls that cost something are made, and kept in the ledger; else only answers that are there
            are taken. One that searches is never asked about a day that is over.
    """

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        name: str,
        engine: Engine,
        *,
        limit: int | None = None,
        core: bool = False,
        asks: bool = False,
    ) -> None:
        self._settings, self._registry, self._engine = settings, registry, engine
        self._limit, self._core, self._asks = limit, core, asks
        self.experiment = one = registry[name]
        self.as_of = settings.clock.now()
        self._entrant = Entrant(
            one.name, one.version, one.information, one.control, one.name == REFERENCE, one.description
        )
        self._collection, self._any_stored = ForecastCollection([self._entrant]), False
        self._boards: dict[str, None] = {}
        self.disagreements: list[ReplayedForecast] = []
        """The forecasts that are furthest from the price, the largest distance first."""
        self.not_asked = 0
        """Markets that would have to be paid for."""
        self.not_asked_cost: Estimate | None = Estimate(Decimal(0), Decimal(0))
        """The estimated cost of these; None where it is not known."""

    def partition(self, key: RunKey, progress: Callable[[Progress], None] | None = None) -> ReplayedPartition:
        """Replay one partition; what is wrong with it is in its record. Partitions are to come in their order.

        Args:
            key: the partition.
            progress: called while the experiment works, from changing threads.
        """
        started = time.monotonic()
        try:
            day = staged_day(self._settings, key.run_date, key.window_days)
            markets = day.chosen(self.experiment, None, self._limit, core=self._core)
            trial = try_experiment(
                self._settings,
                self._registry,
                self.experiment.name,
                day,
                markets,
                engine=self._engine,
                why_not_asked=lambda one: self._why_not_asked(one, day),
                progress=progress,
            )
            column = _stored(load_cohort(self._engine, key, self.as_of), trial)
        except NotStaged:
            return ReplayedPartition.of(key, "missing", "it is not staged")
        except (PredictbenchError, OSError) as error:
            return ReplayedPartition.of(key, "failed", self._settings.redact(str(error)))
        self._count_not_asked(day, trial)
        forecasts = tuple(_forecasts(key, trial, column))
        self.disagreements = nsmallest(
            _SHOWN_DISAGREEMENTS,
            (one for one in (*self.disagreements, *forecasts) if one.disagreement),
            key=lambda one: (-one.disagreement, one.run_date, one.window_days, one.market_id),
        )
        reasons = count_outcomes(trial.outcomes, {market.market_id: market.question for market in markets})
        counts = {status: sum(one.status == status for one in trial.outcomes) for status in _STATUSES}
        return ReplayedPartition(
            run_date=key.run_date,
            window_days=key.window_days,
            state="replayed",
            reason=next((_reason(one.markets, one.reason, one.place) for one in reasons), None),
            usage=total_usage(trial.outcomes),
            scores=self._scored(day, trial, column),
            forecasts=forecasts,
            seconds=round(time.monotonic() - started, 3),
            **counts,
        )

    def leaderboard(self) -> Leaderboard | None:
        """The boards over all partitions so far; None where none of them is stored. To be called once, at the end."""
        return build_leaderboard(self._collection.forecasts(self.as_of)) if self._any_stored else None

    @property
    def boards(self) -> list[str]:
        """The names of the boards that partitions are on."""
        return list(self._boards)

    def _why_not_asked(self, one: Experiment, day: StagedDay) -> str | None:
        if SEES[one.information].search and self.as_of > day.run.as_of + timedelta(hours=FREEZE_WINDOW_HOURS):
            return _SEARCHES
        return None if self._asks else NOT_ASKED

    def _count_not_asked(self, day: StagedDay, trial: Trial) -> None:
        """Add what the markets would cost that were skipped for want of an answer."""
        if self._why_not_asked(self.experiment, day) != NOT_ASKED:
            return
        pairs = zip(trial.markets, trial.outcomes, strict=True)
        markets = [market for market, one in pairs if one.status == "skipped" and NOT_ASKED in (one.reason or "")]
        if not markets:
            return
        self.not_asked += len(markets)
        cost, before = self.experiment.estimate(markets), self.not_asked_cost
        if cost is None or before is None:
            self.not_asked_cost = None
        else:
            self.not_asked_cost = Estimate(before.expected + cost.expected, before.at_most + cost.at_most)

    def _scored(self, day: StagedDay, trial: Trial, column: Columns) -> BoardRow | None:
        """Add the forecasts to all of them, and score them alone."""
        if not column["market_id"]:
            return None
        attempt = Attempt(self._entrant, 1, day.run.snapshot_hash)
        results = _results(trial, column)
        alone = ForecastCollection([self._entrant])
        for collection in (self._collection, alone):
            collection.add([attempt], column, results)
        self._any_stored = True
        board = "backfill" if any(column["reconstructed"]) else "core" if self._core else "full"
        self._boards[board] = None
        rows = whole_rows(alone.forecasts(self.as_of))
        return next((row for row in rows if row.board == board), None)


_STATUSES: Final = ("completed", "skipped", "failed")


def _reason(markets: int, reason: str, place: str | None) -> str:
    return f"{markets:,} x {reason}" + (f" ({place})" if place else "")


def _stored(column: Columns, trial: Trial) -> Columns:
    """The columns of those stored markets that were asked about."""
    asked = {market.market_id for market in trial.markets}
    chosen = [number for number, market_id in enumerate(column["market_id"]) if market_id in asked]
    return {name: [values[number] for number in chosen] for name, values in column.items()}


def _results(trial: Trial, column: Columns) -> Results:
    """The outcomes, as if they had been given at the freeze."""
    by_market = {one.market_id: one for one in trial.outcomes}
    given = [by_market[market_id] for market_id in column["market_id"]]
    return Results(
        market=np.arange(len(given)),
        attempt=np.zeros(len(given), np.int64),
        probability=np.array([one.probability for one in given], np.float64),
        made_at=microseconds(column["captured_at"]),
        ran=np.ones(len(given), np.bool_),
        leaked=np.array([(one.payload or {}).get("leaked") is True for one in given], np.bool_),
    )


def _forecasts(key: RunKey, trial: Trial, column: Columns) -> Iterator[ReplayedForecast]:
    settled = dict(zip(column["market_id"], column["outcome"], strict=True))
    for market, one in zip(trial.markets, trial.outcomes, strict=True):
        yield ReplayedForecast(
            run_date=key.run_date,
            window_days=key.window_days,
            market_id=market.market_id,
            question=market.question,
            price=market.price.value,
            status=one.status,
            probability=one.probability,
            reason=one.reason,
            outcome=settled.get(market.market_id),
        )
