"""Raw snapshots on their way out of the database and back, and the SQL that decides when a run is over.

A market is settled for good once its newest observation is `final` and has been the same for long enough; one that was
settled anew counts from then. Every statement is a transaction of its own, short enough for any pooler.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid5

from psycopg.types.json import Jsonb
from sqlalchemy import Connection, Engine, select, text

from predictbench_assets.database.as_of import newest_observation
from predictbench_assets.database.errors import in_transaction
from predictbench_assets.database.schema import archives, snapshots
from predictbench_assets.runs import RUN_NAMESPACE, RunKey

_SILENT = timedelta(days=1)
"""A run that is called running and was not heard of for this long is not; longer than a schedule has patience, since
what is removed under a run's feet does not come back."""

# Since when a market is in its present state: the first observation after the last different one.
_SINCE = f"""
    SELECT newest.state, coalesce(
        (SELECT min(same.observed_at) FROM predictbench.resolution_observations same
         WHERE same.market_id = m.market_id AND same.observed_at > coalesce(
            (SELECT max(other.observed_at) FROM predictbench.resolution_observations other
             WHERE other.market_id = m.market_id AND (other.state, other.outcome, other.payout)
                IS DISTINCT FROM (newest.state, newest.outcome, newest.payout)), '-infinity')),
        newest.observed_at) AS since
    FROM ({newest_observation("o.state, o.outcome, o.payout, o.observed_at")}) newest"""  # noqa: S608 - names of ours

_ENDED = "(p.status <> 'running' OR p.heartbeat_at < :silent)"

# pg_column_size: as stored, compressed; nothing is unpacked to count it.
_SETTLED_RUNS = text(f"""
    SELECT p.run_date, p.window_days, count(*) AS markets, sum(pg_column_size(m.raw_snapshot)) AS bytes
    FROM predictbench.processed_markets m
    JOIN predictbench.processing_runs p USING (run_id)
    CROSS JOIN LATERAL ({_SINCE}) now
    WHERE m.raw_snapshot IS NOT NULL AND now.state = 'final' AND now.since <= :settled_before AND {_ENDED}
        AND p.run_date <= :last_day
    GROUP BY p.run_date, p.window_days ORDER BY p.run_date, p.window_days""")  # noqa: S608 - names of ours

_SETTLED_IDS = text(f"""
    SELECT m.processed_market_id, pg_column_size(m.raw_snapshot) AS bytes
    FROM predictbench.processed_markets m CROSS JOIN LATERAL ({_SINCE}) now
    WHERE m.run_id = :run_id AND m.raw_snapshot IS NOT NULL
      AND now.state = 'final' AND now.since <= :settled_before
    ORDER BY m.processed_market_id""")  # noqa: S608 - names of ours

_RAW_ROWS = text("""
    SELECT processed_market_id, market_id, raw_snapshot::text AS raw FROM predictbench.processed_markets
    WHERE processed_market_id = ANY(:ids) AND raw_snapshot IS NOT NULL ORDER BY processed_market_id""")

_ADD_ARCHIVE = text("""
    INSERT INTO predictbench.archives (archive_id, uri, sha256, rows, made_at)
    VALUES (:archive_id, :uri, :sha256, :rows, :made_at) ON CONFLICT (archive_id) DO NOTHING""")

# Only what still is as it was archived: a row that is being written is left alone, one that has changed as well.
_MOVE = text("""
    WITH unchanged AS MATERIALIZED (
        SELECT m.processed_market_id FROM predictbench.processed_markets m
        JOIN jsonb_to_recordset(:rows) AS x(id uuid, md5 text) ON m.processed_market_id = x.id
        WHERE m.raw_snapshot IS NOT NULL AND md5(m.raw_snapshot::text) = x.md5
        FOR UPDATE OF m SKIP LOCKED
    )
    UPDATE predictbench.processed_markets m SET raw_snapshot = NULL, raw_archive_id = :archive_id
    FROM unchanged WHERE m.processed_market_id = unchanged.processed_market_id""")

_ARCHIVED = text("""
    SELECT m.processed_market_id, m.market_id, m.raw_archive_id FROM predictbench.processed_markets m
    WHERE m.raw_snapshot IS NULL AND (m.market_id = :market_id OR m.run_id = :run_id)
    ORDER BY m.raw_archive_id, m.processed_market_id""")

_OWED = text("""
    SELECT processed_market_id FROM predictbench.processed_markets
    WHERE raw_archive_id = :archive_id AND raw_snapshot IS NULL""")

_RESTORE = text("""
    UPDATE predictbench.processed_markets m SET raw_snapshot = x.raw
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS x(id uuid, raw jsonb)
    WHERE m.processed_market_id = x.id AND m.raw_snapshot IS NULL""")

_RUNNING = text(f"SELECT run_date, window_days FROM predictbench.processing_runs p WHERE NOT {_ENDED}")  # noqa: S608

# A market that could not be settled will not be settled by waiting either.
_ALL_SETTLED = text(f"""
    SELECT NOT EXISTS (
        SELECT FROM predictbench.processed_markets m LEFT JOIN LATERAL ({_SINCE}) now ON true
        WHERE m.run_id = :run_id AND (now.state IN ('final', 'gave_up') AND now.since <= :settled_before) IS NOT TRUE
    )""")  # noqa: S608 - names of ours

_REPLACE_URI = text("""
    UPDATE predictbench.snapshots SET uri = :new WHERE snapshot_id = :snapshot_id AND uri = :old""")


@dataclass(frozen=True)
class SettledRun:
    """A run with raw snapshots that may leave the database."""

    key: RunKey
    markets: int
    bytes: int
    """Bytes as stored, compressed."""


@dataclass(frozen=True, slots=True)
class RawSnapshot:
    """A market's raw snapshot as the database prints it."""

    processed_market_id: UUID
    market_id: str
    raw: str


@dataclass(frozen=True)
class Archive:
    """A row of `archives`: where raw snapshots are that left the database."""

    archive_id: UUID
    uri: str
    sha256: str
    rows: int
    made_at: datetime


@dataclass(frozen=True)
class ArchivedMarket:
    """A market whose raw snapshot is in an archive."""

    processed_market_id: UUID
    market_id: str
    archive_id: UUID


@dataclass(frozen=True)
class RegisteredSnapshot:
    """Place of a frozen snapshot's body."""

    snapshot_id: UUID
    key: RunKey
    uri: str
    content_hash: str
    rows: int


def archive_id(sha256: str) -> UUID:
    """The id of an archive follows from its content."""
    return uuid5(RUN_NAMESPACE, f"archive|{sha256}")


def settled_runs(engine: Engine, *, settled_before: datetime, now: datetime) -> list[SettledRun]:
    """Runs that have ended, with how many of their markets are final since `settled_before` and still have their raw
    snapshot; oldest first, runs without any left out."""

    values = {
        "settled_before": settled_before,
        "silent": now - _SILENT,
        # Nothing is settled before it was captured: younger runs need not be looked at, and they are most of it.
        "last_day": settled_before.astimezone(UTC).date(),
    }

    def work(connection: Connection) -> list[SettledRun]:
        rows = connection.execute(_SETTLED_RUNS, values)
        return [SettledRun(RunKey(row.run_date, row.window_days), row.markets, int(row.bytes)) for row in rows]

    return in_transaction(engine, work)


def settled_market_ids(engine: Engine, key: RunKey, *, settled_before: datetime) -> list[tuple[UUID, int]]:
    """The markets of a run whose raw snapshots may leave the database, with the bytes that each takes there."""
    values = {"run_id": key.run_id, "settled_before": settled_before}
    return in_transaction(
        engine, lambda connection: [(row[0], row[1]) for row in connection.execute(_SETTLED_IDS, values)]
    )


def raw_rows(engine: Engine, ids: Sequence[UUID]) -> list[RawSnapshot]:
    """The raw snapshots of these markets, in the order of their ids; those that have none are left out."""
    return in_transaction(
        engine, lambda connection: [RawSnapshot(*row) for row in connection.execute(_RAW_ROWS, {"ids": list(ids)})]
    )


def move_to_archive(engine: Engine, archive: Archive, digests: Sequence[tuple[UUID, str]]) -> int:
    """Take raw snapshots out of the database that a verified archive has; all in one transaction.

    Args:
        archive: registered along with it, unless no row is moved.
        digests: the markets, each with the MD5 of the text that was archived.

    Returns:
        How many were moved. Rows that are locked, or are not what was archived, stay.
    """
    rows = Jsonb([{"id": str(market), "md5": digest} for market, digest in digests])

    def work(connection: Connection) -> int:
        with connection.begin_nested() as all_of_it:
            connection.execute(_ADD_ARCHIVE, vars(archive))
            moved = connection.execute(_MOVE, {"rows": rows, "archive_id": archive.archive_id}).rowcount
            if not moved:
                all_of_it.rollback()
        return moved

    return in_transaction(engine, work)


def stored_archives(engine: Engine) -> list[Archive]:
    """Every archive that raw snapshots were moved to, oldest first."""
    query = select(archives).order_by(archives.c.made_at, archives.c.archive_id)
    return in_transaction(engine, lambda connection: [Archive(**row._asdict()) for row in connection.execute(query)])


def rows_only_in(engine: Engine, archive: Archive) -> set[UUID]:
    """The markets whose raw snapshot is in this archive and nowhere else."""
    values = {"archive_id": archive.archive_id}
    return in_transaction(engine, lambda connection: set(connection.execute(_OWED, values).scalars()))


def archived_markets(
    engine: Engine, *, market_id: str | None = None, key: RunKey | None = None
) -> list[ArchivedMarket]:
    """The rows of a market in every run, or those of a run, whose raw snapshot is in an archive."""
    values = {"market_id": market_id, "run_id": None if key is None else key.run_id}
    return in_transaction(
        engine, lambda connection: [ArchivedMarket(*row) for row in connection.execute(_ARCHIVED, values)]
    )


def restore_rows(engine: Engine, rows: Sequence[tuple[UUID, str]]) -> int:
    """Give markets that have none their raw snapshot again, as the text of its JSON; returns how many got it."""
    # Put together as text: numbers must not pass through Python, which keeps fewer digits of them than jsonb does.
    values = "[" + ",".join(f'{{"id":"{market}","raw":{raw}}}' for market, raw in rows) + "]"
    return in_transaction(engine, lambda connection: connection.execute(_RESTORE, {"rows": values}).rowcount)


def running_keys(engine: Engine, *, now: datetime) -> set[RunKey]:
    """The runs that somebody is at: held, and heard of lately."""
    values = {"silent": now - _SILENT}
    return in_transaction(engine, lambda connection: {RunKey(*row) for row in connection.execute(_RUNNING, values)})


def registered_snapshots(engine: Engine) -> list[RegisteredSnapshot]:
    """Every frozen snapshot, superseded ones included."""
    known = snapshots.c
    query = select(known.snapshot_id, known.run_date, known.window_days, known.uri, known.content_hash, known.rows)

    def work(connection: Connection) -> list[RegisteredSnapshot]:
        return [
            RegisteredSnapshot(
                row.snapshot_id, RunKey(row.run_date, row.window_days), row.uri, row.content_hash, row.rows
            )
            for row in connection.execute(query)
        ]

    return in_transaction(engine, work)


def all_settled(engine: Engine, key: RunKey, *, settled_before: datetime) -> bool:
    """True where every market that a run stored has been settled, or given up, since `settled_before`."""
    values = {"run_id": key.run_id, "settled_before": settled_before}
    return in_transaction(engine, lambda connection: bool(connection.execute(_ALL_SETTLED, values).scalar_one()))


def replace_snapshot_uri(engine: Engine, snapshot: RegisteredSnapshot, uri: str) -> bool:
    """Record that a snapshot's body has moved; false where someone else has recorded that first."""
    values = {"snapshot_id": snapshot.snapshot_id, "old": snapshot.uri, "new": uri}
    return in_transaction(engine, lambda connection: connection.execute(_REPLACE_URI, values).rowcount == 1)
