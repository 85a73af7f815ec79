"""What a backfill's exit code and table say."""

from datetime import UTC, date, datetime, timedelta

import pytest

from predictbench_assets.reporting.backfill import BackfillLine, BackfillOutcome, BackfillSummary
from predictbench_assets.reporting.summary import ExperimentSummary, RunSummary, SnapshotSummary
from predictbench_assets.runs import RunKey

KEY = RunKey(date(2026, 11, 23), 7)
NOW = datetime(2026, 11, 24, tzinfo=UTC)


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [
        ([], 0),
        (["stored", "stored"], 0),
        (["stored", "missing"], 3),
        (["stored", "not_run"], 3),
        (["missing", "failed", "stored"], 1),
    ],
)
def test_the_exit_code(outcomes: list[BackfillOutcome], code: int) -> None:
    assert BackfillSummary(runs=tuple(BackfillLine.of(KEY, one) for one in outcomes)).exit_code == code


def test_reasons_are_text_in_markdown() -> None:
    told = BackfillSummary(runs=(BackfillLine.of(KEY, "missing", "a | b\n<b>"),), stopped_by="SIGINT").to_markdown()
    assert told.splitlines()[0] == "## Predictbench backfill: 1 missing; stopped by SIGINT"
    assert told.splitlines()[-1] == "| 2026-11-23 | 7 | missing |  |  |  |  | a &#124; b &#60;b> |"


@pytest.mark.parametrize(
    ("status", "exit_code", "outcome", "reason"),
    [
        ("completed", 0, "stored", None),
        ("completed", 1, "failed", "its data are stored, but Dagster ended with exit code 1"),
        ("failed", 1, "failed", "disk full"),
    ],
)
def test_a_run_is_stored_only_if_its_process_says_so_too(
    status: str, exit_code: int, outcome: str, reason: str | None
) -> None:
    summary = RunSummary.failed(KEY, stage="raw_markets", reason="disk full", status=status)
    if status == "completed":
        summary = summary.model_copy(update={"stage": None, "reason": None})
    line = BackfillLine.ran(summary, exit_code=exit_code, now=NOW)
    assert (line.outcome, line.reason) == (outcome, reason)


def asked_of(**counts: int | str) -> RunSummary:
    mine = ExperimentSummary(version="1", status="completed").model_copy(update=counts)
    snapshot = SnapshotSummary(captured_at=NOW, sha256="ab", rows=9, reused=True, uri="x")
    made = RunSummary.failed(KEY, stage=None, reason="", status="completed", experiments={"mine": mine})
    return made.model_copy(update={"reason": None, "snapshot": snapshot})


@pytest.mark.parametrize(
    ("hours", "counts", "late"),
    [
        (23, {"completed": 9}, False),
        (25, {"completed": 9}, True),
        (25, {"completed": 9, "from_journal": 9}, False),  # answered in time, perhaps
        (25, {"failed": 9}, False),
    ],
)
def test_forecasts_are_late_a_day_after_the_freeze(hours: int, counts: dict[str, int], late: bool) -> None:
    line = BackfillLine.ran(asked_of(**counts), exit_code=0, now=NOW + timedelta(hours=hours), selected=["mine"])
    assert line.late is late
    done = BackfillSummary(runs=(line,))
    assert ("too late to count" in done.to_markdown()) is late


def test_an_experiment_that_failed_for_all_is_no_success() -> None:
    line = BackfillLine.ran(asked_of(status="failed", failed=9), exit_code=0, now=NOW, selected=["mine"])
    assert (line.outcome, line.forecasts) == ("failed", "mine 9 failed")
    assert line.reason == "mine failed for every market: see the log"
    assert BackfillLine.ran(asked_of(status="failed", failed=9), exit_code=0, now=NOW).outcome == "stored"
