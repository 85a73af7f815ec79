"""Boards made by hand, where a test says what is on them."""

from datetime import UTC, date, datetime
from typing import Any

from predictbench_assets.scoring.boards import (
    BoardRow,
    CohortState,
    Comparison,
    Curve,
    CurvePoint,
    EdgePoint,
    Leaderboard,
)
from predictbench_assets.site.data import Overview

AS_OF = datetime(2026, 11, 23, 9, tzinfo=UTC)
NOTHING_STORED = Overview(windows=(), experiments=(), next_close=None, digests={})


def row(experiment: str = "thinker", **given: Any) -> BoardRow:
    """A row of the core board, ranked unless told otherwise; the numbers fit together only roughly."""
    numbers = dict.fromkeys(BoardRow.__struct_fields__) | {
        "board": "core",
        "window_days": 7,
        "category": "all",
        "price_bin": "all",
        "experiment": experiment,
        "version": "1.0.0",
        "information": "market",
        "control": False,
        "reference": False,
        "n_markets": 500,
        "n_events": 200,
        "n_board": 520,
        "n_splits": 1,
        "n_open": 19,
        "n_provisional": 0,
        "n_clipped": 0,
        "n_leaked": 0,
        "reconstructed": False,
        "n_may_know": 0,
        "coverage": 1.0,
        "mean_edge": 0.001,
        "edge_low": -0.002,
        "edge_high": 0.004,
        "skill": 0.01,
        "skill_low": -0.02,
        "skill_high": 0.04,
        "brier": 0.18,
        "market_brier": 0.181,
        "log_loss": 0.5,
        "rank": 1,
        "flags": (),
    }
    return BoardRow(**(numbers | given))


def curve(experiment: str = "thinker", **given: Any) -> Curve:
    """Three bins, the last without a band."""
    points = (
        CurvePoint(forecast=0.1, observed=0.12, low=0.05, high=0.2, n_markets=100),
        CurvePoint(forecast=0.5, observed=0.47, low=0.4, high=0.55, n_markets=50),
        CurvePoint(forecast=0.9, observed=0.95, low=None, high=None, n_markets=1),
    )
    return Curve(
        **({"board": "core", "window_days": 7, "experiment": experiment, "version": "1.0.0", "points": points} | given)
    )


def edges(experiment: str = "thinker", days: int = 5, **given: Any) -> tuple[EdgePoint, ...]:
    """Some days; the first has no interval."""
    named: dict[str, Any] = {"board": "core", "window_days": 7, "experiment": experiment, "version": "1.0.0"} | given
    return tuple(
        EdgePoint(
            **named,
            run_date=date(2026, 11, 1 + day),
            n_markets=40,
            mean_edge=0.01 * (-1) ** day,
            cumulative_edge=0.002,
            cumulative_low=None if day == 0 else -0.01 / day,
            cumulative_high=None if day == 0 else 0.012 / day,
        )
        for day in range(days)
    )


def comparison(first: str, second: str, *, significant: bool, **given: Any) -> Comparison:
    """Two on the core board."""
    numbers: dict[str, Any] = {"n_markets": 500, "n_events": 200, "mean_difference": 0.004, "low": 0.001, "high": 0.007}
    return Comparison(
        board="core",
        window_days=7,
        first=first,
        second=second,
        p_value=0.01,
        significant=significant,
        **numbers | given,
    )


def cohort(day: int = 1, **given: Any) -> CohortState:
    """A cohort of 100 markets."""
    counts: dict[str, Any] = {"n_markets": 100, "n_final": 99, "n_splits": 1, "provisional": False}
    return CohortState(**({"run_date": date(2026, 11, day), "window_days": 7} | counts | given))


def board(*rows: BoardRow, **given: Any) -> Leaderboard:
    """A leaderboard of these rows."""
    empty: dict[str, Any] = dict.fromkeys(("comparisons", "curves", "edges", "coherence", "cohorts"), ())
    return Leaderboard(**({"as_of": AS_OF, "scoring_version": "1", "rows": rows} | empty | given))
