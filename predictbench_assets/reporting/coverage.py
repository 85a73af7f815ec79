"""The coverage calendar: the state of each partition, run date by window, as data and as text."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final, Literal, get_args

import msgspec
from rich.console import Group, RenderableType
from rich.text import Text

from predictbench_assets.reporting.output import rich_table
from predictbench_assets.runs import RunKey, RunState, RunStatus

PartitionState = Literal["live", "reconstructed", "partial", "running", "failed", "missed", "absent"]

STATES: Final[tuple[PartitionState, ...]] = get_args(PartitionState)

STATE_TEXTS: Final[Mapping[PartitionState, str]] = {
    "live": "Stored whole; its markets were captured on the day.",
    "reconstructed": "Stored whole; its markets were put together afterwards.",
    "partial": "Stored; its markets are a part of the day.",
    "running": "Under way.",
    "failed": "Begun and failed: no board counts it.",
    "missed": "Its day was over before it began.",
    "absent": "Never begun.",
}

MOST_MONTHS: Final = 13
"""Months of a picture, a whole year whatever day it begins on; older ones are counted."""

NOTHING: Final = "No run is stored."

_LETTERS: Final[Mapping[PartitionState, tuple[str, str]]] = {
    "live": ("L", "green"),
    "reconstructed": ("R", "cyan"),
    "partial": ("P", "yellow"),
    "running": (">", "blue"),
    "failed": ("F", "red"),
    "missed": ("M", "magenta"),
    "absent": (".", "dim"),
}
"""Letter of each state in a terminal, and its style."""

_OF_STATUS: Final[Mapping[RunStatus, PartitionState]] = {
    "completed": "live",
    "partial": "partial",
    "running": "running",
    "failed": "failed",
    "interrupted": "failed",
    "missed": "missed",
}

_DAY = timedelta(days=1)
WEEKLY: Final = (1, 8, 15, 22, 29)
"""Days of a month that are written at its picture."""


@dataclass(frozen=True)
class CoverageCalendar:
    """State of each partition from one run date to another, both included, for each window that has a run."""

    first: date
    last: date
    windows: tuple[int, ...]
    """Shortest first."""
    stored: Mapping[RunKey, PartitionState]
    """Partitions with a row; all others are absent."""

    def state(self, key: RunKey) -> PartitionState:
        """The state of a partition."""
        return self.stored.get(key, "absent")

    def counts(self) -> dict[int, Counter[PartitionState]]:
        """Number of partitions by state, for each window."""
        counted = {window: Counter[PartitionState]() for window in self.windows}
        for key, state in self.stored.items():
            counted[key.window_days][state] += 1
        days = (self.last - self.first).days + 1
        for of_window in counted.values():
            of_window["absent"] = days - of_window.total()
        return counted

    def months(self, most: int | None = MOST_MONTHS) -> list[date]:
        """First days of the newest months, in their order; all for `most` = None."""
        found = [self.last.replace(day=1)]
        while found[-1] > self.first and (most is None or len(found) < most):
            found.append((found[-1] - _DAY).replace(day=1))
        return found[::-1]

    def days(self, month: date) -> list[date]:
        """Days of a month that are in the calendar.

        Args:
            month: its first day.
        """
        following = (month + 31 * _DAY).replace(day=1)
        start, end = max(month, self.first), min(following, self.last + _DAY)
        return [start + number * _DAY for number in range((end - start).days)]

    def __iter__(self) -> Iterator[tuple[RunKey, PartitionState]]:
        """All partitions with their states, by run date and window."""
        for number in range((self.last - self.first).days + 1):
            for window in self.windows:
                key = RunKey(self.first + number * _DAY, window)
                yield key, self.state(key)


def coverage_of(runs: Mapping[RunKey, RunState], since: date | None = None) -> CoverageCalendar | None:
    """The calendar from the first of the runs to the last; None where there is none.

    Args:
        runs: all that are known, as `run_states` reads them.
        since: earlier run dates are left out.
    """
    stored = {key: _state_of(run) for key, run in runs.items() if since is None or key.run_date >= since}
    if not stored:
        return None
    first = min(key.run_date for key in runs)
    return CoverageCalendar(
        first=first if since is None else max(first, since),
        last=max(key.run_date for key in stored),
        windows=tuple(sorted({key.window_days for key in stored})),
        stored=stored,
    )


def _state_of(run: RunState) -> PartitionState:
    return "reconstructed" if run.reconstructed and run.status == "completed" else _OF_STATUS[run.status]


def describe_month(calendar: CoverageCalendar, month: date) -> str:
    """A month in words: for each window, the days of each state."""
    windows = []
    for window in calendar.windows:
        by_state: dict[PartitionState, list[int]] = {}
        for day in calendar.days(month):
            by_state.setdefault(calendar.state(RunKey(day, window)), []).append(day.day)
        states = "; ".join(f"{state} {_ranges(by_state[state])}" for state in STATES if state in by_state)
        windows.append(f"{_ahead(window)} ahead: {states}")
    return f"{month:%B %Y}. {'. '.join(windows)}."


def _ranges(days: Sequence[int]) -> str:
    """Days in their order, as in `1-7, 9`."""
    runs: list[list[int]] = []
    for day in days:
        if runs and day == runs[-1][-1] + 1:
            runs[-1][1:] = [day]
        else:
            runs.append([day])
    return ", ".join("-".join(map(str, run)) for run in runs)


def _ahead(window: int) -> str:
    return "1 day" if window == 1 else f"{window} days"


def as_json(calendar: CoverageCalendar | None) -> str:
    """One object: counts of each window, and every partition."""
    counts = {} if calendar is None else calendar.counts()
    report = {
        "first": None if calendar is None else calendar.first,
        "last": None if calendar is None else calendar.last,
        "windows": [
            {"window_days": window} | {state: of_window[state] for state in STATES}
            for window, of_window in counts.items()
        ],
        "partitions": [
            {"run_date": key.run_date, "window_days": key.window_days, "state": state} for key, state in calendar or ()
        ],
    }
    return msgspec.json.format(msgspec.json.encode(report), indent=2).decode() + "\n"


def as_text(calendar: CoverageCalendar | None, *, most_months: int | None = MOST_MONTHS) -> RenderableType:
    """The calendar for a terminal: a line for each month and window, a letter for each day.

    Args:
        most_months: newest months that have lines; all for None.
    """
    if calendar is None:
        return Text(NOTHING)
    months = calendar.months(most_months)
    lines = [Text(f"From {calendar.first} to {calendar.last}, run date by window")]
    lead = max(map(len, (_ahead(window) for window in calendar.windows))) + 4
    for month in months:
        lines.append(Text(f"\n{month:%Y-%m}".ljust(lead + 1) + _ruler(), "dim"))
        lines += [_line(calendar, month, window, lead) for window in calendar.windows]
    if months[0] > calendar.first:
        lines.append(Text(f"\nMonths before {months[0]:%Y-%m} are in the counts alone; --since shows them.", "dim"))
    counts = calendar.counts()
    rows = [
        (_LETTERS[state][0], state, *(f"{counts[window][state]:,}" for window in calendar.windows), STATE_TEXTS[state])
        for state in STATES
        if any(of_window[state] for of_window in counts.values())
    ]
    head = ("", "state", *map(_ahead, calendar.windows), "meaning")
    return Group(*lines, rich_table("In all", head, rows))


def _ruler() -> str:
    return "".join(f"{day:<7}" for day in WEEKLY).rstrip()


def _line(calendar: CoverageCalendar, month: date, window: int, lead: int) -> Text:
    line = Text(f"  {_ahead(window)}".ljust(lead), no_wrap=True)
    days = calendar.days(month)
    line.append(" " * (days[0].day - 1))
    for day in days:
        line.append(*_LETTERS[calendar.state(RunKey(day, window))])
    return line
