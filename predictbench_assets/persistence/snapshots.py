"""The registry of frozen snapshots: which staged file is the one that a run date and window was forecast on."""

from dataclasses import asdict

from sqlalchemy import ColumnElement, Connection, Engine, and_, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from predictbench_assets.database.errors import in_transaction
from predictbench_assets.database.schema import snapshots
from predictbench_assets.failures import PermanentError
from predictbench_assets.ingestion.registry import SnapshotRecord
from predictbench_assets.persistence.leases import Lease
from predictbench_assets.runs import RunKey


class SnapshotOfAnotherKind(PermanentError):
    """A reconstruction in the place of a captured snapshot, or the other way round."""


def find_snapshot(engine: Engine, key: RunKey) -> SnapshotRecord | None:
    """The snapshot that counts for a run date and window, or None where none is registered."""
    return _newest(engine, key, snapshots.c.superseded_at.is_(None))


def find_refused_snapshot(engine: Engine, key: RunKey) -> SnapshotRecord | None:
    """The newest snapshot of a run date and window that a check refused, or None."""
    return _newest(engine, key, snapshots.c.refused.is_not(None))


def _newest(engine: Engine, key: RunKey, chosen: ColumnElement[bool]) -> SnapshotRecord | None:
    def work(connection: Connection) -> SnapshotRecord | None:
        row = connection.execute(
            select(snapshots)
            .where(_of(key), chosen)
            .order_by(snapshots.c.captured_at.desc(), snapshots.c.snapshot_id)
            .limit(1)
        ).one_or_none()
        if row is None:
            return None
        values = row._asdict()
        for name in ("snapshot_id", "run_date", "window_days", "superseded_at"):
            del values[name]
        return SnapshotRecord(key=key, **values)

    return in_transaction(engine, work)


def register_snapshot(lease: Lease, record: SnapshotRecord) -> None:
    """Make a snapshot the one that counts; the one before it, if any, stays as superseded. Idempotent.

    Raises:
        SnapshotOfAnotherKind: a captured snapshot counts and this one is reconstructed, or the other way round.
        LeaseLost: a newer attempt has taken the run over.
    """
    if record.key != lease.key:
        raise ValueError(f"a snapshot of {record.key} cannot be registered under the lease of {lease.key}")
    values = asdict(record)
    del values["key"]
    values |= {
        "snapshot_id": record.snapshot_id,
        "run_date": record.key.run_date,
        "window_days": record.key.window_days,
        "api": dict(record.api),
    }

    def work(connection: Connection) -> None:
        lease.hold(connection, snapshot_hash=record.content_hash, as_of=record.as_of)
        counts = connection.execute(
            select(snapshots.c.as_of).where(_of(record.key), snapshots.c.superseded_at.is_(None))
        ).one_or_none()
        if counts is not None and (counts.as_of is None) != (record.as_of is None):
            kinds = ("captured", "reconstructed") if counts.as_of is None else ("reconstructed", "captured")
            raise SnapshotOfAnotherKind(
                f"the snapshot of {record.key} was {kinds[0]}: one that is {kinds[1]} never takes its place."
            )
        connection.execute(
            update(snapshots)
            .where(
                _of(record.key),
                snapshots.c.superseded_at.is_(None),
                snapshots.c.snapshot_id != record.snapshot_id,
            )
            .values(superseded_at=lease.clock.now())
        )
        counting = {"superseded_at": None, "refused": None, "uri": record.uri}
        connection.execute(
            upsert(snapshots)
            .values(**(values | {"refused": None}))
            .on_conflict_do_update(index_elements=["snapshot_id"], set_=counting)
        )

    in_transaction(lease.engine, work)


def refuse_snapshot(lease: Lease, content_hash: str, reason: str) -> None:
    """Keep the snapshot that counts aside, with the reason; the one that it superseded, if any, counts again.

    Args:
        content_hash: hash of the snapshot that was read; nothing happens where another one counts by now.

    Raises:
        LeaseLost: a newer attempt has taken the run over.
    """
    of_run = _of(lease.key)

    def work(connection: Connection) -> None:
        before = connection.execute(
            select(snapshots.c.snapshot_id, snapshots.c.content_hash, snapshots.c.as_of)
            .where(of_run, snapshots.c.superseded_at.is_not(None), snapshots.c.refused.is_(None))
            .order_by(snapshots.c.superseded_at.desc(), snapshots.c.snapshot_id)
            .limit(1)
        ).one_or_none()
        lease.hold(
            connection,
            snapshot_hash=None if before is None else before.content_hash,
            as_of=None if before is None else before.as_of,
        )
        refused = connection.execute(
            update(snapshots)
            .where(of_run, snapshots.c.superseded_at.is_(None), snapshots.c.content_hash == content_hash)
            .values(superseded_at=lease.clock.now(), refused=reason)
        )
        if refused.rowcount and before is not None:
            connection.execute(
                update(snapshots).where(snapshots.c.snapshot_id == before.snapshot_id).values(superseded_at=None)
            )

    in_transaction(lease.engine, work)


def _of(key: RunKey) -> ColumnElement[bool]:
    return and_(snapshots.c.run_date == key.run_date, snapshots.c.window_days == key.window_days)
