"""Listings of past days that were read for a reconstruction, kept for a day: windows of several lengths over the same
days ask for the same listing.

What is kept is what a reconstruction holds of a row. Of later days it knows one thing, when a market closed: by that it
is seen who was open when, and nothing that is made of a listing has it.
"""

import asyncio
import hashlib
import logging
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, Final

import msgspec

from predictbench_assets.exchanges.polymarket.listed_rows import KEYS_KEPT, Listing, SeenRow
from predictbench_assets.failures import PermanentError
from predictbench_assets.staging import SUFFIX, Schema, StagedFile, StagingArea

try:
    import fcntl
except ImportError:  # Windows, where each process reads for itself
    fcntl = None  # type: ignore[assignment]

KEPT_FOR: Final = timedelta(hours=24)

_POLL_S: Final = 0.1

_SCHEMA = Schema("listing", 1)
_log = logging.getLogger(__name__)


class _Header(msgspec.Struct, frozen=True, kw_only=True):
    read_at: datetime
    sha256: str
    received_bytes: int
    keys: str = KEYS_KEPT
    """The keys that its rows have."""


class KeptListings:
    """Listings in a folder. Writers may be several; what is damaged counts as absent.

    Args:
        folder: of this machine; made when first written to.
        source: address of the exchange: another one's listings are not found.
    """

    def __init__(self, folder: Path, source: str) -> None:
        self._area = StagingArea(str(folder / hashlib.sha256(source.encode()).hexdigest()[:12]))

    @asynccontextmanager
    async def turn(self, start: datetime, end: datetime) -> AsyncIterator[None]:
        """Let one process at a time read the listing of a window: the next one finds what the first has kept."""
        with self._lock_file(start, end) as lock:
            while lock is not None and fcntl is not None:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    await asyncio.sleep(_POLL_S)
            yield

    @contextmanager
    def _lock_file(self, start: datetime, end: datetime) -> Iterator[IO[str] | None]:
        """The file to lock for a window; None where the folder cannot be written, and nothing is kept."""
        file = Path(self._area.root) / f"{_name(start, end)}.lock"
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            opened = file.open("w")
        except OSError as error:
            _log.debug("the listing is read beside others: %s", error)
            yield None
            return
        with opened as lock:
            try:
                yield lock
            finally:  # who waits for it finds the listing, and who comes now makes another file
                with suppress(OSError):
                    file.unlink()

    def find(self, start: datetime, end: datetime, *, now: datetime, as_of: datetime) -> Listing | None:
        """The kept listing of a window, if it was read in the day before `now`, and after `as_of`."""
        name = _name(start, end)
        try:
            kept = self._area.open(name, _SCHEMA)
            header = kept.header(_Header)
            if not (as_of < header.read_at and now - KEPT_FOR < header.read_at <= now and header.keys == KEYS_KEPT):
                return None
            rows = list(_rows(kept))
        except (PermanentError, msgspec.DecodeError, OSError) as error:
            _log.debug("no kept listing is used: %s", error)
            return None
        return Listing(rows=rows, read_at=header.read_at, sha256=header.sha256, received_bytes=header.received_bytes)

    def keep(self, start: datetime, end: datetime, listing: Listing) -> None:
        """Keep a listing, and remove those that are a day older. A folder that cannot be written costs nothing."""
        header = _Header(read_at=listing.read_at, sha256=listing.sha256, received_bytes=listing.received_bytes)
        try:
            file = self._area.publish(_name(start, end), _SCHEMA, header, map(msgspec.json.encode, listing.rows))
            os.utime(file.path, 2 * (listing.read_at.timestamp(),))  # so that its age is seen without opening it
            self._remove_until(listing.read_at - KEPT_FOR)
        except (PermanentError, OSError) as error:
            _log.debug("the listing is not kept: %s", error)

    def _remove_until(self, instant: datetime) -> None:
        """Remove files of up to an instant, also those that a writer who was killed has left half done."""
        for file in Path(self._area.root).iterdir():
            with suppress(FileNotFoundError):  # another writer was quicker
                if file.stat().st_mtime <= instant.timestamp():
                    file.unlink()


def _rows(kept: StagedFile) -> Iterator[SeenRow]:
    decode = msgspec.json.Decoder(SeenRow).decode
    return map(decode, kept.lines())


def _name(start: datetime, end: datetime) -> str:
    return f"{start:%Y%m%dT%H%M%SZ}_{end:%Y%m%dT%H%M%SZ}{SUFFIX}"
