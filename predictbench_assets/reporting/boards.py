"""Boards as text: a table for a terminal, Markdown for a page, CSV and JSON for programs."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, Final

import msgspec
from rich.console import Group, RenderableType
from rich.text import Text

from predictbench_assets.clock import utc_text
from predictbench_assets.printable import printable
from predictbench_assets.reporting.output import markdown_table, money
from predictbench_assets.reporting.tables import FittedTable
from predictbench_assets.scoring.boards import ALL, BoardRow, EntrantCost, Flag, Leaderboard
from predictbench_assets.scoring.costs import cost_of, usd_per_point

NOTHING: Final = "no market of a stored run counts yet: run `predictbench daily`, and `predictbench resolve` later"

_HEAD: Final = ("rank", "experiment", "markets", "events", "cover", "edge, 95 % interval", "Brier", "remarks")
_WITHIN_INTERVAL: Final = re.compile(r", (?=[+-]?\d)")
_LEGEND: Final = (
    "edge: Brier score of the market's price minus that of the forecasts; above 0 beats the market. "
    "cover: share of the board's markets that were forecast."
)
RECONSTRUCTED: Final = (
    "Nobody captured these days as they passed: they were put together afterwards, out of what the exchange still "
    "knows, and so were the forecasts. Texts and ends are as they were read, prices come of a history. It all proves "
    "nothing about foresight."
)
"""What a reader of numbers of reconstructed markets has to know."""

MAY_KNOW: Final = (
    "markets that were asked about as of the model's knowledge cutoff or earlier, and have settled: its training may "
    "have had the outcome. They are counted all the same."
)
"""What a reader of a forecast by such a model has to know."""

_MAY_KNOW: Final[Flag] = "may_know_the_answer"

_COST_HEAD: Final = ("a forecast", "a day", "a point won")
_COST_LEGEND: Final = (
    " Costs are over all days of the window whose cost is known; a point won: the cost of 1.00 of Brier score better "
    "than the market's price, summed over markets."
)
_NUMBERS: Final = ("usd_per_forecast", "usd_per_day", "usd_per_point", "other_costs")


def period(leaderboard: Leaderboard) -> str:
    """A sentence on the run dates that count; empty where all there are count."""
    first = [f"from {leaderboard.since}"] if leaderboard.since else []
    last = [f"up to {leaderboard.until}"] if leaderboard.until else ["on"] if first else []
    return f"Only run dates {' '.join(first + last)} count." if last else ""


def as_json(leaderboard: Leaderboard, rows: Sequence[BoardRow]) -> str:
    """A list of objects with all fields of a row, what its entrant cost (null where that is not known), and the first
    and the last run date that count (null where nothing before or after was left out)."""
    days = msgspec.to_builtins({"since": leaderboard.since, "until": leaderboard.until})
    priced = [msgspec.to_builtins(row) | _costs(row, leaderboard.costs) | days for row in rows]
    return msgspec.json.format(msgspec.json.encode(priced), indent=2).decode() + "\n"


def as_csv(leaderboard: Leaderboard, rows: Sequence[BoardRow]) -> str:
    """A line for each row, as in JSON; flags with spaces between them, empty where a number is undefined."""
    buffer = io.StringIO()
    names = [field.name for field in msgspec.structs.fields(BoardRow)]
    days = {"since": leaderboard.since, "until": leaderboard.until}
    writer = csv.DictWriter(buffer, [*names, *_NUMBERS, *days], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cost = _costs(row, leaderboard.costs)
        others = " ".join(f"{currency} {amount}" for currency, amount in cost.pop("other_costs").items())
        texts = {"flags": " ".join(row.flags), "other_costs": others}
        writer.writerow(msgspec.structs.asdict(row) | cost | texts | days)
    return buffer.getvalue()


def _costs(row: BoardRow, costs: Sequence[EntrantCost]) -> dict[str, Any]:
    """The last fields of a row: dollars, and the amounts in other currencies, which are sums over all days."""
    cost = cost_of(row, costs)
    return {
        "usd_per_forecast": cost and cost.usd_per_forecast,
        "usd_per_day": cost and cost.usd_per_day,
        "usd_per_point": usd_per_point(row, cost),
        "other_costs": cost.others if cost else {},
    }


def as_markdown(leaderboard: Leaderboard, rows: Sequence[BoardRow], *, simulated: bool = False) -> str:
    """A table for each board, window, category and price bin; reconstructed markets have their own.

    Args:
        simulated: True where the markets are those of a simulated exchange.
    """
    lines = [_heading(leaderboard, simulated), ""]
    costs = leaderboard.costs
    head, legend = _words(rows, costs)
    for title, group in _groups(rows):
        lines += [f"**{title}**", "", *markdown_table(head, [_cells(row, costs) for row in group]), ""]
    lines.append(legend)
    return "\n".join(lines) + "\n"


def as_table(leaderboard: Leaderboard, rows: Sequence[BoardRow], *, simulated: bool = False) -> RenderableType:
    """The same for a terminal."""
    parts: list[RenderableType] = [Text(_heading(leaderboard, simulated))]
    costs = leaderboard.costs
    head, legend = _words(rows, costs)
    for title, group in _groups(rows):
        # Where the edge has to wrap, its interval stays whole.
        cells = [[_WITHIN_INTERVAL.sub(",\N{NO-BREAK SPACE}", cell) for cell in _cells(row, costs)] for row in group]
        parts += [Text(f"\n{printable(title)}", "bold"), FittedTable(head, cells, [_style(row) for row in group])]
    parts.append(Text(f"\n{legend}", "dim"))
    return Group(*parts)


def _words(rows: Sequence[BoardRow], costs: Sequence[EntrantCost]) -> tuple[tuple[str, ...], str]:
    """Head and legend of the tables; costs are in them where one is known."""
    if not rows:
        return _HEAD, NOTHING
    legend = _LEGEND + (_COST_LEGEND if costs else "")
    if any(row.n_may_know for row in rows):
        legend += f" May know the answer: {MAY_KNOW}"
    if any(row.reconstructed for row in rows):
        legend += f" Reconstructed markets: {RECONSTRUCTED}"
    return (*_HEAD[:-1], *(_COST_HEAD if costs else ()), _HEAD[-1]), legend


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
    known = f"As known at {at}: {final:,} of {stored:,} {markets} of {runs:,} runs have settled."
    counted = period(leaderboard)
    others = "`predictbench leaderboard` counts others with --since and --until, or all with LEADERBOARD_DAYS=0."
    return f"{known} {counted} {others}" if counted else known


def _groups(rows: Sequence[BoardRow]) -> list[tuple[str, list[BoardRow]]]:
    """Rows that belong into one table, best first, and its title."""

    def place(row: BoardRow) -> tuple[Any, ...]:
        return row.board, row.reconstructed, row.window_days, row.category, row.price_bin

    def merit(row: BoardRow) -> tuple[Any, ...]:
        unranked, unknown = row.rank is None, row.mean_edge is None
        return unranked, row.rank or 0, unknown, -(row.mean_edge or 0.0), row.experiment, row.version

    order = list(dict.fromkeys(map(place, rows)))
    ordered = sorted(rows, key=lambda row: (order.index(place(row)), merit(row)))
    return [(_title(*key), list(group)) for key, group in groupby(ordered, place)]


def _title(board: str, reconstructed: bool, window_days: int, category: str, price_bin: str) -> str:
    title = f"{board} board, {window_days} day{'s' if window_days != 1 else ''} ahead"
    title += ", reconstructed markets" if reconstructed else ""
    title += f", {category}" if category != ALL else ""
    return title + (f", price {price_bin} %" if price_bin != ALL else "")


def _cells(row: BoardRow, costs: Sequence[EntrantCost]) -> tuple[str, ...]:
    kind = ["the price"] if row.reference else ["control"] if row.control else []
    may_know = [f"may know the answer of {row.n_may_know:,}"] if row.n_may_know else []
    leaked = [f"{row.n_leaked:,} cite a market's price"] if row.n_leaked else []
    return (
        str(row.rank or ""),
        row.label,
        f"{row.n_markets:,}",
        f"{row.n_events:,}",
        "" if row.coverage is None else f"{row.coverage:.0%}",
        edge_text(row),
        "" if row.brier is None else f"{row.brier:.4f}",
        *(_cost_cells(row, cost_of(row, costs)) if costs else ()),
        ", ".join([*kind, *leaked, *may_know, *(flag.replace("_", " ") for flag in row.flags if flag != _MAY_KNOW)]),
    )


def _cost_cells(row: BoardRow, cost: EntrantCost | None) -> tuple[str, str, str]:
    """What a forecast, a day and a point cost; amounts of several currencies side by side."""
    if cost is None:
        return "", "", ""
    point = usd_per_point(row, cost)
    return (
        ", ".join(amounts(cost.usd_per_forecast, cost.others, cost.forecasts)) or "-",
        ", ".join(amounts(cost.usd_per_day, cost.others, cost.days)),
        "-" if point is None else money(point),
    )


def amounts(usd: float | None, others: Mapping[str, float], parts: int) -> list[str]:
    """Dollars, then the sums in other currencies by so many parts; nothing where there are no parts."""
    return [
        *([] if usd is None else [money(usd)]),
        *(money(amount / parts, currency) for currency, amount in others.items() if parts),
    ]


def edge_text(row: BoardRow) -> str:
    """The mean edge with its interval, as in `+0.0123 [-0.0040, +0.0286]`; empty where there is none."""
    if row.mean_edge is None:
        return ""
    edge = _signed(row.mean_edge)
    if row.edge_low is None or row.edge_high is None:
        return edge
    return f"{edge} [{_signed(row.edge_low)}, {_signed(row.edge_high)}]"


def _signed(value: float) -> str:
    return f"{value:+.4f}" if value else "0"
