"""Reads of stored runs, for checks and the command line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Engine, func, select, text

from predictbench_assets.database.errors import in_transaction
from predictbench_assets.database.schema import experiment_runs, experiments, processing_runs, snapshots
from predictbench_assets.experiments.registry import Registry
from predictbench_assets.persistence.leases import is_gone
from predictbench_assets.runs import RunKey, RunState

_ATTEMPTS = text("""
    SELECT p.run_date, p.window_days, e.name, e.version, a.config_hash,
        coalesce(a.completed, 0), coalesce(a.skipped, 0), coalesce(a.failed, 0)
    FROM predictbench.experiment_runs a
    JOIN predictbench.experiments e USING (experiment_id) JOIN predictbench.processing_runs p USING (run_id)
    WHERE p.run_date BETWEEN :first AND :last AND a.status <> 'not_run' AND a.snapshot_hash = p.snapshot_hash
    ORDER BY p.run_date, p.window_days, e.name, a.attempt
""")
_STATUSES = text("""
    SELECT experiment, version, status, count(*) AS markets FROM predictbench.latest_experiment_results
    WHERE experiment = ANY(:names) AND withdrawn_at IS NULL AND status <> 'not_run'
    GROUP BY experiment, version, status ORDER BY experiment, version
""")
# As boards see it: what an attempt has stored stays, whatever later attempts come to. Of a run that is not stored only
# the newest attempt is known. Whether a run is reconstructed is decided here alone.
_STATES = text("""
    SELECT p.run_date, p.window_days,
        coalesce(stored.status, CASE WHEN p.status IN ('completed', 'partial') OR p.finished_at > :as_of
            THEN 'running' ELSE p.status END) AS status,
        stored.status IS NOT NULL AND p.as_of IS NOT NULL AS reconstructed
    FROM predictbench.processing_runs p
    LEFT JOIN LATERAL (
        SELECT a.status FROM predictbench.processing_attempts a
        WHERE a.run_id = p.run_id AND a.status IN ('completed', 'partial') AND a.finished_at <= :as_of
        ORDER BY a.attempt DESC LIMIT 1
    ) stored ON true
    WHERE stored.status IS NOT NULL OR p.started_at <= :as_of
""")


@dataclass(frozen=True)
class StoredRun:
    """A run, read from its row."""

    key: RunKey
    status: str
    attempt: int
    holder: str
    dagster_run_id: str
    started_at: datetime
    heartbeat_at: datetime
    finished_at: datetime | None
    exchange: str
    stage: str | None
    reason: str | None
    offered_markets: int | None
    excluded_markets: int | None
    rejected_markets: int | None
    total_markets: int | None
    processed_markets: int | None
    failed_markets: int | None
    snapshot_hash: str | None
    summary: Mapping[str, Any] | None

    @property
    def abandoned(self) -> bool:
        """True where the process that held it last is known to be gone."""
        return is_gone(self.holder)


def stored_exchange(engine: Engine) -> str | None:
    """The exchange that the stored runs read, or None where none is stored; a database has only one."""
    query = select(processing_runs.c.exchange).limit(1)
    return in_transaction(engine, lambda connection: connection.execute(query).scalar())


def stored_run(engine: Engine, key: RunKey) -> StoredRun | None:
    """The row of a run, or None where it was never opened."""
    names = [name for name in StoredRun.__dataclass_fields__ if name != "key"]

    def work(connection: Connection) -> StoredRun | None:
        columns = [processing_runs.c[name] for name in names]
        row = connection.execute(select(*columns).where(processing_runs.c.run_id == key.run_id)).one_or_none()
        return None if row is None else StoredRun(key=key, **row._asdict())

    return in_transaction(engine, work)


def stored_runs(engine: Engine, first: date, last: date) -> dict[RunKey, StoredRun]:
    """The runs of some days, `last` included, that have a row; without their summaries, which can be long."""
    names = [field.name for field in fields(StoredRun) if field.name not in ("key", "summary")]
    runs = processing_runs.c

    def work(connection: Connection) -> dict[RunKey, StoredRun]:
        columns = [runs.run_date, runs.window_days, *(runs[name] for name in names)]
        found = {}
        for row in connection.execute(select(*columns).where(runs.run_date.between(first, last))):
            values = row._asdict()
            key = RunKey(values.pop("run_date"), values.pop("window_days"))
            found[key] = StoredRun(key=key, summary=None, **values)
        return found

    return in_transaction(engine, work)


def run_states(engine: Engine, as_of: datetime) -> dict[RunKey, RunState]:
    """What has become of every run that had begun, or was missed, by then."""
    rows = in_transaction(engine, lambda connection: connection.execute(_STATES, {"as_of": as_of}).all())
    return {RunKey(row.run_date, row.window_days): RunState(row.status, row.reconstructed) for row in rows}


@dataclass(frozen=True)
class StoredAttempt:
    """An attempt of an experiment in a run, with the numbers of its results."""

    key: RunKey
    experiment: str
    version: str
    config_hash: str | None
    completed: int
    skipped: int
    failed: int


def stored_attempts(engine: Engine, first: date, last: date) -> list[StoredAttempt]:
    """The attempts of all experiments in the runs of some days, `last` included, on the snapshots that hold now."""
    rows = in_transaction(
        engine, lambda connection: connection.execute(_ATTEMPTS, {"first": first, "last": last}).all()
    )
    return [StoredAttempt(RunKey(row.run_date, row.window_days), *row[2:]) for row in rows]


def missing_experiments(
    engine: Engine, registry: Registry, keys: Sequence[RunKey]
) -> dict[RunKey, tuple[str, ...] | None]:
    """The experiments without an attempt as they are now, by run; None for a run that is not stored complete.

    Another version or configuration is none, and neither is an attempt that failed for every market.
    """
    first, last = min(key.run_date for key in keys), max(key.run_date for key in keys)
    runs = stored_runs(engine, first, last)
    done = {
        (one.key, one.experiment, one.version, one.config_hash)
        for one in stored_attempts(engine, first, last)
        if one.completed or not one.failed
    }
    found: dict[RunKey, tuple[str, ...] | None] = dict.fromkeys(keys)
    for key in keys:
        if key in runs and runs[key].status == "completed":
            found[key] = tuple(
                one.name for one in registry if (key, one.name, one.version, registry.config_hash(one.name)) not in done
            )
    return found


def results_by_status(engine: Engine, names: Sequence[str]) -> dict[tuple[str, str], dict[str, int]]:
    """Number of markets by status, for each version of some experiments, over all runs."""
    found: dict[tuple[str, str], dict[str, int]] = {}
    rows = in_transaction(engine, lambda connection: connection.execute(_STATUSES, {"names": list(names)}).all())
    for row in rows:
        found.setdefault((row.experiment, row.version), {})[row.status] = row.markets
    return found


def first_days(engine: Engine) -> dict[int, date]:
    """The first run date of each window that has runs."""
    window = processing_runs.c.window_days
    query = select(window, func.min(processing_runs.c.run_date)).group_by(window)
    rows = in_transaction(engine, lambda connection: connection.execute(query).all())
    return {row[0]: row[1] for row in rows}


def frozen_runs(engine: Engine, first: date, last: date) -> set[RunKey]:
    """The runs of some days, `last` included, that have a snapshot to be run on again."""
    query = select(snapshots.c.run_date, snapshots.c.window_days).where(
        snapshots.c.run_date.between(first, last),
        snapshots.c.superseded_at.is_(None) | snapshots.c.refused.is_not(None),
    )
    rows = in_transaction(engine, lambda connection: connection.execute(query).all())
    return {RunKey(row.run_date, row.window_days) for row in rows}


def forecasters(engine: Engine, key: RunKey) -> set[str]:
    """Names of the experiments of which a run has stored forecasts."""
    query = (
        select(experiments.c.name)
        .join(experiment_runs, experiment_runs.c.experiment_id == experiments.c.experiment_id)
        .where(experiment_runs.c.run_id == key.run_id, experiment_runs.c.completed > 0)
    )
    return set(in_transaction(engine, lambda connection: connection.execute(query).scalars().all()))


def cohort_sizes(engine: Engine, key: RunKey, days: int) -> dict[date, int]:
    """Markets offered, by run date, in the complete runs of the same window on the `days` days before."""

    def work(connection: Connection) -> dict[date, int]:
        rows = connection.execute(
            select(processing_runs.c.run_date, processing_runs.c.offered_markets)
            .where(
                processing_runs.c.window_days == key.window_days,
                processing_runs.c.run_date < key.run_date,
                processing_runs.c.run_date >= key.run_date - timedelta(days=days),
                processing_runs.c.status == "completed",
            )
            .order_by(processing_runs.c.run_date)
        )
        return {row.run_date: row.offered_markets for row in rows}

    return in_transaction(engine, work)
