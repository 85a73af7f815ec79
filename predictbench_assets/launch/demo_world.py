"""The demo's folder: the made-up world that its data are of, and locks for who is at work in it.

The world is written down before anything is made of it. A folder whose data are of another one, or of which that is
not known, is never added to: two worlds have the same market ids, and their results would contradict each other.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import IO, Literal

import msgspec

from predictbench_assets.database.connection import EmbeddedUnsupported
from predictbench_assets.failures import PermanentError
from predictbench_assets.sandbox.process import WorldIdentity, stop_sandbox, world_of

try:
    import fcntl
except ImportError:  # Windows, where commands that need no demo work
    fcntl = None  # type: ignore[assignment]

MARKETS = 300
"""Markets that close on each day, by default."""

_STATE = "demo.json"
_LOCKS = {"demo": "demo.lock", "ui": "ui.lock"}


class DemoBusy(PermanentError):
    """Another command is at work in the demo's folder."""


class DemoKept(PermanentError):
    """The demo's folder has something that is not thrown away without being asked."""


class DemoAbsent(PermanentError):
    """No demo of this version is in the folder."""


class DemoUnwritable(PermanentError):
    """The demo's folder cannot be made, or written to."""


class Demo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of a demo's folder."""

    world: WorldIdentity
    past: tuple[date, ...] = ()
    """Days of the past that were run, and swept until the present."""
    experiments: tuple[str, ...] = ()
    """`module:name` of each listing of experiments that the last demo with any added: `ui --demo` shows them."""
    own: bool = False
    """True where any demo has added an experiment."""


def read_demo(folder: Path) -> Demo | None:
    """The record of the folder, or None where there is none that can be read."""
    try:
        return msgspec.json.decode((folder / _STATE).read_bytes(), type=Demo)
    except (OSError, msgspec.DecodeError):
        return None


def write_demo(folder: Path, demo: Demo) -> Demo:
    """Write the record of the folder, in one step."""
    partial = folder / f".{_STATE}"
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(demo), indent=2) + b"\n")
    partial.replace(folder / _STATE)
    return demo


def open_world(folder: Path, markets: int | None, *, fresh: bool) -> tuple[Demo, str | None]:
    """The demo of a world of so many markets a day: the one in the folder, or a new one in its place.

    Args:
        markets: None takes what is there.
        fresh: begin anew, whatever is there.

    Returns:
        The demo, and why an earlier one was removed.

    Raises:
        DemoKept: another world is there, with forecasts of experiments that are not built in.
        DemoBusy: another world is there, and a UI shows it.
    """
    kept = read_demo(folder)
    wanted = world_of(markets or (kept.world.markets if kept else MARKETS))
    if kept is not None and kept.world == wanted and not fresh:
        return kept, None
    removed = None
    if _has_data(folder):
        difference = _difference(kept, wanted)
        if kept is not None and kept.own and not fresh:
            raise DemoKept(
                f"the demo in {folder} is of another world ({difference}), and has forecasts of your own experiments: "
                "--fresh removes it and begins anew"
            )
        _clear(folder)
        removed = f"the demo that was here is removed: {difference or 'a fresh one was asked for'}"
    return write_demo(folder, Demo(wanted)), removed


def present_demo(folder: Path) -> Demo:
    """The record of the folder, for a command that needs a demo that was made before.

    Raises:
        DemoAbsent: nothing is there, or what another version of Predictbench made.
    """
    kept = read_demo(folder)
    if kept is None or kept.world != world_of(kept.world.markets):
        if folder.is_dir() and _has_data(folder):
            raise DemoAbsent(
                f"another version of Predictbench made the demo in {folder}: `predictbench demo` replaces it"
            )
        raise DemoAbsent(f"there is no demo in {folder} yet: `predictbench demo` makes one")
    return kept


def make_folder(folder: Path) -> None:
    """Make the demo's folder.

    Raises:
        DemoUnwritable: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error


@contextmanager
def demo_lock(folder: Path) -> Iterator[None]:
    """Lock the demo, so that no other command changes it.

    Raises:
        DemoBusy: another one is.
        DemoUnwritable: the folder cannot be made or written to.
    """
    with _lock(folder, "demo") as lock:
        if not _taken(lock, fcntl.LOCK_EX):
            raise DemoBusy(
                f"another demo is at work in {folder}{_holder(lock)}: wait until it has ended, or end it. "
                "In another folder a demo of its own can run at the same time."
            )
        _sign(lock)
        yield


@contextmanager
def shown(folder: Path) -> Iterator[None]:
    """Mark a folder's data as shown by a UI: a demo is not replaced meanwhile, and `stop` warns of it."""
    with _lock(folder, "ui") as lock:
        _taken(lock, fcntl.LOCK_SH)
        _sign(lock)
        yield


def showing(folder: Path) -> str | None:
    """The process of a UI that shows a folder's data, in brackets behind a blank; None where there is no UI."""
    if not (folder / _LOCKS["ui"]).exists():
        return None
    with _lock(folder, "ui") as lock:
        return None if _taken(lock, fcntl.LOCK_EX) else _holder(lock)


def _difference(kept: Demo | None, wanted: WorldIdentity) -> str:
    if kept is None or kept.world.generator != wanted.generator:
        return "another version of Predictbench made it"
    if kept.world.markets != wanted.markets:
        return f"it had {kept.world.markets:,} markets a day, not {wanted.markets:,}"
    return ""


def _has_data(folder: Path) -> bool:
    return any(path.name not in _LOCKS.values() for path in folder.iterdir())


def _clear(folder: Path) -> None:
    """Remove all but the locks, which are held. The record goes first: a rest without one is of no world."""
    from predictbench_assets.database.embedded import EmbeddedPostgres

    with _lock(folder, "ui") as lock:
        if not _taken(lock, fcntl.LOCK_EX):
            raise DemoBusy(
                f"`predictbench ui --demo` shows the demo that would be removed{_holder(lock)}: end it first"
            )
        (folder / _STATE).unlink(missing_ok=True)
        stop_sandbox(folder)
        EmbeddedPostgres(folder / "postgres").stop()
        for path in folder.iterdir():
            if path.name in _LOCKS.values():
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


@contextmanager
def _lock(folder: Path, name: Literal["demo", "ui"]) -> Iterator[IO[str]]:
    if fcntl is None:
        raise EmbeddedUnsupported
    try:
        lock = (folder / _LOCKS[name]).open("a+")
    except OSError as error:
        raise _unwritable(folder, error) from error
    with lock:
        yield lock


def _unwritable(folder: Path, error: OSError) -> DemoUnwritable:
    return DemoUnwritable(
        f"{folder} cannot be written to ({error.strerror}): a demo keeps its data in .predictbench/demo of the current "
        "folder, so run it from a folder of your own"
    )


def _taken(lock: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _sign(lock: IO[str]) -> None:
    lock.seek(0)
    lock.truncate()
    lock.write(str(os.getpid()))
    lock.flush()


def _holder(lock: IO[str]) -> str:
    lock.seek(0)
    pid = lock.read().strip()
    return f" (process {pid})" if pid.isdecimal() else ""
