"""Time, passed in. Nothing below the command line and the assets asks the operating system what time it is."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Protocol

SKEW_NOTED = timedelta(seconds=2)
SKEW_REFUSED = timedelta(seconds=60)
"""Clocks further apart than this put prices, resolutions and the end of the day at wrong times."""


class Clock(Protocol):
    """Source of the time, in UTC. Durations are measured with `time.monotonic`, never with this."""

    def now(self) -> datetime:
        """The present instant, timezone-aware, in UTC."""
        ...


class SystemClock:
    """The real time."""

    def now(self) -> datetime:
        """The present instant, in UTC."""
        return datetime.now(UTC)


@dataclass(frozen=True)
class FixedClock:
    """A clock that stands still: for tests, and for `PREDICTBENCH_NOW`."""

    instant: datetime

    def __post_init__(self) -> None:
        if self.instant.tzinfo is None:
            raise ValueError(f"a clock needs a timezone-aware instant, got {self.instant!r}")

    def now(self) -> datetime:
        """The instant this clock was made with, in UTC."""
        return self.instant.astimezone(UTC)


def utc_text(instant: datetime) -> str:
    """An instant in UTC, to the second, such as 2026-11-23T08:00:00Z."""
    return instant.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def parsed_moment(text: str) -> date | datetime:
    """A day, or an instant in UTC; one without a zone is UTC already.

    Raises:
        ValueError: it is neither.
    """
    try:
        return date.fromisoformat(text)
    except ValueError:
        pass
    try:
        instant = datetime.fromisoformat(text)
        return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
    except (ValueError, OverflowError) as error:  # the first and the last year have instants that UTC has not
        wanted = "write a day as 2026-11-23, or an instant as 2026-11-23T08:00Z"
        raise ValueError(f"{text!r} is no moment; {wanted}") from error


def as_of_instant(moment: date | datetime | None, now: datetime) -> datetime:
    """The instant that is meant by a moment: of a day its end, of today and of none the present.

    Raises:
        ValueError: it lies in the future, of which nothing is known.
    """
    if moment is None:
        return now
    if not isinstance(moment, datetime):
        if moment == now.date():
            return now
        moment = datetime.combine(moment, time.max, UTC)
    if moment > now:
        raise ValueError(f"{moment.isoformat()} is in the future")
    return moment


def skew(before: datetime, theirs: datetime, after: datetime, *, resolution: timedelta = timedelta(0)) -> timedelta:
    """The smallest offset of another clock from ours that the observation allows.

    Args:
        before: instant of the request, by our clock.
        theirs: its answer.
        after: instant of the answer's arrival, by our clock.
        resolution: step to which its answer is rounded down.
    """
    nothing = timedelta(0)
    earliest, latest = theirs - after, theirs + resolution - before
    return max(earliest, nothing) if latest > nothing else latest
