"""How a moment of the past is given on a command line."""

from datetime import UTC, date, datetime, time
from typing import Any

import click


def read_moment(_: click.Context, __: click.Parameter, given: str | None) -> date | datetime | None:
    """A day, or an instant; one without a zone is UTC. An empty text is none."""
    if not given:
        return None
    try:
        return date.fromisoformat(given)
    except ValueError:
        pass
    try:
        instant = datetime.fromisoformat(given)
        return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
    except (ValueError, OverflowError) as error:  # the first and the last year have instants that UTC has not
        wanted = "write a day as 2026-11-23, or an instant as 2026-11-23T08:00Z"
        raise click.BadParameter(f"{given!r} is no moment; {wanted}") from error


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
    if moment is None:
        return now
    if not isinstance(moment, datetime):
        if moment == now.date():
            return now
        moment = datetime.combine(moment, time.max, UTC)
    if moment > now:
        raise click.BadParameter(f"{moment.isoformat()} is in the future", param_hint="--as-of")
    return moment
