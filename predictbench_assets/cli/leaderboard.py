"""`predictbench leaderboard`: who beats the market, and how sure that is; today's board, or any past one."""

from collections.abc import Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Literal

import click

from predictbench_assets.cli.options import (
    as_of_instant,
    as_of_option,
    configured_settings,
    demo_option,
    period_of,
    period_options,
    windows_begun,
)
from predictbench_assets.database.connection import opened_database
from predictbench_assets.exchange_names import is_simulated
from predictbench_assets.observability.console import console
from predictbench_assets.persistence.stored_runs import stored_exchange
from predictbench_assets.printable import on_one_line
from predictbench_assets.reporting.boards import as_csv, as_json, as_markdown, as_table
from predictbench_assets.reporting.output import write_at_once
from predictbench_assets.scoring.boards import ALL, EVERY, PRICE_BIN_LABELS, BoardRow, Leaderboard, chosen_rows
from predictbench_assets.scoring.store.boards import rebuild_leaderboard

Format = Literal["table", "csv", "json", "md"]


def _bins_begun(_: click.Context, __: click.Parameter, begun: str) -> list[str]:
    """Price bins, for a shell to complete."""
    return [label for label in (ALL, EVERY, *PRICE_BIN_LABELS) if label.startswith(begun)]


@click.command(
    epilog="""\
\b
Examples:
  predictbench leaderboard
  predictbench leaderboard --as-of 2026-11-23 --board core
  predictbench leaderboard --window-days 7 --price-bin every
  predictbench leaderboard --format json --output board.json
""",
)
@as_of_option
@click.option("--board", type=click.Choice(["core", "full", "backfill"]), help="Only this one.  [default: all three]")
@click.option(
    "--window-days", type=int, metavar="N", shell_complete=windows_begun, help="Only this window.  [default: all]"
)
@click.option(
    "--category",
    metavar="NAME",
    help="Only this one; `all` is the board as a whole, `every` each cut.  [default: all in table and md, else every]",
)
@click.option(
    "--price-bin",
    default="all",
    metavar="BIN",
    shell_complete=_bins_begun,
    help="Such as 5-20 (per cent); `all` is the board as a whole, `every` each cut.",
)
@period_options
@click.option(
    "--format",
    "format_",
    type=click.Choice(["table", "csv", "json", "md"]),
    default="table",
    help="For a terminal, a program or a page.",
)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write it there.")
@demo_option
def leaderboard(
    moment: date | datetime | None,
    board: str | None,
    window_days: int | None,
    category: str | None,
    price_bin: str,
    since: date | None,
    until: date | None,
    format_: Format,
    output: Path | None,
) -> None:
    """Compute the boards from the stored forecasts and from what was known of their markets.

    Reads only; the same moment gives the same board, whenever it is asked for. It counts the runs of the
    LEADERBOARD_DAYS (365) before that moment. What each number means is in docs/reading-the-board.md.
    """
    if price_bin not in (ALL, EVERY, *PRICE_BIN_LABELS):
        bins = ", ".join((*PRICE_BIN_LABELS, ALL, EVERY))
        raise click.BadParameter(f"{price_bin!r} is none of {bins}", param_hint="--price-bin")
    settings = configured_settings()
    as_of = as_of_instant(moment, settings.clock.now())
    since, until = period_of(settings, as_of, since, until)
    with opened_database(settings) as engine:
        built = rebuild_leaderboard(engine, as_of, since=since, until=until)
        simulated = is_simulated(stored_exchange(engine))
    # A cut by category is one of its own, never one by price as well.
    cut = category or (ALL if format_ in ("table", "md") or price_bin != ALL else EVERY)
    rows = chosen_rows(built.rows, board=board, window_days=window_days, category=cut, price_bin=price_bin)
    if built.rows and not rows:
        click.echo(f"no row is of that kind; there are {on_one_line(_kinds(built.rows))}", err=True)
    _write(built, rows, format_, output, simulated=simulated)


def _kinds(rows: Sequence[BoardRow]) -> str:
    boards, windows, categories = (
        ", ".join(map(str, dict.fromkeys(getattr(row, name) for row in rows)))
        for name in ("board", "window_days", "category")
    )
    return f"boards {boards}; windows {windows}; categories {categories}"


def _write(
    built: Leaderboard, rows: Sequence[BoardRow], format_: Format, output: Path | None, *, simulated: bool
) -> None:
    if format_ == "table":
        printer = console()
        with printer.capture() as captured:
            printer.print(as_table(built, rows, simulated=simulated))
        text = captured.get() if output is None else click.unstyle(captured.get())
    else:
        as_text = {"csv": as_csv, "json": as_json}
        text = as_text[format_](built, rows) if format_ != "md" else as_markdown(built, rows, simulated=simulated)
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_at_once(output, text)
    except OSError as error:
        raise click.FileError(str(output), error.strerror) from error
