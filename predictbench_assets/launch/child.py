"""The child process in which Dagster runs: its output read and kept, signals passed on, its end awaited."""

import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from predictbench_assets.launch.commands import RUN_ENDED, Command
from predictbench_assets.launch.signals import SignalsToChildren, signals_passed_on

ENDING_SECONDS = 20.0
"""Seconds that a process may take to end after it was asked to, before it is killed."""

_ENDS = {"PIPELINE_SUCCESS": 0, "PIPELINE_FAILURE": 1, "PIPELINE_CANCELED": 1}
"""Dagster's events at the end of a run, and the exit code that it ends with."""

_NOT_ENDING = "The run has ended and its process has not: something that an experiment started keeps it. It is killed."
_LEFT_BEHIND = "A process that an experiment started and left behind keeps the run's output open. It is killed."

_QUIET_SECONDS = 1.0
"""Silence after which the output of a process that has ended is complete."""

_LINES_AHEAD = 1_000  # of output that are read before they are dealt with
_POLL_SECONDS = 0.25

_OUTPUT = "output"
"""The logger of lines that were printed, not logged."""

_TRACEBACK, _CHAINED = "Traceback (most recent call last)", ("The above exception was", "During handling of the above")
_RAISED = re.compile(r"(\w+\.)*[A-Z]\w*(Error|Exception|Unavailable|Refused): \S")

Line = dict[str, Any]
"""A log line of the child, as `observability.logs.JsonLines` writes it."""

Follow = Callable[[str, Callable[[Line], None]], AbstractContextManager[object]]
"""Given a Dagster run's id and a function: hands the lines of the run's event log over while the block lasts, in a
thread of its own, and the last ones at its end."""


@dataclass
class ChildLog:
    """The progress of a run as its output shows it: where it stopped and why, for a run that left no summary."""

    stage: str | None = None
    reason: str | None = None
    begun: set[str] = field(default_factory=set)
    """The stages that were begun."""
    raised: list[str] = field(default_factory=list)
    """The errors of the last traceback that was printed, the cause first: those that Dagster itself ended with."""
    dagster_run_id: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    ended: int | None = None
    """Exit code that the end of the run stands for; None while it is under way."""
    _chained: bool = False

    def note_signal(self, number: int) -> None:
        """Record that this process was asked to stop."""
        self.signal = number

    def add(self, line: Line) -> None:
        """Record a log line. Errors after a signal are its consequence, and no reason."""
        self.dagster_run_id = line.get("dagster_run_id") or self.dagster_run_id
        if self.signal is not None:
            return
        event, stage = line.get("event"), line.get("process_stage")
        if event is not None:
            self.ended = _ENDS.get(event, line.get("exit_code"))
        if event == "STEP_START" and stage is not None:
            self.begun.add(stage)
        if event == "STEP_START" and self.reason is None:
            self.stage = stage
        elif event == "STEP_FAILURE" and self.reason is None:
            self.stage, self.reason = stage, line.get("reason")
        elif event == "PIPELINE_FAILURE" and self.reason is None and line.get("reason"):
            self.reason = line["reason"]  # of the executor itself
        elif line.get("level") == "ERROR" and event is None and self.dagster_run_id is None:
            self.reason = line.get("message")
        elif line.get("logger") == _OUTPUT:
            self._add_output(str(line.get("message")))

    def _add_output(self, text: str) -> None:
        if text.startswith(_TRACEBACK) and not self._chained:
            self.raised.clear()
        elif _RAISED.match(text):
            self.raised.append(text)
        if text.strip():
            self._chained = text.startswith(_CHAINED)


def run_child(
    command: Command,
    *,
    log: Path,
    redact: Callable[[str], str],
    on_line: Callable[[Line], None],
    ending_s: float = ENDING_SECONDS,
    on_begin: Callable[[Callable[[str | None], None]], None] | None = None,
    signals: SignalsToChildren | None = None,
    follow: Follow | None = None,
) -> ChildLog:
    """Run a command to its end, append its output to the file `log`, and pass each line to `on_line`.

    Signals that this process gets are passed on to the child. A third one kills it and what it has started; so does
    the first one, and the end of its run, when the child has not ended `ending_s` seconds after it. What it leaves
    behind is killed where it keeps the output open.

    Args:
        on_begin: for a child that reads its standard input: called with a function that writes a line to it, and
            closes it when called with None. The input of any other is empty.
        signals: passes them on to several children, this one among them; by default it is the only one.
        follow: for runs whose steps are elsewhere, and print nothing here: the lines of each Dagster run are taken from
            its event log, in the place of those that the child prints of it, and all of them before its end is told.
    """
    child_log, taking, following = ChildLog(), threading.Lock(), ExitStack()
    followed: str | None = None
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("a", encoding="utf-8") as kept,
        (
            signals_passed_on(child_log.note_signal, ending_s)
            if signals is None
            else signals.to_child(child_log.note_signal)
        ) as pass_to,
        subprocess.Popen(  # noqa: S603 - our own command
            command.arguments,
            cwd=command.folder,
            env=command.environment() | {"LOG_FORMAT": "json", "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"},
            stdin=subprocess.DEVNULL if on_begin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # Ctrl-C reaches the child through us alone, not twice
        ) as child,
    ):
        pass_to(child.send_signal, lambda: _kill(child))
        if on_begin is not None:
            on_begin(lambda text: _write(child, text))

        def take(line: Line) -> None:
            with taking:
                kept.write(json.dumps(line) + "\n")
                kept.flush()
                child_log.add(line)
                on_line(line)

        with following:
            for text in _output(child, child_log, ending_s):
                line = as_line(text.rstrip("\n"), redact)
                if line is None:
                    continue
                if follow is None or (dagster_run_id := line.get("dagster_run_id")) is None:
                    if line.get("event") == RUN_ENDED:
                        following.close()
                    take(line)
                elif followed != dagster_run_id:
                    following.close()
                    followed = child_log.dagster_run_id = dagster_run_id
                    following.enter_context(follow(dagster_run_id, take))
    if child_log.exit_code is None:
        child_log.exit_code = child.returncode
    return child_log


def _output(child: subprocess.Popen[str], child_log: ChildLog, ending_s: float) -> Iterator[str]:
    """Yield the lines that a process prints, to its end, whatever it has started or left undone."""
    lines: Queue[str | None] = Queue(_LINES_AHEAD)
    # Taken from it, since a file cannot be closed while another thread waits for a line.
    output, child.stdout = child.stdout, None
    assert output is not None

    def read() -> None:
        with output:
            for text in output:
                lines.put(text)
        lines.put(None)

    threading.Thread(target=read, name="output", daemon=True).start()
    quiet_since, killed = time.monotonic(), False
    while True:
        try:
            text = lines.get(timeout=_POLL_SECONDS)
        except Empty:
            quiet_s = time.monotonic() - quiet_since
            if child.poll() is not None and quiet_s >= _QUIET_SECONDS:
                if killed:
                    return  # what keeps the output open is in no group of the child's
                yield _LEFT_BEHIND
            elif child.returncode is None and child_log.ended is not None and quiet_s >= ending_s:
                yield _NOT_ENDING
                child_log.exit_code = child_log.ended
            else:
                continue
            _kill(child)
            quiet_since, killed = time.monotonic(), True
            continue
        if text is None:
            return
        yield text
        quiet_since = time.monotonic()  # the child may have waited for what was done with the line


def _write(child: subprocess.Popen[str], text: str | None) -> None:
    """Write a line to a process, or close its input; one that is gone is noticed elsewhere."""
    assert child.stdin is not None
    if text is None:
        child.stdin.close()
        return
    with suppress(BrokenPipeError):  # past the buffer, which would be written again by closing it
        os.write(child.stdin.fileno(), f"{text}\n".encode())


def as_line(text: str, redact: Callable[[str], str]) -> Line | None:
    """Parse a line of output; one that is not JSON of ours (a library's print) becomes the message of a log line."""
    if not text.strip():
        return None
    try:
        line = json.loads(text)
    except ValueError:
        line = None
    if isinstance(line, dict) and {"timestamp", "level", "message"} <= line.keys():
        return line
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    nothing = dict.fromkeys(("run_id", "process_stage", "market_id"))
    return {"timestamp": now, "level": "INFO", "logger": _OUTPUT, "message": redact(text), **nothing}


def _kill(child: subprocess.Popen[str]) -> None:
    """Kill a process that leads a group, and the rest of its group, which would keep its output open."""
    with suppress(ProcessLookupError):
        if hasattr(os, "killpg"):
            os.killpg(child.pid, signal.SIGKILL)
        else:
            child.kill()
