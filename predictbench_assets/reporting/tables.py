"""Tables and long sentences, fitted to a width: numbers stay whole, and lines break between words."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len, chop_cells
from rich.console import Console, ConsoleOptions
from rich.text import Text

from predictbench_assets.printable import on_one_line, printable

Row = Sequence[str | None]

_NUMBER = re.compile(r"[+-]?\d[\d,]*(\.\d+)?(e[+-]?\d+)?( ?%)?|NaN|-?Infinity")
_LONG_WORD = 40
"""Longer words (addresses, lists without blanks, JSON) may also break after a separator."""
_PARTS = re.compile(r" *[^,/:;|&?= ]*[,/:;|&?=]*")
_READABLE = 12
"""Narrower than this no column of sentences is made."""
_NULL = "NULL"


@dataclass(frozen=True)
class FittedTable:
    """A table for rich. Too wide for the terminal, its sentences wrap; wider still, each row becomes a block of lines.

    Args:
        head: the names of the columns.
        rows: plain text; None is shown as NULL.
        styles: a style for all cells of each row; none by default.
        indent: blanks before each line.
    """

    head: Sequence[str]
    rows: Sequence[Row]
    styles: Sequence[str | None] = ()
    indent: int = 0

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> Iterator[Text]:
        margin = Text(" " * self.indent)
        for text in self._fitted(options.max_width - self.indent):
            for line in text.split("\n", allow_blank=True):
                yield margin + line if line else line

    def _fitted(self, width: int) -> Iterator[Text]:
        rows = [[None if cell is None else on_one_line(cell).expandtabs(4) for cell in row] for row in self.rows]
        head = [_printable_text(name) for name in self.head]
        columns = [[name, *(row[index] or _NULL for row in rows)] for index, name in enumerate(head)]
        natural = [max(cell_len(line) for cell in column for line in cell.split("\n")) for column in columns]
        words = [max(map(_longest_word, column)) for column in columns]
        readable = [max(word, min(wide, _READABLE)) for word, wide in zip(words, natural, strict=True)]
        joints = [max(map(_longest_part_of_name, column)) for column in columns]
        for least, gap in ((readable, 2), (readable, 1), (words, 1), (joints, 1)):
            widths = fitted_widths(natural, least, width - gap * (len(head) - 1))
            if widths is not None:
                yield from self._grid(head, rows, widths, " " * gap)
                return
        yield from self._blocks(head, rows, width)

    def _grid(self, head: Sequence[str], rows: Sequence[Row], widths: Sequence[int], gap: str) -> Iterator[Text]:
        # The first column names the row, even where the name is a number.
        right = [index > 0 and _numeric([row[index] for row in rows]) for index in range(len(head))]
        yield from _lines(head, widths, right, gap, "dim")
        styles = [*self.styles, *[None] * (len(rows) - len(self.styles))]
        for row, style in zip(rows, styles, strict=True):
            yield from _lines(row, widths, right, gap, style or "")

    def _blocks(self, head: Sequence[str], rows: Sequence[Row], width: int) -> Iterator[Text]:
        longest = max(map(cell_len, head))
        for index, row in enumerate(rows):
            if index:
                yield Text()
            for name, cell in zip(head, row, strict=True):
                lead = name + " " * (longest - cell_len(name) + 2)
                yield Text(hanging(lead, _NULL if cell is None else cell, width).rstrip(" "))


@dataclass(frozen=True)
class Facts:
    """Names and sentences for rich, below each other."""

    facts: Sequence[tuple[str, str]]

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> Iterator[Text]:
        longest = max((cell_len(name) for name, _ in self.facts), default=0)
        for name, value in self.facts:
            lead = f"  {name}{' ' * (longest - cell_len(name))}  "
            line = Text(hanging(lead, _printable_text(value), options.max_width).rstrip(" "))
            line.stylize("dim", 0, min(len(lead), len(line.plain.split("\n", 1)[0])))
            yield line


def fitted_widths(natural: Sequence[int], least: Sequence[int], room: int) -> list[int] | None:
    """Widths of columns that together have so much room, or None where even the least of each is too much."""
    spare = room - sum(least)
    if spare < 0:
        return None
    widths = list(least)
    while spare > 0 and (wanting := [index for index, width in enumerate(widths) if width < natural[index]]):
        share = max(spare // len(wanting), 1)
        for index in wanting:
            more = min(share, natural[index] - widths[index], spare)
            widths[index] += more
            spare -= more
    return widths


def wrapped(text: str, width: int) -> list[str]:
    """The text in lines of at most that width; only a word that is longer than a line is broken.

    No line ends at a no-break space, which is printed as an ordinary one.
    """
    lines = []
    for paragraph in text.split("\n"):
        line = ""
        for part in _parts(paragraph):
            if line.strip(" ") and cell_len(line) + cell_len(part) > width:
                lines.append(line)
                line = part.lstrip(" ")
            else:
                line += part
            *full, line = _broken(line, width)
            lines += full
        lines.append(line)
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]


def hanging(lead: str, text: str, width: int) -> str:
    """A sentence behind what it is about; further lines begin where the first one did, if that leaves it room."""
    indent = cell_len(lead)
    if indent > width * 2 // 5 or indent + _longest_word(text) > width:
        above = [lead.rstrip(" ")] if lead.strip(" ") else []
        return "\n".join([*above, *(f"    {line}" for line in wrapped(text, width - 4))])
    first, *rest = wrapped(text, width - indent)
    return "\n".join([lead + first, *(" " * indent + line for line in rest)])


def _printable_text(text: str) -> str:
    return printable(text).expandtabs(4)


def _parts(paragraph: str) -> Iterator[str]:
    """Parts that a line may be broken between; blanks stand before the word that they part from the last one."""
    for word in re.findall(r" *[^ ]+", paragraph):
        yield from filter(None, _PARTS.findall(word)) if cell_len(word) > _LONG_WORD else (word,)


def _broken(word: str, width: int) -> list[str]:
    """A word that is longer than a line: a name after an underscore, anything else where the line ends."""
    lines = [""]
    for part in re.findall(r"[^_]*_+|[^_]+", word):
        if cell_len(lines[-1]) + cell_len(part) > width and lines[-1].strip(" "):
            lines.append("")
        *full, rest = chop_cells(lines[-1] + part, width)
        lines[-1:] = [*full, rest]
    return lines


def _longest_part_of_name(text: str) -> int:
    return _longest_word(text.replace("_", "_ "))


def _longest_word(text: str) -> int:
    return max((cell_len(part.lstrip(" ")) for line in text.split("\n") for part in _parts(line)), default=0)


def _numeric(cells: Sequence[str | None]) -> bool:
    given = [cell for cell in cells if cell]
    return bool(given) and all(map(_NUMBER.fullmatch, given))


def _lines(
    cells: Sequence[str | None], widths: Sequence[int], right: Sequence[bool], gap: str, style: str
) -> Iterator[Text]:
    """One row of a table, of as many lines as its longest cell needs."""
    columns = [wrapped(_NULL if cell is None else cell, width) for cell, width in zip(cells, widths, strict=True)]
    for number in range(max(map(len, columns))):
        line = Text(style=style, no_wrap=True, overflow="ignore")
        for index, (column, width) in enumerate(zip(columns, widths, strict=True)):
            text = column[number] if number < len(column) else ""
            space = " " * (width - cell_len(text))
            line.append(f"{gap if index else ''}{space if right[index] else ''}")
            line.append(text, "dim italic" if cells[index] is None else None)
            line.append("" if right[index] else space)
        line.rstrip()
        yield line
