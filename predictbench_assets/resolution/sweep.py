"""The resolution sweep: every stored market that is not final is looked up, and what is seen goes into the ledger.

Markets are taken in rounds, those first that were not looked at for longest. Each round is fetched side by side and
stored in one transaction, so that a sweep that is killed has lost one round at most, and the next one goes on from
there. Whatever is not answered stays where it is in the queue.
"""

import asyncio
import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from sqlalchemy import Engine

from predictbench_assets.clock import Clock
from predictbench_assets.exchanges.polymarket.client import CONDITIONS_PER_REQUEST, PolymarketClient
from predictbench_assets.exchanges.polymarket.payloads import read_head
from predictbench_assets.exchanges.polymarket.settlement import FirstOutcome, Reading, read_clob, read_gamma, weighed
from predictbench_assets.exchanges.stats import ApiStats
from predictbench_assets.exchanges.transport import RegionBlocked, RequestFailed, RequestRefused, UnexpectedAnswer
from predictbench_assets.failures import TransientError
from predictbench_assets.resolution.ledger import (
    GIVEN_UP_AFTER,
    Added,
    Look,
    Watched,
    record_looks,
    require_exchange,
    resolution_queue,
    watched_markets,
)
from predictbench_assets.resolution.summary import ChangedResolution, SweepReport

logger = logging.getLogger(__name__)

ROUND = 8 * CONDITIONS_PER_REQUEST
"""Markets that are fetched side by side and stored together."""

_FIRST_CLOSE = datetime(2020, 1, 1, tzinfo=UTC)
_CLOCKS_DIFFER = timedelta(days=1)
_CONDITION = re.compile(r"0x[0-9a-fA-F]{64}")

_UNKNOWN = "the exchange does not know it any more, neither by its condition nor by its id"
_MOST_REFUSALS = 20


class SweepInterrupted(TransientError):
    """The exchange stopped answering; what had been seen is stored, and the next sweep goes on from there."""

    def __init__(self, report: SweepReport) -> None:
        super().__init__(
            f"the sweep ended early: {report.problems[0].removesuffix('.')}. {report.looked_at:,} of {report.queued:,} "
            "markets were looked at and stored; run `predictbench resolve` again for the others."
        )
        self.report = report


async def sweep(
    client: PolymarketClient,
    engine: Engine,
    clock: Clock,
    *,
    exchange: str,
    max_requests: int,
    limit: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> SweepReport:
    """Look up the stored markets that are not final, and for a while those that are.

    Args:
        client: an entered client of the exchange that the stored markets came from.
        engine: the database with the markets and the ledger.
        clock: what `observed_at` is read from.
        exchange: the host that the client reads; a database of another one's markets is refused.
        max_requests: no request is begun when as many were sent, attempts counted; a repetition of the last few may
            come on top.
        limit: the most markets to look at.
        on_progress: told after each round how many markets are done, and of how many.

    Raises:
        SweepInterrupted: the exchange stopped answering; what had been seen is stored.
        ForeignExchange: the database holds another exchange's markets.
        DatabaseUnavailable, DatabaseRefused: as the names say.
    """
    began, started_at = time.monotonic(), clock.now()
    require_exchange(engine, exchange)
    queue = resolution_queue(engine, started_at)
    taken = queue if limit is None else queue[:limit]
    lookup = _Lookup(client, max_requests)
    tally = _Tally()
    for first in range(0, len(taken), ROUND):
        if lookup.over:
            break
        now = clock.now()
        watched = watched_markets(engine, taken[first : first + ROUND])
        looks = await lookup.look(watched, now)
        # As of the answers, not of the questions: a board of a moment in between could not know them.
        tally.take(looks, record_looks(engine, looks, clock.now()))
        if on_progress is not None:
            on_progress(tally.looked_at, len(taken))
    report = tally.report(started_at, time.monotonic() - began, len(queue), lookup)
    logger.info("looked at %d of %d markets", report.looked_at, report.queued, extra={"api": dict(report.api)})
    if lookup.failure is not None:
        raise SweepInterrupted(report)
    return report


@dataclass(frozen=True)
class _Absence:
    """Why there is no row of a market."""

    problem: str
    certain: bool
    """Whether the exchange said that there is none, rather than something that cannot be made use of."""


class _Lookup:
    """Asks the exchange about markets, within a budget of requests."""

    def __init__(self, client: PolymarketClient, max_requests: int) -> None:
        self._client = client
        self._max_requests = max_requests
        self._begun = 0
        self.stats = ApiStats()
        self.failure: str | None = None
        """Why Gamma is not asked any more."""
        self.clob_failure: str | None = None
        """Why the CLOB is not asked any more."""
        self.clob_refusal: str | None = None
        self._refusals = 0

    @property
    def over(self) -> bool:
        """Whether there is no use in going on."""
        return self.failure is not None or self._spent

    @property
    def _spent(self) -> bool:
        return max(self._begun, self.stats.requests) >= self._max_requests

    async def look(self, watched: Sequence[Watched], now: datetime) -> list[Look]:
        """What each market's settlement looks like; one that nothing was answered about is absent."""
        rows, absent = await self._rows(watched, now)
        asked = [market for market in watched if market.market_id in rows]
        readings = await asyncio.gather(
            *(
                self._weigh(market, _with_sane_close(read_gamma(rows[market.market_id], _first(market)), now))
                for market in asked
            )
        )
        looks = [_look(market, reading, now) for market, reading in zip(asked, readings, strict=True) if reading]
        return looks + [
            _absent(market, absent[market.market_id], now) for market in watched if market.market_id in absent
        ]

    async def _rows(self, watched: Sequence[Watched], now: datetime) -> tuple[dict[str, bytes], dict[str, _Absence]]:
        """Gamma's rows by market, and why others have none; a market without an answer is in neither."""
        by_condition = [
            market for market in watched if market.condition_id and _CONDITION.fullmatch(market.condition_id)
        ]
        rows: dict[str, bytes] = {}
        singly = {market.market_id for market in watched} - {market.market_id for market in by_condition}
        # Asked first where they are more likely to be found, so that most are asked about once.
        for past_close in (True, False):
            group = [market for market in by_condition if (market.close_time <= now) is past_close]
            for closed in (past_close, not past_close):
                group, refused = await self._missing(group, rows, closed=closed)
                singly |= refused
            singly |= {market.market_id for market in group}
        absent: dict[str, _Absence] = {}
        await asyncio.gather(*(self._single(market_id, rows, absent) for market_id in sorted(singly)))
        return rows, absent

    async def _missing(
        self, markets: Sequence[Watched], rows: dict[str, bytes], *, closed: bool
    ) -> tuple[list[Watched], set[str]]:
        """Put the rows of the closed (or the open) ones into `rows`.

        Returns those that were not among them, and the ids of those to ask for singly: their request was refused, or
        the answer contradicts itself. Where there was no answer, a market is in neither.
        """
        missing: list[Watched] = []
        refused: set[str] = set()

        async def ask(batch: Sequence[Watched]) -> None:
            if not self._may_ask():
                return
            try:
                found = await self._client.fetch_conditions(
                    [str(market.condition_id) for market in batch], closed=closed, stats=self.stats
                )
            except RequestRefused as error:
                self._note_refusal(error)
                refused.update(market.market_id for market in batch)
            except (RequestFailed, UnexpectedAnswer) as error:
                self.failure = str(error)
            else:
                self._refusals = 0
                said: dict[str | None, set[bytes]] = {}
                for row in found:
                    said.setdefault(row.market_id, set()).add(row.raw)
                for market in batch:
                    answers = said.get(market.market_id, set())
                    if len(answers) == 1:
                        rows[market.market_id] = answers.pop()
                    elif answers:  # two rows that differ: which one holds is not theirs to say
                        refused.add(market.market_id)
                    else:
                        missing.append(market)

        await asyncio.gather(*(ask(batch) for batch in _batches(markets)))
        return missing, refused

    async def _single(self, market_id: str, rows: dict[str, bytes], absent: dict[str, _Absence]) -> None:
        """Put the row of one market into `rows`, or why there is none into `absent`."""
        if not self._may_ask():
            return
        try:
            row = await self._client.fetch_market(market_id, stats=self.stats)
        except RequestRefused as error:
            self._note_refusal(error)
            absent[market_id] = _Absence(str(error), certain=False)
        except RequestFailed as error:
            self.failure = str(error)
        else:
            self._refusals = 0
            if row is None:
                absent[market_id] = _Absence(_UNKNOWN, certain=True)
            elif read_head(row).market_id != market_id:
                absent[market_id] = _Absence("what was answered for its id is no row of this market", certain=False)
            else:
                rows[market_id] = row

    def _note_refusal(self, error: RequestRefused) -> None:
        """One market may be refused; one request after the other means that the API is not what it was."""
        logger.warning("refused: %s", error)
        self._refusals += 1
        if isinstance(error, RegionBlocked):
            self.failure = str(error)
        elif self._refusals >= _MOST_REFUSALS:
            self.failure = f"{self._refusals} requests in a row were refused, at last with: {error}"

    async def _weigh(self, market: Watched, gamma: Reading) -> Reading | None:
        """Gamma's word, or the CLOB's where the two could disagree; None where that must be known and is not."""
        known = market.known
        same = known is not None and known.says == (gamma.state, gamma.payout, gamma.closed_time, gamma.status)
        unsaid = known is not None and known.state == "final" and (gamma.state, gamma.payout) != ("final", known.payout)
        unreadable = gamma.closed and gamma.payout is None
        if not (unsaid or unreadable or (gamma.doubtful and not same)) or market.condition_id is None:
            return gamma
        answer, heard = await self._second_opinion(market.condition_id)
        if not heard and unsaid:
            return None  # a settlement is not taken back on one word alone; the next sweep asks again
        return weighed(gamma, read_clob(answer, _first(market)) if answer is not None else None)

    async def _second_opinion(self, condition_id: str) -> tuple[bytes | None, bool]:
        """The CLOB's answer, and whether there was one (that it does not know the market is one too)."""
        if self.clob_failure is not None or not self._may_ask():
            return None, False
        try:
            return await self._client.fetch_clob_market(condition_id, stats=self.stats), True
        except RequestRefused as error:  # it may know the market and not say
            logger.warning("refused: %s", error)
            self.clob_refusal = str(error)
            return None, False
        except RequestFailed as error:
            self.clob_failure = str(error)
            return None, False

    def _may_ask(self) -> bool:
        if self.over:
            return False
        self._begun += 1
        return True


@dataclass
class _Tally:
    """Counts what a sweep sees."""

    looked_at: int = 0
    states: Counter[str] = field(default_factory=Counter)
    splits: int = 0
    vanished: int = 0
    unreadable: int = 0
    observations: int = 0
    became_final: int = 0
    gave_up: int = 0
    changed: list[ChangedResolution] = field(default_factory=list)

    def take(self, looks: Iterable[Look], added: Sequence[Added]) -> None:
        """Count one round."""
        for look in looks:
            self.looked_at += 1
            self.vanished += look.problem == _UNKNOWN
            self.unreadable += look.problem is not None and look.problem != _UNKNOWN and look.payout is None
            if look.state is not None:
                self.states[look.state] += 1
                self.splits += look.payout is not None and max(look.payout) < 1
        self.observations += len(added)
        for one in added:
            was_final = one.before is not None and one.before.state == "final"
            self.became_final += one.look.state == "final" and not was_final
            self.gave_up += one.look.state == "gave_up"
            if one.changed_settlement and one.before is not None:
                before, now = _shown(one.before.state, one.before.payout), _shown(str(one.look.state), one.look.payout)
                self.changed.append(ChangedResolution(one.look.market_id, before, now, one.look.source))

    def report(self, started_at: datetime, seconds: float, queued: int, lookup: _Lookup) -> SweepReport:
        """The counts, at the end."""
        problems = [lookup.failure] if lookup.failure else []
        unheard = lookup.clob_failure or lookup.clob_refusal
        problems += [f"without the CLOB's second opinion: {unheard}"] if unheard else []
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
            requests=lookup.stats.requests,
            remaining=queued - self.looked_at,
            problems=tuple(problems),
            api=lookup.stats.as_dict(),
        )


def _first(market: Watched) -> FirstOutcome:
    return FirstOutcome(market.first_token, market.first_name)


def _with_sane_close(reading: Reading, now: datetime) -> Reading:
    """A reading without a time of closing that cannot be: forecasts count up to it, whenever it is."""
    at = reading.closed_time
    if at is None or _FIRST_CLOSE <= at <= now + _CLOCKS_DIFFER:
        return reading
    problem = reading.problem or f"it cannot have closed at {at.isoformat()}, so its nominal end is taken"
    return replace(reading, closed_time=None, problem=problem)


def _look(market: Watched, reading: Reading, now: datetime) -> Look:
    if reading.closed and reading.payout is None and market.known is not None and market.known.state == "final":
        # Still closed: a row that cannot be read takes no settlement back.
        return Look(market.market_id, problem=reading.problem)
    state: str = reading.state
    if state != "final" and _given_up(market, now):
        state = "gave_up"
    return Look(
        market.market_id,
        state,
        source=reading.source,
        payout=reading.payout,
        closed_time=reading.closed_time,
        status=reading.status,
        raw=reading.raw,
        problem=reading.problem,
    )


def _absent(market: Watched, absence: _Absence, now: datetime) -> Look:
    state = "gave_up" if absence.certain and _given_up(market, now) else None
    return Look(market.market_id, state, problem=absence.problem)


def _given_up(market: Watched, now: datetime) -> bool:
    """Whether a market that is not final now is waited for no longer. One that was final before is asked once more."""
    was_final = market.known is not None and market.known.state == "final"
    return not was_final and now >= market.close_time + GIVEN_UP_AFTER


def _shown(state: str, payout: tuple[float, ...] | None) -> str:
    return state if payout is None else "/".join(f"{share:g}" for share in payout)


def _batches(markets: Sequence[Watched]) -> list[Sequence[Watched]]:
    step = CONDITIONS_PER_REQUEST
    return [markets[first : first + step] for first in range(0, len(markets), step)]
