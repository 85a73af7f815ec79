"""Archive of raw snapshots that left the database, each file named by its content and read back before it counts.

A line holds one market of one run: the ids that it belongs to, and the raw snapshot as the database printed it. The
same rows always make the same file under the same name, so that a prune that was killed finds its own file again.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from uuid import UUID

import msgspec

from predictbench_assets.failures import PermanentError
from predictbench_assets.printable import on_one_line
from predictbench_assets.retention.stored import RawSnapshot
from predictbench_assets.runs import RunKey
from predictbench_assets.staging import SUFFIX, Schema, StagedFile, StagedFileMissing, StagingArea

RAW_SNAPSHOTS = Schema("archived_raw_snapshots", 1)


class ArchiveBroken(PermanentError):
    """An archive does not hold what it must; nothing was taken out of the database because of it."""


class ArchivedRow(msgspec.Struct):
    """A line of an archive."""

    processed_market_id: UUID
    market_id: str
    run_id: UUID
    run_date: str
    window_days: int
    raw: msgspec.Raw
    """The raw snapshot's JSON, as the database prints it."""


@dataclass(frozen=True)
class WrittenArchive:
    """An archive that has been read back whole."""

    uri: str
    sha256: str
    rows: int
    bytes: int
    """Bytes on the disk or in the bucket, compressed."""


def write_archive(area: StagingArea, key: RunKey, rows: Sequence[RawSnapshot]) -> WrittenArchive:
    """Write raw snapshots of a run into the archive and read them back.

    Raises:
        ArchiveBroken: the archive read back differs from the one written.
        StagedFileBroken, StagedFileMissing: it cannot be read.
    """
    lines = [msgspec.json.encode(_archived(key, row)) for row in rows]
    digest = hashlib.sha256(b"".join(line + b"\n" for line in lines)).hexdigest()
    name = f"raw_snapshots/{key.slug}/{digest[:32]}{SUFFIX}"
    try:
        written = area.open(name, RAW_SNAPSHOTS)
    except StagedFileMissing:
        # Nothing that changes from one try to the next may be in the header.
        area.publish(name, RAW_SNAPSHOTS, {"run_id": str(key.run_id)}, lines)
        written = area.open(name, RAW_SNAPSHOTS)
    if written.sha256 != digest or list(written.lines()) != lines:
        raise ArchiveBroken(
            f"{written.uri} does not hold what was written to it: move it away and run `predictbench prune` again."
        )
    return WrittenArchive(written.uri, digest, len(lines), area.fs.size(area.path(name)))


def open_archive(area: StagingArea, uri: str, sha256: str) -> StagedFile:
    """An archive by its address.

    Raises:
        StagedFileMissing: it is gone.
        ArchiveBroken: it is another file than the one that was registered.
    """
    archive = area.open_uri(uri, RAW_SNAPSHOTS)
    if archive.sha256 != sha256:
        raise ArchiveBroken(
            f"{on_one_line(uri)} is not the archive that was registered: restore it from the "
            "versions or the backup of its store."
        )
    return archive


def archived_rows(archive: StagedFile) -> Iterator[ArchivedRow]:
    """The rows of an archive.

    Raises:
        StagedFileBroken: at the end of the iteration, where the file was damaged.
    """
    decode = msgspec.json.Decoder(ArchivedRow).decode
    for line in archive.lines():
        yield decode(line)


def _archived(key: RunKey, row: RawSnapshot) -> ArchivedRow:
    return ArchivedRow(
        processed_market_id=row.processed_market_id,
        market_id=row.market_id,
        run_id=key.run_id,
        run_date=key.run_date.isoformat(),
        window_days=key.window_days,
        raw=msgspec.Raw(row.raw.encode()),
    )
