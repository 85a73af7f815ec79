"""The child process in which Dagster runs: its output read and kept, signals passed on, its end awaited."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from predictbench_assets.launch.commands import Command
from predictbench_assets.launch.signals import signals_passed_on

ENDING_SECONDS = 20.0
"""Seconds that a process may take to end after it was asked to, before it is killed."""

_OUTPUT = "output"
"""The logger of lines that were printed, not logged."""

_TRACEBACK, _CHAINED = "Traceback (most recent call last)", ("The above exception was", "During handling of the above")
_RAISED = re.compile(r"(\w+\.)*[A-Z]\w*(Error|Exception|Unavailable|Refused): \S")

Line = dict[str, Any]
"""A log line of the child, as `observability.logs.JsonLines` writes it."""


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
        if event == "STEP_START" and stage is not None:
            self.begun.add(stage)
        if event == "STEP_START" and self.reason is None:
            self.stage = stage
        elif event == "STEP_FAILURE" and self.reason is None:
            self.stage, self.reason = stage, line.get("reason")
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
) -> ChildLog:
    """Run a command to its end, append its output to the file `log`, and pass each line to `on_line`.

    Signals that this process gets are passed on to the child. A third one kills it and what it has started; so does
    the first one, when the child has not ended `ending_s` seconds after it.
    """
    child_log = ChildLog()
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("a", encoding="utf-8") as kept,
        signals_passed_on(child_log.note_signal, ending_s) as pass_to,
        subprocess.Popen(  # noqa: S603 - our own command
            command.arguments,
            cwd=command.folder,
            env=command.environment() | {"LOG_FORMAT": "json", "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # Ctrl-C reaches the child through us alone, not twice
        ) as child,
    ):
        assert child.stdout is not None
        pass_to(child.send_signal, lambda: _kill(child))
        for text in child.stdout:
            line = as_line(text.rstrip("\n"), redact)
            if line is None:
                continue
            kept.write(json.dumps(line) + "\n")
            kept.flush()
            child_log.add(line)
            on_line(line)
    child_log.exit_code = child.returncode
    return child_log


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
