"""Batches of paid calls: submitted by one run, collected by a later one, asked anew or given up at a deadline.

The rows of a batch's calls are there, under an intent that is a hash of them, before it is submitted; then they have
the provider's own id of it, which is all that is needed to collect it. A process that dies in between leaves the
intent, and the next one looks for the job among those that the provider lists.
"""

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, Final, Literal, Protocol

import msgspec

from predictbench_assets.experiments.model_calls.desk import (
    CallFailed,
    Desk,
    NoAnswer,
    Send,
    failed_call,
    unknown_for_good,
)
from predictbench_assets.experiments.model_calls.records import Call, CallKey, CallRequest, Reply, Settled, answered
from predictbench_assets.experiments.protocol import ExperimentSkip, RetriableError

Fallback = Literal["ask", "skip"]

TRIES: Final = 3
"""Batches that a call is a part of, at the most, before the deadline."""

_INTENT: Final = "intent "
_SUBMITTING: Final = timedelta(minutes=15)
"""Time in which whoever claimed a batch's calls may still be at it."""

_LISTED_AFTER: Final = timedelta(minutes=1)
"""Time after which a provider's list is believed to have a job, if there is one."""

_REJECTED: Final = "rejected: "
_CANCEL_LOOKS: Final = 12
_CANCEL_PAUSE_S: Final = 5.0
_SETTLED_AT_ONCE: Final = 200
_LIVE_AT_ONCE: Final = 64
_READ_AT_ONCE: Final = 32


@dataclass(frozen=True)
class BatchPlan:
    """The end of waiting for a batch."""

    deadline: datetime
    """From then on nothing is submitted, and what is under way is cancelled."""
    fallback: Fallback
    """What becomes of calls without an answer then: asked one by one at the full price, or skipped."""


@dataclass(frozen=True)
class BatchItem:
    """A call that is to be part of a batch."""

    unit_id: str
    request: CallRequest
    """As part of a batch, reserved at its price."""
    question: Any
    """Whatever the batch API needs to read the answer."""
    alone: CallRequest
    """The same by itself, reserved at its price."""
    send: Send
    """Sends it by itself."""

    @cached_property
    def key(self) -> CallKey:
        """The identity of what it asks."""
        return self.request.key(self.unit_id)


@dataclass(frozen=True)
class Encoded:
    """A request as the provider takes it in a batch."""

    body: Any
    digest: bytes
    """Bytes that identify it."""
    size: int
    """Bytes that it takes."""


class BatchApi(Protocol):
    """The batch API of one model; every method raises `CallFailed` where it has no answer."""

    most_requests: int
    most_bytes: int

    async def encode(self, custom_id: str, request: CallRequest) -> Encoded:
        """A request as part of a batch."""

    async def create(self, encoded: Sequence[Encoded]) -> str:
        """Submit a batch, and return the provider's id of it; `unknown` where it may have been submitted."""

    async def find(self, custom_ids: Collection[str], since: datetime) -> str | None:
        """The id of the job that has these requests; None where the provider has none."""

    async def has_ended(self, batch_id: str) -> bool:
        """True where nothing more will happen to a job."""

    async def results(
        self, batch_id: str, items: Mapping[str, tuple[Call, BatchItem]]
    ) -> Sequence[tuple[str, Reply | CallFailed]]:
        """The answers of a job that has ended, by custom id; `rejected` is a request that no other try will mend."""

    async def cancel(self, batch_id: str) -> None:
        """End a job early; what it has answered by then is kept."""


@dataclass
class Batches:
    """The batches of one experiment's run.

    Args:
        desk: the desk of its calls.
        api: of the model.
        plan: when waiting ends.
    """

    desk: Desk
    api: BatchApi
    plan: BatchPlan
    _replies: dict[CallKey, Reply] = field(default_factory=dict)
    """What was collected in this run, by its key."""
    _ends: dict[CallKey, Exception] = field(default_factory=dict)
    """What a call comes to that has no answer in this run, by its key."""

    async def answers(self, items: Sequence[BatchItem]) -> list[Reply | Exception]:
        """An answer for each call, or the reason why it has none yet: collects, then submits what is not asked.

        The first ones come first where a budget does not cover all.

        Raises:
            DatabaseUnavailable, TranscriptUnwritable: what was paid for can not be kept.
        """
        await self.desk.open()
        await self._collect(items)
        late = await self._submit(items)
        if self.plan.fallback == "ask":
            room = asyncio.Semaphore(_LIVE_AT_ONCE)
            asked = await asyncio.gather(*(self._alone(item, room) for item in late))
            for item, one in zip(late, asked, strict=True):
                if isinstance(one, Exception):
                    self._ends[item.key] = one
                else:
                    self._replies[item.key] = one
        else:
            for item in late:
                self._ends[item.key] = ExperimentSkip(f"batch: no answer by its deadline{self._last_reason(item.key)}")
        reading = asyncio.Semaphore(_READ_AT_ONCE)
        return list(await asyncio.gather(*(self._found(item.key, reading) for item in items)))

    async def _found(self, key: CallKey, reading: asyncio.Semaphore) -> Reply | Exception:
        """What a call has come to in this run."""
        if (found := self._ends.get(key) or self._replies.get(key)) is not None:
            return found
        async with reading:
            known = await self.desk.known(key)
        return known or RetriableError("the answer is in the ledger, and its transcript is not there")

    async def _alone(self, item: BatchItem, room: asyncio.Semaphore) -> Reply | Exception:
        async with room:
            try:
                return await self.desk.ask(item.unit_id, item.alone, item.send)
            except (ExperimentSkip, RetriableError, NoAnswer) as error:
                return error

    # What is under way

    async def _collect(self, items: Sequence[BatchItem]) -> None:
        """Settle the calls of batches that have ended; note for the others that they are under way."""
        under_way: dict[str, list[tuple[Call, BatchItem]]] = defaultdict(list)
        for item in items:
            for call in self.desk.rows(item.key):
                if call.batch_id is not None and call.is_awaited:
                    under_way[call.batch_id].append((call, item))
        for batch_id, calls in under_way.items():
            try:
                await self._collect_one(batch_id, calls)
            except CallFailed as failed:
                if failed.trouble in ("access", "rejected") and self._is_late:
                    await self._settle([(call, item, failed, True) for call, item in calls])
                else:
                    self._note(calls, RetriableError(f"batch: it cannot be collected: {failed.reason}"))

    async def _collect_one(self, batch_id: str, calls: list[tuple[Call, BatchItem]]) -> None:
        now = self.desk.clock.now()
        asked_at = max(call.asked_at for call, _ in calls)
        if batch_id.startswith(_INTENT):
            if (
                any(call.may_be_under_way and now < call.expires_at for call, _ in calls)
                or now < asked_at + _LISTED_AFTER
            ):
                self._note(calls, self._waiting("it is not known yet whether it was submitted"))
                return
            since = min(call.asked_at for call, _ in calls)
            found = await self.api.find({call.call_id.hex for call, _ in calls}, since)
            if found is None:
                lost = CallFailed("unreachable", "the batch was not submitted")
                await self._settle([(call, item, lost, False) for call, item in calls])
                return
            calls = await self._submitted(batch_id, found, calls)
            batch_id = found
        ended = await self.api.has_ended(batch_id)
        if not ended and self._is_late:
            ended = await self._cancelled(batch_id)
        if not ended:
            words = "it is being cancelled" if self._is_late else f"{len(calls):,} requests of {asked_at:%H:%M} UTC"
            self._note(calls, self._waiting(words))
            return
        items = {call.call_id.hex: (call, item) for call, item in calls}
        results = dict(await self.api.results(batch_id, items))
        missing = CallFailed("unknown", "the batch has ended without a word of this request")
        await self._settle([(*items[one], results.get(one, missing), True) for one in items])

    async def _cancelled(self, batch_id: str) -> bool:
        """Cancel a job, and return whether it has ended."""
        await self.api.cancel(batch_id)
        for look in range(_CANCEL_LOOKS):
            if look:
                await asyncio.sleep(_CANCEL_PAUSE_S)
            if await self.api.has_ended(batch_id):
                return True
        return False

    async def _submitted(
        self, intent: str, batch_id: str, calls: Sequence[tuple[Call, BatchItem]]
    ) -> list[tuple[Call, BatchItem]]:
        """Make the provider's id of a batch durable."""
        await asyncio.to_thread(self.desk.store.submitted, intent, batch_id)
        named = [(msgspec.structs.replace(call, batch_id=batch_id), item) for call, item in calls]
        for call, _ in named:
            self.desk.keep(call)
        return named

    async def _settle(self, outcomes: Sequence[tuple[Call, BatchItem, Reply | CallFailed, bool]]) -> None:
        """Make what came of calls durable; the last of each tells whether the request was with the provider."""
        for start in range(0, len(outcomes), _SETTLED_AT_ONCE):
            settled = []
            for call, item, outcome, was_sent in outcomes[start : start + _SETTLED_AT_ONCE]:
                if isinstance(outcome, CallFailed):
                    settled.append(Settled(call=_ended(call, outcome, was_sent=was_sent), content=item.request.content))
                else:
                    one = answered(call, outcome)
                    settled.append(Settled(call=one, content=item.request.content, reply=outcome))
                    self._replies[item.key] = outcome
            await asyncio.to_thread(self.desk.store.settle, settled)
            for each in settled:
                self.desk.keep(each.call)

    # What is not asked yet

    async def _submit(self, items: Sequence[BatchItem]) -> list[BatchItem]:
        """Submit calls that have no answer and are not under way; return those for which it is too late."""
        late: list[BatchItem] = []
        chunk: list[tuple[BatchItem, Call, Encoded]] = []
        size = 0
        for item in items:
            rows = self.desk.rows(item.key)
            if item.key in self._ends or any(call.is_paid for call in rows):
                continue
            if (end := _given_up(rows)) is not None:
                self._ends[item.key] = end
            elif self._is_late:
                late.append(item)
            elif sum(call.batch_id is not None for call in rows) >= TRIES:
                self._ends[item.key] = RetriableError(f"no answer in {TRIES} batches{self._last_reason(item.key)}")
            else:
                call = self.desk.next_call(item.key, item.request, lasts=_SUBMITTING)
                try:
                    encoded = await self.api.encode(call.call_id.hex, item.request)
                except CallFailed as failed:
                    self._ends[item.key] = NoAnswer(f"{_REJECTED}{failed.reason}")
                    continue
                if chunk and (len(chunk) >= self.api.most_requests or size + encoded.size > self.api.most_bytes):
                    await self._submit_one(chunk)
                    chunk, size = [], 0
                chunk.append((item, call, encoded))
                size += encoded.size
        if chunk:
            await self._submit_one(chunk)
        return late

    async def _submit_one(self, chunk: Sequence[tuple[BatchItem, Call, Encoded]]) -> None:
        """Claim the calls of a batch, and submit those that a budget covers."""
        digest = hashlib.sha256(b"\n".join(encoded.digest for *_, encoded in chunk)).hexdigest()
        intent = f"{_INTENT}{digest}"
        calls = [msgspec.structs.replace(call, batch_id=intent) for _, call, _ in chunk]
        # A limit by the minute is for requests one by one.
        allowance = msgspec.structs.replace(self.desk.allowance, requests_per_minute=None)
        claims = await asyncio.to_thread(self.desk.store.claim, calls, allowance)
        granted: list[tuple[Call, BatchItem]] = []
        bodies = []
        for (item, _, encoded), call, claim in zip(chunk, calls, claims, strict=True):
            if claim.taken is not None:
                self.desk.keep(claim.taken)
                self._ends[item.key] = self._waiting("another process is at it")
            elif claim.over_budget is not None:
                self._ends[item.key] = ExperimentSkip(f"budget: {claim.over_budget}", retriable=True)
            else:
                self.desk.keep(call)
                granted.append((call, item))
                bodies.append(encoded)
        if not granted:
            return
        try:
            batch_id = await self.api.create(bodies)
        except CallFailed as failed:
            if failed.trouble == "unknown":
                self._note(granted, self._waiting(f"it is not known yet whether it was submitted ({failed.reason})"))
            else:
                await self._settle([(call, item, failed, False) for call, item in granted])
                self._note(granted, RetriableError(f"batch: it was not taken: {failed.reason}"))
            return
        granted = await self._submitted(intent, batch_id, granted)
        self._note(granted, self._waiting(f"{len(granted):,} requests of {granted[0][0].asked_at:%H:%M} UTC"))

    def _waiting(self, words: str) -> ExperimentSkip:
        """The skip of a call whose batch is under way; one text for all of a batch."""
        until = f"{self.plan.deadline:%Y-%m-%d %H:%M} UTC"
        reason = f"{UNDER_WAY} ({words}): materialize again to collect it; it is waited for until {until}"
        return ExperimentSkip(reason, retriable=True)

    @property
    def _is_late(self) -> bool:
        return self.desk.clock.now() >= self.plan.deadline

    def _note(self, calls: Sequence[tuple[Call, BatchItem]], end: Exception) -> None:
        self._ends |= {item.key: end for _, item in calls}

    def _last_reason(self, key: CallKey) -> str:
        reasons = [call.reason for call in self.desk.rows(key) if call.reason]
        return f": {reasons[-1]}" if reasons else ""


UNDER_WAY: Final = "batch under way"
"""The beginning of the reason of a market whose answer is in a batch that is not collected."""


def _given_up(rows: Sequence[Call]) -> NoAnswer | None:
    """The reason why a call is not made again; None where it may be."""
    for call in rows:
        if call.status == "failed" and (call.reason or "").startswith(_REJECTED):
            return NoAnswer(str(call.reason))
    return unknown_for_good(rows)


def _ended(call: Call, failed: CallFailed, *, was_sent: bool) -> Call:
    """The row of a call without an answer."""
    if was_sent and failed.trouble == "access":  # the job cannot be looked at: what it has cost is not known
        failed = CallFailed("unknown", failed.reason)
    if failed.trouble == "rejected":
        failed = CallFailed("rejected", f"{_REJECTED}{failed.reason}")
    return failed_call(call, failed)
