"""How a run date and windows are given on a command line."""

from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

import click

from predictbench_assets.clock import SystemClock

Options = Callable[[Any], Any]

_COMPLETED_DAYS = 14


def _day(context: click.Context, option: click.Parameter, text: str | None) -> date | None:
    """A day; an empty text is none, as a workflow hands on an input that was left empty."""
    if not text:
        if option.required:
            raise click.MissingParameter(ctx=context, param=option)
        return None
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        wanted = "write it as YYYY-MM-DD, such as 2026-11-23"
        raise click.BadParameter(f"{text!r} is no day of the calendar; {wanted}") from error


def _windows(_: click.Context, __: click.Parameter, text: str | None) -> tuple[int, ...] | None:
    """Windows of the grid, each once, in the order given; an empty text is none."""
    from predictbench_assets.runs import WINDOW_DAYS

    if not text or not text.strip():
        return None
    try:
        given = tuple(dict.fromkeys(int(part) for part in text.split(",") if part.strip()))
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is no list of whole numbers, such as 7 or 1,7,30") from error
    outside = [str(window) for window in given if window not in WINDOW_DAYS]
    if outside or not given:
        grid = ", ".join(map(str, WINDOW_DAYS))
        raise click.BadParameter(f"{', '.join(outside) or repr(text)} not in the grid; choose from {grid}")
    return given


def _days_begun(_: click.Context, __: click.Parameter, begun: str) -> list[str]:
    """The last days, today first, for a shell to complete."""
    today = SystemClock().now().date()
    days = [(today - timedelta(days=back)).isoformat() for back in range(_COMPLETED_DAYS)]
    return [day for day in days if day.startswith(begun)]


def windows_begun(_: click.Context, __: click.Parameter, begun: str) -> list[str]:
    """Windows of the grid, for a shell to complete; of several the last."""
    from predictbench_assets.runs import WINDOW_DAYS

    before, comma, last = begun.rpartition(",")
    return [f"{before}{comma}{window}" for window in WINDOW_DAYS if str(window).startswith(last)]


def day_option(*names: str, **rest: Any) -> Options:
    """An option that is a day, as YYYY-MM-DD."""
    return click.option(*names, callback=_day, metavar="YYYY-MM-DD", shell_complete=_days_begun, **rest)


run_date_option = day_option("--run-date", help="The day of the run.  [default: today, UTC]")
window_option = click.option(
    "--window-days",
    type=int,
    metavar="N",
    shell_complete=windows_begun,
    help="Days from there to the close.  [default: TARGET_CLOSE_WINDOW_DAYS]",
)


def windows_option(meaning: str = "Days from there to the close.  [default: the scheduled ones]") -> Options:
    """An option that is one window or several."""
    return click.option(
        "--window-days", callback=_windows, metavar="N[,N...]", shell_complete=windows_begun, help=meaning
    )
