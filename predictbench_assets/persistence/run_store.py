"""The store of runs for assets and commands: leases, snapshots, reads. A dry run gets one that writes nothing."""

from collections.abc import Collection, Iterable, Mapping
from datetime import date, datetime
from functools import cached_property

from sqlalchemy import Engine, select

from predictbench_assets.commit import running_commit
from predictbench_assets.database import revisions
from predictbench_assets.database.connection import database_url
from predictbench_assets.database.engine import make_engine
from predictbench_assets.database.errors import in_transaction
from predictbench_assets.database.patience import Patience
from predictbench_assets.database.schema import processing_attempts
from predictbench_assets.experiments.history import settled_counts, settled_forecasts, settled_markets
from predictbench_assets.experiments.model_calls.records import CallScope
from predictbench_assets.experiments.model_calls.store import waiting_in_batches, windows_in_batches
from predictbench_assets.experiments.protocol import SettledCount, SettledForecast, SettledMarket
from predictbench_assets.failures import Stage
from predictbench_assets.ingestion.registry import SnapshotRecord
from predictbench_assets.persistence.leases import Lease, OnExisting, open_lease, record_missed, this_holder
from predictbench_assets.persistence.snapshots import (
    find_refused_snapshot,
    find_snapshot,
    refuse_snapshot,
    register_snapshot,
)
from predictbench_assets.persistence.stored_runs import (
    StoredRun,
    cohort_sizes,
    forecasters,
    stored_run,
    stored_runs,
)
from predictbench_assets.runs import Began, RunKey
from predictbench_assets.settings import Settings


class RunDatabase:
    """Reads and writes of one process, over one small pool that is opened at first use."""

    dry = False

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._patience = Patience(settings.db_timeout_seconds)

    def hurry(self) -> None:
        """Wait a few seconds at most for the database from now on: this process is ending."""
        self._patience.hurry()

    @cached_property
    def engine(self) -> Engine:
        """The engine; starts the embedded server where the settings name no other."""
        settings = self._settings
        return make_engine(database_url(settings), pool_size=settings.db_pool_max_size, patience=self._patience)

    def open(
        self, key: RunKey, dagster_run_id: str, on_existing: OnExisting = "update", *, began: Began | None = None
    ) -> Lease:
        """Take the run over for a Dagster run, or return the lease that it holds; `began` as for `open_lease`.

        Raises:
            LeaseLost: a later Dagster run has it.
            RunAlreadyStored: the run is complete and `on_existing` is not `update`.
            ForeignExchange: the database belongs to another exchange.
        """
        return open_lease(
            self.engine,
            key,
            dagster_run_id=dagster_run_id,
            holder=this_holder(steps_apart=self._settings.executor != "in_process"),
            exchange=self._settings.exchange,
            git_sha=running_commit(self._settings),
            clock=self._settings.clock,
            on_existing=on_existing,
            began=began,
        )

    def beat(self, key: RunKey, dagster_run_id: str, stage: Stage) -> None:
        """Renew the heartbeat of a Dagster run that holds the run; one that materializes a single asset does not.

        An attempt that has ended stays ended: when one experiment's asset has failed the run, the others still run.

        Raises:
            LeaseLost: it did hold the run, and a newer one has taken over.
        """
        lease = self._held(key, dagster_run_id)
        if lease is not None:
            lease.beat(stage)

    def fail(self, key: RunKey, dagster_run_id: str, stage: Stage, reason: str, *, retriable: bool) -> None:
        """Record why the Dagster run failed, if it holds the run and no failure is recorded yet."""
        run = self.stored_run(key)
        if run is not None and run.dagster_run_id == dagster_run_id and run.status == "running":
            self._lease(run).fail(stage, reason, retriable=retriable)

    def snapshot(self, key: RunKey) -> SnapshotRecord | None:
        """The frozen snapshot of a run, if one is stored."""
        return find_snapshot(self.engine, key)

    def refused_snapshot(self, key: RunKey) -> SnapshotRecord | None:
        """The newest snapshot of a run that a check refused, if there is one."""
        return find_refused_snapshot(self.engine, key)

    def register(self, record: SnapshotRecord, dagster_run_id: str, began: Began | None = None) -> None:
        """Make a snapshot the one that counts for its run."""
        register_snapshot(self.open(record.key, dagster_run_id, began=began), record)

    def refuse(
        self, key: RunKey, content_hash: str, reason: str, dagster_run_id: str, began: Began | None = None
    ) -> None:
        """Set a snapshot aside that a check refused, so that the next try captures another."""
        refuse_snapshot(self.open(key, dagster_run_id, began=began), content_hash, reason)

    def forecasters(self, key: RunKey) -> set[str]:
        """Names of the experiments with stored forecasts of a run."""
        return forecasters(self.engine, key)

    def history(self, as_of: datetime) -> Iterable[SettledMarket]:
        """Markets whose resolution was known at an instant, oldest first."""
        return settled_markets(self.engine, as_of)

    def history_counts(self, as_of: datetime) -> Mapping[str, SettledCount]:
        """Their counts by category."""
        return settled_counts(self.engine, as_of)

    def settled_forecasts(
        self, name: str, version: str, as_of: datetime, *, own: bool = True
    ) -> Iterable[SettledForecast]:
        """Timely forecasts of an experiment's version whose markets had settled by an instant; payloads of its own."""
        return settled_forecasts(self.engine, name, version, as_of, own=own)

    def cohort_sizes(self, key: RunKey, days: int) -> dict[date, int]:
        """Markets offered on each of the `days` days before, for the same window."""
        return cohort_sizes(self.engine, key, days)

    def stored_run(self, key: RunKey) -> StoredRun | None:
        """The run's row as it stands, or None before its first attempt."""
        return stored_run(self.engine, key)

    def runs_of(self, day: date) -> dict[int, StoredRun]:
        """The runs of a day that have a row, by window."""
        return {key.window_days: run for key, run in stored_runs(self.engine, day, day).items()}

    def batches_of(self, day: date) -> set[int]:
        """The windows of a day of which batches of paid calls are under way."""
        if not revisions.is_current(self.engine):
            return set()
        return in_transaction(self.engine, lambda connection: windows_in_batches(connection, day))

    def waiting_in_batches(self, key: RunKey) -> dict[CallScope, int]:
        """Calls of a run that are in batches which are not collected, by whom they were made for."""
        return in_transaction(self.engine, lambda connection: waiting_in_batches(connection, key))

    def miss(self, keys: Collection[RunKey], reason: str) -> set[RunKey]:
        """Record runs that were never begun and cannot be made any more; return those that had no row."""
        return record_missed(
            self.engine,
            keys,
            reason=reason,
            holder=this_holder(steps_apart=False),
            exchange=self._settings.exchange,
            git_sha=running_commit(self._settings),
            clock=self._settings.clock,
        )

    def attempt(self, key: RunKey, dagster_run_id: str) -> int | None:
        """The number of the Dagster run's attempt; None where it never held the run."""
        attempts = processing_attempts.c
        query = select(attempts.attempt).where(attempts.run_id == key.run_id, attempts.dagster_run_id == dagster_run_id)
        return in_transaction(self.engine, lambda connection: connection.execute(query).scalar_one_or_none())

    def _held(self, key: RunKey, dagster_run_id: str) -> Lease | None:
        run = self.stored_run(key)
        if run is None:
            return None
        if run.dagster_run_id == dagster_run_id:
            return self._lease(run) if run.status == "running" else None
        if self.attempt(key, dagster_run_id) is None:
            return None
        return self.open(key, dagster_run_id)  # raises, naming who has taken over

    def _lease(self, run: StoredRun) -> Lease:
        return Lease(self.engine, self._settings.clock, run.key, run.attempt, run.holder, run.dagster_run_id)


class DryRunDatabase(RunDatabase):
    """Reads what is stored and writes nothing."""

    dry = True

    def open(
        self, key: RunKey, dagster_run_id: str, on_existing: OnExisting = "update", *, began: Began | None = None
    ) -> Lease:
        """Raises: a dry run takes no lease."""
        del on_existing, began
        raise RuntimeError(f"the dry run {dagster_run_id} of {key} asked for a lease")

    def beat(self, key: RunKey, dagster_run_id: str, stage: Stage) -> None:
        """Record nothing."""

    def fail(self, key: RunKey, dagster_run_id: str, stage: Stage, reason: str, *, retriable: bool) -> None:
        """Record nothing."""

    def register(self, record: SnapshotRecord, dagster_run_id: str, began: Began | None = None) -> None:
        """Record nothing."""

    def refuse(
        self, key: RunKey, content_hash: str, reason: str, dagster_run_id: str, began: Began | None = None
    ) -> None:
        """Record nothing."""

    def miss(self, keys: Collection[RunKey], reason: str) -> set[RunKey]:
        """Record nothing."""
        del keys, reason
        return set()


def run_database(settings: Settings) -> RunDatabase:
    """The database that a process of these settings works with."""
    return DryRunDatabase(settings) if settings.predictbench_dry_run else RunDatabase(settings)
