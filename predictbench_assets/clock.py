"""Time, passed in. Nothing below the command line and the assets asks the operating system what time it is."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

SKEW_NOTED = timedelta(seconds=2)
SKEW_REFUSED = timedelta(seconds=60)
"""Clocks further apart than this put prices, resolutions and the end of the day at wrong times."""


class Clock(Protocol):
    """Says what time it is, in UTC. Durations are measured with `time.monotonic`, never with this."""

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


def skew(before: datetime, theirs: datetime, after: datetime, *, resolution: timedelta = timedelta(0)) -> timedelta:
    """Another clock minus ours, as little as what was seen allows.

    Args:
        before: when it was asked, by ours.
        theirs: what it said.
        after: when the answer was there, by ours.
        resolution: what it leaves out, when it rounds down.
    """
    nothing = timedelta(0)
    earliest, latest = theirs - after, theirs + resolution - before
    return max(earliest, nothing) if latest > nothing else latest
