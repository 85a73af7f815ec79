"""The plan of a day's runs: decided from the time, the windows and the stored runs, and nothing else.

A schedule may be late, dropped, or come twice. The day counts that it was meant for: a snapshot can be
captured on its own day only.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Protocol

from predictbench_assets.printable import on_one_line
from predictbench_assets.runs import RunKey

STALE_AFTER = timedelta(hours=1)
"""A running run without a heartbeat for this long is dead.

An asset that was materialized alone leaves such a row, and so does a machine that died. The longest silence of a
healthy run is the walk over the exchange, minutes on its worst day.
"""


class RunState(Protocol):
    """The part of a stored run that plans need; `persistence.stored_runs.StoredRun` has it."""

    @property
    def status(self) -> str: ...

    @property
    def heartbeat_at(self) -> datetime: ...

    @property
    def attempt(self) -> int: ...

    @property
    def holder(self) -> str: ...

    @property
    def abandoned(self) -> bool: ...

    @property
    def reason(self) -> str | None: ...


@dataclass(frozen=True)
class RunPlan:
    """The windows of one run date by their fate; each in one list at most."""

    run_date: date
    windows: tuple[int, ...]
    """Windows to be run now."""
    done: tuple[int, ...] = ()
    """Windows stored complete, which `--on-existing skip` passes over."""
    missed: tuple[int, ...] = ()
    """Incomplete, and their day is over."""
    running: tuple[int, ...] = ()
    """Begun on their day, and still under way although it is over."""


def scheduled_day(now: datetime, run_at: time) -> date:
    """The day that a scheduled run belongs to: that of the latest `run_at` (UTC) which is not after `now`."""
    today = now.astimezone(UTC).date()
    begins = datetime.combine(today, run_at.replace(tzinfo=None), tzinfo=UTC)
    return today if begins <= now else today - timedelta(days=1)


def plan_scheduled(
    day: date,
    now: datetime,
    windows: Sequence[int],
    stored: Mapping[int, RunState],
    batches: Collection[int] = (),
) -> RunPlan:
    """Plan a scheduled day at `now`: its incomplete windows are to run, or missed where the day is over.

    Args:
        day: the run date, `scheduled_day` of the time at which the schedule fired.
        windows: the scheduled windows.
        stored: the runs of `day` that are in the database, by window.
        batches: windows of which batches of paid calls are under way: they are to run until the day is over, although
            they are stored, to collect them.
    """
    done = _done(windows, stored)
    if day == now.astimezone(UTC).date():
        done = tuple(window for window in done if window not in batches)
        return RunPlan(day, windows=tuple(window for window in windows if window not in done), done=done)
    left = tuple(window for window in windows if window not in done)
    running = tuple(window for window in left if window in stored and is_running(stored[window], now))
    missed = tuple(window for window in left if window not in running)
    return RunPlan(day, windows=(), done=done, missed=missed, running=running)


def plan_requested(run_date: date, windows: Sequence[int], stored: Mapping[int, RunState]) -> RunPlan:
    """Plan the runs that a person requested: all of them. `--on-existing` decides about complete ones."""
    return RunPlan(run_date, windows=tuple(windows), done=_done(windows, stored))


def is_running(run: RunState, now: datetime) -> bool:
    """True for a run under way; a row can be marked as running long after its process is gone."""
    return run.status == "running" and now - run.heartbeat_at < STALE_AFTER and not run.abandoned


def missed_reason(run_date: date, now: datetime, link: str | None = None) -> str:
    """The reason of a missed day, for the person who finds it in the database months later."""
    when = now.astimezone(UTC).isoformat(sep=" ", timespec="minutes").removesuffix("+00:00")
    reason = (
        f"no run began on {run_date}: its schedule ran at {when} UTC, when the day was over, and what the exchange "
        "shows of a past day is not what it showed then"
    )
    return f"{reason} ({link})" if link else reason


def days_between(first: date, last: date, windows: Sequence[int]) -> list[RunKey]:
    """Every run of some days, `last` included: day by day, each with its windows in the order given."""
    days = (first + timedelta(days=number) for number in range((last - first).days + 1))
    return [RunKey(day, window) for day in days for window in windows]


def why_not_runnable(
    key: RunKey, now: datetime, run: RunState | None, *, frozen: bool, reconstruct: bool = False
) -> str | None:
    """The reason why a run cannot be made at `now`, or None if it can.

    Args:
        run: the stored run, if there is one.
        frozen: true where its snapshot is stored.
        reconstruct: true where a past day without a snapshot is reconstructed.
    """
    if run is not None and is_running(run, now):
        return (
            f"attempt {run.attempt} is under way, held by {on_one_line(run.holder)}; run it again when that has ended"
        )
    if frozen or reconstruct or key.run_date == now.astimezone(UTC).date():
        return None
    if run is None:
        return f"no snapshot is stored: nothing was run on that day, and a past day cannot be captured{_WAY_OUT}"
    why = f" ({on_one_line(run.reason)})" if run.reason else ""
    return (
        f"no snapshot is stored: the run of that day is {run.status}{why}, and a past day cannot be captured{_WAY_OUT}"
    )


_WAY_OUT = " (--reconstruct puts one together)"


def _done(windows: Sequence[int], stored: Mapping[int, RunState]) -> tuple[int, ...]:
    """The windows whose run `--on-existing skip` would pass over."""
    return tuple(window for window in windows if window in stored and stored[window].status == "completed")
