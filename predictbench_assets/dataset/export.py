"""An export: all tables as they are at one moment, a data dictionary, and a manifest that is written last.

The files are made in a temporary folder first, so that a database that goes away leaves an earlier export in its place.
Then the earlier manifest is removed, the files are put in their place, and the new manifest after them: without a
manifest an export is not whole.
"""

import json
import tempfile
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Engine

from predictbench_assets.dataset.files import DataFile, Format, TableWriter, described, file_of
from predictbench_assets.dataset.stored_tables import stored_tables
from predictbench_assets.dataset.tables import EXPORTED_TABLES, dictionary, dictionary_markdown
from predictbench_assets.exchange_names import is_simulated
from predictbench_assets.failures import PermanentError
from predictbench_assets.persistence.stored_runs import stored_exchange
from predictbench_assets.staging import StagedFileMissing, StagingArea

MANIFEST = "manifest.json"

RowProgress = Callable[[str, int], None]
"""Called with a table's name and the number of its rows that have been read so far."""


class ExportUnwritable(PermanentError):
    """The place where the export is to go does not take it."""


class ExportManifest(msgspec.Struct, frozen=True, kw_only=True):
    """The contents of an export."""

    format: Format
    since: date
    until: date
    """The last day that is included."""
    exported_at: datetime
    git_sha: str | None
    files: tuple[DataFile, ...]
    exchange: str | None
    """The host that the markets were read from."""
    simulated: bool

    @property
    def rows(self) -> int:
        """Number of rows of all tables together."""
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
    progress: RowProgress = lambda _table, _rows: None,
) -> ExportManifest:
    """Write every run of the days from `since` to `until`, both included, into an area of its own.

    All tables are read in one read-only transaction, so they agree with each other whatever is written meanwhile.

    Raises:
        DatabaseUnavailable, DatabaseRefused: nothing was written.
        ExportUnwritable: the place does not take it; it holds no manifest then.
    """
    with tempfile.TemporaryDirectory(prefix="predictbench-export-") as temporary:
        folder = Path(temporary)
        files = []
        with stored_tables(engine, now) as stored:
            runs = stored.all_runs(since, until)
            for table in EXPORTED_TABLES:
                with TableWriter(folder, table, (format_,)) as writer:
                    for _, rows in stored.read(table, runs):
                        writer.write(rows)
                        progress(table.name, writer.rows)
                files.append(described(file_of(folder, table, format_), writer.rows))
                progress(table.name, writer.rows)
        for suffix, words in (("json", json.dumps(dictionary(), indent=2) + "\n"), ("md", dictionary_markdown())):
            path = folder / f"data_dictionary.{suffix}"
            path.write_text(words, encoding="utf-8")
            files.append(described(path))
        exchange = stored_exchange(engine)
        manifest = ExportManifest(
            format=format_,
            since=since,
            until=until,
            exported_at=now,
            git_sha=git_sha,
            files=tuple(files),
            exchange=exchange,
            simulated=is_simulated(exchange),
        )
        _publish(area, folder, manifest)
    return manifest


def _publish(area: StagingArea, folder: Path, manifest: ExportManifest) -> None:
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
    """Files that the manifest of an earlier export in the same place names; nothing else there is ours to remove."""
    try:
        earlier: dict[str, Any] = json.loads(area.read_bytes(MANIFEST))
        return {str(file["name"]) for file in earlier["files"] if "/" not in str(file["name"])}
    except (StagedFileMissing, ValueError, KeyError, TypeError):
        return set()


def _encoded(manifest: ExportManifest) -> bytes:
    plain = msgspec.to_builtins(manifest, builtin_types=(date, datetime))
    return json.dumps(plain, indent=2, default=lambda value: value.isoformat()).encode() + b"\n"
