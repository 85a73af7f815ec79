"""Experiments that end the process that they run in, by a segmentation fault, an exit or for want of memory."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from predictbench_assets.clock import FixedClock
from predictbench_assets.experiments import isolation
from predictbench_assets.experiments.crashes import CrashMark, left_marks
from predictbench_assets.experiments.journal import Journal, JournalKey
from predictbench_assets.experiments.outcomes import Outcome, completed
from predictbench_assets.experiments.protocol import Experiment, ExperimentResult, SettledForecast
from predictbench_assets.experiments.registry import load_registry
from predictbench_assets.experiments.runner import run_experiment_sync
from predictbench_assets.experiments.testing import CAPTURED_AT, make_market, make_run
from predictbench_assets.markets.market import Market
from predictbench_assets.markets.market_data import MarketData, OrderBook
from predictbench_assets.staging import StagingArea
from predictbench_assets_tests.integration.experiments.crashing import (
    Crashing,
    CrashingAsync,
    CrashingCohort,
    CrashingEvents,
    Hanging,
    Informed,
    NotThere,
)

SLUG = "2026-03-02_w7"
RunIt = Callable[..., list[Outcome]]

DIES = """
import os, sys
from pathlib import Path
from predictbench_assets.experiments.crashes import CrashMark
CrashMark(Path(sys.argv[1]), sys.argv[2], sys.argv[3], "1").set()
os._exit(9)
"""


def crash(home: Path, experiment: str, slug: str = SLUG) -> CrashMark:
    """The mark that a process left which really died."""
    died = subprocess.run([sys.executable, "-c", DIES, str(home), slug, experiment], check=False)
    assert died.returncode == 9
    return CrashMark(home, slug, experiment, "1")


@pytest.fixture
def run(tmp_path: Path) -> RunIt:
    """Runs an experiment of which a process has died."""

    def make(experiment: Experiment, markets: Sequence[Market], **options: Any) -> list[Outcome]:
        defaults: dict[str, Any] = {"run": make_run(), "clock": FixedClock(CAPTURED_AT)}
        mark = crash(tmp_path, experiment.name)
        return run_experiment_sync(experiment, markets, **(defaults | {"crash_mark": mark} | options))

    return make


def by_id(outcomes: Sequence[Outcome]) -> dict[str, Outcome]:
    return {outcome.market_id: outcome for outcome in outcomes}


@pytest.mark.parametrize("kind", [Crashing, CrashingAsync])
def test_each_market_has_what_it_would_have_alone(
    kind: type[Experiment], run: RunIt, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    at_fault = {
        "segfault": "SIGSEGV",
        "exit": "exit code 3",
        "abort": "SIGABRT",
        "memory": "SIGSEGV",
        "killed": "SIGKILL (out of memory?)",
        "children": "exit code 4",
    }
    good = [str(number) for number in range(20)]
    names = [*good[:5], *at_fault, *good[5:], "stopped", "raises", "skips", "innocent", "asks"]
    markets = [make_market(name) for name in names]
    before = {
        m.market_id: completed(m, ExperimentResult.binary(0.75), forecast_at=CAPTURED_AT, seconds=0) for m in markets
    }
    stored: dict[str, bytes] = {}
    asked: list[datetime] = []

    def keep(path: str, content: bytes) -> str:
        stored[path] = content
        return f"kept:{path}"

    def history(as_of: datetime) -> list[Any]:
        asked.append(as_of)
        return []

    journal = Journal(StagingArea(str(tmp_path)), JournalKey(SLUG, "crashing", "1", "a" * 64, "b" * 64), "w")
    given = {
        "required": {"before": before},
        "history": history,
        "history_counts": lambda _: {"sports": 3},
        "artifacts": keep,
        "redact": lambda text: text.replace("s3cret", "***"),
        "journal": journal,
    }
    found = by_id(run(kind(), markets, **given))

    assert list(found) == names
    reasons = {name: found[name].reason for name in at_fault}
    assert reasons == {name: f"the process that forecast it ended with {how}" for name, how in at_fault.items()}
    assert {(found[name].status, found[name].retriable, found[name].exception_type) for name in at_fault} == {
        ("failed", False, "Crash")
    }
    assert "crashing.py:" in (found["segfault"].place or "")
    # A signal that asks to stop is no fault of a market.
    assert (found["stopped"].status, found["stopped"].retriable) == ("failed", True)
    assert found["innocent"].status == "completed"
    assert found["raises"].reason == "ValueError: no luck today: ***"
    assert found["skips"].reason == "not today"
    assert (found["asks"].probability, found["asks"].payload) == (0.75, {"counts": {"sports": 3}, "settled": 0})
    note = f"crashing/1/{hashlib.sha256(b'asks').hexdigest()[:32]}/note.txt"
    assert found["asks"].artifact_uri == f"kept:{note}"
    assert stored == {note: b"asks"}
    assert asked
    assert any("asked about asks" in line for line in caplog.messages)

    # The others say what they would have said here, and everything that is final is remembered.
    here = by_id(run_experiment_sync(kind(), [make_market(name) for name in good], run=make_run(),
                                     clock=FixedClock(CAPTURED_AT), required={"before": before}))  # fmt: skip
    assert {name: found[name].probability for name in good} == {name: here[name].probability for name in good}
    assert [found[name].payload["draw"] for name in good] == [here[name].payload["draw"] for name in good]  # type: ignore[index]
    assert found["3"].payload is not None
    assert found["3"].payload["of"] == len(markets)
    assert set(journal.load()) == set(names) - {"stopped"}
    assert not [child for child in psutil.Process().children(recursive=True) if "isolated" in " ".join(child.cmdline())]
    # It crashes, so it is not run here tomorrow either.
    assert CrashMark(tmp_path, "2026-03-03_w7", "crashing", "1").is_left()


def test_the_instance_that_was_listed_is_made_again(run: RunIt) -> None:
    registry = load_registry([f"{Crashing.__module__}:valued"], installed=())
    markets = [make_market(name) for name in ("1", "exit", "2")]
    for name, value in {"valued_low": 0.25, "valued_high": 0.75}.items():
        found = run(registry[name], markets, remake=registry.remake(name))
        assert [one.probability for one in found] == [value, None, value]
        assert found[1].reason == "the process that forecast it ended with exit code 3"


def test_each_process_opens_and_closes_the_experiment(
    run: RunIt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = tmp_path / "notes"
    monkeypatch.setenv("CRASHING_NOTES", str(notes))
    registry = load_registry([f"{Crashing.__module__}:opened"], installed=())
    markets = [make_market(name) for name in ("1", "2")]
    found = run(registry["opened"], markets, remake=registry.remake("opened"))
    assert [one.probability for one in found] == [0.25, 0.25]
    (opener, first), (closer, last) = (line.split() for line in notes.read_text().splitlines())
    assert (first, last) == ("opened", "closed")
    assert opener == closer != str(os.getpid())

    monkeypatch.setenv("CRASHING_CLOSED", "1")
    found = run(registry["opened"], markets, remake=registry.remake("opened"))
    assert all(
        "could not open the experiment: opened() failed: RuntimeError: the shop is" in str(one.reason) for one in found
    )
    assert all(one.retriable for one in found)


def test_market_data_and_earlier_forecasts_are_given_to_the_process(run: RunIt) -> None:
    book = OrderBook(CAPTURED_AT, ((0.4, 10.0),), ((0.42, 5.0),))
    data = MarketData(market_id="1", book=book, history=((CAPTURED_AT.timestamp(), 0.3),))
    past = SettledForecast("x", "other", 1.0, 0.4, 0.75, {}, CAPTURED_AT)
    asked: list[tuple[str, datetime]] = []

    def forecasts(name: str, as_of: datetime) -> list[SettledForecast]:
        asked.append((name, as_of))
        return [past]

    markets = [make_market("1"), make_market("2")]
    given = {"market_data": {"1": msgspec.json.encode(data)}, "settled_forecasts": forecasts}
    found = by_id(run(Informed(), markets, **given))

    assert found["1"].payload == {"bids": [[0.4, 10.0]], "prices": [0.3], "past": [0.75]}
    assert found["2"].payload == {"bids": None, "prices": [], "past": [0.75]}
    assert set(asked) == {("informed", CAPTURED_AT)}


def test_a_crash_is_that_of_its_event(run: RunIt) -> None:
    markets = [
        make_market(str(number), event_id=str(number // 3 if number < 9 else number)) for number in (0, 3, 4, 12, 14)
    ]
    found = by_id(run(CrashingEvents(), markets))
    reason = "the process that forecast it ended with exit code 5"
    assert {name: one.reason for name, one in found.items()} == {
        "0": None, "3": reason, "4": reason, "12": None, "14": None
    }  # fmt: skip


def test_a_crash_of_the_cohort_is_that_of_each_market(run: RunIt) -> None:
    found = run(CrashingCohort(), [make_market(number) for number in "246"])
    assert [one.status for one in found] == ["completed"] * 3
    found = run(CrashingCohort(), [make_market(number) for number in "245"])
    assert [(one.market_id, one.status, one.reason) for one in found] == [
        (number, "failed", "the process that forecast it ended with exit code 5") for number in "245"
    ]


def test_an_experiment_that_crashes_for_all_is_given_up(run: RunIt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation.Isolated.__init__, "__kwdefaults__", {"deaths_limit": 5})
    found = run(CrashingEvents(), [make_market(str(number)) for number in range(1, 100, 2)], max_concurrency=4)
    crashed = [one for one in found if not one.retriable]
    assert 0 < len(crashed) <= 5
    assert {one.reason for one in crashed} == {"the process that forecast it ended with exit code 5"}
    reasons = [one.reason or "" for one in found if one.retriable]
    assert reasons
    assert all(reason.startswith("not tried: the experiment crashes, ") for reason in reasons)


def test_a_process_that_hangs_entirely_is_killed(run: RunIt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "_GRACE_S", 0.5)
    found = by_id(run(Hanging(), [make_market(name) for name in ("1", "hangs", "2")], timeout_s=1.0))
    assert (found["1"].status, found["2"].status) == ("completed", "completed")
    assert found["hangs"].retriable
    assert "gave no answer within 1 s" in (found["hangs"].reason or "")


def test_one_that_cannot_be_made_twice_fails_with_its_own_words(run: RunIt, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = NotThere()
    monkeypatch.setenv("CRASHING_ONE", "1")
    found = run(experiment, [make_market(str(number)) for number in range(3)], remake=NotThere)
    [reason] = {one.reason for one in found}
    assert reason is not None
    assert "could not make the experiment: RuntimeError: the model is in use" in reason
    assert all(one.retriable for one in found)


def test_one_that_was_only_killed_once_runs_as_before(run: RunIt, tmp_path: Path) -> None:
    found = run(CrashingEvents(), [make_market("2"), make_market("4")])
    assert {one.status for one in found} == {"completed"}
    assert not left_marks(tmp_path, SLUG)


def test_a_mark_is_of_the_dead(tmp_path: Path) -> None:
    mine = CrashMark(tmp_path, SLUG, "mine", "1")
    mine.set()
    assert not CrashMark(tmp_path, SLUG, "mine", "1").is_left()
    [file] = tmp_path.rglob(f"{SLUG}_{os.getpid()}_*")
    mine.clear()
    assert not file.exists()

    dead = crash(tmp_path, "mine")
    crash(tmp_path, "yours", "2026-03-02_w14")
    assert dead.is_left()
    assert not CrashMark(tmp_path, SLUG, "mine", "2").is_left()
    assert list(left_marks(tmp_path, SLUG).values()) == ["mine"]
    dead.forget()
    assert not dead.is_left()

    # The number of a process that died is given to another one day.
    file.touch()
    assert not dead.is_left()
    os.utime(file, (1, 1))
    assert dead.is_left()


def test_a_folder_that_cannot_be_written_costs_the_memory_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "crashes").write_text("in the way")
    mark = CrashMark(tmp_path, SLUG, "crashing_events", "1")
    found = run_experiment_sync(
        CrashingEvents(), [make_market("2")], run=make_run(), clock=FixedClock(CAPTURED_AT),
        crash_mark=mark,
    )  # fmt: skip
    assert found[0].status == "completed"
    assert "could not be remembered" in caplog.text
