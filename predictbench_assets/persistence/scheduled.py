"""A scheduled day: the plan of its runs, and a record of those that were missed."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime

from predictbench_assets.database import revisions
from predictbench_assets.database.errors import BRIEF
from predictbench_assets.persistence.run_store import RunDatabase
from predictbench_assets.persistence.stored_runs import StoredRun
from predictbench_assets.runs import RunKey
from predictbench_assets.schedule import RunPlan, missed_reason, plan_scheduled

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScheduledDay:
    """The plan of a day, and which of its missed runs had no row before."""

    plan: RunPlan
    never_begun: tuple[RunKey, ...] = ()
    """Missed runs without a row before this call."""
    recorded: frozenset[RunKey] = frozenset()
    """Missed runs that this call recorded."""
    reason: str = ""
    """Reason of the missed runs; empty where there is none."""


def plan_day(
    database: RunDatabase,
    day: date,
    windows: Sequence[int],
    now: datetime,
    *,
    link: str | None = None,
    end_dead: Callable[[Sequence[StoredRun]], object] | None = None,
) -> ScheduledDay:
    """Plan the runs of a scheduled day, and record those that were never begun and cannot be made any more.

    Each run that is missed, or still under way after its day, is logged with what can be done about it.

    Args:
        windows: the scheduled windows.
        link: the schedule's own log, for the record of a missed run.
        end_dead: called with the runs that count as under way, to end those that Dagster knows to have ended.
    """
    stored = stored_on(database, day)
    running = [run for run in stored.values() if run.status == "running"]
    if running and end_dead is not None:
        end_dead(running)
        stored = database.runs_of(day)
    plan = plan_scheduled(day, now, windows, stored, database.batches_of(day) if stored else ())
    for run in (stored[window] for window in plan.running):
        _log.warning("the run of %s, window %d, is still under way, held by %s", day, run.key.window_days, run.holder)
    if not plan.missed:
        return ScheduledDay(plan)
    reason = missed_reason(day, now, link)
    never_begun = tuple(RunKey(day, window) for window in plan.missed if window not in stored)
    recorded = _record(database, never_begun, reason)
    for window in plan.missed:
        if window in stored:
            _log.error("the run of %s, window %d, is not complete: %s", day, window, _state(database, stored[window]))
        elif RunKey(day, window) in recorded:
            _log.error("recorded as missed: %s, window %d: %s", day, window, reason)
        else:
            _log.error("missed, and not recorded: %s, window %d: %s", day, window, reason)
    return ScheduledDay(plan, never_begun, recorded, reason)


def stored_on(database: RunDatabase, day: date) -> Mapping[int, StoredRun]:
    """The stored runs of a day by window; none where the database has no tables yet."""
    if revisions.current(database.engine, BRIEF) is None:
        _log.warning("the database has no tables yet, so nothing is stored: `predictbench db upgrade` makes them")
        return {}
    return database.runs_of(day)


def _record(database: RunDatabase, keys: Sequence[RunKey], reason: str) -> frozenset[RunKey]:
    if database.dry:
        _log.warning("a dry run records nothing")
        return frozenset()
    if not revisions.is_current(database.engine):
        _log.warning("the database is not at the revision that this code needs: run `predictbench db upgrade`")
        return frozenset()
    return frozenset(database.miss(keys, reason))


def _state(database: RunDatabase, run: StoredRun) -> str:
    """The state of a run that the schedule came too late for, and what can still be done about it."""
    day, window = run.key.run_date, run.key.window_days
    if database.snapshot(run.key) is not None:
        mend = (
            "its snapshot is stored, so that it can be completed: "
            f"predictbench backfill --from {day} --to {day} --window-days {window}"
        )
    else:
        mend = (
            "no snapshot was stored, and a past day cannot be captured, only reconstructed: "
            f"predictbench backfill --from {day} --to {day} --window-days {window} --reconstruct"
        )
    why = f"{run.status} at {run.stage}" + (f" ({run.reason})" if run.reason else "")
    return f"attempt {run.attempt}, {why}; {mend}"
