"""Leases on runs: the newest attempt may write; an older one learns at its next step that it is not, and stops.

The newest is that of the Dagster run that was made last, not the one that asks last.

Nothing is held while experiments run: a lease is a number in the run's row, compared in every transaction that writes.
"""

import multiprocessing
import os
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import psutil  # type: ignore[import-untyped]
from sqlalchemy import Connection, Engine, Row, delete, func, insert, literal, select, text, update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import insert as upsert

from predictbench_assets.clock import Clock
from predictbench_assets.database.errors import in_transaction
from predictbench_assets.database.schema import (
    id_in_run,
    processed_markets,
    processing_attempts,
    processing_failures,
    processing_runs,
)
from predictbench_assets.experiments.digest import ForecastDigest
from predictbench_assets.experiments.model_calls.store import windows_in_batches
from predictbench_assets.failures import Failure, PermanentError, Stage
from predictbench_assets.persistence.digests import store_digest
from predictbench_assets.printable import on_one_line
from predictbench_assets.runs import Began, RunKey, StoredStatus

OnExisting = Literal["update", "skip", "fail"]

_FIRST_STAGE: Stage = "target_window"
_MISSED_ATTEMPT = 1
_NONE = ""
"""The Dagster run of a row that none has made: one of a missed day."""

_OPENING = text("SELECT pg_advisory_xact_lock(hashtext('predictbench lease'))")


class LeaseLost(PermanentError):
    """A newer attempt has taken the run over; this one must not write any more."""


class RunAlreadyStored(PermanentError):
    """The run is complete in the database and the caller asked not to touch such a run (`on_existing`)."""


class ForeignExchange(PermanentError):
    """The database holds another exchange's markets; sandbox and live data never mix."""


def this_holder(*, steps_apart: bool) -> str:
    """The holder of leases that this process takes: host and process id.

    Args:
        steps_apart: true where each step has a process of its own, which the run outlives: it is held by their parent.
    """
    parent = multiprocessing.parent_process() if steps_apart else None
    return f"{socket.gethostname()}:{os.getpid() if parent is None else parent.pid}"


def is_gone(holder: str) -> bool:
    """Return whether a holder is known to have ended: it was a process of this host, and there is none of its id."""
    host, _, pid = holder.rpartition(":")
    return host == socket.gethostname() and pid.isdecimal() and not psutil.pid_exists(int(pid))


@dataclass(frozen=True)
class RunCounts:
    """Counts of all offered markets: offered = excluded + rejected + failed + processed."""

    offered: int
    excluded: int
    rejected: int
    failed: int
    processed: int
    excluded_by_reason: Mapping[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Markets handed to experiments."""
        return self.failed + self.processed


@dataclass(frozen=True)
class Lease:
    """The right to write one run, as one attempt of it. Made by `open_lease`."""

    engine: Engine = field(repr=False, compare=False)
    clock: Clock = field(repr=False, compare=False)
    key: RunKey
    attempt: int
    holder: str
    dagster_run_id: str

    @property
    def run_id(self) -> UUID:
        """The run that may be written."""
        return self.key.run_id

    def beat(self, stage: Stage) -> None:
        """Store that this attempt is alive, and its stage.

        Raises:
            LeaseLost: a newer attempt has taken over, or this one has ended.
            DatabaseUnavailable: after a few tries.
        """
        in_transaction(self.engine, lambda connection: self.hold(connection, stage=stage))

    def hold(self, connection: Connection, **values: Any) -> None:
        """Inside the caller's transaction: lock the run's row, check that it is still ours, and set columns of it.

        Raises:
            LeaseLost: a newer attempt has taken over, or this one has ended.
        """
        self._set_on_run(connection, values)
        kept = {name: value for name, value in values.items() if name in ("status", "stage", "reason", "finished_at")}
        self._set_on_attempt(connection, kept)

    def fail(self, stage: Stage, reason: str, *, retriable: bool, failures: Sequence[Failure] = ()) -> None:
        """End this attempt as failed: status, stage and reason of the run, and its failures, the run's own included.

        A run whose day was missed is missed again, with the reason that it had: only the attempt's row has the new one.

        Raises:
            LeaseLost: a newer attempt has taken over; the run's row is left as it is.
        """
        own = Failure(market_id=None, stage=stage, reason=reason, retriable=retriable, logged_at=self.clock.now())

        def work(connection: Connection) -> None:
            failed = {"status": "failed", "stage": stage, "reason": reason, "finished_at": self.clock.now()}
            missed = {"status": "missed", "stage": _FIRST_STAGE, "finished_at": self.clock.now()}
            self._set_on_run(connection, missed if _was_missed(connection, self.key) else failed)
            self._set_on_attempt(connection, failed)
            self._store_failures(connection, [*failures, own])

        in_transaction(self.engine, work)

    def finish(
        self,
        counts: RunCounts,
        *,
        status: StoredStatus,
        failures: Sequence[Failure] = (),
        summary: Mapping[str, Any] | None = None,
        stored: Collection[str] | None = None,
        digest: ForecastDigest | None = None,
    ) -> None:
        """End this attempt well, in one transaction.

        Args:
            digest: digest of the run's forecasts, kept with it.
            stored: ids of the markets that this attempt stored. When the run is complete, every other market of it is
                marked withdrawn, so that the markets not withdrawn are exactly the processed ones.

        Raises:
            LeaseLost: a newer attempt has taken over, or this one has ended.
            DatabaseRefused: the counts do not add up.
        """

        def work(connection: Connection) -> None:
            self.hold(
                connection,
                status=status,
                stage="persisted_run",
                reason=None,
                finished_at=self.clock.now(),
                offered_markets=counts.offered,
                excluded_markets=counts.excluded,
                rejected_markets=counts.rejected,
                failed_markets=counts.failed,
                processed_markets=counts.processed,
                total_markets=counts.total,
                excluded_by_reason=dict(counts.excluded_by_reason),
                summary=dict(summary) if summary is not None else None,
            )
            if status == "completed" and stored is not None:
                self._withdraw_others(connection, stored)
            self._store_failures(connection, failures)
            if digest is not None:
                store_digest(connection, self.run_id, digest, self.attempt)

        in_transaction(self.engine, work)

    def lost(self, connection: Connection) -> LeaseLost:
        """Error that names the attempt that has the run now."""
        row = connection.execute(select(processing_runs).where(processing_runs.c.run_id == self.run_id)).one_or_none()
        return _lost(self.key, self.attempt, row)

    def _set_on_run(self, connection: Connection, values: Mapping[str, Any]) -> None:
        """Locks the run's row as well, until the transaction ends."""
        changed = connection.execute(
            update(processing_runs)
            .where(
                processing_runs.c.run_id == self.run_id,
                processing_runs.c.attempt == self.attempt,
                # A commit whose answer was lost is tried again and finds what it wrote.
                processing_runs.c.status.in_({"running", values.get("status", "running")}),
            )
            .values(heartbeat_at=self.clock.now(), **values)
        )
        if changed.rowcount == 0:
            raise self.lost(connection)

    def _set_on_attempt(self, connection: Connection, values: Mapping[str, Any]) -> None:
        connection.execute(
            update(processing_attempts)
            .where(processing_attempts.c.run_id == self.run_id, processing_attempts.c.attempt == self.attempt)
            .values(heartbeat_at=self.clock.now(), **values)
        )

    def _withdraw_others(self, connection: Connection, stored: Collection[str]) -> None:
        # One JSON parameter: an array of 20,000 would be dumped element by element.
        kept = select(func.jsonb_array_elements_text(literal(list(stored), type_=JSONB)))
        connection.execute(
            update(processed_markets)
            .where(
                processed_markets.c.run_id == self.run_id,
                processed_markets.c.withdrawn_at.is_(None),
                processed_markets.c.market_id.not_in(kept),
            )
            .values(withdrawn_at=self.clock.now())
        )

    def _store_failures(self, connection: Connection, failures: Sequence[Failure]) -> None:
        """Store this attempt's failures, whole: a second try of the same attempt replaces those of the first."""
        connection.execute(
            delete(processing_failures).where(
                processing_failures.c.run_id == self.run_id, processing_failures.c.attempt == self.attempt
            )
        )
        rows = [
            {
                "failure_id": id_in_run(self.run_id, f"failure|{self.attempt}|{position}"),
                "run_id": self.run_id,
                "attempt": self.attempt,
                **failure.model_dump(),
            }
            for position, failure in enumerate(failures)
        ]
        if rows:
            connection.execute(insert(processing_failures), rows)


def open_lease(
    engine: Engine,
    key: RunKey,
    *,
    dagster_run_id: str,
    holder: str,
    exchange: str,
    git_sha: str | None,
    clock: Clock,
    on_existing: OnExisting = "update",
    began: Began | None = None,
) -> Lease:
    """Take the run over as its newest attempt; an attempt that was still running becomes `interrupted`.

    The same Dagster run that asks again gets its own attempt back. The later Dagster run has the lease, not the one
    that asks last: a step of a dead run may come out of a queue hours after another run has completed the day. A run
    that waited in Dagster's own queue while a later one ran is refused as well; it has to be launched again.

    Where Dagster's storage has both runs, their order there tells which one is later, whatever the clocks are.
    Elsewhere the asking run's creation is compared with the start of the present attempt, each by the clock of its
    machine. A clock that is off then counts for as much as it is off: behind, a run may be refused that came right
    after the other one, which a later try mends; ahead, one may take over that is older by less than that.

    Args:
        holder: host and process of this attempt, for the other side's error text.
        exchange: host of the exchange that the run reads.
        on_existing: treatment of a run that is stored complete: `update` it, or refuse. `fail` and `skip` differ in
            what the caller makes of the refusal, and `skip` does not refuse where batches are there to be collected.
        began: the beginning of the asking Dagster run; None is later than any.

    Raises:
        RunAlreadyStored: the run is complete, and `on_existing` is not `update`.
        LeaseLost: a Dagster run that is later than this one has the run, or has taken it over.
        ForeignExchange: the database holds another exchange's runs.
        DatabaseUnavailable, DatabaseRefused: the database cannot be reached, or refuses.
    """

    older_than = _earlier_than(engine, key, dagster_run_id, began)

    def work(connection: Connection) -> Lease:
        connection.execute(_OPENING)  # first runs of two exchanges at once must not both find an empty database
        refuse_foreign(connection, exchange)
        row = connection.execute(
            select(processing_runs).where(processing_runs.c.run_id == key.run_id).with_for_update()
        ).one_or_none()
        attempt = _attempt_for(connection, key, row, dagster_run_id, on_existing)
        if row is not None and row.dagster_run_id != dagster_run_id and older_than(row):
            raise _too_old(key, dagster_run_id, row)
        lease = Lease(engine, clock, key, attempt, holder, dagster_run_id)
        _take(
            connection,
            lease,
            exchange,
            git_sha,
            reopened=row is not None and row.attempt == attempt,
            missed=row is not None and _was_missed(connection, key),
        )
        return lease

    return in_transaction(engine, work)


def record_missed(
    engine: Engine,
    keys: Collection[RunKey],
    *,
    reason: str,
    holder: str,
    exchange: str,
    git_sha: str | None,
    clock: Clock,
) -> set[RunKey]:
    """Record runs that never began and cannot be made any more, because their day is over.

    Such a row counts as an attempt that was not made: a lease on it is the second one. A run that has a row keeps it,
    whatever became of it.

    Args:
        reason: for the person who wonders where the day is.
        holder: recorder of the missed runs: host and process.
        exchange: host of the exchange that the runs would have read.

    Returns:
        The runs that had no row and were recorded.

    Raises:
        ForeignExchange: the database holds another exchange's runs.
        DatabaseUnavailable, DatabaseRefused: the database cannot be reached, or refuses.
    """

    def work(connection: Connection) -> set[RunKey]:
        connection.execute(_OPENING)
        refuse_foreign(connection, exchange)
        now = clock.now()
        rows = [
            {
                "run_id": key.run_id,
                "run_date": key.run_date,
                "window_days": key.window_days,
                "target_date": key.target_date,
                "started_at": now,
                "finished_at": now,
                "heartbeat_at": now,
                "status": "missed",
                "stage": _FIRST_STAGE,
                "reason": reason,
                "attempt": _MISSED_ATTEMPT,
                "holder": holder,
                "dagster_run_id": _NONE,
                "exchange": exchange,
                "git_sha": git_sha,
            }
            for key in keys
        ]
        if not rows:
            return set()
        recorded = connection.execute(
            upsert(processing_runs)
            .values(rows)
            .on_conflict_do_nothing(index_elements=["run_id"])
            .returning(processing_runs.c.run_date, processing_runs.c.window_days)
        )
        return {RunKey(row.run_date, row.window_days) for row in recorded}

    return in_transaction(engine, work)


def _attempt_for(
    connection: Connection, key: RunKey, row: Row[Any] | None, dagster_run_id: str, on_existing: OnExisting
) -> int:
    """Number of the asking Dagster run's attempt: the one it already has, or the next."""
    if row is None:
        return 1
    if row.dagster_run_id == dagster_run_id:
        return int(row.attempt)
    earlier = connection.execute(
        select(processing_attempts.c.attempt).where(
            processing_attempts.c.run_id == key.run_id, processing_attempts.c.dagster_run_id == dagster_run_id
        )
    ).scalar_one_or_none()
    if earlier is not None:
        raise _lost(key, earlier, row)
    if row.status == "completed" and not _is_to_be_taken(connection, key, on_existing):
        raise RunAlreadyStored(
            f"the run {key} is stored complete since {_moment(row.finished_at)} (attempt {row.attempt}): "
            "nothing was done. Use --on-existing update to write it again."
        )
    return int(row.attempt) + 1


def _earlier_than(engine: Engine, key: RunKey, dagster_run_id: str, began: Began | None) -> Callable[[Row[Any]], bool]:
    """Tells of the run's row whether the Dagster run that holds it is later than the asking one.

    Dagster's storage is asked here, before the transaction: nobody should wait for a lock because it does not answer.
    """
    if began is None:
        return lambda _: False
    select_holder = select(processing_runs.c.dagster_run_id).where(processing_runs.c.run_id == key.run_id)
    holder = in_transaction(engine, lambda connection: connection.execute(select_holder).scalar_one_or_none())
    before = began.before(holder) if holder not in (None, _NONE, dagster_run_id) else None

    def holds_later(row: Row[Any]) -> bool:
        if row.dagster_run_id == _NONE:
            return False
        if row.dagster_run_id == holder and before is not None:
            return before
        return bool(row.started_at > began.at)

    return holds_later


def _is_to_be_taken(connection: Connection, key: RunKey, on_existing: OnExisting) -> bool:
    """True where a run that is stored complete is to be run again."""
    if on_existing == "skip":
        return key.window_days in windows_in_batches(connection, key.run_date)
    return on_existing == "update"


def _was_missed(connection: Connection, key: RunKey) -> bool:
    """True for a run whose day was missed: its row counts a first attempt that was not made."""
    attempts = processing_attempts.c
    first = select(attempts.attempt).where(attempts.run_id == key.run_id, attempts.attempt == _MISSED_ATTEMPT)
    return connection.execute(first).one_or_none() is None


def _take(
    connection: Connection, lease: Lease, exchange: str, git_sha: str | None, *, reopened: bool, missed: bool
) -> None:
    now = lease.clock.now()
    held = {
        "attempt": lease.attempt,
        "holder": lease.holder,
        "dagster_run_id": lease.dagster_run_id,
        "heartbeat_at": now,
        "status": "running",
        "finished_at": None,
        "reason": None,
    }
    fresh = {"stage": _FIRST_STAGE, "started_at": now}
    counts = dict.fromkeys(f"{kind}_markets" for kind in ("offered", "excluded", "rejected", "failed", "processed"))
    run = {
        **held,
        **({} if reopened else fresh | counts | {"total_markets": None, "excluded_by_reason": None, "summary": None}),
        "git_sha": git_sha,
        "exchange": exchange,
    }
    if missed:
        del run["reason"]  # why the day was missed, until an attempt makes up for it
    named = {
        "run_id": lease.run_id,
        "run_date": lease.key.run_date,
        "window_days": lease.key.window_days,
        "target_date": lease.key.target_date,
    }
    connection.execute(
        upsert(processing_runs)
        .values(**named, **({"started_at": now} | run))
        .on_conflict_do_update(index_elements=["run_id"], set_=run)
    )
    connection.execute(
        update(processing_attempts)
        .where(
            processing_attempts.c.run_id == lease.run_id,
            processing_attempts.c.attempt < lease.attempt,
            processing_attempts.c.status == "running",
        )
        .values(status="interrupted", finished_at=now, reason=f"taken over by attempt {lease.attempt}: {lease.holder}")
    )
    attempt = {name: value for name, value in held.items() if name != "attempt"} | ({} if reopened else fresh)
    connection.execute(
        upsert(processing_attempts)
        .values(run_id=lease.run_id, attempt=lease.attempt, **({"started_at": now} | attempt))
        .on_conflict_do_update(index_elements=["run_id", "attempt"], set_=attempt)
    )


def refuse_foreign(connection: Connection, exchange: str) -> None:
    """Refuse to go on where the database holds another exchange's runs.

    Raises:
        ForeignExchange: it does.
    """
    other = connection.execute(
        select(processing_runs.c.exchange).where(processing_runs.c.exchange != exchange).limit(1)
    ).scalar_one_or_none()
    if other is not None:
        raise ForeignExchange(
            f"the database holds runs of {on_one_line(other)}, this one reads {exchange}: set DATABASE_URL (or "
            "SUPABASE_DB_URL) to a database of its own, or POLYMARKET_BASE_URL to the exchange that the database is "
            "for."
        )


def _lost(key: RunKey, attempt: int, row: Row[Any] | None) -> LeaseLost:
    if row is None:
        return LeaseLost(f"attempt {attempt} of the run {key} cannot go on: its row is gone from processing_runs.")
    if row.attempt == attempt:
        return LeaseLost(f"attempt {attempt} of the run {key} has ended already ({row.status}); start a new one.")
    return LeaseLost(
        f"attempt {attempt} of the run {key} stops: attempt {row.attempt} took over at {_moment(row.started_at)} "
        f"(held by {on_one_line(row.holder)}, Dagster run {on_one_line(row.dagster_run_id)}, "
        f"last heard of at {_moment(row.heartbeat_at)})."
    )


def _too_old(key: RunKey, dagster_run_id: str, row: Row[Any]) -> LeaseLost:
    return LeaseLost(
        f"the Dagster run {dagster_run_id} may not take the run {key} over: attempt {row.attempt} is of a later one "
        f"({on_one_line(row.dagster_run_id)}, {row.status}, begun at {_moment(row.started_at)} by "
        f"{on_one_line(row.holder)}). If this one is not a leftover, launch it again."
    )


def _moment(instant: datetime | None) -> str:
    return instant.isoformat(timespec="seconds") if instant is not None else "an unknown time"
