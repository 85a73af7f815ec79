"""The desk that every paid call of an experiment goes over: claims it, sends it, keeps its answer, and tries again.

What is tried again: a rate limit (after the time that the provider asks for, and more slowly), an overload, a fault of
the server, a connection that was refused; none of these is paid for. A request that may have been paid for and gave no
answer is unknown: it counts for the most that it can have cost, and is asked once more. Everything else is asked once.
"""

import asyncio
import math
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any, Final, Generic, Literal, TypeVar
from uuid import UUID

import msgspec

from predictbench_assets.clock import Clock
from predictbench_assets.experiments.model_calls.allowance import Allowance
from predictbench_assets.experiments.model_calls.records import (
    Call,
    CallKey,
    CallRequest,
    CallScope,
    Claim,
    Reply,
    Settled,
    answered,
    call_id,
    this_process,
)
from predictbench_assets.experiments.model_calls.store import CallStore
from predictbench_assets.experiments.protocol import ExperimentSkip, RetriableError, Usage

T = TypeVar("T")
R = TypeVar("R")

Trouble = Literal["limited", "overloaded", "server", "unreachable", "access", "rejected", "unknown"]
"""The way in which a request gave no answer; only `unknown` may have been paid for."""

TRIES: Final = 6
"""Times that a call is sent, at the most, by one process; a limit of requests, which is waited for, does not count."""

CIRCUIT: Final = 10
"""Failures in a row, of whatever calls, after which a provider is asked nothing more in this run."""

_COUNTED: Final = ("overloaded", "server", "unreachable")
_PROVIDERS_FAULT: Final = ("overloaded", "server", "unreachable", "unknown")
_ATTEMPTS_UNKNOWN: Final = 2
"""Attempts without a known outcome after which a call is not made again."""

_PATIENCE_S: Final = 600.0
"""Seconds that a provider's limit is waited for, while it answers nothing at all."""

_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 60.0
_FIRST_GAP_S: Final = 0.05
_LONGEST_GAP_S: Final = 10.0
_GAP_SHRINKS: Final = 0.95
_LONGEST_SLEEP_S: Final = 1.0
_POLL_S: Final = 0.5
_LONGEST_NAME: Final = 255
_SLACK_S: Final = 5.0
"""Seconds that a client may be later than the deadline it was given."""

_EXPIRY_SLACK: Final = timedelta(seconds=15)


class CallFailed(Exception):
    """Raised by what sends a request: it gave no answer.

    Args:
        trouble: the way in which.
        reason: the provider's words, or the client's.
        retry_after_s: seconds that the provider asks to wait for.
    """

    def __init__(self, trouble: Trouble, reason: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.trouble, self.reason = trouble, reason
        self.retry_after_s = retry_after_s if retry_after_s is not None and 0 < retry_after_s < math.inf else None


class NoAnswer(Exception):
    """A call that was given up for good; the text has the reason."""

    usage: Usage | None = None


Send = Callable[[], Awaitable[Reply]]
"""Sends one request, once, and returns the answer; raises `CallFailed`."""


@dataclass(frozen=True)
class Ledger:
    """The ledger of one experiment on one snapshot, and what may be added to it."""

    store: CallStore
    scope: CallScope
    allowance: Allowance


class Desk:
    """The desk of one experiment's run; its methods are called in one event loop.

    Args:
        ledger: where calls are kept.
        clock: for the times of the rows.
    """

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        store, self._scope, allowance = ledger.store, ledger.scope, ledger.allowance
        self.store, self.clock, self.allowance = store, clock, allowance
        self._rows: dict[CallKey, list[Call]] = defaultdict(list)
        self._keys: dict[tuple[str, str], dict[CallKey, None]] = defaultdict(dict)
        self._mine: set[UUID] = set()
        self._one_at_a_time: dict[CallKey, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._stopped: str | None = None
        self._opening = asyncio.Lock()
        self._is_open = False
        self._claims = _Together[Call, Claim](lambda calls: store.claim(calls, allowance))
        self._settlements = _Together[Settled, None](self._settle_together)
        self._circuits: dict[str, _Circuit] = defaultdict(_Circuit)
        self._under_way = self._freed_times = 0
        self._freed = asyncio.Condition()

    async def ask(self, unit_id: str, request: CallRequest, send: Send) -> Reply:
        """The answer to a request: the one that was paid for before, else a new one.

        Raises:
            ExperimentSkip: a budget does not cover it; a larger one may.
            RetriableError: not asked, not answered, or not kept; a later run may have more luck.
            NoAnswer: asked, and given up.
        """
        await self.open()
        key = request.key(unit_id)
        async with self._one_at_a_time[key]:
            return await self._answer(key, request, send)

    async def _answer(self, key: CallKey, request: CallRequest, send: Send) -> Reply:
        tries = 0
        while True:
            reply = await self.known(key)
            if reply is not None:
                return reply
            self._check(key, request.provider)
            try:
                return await self._send(await self._claimed(key, request), request, send)
            except _Taken as taken:  # by another process
                self.keep(taken.call)
            except CallFailed as failed:
                if failed.trouble == "rejected":
                    raise NoAnswer(f"rejected: {failed.reason}") from None
                tries += failed.trouble in _COUNTED
                if tries >= TRIES:
                    raise RetriableError(f"no answer in {tries} tries: {failed.reason}") from None
                if failed.trouble in _COUNTED:
                    await asyncio.sleep(_pause_s(tries, failed.retry_after_s))

    def usage(self, unit: str, unit_id: str) -> Usage | None:
        """The usage of all calls about a market or an event, those of earlier attempts included; None without any."""
        return usage_of([call for key in self._keys[unit, unit_id] for call in self._rows[key]])

    async def close(self) -> None:
        """Wait until all that came back is durable, of calls that were cancelled meanwhile as well."""
        await self._settlements.ended()

    async def open(self) -> None:
        """Read the calls of earlier attempts, unless that is done.

        Raises:
            RetriableError: the store cannot be read.
        """
        if self._is_open:
            return
        async with self._opening:
            if not self._is_open:
                self._check_store()
                for call in await self._stored(asyncio.to_thread(self.store.earlier)):
                    self.keep(call)
                self._is_open = True

    def rows(self, key: CallKey) -> Sequence[Call]:
        """The attempts at a call, as far as they are known here."""
        return tuple(self._rows[key])

    def keep(self, call: Call) -> None:
        """Take a row, in place of what was known of it."""
        rows = [one for one in self._rows[call.key] if one.call_id != call.call_id]
        self._rows[call.key] = sorted([*rows, call], key=lambda one: one.attempt)
        self._keys[call.unit, call.unit_id][call.key] = None

    def next_call(self, key: CallKey, request: CallRequest, lasts: timedelta) -> Call:
        """The row of the next attempt at a call, which may be under way for so long."""
        now = self.clock.now()
        unit, unit_id, sample, prompt_hash = key
        attempt = len(self._rows[key])
        return Call(
            **msgspec.structs.asdict(self._scope),
            call_id=call_id(self._scope, key, attempt),
            unit=unit,
            unit_id=unit_id,
            sample=sample,
            attempt=attempt,
            provider=request.provider,
            model_asked=request.model,
            prompt_hash=prompt_hash,
            reserved_tokens=request.reserved_tokens,
            reserved_cost=request.reserved_cost,
            price_table=request.price_table,
            asked_at=now,
            expires_at=now + lasts,
            owner=this_process(),
        )

    async def _stored(self, work: Awaitable[T]) -> T:
        """What the store does; its first trouble ends the asking: what cannot be kept is not to be paid for.

        Raises:
            RetriableError: it could not do it.
        """
        try:
            return await work
        except Exception as error:  # in a process of its own, the pipe's
            self._stopped = self._stopped or str(error)
            raise RetriableError(str(error)) from error

    def _check_store(self) -> None:
        if self._stopped is not None:
            raise RetriableError(f"not asked: {self._stopped}")

    async def known(self, key: CallKey) -> Reply | None:
        """What was answered before; waits for another process that is asking the same."""
        for call in self.rows(key):
            while call.may_be_under_way and call.call_id not in self._mine:
                call = await self._stored(asyncio.to_thread(self.store.now, call))
                self.keep(call)
                if call.may_be_under_way:
                    await asyncio.sleep(_POLL_S)
            if call.is_paid:
                reply = await self._stored(asyncio.to_thread(self.store.reply, call.call_id))
                if reply is not None:
                    return reply
        return None

    def _check(self, key: CallKey, provider: str) -> None:
        """Stop before a request that is not to be made."""
        self._check_store()
        if (problem := self._circuits[provider].problem) is not None:
            raise RetriableError(f"not asked: {problem}")
        if (given_up := unknown_for_good(self._rows[key])) is not None:
            raise given_up

    async def _claimed(self, key: CallKey, request: CallRequest) -> Call:
        """Store the intent, once there is room for it."""
        while True:
            # Before the claim: its time begins there, and another process goes by it.
            await self._circuits[request.provider].wait()
            self._check(key, request.provider)
            lasts = timedelta(seconds=request.deadline_s) + _EXPIRY_SLACK
            call = self.next_call(key, request, lasts)
            freed = self._freed_times
            claim = await self._stored(self._claims(call))
            if claim.granted:
                self._mine.add(call.call_id)
                self.keep(call)
                return call
            if claim.taken is not None:
                raise _Taken(claim.taken)
            if claim.over_budget is None:
                await asyncio.sleep(claim.wait_s * random.uniform(1.0, 1.2))  # noqa: S311 - not all at once
            elif not await self._has_freed_some(since=freed):
                raise ExperimentSkip(f"budget: {claim.over_budget}", retriable=True)

    async def _has_freed_some(self, since: int) -> bool:
        """Wait until a call under way has ended, which may have taken less than it might; False where none is."""
        async with self._freed:
            await self._freed.wait_for(lambda: self._freed_times > since or not self._under_way)
            return self._freed_times > since

    async def _send(self, call: Call, request: CallRequest, send: Send) -> Reply:
        """Send the request of a claim, and keep what comes of it."""
        circuit = self._circuits[request.provider]
        self._under_way += 1
        try:
            try:
                async with asyncio.timeout(request.deadline_s + _SLACK_S):
                    reply = await send()
            except CallFailed:
                raise
            except TimeoutError:
                raise CallFailed("unknown", f"no answer within {request.deadline_s + _SLACK_S:g} s") from None
            except Exception as error:  # whoever sends it may have a bug, after the request went out
                raise CallFailed("unknown", f"{type(error).__name__}: {error}") from error
        except CallFailed as failed:
            circuit.note(failed)
            await self._settle(Settled(call=failed_call(call, failed), content=request.content))
            raise
        else:
            circuit.note(None)
            await self._settle(Settled(call=answered(call, reply), content=request.content, reply=reply))
            return reply
        finally:
            async with self._freed:
                self._under_way -= 1
                self._freed_times += 1
                self._freed.notify_all()

    async def _settle(self, settled: Settled) -> None:
        await self._stored(self._settlements(settled))
        self.keep(settled.call)

    def _settle_together(self, settled: Sequence[Settled]) -> Sequence[None]:
        self.store.settle(settled)
        return [None] * len(settled)


class Calls:
    """The desk as the experiment finds it in a market's context."""

    def __init__(self, desk: Desk | None, market_id: str) -> None:
        self._desk, self._market_id = desk, market_id

    async def ask(self, request: CallRequest, send: Send) -> Reply:
        """The answer to a request: the one that was paid for before, else what `send` returns.

        Raises:
            ExperimentSkip: a budget does not cover it, or this run makes no paid calls.
            RetriableError: not asked, or not answered; a later run may have more luck.
            NoAnswer: asked, and given up.
        """
        desk = self.desk
        try:
            return await desk.ask(request.unit_id or self._market_id, request, send)
        except (ExperimentSkip, RetriableError, NoAnswer) as error:
            error.usage = self.usage(request.unit, request.unit_id)
            raise

    @property
    def desk(self) -> Desk:
        """The desk itself, for who asks for many markets together.

        Raises:
            ExperimentSkip: this run makes no paid calls.
        """
        if self._desk is None:
            raise ExperimentSkip("a dry run makes no paid calls: `predictbench experiments try` does", retriable=True)
        return self._desk

    def usage(self, unit: str = "market", unit_id: str | None = None) -> Usage | None:
        """The usage of all calls about this market, or about that event; None without any."""
        return None if self._desk is None else self._desk.usage(unit, unit_id or self._market_id)


def usage_of(calls: Sequence[Call]) -> Usage | None:
    """Calls as the usage of a result."""
    if not calls:
        return None
    costs = [cost for call in calls if (cost := call.counted_cost) is not None]
    ended = [call.answered_at for call in calls if call.answered_at is not None]
    return Usage(
        requests=len(calls),
        input_tokens=_sum(calls, "input_tokens"),
        output_tokens=_sum(calls, "output_tokens"),
        cached_tokens=_sum(calls, "cached_tokens"),
        cost=sum(costs, Decimal(0)) if costs else None,
        # A clock may have been set back meanwhile.
        seconds=max(0.0, (max(ended) - min(call.asked_at for call in calls)).total_seconds()) if ended else None,
        model=next((_printable(call.model_returned) for call in reversed(calls) if call.model_returned), None),
    )


def _printable(name: str) -> str:
    """The name of a model as a result has it."""
    return "".join(character if character.isprintable() else "?" for character in name)[:_LONGEST_NAME]


def _sum(calls: Sequence[Call], name: str) -> int | None:
    known = [count for call in calls if (count := getattr(call, name)) is not None]
    return sum(known) if known else None


class _Taken(Exception):
    def __init__(self, call: Call) -> None:
        super().__init__(call)
        self.call = call


class _Circuit:
    """The health of one provider, as this run sees it."""

    def __init__(self) -> None:
        self.problem: str | None = None
        self._in_a_row = self._limits = 0
        self._limited_since: float | None = None
        self._next_at = self._resume_at = self._gap_s = 0.0
        self._turn = asyncio.Lock()

    async def wait(self) -> None:
        """Wait as long as the provider has asked for, then for a turn: after a limit, turns have a gap between them."""
        async with self._turn:
            # In short sleeps: those who wait behind are told of a problem soon.
            while self.problem is None and (pause := self._pause()) > 0:  # noqa: ASYNC110
                await asyncio.sleep(min(pause, _LONGEST_SLEEP_S))
            self._next_at = _loop_time() + self._gap_s

    def _pause(self) -> float:
        return max(self._next_at, self._resume_at) - _loop_time()

    def note(self, failed: CallFailed | None) -> None:
        """Take note of how a call ended; None for well."""
        if failed is None:
            self._in_a_row, self._limits, self._limited_since = 0, 0, None
            self._gap_s = self._gap_s * _GAP_SHRINKS if self._gap_s > _FIRST_GAP_S / 2 else 0.0
        elif failed.trouble == "access":
            self.problem = f"the provider refuses this experiment: {failed.reason}"
        elif failed.trouble in _PROVIDERS_FAULT:
            self._in_a_row += 1
            if self._in_a_row == CIRCUIT:
                self.problem = f"{self._in_a_row} calls in a row have failed, the last one: {failed.reason}"
        elif failed.trouble == "limited":
            self._slow_down(failed)

    def _slow_down(self, failed: CallFailed) -> None:
        """Pause, longer each time, and go on with twice the gap; many that are refused at once count as one."""
        now = _loop_time()
        self._limited_since = self._limited_since or now
        wait_s = failed.retry_after_s or 0.0
        if wait_s > _PATIENCE_S:
            self.problem = f"the provider asks to wait for {wait_s:,.0f} s: {failed.reason}"
        elif now - self._limited_since > _PATIENCE_S:
            self.problem = f"the provider has answered nothing for {_PATIENCE_S:g} s: {failed.reason}"
        if now < self._resume_at:
            self._resume_at = max(self._resume_at, now + wait_s)
            return
        self._limits += 1
        if self._limits == 1:  # the others in a row are a closed door, and no haste of ours
            self._gap_s = min(max(2.0 * self._gap_s, _FIRST_GAP_S), _LONGEST_GAP_S)
        self._resume_at = now + _pause_s(self._limits, wait_s)


def _loop_time() -> float:
    return asyncio.get_running_loop().time()


class _Together(Generic[T, R]):
    """Work on what has gathered while the last of it was under way: many share one transaction and one sync."""

    def __init__(self, work: Callable[[Sequence[T]], Sequence[R]]) -> None:
        self._work = work
        self._waiting: list[tuple[T, asyncio.Future[R]]] = []
        self._working: asyncio.Task[None] | None = None

    async def __call__(self, item: T) -> R:
        answer: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, answer))
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._run())
        return await answer

    async def ended(self) -> None:
        """Wait until nothing is under way."""
        while self._working is not None and not self._working.done():
            await asyncio.wait({self._working})

    async def _run(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting, []
            try:
                results: Sequence[Any] = await asyncio.to_thread(self._work, [item for item, _ in group])
            except Exception as error:
                for _, answer in group:
                    if not answer.done():
                        answer.set_exception(error)
                continue
            for (_, answer), result in zip(group, results, strict=True):
                if not answer.done():
                    answer.set_result(result)


def _pause_s(tries: int, retry_after_s: float | None) -> float:
    """Seconds before the next try: twice as long each time, with jitter, and at least what the provider asks for."""
    longest: float = min(_FIRST_PAUSE_S * 2.0 ** (tries - 1), _LONGEST_PAUSE_S)
    own = longest * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
    return max(own, min(retry_after_s or 0.0, _PATIENCE_S))


def unknown_for_good(rows: Sequence[Call]) -> NoAnswer | None:
    """The end of a call whose outcome stayed unknown as often as is allowed; None where it may be made again."""
    unknown = [call for call in rows if call.status == "unknown"]
    if len(unknown) < _ATTEMPTS_UNKNOWN:
        return None
    reason = f": {unknown[-1].reason}" if unknown[-1].reason else ""
    return NoAnswer(f"unknown: {len(unknown)} requests gave no answer and may have been paid for{reason}")


def failed_call(call: Call, failed: CallFailed) -> Call:
    """The row of a call without an answer."""
    if failed.trouble == "unknown":
        return msgspec.structs.replace(call, reason=failed.reason)
    return msgspec.structs.replace(call, status="failed", reason=failed.reason, cost=Decimal(0))
