"""Tables, sizes and files of summaries."""

import os
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Final
from uuid import uuid4

from rich.console import Group, RenderableType
from rich.text import Text

from predictbench_assets.printable import printable
from predictbench_assets.reporting.tables import FittedTable

_MOST_PLACES: Final = 8


def size(count: int) -> str:
    """Bytes for people, as in `1.2 MB`."""
    for unit, bytes_of in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= bytes_of:
            return f"{count / bytes_of:,.1f} {unit}"
    return f"{count} bytes"


def money(amount: Decimal | float, currency: str = "USD") -> str:
    """An amount for people: cents from a dollar on, below that two digits, as in `$1,204.50`, `$0.0053`, `0.20 EUR`."""
    exact = Decimal(str(amount))
    places = 2 if not exact or abs(exact) >= 1 else min(max(1 - exact.adjusted(), 2), _MOST_PLACES)
    text = f"{exact:,.{places}f}" if exact else "0"
    return f"${text}" if currency == "USD" else f"{text} {currency}"


def markdown_table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """The lines of a table in Markdown; its cells are plain text."""
    return [f"| {' | '.join(map(_markdown_cell, cells))} |" for cells in (head, ("---",) * len(head), *rows)]


_ENTITIES = str.maketrans({character: f"&#{ord(character)};" for character in "&<|[`\\*~$"})


def _markdown_cell(text: str) -> str:
    """Text that cannot end its cell, start a line or become markup: reasons quote what a server sent."""
    return printable(" ".join(text.split())).translate(_ENTITIES)


def rich_table(title: str, head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> RenderableType:
    """A table with a title, as wide as the terminal lets it be."""
    return Group("", Text(printable(title), "bold"), FittedTable(head, rows, indent=2))


def publish(path: Path, *, json: str, markdown: str) -> Path:
    """Write a summary: the JSON at `path`, and the Markdown beside it with the suffix `.md`, each in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_at_once(path.with_suffix(".md"), markdown)
    write_at_once(path, json)
    return path


def write_at_once(path: Path, text: str) -> None:
    """Write a file in one step: who reads it meanwhile sees the old text or the new one.

    A device or a pipe, such as `/dev/null`, is written to and stays what it is.

    Raises:
        OSError: always with the name of a file, which a full disk does not give by itself.
    """
    partial = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        if path.exists() and not path.is_file():
            path.write_text(text, encoding="utf-8")
            return
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, error.filename or str(path)) from error
    finally:
        partial.unlink(missing_ok=True)
