"""Do an entrant's forecasts of related markets fit together? It needs no outcomes, so it is known at once.

Two things are looked at. Exactly one market of a whole neg-risk group comes true, so forecasts of all its members
should sum to one. And of two neighbouring rungs of a ladder the one that is implied must not be the less likely.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import numpy as np

from predictbench_assets.markets.market import LEAST_SUM, MOST_SUM
from predictbench_assets.scoring.boards import Coherence
from predictbench_assets.scoring.forecasts import Bools, Cohorts, Floats, Forecasts, Ints
from predictbench_assets.scoring.ladders import implications, rung

TOLERANCE: Final = 1e-9
"""A difference this small is one of arithmetic, not of opinion."""

SAME_MOMENT: Final = timedelta(hours=1)
"""Rungs of two windows are compared only where their snapshots are at most this far apart."""


@dataclass(frozen=True, slots=True)
class Member:
    """A market that may belong to a group or to a ladder."""

    column: int
    """Column of `Cohorts`."""
    event_id: str | None
    group: str | None
    """The neg-risk group; None for a market outside of one."""
    question: str
    close_time: datetime
    captured_at: datetime


@dataclass(frozen=True)
class Relations:
    """Columns of `Cohorts` that belong together."""

    members: Ints
    """Members of all whole groups, one group after the other."""
    starts: Ints
    """Index in `members` at which each group begins."""
    implying: Ints
    """The first of each pair of rungs; never less likely than it is the second."""
    implied: Ints


def relations(cohorts: Cohorts, members: Iterable[Member]) -> Relations:
    """The whole groups and the ladders among some markets.

    A group is whole where the prices of its members in the cohort sum to between 0.8 and 1.5: less, and a likely member
    is missing; more, and it is none. Ladders are per run date, as deadlines of one ladder close on different days.
    """
    groups: dict[tuple[int, int, str], list[int]] = defaultdict(list)
    ladders: dict[tuple[int, str, str], list[tuple[Member, float]]] = defaultdict(list)
    dates, windows = cohorts.run_date.astype(np.int64).tolist(), cohorts.window_days.tolist()
    for member in members:
        day, window = dates[member.column], windows[member.column]
        if member.group is not None:
            groups[day, window, member.group].append(member.column)
        elif member.event_id is not None and (found := rung(member.question, member.close_time.date())):
            ladders[day, member.event_id, found.ladder].append((member, found.position))
    whole = [columns for columns in groups.values() if _is_whole(cohorts.price[columns])]
    pairs = [pair for rungs in ladders.values() for pair in _pairs(rungs)]
    sizes = [len(columns) for columns in whole]
    return Relations(
        members=np.array([column for columns in whole for column in columns], np.int64),
        starts=np.cumsum([0, *sizes[:-1]], dtype=np.int64) if sizes else np.empty(0, np.int64),
        implying=np.array([first for first, _ in pairs], np.int64),
        implied=np.array([second for _, second in pairs], np.int64),
    )


def joined(parts: Iterable[tuple[int, Relations]]) -> Relations:
    """The relations of cohorts that were looked at one part after the other.

    Args:
        parts: each with the column in which it begins.
    """
    nothing = np.empty(0, np.int64)
    members, starts, implying, implied = [nothing], [nothing], [nothing], [nothing]
    before = 0
    for first, part in parts:
        members.append(part.members + first)
        starts.append(part.starts + before)
        implying.append(part.implying + first)
        implied.append(part.implied + first)
        before += len(part.members)
    return Relations(*(np.concatenate(each) for each in (members, starts, implying, implied)))


def coherence(forecasts: Forecasts, related: Relations) -> tuple[Coherence, ...]:
    """Coherence by window and entrant; without entrants that forecast nothing related.

    A group counts for an entrant that forecast all of it, a pair for one that forecast both. A pair of two windows
    counts in the window of the implied market.
    """
    window, probability = forecasts.cohorts.window_days, forecasts.probability
    errors = _sum_errors(probability, related)
    broken = np.maximum(probability[:, related.implying] - probability[:, related.implied], 0.0)
    broken[broken <= TOLERANCE] = 0.0
    group_window = window[related.members[related.starts]] if len(related.starts) else np.empty(0, np.int64)
    pair_window = window[related.implied]
    rows = []
    for days in sorted({*group_window.tolist(), *pair_window.tolist()}):
        for number, entrant in enumerate(forecasts.entrants):
            error = _known(errors[number], group_window == days)
            gap = _known(broken[number], pair_window == days)
            if len(error) or len(gap):
                rows.append(
                    Coherence(
                        window_days=days,
                        experiment=entrant.experiment,
                        version=entrant.version,
                        n_groups=len(error),
                        sum_error=float(error.mean()) if len(error) else None,
                        worst_sum_error=float(error.max()) if len(error) else None,
                        n_pairs=len(gap),
                        violations=int(np.count_nonzero(gap)),
                        mean_violation=float(gap.mean()) if len(gap) else None,
                    )
                )
    return tuple(rows)


def _is_whole(prices: Floats) -> bool:
    # A missing price is NaN, and so is the sum.
    return len(prices) >= 2 and bool(LEAST_SUM <= prices.sum() <= MOST_SUM)


def _pairs(rungs: Sequence[tuple[Member, float]]) -> list[tuple[int, int]]:
    at = {member.column: member.captured_at for member, _ in rungs}
    found = implications({member.column: position for member, position in rungs})
    return [(first, second) for first, second in found if abs(at[first] - at[second]) <= SAME_MOMENT]


def _sum_errors(probability: Floats, related: Relations) -> Floats:
    """|sum - 1| by entrant and group; NaN where a member was not forecast."""
    if not len(related.starts):
        return np.empty((len(probability), 0))
    sums = np.add.reduceat(probability[:, related.members], related.starts, axis=1)
    errors: Floats = np.abs(sums - 1.0)
    return errors


def _known(values: Floats, chosen: Bools) -> Floats:
    taken = values[chosen]
    return taken[~np.isnan(taken)]
