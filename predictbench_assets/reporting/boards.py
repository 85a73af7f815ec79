"""Boards as text: a table for a terminal, Markdown for a page, CSV and JSON for programs."""

import csv
import io
import re
from collections.abc import Sequence
from itertools import groupby
from typing import Any, Final

import msgspec
from rich.console import Group, RenderableType
from rich.text import Text

from predictbench_assets.clock import utc_text
from predictbench_assets.printable import printable
from predictbench_assets.reporting.output import markdown_table
from predictbench_assets.reporting.tables import FittedTable
from predictbench_assets.scoring.boards import ALL, BoardRow, Leaderboard

NOTHING: Final = "no market of a stored run counts yet: run `predictbench daily`, and `predictbench resolve` later"

_HEAD: Final = ("rank", "experiment", "markets", "events", "cover", "edge, 95 % interval", "Brier", "remarks")
_WITHIN_INTERVAL: Final = re.compile(r", (?=[+-]?\d)")
_LEGEND: Final = (
    "edge: Brier score of the market's price minus that of the forecasts; above 0 beats the market. "
    "cover: share of the board's markets that were forecast."
)


def as_json(rows: Sequence[BoardRow]) -> str:
    """A list of objects with all fields of a row."""
    return msgspec.json.format(msgspec.json.encode(rows), indent=2).decode() + "\n"


def as_csv(rows: Sequence[BoardRow]) -> str:
    """A line for each row, all fields; flags with spaces between them, empty where a number is undefined."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, [field.name for field in msgspec.structs.fields(BoardRow)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(msgspec.structs.asdict(row) | {"flags": " ".join(row.flags)} for row in rows)
    return buffer.getvalue()


def as_markdown(leaderboard: Leaderboard, rows: Sequence[BoardRow], *, simulated: bool = False) -> str:
    """A table for each board, window, category and price bin.

    Args:
        simulated: True where the markets are those of a simulated exchange.
    """
    lines = [_heading(leaderboard, simulated), ""]
    for title, group in _groups(rows):
        lines += [f"**{title}**", "", *markdown_table(_HEAD, [_cells(row) for row in group]), ""]
    lines.append(_LEGEND if rows else NOTHING)
    return "\n".join(lines) + "\n"


def as_table(leaderboard: Leaderboard, rows: Sequence[BoardRow], *, simulated: bool = False) -> RenderableType:
    """The same for a terminal."""
    parts: list[RenderableType] = [Text(_heading(leaderboard, simulated))]
    for title, group in _groups(rows):
        # Where the edge has to wrap, its interval stays whole.
        cells = [[_WITHIN_INTERVAL.sub(",\N{NO-BREAK SPACE}", cell) for cell in _cells(row)] for row in group]
        parts += [Text(f"\n{printable(title)}", "bold"), FittedTable(_HEAD, cells, [_style(row) for row in group])]
    parts.append(Text(f"\n{_LEGEND if rows else NOTHING}", "dim"))
    return Group(*parts)


def _style(row: BoardRow) -> str | None:
    if "control_beats_market" in row.flags:
        return "bold red"
    return "dim" if row.control or row.reference else None


def _heading(leaderboard: Leaderboard, simulated: bool) -> str:
    at = utc_text(leaderboard.as_of)
    final = sum(cohort.n_final for cohort in leaderboard.cohorts)
    stored = sum(cohort.n_markets for cohort in leaderboard.cohorts)
    runs = len(leaderboard.cohorts)
    markets = "simulated markets" if simulated else "markets"
    return f"As known at {at}: {final:,} of {stored:,} {markets} of {runs:,} runs have settled."


def _groups(rows: Sequence[BoardRow]) -> list[tuple[str, list[BoardRow]]]:
    """Rows that belong into one table, best first, and its title."""

    def place(row: BoardRow) -> tuple[Any, ...]:
        return row.board, row.window_days, row.category, row.price_bin

    def merit(row: BoardRow) -> tuple[Any, ...]:
        unranked, unknown = row.rank is None, row.mean_edge is None
        return unranked, row.rank or 0, unknown, -(row.mean_edge or 0.0), row.experiment, row.version

    order = list(dict.fromkeys(map(place, rows)))
    ordered = sorted(rows, key=lambda row: (order.index(place(row)), merit(row)))
    return [(_title(*key), list(group)) for key, group in groupby(ordered, place)]


def _title(board: str, window_days: int, category: str, price_bin: str) -> str:
    title = f"{board} board, {window_days} day{'s' if window_days != 1 else ''} ahead"
    title += f", {category}" if category != ALL else ""
    return title + (f", price {price_bin} %" if price_bin != ALL else "")


def _cells(row: BoardRow) -> tuple[str, ...]:
    kind = ["the price"] if row.reference else ["control"] if row.control else []
    leaked = [f"{row.n_leaked:,} cite a market's price"] if row.n_leaked else []
    return (
        str(row.rank or ""),
        row.label,
        f"{row.n_markets:,}",
        f"{row.n_events:,}",
        "" if row.coverage is None else f"{row.coverage:.0%}",
        _interval(row),
        "" if row.brier is None else f"{row.brier:.4f}",
        ", ".join([*kind, *leaked, *(flag.replace("_", " ") for flag in row.flags)]),
    )


def _interval(row: BoardRow) -> str:
    if row.mean_edge is None:
        return ""
    edge = _signed(row.mean_edge)
    if row.edge_low is None or row.edge_high is None:
        return edge
    return f"{edge} [{_signed(row.edge_low)}, {_signed(row.edge_high)}]"


def _signed(value: float) -> str:
    return f"{value:+.4f}" if value else "0"
