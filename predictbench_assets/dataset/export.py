"""An export: all tables as they are at one moment, a data dictionary, and a manifest that is written last.

The files are made in a temporary folder first, so that a database that goes away leaves an earlier export in its place.
Then the earlier manifest is removed, the files are put in their place, and the new manifest after them: without a
manifest an export is not whole.
"""

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, text

from predictbench_assets.database.errors import classified
from predictbench_assets.dataset.files import CHUNK, Format, Row, write_file
from predictbench_assets.dataset.tables import TABLES, ExportedTable, dictionary, dictionary_markdown
from predictbench_assets.exchange_names import is_simulated
from predictbench_assets.failures import PermanentError
from predictbench_assets.persistence.stored_runs import stored_exchange
from predictbench_assets.staging import StagedFileMissing, StagingArea

MANIFEST = "manifest.json"

Progress = Callable[[str, int], None]
"""Told the table and how many rows of it have been read so far."""

_RUNS = text("""
    SELECT run_id FROM predictbench.processing_runs
    WHERE run_date BETWEEN :since AND :until ORDER BY run_date, window_days""")


class ExportUnwritable(PermanentError):
    """The place where the export is to go does not take it."""


@dataclass(frozen=True)
class ExportedFile:
    """A file of an export."""

    name: str
    bytes: int
    sha256: str
    rows: int | None = None
    """None for a file without rows."""


@dataclass(frozen=True)
class Manifest:
    """What an export holds."""

    format: Format
    since: date
    until: date
    """The last day that is included."""
    exported_at: datetime
    git_sha: str | None
    files: tuple[ExportedFile, ...]
    exchange: str | None
    """The host that the markets were read from."""
    simulated: bool

    @property
    def rows(self) -> int:
        """Of all tables together."""
        return sum(file.rows or 0 for file in self.files)


def export_tables(
    engine: Engine,
    area: StagingArea,
    *,
    since: date,
    until: date,
    format_: Format,
    now: datetime,
    git_sha: str | None,
    progress: Progress = lambda _table, _rows: None,
) -> Manifest:
    """Write every run of the days from `since` to `until`, both included, into an area of its own.

    All tables are read in one read-only transaction, so they agree with each other whatever is written meanwhile.

    Raises:
        DatabaseUnavailable, DatabaseRefused: nothing was written.
        ExportUnwritable: the place does not take it; it holds no manifest then.
    """
    with tempfile.TemporaryDirectory(prefix="predictbench-export-") as temporary:
        folder = Path(temporary)
        files = []
        with classified(), engine.connect() as connection:
            connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            runs = list(connection.execute(_RUNS, {"since": since, "until": until}).scalars())
            for table in TABLES:
                path = folder / f"{table.name}.{format_}"
                rows = write_file(path, format_, table, _rows(connection, table, runs, progress))
                files.append(_described(path, rows))
        (folder / "data_dictionary.json").write_text(json.dumps(dictionary(), indent=2) + "\n", encoding="utf-8")
        (folder / "data_dictionary.md").write_text(dictionary_markdown(), encoding="utf-8")
        files += [_described(folder / f"data_dictionary.{suffix}") for suffix in ("json", "md")]
        exchange = stored_exchange(engine)
        manifest = Manifest(format_, since, until, now, git_sha, tuple(files), exchange, is_simulated(exchange))
        _publish(area, folder, manifest)
    return manifest


def _rows(connection: Connection, table: ExportedTable, runs: list[UUID], progress: Progress) -> Iterator[Row]:
    # A cursor of the server's: it lives in this transaction, which a pooler leaves on one connection.
    query = text(table.query).execution_options(stream_results=True, max_row_buffer=CHUNK)
    count = 0
    for run in runs:
        for rows in connection.execute(query, {"run_id": run}).partitions(CHUNK):
            yield from rows
            count += len(rows)
            progress(table.name, count)
    progress(table.name, count)


def _described(path: Path, rows: int | None = None) -> ExportedFile:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return ExportedFile(path.name, path.stat().st_size, digest, rows)


def _publish(area: StagingArea, folder: Path, manifest: Manifest) -> None:
    try:
        stale = _files_of(area) - {file.name for file in manifest.files}
        area.delete(MANIFEST)
        for name in sorted(stale):
            area.delete(name)
        if area.is_local:  # an object store would make a bucket of a misspelt name
            area.fs.makedirs(area.root, exist_ok=True)
        for file in manifest.files:
            area.fs.put_file(str(folder / file.name), area.path(file.name))
        area.write_bytes(MANIFEST, _encoded(manifest))
    except Exception as error:  # a store raises what it likes
        raise ExportUnwritable(
            f"the export cannot be written to {area.uri('')} ({type(error).__name__}: {error}): check the space and "
            "the rights there, and STAGING_S3_... for an address that starts with s3://"
        ) from error


def _files_of(area: StagingArea) -> set[str]:
    """What the manifest of an earlier export in the same place names; nothing else there is ours to remove."""
    try:
        earlier: dict[str, Any] = json.loads(area.read_bytes(MANIFEST))
        return {str(file["name"]) for file in earlier["files"] if "/" not in str(file["name"])}
    except (StagedFileMissing, ValueError, KeyError, TypeError):
        return set()


def _encoded(manifest: Manifest) -> bytes:
    return json.dumps(asdict(manifest), indent=2, default=lambda value: value.isoformat()).encode() + b"\n"
