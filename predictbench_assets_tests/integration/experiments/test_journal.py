import asyncio
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictbench_assets.clock import FixedClock
from predictbench_assets.experiments import runner
from predictbench_assets.experiments.builtin.controls import UniformExperiment
from predictbench_assets.experiments.builtin.pricing import DeviggedEventExperiment
from predictbench_assets.experiments.journal import Journal, JournalKey, JournalUnwritable
from predictbench_assets.experiments.outcomes import Outcome, completed
from predictbench_assets.experiments.protocol import (
    Experiment,
    ExperimentResult,
    ExperimentSkip,
    PipelineContext,
    RetriableError,
)
from predictbench_assets.experiments.runner import Progress, run_experiment, run_experiment_sync
from predictbench_assets.experiments.source import ExperimentSource
from predictbench_assets.experiments.testing import CAPTURED_AT, make_market, make_run
from predictbench_assets.markets.market import Market
from predictbench_assets.staging import StagingArea

KEY = JournalKey("2026-03-02_w7", "tested", "1", "a" * 64, "b" * 64)
MARKETS = [make_market(str(number)) for number in range(20)]


@pytest.fixture(params=["folder", "memory"])
def area(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StagingArea]:
    if request.param == "folder":
        yield StagingArea(str(tmp_path))
        return
    place = StagingArea(f"memory://{uuid4().hex}")
    yield place
    for name in place.list(""):
        place.delete(name)


@pytest.fixture
def folder(tmp_path: Path) -> StagingArea:
    return StagingArea(str(tmp_path))


def run(experiment: Experiment, markets: Sequence[Market], **options: Any) -> list[Outcome]:
    defaults: dict[str, Any] = {"run": make_run(), "clock": FixedClock(CAPTURED_AT)}
    return run_experiment_sync(experiment, markets, **(defaults | options))


class Recording(Experiment):
    """Notes each call, and answers with what it was made with."""

    name = "tested"
    version = "1"
    description = "An experiment of the tests."

    def __init__(self, answer: Callable[[Market], ExperimentResult] = lambda _: ExperimentResult.binary(0.5)) -> None:
        self.called: list[str] = []
        self._answer = answer

    def run(self, market: Market, context: PipelineContext) -> ExperimentResult:
        self.called.append(market.market_id)
        return self._answer(market)


def outcome(market_id: str, **fields: Any) -> Outcome:
    return Outcome(market_id=market_id, **({"status": "skipped", "reason": "dull"} | fields))


def append(journal: Journal, *groups: Sequence[Outcome]) -> None:
    async def append_and_close() -> None:
        await journal.append(groups)
        await journal.close()

    asyncio.run(append_and_close())


def segments(area: StagingArea) -> list[Path]:
    return sorted(Path(area.root).rglob("*.jsonl"))


def test_what_was_appended_is_loaded(area: StagingArea) -> None:
    forecast = ExperimentResult.binary(0.3, payload={"é": [1]})
    done = completed(make_market(market_id="1"), forecast, forecast_at=CAPTURED_AT, seconds=0.1)
    append(Journal(area, KEY, "first"), [done], [outcome("2"), outcome("3")])
    append(Journal(area, KEY, "second"), [outcome("4")])
    assert Journal(area, KEY, "third").load() == {
        "1": done,
        "2": outcome("2"),
        "3": outcome("3"),
        "4": outcome("4"),
    }


def test_a_cohorts_answer_is_one_line_and_not_asked_for_again(area: StagingArea) -> None:
    class Together(Recording):
        unit = "cohort"

        def run_cohort(
            self, markets: Sequence[Market], contexts: Mapping[str, PipelineContext]
        ) -> dict[str, ExperimentResult]:
            return {market.market_id: super(Together, self).run(market, contexts["1"]) for market in markets}

    markets = [make_market(number) for number in "123"]
    first, again = Together(), Together()
    told: list[Progress] = []
    answered = run(first, markets, journal=Journal(area, KEY, "first"))
    assert run(again, markets, journal=Journal(area, KEY, "second"), progress=told.append) == answered
    assert (first.called, again.called, told[-1].resumed) == (["1", "2", "3"], [], 3)
    assert sum(len(area.read_bytes(name).splitlines()) for name in area.list("journals")) == 1


def test_a_journal_that_was_never_written_is_empty(area: StagingArea) -> None:
    journal = Journal(area, KEY, "w")
    assert journal.load() == {}
    asyncio.run(journal.close())
    assert area.list("journals") == []


@pytest.mark.parametrize(
    "other",
    [
        JournalKey("2026-03-03_w7", "tested", "1", "a" * 64, "b" * 64),
        JournalKey("2026-03-02_w7", "other", "1", "a" * 64, "b" * 64),
        JournalKey("2026-03-02_w7", "tested", "2", "a" * 64, "b" * 64),
        JournalKey("2026-03-02_w7", "tested", "1", "c" * 64, "b" * 64),
        JournalKey("2026-03-02_w7", "tested", "1", "a" * 64, "c" * 64),
    ],
)
def test_another_run_experiment_version_snapshot_or_configuration_begins_anew(
    area: StagingArea, other: JournalKey
) -> None:
    append(Journal(area, KEY, "w"), [outcome("1")])
    assert Journal(area, other, "w").load() == {}


def test_discarding_removes_every_segment(area: StagingArea) -> None:
    append(Journal(area, KEY, "w"), [outcome("1")])
    append(Journal(area, KEY, "v"), [outcome("2")])
    Journal(area, KEY, "w").discard()
    assert Journal(area, KEY, "w").load() == {}
    assert area.list("journals") == []


@pytest.mark.parametrize("cut", [1, 2, 20])
def test_a_torn_last_line_is_passed_over_and_said(
    folder: StagingArea, cut: int, caplog: pytest.LogCaptureFixture
) -> None:
    append(Journal(folder, KEY, "w"), [outcome("1")], [outcome("2")])
    (segment,) = segments(folder)
    os.truncate(segment, segment.stat().st_size - cut)
    assert set(Journal(folder, KEY, "w").load()) == {"1"}
    assert "torn line" in caplog.text


def test_an_attempt_of_the_same_name_does_not_write_behind_a_torn_line(folder: StagingArea) -> None:
    append(Journal(folder, KEY, "w"), [outcome("1")])
    (segment,) = segments(folder)
    os.truncate(segment, segment.stat().st_size - 5)
    append(Journal(folder, KEY, "w"), [outcome("2")])
    assert set(Journal(folder, KEY, "w").load()) == {"2"}


def test_garbage_in_the_middle_costs_only_its_line(folder: StagingArea, caplog: pytest.LogCaptureFixture) -> None:
    append(Journal(folder, KEY, "w"), [outcome("1")])
    (segment,) = segments(folder)
    segment.write_bytes(b"\0\0\0\n" + segment.read_bytes() + b'[{"market_id": 5}]\n')
    with caplog.at_level(logging.WARNING):
        assert set(Journal(folder, KEY, "w").load()) == {"1"}
    assert "torn line" in caplog.text


def test_half_an_event_is_never_journalled(folder: StagingArea) -> None:
    append(Journal(folder, KEY, "w"), [outcome("1"), outcome("2"), outcome("3")])
    (segment,) = segments(folder)
    os.truncate(segment, segment.stat().st_size - 10)
    assert Journal(folder, KEY, "w").load() == {}


def test_of_two_attempts_answers_a_forecast_wins(area: StagingArea) -> None:
    done = outcome("1", status="completed", probability=0.3, probabilities=(0.3, 0.7), reason=None)
    append(Journal(area, KEY, "a"), [outcome("1")])
    append(Journal(area, KEY, "b"), [done])
    append(Journal(area, KEY, "c"), [outcome("1", status="failed", reason="ValueError: x")])
    assert Journal(area, KEY, "d").load() == {"1": done}


def test_append_returns_only_after_the_bytes_are_synced(folder: StagingArea, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    really_sync = os.fsync

    def count(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_size)
        really_sync(descriptor)

    monkeypatch.setattr(os, "fsync", count)

    async def append_one() -> int:
        journal = Journal(folder, KEY, "w")
        await journal.append([[outcome("1")]])
        size = synced[-1]
        await journal.close()
        return size

    assert asyncio.run(append_one()) == segments(folder)[0].stat().st_size > 0


def test_one_append_is_one_object(area: StagingArea) -> None:
    append(Journal(area, KEY, "w"), *([outcome(str(number))] for number in range(500)))
    assert len(area.list("journals")) == 1
    assert len(Journal(area, KEY, "w").load()) == 500


def test_a_place_that_cannot_be_written_stops_the_experiment_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "journals").write_text("a file where the folder should be")
    journal = Journal(StagingArea(str(tmp_path)), KEY, "w")
    with pytest.raises(JournalUnwritable, match="STAGING_URI") as raised:
        run(UniformExperiment(), MARKETS, journal=journal)
    assert raised.value.retriable


# The runner with a journal


def test_a_second_run_calls_nothing(area: StagingArea) -> None:
    first = run(Recording(), MARKETS, journal=Journal(area, KEY, "a"))
    experiment = Recording(lambda _: ExperimentResult.binary(0.9))
    told: list[Progress] = []
    again = run(experiment, MARKETS, journal=Journal(area, KEY, "b"), progress=told.append)
    assert experiment.called == []
    assert again == first
    assert told[-1].resumed == len(MARKETS)


def test_only_the_markets_that_are_new_are_called(area: StagingArea) -> None:
    run(Recording(), MARKETS[:15], journal=Journal(area, KEY, "a"))
    experiment = Recording()
    outcomes = run(experiment, MARKETS, journal=Journal(area, KEY, "b"))
    assert sorted(experiment.called) == ["15", "16", "17", "18", "19"]
    assert [outcome.market_id for outcome in outcomes] == [market.market_id for market in MARKETS]


def test_failures_that_may_pass_are_tried_again_and_others_are_not(area: StagingArea) -> None:
    def answer(market: Market) -> ExperimentResult:
        match market.market_id:
            case "1":
                raise RetriableError("busy")
            case "2":
                raise ValueError("bug")
            case "3":
                raise ExperimentSkip("dull")
        return ExperimentResult.binary(0.5)

    run(Recording(answer), MARKETS, journal=Journal(area, KEY, "a"))
    experiment = Recording()
    outcomes = {one.market_id: one for one in run(experiment, MARKETS, journal=Journal(area, KEY, "b"))}
    assert experiment.called == ["1"]
    assert outcomes["1"].status == "completed"
    assert (outcomes["2"].status, outcomes["2"].reason) == ("failed", "ValueError: bug")
    assert (outcomes["3"].status, outcomes["3"].reason) == ("skipped", "dull")


def test_a_market_skipped_for_want_of_a_requirement_is_called_once_it_is_there(area: StagingArea) -> None:
    class Dependent(Recording):
        requires = ("first",)

    run(Dependent(), MARKETS, journal=Journal(area, KEY, "a"))
    first = {
        market.market_id: Outcome(
            market_id=market.market_id, status="completed", probability=0.5, probabilities=(0.5, 0.5)
        )
        for market in MARKETS
    }
    experiment = Dependent()
    outcomes = run(experiment, MARKETS, journal=Journal(area, KEY, "b"), required={"first": first})
    assert len(experiment.called) == len(MARKETS)
    assert {outcome.status for outcome in outcomes} == {"completed"}


BEHAVIOURS: dict[str, BaseException | ExperimentResult] = {
    "completed": ExperimentResult.binary(0.5),
    "skipped": ExperimentSkip("dull"),
    "failed": ValueError("bug"),
    "busy": RetriableError("busy"),
}


@given(
    st.lists(st.sampled_from(sorted(BEHAVIOURS)), max_size=30),
    st.integers(0, 30),
    st.integers(1, 5),
)
@settings(max_examples=25, deadline=None)
def test_whatever_happens_every_market_has_its_outcome_and_no_final_one_is_called_again(
    behaviours: list[str], first_part: int, workers: int
) -> None:
    def answer(market: Market) -> ExperimentResult:
        behaviour = BEHAVIOURS[behaviours[int(market.market_id)]]
        if isinstance(behaviour, BaseException):
            raise behaviour
        return behaviour

    markets = [make_market(str(number)) for number in range(len(behaviours))]
    expected = ["failed" if behaviour == "busy" else behaviour for behaviour in behaviours]
    with tempfile.TemporaryDirectory() as place:
        area = StagingArea(place)
        first, second = Recording(answer), Recording(answer)
        begun = run(first, markets[:first_part], journal=Journal(area, KEY, "a"), max_concurrency=workers)
        outcomes = run(second, markets, journal=Journal(area, KEY, "b"), max_concurrency=workers)
    assert [outcome.status for outcome in begun] == expected[:first_part]
    assert [outcome.status for outcome in outcomes] == expected
    assert [outcome.market_id for outcome in outcomes] == [market.market_id for market in markets]
    repeated = set(first.called) & set(second.called)
    assert repeated == {market_id for market_id in first.called if behaviours[int(market_id)] == "busy"}


def test_who_is_stopped_while_no_write_can_begin_keeps_every_answer(folder: StagingArea) -> None:
    writable, at_the_last, executor = threading.Event(), asyncio.Event(), ThreadPoolExecutor(1)

    async def stop_at_the_last_market() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(executor)

        def answer(market: Market) -> ExperimentResult:
            if market.market_id == MARKETS[0].market_id:
                executor.submit(writable.wait)  # in the only thread that writes
            if market.market_id == MARKETS[-1].market_id:
                loop.call_soon_threadsafe(at_the_last.set)
            return ExperimentResult.binary(0.5)

        running = asyncio.ensure_future(
            run_experiment(
                Recording(answer),
                MARKETS,
                run=make_run(),
                clock=FixedClock(CAPTURED_AT),
                journal=Journal(folder, KEY, "w"),
                max_concurrency=1,
            )
        )
        await at_the_last.wait()
        running.cancel()
        loop.call_later(0.02, writable.set)
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(stop_at_the_last_market())
    # The last answer may have come too late to be taken.
    assert Journal(folder, KEY, "reader").load().keys() >= {market.market_id for market in MARKETS[:-1]}


def test_an_event_is_resumed_as_a_whole(area: StagingArea) -> None:
    markets = [
        make_market(str(number), price=0.5, event_id=str(number // 2), neg_risk=True, neg_risk_market_id="g")
        for number in range(6)
    ]
    first = run(DeviggedEventExperiment(), markets[:4], journal=Journal(area, KEY, "a"))
    told: list[Progress] = []
    again = run(DeviggedEventExperiment(), markets, journal=Journal(area, KEY, "b"), progress=told.append)
    assert again[:4] == first
    assert told[-1].resumed == 4


def test_an_event_of_which_only_a_part_was_answered_is_asked_again_as_a_whole(area: StagingArea) -> None:
    class Shares(Experiment):
        name = "tested"
        version = "1"
        description = "An experiment of the tests."

        def run_event(
            self, markets: Sequence[Market], contexts: Mapping[str, PipelineContext]
        ) -> Mapping[str, ExperimentResult]:
            return {market.market_id: ExperimentResult.binary(1 / len(markets)) for market in markets}

    event = [make_market(str(number), event_id="e") for number in range(4)]
    run(Shares(), event[:2], journal=Journal(area, KEY, "a"))
    outcomes = run(Shares(), event, journal=Journal(area, KEY, "b"))
    assert [outcome.probability for outcome in outcomes] == [0.25, 0.25, 0.25, 0.25]


def test_the_answers_of_an_interrupted_run_stand(folder: StagingArea) -> None:
    """A budget that runs out in the middle stands in for whatever ends a run early."""

    class Slow(Recording):
        max_concurrency = 1

        async def run(self, market: Market, context: PipelineContext) -> ExperimentResult:  # type: ignore[override]
            await asyncio.sleep(0.005)
            return super().run(market, context)

    first = Slow()
    run(first, MARKETS, journal=Journal(folder, KEY, "a"), time_budget_s=0.03)
    assert 0 < len(first.called) < len(MARKETS)
    second = Slow()
    run(second, MARKETS, journal=Journal(folder, KEY, "b"))
    assert sorted(first.called + second.called) == sorted(market.market_id for market in MARKETS)


def test_what_was_answered_before_an_interruption_is_journalled(
    folder: StagingArea, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_PROGRESS_EVERY_S", 0.01)
    disk, hung = threading.Event(), threading.Event()
    really_sync = os.fsync

    def wait_for_the_disk(descriptor: int) -> None:
        assert disk.wait(10)
        really_sync(descriptor)

    def hang_at_last(market: Market) -> ExperimentResult:
        if market is MARKETS[-1]:
            hung.wait(30)
        return ExperimentResult.binary(0.5)

    def interrupt(progress: Progress) -> None:
        if progress.done == len(MARKETS) - 1:  # all but the first wait for the disk, which is busy with that
            disk.set()
            raise InterruptedError

    monkeypatch.setattr(os, "fsync", wait_for_the_disk)
    with pytest.raises(InterruptedError):
        run(Recording(hang_at_last), MARKETS, journal=Journal(folder, KEY, "a"), progress=interrupt)
    hung.set()
    assert len(Journal(folder, KEY, "b").load()) == len(MARKETS) - 1


def test_20_000_instant_answers_take_seconds_not_syncs(folder: StagingArea, monkeypatch: pytest.MonkeyPatch) -> None:
    syncs = 0
    really_sync = os.fsync

    def count(descriptor: int) -> None:
        nonlocal syncs
        syncs += 1
        really_sync(descriptor)

    monkeypatch.setattr(os, "fsync", count)
    markets = [make_market(str(number)) for number in range(20_000)]
    outcomes = run(UniformExperiment(), markets, journal=Journal(folder, KEY, "w"))
    assert len(outcomes) == 20_000
    assert syncs < 2_000
    assert len(Journal(folder, KEY, "w").load()) == 20_000


class Grouped(Recording):
    """Answers for an event at once."""

    def run_event(self, markets: Sequence[Market], contexts: Mapping[str, PipelineContext]) -> Any:
        return {market.market_id: ExperimentResult.binary(0.5) for market in markets}

    run = Experiment.run


@pytest.mark.parametrize("kind", [UniformExperiment, Grouped])
def test_what_an_earlier_attempt_answered_is_counted_and_so_is_other_code(
    kind: type[Experiment], folder: StagingArea, monkeypatch: pytest.MonkeyPatch
) -> None:
    def attempt(markets: Sequence[Market]) -> tuple[int, int]:
        told: list[Progress] = []
        run(kind(), markets, journal=Journal(folder, KEY, "w"), progress=told.append)
        return told[-1].resumed, told[-1].outdated

    assert attempt(MARKETS[:5]) == (0, 0)
    assert attempt(MARKETS[:8]) == (5, 0)
    monkeypatch.setattr(ExperimentSource, "digest", lambda _: "another")
    assert attempt(MARKETS[:9]) == (8, 8)
    assert attempt(MARKETS[:10]) == (9, 8)
    Journal(folder, KEY, "w").discard()
    assert attempt(MARKETS[:10]) == (0, 0)
