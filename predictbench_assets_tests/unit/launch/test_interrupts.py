"""Ctrl-C ends a demo, wherever it arrives."""

import signal
import sys
import weakref

import pytest

from predictbench_assets.launch.signals import Interrupts


class Collected:
    """Something that a weak reference can be made to."""


def test_an_interrupt_that_a_callback_swallows_is_raised_at_the_next_check(monkeypatch: pytest.MonkeyPatch) -> None:
    swallowed: list[type[BaseException]] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: swallowed.append(unraisable.exc_type))
    with Interrupts() as interrupts:
        interrupts.check()
        collected = Collected()
        watching = weakref.ref(collected, lambda _: signal.raise_signal(signal.SIGINT))
        del collected
        assert (watching(), swallowed) == (None, [KeyboardInterrupt])
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()


def test_an_interrupt_elsewhere_is_raised_at_once_and_the_handler_put_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interrupts(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_job_that_is_told_to_ignore_interrupts_does() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            signal.raise_signal(signal.SIGINT)
            interrupts.check()
    finally:
        signal.signal(signal.SIGINT, before)
