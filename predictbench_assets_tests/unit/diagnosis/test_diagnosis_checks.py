"""Checks run side by side, and none can hide another; two clocks are compared as far as can be known."""

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictbench_assets.clock import skew
from predictbench_assets.diagnosis.checks import Check, Finding, clock_finding, run_checks
from predictbench_assets.failures import PermanentError

FINE = Finding("ok", "fine", "all is well")
LEVELS = [(0, "ok"), (2, "ok"), (3, "warn"), (-3, "warn"), (60, "warn"), (61, "fail"), (-3600, "fail")]


def fine() -> list[Finding]:
    return [FINE]


def broken() -> list[Finding]:
    raise KeyError("nobody foresaw this")


def ours() -> Iterator[Finding]:
    yield FINE
    raise PermanentError("set THIS to that")


def test_findings_come_in_the_order_of_the_checks_whatever_ends_first() -> None:
    second_ended = threading.Event()

    def first() -> list[Finding]:
        assert second_ended.wait(5)
        return [Finding("ok", "first", "")]

    def second() -> list[Finding]:
        second_ended.set()
        return [Finding("ok", "second", "")]

    found = list(run_checks([Check("first", first), Check("second", second)]))
    assert [one.name for [one] in found] == ["first", "second"]


def test_a_check_that_breaks_is_a_failure_of_its_own() -> None:
    found = list(run_checks([Check("broken", broken), Check("ours", ours), Check("fine", fine)]))
    [[first], [second], [third]] = found
    assert (first.level, first.name) == ("fail", "broken")
    assert "nobody foresaw this" in first.found
    assert first.fix
    assert (second.level, second.found) == ("fail", "set THIS to that")
    assert third == FINE


def test_checks_that_hang_are_left_when_the_time_is_up() -> None:
    for_ever = threading.Event()

    def hangs() -> list[Finding]:
        for_ever.wait()
        return [FINE]

    begun = time.monotonic()
    found = list(run_checks([Check(f"hangs {n}", hangs) for n in range(5)] + [Check("fine", fine)], limit_s=0.1))
    took = time.monotonic() - begun
    for_ever.set()
    assert [one.level for [one] in found] == ["fail"] * 5 + ["ok"]
    assert "no answer within 0.1 s" in found[0][0].found
    assert took < 2


def test_who_stops_early_waits_for_what_has_to_be_cleaned_up() -> None:
    cleaned, stopped = threading.Event(), threading.Event()

    def writes() -> list[Finding]:
        stopped.wait(5)
        cleaned.set()
        return [FINE]

    running = run_checks([Check("fine", fine), Check("writes", writes, leaves_traces=True)])
    assert next(running) == [FINE]
    stopped.set()
    with pytest.raises(KeyboardInterrupt):
        running.throw(KeyboardInterrupt)
    assert cleaned.is_set()


@given(
    offset=st.timedeltas(timedelta(hours=-2), timedelta(hours=2)),
    there=st.timedeltas(timedelta(0), timedelta(seconds=5)),
    back=st.timedeltas(timedelta(0), timedelta(seconds=5)),
)
def test_the_skew_is_never_more_than_it_is(offset: timedelta, there: timedelta, back: timedelta) -> None:
    before = datetime(2026, 3, 2, 7, tzinfo=UTC)
    found = skew(before, before + there + offset, before + there + back)
    assert abs(found) <= abs(offset)
    assert abs(found - offset) <= max(there, back)


@pytest.mark.parametrize(("seconds", "level"), LEVELS)
def test_clocks_may_differ_by_a_little(seconds: int, level: str) -> None:
    limits = {"warn": timedelta(seconds=2), "fail": timedelta(seconds=60)}
    finding = clock_finding("clock", timedelta(seconds=seconds), **limits)
    assert finding.level == level
    assert (finding.fix != "") == (level != "ok")
    if level != "ok":
        assert ("behind" if seconds > 0 else "ahead of") in finding.found
