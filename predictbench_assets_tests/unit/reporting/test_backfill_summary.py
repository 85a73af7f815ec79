"""What a backfill's exit code and table say."""

from datetime import date

import pytest

from predictbench_assets.reporting.backfill import BackfillLine, BackfillOutcome, BackfillSummary
from predictbench_assets.reporting.summary import RunSummary
from predictbench_assets.runs import RunKey

KEY = RunKey(date(2026, 11, 23), 7)


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
    assert told.splitlines()[-1] == "| 2026-11-23 | 7 | missing |  |  | a &#124; b &#60;b> |"


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
    line = BackfillLine.ran(summary, exit_code=exit_code)
    assert (line.outcome, line.reason) == (outcome, reason)
