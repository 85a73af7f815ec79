"""Options that several commands share, their completion, and the settings that commands run with."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from datetime import date, datetime, timedelta
from typing import Any

import click

from predictbench_assets import clock
from predictbench_assets.launch.child import Follow
from predictbench_assets.observability.logs import configure_logging
from predictbench_assets.runs import WINDOW_DAYS
from predictbench_assets.settings import Settings, load_settings

Options = Callable[[Any], Any]

_COMPLETED_DAYS = 14


def configured_settings() -> Settings:
    """Load the settings, and set up this process's log on stderr by them."""
    settings = load_settings()
    configure_logging(settings)
    return settings


def followed(settings: Settings) -> Follow:
    """What follows runs whose steps are elsewhere by their event log, see `launch.child.run_child`."""
    # Loads Dagster, which only such runs need here.
    from predictbench_assets.instance import followed as event_log

    return event_log.followed(settings)


@contextmanager
def as_usage_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Raise errors of these kinds as wrong usage, which has exit code 2."""
    try:
        yield
    except kinds as error:
        raise click.UsageError(str(error)) from error


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
    today = clock.SystemClock().now().date()
    days = [(today - timedelta(days=back)).isoformat() for back in range(_COMPLETED_DAYS)]
    return [day for day in days if day.startswith(begun)]


def windows_begun(_: click.Context, __: click.Parameter, begun: str) -> list[str]:
    """Windows of the grid, for a shell to complete; of several the last."""
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


def read_moment(_: click.Context, __: click.Parameter, given: str | None) -> date | datetime | None:
    """A day, or an instant; one without a zone is UTC. An empty text is none."""
    if not given:
        return None
    try:
        return clock.parsed_moment(given)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def as_of_option(command: Any) -> Any:
    """`--as-of`, handed on as `moment`, for `as_of_instant`."""
    return click.option(
        "--as-of",
        "moment",
        callback=read_moment,
        metavar="DATE|INSTANT",
        help="As it could be known then; of a day its end, UTC.  [default: now]",
    )(command)


def as_of_instant(moment: date | datetime | None, now: datetime) -> datetime:
    """The instant that is meant: of a day its end, of today and of none the present.

    Raises:
        click.BadParameter: it lies in the future, of which nothing is known.
    """
    try:
        return clock.as_of_instant(moment, now)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--as-of") from error


def period_options(command: Any) -> Any:
    """`--since` and `--until` of a command that shows boards, for `period_of`."""
    meaning = "Only runs from this date on.  [default: of the last LEADERBOARD_DAYS, or all up to --until]"
    return day_option("--since", help=meaning)(day_option("--until", help="Only runs up to this date.")(command))


def period_of(
    settings: Settings, as_of: datetime, since: date | None, until: date | None
) -> tuple[date | None, date | None]:
    """The first and the last run date that boards count; None for no bound.

    Raises:
        click.UsageError: the first is after the last.
    """
    if since and until and since > until:
        raise click.UsageError(f"--since {since} is after --until {until}")
    return (since, until) if since or until else (settings.leaderboard_since(as_of), None)


def experiment_names(_: click.Context, __: click.Parameter, begun: str) -> list[str]:
    """Registered experiments whose names begin so; none where they cannot be loaded."""
    from predictbench_assets.experiments.declared.file import registry_of  # only a shell that completes needs it

    found: list[str] = []
    # The shell takes whatever is printed for a suggestion, and loading runs a stranger's module.
    with suppress(Exception), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        found = [name for name in registry_of(load_settings()).names if name.startswith(begun)]
    return found


def demo_option(command: Any) -> Any:
    """`--demo`: work on the data of the demo in this folder instead of one's own."""

    def enter(_: click.Context, __: click.Parameter, value: bool) -> None:
        if value:
            # Loads the exchange and the experiments of the demo, which few calls of a command need.
            from predictbench_assets.launch.demo import enter_demo
            from predictbench_assets.launch.demo_world import present_demo

            present_demo(enter_demo())

    return click.option(
        "--demo", is_flag=True, is_eager=True, expose_value=False, callback=enter, help="On the demo's data."
    )(command)
