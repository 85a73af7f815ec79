"""Signals that ask this process to stop: passed on to a child, raised as an exception, or checked between two steps."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any, Self

STOPS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""The signals that ask a process to stop; Windows has no SIGHUP."""

_KILLS = 3
"""Signals of which the last one kills."""

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


class SignalsToChildren:
    """Passing on the signals that this process gets to its children, of which several may run; the third one kills.

    Enter it before a child is started: a handler is not inherited, but an ignored signal (as in a shell's background
    job) would be. It is the main thread that enters it, since no other may set handlers; children may be another's.

    Args:
        ending_s: kill a child so many seconds after the first signal.
        on_interrupt: called at a Ctrl-C that is the first signal; returns whether it is passed on.
    """

    def __init__(self, ending_s: float | None = None, on_interrupt: Callable[[], bool] | None = None) -> None:
        self._ending_s, self._on_interrupt = ending_s, on_interrupt
        self._received: list[int] = []
        self._passed_on: list[int] = []
        self._children: list[_Child] = []
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._forward) for number in STOPS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def to_child(self, on_signal: Callable[[int], object]) -> Iterator[PassTo]:
        """Pass them on to one more child while the block lasts.

        Args:
            on_signal: called with the number of each signal that is passed on, those from before included.

        Yields:
            A function to call once the child runs, with how to send it a signal and how to kill it.
        """
        child = _Child(on_signal, self._ending_s)
        self._children.append(child)
        for number in tuple(self._passed_on):
            on_signal(number)

        def pass_to(send: Callable[[int], object], kill: Callable[[], object]) -> None:
            child.ways = send, kill
            if self._passed_on:
                child.pass_on(signal.SIGTERM)

        try:
            yield pass_to
        finally:
            self._children.remove(child)
            child.ended()

    def _forward(self, number: int, _: FrameType | None = None) -> None:
        self._received.append(number)
        if self._on_interrupt is not None and self._received == [signal.SIGINT] and not self._on_interrupt():
            return
        self._passed_on.append(number)
        for child in tuple(self._children):
            child.on_signal(number)
            # A terminal that was closed is a request to stop, too.
            child.pass_on(
                signal.SIGINT if number == signal.SIGINT else signal.SIGTERM, kill=len(self._received) >= _KILLS
            )


class _Child:
    """A child that signals are passed on to, and the time that it has to end."""

    def __init__(self, on_signal: Callable[[int], object], ending_s: float | None) -> None:
        self.on_signal = on_signal
        self.ways: tuple[Callable[[int], object], Callable[[], object]] | None = None
        self._ending_s = ending_s
        self._timer: threading.Timer | None = None

    def pass_on(self, number: int, *, kill: bool = False) -> None:
        """Send it a signal, or kill it; one that has not been started yet gets it once it is."""
        if self.ways is None:
            return
        send, end = self.ways
        if self._ending_s is not None and self._timer is None:
            self._timer = threading.Timer(self._ending_s, end)
            self._timer.daemon = True
            self._timer.start()
        with suppress(ProcessLookupError):
            end() if kill else send(number)

    def ended(self) -> None:
        """Let the time be."""
        if self._timer is not None:
            self._timer.cancel()


@contextmanager
def signals_passed_on(on_signal: Callable[[int], object], ending_s: float | None = None) -> Iterator[PassTo]:
    """Pass on the signals that this process gets to its only child, see `SignalsToChildren`."""
    with SignalsToChildren(ending_s) as signals, signals.to_child(on_signal) as pass_to:
        yield pass_to
