"""Old files of the staging area: what a run can make again goes, the frozen snapshots move to the archive.

How old a file is follows from the run date in its name, since a copied area has other times on its files. What a stored
row points to stays: a snapshot that is not archived yet, the artifacts of experiments, and what was handed in.
"""

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path

from sqlalchemy import Engine

from predictbench_assets.failures import PermanentError
from predictbench_assets.ingestion.snapshot import SNAPSHOT
from predictbench_assets.retention.archive import ArchiveBroken
from predictbench_assets.retention.pruned import Pruned
from predictbench_assets.retention.stored import (
    RegisteredSnapshot,
    all_settled,
    registered_snapshots,
    replace_snapshot_uri,
    running_keys,
)
from predictbench_assets.runs import RunKey
from predictbench_assets.staging import Schema, StagedFile, StagingArea

_SNAPSHOTS = "snapshots/"
_STAGED = re.compile(r"(?!snapshots/|journals/|artifacts/|archive/)[^.].*/(\d{4}-\d{2}-\d{2})/(\d+)\.jsonl\.zst")
_JOURNAL = re.compile(r"journals/(\d{4}-\d{2}-\d{2})_w(\d+)/.+")
_DELETED_AT_ONCE = 500

_log = logging.getLogger(__name__)


class ArchiveInStaging(PermanentError):
    """The archive and the staging area are one place."""


@dataclass(frozen=True)
class _File:
    name: str
    key: RunKey
    bytes: int


def prune_staged(engine: Engine, area: StagingArea, *, now: datetime, days: int, dry_run: bool = False) -> Pruned:
    """Remove what assets staged for runs of more than `days` ago; a rerun makes it again from the frozen snapshot."""
    return _removed("staged files", _STAGED, engine, area, now=now, days=days, dry_run=dry_run)


def prune_journals(engine: Engine, area: StagingArea, *, now: datetime, days: int, dry_run: bool = False) -> Pruned:
    """Remove the journals of runs of more than `days` ago; a rerun asks its experiments anew."""
    return _removed("journals of experiments", _JOURNAL, engine, area, now=now, days=days, dry_run=dry_run)


def archive_snapshots(
    engine: Engine,
    area: StagingArea,
    archive: StagingArea,
    *,
    now: datetime,
    days: int,
    settled_days: int,
    dry_run: bool = False,
) -> Pruned:
    """Move frozen snapshots to the archive, of runs of more than `days` ago whose markets are all settled.

    A snapshot is copied, the copy read back, the registry turned to it, and only then the original removed; a rerun of
    the partition reads the copy. A file that this database does not know is never touched.

    Args:
        settled_days: for how long every market must have been final, or given up.

    Raises:
        ArchiveInStaging: both are the same place; a snapshot that was moved would be gone.
        ArchiveBroken, StagedFileBroken: a copy or an original is damaged; the registry still names the original.
    """
    if _same_place(area, archive):
        raise ArchiveInStaging("ARCHIVE_URI names the staging area itself: give the archive a place of its own.")
    pruned = Pruned("frozen snapshots, moved to the archive")
    before, settled_before = _day_before(now, days), now - timedelta(days=settled_days)
    by_uri = {snapshot.uri: snapshot for snapshot in registered_snapshots(engine)}
    busy = running_keys(engine, now=now)
    unknown = 0
    for name, size in _listed(area, _SNAPSHOTS):
        snapshot = by_uri.get(area.uri(name))
        if snapshot is not None:
            if snapshot.key.run_date >= before:
                continue
            if snapshot.key in busy or not all_settled(engine, snapshot.key, settled_before=settled_before):
                pruned.kept += 1
                continue
            if not dry_run:
                _move(engine, area, archive, name, snapshot)
            pruned.add(1, size)
        elif (moved := by_uri.get(archive.uri(name))) is not None:
            if not dry_run:  # the original of one that was moved: the last time ended just before this
                _verified(archive, name, moved)
                area.delete(name)
            pruned.add(1, size)
        else:
            unknown += 1
    if pruned.kept:
        pruned.notes.append("a snapshot stays in staging until every market of its run is settled")
    if unknown:
        pruned.notes.append(f"{unknown:,} snapshots are not registered in this database, and were left alone")
    return pruned


def _same_place(area: StagingArea, archive: StagingArea) -> bool:
    if area.is_local and archive.is_local:
        return Path(area.root).resolve() == Path(archive.root).resolve()
    return area.uri("-") == archive.uri("-")


def _move(engine: Engine, area: StagingArea, archive: StagingArea, name: str, snapshot: RegisteredSnapshot) -> None:
    original = area.open(name, SNAPSHOT)
    if not archive.exists(name):
        written_as = Schema(original.schema, original.version)
        archive.publish(name, written_as, original.meta, original.lines())
    copy = _verified(archive, name, snapshot)
    if replace_snapshot_uri(engine, snapshot, copy.uri):
        area.delete(name)
        _log.info("the snapshot of %s is in the archive now", snapshot.key)


def _verified(archive: StagingArea, name: str, snapshot: RegisteredSnapshot) -> StagedFile:
    """The archived copy of a snapshot, read to its end."""
    copy = archive.open(name, SNAPSHOT)
    if copy.sha256 != snapshot.content_hash or sum(1 for _ in copy.lines()) != snapshot.rows:
        raise ArchiveBroken(
            f"{copy.uri} is not the snapshot of {snapshot.key} that is registered: move it away and run "
            "`predictbench prune` again."
        )
    return copy


def _removed(
    what: str, pattern: re.Pattern[str], engine: Engine, area: StagingArea, *, now: datetime, days: int, dry_run: bool
) -> Pruned:
    pruned = Pruned(what)
    before, busy = _day_before(now, days), running_keys(engine, now=now)
    old = []
    for file in _dated(area, pattern):
        if file.key.run_date < before:
            if file.key in busy:
                pruned.kept += 1
            else:
                old.append(file)
                pruned.add(1, file.bytes)
    if pruned.kept:
        pruned.notes.append("files of a partition that is being run stay")
    if not dry_run:
        delete_files(area, [file.name for file in old])
    return pruned


def _day_before(now: datetime, days: int) -> date:
    """Runs of earlier days are older than `days`."""
    return now.date() - timedelta(days=days)


def _dated(area: StagingArea, pattern: re.Pattern[str]) -> Iterator[_File]:
    for name, size in _listed(area, ""):
        match = pattern.fullmatch(name)
        if match is not None:
            with suppress(ValueError):  # no day of the calendar: nothing of ours
                yield _File(name, RunKey(date.fromisoformat(match[1]), int(match[2])), size)


def _listed(area: StagingArea, prefix: str) -> Iterator[tuple[str, int]]:
    """Names and sizes of all files below a folder."""
    area.fs.invalidate_cache()
    try:
        found: Mapping[str, Mapping[str, int]] = area.fs.find(area.path(prefix).rstrip("/"), detail=True)
    except FileNotFoundError:
        return
    for path in sorted(found):
        yield path[len(area.root) + 1 :], int(found[path].get("size") or 0)


def delete_files(area: StagingArea, names: Iterable[str]) -> None:
    """Remove files, and in a folder the folders that are left empty; what is gone already is no matter."""
    paths = [area.path(name) for name in names]
    if area.is_local:
        for path in map(Path, paths):
            path.unlink(missing_ok=True)
            _remove_empty(path.parent, Path(area.root))
        return
    for start in range(0, len(paths), _DELETED_AT_ONCE):
        with suppress(FileNotFoundError):
            area.fs.rm(paths[start : start + _DELETED_AT_ONCE])


def _remove_empty(folder: Path, root: Path) -> None:
    with suppress(OSError):  # not empty, or gone
        while folder != root:
            folder.rmdir()
            folder = folder.parent
