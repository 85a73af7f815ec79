"""Calling code that is not ours: with a time limit, and so that nothing it does can stop the run.

Sync code runs in daemon threads, because a thread cannot be stopped: one that hangs is left behind, its late answer is
thrown away, and the interpreter can still exit. Async code is cancelled, and left behind only if it refuses to end.
Handing a call to a thread costs more than most calls take, so a thread makes quick ones one after another.
"""

import asyncio
import contextlib
import contextvars
import inspect
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from queue import SimpleQueue
from typing import Any, Final, Generic, NamedTuple, TypeVar

T = TypeVar("T")

OVERDUE_LIMIT: Final = 64
"""Calls that may be left behind, still running, before the experiment is given up."""

LEAVE_S: Final = 4.0
"""Seconds that an experiment may take to close."""

_SERIES_S = 0.02
"""Seconds after which a thread begins no further call before it has handed on the answers that it has."""
_HELD_S = 0.25
"""Seconds for which answers wait at most for a call of the same thread that turns out to be slow."""

_GRACE_S = 1.0
"""Seconds that a cancelled coroutine may take to clean up."""


class CallTimedOut(Exception):
    """A call gave no answer within its time limit."""


class CallCancelled(Exception):
    """A coroutine ended as cancelled although its caller had not cancelled it."""


class Answer(NamedTuple):
    """The result of a call: a value, or the error that it raised."""

    value: Any = None
    error: BaseException | None = None


class Call(NamedTuple, Generic[T]):
    """A call that was made for an item."""

    item: T
    answer: Answer
    seconds: float
    """Duration of the call."""


class Caller:
    """A worker's calls, one after another; several workers share the same `overdue` set.

    `overdue` holds the calls that were left behind and are still running; they take themselves out when they end.
    """

    def __init__(self, name: str, overdue: "set[asyncio.Future[Answer]]") -> None:
        self._name = name
        self._overdue = overdue
        self._thread: _Thread | None = None
        self._series: tuple[_Series[Any], asyncio.Future[Answer]] | None = None

    async def call(self, function: Callable[..., Any], *arguments: Any, limit_s: float) -> Answer:
        """Call a function or a coroutine function; every exception comes back as data."""
        deadline = asyncio.get_running_loop().time() + limit_s
        if inspect.iscoroutinefunction(function):
            answer = await self._wait(asyncio.ensure_future(_guarded(function(*arguments))), deadline)
        else:
            answer = await self._wait(self._own_thread().submit(function, *arguments), deadline)
            if answer and inspect.isawaitable(answer.value):  # a sync function that hands out a coroutine
                answer = await self._wait(asyncio.ensure_future(_guarded(answer.value)), deadline)
        return answer or _timed_out(limit_s)

    async def call_in_series(
        self, items: Iterator[T], bind: Callable[[T], Callable[[], Any]], *, limit_s: float
    ) -> list[Call[T]]:
        """Call a sync function for the next item, and for those after it while the calls are quick.

        Args:
            items: which to go on with. Several workers may share it: its `__next__` has to be safe in threads, as that
                of a list's iterator is.
            bind: makes the function of an item, right before its call; its own error is raised here.
            limit_s: of each call, in seconds.

        Returns:
            The calls made, every exception as data; empty where no item is left. Those before a slow one come without
            it, and the next call of this method goes on to wait for that.
        """
        if self._series is None:
            series = _Series(items, bind)
            self._series = series, self._own_thread().submit(series.make)
        series, future = self._series
        try:
            while not future.done():
                await asyncio.wait({future}, timeout=min(series.left(limit_s), _HELD_S))
                if future.done():
                    break
                if series.close_if_over(limit_s):
                    await self._leave(future)
                    break
                if answered := series.take():
                    return answered
        except asyncio.CancelledError:
            future.cancel()
            raise
        self._series, calls = None, series.close()
        if future.done() and (error := future.result().error) is not None:
            raise error
        if calls and inspect.isawaitable(calls[-1].answer.value):  # a sync function that hands out a coroutine
            item, begun, value = calls[-1].item, time.monotonic() - calls[-1].seconds, calls[-1].answer.value
            deadline = asyncio.get_running_loop().time() + limit_s - calls[-1].seconds
            answer = await self._wait(asyncio.ensure_future(_guarded(value)), deadline)
            calls[-1] = Call(item, answer or _timed_out(limit_s), time.monotonic() - begun)
        return calls

    @property
    def in_series(self) -> bool:
        """True while `call_in_series` has a call to wait for, which it left to hand on those before it."""
        return self._series is not None

    def interrupt(self) -> list[Call[Any]]:
        """End the present series; returns the calls of it that have been answered."""
        return [] if self._series is None else self._series[0].close()

    def close(self) -> None:
        """Let the thread end when its present call has ended."""
        if self._thread is not None:
            self._thread.dismiss()
            self._thread = None

    def _own_thread(self) -> "_Thread":
        if self._thread is None:
            self._thread = _Thread(self._name)
        return self._thread

    async def _wait(self, call: "asyncio.Future[Answer]", deadline: float) -> Answer | None:
        """The call's answer; None when there was none by the deadline (of the event loop's clock)."""
        try:
            await asyncio.wait({call}, timeout=max(0.0, deadline - asyncio.get_running_loop().time()))
            if not call.done():
                await self._leave(call)
                return None
        except asyncio.CancelledError:
            call.cancel()
            raise
        if call.cancelled():
            return Answer(error=CallCancelled("the call ended as cancelled"))
        return call.result()

    async def _leave(self, call: "asyncio.Future[Answer]") -> None:
        """Stop waiting for a call that is over its limit."""
        if isinstance(call, asyncio.Task):
            call.cancel()
            await asyncio.wait({call}, timeout=_GRACE_S)
        else:
            self.close()  # its thread is busy, the next call gets another
        if not call.done():
            self._overdue.add(call)
            call.add_done_callback(self._overdue.discard)


class _Series(Generic[T]):
    """Calls that a thread makes, while the event loop looks on.

    Args:
        items, bind: as `Caller.call_in_series` has them.
    """

    def __init__(self, items: Iterator[T], bind: Callable[[T], Callable[[], Any]]) -> None:
        self._items, self._bind = items, bind
        self._calls: list[Call[T]] = []
        self._under_way: tuple[T, float] | None = None
        self._lock = threading.Lock()
        self._closed = False

    def make(self) -> None:
        """Make calls until there are no more items, or some time has passed. In the thread."""
        until = time.monotonic() + _SERIES_S
        for item in self._items:
            function, begun = self._bind(item), time.monotonic()
            if not self._begin(item, begun):
                return
            # In a context of its own: what a call sets there is not for the next one.
            answer = _answer_of(contextvars.copy_context(), function)
            now = time.monotonic()
            if not self._end(Call(item, answer, now - begun)) or now >= until or inspect.isawaitable(answer.value):
                return
            del answer  # an error refers to the frames that it came through, and so to this one

    def _begin(self, item: T, begun: float) -> bool:
        with self._lock:
            self._under_way = item, begun
            return not self._closed

    def _end(self, call: Call[T]) -> bool:
        with self._lock:
            self._under_way = None
            if not self._closed:
                self._calls.append(call)
            return not self._closed

    def take(self) -> list[Call[T]]:
        """Hand over the calls that have been answered while another one is under way, so that there is one more."""
        with self._lock:
            if self._under_way is None:
                return []
            taken, self._calls = self._calls, []
            return taken

    def left(self, limit_s: float) -> float:
        """Seconds that the call under way has left."""
        under_way = self._under_way
        return limit_s if under_way is None else max(0.0, under_way[1] + limit_s - time.monotonic())

    def close_if_over(self, limit_s: float) -> bool:
        """Give up the call under way if it is over its limit, and end the series with that."""
        with self._lock:
            if self._under_way is None or time.monotonic() < self._under_way[1] + limit_s:
                return False
            item, begun = self._under_way
            self._calls.append(Call(item, _timed_out(limit_s), time.monotonic() - begun))
            self._closed = True
            return True

    def close(self) -> list[Call[T]]:
        """Take no more answers; returns the calls that have one."""
        with self._lock:
            self._closed = True
            calls, self._calls = self._calls, []
            return calls


class Lifetime:
    """An experiment's context around a run, entered and left by one task, as async contexts require.

    Args:
        make: makes the context.
    """

    def __init__(self, make: Callable[[], AbstractAsyncContextManager[object]]) -> None:
        self._make = make
        self._entered, self._leave = asyncio.Event(), asyncio.Event()
        self._task: asyncio.Task[Answer] | None = None

    async def enter(self, limit_s: float) -> BaseException | None:
        """Enter the context; returns the error that kept it from being entered."""
        self._task = asyncio.ensure_future(_guarded(self._live()))
        entered = asyncio.ensure_future(self._entered.wait())
        try:
            await asyncio.wait({self._task, entered}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            entered.cancel()
        if self._entered.is_set():
            return None
        return _error_of(self._task) if self._task.done() else CallTimedOut(f"not open within {limit_s:g} s")

    async def leave(self) -> BaseException | None:
        """Leave the context, or stop entering it; returns the error that was raised by leaving."""
        task, was_open = self._task, self._entered.is_set()
        if task is None:
            return None
        self._leave.set()
        if not was_open:
            task.cancel()
        await asyncio.wait({task}, timeout=LEAVE_S)
        if not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=_GRACE_S)
            return CallTimedOut(f"not closed within {LEAVE_S:g} s")
        return _error_of(task) if was_open else None

    async def _live(self) -> None:
        async with self._make():
            self._entered.set()
            await self._leave.wait()


def _answer_of(context: contextvars.Context, function: Callable[..., Any], *arguments: Any) -> Answer:
    """The answer of a call in a context."""
    try:
        return Answer(context.run(function, *arguments))
    except BaseException as error:
        return Answer(error=_from_within(error))


def _from_within(error: BaseException) -> BaseException:
    """The error without the frame that caught it. It refers to its frames, and that one to what was handed over: all
    would wait for the garbage collector."""
    caught = error.__traceback__
    return error.with_traceback(None if caught is None else caught.tb_next)


def _timed_out(limit_s: float) -> Answer:
    return Answer(error=CallTimedOut(f"no answer within {limit_s:g} s"))


def _error_of(task: "asyncio.Task[Answer]") -> BaseException | None:
    return CallCancelled("it ended as cancelled") if task.cancelled() else task.result().error


async def _guarded(awaitable: Awaitable[Any]) -> Answer:
    """A SystemExit or KeyboardInterrupt that got as far as the event loop would end it."""
    try:
        return Answer(await awaitable)
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        return Answer(error=error)


class _Thread:
    """A daemon thread that makes calls in the order given and hands the answers to the event loop."""

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        threading.Thread(target=self._serve, name=name, daemon=True).start()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> "asyncio.Future[Answer]":
        """The future answer of a call."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        context = contextvars.copy_context()

        def make_call() -> None:
            answer = _answer_of(context, function, *arguments)
            with contextlib.suppress(RuntimeError):  # the loop is closed: this answer came too late for the run
                loop.call_soon_threadsafe(_settle, future, answer)

        self._calls.put(make_call)
        return future

    def dismiss(self) -> None:
        self._calls.put(None)

    def _serve(self) -> None:
        while (make_call := self._calls.get()) is not None:
            make_call()
            del make_call  # or the last call's market and answer would live on while the thread waits


def _settle(future: "asyncio.Future[Answer]", answer: Answer) -> None:
    if not future.done():
        future.set_result(answer)
