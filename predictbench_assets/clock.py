"""Time, passed in. Nothing below the command line and the assets asks the operating system what time it is."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol


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
