"""Segments: files of JSON lines that one attempt adds to, each line durable before it counts.

A folder is appended to and synced; an object store, which cannot append, gets an object for each group of lines.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, Protocol

from predictbench_assets.staging import StagingArea, sync_folder

SUFFIX: Final = ".jsonl"


class Segment(Protocol):
    """A place for lines."""

    def write(self, lines: Sequence[bytes]) -> tuple[str, int]:
        """Write lines without their line feeds; returns, once they are durable, the file's name and the first's number.

        Raises: what the file system or the store raises.
        """

    def close(self) -> None:
        """Close it; nothing is lost without."""


def segment(area: StagingArea, name: str) -> Segment:
    """A new segment; nothing is made before its first line."""
    return _File(area, name + SUFFIX) if area.is_local else _Objects(area, name)


def contents(area: StagingArea, folder: str) -> Iterable[tuple[str, bytes]]:
    """The names and bytes of all segments in a folder."""
    names = [name for name in area.list(folder) if name.endswith(SUFFIX)]
    if area.is_local:
        for name in names:
            yield name, area.read_bytes(name)
    elif names:  # many small objects: fetched side by side
        found = area.fs.cat([area.path(name) for name in names])
        yield from zip(names, (found[path] for path in sorted(found)), strict=True)


def sizes(area: StagingArea, folder: str) -> Iterable[tuple[str, int]]:
    """The names of all segments in a folder, and the bytes that each has by now."""
    return ((name, size) for name, size in area.sizes(folder).items() if name.endswith(SUFFIX))


class _File:
    """A segment in a folder; made with its first line, so that an attempt without results leaves no file."""

    def __init__(self, area: StagingArea, name: str) -> None:
        self._name, self._path = name, Path(area.path(name))
        self._descriptor: int | None = None
        self._lines = 0

    def write(self, lines: Sequence[bytes]) -> tuple[str, int]:
        if self._descriptor is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_EXCL, 0o644)
            sync_folder(self._path.parent)
        rest = memoryview(b"".join(line + b"\n" for line in lines))
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
        os.fsync(self._descriptor)
        first, self._lines = self._lines, self._lines + len(lines)
        return self._name, first

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class _Objects:
    """Segments in an object store, which cannot append: one object per group."""

    def __init__(self, area: StagingArea, name: str) -> None:
        self._area = area
        self._name = name
        self._count = 0

    def write(self, lines: Sequence[bytes]) -> tuple[str, int]:
        name = f"{self._name}-{self._count:06}{SUFFIX}"
        self._area.write_bytes(name, b"".join(line + b"\n" for line in lines))
        self._count += 1
        return name, 0

    def close(self) -> None:
        """Do nothing: nothing stays open between objects."""
