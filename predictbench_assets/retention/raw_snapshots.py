"""Raw snapshots: from the database to the archive once a market has long been settled, and back when someone asks.

A raw snapshot leaves the database in one transaction, after the archive that has it was read back. So whatever is cut
short where, each is in one of the two places, and the next prune goes on.
"""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from uuid import UUID

from sqlalchemy import Engine

from predictbench_assets.failures import PermanentError, PredictbenchError, StoreRefused, StoreUnwell
from predictbench_assets.printable import on_one_line
from predictbench_assets.retention.archive import ArchiveBroken, archived_rows, open_archive, write_archive
from predictbench_assets.retention.pruned import Pruned
from predictbench_assets.retention.stored import (
    Archive,
    ArchivedMarket,
    archive_id,
    archived_markets,
    move_to_archive,
    raw_rows,
    restore_rows,
    rows_only_in,
    settled_market_ids,
    settled_runs,
    stored_archives,
)
from predictbench_assets.runs import RunKey
from predictbench_assets.staging import StagingArea

BATCH_BYTES = 4_000_000
"""Bytes of a batch as stored, compressed: in memory it is several times as large."""

_log = logging.getLogger(__name__)


class NothingArchived(PermanentError):
    """No raw snapshot of what was asked for is in an archive."""


@dataclass(frozen=True)
class Verified:
    """Result of reading all archives again."""

    archives: int
    rows: int
    problems: tuple[str, ...]
    """A sentence for each archive that does not hold what it must."""


def prune_raw_snapshots(
    engine: Engine, archive: StagingArea, *, now: datetime, days: int, batch: int = 500, dry_run: bool = False
) -> Pruned:
    """Archive the raw snapshots of markets that have been final for `days`, and take them out of the database.

    Args:
        batch: the most rows in one archive and one transaction; there is a limit of bytes as well.
        dry_run: only count them.

    Raises:
        ArchiveBroken, StagedFileBroken: an archive could not be read back; its rows are still in the database.
        DatabaseUnavailable, DatabaseRefused: the database cannot be reached, or refuses; finished batches stay.
    """
    pruned = Pruned("raw snapshots of settled markets")
    settled_before = now - timedelta(days=days)
    for run in settled_runs(engine, settled_before=settled_before, now=now):
        if dry_run:
            pruned.add(run.markets, run.bytes)
            continue
        moved = 0
        for ids, size in _batches(settled_market_ids(engine, run.key, settled_before=settled_before), batch):
            moved += _move(engine, archive, run.key, ids, size, now, pruned)
        _log.info("%s: %s raw snapshots are in the archive now", run.key, f"{moved:,}")
    if pruned.kept:
        pruned.notes.append("rows that were being written, or had just been, stay for the next time")
    if pruned.count and not dry_run:
        pruned.notes.append(
            "the space is free for new rows of the same tables, not for the disk: VACUUM FULL would give it back, and "
            "locks the table while it runs"
        )
    return pruned


def verify_archives(engine: Engine, archive: StagingArea) -> Verified:
    """Read every archive again: is it whole, and does it have every market that counts on it?

    Raises:
        StoreRefused, StoreUnwell: the store cannot be read, which is not a fault of an archive.
    """
    problems, rows = [], 0
    found = stored_archives(engine)
    for one in found:
        try:
            held = {row.processed_market_id for row in archived_rows(open_archive(archive, one.uri, one.sha256))}
        except (StoreRefused, StoreUnwell):
            raise
        except PredictbenchError as error:
            problems.append(f"archive {one.archive_id}: {error}")
            continue
        rows += len(held)
        missing = rows_only_in(engine, one) - held
        if missing or len(held) != one.rows:
            problems.append(
                f"archive {one.archive_id} at {one.uri}: {len(held):,} of {one.rows:,} rows, "
                f"{len(missing):,} markets that count on it are not in it"
            )
    return Verified(len(found), rows, tuple(problems))


def restore_raw_snapshots(
    engine: Engine, archive: StagingArea, *, market_id: str | None = None, key: RunKey | None = None
) -> int:
    """Put raw snapshots back into the database: those of a market in every run, or those of a run.

    They stay in their archive as well; the next prune takes them out of the database again.

    Raises:
        NothingArchived: none of them is in an archive.
        StagedFileMissing, StagedFileBroken, ArchiveBroken: an archive is not what it was; nothing of it is put back.
    """
    wanted = archived_markets(engine, market_id=market_id, key=key)
    if not wanted:
        raise NothingArchived(
            f"no raw snapshot of {market_id if key is None else key} is in an archive: it is in the database, "
            "in the column raw_snapshot of processed_markets, or was never stored."
        )
    archives = {one.archive_id: one for one in stored_archives(engine)}
    return sum(
        _restore(engine, archive, archives[identity], list(markets))
        for identity, markets in groupby(wanted, key=lambda market: market.archive_id)
    )


def _batches(markets: Sequence[tuple[UUID, int]], rows: int) -> Iterator[tuple[list[UUID], int]]:
    """Ids in their order, cut so that no batch has too many rows or too many bytes; each with its bytes."""
    ids: list[UUID] = []
    size = 0
    for market, its_size in markets:
        if ids and (len(ids) == rows or size + its_size > BATCH_BYTES):
            yield ids, size
            ids, size = [], 0
        ids.append(market)
        size += its_size
    if ids:
        yield ids, size


def _move(
    engine: Engine, area: StagingArea, key: RunKey, ids: list[UUID], size: int, now: datetime, pruned: Pruned
) -> int:
    rows = raw_rows(engine, ids)
    if not rows:
        return 0
    written = write_archive(area, key, rows)
    archive = Archive(archive_id(written.sha256), written.uri, written.sha256, written.rows, now)
    digests = [
        (row.processed_market_id, hashlib.md5(row.raw.encode(), usedforsecurity=False).hexdigest()) for row in rows
    ]
    moved = move_to_archive(engine, archive, digests)
    pruned.add(moved, size if moved == len(ids) else size * moved // len(ids))
    pruned.kept += len(rows) - moved
    return moved


def _restore(engine: Engine, area: StagingArea, archive: Archive, markets: list[ArchivedMarket]) -> int:
    wanted = {market.processed_market_id for market in markets}
    # To its end before anything is put back: only then is it known to be whole.
    rows = [
        (row.processed_market_id, bytes(row.raw).decode())
        for row in archived_rows(open_archive(area, archive.uri, archive.sha256))
        if row.processed_market_id in wanted
    ]
    if len(rows) != len(wanted):
        raise ArchiveBroken(
            f"{on_one_line(archive.uri)} lacks {len(wanted) - len(rows)} of the raw snapshots that count on it."
        )
    return restore_rows(engine, rows)
