"""Calling code that is not ours: with a time limit, and so that nothing it does can stop the run.

Sync code runs in daemon threads, because a thread cannot be stopped: one that hangs is left behind, its late answer is
thrown away, and the interpreter can still exit. Async code is cancelled, and left behind only if it refuses to end.
"""

import asyncio
import contextlib
import contextvars
import inspect
import threading
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Final

OVERDUE_LIMIT: Final = 64
"""Calls that may be left behind, still running, before the experiment is given up."""

LEAVE_S: Final = 4.0
"""Seconds that an experiment may take to close."""

_GRACE_S = 1.0
"""Seconds that a cancelled coroutine may take to clean up."""


class CallTimedOut(Exception):
    """A call gave no answer within its time limit."""


class CallCancelled(Exception):
    """A coroutine ended as cancelled although its caller had not cancelled it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of a call: a value, or the error that it raised."""

    value: Any = None
    error: BaseException | None = None


class Caller:
    """A worker's calls, one after another; several workers share the same `overdue` set.

    `overdue` holds the calls that were left behind and are still running; they take themselves out when they end.
    """

    def __init__(self, name: str, overdue: "set[asyncio.Future[Answer]]") -> None:
        self._name = name
        self._overdue = overdue
        self._thread: _Thread | None = None

    async def call(self, function: Callable[..., Any], *arguments: Any, limit_s: float) -> Answer:
        """Call a function or a coroutine function; every exception comes back as data."""
        deadline = asyncio.get_running_loop().time() + limit_s
        if inspect.iscoroutinefunction(function):
            answer = await self._wait(asyncio.ensure_future(_guarded(function(*arguments))), deadline)
        else:
            if self._thread is None:
                self._thread = _Thread(self._name)
            answer = await self._wait(self._thread.submit(function, *arguments), deadline)
            if answer and inspect.isawaitable(answer.value):  # a sync function that hands out a coroutine
                answer = await self._wait(asyncio.ensure_future(_guarded(answer.value)), deadline)
        return answer or Answer(error=CallTimedOut(f"no answer within {limit_s:g} s"))

    def close(self) -> None:
        """Let the thread end when its present call has ended."""
        if self._thread is not None:
            self._thread.dismiss()
            self._thread = None

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
            try:
                answer = Answer(context.run(function, *arguments))
            except BaseException as error:
                answer = Answer(error=error)
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
