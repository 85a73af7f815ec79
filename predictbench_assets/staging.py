"""Staged files, which stages hand to each other: JSON lines under zstd, published whole or not at all, read lazily.

A staged file is two zstd frames: a header line (`schema`, `version`, `rows`, `sha256`, `meta`) and the rows, one JSON
object a line. The count and the hash in the header make a torn file impossible to mistake for a short one. The area
is any fsspec location: a folder, `memory://`, or `s3://` with an endpoint and keys.
"""

import hashlib
import io
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypedDict, TypeVar, cast
from uuid import uuid4

import fsspec
import msgspec
import zstandard
from fsspec.core import url_to_fs

from predictbench_assets.failures import PermanentError

SUFFIX = ".jsonl.zst"
_LEVEL = 1  # measured: level 3 is slower and no smaller on these payloads
_READ_SIZE = 1 << 20
_LEADING_OUT = re.compile(r"^/|(?:^|[/\\])\.{1,2}(?:[/\\]|\Z)")
"""A name that begins at the root, or has a part that goes up or nowhere, as any of the systems reads it."""


class FirstLine(TypedDict):
    """The first line of a staged file."""

    schema: str
    version: int
    rows: int
    sha256: str
    meta: dict[str, Any]


Row = dict[str, Any]
Upgrade = Callable[[Row], Row]
Header = TypeVar("Header", bound=msgspec.Struct)


class UnknownStore(PermanentError):
    """An address that names no kind of store that is installed here, or one that cannot be opened."""


class StagingUnwritable(PermanentError):
    """A folder of the staging area, the archive or an export, or the temporary folder, takes no files."""


class OutsideOfArea(PermanentError):
    """A name that would lead out of the staging area, the archive or an export; nothing was done."""


class StagedFileMissing(PermanentError):
    """No file is staged under that name: the stage has not run for this partition, or staging was thrown away."""


class StagedFileBroken(PermanentError):
    """A staged file's rows do not match its header; materialize the asset that wrote it again."""


class StagedSchemaUnknown(PermanentError):
    """A staged file was written by a newer version, or by one too old to upgrade from."""


@dataclass(frozen=True)
class Schema:
    """Name and version of a kind of staged file, with what turns a row of the version before into one of this."""

    name: str
    version: int
    upgrade: Upgrade | None = None
    oldest: int | None = None
    """The oldest version that is read; by default the one before where there is an upgrade, else only this."""


@dataclass(frozen=True)
class StagedFile:
    """A staged file that has been published: its header is read, its rows are streamed each time it is iterated."""

    fs: fsspec.AbstractFileSystem = field(repr=False, compare=False)
    path: str
    uri: str
    schema: str
    version: int
    rows: int
    sha256: str
    """SHA-256 of the rows' bytes, uncompressed, each with its line feed: the identity of the content."""
    meta: Mapping[str, Any]
    upgrade: Upgrade | None = field(default=None, repr=False, compare=False)

    def header(self, kind: type[Header]) -> Header:
        """The file's `meta`, typed; keys that an older file lacks have their defaults.

        Raises:
            StagedFileBroken: it lacks a key that has none, or holds something else there.
        """
        try:
            return msgspec.convert(self.meta, kind)
        except msgspec.ValidationError as error:
            raise StagedFileBroken(
                f"{self.uri} has another header than {self.schema} has: {error}. Materialize the asset that wrote it "
                "again."
            ) from error

    def __len__(self) -> int:
        return self.rows

    def lines(self) -> Iterator[bytes]:
        """The rows' bytes as they were staged, without line feeds.

        Raises:
            StagedFileMissing: the file is gone.
            StagedFileBroken: count or hash differ from the header. Known only at the end of the iteration.
        """
        digest, count = hashlib.sha256(), 0
        with _opened(self.fs, self.path) as raw, _decompressed(raw) as stream:
            try:
                stream.readline()  # the header
                for line in stream:
                    digest.update(line)
                    count += 1
                    yield line[:-1]
            except zstandard.ZstdError as error:
                raise self._broken(f"cannot be unpacked after {count} rows") from error
        if count != self.rows or digest.hexdigest() != self.sha256:
            raise self._broken(f"holds {count} rows where its header says {self.rows}, or other bytes")

    def check(self) -> None:
        """Read the file to its end, for whoever must know beforehand that it is whole.

        Raises: as `lines`.
        """
        for _ in self.lines():
            pass

    def _broken(self, how: str) -> StagedFileBroken:
        again = "Materialize the asset that wrote it again."
        return StagedFileBroken(f"{self.uri} {how}: it was damaged after it was written. {again}")

    def __iter__(self) -> Iterator[Row]:
        """The rows as dictionaries, upgraded to the current schema version."""
        decode = msgspec.json.decode
        for line in self.lines():
            row: Row = decode(line)
            yield self.upgrade(row) if self.upgrade else row


class StagingArea:
    """Place of staged files. Names are relative to it and use `/`; one that leaves it raises `OutsideOfArea`."""

    def __init__(self, uri: str, storage_options: Mapping[str, Any] | None = None) -> None:
        """The area at an address.

        Raises:
            UnknownStore: no files can be kept there.
        """
        self._options = dict(storage_options or {})
        try:
            self.fs, self.root = _opened_store(uri, self._options)
        except (ImportError, TypeError, ValueError, OSError) as error:
            raise UnknownStore(
                f"{uri} is no place that files can be kept in ({error}): use a folder or s3://bucket/prefix "
                "(STAGING_URI, ARCHIVE_URI, or what was given to the command)."
            ) from error
        self.root = self.root.rstrip("/")
        self.is_local = _is_local(self.fs)

    def path(self, name: str) -> str:
        """The file system's own path of `name`.

        Raises:
            OutsideOfArea: the name is absolute, or has a part that goes up.
        """
        if _LEADING_OUT.search(name):
            raise OutsideOfArea(f"{name!a} is no name of a file in {self.root}: it has to stay in there.")
        return f"{self.root}/{name}"

    def uri(self, name: str) -> str:
        """The address of `name` that another host can use (for a folder: its path).

        Raises: as `path`.
        """
        return cast(str, self.fs.unstrip_protocol(self.path(name)))

    def exists(self, name: str) -> bool:
        """True where a file of that name is published."""
        self.fs.invalidate_cache()  # another process may have published it since
        return cast(bool, self.fs.exists(self.path(name)))

    def publish(
        self, name: str, schema: Schema, meta: Mapping[str, Any] | msgspec.Struct, lines: Iterable[bytes]
    ) -> StagedFile:
        """Write rows (JSON objects without line feeds) and make them visible under `name` in one step.

        The rows are streamed through a temporary file, so they need not fit in memory.
        """
        digest, count = hashlib.sha256(), 0
        compressor = zstandard.ZstdCompressor(level=_LEVEL)
        with tempfile.TemporaryFile() as body:
            with compressor.stream_writer(body, closefd=False) as frame:
                for line in lines:
                    terminated = line + b"\n"
                    digest.update(terminated)
                    frame.write(terminated)
                    count += 1
            header: FirstLine = {
                "schema": schema.name,
                "version": schema.version,
                "rows": count,
                "sha256": digest.hexdigest(),
                "meta": msgspec.to_builtins(meta),
            }
            body.seek(0)
            head = compressor.compress(msgspec.json.encode(header) + b"\n")
            self._put(self.path(name), head, body)
        return self._staged(name, schema, header)

    def open(self, name: str, schema: Schema) -> StagedFile:
        """The staged file of that name, its header read and checked.

        Raises:
            StagedFileMissing: nothing is published under that name.
            StagedSchemaUnknown: the file's schema or version is not one that `schema` can read.
        """
        header = self.peek(name)
        return self._staged(name, schema, header)

    def open_uri(self, uri: str, schema: Schema) -> StagedFile:
        """A staged file by its address, in this area or another that the same credentials open.

        Raises: as `open`.
        """
        base = self.uri("-")[:-1]  # of an empty name the file system would take the last slash away
        if uri.startswith(base):
            return self.open(uri[len(base) :], schema)
        folder, _, name = uri.rpartition("/")
        return StagingArea(folder, self._options).open(name, schema)

    def peek(self, name: str) -> FirstLine:
        """The header of a staged file: its schema, version, rows, sha256 and meta.

        Raises:
            StagedFileMissing: nothing is published under that name.
            StagedFileBroken: the file has no readable header.
        """
        with _opened(self.fs, self.path(name)) as raw, _decompressed(raw) as stream:
            try:
                return msgspec.json.decode(stream.readline(), type=FirstLine)
            except (msgspec.DecodeError, zstandard.ZstdError) as error:
                raise StagedFileBroken(f"{self.uri(name)} has no readable header: {error}") from error

    def write_bytes(self, name: str, content: bytes) -> str:
        """Publish a plain file (an artifact) in one step; returns its address."""
        self._put(self.path(name), b"", io.BytesIO(content))
        return self.uri(name)

    def list(self, prefix: str) -> list[str]:
        """Names of all files below a folder, sorted; empty where there is none."""
        return list(self.sizes(prefix))

    def sizes(self, prefix: str) -> dict[str, int]:
        """The bytes of all files below a folder by name, sorted, as one listing tells; empty where there is none."""
        try:
            # A listing cached by the file system would hide what another process has just published.
            self.fs.invalidate_cache()
            found = self.fs.find(self.path(prefix), detail=True)
        except FileNotFoundError:
            return {}
        return {path[len(self.root) + 1 :]: int(found[path]["size"] or 0) for path in sorted(found)}

    def read_bytes(self, name: str) -> bytes:
        """The bytes of a plain file.

        Raises:
            StagedFileMissing: nothing is published under that name.
        """
        with _opened(self.fs, self.path(name)) as raw:
            return raw.read()

    def delete(self, name: str) -> None:
        """Remove a file; nothing happens where there is none."""
        with suppress(FileNotFoundError):
            self.fs.rm_file(self.path(name))

    def _staged(self, name: str, schema: Schema, header: FirstLine) -> StagedFile:
        found, version = header["schema"], header["version"]
        oldest = schema.oldest or (schema.version - 1 if schema.upgrade else schema.version)
        if found != schema.name or not oldest <= version <= schema.version:
            raise StagedSchemaUnknown(
                f"{self.uri(name)} is {found} v{version}, this code reads {schema.name} v{oldest} to "
                f"v{schema.version}: "
                "run the code that wrote it, or materialize the asset again."
            )
        return StagedFile(
            fs=self.fs,
            path=self.path(name),
            uri=self.uri(name),
            schema=found,
            version=version,
            rows=header["rows"],
            sha256=header["sha256"],
            meta=header["meta"],
            upgrade=schema.upgrade if version < schema.version else None,
        )

    def _put(self, path: str, head: bytes, body: BinaryIO | io.BytesIO) -> None:
        """A local file is renamed into place after its bytes are on the disk; an object store publishes at close."""
        if not self.is_local:
            with self.fs.open(path, "wb") as target:
                target.write(head)
                while chunk := body.read(_READ_SIZE):
                    target.write(chunk)
            return
        try:
            self._put_in_folder(Path(path), head, body)
        except OSError as error:
            raise StagingUnwritable(
                f"{path} cannot be written ({(error.strerror or type(error).__name__).lower()}): see to the space and "
                "the rights there, or name another place (STAGING_URI, ARCHIVE_URI, PREDICTBENCH_HOME)."
            ) from error

    def _put_in_folder(self, final: Path, head: bytes, body: BinaryIO | io.BytesIO) -> None:
        final.parent.mkdir(parents=True, exist_ok=True)
        partial = final.with_name(f".{final.name}.{uuid4().hex[:8]}.partial")
        try:
            with partial.open("wb") as target:
                target.write(head)
                while chunk := body.read(_READ_SIZE):
                    target.write(chunk)
                target.flush()
                os.fsync(target.fileno())
            partial.replace(final)
            sync_folder(final.parent)
        finally:
            partial.unlink(missing_ok=True)


def _opened_store(uri: str, options: Mapping[str, Any]) -> tuple[fsspec.AbstractFileSystem, str]:
    if not uri.startswith("s3://"):
        return cast(tuple[fsspec.AbstractFileSystem, str], url_to_fs(uri, **options))
    from predictbench_assets.object_store import ObjectStore  # half a second, which a folder need not wait for

    root = ObjectStore._strip_protocol(uri)
    if not root.partition("/")[0]:
        raise ValueError("it names no bucket")
    if not options:  # an address in the database of when staging was elsewhere
        raise ValueError("it is in an object store, and STAGING_URI is not: there are no keys for it")
    return ObjectStore(**options), root


def sync_folder(folder: Path) -> None:
    """Sync a folder: else a new file may be gone after a power cut, however well its bytes were synced."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _decompressed:  # noqa: N801 - reads as a verb at the call
    """Line reader over all zstd frames of a stream."""

    def __init__(self, raw: BinaryIO) -> None:
        reader = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True, closefd=False)
        self._stream: BinaryIO = cast(BinaryIO, io.BufferedReader(reader, buffer_size=_READ_SIZE))

    def __enter__(self) -> BinaryIO:
        return self._stream

    def __exit__(self, *_: object) -> None:
        self._stream.close()


class _opened:  # noqa: N801 - reads as a verb at the call
    """Open a file of the area; raises `StagedFileMissing` where there is none."""

    def __init__(self, fs: fsspec.AbstractFileSystem, path: str) -> None:
        try:
            self._file = cast(BinaryIO, fs.open(path, "rb"))
        except FileNotFoundError as error:
            raise StagedFileMissing(
                f"nothing is staged at {fs.unstrip_protocol(path)}: materialize the asset that writes it for this "
                "partition, or point STAGING_URI at the staging area that has it."
            ) from error
        except (IsADirectoryError, NotADirectoryError, PermissionError) as error:
            message = (error.strerror or type(error).__name__).lower()
            raise StagedFileBroken(
                f"{fs.unstrip_protocol(path)} cannot be read ({message}): see to it there."
            ) from error

    def __enter__(self) -> BinaryIO:
        return self._file

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _is_local(fs: fsspec.AbstractFileSystem) -> bool:
    protocols = (fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol
    return "file" in protocols
