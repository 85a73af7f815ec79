"""The product's own commands, run as a deployment runs them, watched while they run, and measured."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

PROGRAM = (sys.executable, "-m", "predictbench_assets.cli.main")
_LOOK_SECONDS = 1.0
"""Between two looks at the file handles: looking costs processor time too."""
_LONGEST_SECONDS = 240.0
"""A command that runs longer than this hangs; it is killed, and the audit says so."""

Event = Callable[["Running", str, str], None]
"""Called with the command, the event of a log line and its stage."""


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    arguments: tuple[str, ...]
    code: int
    """Exit code, negative for a signal."""
    output: str
    seconds: float
    cpu_seconds: float
    peak_mb: float
    """The largest resident memory of it or of one of its children."""
    files: int
    """The most file handles that it and its children held."""
    hung: bool

    @property
    def tail(self) -> str:
        """The last line that says something, for a report."""
        lines = [line.strip() for line in self.output.splitlines() if line.strip()]
        return lines[-1][:300] if lines else ""


@dataclass
class Running:
    """A command that runs."""

    child: "subprocess.Popen[bytes]"
    seen: list[tuple[str, str]] = field(default_factory=list)

    def tree(self) -> list[psutil.Process]:
        """It and all that it has started, children first."""
        try:
            parent = psutil.Process(self.child.pid)
            return [*reversed(parent.children(recursive=True)), parent]
        except psutil.Error:
            return []

    def signal(self, number: int, *, child_only: bool = False) -> None:
        """Send a signal to all of it, or to what it has started alone."""
        found = self.tree()
        for one in found[:-1] if child_only and len(found) > 1 else found:
            with suppress(psutil.Error):
                one.send_signal(number)


def run(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    folder: Path,
    log: Path,
    *,
    on_event: Event | None = None,
    on_start: Callable[[Running], None] | None = None,
    program: Sequence[str] = PROGRAM,
) -> Done:
    """Run a command to its end.

    Args:
        arguments: of `predictbench`, or of `program`.
        environment: all of its variables.
        folder: its working folder.
        log: takes what it prints, added to the end.
        on_event: told of the events of a run, in a thread.
        on_start: told that it has started.
        program: what is run.
    """
    begun = time.monotonic()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        begins = output.tell()
        child = subprocess.Popen(
            [*program, *arguments],
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    running = Running(child)
    if on_start is not None:
        on_start(running)
    ended = threading.Event()
    watcher = None
    if on_event is not None:
        watcher = threading.Thread(target=_watch, args=(running, log, begins, on_event, ended), daemon=True)
        watcher.start()
    files, hung, looked = 0, False, 0.0
    peaks: dict[int, int] = {}
    tree: Sequence[psutil.Process] = ()
    status, usage = 0, None
    while usage is None:
        pid, status, found = os.wait4(child.pid, os.WNOHANG)
        if pid:
            usage = found
            break
        if time.monotonic() - looked > _LOOK_SECONDS:
            looked = time.monotonic()
            tree = running.tree()
            peaks |= dict.fromkeys((one.pid for one in tree), 0) | peaks
        files = max(files, _open_files(tree))  # often, since a connection may be open for a moment alone
        for one in peaks:
            peaks[one] = max(peaks[one], _peak_kb(one))
        if time.monotonic() - begun > _LONGEST_SECONDS and not hung:
            hung = True
            running.signal(signal.SIGKILL)
        time.sleep(0.05)
    child.returncode = os.waitstatus_to_exitcode(status)
    ended.set()
    if watcher is not None:
        watcher.join(120)
    text = log.read_bytes()[begins:].decode(errors="replace")
    return Done(
        tuple(arguments),
        child.returncode,
        text,
        time.monotonic() - begun,
        usage.ru_utime + usage.ru_stime,
        max(peaks.values(), default=0) / 1024,
        files,
        hung,
    )


def _open_files(tree: Sequence[psutil.Process]) -> int:
    total = 0
    for one in tree:
        with suppress(psutil.Error):
            total += one.num_fds()
    return total


def _peak_kb(pid: int) -> int:
    """The most memory that a process has held, as the kernel keeps it since its program was loaded.

    What `wait4` tells began before that: as a copy of this process, which may be larger.
    """
    with suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    return 0


def _watch(running: Running, log: Path, begins: int, on_event: Event, ended: threading.Event) -> None:
    """Read the log as it grows."""
    with log.open("rb") as lines:
        lines.seek(begins)
        rest = b""
        while True:
            last = ended.is_set()
            rest += lines.read()
            *whole, rest = rest.split(b"\n")
            for line in whole:
                found = _event(line)
                if found is not None:
                    running.seen.append(found)
                    on_event(running, *found)
            if last:
                return
            time.sleep(0.02)


def _event(line: bytes) -> tuple[str, str] | None:
    if not line.startswith(b"{"):
        return None
    try:
        read: Any = json.loads(line)
    except ValueError:
        return None
    if not isinstance(read, dict) or not read.get("event"):
        return None
    return str(read["event"]), str(read.get("process_stage") or "")
