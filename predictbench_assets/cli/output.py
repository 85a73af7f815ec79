"""How commands print: as wide as the terminal, or as COLUMNS says; in a pipe tables are wide and sentences one line."""

import io
import shutil
import sys
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, Any

import click

from predictbench_assets.printable import printable

if TYPE_CHECKING:
    from rich.console import Console

PIPED_WIDTH = 200
"""Of what goes into a file or a pipe: the same on every machine, and wide enough to be searched by lines."""
_NARROWEST = 20


class FittedError(click.ClickException):
    """Another error of the command line, whose words are not broken at the edge of a terminal."""

    def __init__(self, error: click.ClickException) -> None:
        super().__init__(error.format_message())
        self.exit_code = error.exit_code  # type: ignore[misc]  # usage errors have another one than the rest
        self._error = error

    def show(self, file: IO[Any] | None = None) -> None:
        """Print what the other error prints, to stderr unless a file is given."""
        shown = io.StringIO()
        self._error.show(shown)
        for line in shown.getvalue().splitlines():
            print_item("", line, file or sys.stderr)


def console() -> "Console":
    """Where tables and summaries are printed."""
    from rich.console import Console

    # The height is not used; without it rich takes every dumb terminal, and so every log of a CI, for 80 columns wide.
    return Console(highlight=False, width=_width(), height=25)


def print_table(head: Sequence[str], rows: Sequence[Sequence[str | None]]) -> None:
    """Print rows under the names of their columns."""
    from predictbench_assets.reporting.tables import FittedTable

    console().print(FittedTable(head, rows))


def print_item(lead: str, text: str, file: IO[Any] | None = None) -> None:
    """Print a sentence behind what it is about: fitted to a terminal, else in one line that can be searched for."""
    on_terminal = (file or sys.stdout).isatty()
    click.echo(_fitted(printable(lead), text) if on_terminal else printable(lead + text), file=file)


def _fitted(lead: str, text: str) -> str:
    from predictbench_assets.reporting.tables import hanging

    return hanging(lead, printable(text), _width())


def _width() -> int:
    fallback = 80 if sys.stdout.isatty() else PIPED_WIDTH
    return max(shutil.get_terminal_size((fallback, 25)).columns, _NARROWEST)
