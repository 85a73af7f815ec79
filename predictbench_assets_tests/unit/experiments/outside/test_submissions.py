"""The inbox, its receipts, and the experiment that forecasts from it."""

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from predictbench_assets.clock import FixedClock
from predictbench_assets.experiments.outcomes import Outcome
from predictbench_assets.experiments.outside.file import NO_LINE, FileTable
from predictbench_assets.experiments.outside.inbox import (
    Inbox,
    Receipt,
    Submission,
    SubmissionDamaged,
    SubmittedFile,
    SubmittedForecast,
)
from predictbench_assets.experiments.runner import run_experiment_sync
from predictbench_assets.experiments.testing import CAPTURED_AT, make_market, make_run
from predictbench_assets.markets.market import Market
from predictbench_assets.runs import RunKey
from predictbench_assets.settings import Settings, load_settings
from predictbench_assets.staging import StagingArea

RUN = make_run()
KEY = RunKey(RUN.run_date, RUN.window_days)
HOUR = timedelta(hours=1)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(predictbench_home=tmp_path)


@pytest.fixture(params=["folder", "s3"])
def area(request: pytest.FixtureRequest, settings: Settings) -> StagingArea:
    if request.param == "s3":
        settings = load_settings(**{name.lower(): value for name, value in request.getfixturevalue("store").items()})
    return StagingArea(settings.staging, settings.staging_options)


@pytest.fixture
def inbox(settings: Settings) -> Inbox:
    return Inbox(StagingArea(settings.staging, settings.staging_options))


def submission(received_at: datetime, forecasts: dict[str, float], **changes: Any) -> Submission:
    fields: dict[str, Any] = {
        "experiment": "crowd",
        "run_date": RUN.run_date,
        "window_days": RUN.window_days,
        "snapshot_hash": RUN.snapshot_hash,
        "number": 1,
        "replaces": None,
        "received_at": received_at,
        "file": SubmittedFile(name="f.csv", sha256="0" * 64, bytes=1, form="csv"),
        "stated": {},
        "left_out": 0,
        "forecasts": [
            SubmittedForecast(market_id=name, probability=one, rationale="<b>=1+1") for name, one in forecasts.items()
        ],
    }
    return Submission(**(fields | changes))


def receipt_of(record: Submission, name: str, seal: str) -> Receipt:
    return Receipt(
        seal=seal,
        submission=name,
        experiment=record.experiment,
        run_date=record.run_date,
        window_days=record.window_days,
        received_at=record.received_at,
        deadline=CAPTURED_AT + timedelta(days=1),
        forecasts=len(record.forecasts),
        markets=3,
        left_out=0,
        replaces=None,
        file_sha256=record.file.sha256,
    )


def outcomes(settings: Settings, markets: Sequence[Market], now: datetime = CAPTURED_AT + 30 * HOUR) -> list[Outcome]:
    experiment = FileTable(kind="file").experiment("crowd", settings)
    return run_experiment_sync(experiment, markets, run=RUN, clock=FixedClock(now))


def test_a_forecast_is_of_the_instant_of_its_receipt_however_late_it_is_asked_for(
    settings: Settings, inbox: Inbox
) -> None:
    _, seal = inbox.store(submission(CAPTURED_AT + HOUR, {"1": 0.25}))
    first, second = outcomes(settings, [make_market("1"), make_market("2")])
    assert (first.status, first.probability, first.forecast_at) == ("completed", 0.25, CAPTURED_AT + HOUR)
    assert first.payload == {"submission": seal, "rationale": "<b>=1+1"}
    assert (second.status, second.reason) == ("skipped", NO_LINE)


def test_of_each_market_the_newest_line_that_came_in_time_counts(settings: Settings, inbox: Inbox) -> None:
    inbox.store(submission(CAPTURED_AT + 2 * HOUR, {"1": 0.2}))
    inbox.store(submission(CAPTURED_AT + HOUR, {"1": 0.1, "2": 0.1}))
    inbox.store(submission(CAPTURED_AT + 25 * HOUR, {"1": 0.9, "2": 0.9}))
    inbox.store(submission(CAPTURED_AT - HOUR, {"1": 0.8, "2": 0.8}))
    inbox.store(submission(CAPTURED_AT + 3 * HOUR, {"1": 0.7}, experiment="other"))
    first, second, third = outcomes(settings, [make_market("1"), make_market("2"), make_market("3")])
    assert (first.probability, first.forecast_at) == (0.2, CAPTURED_AT + 2 * HOUR)
    assert (second.probability, second.forecast_at) == (0.1, CAPTURED_AT + HOUR)
    assert third.reason == NO_LINE


def test_of_two_of_one_instant_the_later_one_counts(settings: Settings, inbox: Inbox) -> None:
    for number in range(1, 12):
        inbox.store(submission(CAPTURED_AT + HOUR, {"1": number / 100}, number=number))
    [only] = outcomes(settings, [make_market("1")])
    assert only.probability == 0.11


def test_a_market_that_had_closed_keeps_what_was_said_before(settings: Settings, inbox: Inbox) -> None:
    early, late = make_market("1", close_time=CAPTURED_AT + 2 * HOUR), make_market("2")
    inbox.store(submission(CAPTURED_AT + HOUR, {"1": 0.1, "2": 0.1}))
    inbox.store(submission(CAPTURED_AT + 2 * HOUR, {"1": 0.2, "2": 0.2}, number=2))
    first, second = outcomes(settings, [early, late])
    assert (first.probability, first.forecast_at) == (0.1, CAPTURED_AT + HOUR)
    assert (second.probability, second.forecast_at) == (0.2, CAPTURED_AT + 2 * HOUR)


def test_without_a_submission_every_market_says_so(settings: Settings, inbox: Inbox) -> None:
    [only] = outcomes(settings, [make_market("1")])
    assert (only.status, only.reason) == ("skipped", "no submission was received in time")
    inbox.store(submission(CAPTURED_AT + HOUR, {"1": 0.1}, snapshot_hash="1" * 64))
    [only] = outcomes(settings, [make_market("1")])
    assert "answers to another snapshot, and has to be handed in again" in str(only.reason)


def test_a_market_of_three_outcomes_is_not_forecast_by_one_number(settings: Settings, inbox: Inbox) -> None:
    inbox.store(submission(CAPTURED_AT + HOUR, {"1": 0.1}))
    [only] = outcomes(settings, [make_market("1", outcomes=("A", "B", "C"))])
    assert only.status == "skipped"


def test_a_submission_that_was_changed_fails_loudly_instead_of_being_passed_over(
    settings: Settings, inbox: Inbox, tmp_path: Path
) -> None:
    inbox.store(submission(CAPTURED_AT + HOUR, {"1": 0.1}))
    name, _ = inbox.store(submission(CAPTURED_AT + 2 * HOUR, {"1": 0.2}, number=2))
    stored = tmp_path / "staging" / name
    stored.write_bytes(stored.read_bytes().replace(b"0.2", b"0.9"))
    [only] = outcomes(settings, [make_market("1")])
    assert only.status == "failed"
    assert "is not the submission that was sealed" in str(only.reason)


def test_the_seal_is_the_sha256_of_the_stored_file_and_its_receipt_is_true(area: StagingArea) -> None:
    inbox, record = Inbox(area), submission(CAPTURED_AT + HOUR, {"1": 0.1})
    name, seal = inbox.store(record)
    assert hashlib.sha256(area.read_bytes(name)).hexdigest() == seal
    assert inbox.names(KEY, "crowd") == [name]
    assert inbox.sealed(name) == (record, seal)
    assert not inbox.problems(receipt_of(record, name, seal))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seal": "0" * 64}, "the receipt '" + "0" * 64),
        ({"forecasts": 2}, "has 1 forecasts, not 2"),
        ({"received_at": CAPTURED_AT}, "received_at is"),
        ({"experiment": "x\x1b[2J"}, "experiment is crowd"),
        ({"submission": "submissions/../../etc/passwd"}, "names no submission"),
        ({"submission": "/etc/passwd"}, "names no submission"),
    ],
)
def test_a_receipt_that_says_something_else_is_told(inbox: Inbox, change: dict[str, Any], said: str) -> None:
    record = submission(CAPTURED_AT + HOUR, {"1": 0.1})
    receipt = msgspec.structs.replace(receipt_of(record, *inbox.store(record)), **change)
    [problem] = inbox.problems(receipt)
    assert said in problem
    assert "\x1b" not in problem


def test_a_submission_that_is_changed_or_gone_or_another_file_is_told(inbox: Inbox, tmp_path: Path) -> None:
    record = submission(
        CAPTURED_AT,
        {"1": 0.1},
        file=SubmittedFile(name="f", sha256=hashlib.sha256(b"x").hexdigest(), bytes=1, form="csv"),
    )
    name, seal = inbox.store(record)
    receipt = receipt_of(record, name, seal)
    assert not inbox.problems(receipt, b"x")
    assert inbox.problems(receipt, b"y") == ["the file is not the one that was handed in"]
    stored = tmp_path / "staging" / name
    stored.write_bytes(stored.read_bytes() + b" ")
    assert "was changed after it was received" in inbox.problems(receipt)[0]
    stored.unlink()
    assert "is gone" in inbox.problems(receipt)[0]
    with pytest.raises(SubmissionDamaged):
        inbox.sealed(name)


@pytest.mark.parametrize(
    ("keys", "information"),
    [
        ({}, "search"),
        ({"prices": "hidden"}, "search_blind"),
        ({"search": False}, "market"),
        ({"prices": "hidden", "search": False}, "blind"),
    ],
)
def test_a_table_says_what_its_author_sees(settings: Settings, keys: dict[str, Any], information: str) -> None:
    made = FileTable(kind="file", version="2", description="Ours.", **keys).experiment("crowd", settings)
    assert (made.name, made.version, made.description) == ("crowd", "2", "Ours.")
    assert (made.information, made.journalled) == (information, False)
