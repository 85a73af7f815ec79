"""What an experiment opens around a run is there for every call, and closed whatever happens."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from predictbench_assets.clock import FixedClock
from predictbench_assets.experiments import (
    Experiment,
    ExperimentResult,
    Market,
    PipelineContext,
    RetriableError,
    RunMetadata,
    calls,
    runner,
)
from predictbench_assets.experiments.outcomes import Outcome
from predictbench_assets.experiments.runner import run_experiment
from predictbench_assets.experiments.testing import CAPTURED_AT, make_market, make_run

RunOver = Callable[..., list[Outcome]]
MARKETS = [make_market(str(number)) for number in range(5)]


class Opened(Experiment):
    """Notes when it is opened, asked and closed."""

    name = "opened"
    version = "1"
    description = "An experiment of the tests."

    def __init__(self, before: Any = None, after: Any = None) -> None:
        self.notes: list[str] = []
        self._before, self._after = before, after

    @asynccontextmanager
    async def opened(self, run: RunMetadata) -> AsyncIterator[None]:
        task = asyncio.current_task()
        if self._before is not None:
            await self._before()
        self.notes.append(f"open {run.window_days}")
        try:
            yield
        finally:
            assert asyncio.current_task() is task  # anyio's contexts insist on it
            self.notes.append("closed")
            if self._after is not None:
                await self._after()

    async def run(self, market: Market, context: PipelineContext) -> ExperimentResult:  # type: ignore[override]
        await asyncio.sleep(0)
        self.notes.append(market.market_id)
        return ExperimentResult.binary(0.5)


def test_an_experiment_is_opened_once_around_all_calls(run_over: RunOver) -> None:
    experiment = Opened()
    assert {one.status for one in run_over(experiment, MARKETS)} == {"completed"}
    first, *between, last = experiment.notes
    assert (first, sorted(between), last) == ("open 7", list("01234"), "closed")


def test_nothing_is_opened_where_nothing_is_asked(run_over: RunOver) -> None:
    experiment = Opened()
    experiment.requires = ("absent",)
    assert {one.status for one in run_over(experiment, MARKETS)} == {"skipped"}
    assert experiment.notes == []


class Waiting(Opened):
    """Is asked about one market after another, and has no answer to the last."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()

    async def run(self, market: Market, context: PipelineContext) -> ExperimentResult:  # type: ignore[override]
        if market is MARKETS[-1]:
            self.notes.append("asked")
            self.asked.set()
            await asyncio.Event().wait()
        return ExperimentResult.binary(0.5)


def test_it_is_closed_when_the_run_fails(run_over: RunOver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_PROGRESS_EVERY_S", 0.01)
    experiment = Waiting()

    def lost(progress: Any) -> None:
        if "asked" in experiment.notes:
            raise PermissionError("the run was taken over")

    with pytest.raises(PermissionError):
        run_over(experiment, MARKETS, progress=lost)
    assert experiment.notes == ["open 7", "asked", "closed"]


def test_it_is_closed_when_the_run_is_cancelled() -> None:
    experiment = Waiting()

    async def cancelled() -> None:
        running = asyncio.ensure_future(
            run_experiment(experiment, MARKETS, run=make_run(), clock=FixedClock(CAPTURED_AT))
        )
        await experiment.asked.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert experiment.notes == ["open 7", "asked", "closed"]

    asyncio.run(cancelled())


async def _fail() -> None:
    raise KeyError("API_KEY")


async def _busy() -> None:
    raise RetriableError("busy")


async def _leave() -> None:
    raise SystemExit(3)


async def _hang() -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        (_fail, "not tried: opened() failed: KeyError: 'API_KEY'"),
        (_busy, "not tried: opened() failed: RetriableError: busy"),
        (_leave, "not tried: opened() failed: SystemExit: 3"),
        (_hang, "not tried: opened() failed: CallTimedOut: not open within 0.2 s"),
    ],
)
def test_one_that_cannot_be_opened_fails_for_now(run_over: RunOver, before: Any, reason: str) -> None:
    experiment = Opened(before)
    found = run_over(experiment, MARKETS, timeout_s=0.2)
    assert {(one.status, one.reason, one.retriable) for one in found} == {("failed", reason, True)}
    assert all("test_lifetime.py:" in (one.place or "") for one in found)
    assert experiment.notes == []


@pytest.mark.parametrize(("after", "said"), [(_fail, "KeyError: 'API_KEY'"), (_hang, "not closed within 0.05 s")])
def test_what_goes_wrong_while_closing_costs_no_forecast(
    run_over: RunOver, after: Any, said: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "LEAVE_S", 0.05)
    with caplog.at_level(logging.WARNING):
        found = run_over(Opened(after=after), MARKETS)
    assert {one.status for one in found} == {"completed"}
    assert "opened was not closed: " in caplog.text
    assert said in caplog.text


def test_a_method_that_is_no_context_is_named(run_over: RunOver) -> None:
    class Wrong(Opened):
        def opened(self, run: RunMetadata) -> Any:
            return 3

    (found,) = run_over(Wrong(), MARKETS[:1])
    assert str(found.reason).startswith("not tried: opened() failed: TypeError: 'int' object does not support")
