import asyncio
import contextvars
import dataclasses
import gc
import logging
import math
import random
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from predictbench_assets.clock import FixedClock
from predictbench_assets.experiments import calls, runner
from predictbench_assets.experiments.contexts import FURTHER_LINES, LOGGED_LINES
from predictbench_assets.experiments.journal import Journal, JournalKey
from predictbench_assets.experiments.outcomes import Outcome, completed
from predictbench_assets.experiments.protocol import (
    Experiment,
    ExperimentResult,
    ExperimentSkip,
    Information,
    PipelineContext,
    RetriableError,
    SettledMarket,
    Usage,
)
from predictbench_assets.experiments.runner import MAX_REASON, NO_BOOK, NO_SEARCH, Progress, run_experiment
from predictbench_assets.experiments.testing import CAPTURED_AT, make_market, make_run
from predictbench_assets.failures import PermanentError, TransientError
from predictbench_assets.markets.market import Market
from predictbench_assets.staging import StagingArea

RunOver = Callable[..., list[Outcome]]
EVEN = ExperimentResult.binary(0.5)
MARKETS = [make_market(str(number), price=number / 10) for number in range(1, 10)]


class Base(Experiment):
    name = "tested"
    version = "1"
    description = "An experiment of the tests."


class Sync(Base):
    """Runs the function that it is made with."""

    def __init__(self, function: Callable[[Market, PipelineContext], Any]) -> None:
        self._function = function

    def run(self, market: Market, context: PipelineContext) -> ExperimentResult:
        return self._function(market, context)  # type: ignore[no-any-return]


class Async(Sync):
    async def run(self, market: Market, context: PipelineContext) -> ExperimentResult:  # type: ignore[override]
        return await self._function(market, context)  # type: ignore[no-any-return]


class Blind(Sync):
    information = "blind"


class Events(Base):
    def __init__(self, function: Callable[[Sequence[Market], Mapping[str, PipelineContext]], Any]) -> None:
        self._function = function

    def run_event(self, markets: Sequence[Market], contexts: Mapping[str, PipelineContext]) -> Any:
        return self._function(markets, contexts)


class Cohort(Events):
    unit = "cohort"
    run_cohort = Events.run_event


def raising(error: BaseException) -> Callable[[Market, PipelineContext], Any]:
    def function(market: Market, context: PipelineContext) -> Any:
        raise error

    return function


def copy_price(market: Market, context: PipelineContext) -> ExperimentResult:
    assert market.price.value is not None
    return ExperimentResult.binary(market.price.value)


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """An event that hung calls wait for; set at the end, so that no test leaves a thread behind."""
    event = threading.Event()
    yield event
    event.set()


def test_every_market_gets_its_outcome_in_the_order_of_the_cohort(run_over: RunOver) -> None:
    def slow_at_first(market: Market, context: PipelineContext) -> ExperimentResult:
        time.sleep(0.02 if market.market_id == "1" else 0)
        return copy_price(market, context)

    outcomes = run_over(Sync(slow_at_first), MARKETS)
    assert [outcome.market_id for outcome in outcomes] == [market.market_id for market in MARKETS]
    assert [outcome.probability for outcome in outcomes] == [number / 10 for number in range(1, 10)]
    assert {outcome.status for outcome in outcomes} == {"completed"}
    assert {outcome.forecast_at for outcome in outcomes} == {CAPTURED_AT}


def test_async_experiments_run_side_by_side(run_over: RunOver) -> None:
    together = 0
    most = 0

    async def wait(market: Market, context: PipelineContext) -> ExperimentResult:
        nonlocal together, most
        together += 1
        most = max(most, together)
        await asyncio.sleep(0.01)
        together -= 1
        return copy_price(market, context)

    outcomes = run_over(Async(wait), MARKETS, max_concurrency=3)
    assert [outcome.probability for outcome in outcomes] == [number / 10 for number in range(1, 10)]
    assert most == 3


@pytest.mark.parametrize(("shared_by", "own"), [(2, 2), (3, 1), (8, 1)])
def test_processes_share_the_calls_under_way(run_over: RunOver, shared_by: int, own: int) -> None:
    under_way, most = list[str](), 0

    async def wait(market: Market, context: PipelineContext) -> ExperimentResult:
        nonlocal most
        under_way.append(market.market_id)
        most = max(most, len(under_way))
        await asyncio.sleep(0)
        under_way.remove(market.market_id)
        return copy_price(market, context)

    run_over(Async(wait), MARKETS, max_concurrency=5, shared_by=shared_by)
    assert most == own


def test_sync_experiments_run_side_by_side_up_to_the_bound(run_over: RunOver) -> None:
    # Passes only if three calls are in the barrier at once; a fourth would break the next round.
    barrier = threading.Barrier(3, timeout=5)

    def meet(market: Market, context: PipelineContext) -> ExperimentResult:
        barrier.wait()
        return EVEN

    assert {outcome.status for outcome in run_over(Sync(meet), MARKETS, max_concurrency=3)} == {"completed"}


def test_calls_that_turn_slow_are_made_side_by_side_from_then_on(run_over: RunOver) -> None:
    barrier, quick = threading.Barrier(3, timeout=5), 600
    markets = [make_market(str(number)) for number in range(quick + 3)]

    def meet(market: Market, context: PipelineContext) -> ExperimentResult:
        if int(market.market_id) >= quick:
            barrier.wait()
        return EVEN

    assert {outcome.status for outcome in run_over(Sync(meet), markets, max_concurrency=3)} == {"completed"}


def test_calls_that_turn_quick_are_left_to_one_thread(run_over: RunOver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_QUICK_S", 60.0)  # however busy this machine is, all but the first three are quick
    monkeypatch.setattr(runner, "_BUSY", -1.0)
    monkeypatch.setattr(calls, "_SERIES_S", 0.0)
    barrier, threads = threading.Barrier(3, timeout=5), dict[str, int]()
    markets = [make_market(str(number)) for number in range(300)]

    def meet(market: Market, context: PipelineContext) -> ExperimentResult:
        threads[market.market_id] = threading.get_ident()
        if int(market.market_id) < 3:
            barrier.wait()
            monkeypatch.setattr(runner, "_LOOK_S", 60.0)
        return EVEN

    assert {outcome.status for outcome in run_over(Sync(meet), markets, max_concurrency=3)} == {"completed"}
    first, others = list(threads.values())[:3], list(threads.values())[6:]
    assert len(set(first)) == 3
    assert len(set(others)) == 1


def test_quick_calls_are_made_by_one_thread(run_over: RunOver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_LOOK_S", 60.0)  # however busy this machine is
    threads = set()

    def note(market: Market, context: PipelineContext) -> ExperimentResult:
        threads.add(threading.get_ident())
        return EVEN

    assert {outcome.status for outcome in run_over(Sync(note), MARKETS, max_concurrency=3)} == {"completed"}
    assert len(threads) == 1


def test_an_experiments_own_bound_comes_first(run_over: RunOver) -> None:
    class OneAtATime(Sync):
        max_concurrency = 1

    busy = threading.Lock()

    def alone(market: Market, context: PipelineContext) -> ExperimentResult:
        assert busy.acquire(blocking=False)
        time.sleep(0.001)
        busy.release()
        return EVEN

    assert {outcome.status for outcome in run_over(OneAtATime(alone), MARKETS)} == {"completed"}


def test_the_core_sample_is_run_first(run_over: RunOver) -> None:
    order: list[str] = []
    markets = [make_market("1"), make_market("2", core=True), make_market("3"), make_market("4", core=True)]

    def note(market: Market, context: PipelineContext) -> ExperimentResult:
        order.append(market.market_id)
        return EVEN

    outcomes = run_over(Sync(note), markets, max_concurrency=1)
    assert order == ["2", "4", "1", "3"]
    assert [outcome.market_id for outcome in outcomes] == ["1", "2", "3", "4"]


def _asked(
    run_over: RunOver, markets: list[Market], limit: int | None, **options: Any
) -> tuple[list[str], list[Outcome]]:
    """Ids of the markets that were asked about, in that order, and the outcomes."""
    order: list[str] = []

    def note(market: Market, context: PipelineContext) -> ExperimentResult:
        order.append(market.market_id)
        return EVEN

    experiment = Sync(note)
    experiment.max_markets, experiment.max_concurrency = limit, 1
    return order, run_over(experiment, markets, **options)


@pytest.mark.parametrize(
    ("information", "market_data", "reason"),
    [
        ("search", False, NO_SEARCH),
        ("search_blind", False, NO_SEARCH),
        ("market", True, NO_BOOK),
        ("blind", False, None),
    ],
)
def test_who_would_see_what_came_later_is_not_asked_about_reconstructed_markets(
    run_over: RunOver, information: Information, market_data: bool, reason: str | None
) -> None:
    asked: list[str] = []

    def note(market: Market, context: PipelineContext) -> ExperimentResult:
        asked.append(market.market_id)
        return EVEN

    tested = Sync(note)
    tested.information, tested.market_data = information, market_data
    afterwards = [
        market.model_copy(update={"reconstructed_as_of": CAPTURED_AT - timedelta(days=9)}) for market in MARKETS[:3]
    ]
    outcomes = run_over(tested, [*afterwards, *MARKETS[3:]])
    assert [one.reason for one in outcomes] == [reason] * 3 + [None] * 6
    assert len(asked) == (9 if reason is None else 6)


def test_past_the_limit_markets_are_skipped_by_name(run_over: RunOver) -> None:
    markets = [make_market(str(number), core=number % 9 == 0) for number in range(1000, 2200)]
    order, outcomes = _asked(run_over, markets, 200)
    assert len(order) == 200
    assert set(order) >= {market.market_id for market in markets if market.core}
    skipped = [one for one in outcomes if one.status == "skipped"]
    assert {one.reason for one in skipped} == {"budget: markets = 200 of this day's 1,200"}
    assert {one.market_id for one in skipped} == {market.market_id for market in markets} - set(order)


def test_a_larger_limit_adds_markets_and_takes_none_away(run_over: RunOver) -> None:
    markets = [make_market(str(number)) for number in range(100)]
    few, _ = _asked(run_over, markets, 10)
    shuffled = random.Random(1).sample(markets, len(markets))
    more, _ = _asked(run_over, shuffled, 20)
    assert more[:10] == few
    all_of_them, _ = _asked(run_over, markets, 1_000)
    assert all_of_them[:20] == more


def test_after_the_core_come_markets_of_all_categories_and_prices(run_over: RunOver) -> None:
    sports = [make_market(f"s{number}", category="sports") for number in range(500)]
    rare = [make_market(f"r{number}", category="science", price=0.5 + number / 10) for number in range(3)]
    order, _ = _asked(run_over, [*sports, *rare], 60)
    assert {"r0", "r1", "r2"} <= set(order)


def test_another_snapshot_draws_another_sample(run_over: RunOver) -> None:
    markets = [make_market(str(number)) for number in range(100)]
    first, _ = _asked(run_over, markets, 10)
    other, _ = _asked(run_over, markets, 10, run=dataclasses.replace(make_run(), snapshot_hash="1" * 64))
    assert set(first) != set(other)


def test_what_is_journalled_counts_and_is_not_lost_when_the_limit_is_lowered(run_over: RunOver, tmp_path: Path) -> None:
    markets = [make_market(str(number)) for number in range(30)]

    def journal(writer: str) -> Journal:
        return Journal(StagingArea(str(tmp_path)), JournalKey("day", "tested", "1", "c", "h"), writer)

    first, _ = _asked(run_over, markets, 10, journal=journal("a"))
    second, outcomes = _asked(run_over, markets, 15, journal=journal("b"))
    assert len(first) == 10
    assert len(second) == 5
    assert not set(first) & set(second)
    third, outcomes = _asked(run_over, markets, 5, journal=journal("c"))
    assert third == []
    assert sum(one.status == "completed" for one in outcomes) == 15
    fourth, outcomes = _asked(run_over, markets, None, journal=journal("d"))
    assert len(fourth) == 15
    assert {one.status for one in outcomes} == {"completed"}


def test_an_event_is_asked_about_as_a_whole_or_not_at_all(run_over: RunOver) -> None:
    markets = [make_market(f"{event}-{number}", event_id=str(event)) for event in range(8) for number in range(3)]
    asked: list[int] = []

    def note(markets: Sequence[Market], contexts: Mapping[str, PipelineContext]) -> Any:
        asked.append(len(markets))
        return {market.market_id: EVEN for market in markets}

    experiment = Events(note)
    experiment.max_markets = 10
    outcomes = run_over(experiment, markets)
    assert asked == [3, 3, 3]
    assert sum(one.status == "completed" for one in outcomes) == 9


def test_of_the_cohort_in_one_call_only_the_first_are_asked_about(run_over: RunOver) -> None:
    markets = [make_market(str(number), core=number == 7) for number in range(10)]
    asked: list[list[str]] = []

    def note(markets: Sequence[Market], contexts: Mapping[str, PipelineContext]) -> Any:
        asked.append([market.market_id for market in markets])
        return {market.market_id: EVEN for market in markets}

    experiment = Cohort(note)
    experiment.max_markets = 4
    outcomes = run_over(experiment, markets)
    (ids,) = asked
    assert len(ids) == 4
    assert "7" in ids
    assert [one.market_id for one in outcomes if one.status == "completed"] == ids


def test_it_can_be_run_inside_a_running_event_loop(run_over: RunOver) -> None:
    async def body() -> list[Outcome]:
        return run_over(Sync(copy_price), MARKETS)

    assert len(asyncio.run(body())) == len(MARKETS)


class CustomPermanentError(PermanentError):
    pass


class CustomTransientError(TransientError):
    pass


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("error", "reason", "exception_type", "retriable"),
    [
        (ValueError("no idea"), "ValueError: no idea", "ValueError", False),
        (KeyError("x"), "KeyError: 'x'", "KeyError", False),
        (ValueError(), "ValueError", "ValueError", False),
        (RetriableError("busy"), "RetriableError: busy", "RetriableError", True),
        (CustomTransientError("away"), "CustomTransientError: away", "CustomTransientError", True),
        (CustomPermanentError("set X"), "CustomPermanentError: set X", "CustomPermanentError", False),
        (SystemExit(3), "SystemExit: 3", "SystemExit", False),
        (KeyboardInterrupt(), "KeyboardInterrupt", "KeyboardInterrupt", False),
        (StopIteration(), "StopIteration", "StopIteration", False),
        (Unprintable(), "Unprintable: (its message cannot be shown)", "Unprintable", False),
        (TimeoutError("its own"), "TimeoutError: its own", "TimeoutError", False),
    ],
)
def test_any_exception_is_a_failure_of_that_market_alone(
    run_over: RunOver, error: BaseException, reason: str, exception_type: str, retriable: bool
) -> None:
    def fail_on_three(market: Market, context: PipelineContext) -> ExperimentResult:
        if market.market_id == "3":
            raise error
        return EVEN

    outcomes = {outcome.market_id: outcome for outcome in run_over(Sync(fail_on_three), MARKETS)}
    failed = outcomes.pop("3")
    assert (failed.status, failed.reason) == ("failed", reason)
    assert (failed.exception_type, failed.retriable) == (exception_type, retriable)
    assert (failed.probability, failed.probabilities, failed.forecast_at) == (None, None, None)
    assert {outcome.status for outcome in outcomes.values()} == {"completed"}


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(1), KeyboardInterrupt(), asyncio.CancelledError()])
def test_an_exception_of_async_code_is_a_failure_as_well(run_over: RunOver, error: BaseException) -> None:
    async def fail(market: Market, context: PipelineContext) -> ExperimentResult:
        await asyncio.sleep(0)
        raise error

    outcomes = run_over(Async(fail), MARKETS)
    assert {outcome.status for outcome in outcomes} == {"failed"}
    assert len(outcomes) == len(MARKETS)


def test_a_skip_is_no_failure(run_over: RunOver) -> None:
    (outcome,) = run_over(Sync(raising(ExperimentSkip("not my field"))), MARKETS[:1])
    assert (outcome.status, outcome.reason, outcome.exception_type) == ("skipped", "not my field", None)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (0.5, "ResultRefused: the answer is a float, not an ExperimentResult"),
        (None, "ResultRefused: the answer is a NoneType"),
        (ExperimentResult(probabilities=(0.2, 0.3, 0.5)), "ResultRefused: 3 probabilities for 2 outcomes (Yes, No)"),
        (ExperimentResult.binary(0.5, payload={"x": math.nan}), "ResultRefused: payload.x is nan"),
    ],
)
def test_an_answer_that_is_no_result_is_a_failure(run_over: RunOver, value: Any, reason: str) -> None:
    (outcome,) = run_over(Sync(lambda market, context: value), MARKETS[:1])
    assert outcome.status == "failed"
    assert outcome.reason is not None
    assert outcome.reason.startswith(reason)
    assert outcome.exception_type == "ResultRefused"


def test_probabilities_that_are_none_are_told_in_one_line(run_over: RunOver) -> None:
    (outcome,) = run_over(Sync(lambda market, context: ExperimentResult.binary(1.5)), MARKETS[:1])
    assert outcome.reason == (
        "ValidationError: probabilities: Value error, probabilities must be finite and in [0, 1], got (1.5, -0.5)"
    )


def test_a_reason_is_one_short_line_without_secrets(run_over: RunOver) -> None:
    message = "key sk-123\n\tis\0 wrong \ud800" + "x" * 1000
    (outcome,) = run_over(
        Sync(raising(ValueError(message))), MARKETS[:1], redact=lambda text: text.replace("sk-123", "***")
    )
    assert outcome.reason is not None
    assert outcome.reason.startswith("ValueError: key *** is? wrong ?xxx")
    assert len(outcome.reason) == MAX_REASON
    assert Outcome.decode(outcome.encode()) == outcome


def test_a_secret_cut_in_half_does_not_survive(run_over: RunOver) -> None:
    secret = "s" * 40
    message = "x" * (MAX_REASON - 32) + secret
    (outcome,) = run_over(
        Sync(raising(ValueError(message))), MARKETS[:1], redact=lambda text: text.replace(secret, "***")
    )
    assert outcome.reason is not None
    assert "ss" not in outcome.reason


def test_the_traceback_is_in_the_debug_log_without_secrets(run_over: RunOver, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        run_over(Sync(raising(ValueError("key sk-1"))), MARKETS[:1], redact=lambda text: text.replace("sk-1", "***"))
    (record,) = [record for record in caplog.records if "Traceback" in record.getMessage()]
    assert "ValueError: key ***" in record.getMessage()
    assert "sk-1" not in record.getMessage()
    assert record.__dict__["market_id"] == "1"


# Time limits


def test_a_sync_call_over_its_limit_is_left_behind(run_over: RunOver, release: threading.Event) -> None:
    def hang_on_three(market: Market, context: PipelineContext) -> ExperimentResult:
        if market.market_id == "3":
            release.wait(30)
        return EVEN

    started = time.monotonic()
    outcomes = run_over(Sync(hang_on_three), MARKETS, timeout_s=0.2, max_concurrency=2)
    assert time.monotonic() - started < 5
    assert [outcome.market_id for outcome in outcomes if outcome.status == "failed"] == ["3"]
    assert outcomes[2].reason == "CallTimedOut: no answer within 0.2 s"
    assert outcomes[2].retriable


def test_a_late_answer_is_discarded(run_over: RunOver, release: threading.Event) -> None:
    answered = threading.Event()

    def answer_late(market: Market, context: PipelineContext) -> ExperimentResult:
        if market.market_id == "1":
            release.wait(30)
            answered.set()
        elif market.market_id == "9":  # by now the first has been given up
            release.set()
            assert answered.wait(5)
        return EVEN

    outcomes = run_over(Sync(answer_late), MARKETS, timeout_s=0.2, max_concurrency=1)
    assert outcomes[0].status == "failed"
    assert {outcome.status for outcome in outcomes[1:]} == {"completed"}


def test_what_quick_calls_answered_before_a_run_was_cancelled_is_journalled(
    release: threading.Event, tmp_path: Path
) -> None:
    reached = threading.Event()

    def hang_on_four(market: Market, context: PipelineContext) -> ExperimentResult:
        if market.market_id == "4":
            reached.set()
            release.wait(5)
        return EVEN

    def journal() -> Journal:
        return Journal(StagingArea(str(tmp_path)), JournalKey("day", "tested", "1", "snapshot", "config"), "writer")

    async def cancelled() -> None:
        running = asyncio.create_task(
            run_experiment(
                Sync(hang_on_four),
                MARKETS,
                run=make_run(),
                clock=FixedClock(CAPTURED_AT),
                journal=journal(),
                max_concurrency=1,
            )
        )
        await asyncio.to_thread(reached.wait, 5)
        running.cancel()
        await asyncio.wait({running})
        assert running.cancelled()

    asyncio.run(cancelled())
    assert sorted(journal().load()) == ["1", "2", "3"]


def test_what_a_call_sets_in_its_context_is_not_seen_by_the_next_one(run_over: RunOver) -> None:
    shared = contextvars.ContextVar("shared", default=0.5)

    def told(market: Market, context: PipelineContext) -> ExperimentResult:
        seen = shared.get()
        shared.set(1.0)
        return ExperimentResult.binary(seen)

    assert {outcome.probability for outcome in run_over(Sync(told), MARKETS, max_concurrency=1)} == {0.5}


def test_an_async_call_over_its_limit_is_cancelled(run_over: RunOver) -> None:
    cancelled = []

    async def hang(market: Market, context: PipelineContext) -> ExperimentResult:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.append(market.market_id)
            raise
        return EVEN

    outcomes = run_over(Async(hang), MARKETS[:2], timeout_s=0.02)
    assert sorted(cancelled) == ["1", "2"]
    assert {(outcome.exception_type, outcome.retriable) for outcome in outcomes} == {("CallTimedOut", True)}


def test_async_code_that_refuses_to_end_does_not_hold_up_the_run(
    run_over: RunOver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "_GRACE_S", 0.02)
    monkeypatch.setattr(runner, "_CLEANUP_S", 0.02)
    enough = threading.Event()

    async def refuse(market: Market, context: PipelineContext) -> ExperimentResult:
        while not enough.is_set():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                continue
        return EVEN

    (outcome,) = run_over(Async(refuse), MARKETS[:1], timeout_s=0.02)
    enough.set()
    assert outcome.exception_type == "CallTimedOut"
    _join_threads("experiment")


def test_an_experiments_own_limit_comes_first(run_over: RunOver) -> None:
    class Quick(Async):
        timeout_seconds = 0.02

    async def hang(market: Market, context: PipelineContext) -> ExperimentResult:
        await asyncio.sleep(30)
        return EVEN

    (outcome,) = run_over(Quick(hang), MARKETS[:1], timeout_s=60)
    assert outcome.reason == "CallTimedOut: no answer within 0.02 s"


def test_an_experiment_that_always_hangs_is_given_up(
    run_over: RunOver, release: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "OVERDUE_LIMIT", 2)

    def hang(market: Market, context: PipelineContext) -> ExperimentResult:
        release.wait(30)
        return EVEN

    outcomes = run_over(Sync(hang), MARKETS, timeout_s=0.02, max_concurrency=1)
    assert [outcome.exception_type for outcome in outcomes] == ["CallTimedOut"] * 2 + [None] * 7
    assert outcomes[-1].reason is not None
    assert "2 calls of this experiment are still running" in outcomes[-1].reason
    assert all(outcome.retriable for outcome in outcomes)


def test_a_call_that_ended_late_no_longer_counts_as_hung(
    run_over: RunOver, release: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "OVERDUE_LIMIT", 2)
    first, ended = threading.Event(), threading.Event()

    def answer(market: Market, context: PipelineContext) -> ExperimentResult:
        match market.market_id:
            case "1":
                first.wait(30)
                ended.set()
            case "2":
                first.set()
                assert ended.wait(5)
                time.sleep(0.01)  # for the late answer to reach the event loop
            case "3":
                release.wait(30)
        return EVEN

    outcomes = run_over(Sync(answer), MARKETS[:4], timeout_s=0.2, max_concurrency=1)
    assert [outcome.status for outcome in outcomes] == ["failed", "completed", "failed", "completed"]


def test_a_call_for_an_event_has_the_same_limit(run_over: RunOver, release: threading.Event) -> None:
    def hang(markets: Sequence[Market], contexts: Mapping[str, PipelineContext]) -> dict[str, ExperimentResult]:
        release.wait(30)
        return {}

    outcomes = run_over(Events(hang), EVENT, timeout_s=0.02)
    assert {outcome.reason for outcome in outcomes} == {"CallTimedOut: no answer within 0.02 s"}


def test_when_the_experiments_time_is_up_the_rest_is_not_tried(run_over: RunOver) -> None:
    outcomes = run_over(Sync(copy_price), MARKETS, time_budget_s=0.0)
    assert {(outcome.status, outcome.retriable) for outcome in outcomes} == {("failed", True)}
    assert outcomes[0].reason == "not tried: the experiment's time was up"


def test_a_slow_call_after_quick_ones_is_waited_for_when_the_time_is_up(run_over: RunOver) -> None:
    asked: list[str] = []

    def slow_at_the_second(market: Market, context: PipelineContext) -> ExperimentResult:
        asked.append(market.market_id)
        if len(asked) == 2:
            threading.Event().wait(0.6)  # the first one's answer is handed on before, and the time is up
        return EVEN

    outcomes = run_over(Sync(slow_at_the_second), MARKETS, max_concurrency=1, time_budget_s=0.2)
    told = {outcome.market_id: outcome.status for outcome in outcomes}
    assert [told[one] for one in asked] == ["completed", "completed"]
    assert len(asked) == 2 < len(told)


def test_a_sync_run_that_hands_out_a_coroutine_is_awaited(run_over: RunOver) -> None:
    async def later() -> ExperimentResult:
        return EVEN

    (outcome,) = run_over(Sync(lambda market, context: later()), MARKETS[:1])
    assert outcome.status == "completed"


# What an experiment is given


def given_context(run_over: RunOver, experiment: type[Sync], markets: list[Market], **options: Any) -> Any:
    """Market and context that the first market's call was given."""
    seen: dict[str, Any] = {}

    def look(market: Market, context: PipelineContext) -> ExperimentResult:
        seen[market.market_id] = (market, context)
        return EVEN

    outcomes = run_over(experiment(look), markets, **options)
    assert {outcome.status for outcome in outcomes} == {"completed"}
    return seen[markets[0].market_id]


SETTLED = SettledMarket(
    market_id="old",
    question="?",
    category="other",
    close_time=CAPTURED_AT - timedelta(days=3),
    outcome=1.0,
    price=0.7,
    settled_at=CAPTURED_AT - timedelta(days=2),
)
EVENT = [make_market(str(number), price=0.3, event_id="e", price_24h_ago=0.3) for number in range(3)]


def test_the_context_has_the_run_the_clock_the_siblings_and_the_history(run_over: RunOver) -> None:
    market, context = given_context(run_over, Sync, EVENT, history=lambda as_of: [SETTLED])
    assert market == EVENT[0]
    assert context.run == make_run()
    assert context.clock.now() == CAPTURED_AT
    assert [sibling.market_id for sibling in context.siblings] == ["1", "2"]
    assert list(context.history()) == [SETTLED]
    assert context.logger.extra["market_id"] == "0"
    assert context.logger.extra["process_stage"] == f"experiment_results/{context.logger.extra['experiment']}"


def test_the_history_is_asked_for_once_for_all_markets(run_over: RunOver) -> None:
    asked: list[datetime] = []

    def history(as_of: datetime) -> list[SettledMarket]:
        asked.append(as_of)
        return [SETTLED]

    def known(_: Market, context: PipelineContext) -> ExperimentResult:
        return ExperimentResult.binary(0.5, payload={"known": len(list(context.history()))})

    outcomes = run_over(Sync(known), MARKETS, history=history, max_concurrency=8)

    assert [outcome.payload for outcome in outcomes] == [{"known": 1}] * len(MARKETS)
    assert asked == [CAPTURED_AT]


def test_every_market_is_given_the_one_cohort(run_over: RunOver) -> None:
    cohorts: list[Sequence[Market]] = []

    def look(_: Market, context: PipelineContext) -> ExperimentResult:
        cohorts.append(context.cohort)
        return EVEN

    run_over(Sync(look), MARKETS, max_concurrency=4)
    assert list(cohorts[0]) == MARKETS
    assert len({id(cohort) for cohort in cohorts}) == 1


def test_what_is_made_once_is_made_once_for_all_markets(run_over: RunOver) -> None:
    made: list[str] = []

    def look(market: Market, context: PipelineContext) -> ExperimentResult:
        def make() -> str:
            made.append(market.market_id)
            time.sleep(0.01)  # the others arrive meanwhile
            return market.market_id

        return ExperimentResult.binary(0.5, payload={"made_for": context.memo("thing", make)})

    outcomes = run_over(Sync(look), MARKETS, max_concurrency=8)
    assert len(made) == 1
    assert [outcome.payload for outcome in outcomes] == [{"made_for": made[0]}] * len(MARKETS)
    run_over(Sync(look), MARKETS)
    assert len(made) == 2, "another run makes it anew"


def test_what_could_not_be_made_is_tried_for_the_next_market(run_over: RunOver) -> None:
    tries: list[str] = []

    def look(market: Market, context: PipelineContext) -> ExperimentResult:
        def make() -> int:
            tries.append(market.market_id)
            if len(tries) == 1:
                raise ValueError("not yet")
            return 7

        return ExperimentResult.binary(0.5, payload={"made": context.memo("thing", make)})

    outcomes = run_over(Sync(look), MARKETS, max_concurrency=1)
    assert [outcome.status for outcome in outcomes] == ["failed"] + ["completed"] * (len(MARKETS) - 1)
    assert len(tries) == 2


def test_a_blind_experiment_sees_no_price_of_any_kind(run_over: RunOver) -> None:
    market, context = given_context(run_over, Blind, EVENT, history=lambda as_of: [SETTLED])
    assert len(context.cohort) == len(EVENT)
    for shown in (market, *context.siblings, *context.cohort):
        assert shown.price_24h_ago is None
        assert shown.price.model_dump(exclude={"source", "quality"}) == {
            "value": None,
            "bid": None,
            "ask": None,
            "at": None,
        }
        assert {contract.price for contract in shown.contracts} == {None}
    assert [settled.price for settled in context.history()] == [None]
    assert [settled.outcome for settled in context.history()] == [1.0]
    assert "0.3" not in repr((market, context, context.cohort))


def test_one_that_searches_without_prices_sees_none(run_over: RunOver) -> None:
    class Searching(Sync):
        information = "search_blind"

    market, context = given_context(run_over, Searching, EVENT)
    assert market.price.value is None
    assert "0.3" not in repr((market, context, context.cohort))


def test_a_blind_event_experiment_sees_no_price_either(run_over: RunOver) -> None:
    class BlindEvents(Events):
        information = "blind"

    def look(markets: Sequence[Market], contexts: Mapping[str, PipelineContext]) -> dict[str, ExperimentResult]:
        assert "0.3" not in repr((markets, contexts))
        return {market.market_id: EVEN for market in markets}

    assert {outcome.status for outcome in run_over(BlindEvents(look), EVENT)} == {"completed"}


def test_the_context_has_no_settings(run_over: RunOver) -> None:
    """A forecast would depend on what neither version nor configuration names."""
    _, context = given_context(run_over, Sync, EVENT)
    assert not hasattr(context, "settings")


def test_usage_is_kept_of_every_call_that_knows_it(run_over: RunOver) -> None:
    def use(market: Market, context: PipelineContext) -> ExperimentResult:
        usage = Usage(requests=1, cost=Decimal("0.25"), model="m-sk-1")
        match market.market_id:
            case "1":
                raise ExperimentSkip("it refused", usage=usage)
            case "2":
                raise RetriableError("no answer", usage=usage)
            case "3":
                raise ValueError("no")
        return ExperimentResult.binary(0.5, usage=usage)

    outcomes = run_over(Sync(use), MARKETS[:4], redact=lambda text: text.replace("sk-1", "***"))
    kept = Usage(requests=1, cost=Decimal("0.25"), model="m-***")
    assert [outcome.usage for outcome in outcomes] == [kept, kept, None, kept]
    assert [Outcome.decode(outcome.encode()) for outcome in outcomes] == outcomes


def test_the_random_generator_is_the_same_in_every_run_and_differs_by_market(run_over: RunOver) -> None:
    def draw(market: Market, context: PipelineContext) -> ExperimentResult:
        return ExperimentResult.binary(context.rng.random())

    first = [outcome.probability for outcome in run_over(Sync(draw), MARKETS)]
    random.seed(99)
    again = [outcome.probability for outcome in run_over(Sync(draw), MARKETS[::-1])][::-1]
    assert first == again
    assert len(set(first)) == len(first)


def test_artifacts_are_kept_apart_by_experiment_version_and_market(run_over: RunOver) -> None:
    stored: dict[str, bytes] = {}

    def store(path: str, content: bytes) -> str:
        stored[path] = content
        return f"s3://place/{path}"

    def draw(market: Market, context: PipelineContext) -> ExperimentResult:
        return ExperimentResult.binary(0.5, artifact_uri=context.artifact("notes/a.txt", b"seen"))

    (outcome,) = run_over(Sync(draw), MARKETS[:1], artifacts=store)
    name = f"tested/1/{sha256(b'1').hexdigest()[:32]}/notes/a.txt"
    assert stored == {name: b"seen"}
    assert outcome.artifact_uri == f"s3://place/{name}"


@pytest.mark.parametrize("market_id", ["../../../outside", "/outside", "..", "a/b", "x" * 5_000, "\x1b[2J\n", "C:\\x"])
def test_no_id_of_the_exchange_names_a_folder(run_over: RunOver, tmp_path: Path, market_id: str) -> None:
    def leave_more(market: Market, context: PipelineContext) -> ExperimentResult:
        return ExperimentResult.binary(0.5, artifact_uri=context.artifact("a.json", market.market_id.encode()))

    area = StagingArea(str(tmp_path / "staging"))
    (outcome,) = run_over(Sync(leave_more), [make_market(market_id)], artifacts=area.write_bytes)
    (left,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert left.relative_to(tmp_path).parts[:3] == ("staging", "tested", "1")
    assert left.as_posix() == outcome.artifact_uri.removeprefix("file://")
    assert left.read_bytes() == market_id.encode()


@pytest.mark.parametrize("name", ["../up", "/etc/x", "", "a/../../b"])
def test_an_artifact_stays_in_its_place(run_over: RunOver, name: str) -> None:
    def climb(market: Market, context: PipelineContext) -> ExperimentResult:
        context.artifact(name, b"")
        return EVEN

    (outcome,) = run_over(Sync(climb), MARKETS[:1], artifacts=lambda path, content: path)
    assert outcome.reason is not None
    assert "needs a relative name" in outcome.reason


# Requirements


class Dependent(Sync):
    requires = ("first",)


def test_required_results_are_handed_over(run_over: RunOver) -> None:
    def use(market: Market, context: PipelineContext) -> ExperimentResult:
        return context.required["first"]

    given = ExperimentResult.binary(0.3, payload={"a": 1})
    first = completed(MARKETS[0], given, forecast_at=CAPTURED_AT, seconds=0.1)
    (outcome,) = run_over(Dependent(use), MARKETS[:1], required={"first": {"1": first}})
    assert (outcome.probability, outcome.payload) == (0.3, {"a": 1})


@pytest.mark.parametrize(
    ("required", "reason"),
    [
        ({}, "requires first, which was not run for this market"),
        ({"first": {}}, "requires first, which was not run for this market"),
        (
            {"first": {"1": Outcome(market_id="1", status="failed", reason="OSError: x")}},
            "requires first, which failed: OSError: x",
        ),
        (
            {"first": {"1": Outcome(market_id="1", status="skipped", reason="dull")}},
            "requires first, which skipped: dull",
        ),
    ],
)
def test_a_market_without_a_required_result_is_skipped_without_a_call(
    run_over: RunOver, required: Any, reason: str
) -> None:
    (outcome,) = run_over(Dependent(raising(AssertionError("called"))), MARKETS[:1], required=required)
    assert (outcome.status, outcome.reason) == ("skipped", reason)


# Events


def test_an_events_markets_are_forecast_together(run_over: RunOver) -> None:
    calls_made: list[list[str]] = []

    def share(markets: Sequence[Market], contexts: Mapping[str, PipelineContext]) -> dict[str, ExperimentResult]:
        calls_made.append([market.market_id for market in markets])
        assert set(contexts) == {market.market_id for market in markets}
        return {market.market_id: ExperimentResult.binary(1 / len(markets)) for market in markets}

    markets = [make_market("a", event_id="x"), make_market("b"), make_market("c", event_id="x"), make_market("d")]
    outcomes = run_over(Events(share), markets, max_concurrency=1)
    assert calls_made == [["a", "c"], ["b"], ["d"]]
    assert [outcome.probability for outcome in outcomes] == [0.5, 1.0, 0.5, 1.0]


def test_each_market_of_an_events_answer_stands_for_itself(run_over: RunOver, caplog: pytest.LogCaptureFixture) -> None:
    answer = {"a": EVEN, "b": ExperimentSkip("dull"), "c": 0.5, "zzz": EVEN, "e": RetriableError("busy")}
    markets = [make_market(name, event_id="x") for name in "abcde"]
    a, b, c, d, e = run_over(Events(lambda markets, contexts: answer), markets)
    assert (a.status, b.status, c.status, d.status) == ("completed", "skipped", "failed", "failed")
    assert b.reason == "dull"
    assert c.reason == "ResultRefused: the answer is a float, not an ExperimentResult"
    assert d.reason == "ResultRefused: run_event left this market out of its answer"
    assert (e.status, e.reason, e.retriable) == ("failed", "RetriableError: busy", True)
    assert "answered for markets that it was not asked about: zzz" in caplog.text


@pytest.mark.parametrize(
    ("answer", "reason"),
    [([], "ResultRefused: run_event returned a list, not a mapping by market id"), (None, "ResultRefused: run_event")],
)
def test_an_events_answer_of_another_type_fails_its_markets(run_over: RunOver, answer: Any, reason: str) -> None:
    outcomes = run_over(Events(lambda markets, contexts: answer), EVENT)
    assert all(outcome.status == "failed" and str(outcome.reason).startswith(reason) for outcome in outcomes)


def test_an_exception_fails_all_markets_of_the_event_and_no_other(run_over: RunOver) -> None:
    def fail(markets: Sequence[Market], contexts: Mapping[str, PipelineContext]) -> dict[str, ExperimentResult]:
        if len(markets) > 1:
            raise RetriableError("busy")
        return {market.market_id: EVEN for market in markets}

    outcomes = run_over(Events(fail), [*EVENT, make_market("alone")])
    assert [outcome.status for outcome in outcomes] == ["failed"] * 3 + ["completed"]
    assert all(outcome.retriable for outcome in outcomes[:3])


# The cohort


def test_the_cohort_is_forecast_in_one_call(run_over: RunOver) -> None:
    calls_made: list[list[str]] = []

    def rank(markets: Sequence[Market], contexts: Mapping[str, PipelineContext]) -> dict[str, ExperimentResult]:
        calls_made.append([market.market_id for market in markets])
        assert all(len(contexts[market.market_id].cohort) == len(markets) for market in markets)
        return {one.market_id: ExperimentResult.binary(place / 10) for place, one in enumerate(markets)}

    told: list[Progress] = []
    outcomes = run_over(Cohort(rank), [*EVENT, make_market("alone")], progress=told.append)
    assert calls_made == [[*(market.market_id for market in EVENT), "alone"]]
    assert [outcome.probability for outcome in outcomes] == [0.0, 0.1, 0.2, 0.3]
    assert (told[-1].completed, told[-1].total) == (4, 4)
    assert run_over(Cohort(rank), []) == []


def test_a_cohort_that_fails_fails_each_market_by_its_id(run_over: RunOver, release: threading.Event) -> None:
    def hang(markets: Sequence[Market], contexts: Mapping[str, PipelineContext]) -> Any:
        release.wait(30)

    def refuse(markets: Sequence[Market], contexts: Mapping[str, PipelineContext]) -> Any:
        raise KeyError("model")

    ids = [market.market_id for market in MARKETS]
    for function, reason, retriable in ((refuse, "KeyError: 'model'", False), (hang, "CallTimedOut: no answer", True)):
        outcomes = run_over(Cohort(function), MARKETS, timeout_s=0.2)
        assert [outcome.market_id for outcome in outcomes] == ids
        assert {(outcome.status, outcome.retriable) for outcome in outcomes} == {("failed", retriable)}
        assert all(str(outcome.reason).startswith(reason) for outcome in outcomes)


def test_a_market_that_a_cohorts_answer_leaves_out_has_failed_alone(run_over: RunOver) -> None:
    def answer(markets: Sequence[Market], contexts: Mapping[str, PipelineContext]) -> dict[str, ExperimentResult]:
        return {market.market_id: EVEN for market in markets[1:]}

    first, *others = run_over(Cohort(answer), MARKETS)
    assert (first.status, first.reason) == ("failed", "ResultRefused: run_cohort left this market out of its answer")
    assert {outcome.status for outcome in others} == {"completed"}


# Progress


def test_progress_is_told_at_the_beginning_and_at_the_end(run_over: RunOver) -> None:
    told: list[Progress] = []
    run_over(Sync(copy_price), MARKETS, progress=told.append)
    assert (told[0].done, told[0].total) == (0, 9)
    assert (told[-1].done, told[-1].completed, told[-1].failed, told[-1].resumed) == (9, 9, 0, 0)


def test_progress_is_told_while_a_call_takes_its_time(
    run_over: RunOver, release: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_PROGRESS_EVERY_S", 0.01)
    told: list[Progress] = []

    def report(progress: Progress) -> None:
        told.append(progress)
        if len(told) == 4:
            release.set()

    def wait(market: Market, context: PipelineContext) -> ExperimentResult:
        assert release.wait(5)
        return EVEN

    (outcome,) = run_over(Sync(wait), MARKETS[:1], progress=report)
    assert outcome.status == "completed"
    assert [progress.done for progress in told[:4]] == [0, 0, 0, 0]


def test_what_the_progress_callback_raises_ends_the_run(
    run_over: RunOver, release: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was taken over by another learns it there."""
    monkeypatch.setattr(runner, "_PROGRESS_EVERY_S", 0.01)

    def report(progress: Progress) -> None:
        if progress.seconds > 0.005:
            raise CustomPermanentError("taken over")

    def wait(market: Market, context: PipelineContext) -> ExperimentResult:
        release.wait(30)
        return EVEN

    with pytest.raises(CustomPermanentError, match="taken over"):
        run_over(Sync(wait), MARKETS, progress=report)


def log_and_fail(market: Market, context: PipelineContext) -> ExperimentResult:
    context.logger.warning("asked about %s", market.market_id)
    raise ValueError("no")


def answer_for_others(markets: Sequence[Market], contexts: Mapping[str, PipelineContext]) -> Any:
    return {"zzz": EVEN}


@pytest.mark.parametrize(
    ("experiment", "said"),
    [
        (Sync(log_and_fail), "asked about"),
        (Events(lambda markets, contexts: log_and_fail(markets[0], contexts[markets[0].market_id])), "asked about"),
        (Events(answer_for_others), "not asked about: zzz"),
    ],
)
def test_the_first_log_lines_go_to_the_given_logger_and_the_others_past_it(
    experiment: Experiment, said: str, run_over: RunOver, caplog: pytest.LogCaptureFixture
) -> None:
    """A logger that keeps each line in a transaction of its own must not be paid for once per market."""
    markets = [make_market(str(number)) for number in range(LOGGED_LINES + 70)]
    given = logging.getLogger("given")

    with caplog.at_level(logging.INFO):
        run_over(experiment, markets, logger=given)

    lines = [record for record in caplog.records if said in record.getMessage()]
    assert len(lines) == len(markets)
    assert {getattr(line, "market_id", None) for line in lines} == {market.market_id for market in markets}
    assert [line.name for line in lines].count("given") == LOGGED_LINES
    assert {line.name for line in lines} == {"given", FURTHER_LINES}
    assert not FURTHER_LINES.startswith("predictbench_assets"), "Dagster keeps every line of loggers below that"
    (hint,) = [record for record in caplog.records if "further lines" in record.getMessage()]
    assert hint.name == "given"


def test_a_failure_has_the_line_of_the_experiment_and_no_other_outcome_has(run_over: RunOver) -> None:
    def mixed(market: Market, context: PipelineContext) -> Any:
        match market.market_id:
            case "1":
                raise ValueError("no")
            case "2":
                raise ExperimentSkip("not this one")
            case "3":
                return "no result"
        return EVEN

    failed, skipped, refused, made = run_over(Sync(mixed), MARKETS[:4])
    line = mixed.__code__.co_firstlineno
    folder = "predictbench_assets_tests/unit/experiments/test_experiment_runner.py"
    assert failed.place == f"{folder}:{line + 3} in mixed"
    assert refused.place == f"{folder}:{Sync.run.__code__.co_firstlineno} in run"
    assert (skipped.place, made.place) == (None, None)
    assert len({outcome.source for outcome in (failed, skipped, refused, made)}) == 1


def test_a_group_of_errors_is_told_with_its_first_one(run_over: RunOver) -> None:
    async def gather(market: Market, context: PipelineContext) -> ExperimentResult:
        async with asyncio.TaskGroup() as group:
            group.create_task(give_up())
        return EVEN

    async def give_up() -> None:
        raise KeyError("price")

    (outcome,) = run_over(Async(gather), MARKETS[:1])
    assert outcome.reason == "ExceptionGroup: unhandled errors in a TaskGroup (1 sub-exception): KeyError: 'price'"
    assert outcome.place is not None
    assert outcome.place.endswith(f":{give_up.__code__.co_firstlineno + 1} in give_up")


def test_an_empty_cohort_is_no_problem(run_over: RunOver) -> None:
    assert run_over(Sync(copy_price), []) == []


def test_it_can_be_awaited_as_well() -> None:
    outcomes = asyncio.run(run_experiment(Sync(copy_price), MARKETS, run=make_run(), clock=FixedClock(CAPTURED_AT)))
    assert len(outcomes) == len(MARKETS)


def test_no_thread_is_left_after_a_run(run_over: RunOver) -> None:
    run_over(Sync(copy_price), MARKETS)
    _join_threads("tested-")


def _join_threads(prefix: str) -> None:
    """Wait for the threads of that name to end; fails the test if one does not."""
    for thread in threading.enumerate():
        if thread.name.startswith(prefix):
            thread.join(5)
            assert not thread.is_alive(), f"{thread.name} is still there, {sys._current_frames()[thread.ident or 0]}"


def test_more_calls_at_once_than_there_are_cost_nothing(run_over: RunOver) -> None:
    class Greedy(Sync):
        max_concurrency = 10**9

    assert {outcome.status for outcome in run_over(Greedy(lambda *_: EVEN), MARKETS)} == {"completed"}


class _Untouchable:
    """Raises whenever it is looked at."""

    def __str__(self) -> str:
        raise SystemExit(3)

    __hash__ = None  # type: ignore[assignment]


class _UntouchableError(_Untouchable, Exception):
    pass


class _UntouchableMapping(Mapping[str, Any]):
    def __getitem__(self, key: str) -> Any:
        raise SystemExit(3)

    def __iter__(self) -> Iterator[str]:
        raise SystemExit(3)

    def __len__(self) -> int:
        return 1


def _raise(error: BaseException) -> Any:
    raise error


@pytest.mark.parametrize(
    "answer",
    [
        lambda: _raise(_UntouchableError()),
        lambda: _raise(ExperimentSkip(_Untouchable())),  # type: ignore[arg-type]
        lambda: ExperimentResult.binary(0.5, payload={"x": {_Untouchable: _UntouchableMapping()}}),
        lambda: ExperimentResult.binary(0.5, payload={"x": _UntouchableMapping()}),
        lambda: _raise(type("E" * 300, (Exception,), {})()),
    ],
)
def test_an_answer_that_cannot_be_looked_at_costs_its_own_market(
    run_over: RunOver, answer: Callable[[], ExperimentResult]
) -> None:
    first, *others = run_over(Sync(lambda market, _: answer() if market.market_id == "1" else EVEN), MARKETS)
    assert first.status == "failed"
    assert len(first.exception_type or "") <= runner.MAX_TYPE_NAME
    assert {outcome.status for outcome in others} == {"completed"}


def test_an_answer_for_an_event_that_cannot_be_looked_at_costs_that_event(run_over: RunOver) -> None:
    class Events(Base):
        def run_event(self, markets: Sequence[Market], contexts: Mapping[str, PipelineContext]) -> Any:
            return _UntouchableMapping() if markets[0].market_id == "1" else {m.market_id: EVEN for m in markets}

    first, *others = run_over(Events(), MARKETS)
    assert first.reason == "ResultRefused: the answer cannot be read: SystemExit when it was looked at"
    assert {outcome.status for outcome in others} == {"completed"}


@dataclasses.dataclass
class _Ticking:
    """A clock that a second passes on whenever it is looked at."""

    seconds: int = 0

    def now(self) -> datetime:
        self.seconds += 1
        return CAPTURED_AT + timedelta(seconds=self.seconds)


@dataclasses.dataclass
class _MadeWhenLookedAt(Mapping[str, ExperimentResult]):
    ids: Sequence[str]
    clock: _Ticking

    def __getitem__(self, key: str) -> ExperimentResult:
        return ExperimentResult.binary(0.4, made_at=self.clock.now())

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __len__(self) -> int:
        return len(self.ids)


@pytest.mark.parametrize("unit", [Events, Cohort])
def test_answers_that_are_made_when_they_are_looked_at_are_not_of_the_future(
    run_over: RunOver, unit: type[Events]
) -> None:
    clock = _Ticking()
    outcomes = run_over(
        unit(lambda markets, _: _MadeWhenLookedAt([m.market_id for m in markets], clock)), MARKETS, clock=clock
    )
    assert {(outcome.status, outcome.reason) for outcome in outcomes} == {("completed", None)}


@pytest.mark.parametrize("error", [ExperimentSkip("no"), RuntimeError("broken")], ids=lambda one: type(one).__name__)
def test_what_a_call_held_is_let_go_though_it_raised(run_over: RunOver, error: Exception) -> None:
    held: list[weakref.ref[set[int]]] = []

    def answer(_: Market, __: PipelineContext) -> ExperimentResult:
        much = set(range(100))
        held.append(weakref.ref(much))
        raise type(error)(*error.args)

    gc.disable()  # a large day makes too few objects of other kinds for it to come by
    try:
        run_over(Sync(answer), MARKETS)
        assert [one() for one in held] == [None] * len(MARKETS)
    finally:
        gc.enable()
