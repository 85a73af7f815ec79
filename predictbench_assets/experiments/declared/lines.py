"""The line of each key of a TOML file, which its readers do not tell."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Final

Path = tuple[str, ...]

_PART: Final = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}'
    r"|'''.*?'{3,5}"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'"
    r"|#[^\n]*"
    r"|[\[\]{}=\n]"
    r"""|[^"'#\[\]{}=\n]+""",
    re.DOTALL,
)


def key_lines(text: str) -> Mapping[Path, int]:
    """The number of the line of each table and key of a valid TOML file, by their path from the top.

    What is within an array or an inline table has none: ask `line_of`.
    """
    lines: dict[Path, int] = {}
    table: Path = ()
    for number, statement in _statements(text):
        if statement[0] == "[":
            key = "".join(statement).strip().strip("[]")
            table = _path(key)
            found = table
        else:
            found = table + _path("".join(statement[: statement.index("=")]))
        for length in range(1, len(found) + 1):
            lines.setdefault(found[:length], number)
    return lines


def line_of(lines: Mapping[Path, int], path: tuple[str | int, ...]) -> int:
    """The line of a path, or of the nearest table or key around it; 1 for the file itself."""
    names = tuple(str(part) for part in path)
    return next((lines[names[:length]] for length in range(len(names), 0, -1) if names[:length] in lines), 1)


def _statements(text: str) -> Iterator[tuple[int, list[str]]]:
    """Headers and assignments, each as its parts and with the number of the line that it begins in."""
    number, begun, depth = 1, 1, 0
    statement: list[str] = []
    for match in _PART.finditer(text):
        part = match.group()
        if (part == "\n" and depth == 0) or part.startswith("#"):
            if part == "\n" and statement:
                yield begun, statement
                statement = []
        elif statement or part.strip():
            if not statement:
                begun = number
            statement.append(part)
            depth += (part in "[{") - (part in "]}") if len(part) == 1 else 0
        number += part.count("\n")
    if statement:
        yield begun, statement


def _path(key: str) -> Path:
    """The parts of a key as it is written, dotted and quoted."""
    found: Path = ()
    inner: object = tomllib.loads(f"{key} = 0")
    while isinstance(inner, dict):
        ((name, inner),) = inner.items()
        found += (name,)
    return found
