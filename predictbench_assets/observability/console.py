"""Printing for people: as wide as the terminal or COLUMNS; in a pipe tables are wide, and sentences one line."""

import logging
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import click
from rich.console import Console

from predictbench_assets.observability.logs import wants_json
from predictbench_assets.printable import printable
from predictbench_assets.reporting.tables import FittedTable, hanging
from predictbench_assets.settings import Settings

PIPED_WIDTH = 200
"""Columns in a file or a pipe: the same on every machine, and wide enough to be searched by lines."""
_NARROWEST = 20

_log = logging.getLogger(__name__)


def console(*, piped_width: int = PIPED_WIDTH) -> Console:
    """The console for tables and summaries, on stdout."""
    # The height is not used; without it rich takes every dumb terminal, and so every log of a CI, for 80 columns wide.
    return Console(highlight=False, width=_width(piped_width), height=25)


def error_console() -> Console:
    """The console for progress, on stderr."""
    return Console(stderr=True, highlight=False)


def print_table(head: Sequence[str], rows: Sequence[Sequence[str | None]]) -> None:
    """Print rows under the names of their columns."""
    console().print(FittedTable(head, rows))


def print_item(lead: str, text: str, file: IO[Any] | None = None) -> None:
    """Print a sentence behind a lead: fitted to a terminal, else in one line that can be searched for."""
    on_terminal = (file or sys.stdout).isatty()
    lead, text = printable(lead), printable(text)
    click.echo(hanging(lead, text, _width()) if on_terminal else lead + text, file=file)


def print_status(settings: Settings, text: str) -> None:
    """Print progress to stderr, line by line into the log where stderr has JSON lines."""
    if wants_json(settings):
        for line in text.strip().splitlines():
            _log.info(line.strip())
    else:
        # Not by click, which writes past the stream that keeps a bar or a spinner below what is printed.
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def append_step_summary(markdown: str) -> None:
    """Append a text to the page of a GitHub Action, if this is one; a page that cannot be written is a warning."""
    if page := os.environ.get("GITHUB_STEP_SUMMARY"):
        try:
            with Path(page).open("a", encoding="utf-8") as file:
                file.write(markdown)
        except OSError as error:
            _log.warning("GITHUB_STEP_SUMMARY: %s cannot be written (%s)", page, error.strerror)


def _width(piped_width: int = PIPED_WIDTH) -> int:
    fallback = 80 if sys.stdout.isatty() else piped_width
    return max(shutil.get_terminal_size((fallback, 25)).columns, _NARROWEST)
