"""Signals that ask this process to stop: passed on to a child, raised as an exception, or checked between two steps."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any, Self

STOPS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""The signals that ask a process to stop; Windows has no SIGHUP."""

PassTo = Callable[[Callable[[int], object], Callable[[], object]], None]


@contextmanager
def exiting_on_signals() -> Iterator[None]:
    """Raise SystemExit in the block on a request to terminate, so that what was begun is ended and scratch files go."""

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in STOPS if number != signal.SIGINT}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Interrupts:
    """Remembers Ctrl-C: Python swallows one that arrives within a callback of the garbage collector."""

    def __init__(self) -> None:
        self._arrived = False
        self._before: Any = signal.SIG_DFL

    def __enter__(self) -> Self:
        self._before = signal.getsignal(signal.SIGINT)
        if self._before is not signal.SIG_IGN:  # as in a shell's background job
            signal.signal(signal.SIGINT, self._remember)
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        signal.signal(signal.SIGINT, self._before)

    def check(self) -> None:
        """Stop here if one has arrived.

        Raises:
            KeyboardInterrupt: one has.
        """
        if self._arrived:
            raise KeyboardInterrupt

    def _remember(self, _: int, __: FrameType | None) -> None:
        self._arrived = True
        raise KeyboardInterrupt


@contextmanager
def signals_passed_on(
    on_signal: Callable[[int], object],
    ending_s: float | None = None,
    on_interrupt: Callable[[], bool] | None = None,
) -> Iterator[PassTo]:
    """Pass on the signals that this process gets to a child: the third one kills it.

    Enter before the child is started: a handler is not inherited, but an ignored signal (as in a shell's background
    job) would be.

    Args:
        on_signal: called with the number of each signal.
        ending_s: kill the child so many seconds after the first signal.
        on_interrupt: called at a Ctrl-C that is the first signal; returns whether it is passed on.

    Yields:
        A function to call once the child runs, with how to send it a signal and how to kill it.
    """
    received: list[int] = []
    child: list[tuple[Callable[[int], object], Callable[[], object]]] = []
    timers: list[threading.Timer] = []

    def kill_later(kill: Callable[[], object]) -> None:
        if ending_s is not None and not timers:
            timers.append(threading.Timer(ending_s, kill))
            timers[0].daemon = True
            timers[0].start()

    def forward(number: int, _: FrameType | None = None) -> None:
        received.append(number)
        if on_interrupt is not None and received == [signal.SIGINT] and not on_interrupt():
            return
        on_signal(number)
        for send, kill in child:
            kill_later(kill)
            with suppress(ProcessLookupError):
                # A terminal that was closed is a request to stop, too.
                kill() if len(received) >= 3 else send(signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)

    def pass_to(send: Callable[[int], object], kill: Callable[[], object]) -> None:
        child.append((send, kill))
        if received and (on_interrupt is None or received != [signal.SIGINT]):
            kill_later(kill)
            send(signal.SIGTERM)

    before = {number: signal.signal(number, forward) for number in STOPS}
    try:
        yield pass_to
    finally:
        for timer in timers:
            timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)
