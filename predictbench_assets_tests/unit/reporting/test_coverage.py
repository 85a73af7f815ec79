"""The coverage calendar as text: a letter for each day, everything counted, and not more months than can be read."""

import io
from datetime import date, timedelta

import pytest
from rich.console import Console

from predictbench_assets.reporting.coverage import (
    MOST_MONTHS,
    STATES,
    CoverageCalendar,
    PartitionState,
    as_text,
    describe_month,
)
from predictbench_assets.runs import RunKey


def calendar(first: date, **windows: str) -> CoverageCalendar:
    """A letter for each day, from the first on: the first letter of its state, and `.` for an absent one."""
    states: dict[str, PartitionState] = {state[0]: state for state in STATES if state not in ("running", "absent")}
    states |= {">": "running"}
    stored = {
        RunKey(first + timedelta(days=number), int(window[1:])): states[letter]
        for window, letters in windows.items()
        for number, letter in enumerate(letters)
        if letter != "."
    }
    last = first + timedelta(days=max(map(len, windows.values())) - 1)
    return CoverageCalendar(first, last, tuple(sorted({key.window_days for key in stored})), stored)


def printed(shown: CoverageCalendar | None, most_months: int | None = MOST_MONTHS) -> str:
    text = io.StringIO()
    Console(file=text, width=100).print(as_text(shown, most_months=most_months))
    return text.getvalue()


def test_a_line_for_each_month_and_window_and_counts_of_all_states() -> None:
    text = printed(calendar(date(2026, 8, 30), w1="llp.", w7="frm>"))
    assert text.startswith(
        """\
From 2026-08-30 to 2026-09-02, run date by window

2026-08   1      8      15     22     29
  1 day                                LL
  7 days                               FR

2026-09   1      8      15     22     29
  1 day   P.
  7 days  M>
"""
    )
    counts = [line.split()[:4] for line in text.partition("In all")[2].splitlines()[2:]]
    assert counts == [
        ["L", "live", "2", "0"],
        ["R", "reconstructed", "0", "1"],
        ["P", "partial", "1", "0"],
        [">", "running", "0", "1"],
        ["F", "failed", "0", "1"],
        ["M", "missed", "0", "1"],
        [".", "absent", "1", "0"],
    ]


def test_a_month_in_words_names_every_day() -> None:
    shown = calendar(date(2026, 8, 30), w1="llp.l.ll", w30="m")
    assert describe_month(shown, date(2026, 8, 1)) == (
        "August 2026. 1 day ahead: live 30-31. 30 days ahead: missed 30; absent 31."
    )
    assert describe_month(shown, date(2026, 9, 1)) == (
        "September 2026. 1 day ahead: live 3, 5-6; partial 1; absent 2, 4. 30 days ahead: absent 1-6."
    )


@pytest.mark.parametrize(("days", "shortened"), [(1, False), (365, False), (3_650, True)])
def test_a_year_is_shown_whole_and_of_ten_years_the_newest_months_and_all_counts(days: int, shortened: bool) -> None:
    shown = calendar(date(2025, 12, 31), w7="l" * days)
    text = printed(shown)
    assert len(shown.months()) == min(len(shown.months(None)), MOST_MONTHS)
    assert ("are in the counts alone" in text) == shortened
    assert f"{days:,}" in text
    assert "2025-12 " in printed(shown, most_months=None)


def test_an_empty_database_has_no_calendar() -> None:
    assert printed(None) == "No run is stored.\n"
