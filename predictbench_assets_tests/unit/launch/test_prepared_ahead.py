"""What is prepared of the next partition while one is at work."""

import logging
import threading
from datetime import date

import pytest

from predictbench_assets.backfill_process import Ahead
from predictbench_assets.runs import RunKey

FIRST, SECOND = (RunKey(date(2026, 3, day), 7) for day in (1, 2))


def test_one_is_prepared_beside_the_work_and_waited_for_before_its_own() -> None:
    may_end, prepared = threading.Event(), list[RunKey]()

    def prepare(key: RunKey) -> None:
        assert may_end.wait(10)
        prepared.append(key)

    ahead = Ahead(prepare)
    ahead.wait()  # nothing was begun
    ahead.begin(FIRST)
    assert prepared == []  # the work goes on meanwhile
    may_end.set()
    ahead.wait()
    assert prepared == [FIRST]
    ahead.begin(SECOND)
    ahead.wait()
    assert prepared == [FIRST, SECOND]


def test_one_that_fails_costs_nothing_and_is_told_when_debugging(caplog: pytest.LogCaptureFixture) -> None:
    def prepare(_: RunKey) -> None:
        raise ConnectionError("no route to the exchange")

    ahead = Ahead(prepare)
    with caplog.at_level(logging.DEBUG):
        ahead.begin(FIRST)
        ahead.wait()
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("DEBUG", f"{FIRST} could not be prepared: no route to the exchange")
    ]


def test_one_that_hangs_keeps_no_process() -> None:
    begun = threading.Event()

    def prepare(_: RunKey) -> None:
        begun.set()
        threading.Event().wait()

    Ahead(prepare).begin(FIRST)
    assert begun.wait(10)
    [thread] = [one for one in threading.enumerate() if one.name == f"prepare {FIRST}"]
    assert thread.daemon
