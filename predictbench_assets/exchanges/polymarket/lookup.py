"""Look-ups of settlements: Gamma's rows by condition or by id, and the CLOB's where the two could disagree."""

import asyncio
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from predictbench_assets.exchanges.polymarket.client import CONDITIONS_PER_REQUEST, PolymarketClient
from predictbench_assets.exchanges.polymarket.payloads import read_head
from predictbench_assets.exchanges.polymarket.settlement import (
    FirstOutcome,
    clob_reading,
    gamma_reading,
    reconciled,
)
from predictbench_assets.exchanges.stats import ApiStats
from predictbench_assets.exchanges.transport import RegionBlocked, RequestFailed, RequestRefused, UnexpectedAnswer
from predictbench_assets.markets.settlement import Absence, PendingMarket, Reading

logger = logging.getLogger(__name__)

_FIRST_CLOSE = datetime(2020, 1, 1, tzinfo=UTC)
_CLOCKS_DIFFER = timedelta(days=1)
_CONDITION = re.compile(r"0x[0-9a-fA-F]{64}")
_UNKNOWN = "the exchange does not know it any more, neither by its condition nor by its id"
_MOST_REFUSALS = 20


class SettlementLookup:
    """A reader of settlements from Gamma, and from the CLOB where Gamma is doubtful, within a budget of requests.

    Args:
        client: an entered client.
        max_requests: no request is begun when as many were sent, attempts counted; a repetition of the last few may
            come on top.
    """

    def __init__(self, client: PolymarketClient, max_requests: int) -> None:
        self._client = client
        self._max_requests = max_requests
        self._begun = 0
        self.stats = ApiStats()
        self.failure: str | None = None
        """The reason for which Gamma is not asked any more."""
        self.clob_failure: str | None = None
        """The reason for which the CLOB is not asked any more."""
        self.clob_refusal: str | None = None
        self._refusals = 0

    @property
    def over(self) -> bool:
        """True once nothing more will be asked."""
        return self.failure is not None or self._spent

    @property
    def problems(self) -> Sequence[str]:
        """Everything that went wrong so far, `failure` first."""
        unanswered = self.clob_failure or self.clob_refusal
        second = [f"without the CLOB's second opinion: {unanswered}"] if unanswered else []
        return [*([self.failure] if self.failure else []), *second]

    @property
    def _spent(self) -> bool:
        return max(self._begun, self.stats.requests) >= self._max_requests

    async def read(self, pending: Sequence[PendingMarket], now: datetime) -> Mapping[str, Reading | Absence]:
        """Settlements by market id; a market that nothing was answered about is left out."""
        rows, absent = await self._rows(pending, now)
        listed = [market for market in pending if market.market_id in rows]
        readings = await asyncio.gather(
            *(
                self._reconcile(
                    market, _with_sane_close(gamma_reading(rows[market.market_id], _first(market)), market, now)
                )
                for market in listed
            )
        )
        found = {market.market_id: reading for market, reading in zip(listed, readings, strict=True) if reading}
        return found | absent

    async def _rows(
        self, pending: Sequence[PendingMarket], now: datetime
    ) -> tuple[dict[str, bytes], dict[str, Absence]]:
        """Gamma's rows by market, and why others have none; a market without an answer is in neither."""
        by_condition = [
            market for market in pending if market.condition_id and _CONDITION.fullmatch(market.condition_id)
        ]
        rows: dict[str, bytes] = {}
        singly = {market.market_id for market in pending} - {market.market_id for market in by_condition}
        # Asked first where they are more likely to be found, so that most are asked about once.
        for past_close in (True, False):
            group = [market for market in by_condition if (market.close_time <= now) is past_close]
            for closed in (past_close, not past_close):
                group, refused = await self._missing(group, rows, closed=closed)
                singly |= refused
            singly |= {market.market_id for market in group}
        absent: dict[str, Absence] = {}
        await asyncio.gather(*(self._single(market_id, rows, absent) for market_id in sorted(singly)))
        return rows, absent

    async def _missing(
        self, markets: Sequence[PendingMarket], rows: dict[str, bytes], *, closed: bool
    ) -> tuple[list[PendingMarket], set[str]]:
        """Put the rows of the closed (or the open) ones into `rows`.

        Returns those that were not among them, and the ids of those to ask for singly: their request was refused, or
        the answer contradicts itself. Where there was no answer, a market is in neither.
        """
        missing: list[PendingMarket] = []
        refused: set[str] = set()

        async def ask(batch: Sequence[PendingMarket]) -> None:
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
                by_id: dict[str | None, set[bytes]] = {}
                for row in found:
                    by_id.setdefault(row.market_id, set()).add(row.raw)
                for market in batch:
                    answers = by_id.get(market.market_id, set())
                    if len(answers) == 1:
                        rows[market.market_id] = answers.pop()
                    elif answers:  # two rows that differ: neither is more credible than the other
                        refused.add(market.market_id)
                    else:
                        missing.append(market)

        await asyncio.gather(*(ask(batch) for batch in _batches(markets)))
        return missing, refused

    async def _single(self, market_id: str, rows: dict[str, bytes], absent: dict[str, Absence]) -> None:
        """Put the row of one market into `rows`, or why there is none into `absent`."""
        if not self._may_ask():
            return
        try:
            row = await self._client.fetch_market(market_id, stats=self.stats)
        except RequestRefused as error:
            self._note_refusal(error)
            absent[market_id] = Absence(str(error), certain=False)
        except RequestFailed as error:
            self.failure = str(error)
        else:
            self._refusals = 0
            if row is None:
                absent[market_id] = Absence(_UNKNOWN, certain=True)
            elif read_head(row).market_id != market_id:
                absent[market_id] = Absence("what was answered for its id is no row of this market", certain=False)
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

    async def _reconcile(self, market: PendingMarket, gamma: Reading) -> Reading | None:
        """Gamma's reading, or the CLOB's where the two could disagree; None where that must be known and is not."""
        known = market.known
        same = known is not None and known.content == (gamma.state, gamma.payout, gamma.closed_time, gamma.status)
        contradicted = (
            known is not None and known.state == "final" and (gamma.state, gamma.payout) != ("final", known.payout)
        )
        unreadable = gamma.closed and gamma.payout is None
        if not (contradicted or unreadable or (gamma.doubtful and not same)) or market.condition_id is None:
            return gamma
        answer, answered = await self._second_opinion(market.condition_id)
        if not answered and contradicted:
            return None  # one source alone takes no settlement back; the next sweep asks again
        return reconciled(gamma, clob_reading(answer, _first(market)) if answer is not None else None)

    async def _second_opinion(self, condition_id: str) -> tuple[bytes | None, bool]:
        """The CLOB's answer, and whether there was one (that it does not know the market is one too)."""
        if self.clob_failure is not None or not self._may_ask():
            return None, False
        try:
            return await self._client.fetch_clob_market(condition_id, stats=self.stats), True
        except RequestRefused as error:  # it may know the market all the same
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


def _first(market: PendingMarket) -> FirstOutcome:
    return FirstOutcome(market.first_token, market.first_name)


def _with_sane_close(reading: Reading, market: PendingMarket, now: datetime) -> Reading:
    """A reading without a time of closing that cannot be: forecasts count up to it, whenever it is."""
    at = reading.closed_time
    first = _FIRST_CLOSE if market.open_at is None else market.open_at - _CLOCKS_DIFFER
    if at is None or first <= at <= now + _CLOCKS_DIFFER:
        return reading
    problem = reading.problem or f"it cannot have closed at {at.isoformat()}, so its nominal end is taken"
    return replace(reading, closed_time=None, problem=problem)


def _batches(markets: Sequence[PendingMarket]) -> list[Sequence[PendingMarket]]:
    step = CONDITIONS_PER_REQUEST
    return [markets[first : first + step] for first in range(0, len(markets), step)]
