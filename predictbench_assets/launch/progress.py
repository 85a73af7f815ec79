"""The display of a run while it works: stages for a person, lines for a log collector."""

import json
import sys
from collections.abc import Hashable, Iterable, Sequence
from datetime import datetime
from typing import Protocol

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.status import Status
from rich.text import Text

from predictbench_assets.experiments.contexts import FURTHER_LINES
from predictbench_assets.launch.child import Line
from predictbench_assets.observability.console import error_console
from predictbench_assets.observability.logs import readable, wants_json
from predictbench_assets.printable import in_json, on_one_line
from predictbench_assets.settings import Settings

_LAST_PART = "gather"
"""The last step of an asset of several."""


_STARTING = "starting Dagster ..."


class Display(Protocol):
    """Something that shows lines as they come."""

    def __call__(self, line: Line) -> None:
        """Show a line."""
        ...

    def close(self) -> None:
        """Leave the terminal as it was."""
        ...


def default_display(settings: Settings) -> Display:
    """Show stages on a terminal, and every line elsewhere, in LOG_FORMAT."""
    if settings.log_format == "auto" and sys.stderr.isatty():
        return stages(settings)
    return Lines(as_json=wants_json(settings), tracebacks=settings.log_level == "DEBUG")


def stages(_: Settings) -> Display:
    """Stages wherever it goes: for a command that only people run."""
    return Stages(error_console())


class Lines:
    """Display of every line on stderr, as JSON or readable."""

    def __init__(self, *, as_json: bool, tracebacks: bool = False) -> None:
        self._as_json = as_json
        self._tracebacks = tracebacks

    def __call__(self, line: Line) -> None:
        """Show a line. A person sees the reason; the traceback is in the log file, and shown when debugging."""
        if not self._as_json and line.get("reason") and not self._tracebacks:
            line = line | {"message": f"{line['message']} {line['reason']}", "exception": None}
        sys.stderr.write((in_json(json.dumps(line)) if self._as_json else readable(line)) + "\n")
        sys.stderr.flush()

    def close(self) -> None:
        """Do nothing: the terminal is as it was."""


class Stages:
    """One line per finished asset, a spinner with the latest word of the running one, warnings and errors."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status: Status = console.status(_STARTING)
        self._status.start()
        self._begun: dict[str, datetime] = {}

    def __call__(self, line: Line) -> None:
        """Show a line."""
        stage, event = line.get("process_stage") or "", line.get("event")
        at = datetime.fromisoformat(line["timestamp"])
        if event == "STEP_START":
            self._begun.setdefault(stage, at)
            self._status.update(Text(f"{stage} ..."))
        elif event == "STEP_SUCCESS" and line.get("part") not in (None, _LAST_PART):
            self._status.update(Text(f"{stage}: {line['part']} is done"))
        elif event == "STEP_SUCCESS":
            seconds = (at - self._begun.get(stage, at)).total_seconds()
            self._console.print(Text.assemble(("  ok    ", "green"), f"{stage:<44} {seconds:6.1f} s"))
        elif event == "STEP_FAILURE":
            self._console.print(
                Text.assemble(("  FAILED  ", "red"), _sentence(stage, line | {"message": line.get("reason") or ""}))
            )
        elif event is None and line["level"] in ("WARNING", "ERROR", "CRITICAL") and line["logger"] != FURTHER_LINES:
            style = "yellow" if line["level"] == "WARNING" else "red"
            self._console.print(Text.assemble((f"  {line['level'].lower()}  ", style), _sentence(stage, line)))
        elif event is None:
            self._status.update(Text(_sentence(stage, line)))

    def close(self) -> None:
        """Remove the spinner."""
        self._status.stop()


class RunsBar:
    """A bar of many runs with the time that is left; above it the stage of each under way, warnings and errors."""

    def __init__(self, console: Console, runs: int) -> None:
        self._progress = _BarBelow(
            BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console, transient=True
        )
        self._progress.above = [_STARTING]
        self._task = self._progress.add_task("", total=runs)
        self._under_way: dict[Hashable, tuple[str, str]] = {}
        """The names and stages of runs, a line each."""
        self._progress.start()

    def begin(self, run: Hashable, text: str) -> None:
        """Name a run that has begun."""
        self._under_way[run] = text, ""
        self._describe()

    def end(self, run: Hashable) -> None:
        """Count a run that has ended."""
        self._under_way.pop(run, None)
        self._progress.advance(self._task)
        self._describe()

    def show(self, run: Hashable, line: Line) -> None:
        """Show a line of a run: the stage that it begins, or a warning above the bar."""
        stage, event = line.get("process_stage") or "", line.get("event")
        if event == "STEP_START" and run in self._under_way:
            self._under_way[run] = self._under_way[run][0], f"  {stage}"
            self._describe()
        elif event is None and line["level"] in ("WARNING", "ERROR", "CRITICAL") and line["logger"] != FURTHER_LINES:
            style = "yellow" if line["level"] == "WARNING" else "red"
            text = Text.assemble((f"  {line['level'].lower()}  ", style), _sentence(stage, line))
            self._progress.console.print(text)

    def __call__(self, line: Line) -> None:
        """Show a line that is of no run."""
        self.show(None, line)

    def close(self) -> None:
        """Remove the bar."""
        self._progress.stop()

    def _describe(self) -> None:
        lines = [on_one_line(text + stage) for text, stage in self._under_way.values()]
        if lines or self._progress.finished:  # else the next one begins soon
            self._progress.above = lines


class _BarBelow(Progress):
    """A bar below some lines, which a narrow terminal cuts off rather than the bar."""

    above: Sequence[str] = ()

    def get_renderables(self) -> Iterable[RenderableType]:
        for line in self.above:
            yield Text(line, no_wrap=True, overflow="ellipsis")
        yield from super().get_renderables()


def _sentence(stage: str, line: Line) -> str:
    return on_one_line(f"{stage}: {line['message']}" if stage else str(line["message"]))
