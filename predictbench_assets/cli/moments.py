"""How a moment of the past is given on a command line."""

from datetime import date, datetime
from typing import Any

import click

from predictbench_assets import clock


def read_moment(_: click.Context, __: click.Parameter, given: str | None) -> date | datetime | None:
    """A day, or an instant; one without a zone is UTC. An empty text is none."""
    if not given:
        return None
    try:
        return clock.parsed_moment(given)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def as_of_option(command: Any) -> Any:
    """`--as-of`, handed on as `moment`, for `known_until`."""
    return click.option(
        "--as-of",
        "moment",
        callback=read_moment,
        metavar="DATE|INSTANT",
        help="As it could be known then; of a day its end, UTC.  [default: now]",
    )(command)


def known_until(moment: date | datetime | None, now: datetime) -> datetime:
    """The instant that is meant: of a day its end, of today and of none the present.

    Raises:
        click.BadParameter: it lies in the future, of which nothing is known.
    """
    try:
        return clock.known_until(moment, now)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--as-of") from error
