"""What a run is: a run date and a window, and everything that follows from the two."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from uuid import UUID, uuid5

RUN_NAMESPACE = UUID("6f0c7b0e-52a5-5d0b-9c54-0d6f3b1c7a11")
"""The namespace of all deterministic ids. Changing it orphans every stored row."""


@dataclass(frozen=True, order=True)
class RunKey:
    """One cell of the partition grid: the day of the run and how many days ahead its markets close.

    Everything here is derived, so two processes that agree on the key agree on the window and on every id.
    """

    run_date: date
    window_days: int

    @property
    def run_id(self) -> UUID:
        """The id of the run, known before anything has happened: uuid5 of date and window."""
        return uuid5(RUN_NAMESPACE, f"{self.run_date.isoformat()}|{self.window_days}")

    @property
    def target_date(self) -> date:
        """The UTC day on which the run's markets close."""
        return self.run_date + timedelta(days=self.window_days)

    @property
    def start(self) -> datetime:
        """First instant of the target date (inclusive), UTC."""
        return datetime.combine(self.target_date, time.min, tzinfo=UTC)

    @property
    def end(self) -> datetime:
        """First instant after the target date (exclusive), UTC."""
        return self.start + timedelta(days=1)

    @property
    def slug(self) -> str:
        """The key as a file name part: `2026-11-23_w7`."""
        return f"{self.run_date.isoformat()}_w{self.window_days}"

    def __str__(self) -> str:
        """The partition key as Dagster writes it: `2026-11-23|7`."""
        return f"{self.run_date.isoformat()}|{self.window_days}"
