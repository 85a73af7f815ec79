"""A run: a run date and a window, everything that follows from the two, and the statuses of a run and its parts."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal
from uuid import UUID, uuid5

RUN_NAMESPACE = UUID("6f0c7b0e-52a5-5d0b-9c54-0d6f3b1c7a11")
"""The namespace of all deterministic ids. Changing it orphans every stored row."""

RunStatus = Literal["running", "completed", "partial", "failed", "interrupted", "missed"]
"""Status of a run's row. partial: its markets are a part of the day. missed: its day was over before it began."""
StoredStatus = Literal["completed", "partial"]
"""Status of a run whose markets are stored."""
ExperimentStatus = Literal["completed", "failed", "not_run"]
"""Status of an experiment in a run."""
OutcomeStatus = Literal["completed", "skipped", "failed"]
"""Status of a market in an experiment that ran."""
ResultStatus = Literal[OutcomeStatus, "not_run"]
"""Status of a market's stored result."""
CallStatus = Literal["answered", "refused", "truncated", "invalid", "failed", "unknown"]
"""Status of a request to a paid model: `failed` was not answered, and `unknown` may have been and may have cost."""


FREEZE_WINDOW_HOURS = 24
"""A forecast counts as timely when it was made at most this long after the snapshot, and before the market closed."""


@dataclass(frozen=True)
class Began:
    """The beginning of a Dagster run, to tell whether another one is later.

    Where the same storage of Dagster's has both, their order in it tells, and no clock does. Dagster's creation time is
    the clock of the machine that made the run, and the only thing to go by where the other run is in another storage
    (a laptop's SQLite beside a deployment's Postgres), or was pruned from it.
    """

    at: datetime
    before: Callable[[str], bool | None] = lambda _: None
    """Whether it was made before another Dagster run, by its id; None where that one is not in its storage."""


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

    def at(self, hour: time) -> datetime:
        """That hour of the run date, UTC."""
        return datetime.combine(self.run_date, hour.replace(tzinfo=None), tzinfo=UTC)

    @property
    def slug(self) -> str:
        """The key as a file name part: `2026-11-23_w7`."""
        return f"{self.run_date.isoformat()}_w{self.window_days}"

    def __str__(self) -> str:
        """The partition key as Dagster writes it: `2026-11-23|7`."""
        return f"{self.run_date.isoformat()}|{self.window_days}"


@dataclass(frozen=True)
class RunState:
    """What became of a run."""

    status: RunStatus
    reconstructed: bool
    """True where its markets were put together after the day."""


FIRST_RUN_DATE = date(2026, 1, 1)
"""The first day of the partition grid."""

WINDOW_DAYS: tuple[int, ...] = (*range(1, 15), 21, 30, 45, 60, 90)
"""The windows of the partition grid. A constant, so that a runner and a UI host always agree on what is valid."""


class UnknownPartition(ValueError):
    """A run date or a window outside of the grid; the text has its bounds."""


def checked_key(run_date: date, window_days: int, *, today: date) -> RunKey:
    """The key, if it is a cell of the grid as of `today` (UTC).

    Raises:
        UnknownPartition: the window is not one of the grid's, or the date is before its first day or in the future.
    """
    if window_days not in WINDOW_DAYS:
        raise UnknownPartition(
            f"window {window_days} is not in the grid; choose one of {', '.join(map(str, WINDOW_DAYS))} days"
        )
    if run_date < FIRST_RUN_DATE:
        raise UnknownPartition(f"run date {run_date} is before the grid's first day, {FIRST_RUN_DATE}")
    if run_date > today:
        raise UnknownPartition(f"run date {run_date} is in the future; today is {today} (UTC)")
    return RunKey(run_date, window_days)


def parsed_key(text: str) -> RunKey:
    """The key that a partition key's text speaks of.

    Raises:
        UnknownPartition: the text is not `YYYY-MM-DD|N`.
    """
    run_date, separator, window_days = text.partition("|")
    try:
        if not separator:
            raise ValueError("no separator")
        return RunKey(date.fromisoformat(run_date), int(window_days))
    except ValueError as error:
        raise UnknownPartition(
            f"partition {text!r} is not of the form 2026-11-23|7; `predictbench partition` prints the tags of one"
        ) from error


def partition_tags(key: RunKey) -> dict[str, str]:
    """The tags that make `dagster job execute` run one cell of the grid.

    All three are needed: without a tag per dimension Dagster hands the assets a plain string for a key.
    """
    return {
        "dagster/partition": str(key),
        "dagster/partition/run_date": key.run_date.isoformat(),
        "dagster/partition/window_days": str(key.window_days),
    }
