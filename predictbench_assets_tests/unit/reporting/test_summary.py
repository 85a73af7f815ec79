"""The summary: the agreed JSON, Markdown that nothing can break, a table for terminals."""

import io
import json
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from predictbench_assets.experiments.model_calls.batches import UNDER_WAY
from predictbench_assets.experiments.reasons import ReasonCount
from predictbench_assets.failures import Failure
from predictbench_assets.reporting.summary import (
    SHOWN_FAILURES,
    ApiUse,
    ExperimentSummary,
    FailureLine,
    PaidSummary,
    RunSummary,
    SnapshotSummary,
)
from predictbench_assets.runs import RunKey
from predictbench_assets.scoring.costs import Cost

KEY = RunKey(date(2026, 11, 23), 7)
AGREED = {
    "run_id", "run_date", "window_days", "target_date", "status", "offered_markets", "excluded_markets",
    "rejected_markets", "total_markets", "processed_markets", "failed_markets", "failures", "experiments", "api",
    "duration_seconds", "git_sha",
}  # fmt: skip


def summary(**changes: Any) -> RunSummary:
    facts: dict[str, Any] = {
        "run_id": KEY.run_id,
        "run_date": KEY.run_date,
        "window_days": 7,
        "target_date": KEY.target_date,
        "status": "completed",
        "offered_markets": 5123,
        "excluded_markets": 23,
        "rejected_markets": 50,
        "total_markets": 5050,
        "processed_markets": 5049,
        "failed_markets": 1,
        "failures": (FailureLine(market_id="42", stage="experiment_results", reason="no price", retriable=False),),
        "experiments": {
            "uniform": ExperimentSummary(version="1", status="completed", completed=5049, seconds=1.25),
        },
        "api": ApiUse(pages=52, requests=60, retries=8, bytes=12_345_678),
        "snapshot": SnapshotSummary(
            captured_at=datetime(2026, 11, 23, 7, tzinfo=UTC),
            sha256="ab" * 32,
            rows=5123,
            reused=False,
            uri="file:///x",
        ),
        "excluded_by_reason": {"liquidity": 23},
        "duration_seconds": 61.5,
        "git_sha": "c" * 40,
    }
    return RunSummary(**(facts | changes))


def shown(one: RunSummary, width: int = 80, *, forget: bool = True) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(one.to_table(forget=forget))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_json_has_the_agreed_keys_in_front() -> None:
    read = json.loads(summary().to_json())
    assert set(list(read)[: len(AGREED)]) == AGREED
    assert set(read["failures"][0]) == {"market_id", "stage", "reason", "retriable"}
    assert {"version", "completed", "skipped", "failed", "seconds"} <= set(read["experiments"]["uniform"])
    assert {"pages", "requests", "retries", "bytes"} <= set(read["api"])
    assert read["run_id"] == str(KEY.run_id)


def test_it_is_written_whole_with_markdown_beside_it_and_reads_back(tmp_path: Path) -> None:
    path = summary().write(tmp_path / "new" / "summary.json")
    assert RunSummary.read(path) == summary()
    assert path.with_suffix(".md").read_text() == summary().to_markdown()
    assert sorted(file.name for file in path.parent.iterdir()) == ["summary.json", "summary.md"]


def test_mixed_sources_of_prices_are_counted() -> None:
    one = summary(
        quotes_source="clob",
        price_source={"gamma": 1_250, "clob": 3_800},
        quotes_reason="1,250 of 5,050 tokens: refused",
    )
    for text in (one.to_markdown(), shown(one, width=200)):
        assert "clob (3,800 clob, 1,250 gamma)" in text
        assert "1,250 of 5,050 tokens: refused" in text
    assert RunSummary.model_validate_json(one.to_json()) == one


def test_json_has_every_failure_and_markdown_the_first_ones() -> None:
    many = tuple(
        FailureLine(market_id=f"m{number}", stage="raw_markets", reason="bad", retriable=False) for number in range(100)
    )
    one = summary(failures=many)
    assert len(json.loads(one.to_json())["failures"]) == 100
    assert one.to_markdown().count("| bad |") == SHOWN_FAILURES
    assert "100 failures" in one.to_markdown()


def test_the_terminal_shows_the_counts_and_fits_80_columns() -> None:
    text = shown(summary())
    for expected in ("completed", "5,123", "23 liquidity", "uniform", "12.3 MB", "no price", "frozen at"):
        assert expected in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_failed_run_says_where_and_why() -> None:
    failed = RunSummary.failed(KEY, stage="raw_markets", reason="the walk broke off", attempt=2)
    assert not failed.succeeded
    assert "raw_markets: the walk broke off" in failed.to_markdown()
    assert "raw_markets: the walk broke off" in shown(failed)


def test_a_dry_run_lists_the_rows_it_would_have_written() -> None:
    one = summary(dry_run=True, would_be_rows={"processed_markets": 5049})
    assert "dry run" in one.to_markdown()
    assert "| processed_markets | 5,049 |" in one.to_markdown()


def test_square_brackets_in_a_reason_are_text_on_the_terminal() -> None:
    bad = FailureLine(market_id="1", stage="raw_markets", reason="[red]what[/blue]", retriable=True)
    assert "[red]what[/blue]" in shown(summary(failures=(bad,)), width=120)


@given(reason=st.text(max_size=200))
def test_no_reason_can_break_the_markdown_table(reason: str) -> None:
    bad = FailureLine(market_id="1", stage="raw_markets", reason=reason, retriable=True)
    row = next(line for line in summary(failures=(bad,)).to_markdown().split("\n") if line.startswith("| 1 |"))
    assert row.count("|") == 5
    assert "<" not in row


def test_a_failure_of_the_domain_becomes_a_line() -> None:
    failure = Failure(
        market_id=None, stage="persisted_run", reason="x", retriable=True, logged_at=datetime(2026, 1, 1, tzinfo=UTC)
    )
    assert FailureLine.of(failure) == FailureLine(market_id=None, stage="persisted_run", reason="x", retriable=True)


WHY = ReasonCount(status="failed", markets=300, reason="ValueError: [red]no", place="my_experiments.py:12 in run")


def test_it_says_why_an_experiment_gave_no_forecast_and_where() -> None:
    failing = ExperimentSummary(version="1", status="failed", failed=300, reasons=(WHY,))
    one = summary(experiments={"mine": failing})
    assert "| mine | failed | 300 | ValueError: &#91;red]no | my_experiments.py:12 in run |" in one.to_markdown()
    text = " ".join(shown(one, width=120).split())
    assert "mine failed 300 ValueError: [red]no my_experiments.py:12 in run" in text
    assert max(map(len, shown(one).splitlines())) <= 80
    assert RunSummary.model_validate_json(one.to_json()) == one
    assert "Why there is no forecast" not in shown(summary())


def test_it_says_what_is_in_batches_and_how_to_collect_it() -> None:
    reason = f"{UNDER_WAY} (300 requests of 07:00 UTC): materialize again to collect it"
    why = ReasonCount(status="skipped", reason=reason, markets=300)
    waits = ExperimentSummary(version="1", status="completed", skipped=300, reasons=(why,))
    one = summary(experiments={"mini": waits, "uniform": ExperimentSummary(version="1", status="completed")})
    for text in (one.to_markdown(), " ".join(shown(one).split())):
        assert "In batches under way: mini 300 markets. To collect them run the day again, in an hour or so" in text
        assert f"`predictbench daily --run-date {one.run_date} --window-days {one.window_days}`" in text
    assert "batch" not in shown(summary())


def test_it_says_what_is_in_batches_that_nobody_collects() -> None:
    one = summary(left_in_batches={"mini 1": 300})
    for text in (one.to_markdown(), " ".join(shown(one).split())):
        assert "In batches that no experiment of this run collects: mini 1 300 calls. They were submitted with" in text
        assert "In batches under way" not in text


def test_it_says_which_answers_are_of_the_journal_and_how_to_ask_again() -> None:
    old = ExperimentSummary(version="1", status="completed", completed=300, from_journal=300, outdated=12)
    one = summary(experiments={"mine": old, "uniform": ExperimentSummary(version="1", status="completed")})
    for text in (one.to_markdown(), " ".join(shown(one).split())):
        assert "From the journal, not asked again: mine 300. Change the version to ask again, or use --forget" in text
        assert "The code of mine has changed since 12 of these were answered, and its version has not." in text
    assert "journal" not in shown(summary())
    without = " ".join(shown(one, forget=False).split())
    assert "not asked again: mine 300. Change the version to ask again. The code of mine has changed" in without


def test_rejected_and_failed_markets_are_counted_by_reason() -> None:
    one = summary(
        rejected_by_reason={"endDate: no date": 49, "price: 7 is above 1": 1}, failed_by_reason={"no price": 1}
    )
    for text in (one.to_markdown(), shown(one, width=120)):
        assert "50 (49 endDate: no date, 1 price: 7 is above 1)" in text
        assert "1 (1 no price)" in text


def test_paid_calls_are_one_line_with_what_nobody_knows() -> None:
    calls = {"answered": 15, "failed": 1, "unknown": 2}
    cost = Cost(requests=18, calls=calls, settled={"USD": Decimal("0.07")}, reserved=Decimal("0.04"))
    paid = {
        "mini": PaidSummary.of(cost),
        "http": PaidSummary.of_usage({"requests": 1, "cost_USD": 0.005, "cost_EUR": 0.2}),
        "local": PaidSummary.of_usage({"requests": 300, "input_tokens": 7}),
        "free": PaidSummary.of_usage({}),
    }
    assert paid["free"] is None
    told = summary(
        experiments={name: ExperimentSummary(version="1", status="completed", paid=one) for name, one in paid.items()}
    )
    line = (
        "Paid: mini 18 calls for $0.11, 2 of unknown outcome counted at $0.040; "
        "http 1 call for $0.0050 and 0.20 EUR; local 300 calls."
    )
    assert line in told.to_markdown().splitlines()
    assert line in " ".join(shown(told).split())
    assert RunSummary.model_validate_json(told.to_json()) == told
    assert "Paid" not in summary().to_markdown()
