"""The resolution sweep: every stored market that is not final is looked up, and what is seen goes into the ledger.

Markets are taken in rounds, those first that were not looked at for longest. Each round is fetched side by side and
stored in one transaction, so that a sweep that is killed has lost one round at most, and the next one goes on from
there. Whatever is not answered stays where it is in the queue.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Engine

from predictbench_assets.clock import Clock
from predictbench_assets.exchanges.exchange import Exchange, SettlementReader
from predictbench_assets.failures import TransientError
from predictbench_assets.markets.settlement import Absence, PendingMarket, Reading
from predictbench_assets.resolution.ledger import (
    ABANDON_AFTER,
    NewObservation,
    Observation,
    pending_markets,
    record_observations,
    require_exchange,
    resolution_queue,
)
from predictbench_assets.resolution.summary import ChangedResolution, SweepReport

logger = logging.getLogger(__name__)

ROUND = 320
"""Markets that are looked up side by side and stored together."""


class SweepInterrupted(TransientError):
    """The exchange stopped answering; what had been seen is stored, and the next sweep goes on from there."""

    def __init__(self, report: SweepReport) -> None:
        super().__init__(
            f"the sweep ended early: {report.problems[0].removesuffix('.')}. {report.looked_at:,} of {report.queued:,} "
            "markets were looked at and stored; run `predictbench resolve` again for the others."
        )
        self.report = report


async def sweep(
    exchange: Exchange,
    engine: Engine,
    clock: Clock,
    *,
    max_requests: int,
    limit: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> SweepReport:
    """Look up the stored markets that are not final, and for a while those that are.

    Args:
        exchange: source of the stored markets; a database of another one's markets is refused.
        engine: the database with the markets and the ledger.
        clock: gives `observed_at`.
        max_requests: no request is begun when as many were sent, attempts counted; a repetition of the last few may
            come on top.
        limit: the most markets to look at.
        on_progress: called after each round with how many markets are done, and of how many.

    Raises:
        SweepInterrupted: the exchange stopped answering; what had been seen is stored.
        ForeignExchange: the database holds another exchange's markets.
        DatabaseUnavailable, DatabaseRefused: the database cannot be reached, or refuses.
    """
    began, started_at = time.monotonic(), clock.now()
    require_exchange(engine, exchange.host)
    queue = resolution_queue(engine, started_at)
    taken = queue if limit is None else queue[:limit]
    tally = _Tally()
    async with exchange.settlements(max_requests) as settlements:
        for first in range(0, len(taken), ROUND):
            if settlements.over:
                break
            now = clock.now()
            pending = pending_markets(engine, taken[first : first + ROUND])
            observed = _observations(pending, await settlements.read(pending, now), now)
            # As of the answers, not of the questions: a board of a moment in between could not know them.
            tally.take(observed, record_observations(engine, observed, clock.now()))
            if on_progress is not None:
                on_progress(tally.looked_at, len(taken))
    report = tally.report(started_at, time.monotonic() - began, len(queue), settlements)
    logger.info("looked at %d of %d markets", report.looked_at, report.queued, extra={"api": dict(report.api)})
    if settlements.failure is not None:
        raise SweepInterrupted(report)
    return report


@dataclass
class _Tally:
    """The counts of a sweep."""

    looked_at: int = 0
    states: Counter[str] = field(default_factory=Counter)
    splits: int = 0
    vanished: int = 0
    unreadable: int = 0
    observations: int = 0
    became_final: int = 0
    gave_up: int = 0
    changed: list[ChangedResolution] = field(default_factory=list)

    def take(self, observed: Iterable[Observation], added: Sequence[NewObservation]) -> None:
        """Count one round."""
        for look in observed:
            self.looked_at += 1
            self.vanished += look.vanished
            self.unreadable += look.problem is not None and not look.vanished and look.payout is None
            if look.state is not None:
                self.states[look.state] += 1
                self.splits += look.payout is not None and max(look.payout) < 1
        self.observations += len(added)
        for one in added:
            was_final = one.before is not None and one.before.state == "final"
            self.became_final += one.observation.state == "final" and not was_final
            self.gave_up += one.observation.state == "gave_up"
            if one.changed_settlement and one.before is not None:
                seen = one.observation
                before, now = _format(one.before.state, one.before.payout), _format(str(seen.state), seen.payout)
                self.changed.append(ChangedResolution(seen.market_id, before, now, seen.source))

    def report(self, started_at: datetime, seconds: float, queued: int, settlements: SettlementReader) -> SweepReport:
        """The counts, at the end."""
        return SweepReport(
            started_at=started_at,
            seconds=round(seconds, 3),
            queued=queued,
            looked_at=self.looked_at,
            states=dict(self.states),
            splits=self.splits,
            observations=self.observations,
            became_final=self.became_final,
            changed=tuple(self.changed),
            vanished=self.vanished,
            unreadable=self.unreadable,
            gave_up=self.gave_up,
            requests=settlements.stats.requests,
            remaining=queued - self.looked_at,
            problems=tuple(settlements.problems),
            api=settlements.stats.as_dict(),
        )


def _observations(
    pending: Sequence[PendingMarket], readings: Mapping[str, Reading | Absence], now: datetime
) -> list[Observation]:
    """Make an observation of each market that was answered about."""
    return [
        _absent(market, reading, now) if isinstance(reading, Absence) else _observation(market, reading, now)
        for market in pending
        if (reading := readings.get(market.market_id)) is not None
    ]


def _observation(market: PendingMarket, reading: Reading, now: datetime) -> Observation:
    if reading.closed and reading.payout is None and market.known is not None and market.known.state == "final":
        # Still closed: a row that cannot be read takes no settlement back.
        return Observation(market.market_id, problem=reading.problem)
    state: str = reading.state
    if state != "final" and _given_up(market, now):
        state = "gave_up"
    return Observation(
        market.market_id,
        state,
        source=reading.source,
        payout=reading.payout,
        closed_time=reading.closed_time,
        status=reading.status,
        raw=reading.raw,
        problem=reading.problem,
    )


def _absent(market: PendingMarket, absence: Absence, now: datetime) -> Observation:
    state = "gave_up" if absence.certain and _given_up(market, now) else None
    return Observation(market.market_id, state, problem=absence.problem, vanished=absence.certain)


def _given_up(market: PendingMarket, now: datetime) -> bool:
    """True for a market that is not final now and is waited for no longer; one that was final is asked once more."""
    was_final = market.known is not None and market.known.state == "final"
    return not was_final and now >= market.close_time + ABANDON_AFTER


def _format(state: str, payout: tuple[float, ...] | None) -> str:
    if payout == ():
        return "an unreadable payout"
    return state if payout is None else "/".join(f"{share:g}" for share in payout)
