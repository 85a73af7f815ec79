"""Records of a replay, an experiment run on stored partitions without storing anything, and their tables."""

from collections.abc import Sequence
from datetime import date
from typing import Final, Literal

import msgspec
from rich.console import Group, RenderableType
from rich.text import Text

from predictbench_assets.reporting.boards import edge_text
from predictbench_assets.reporting.output import rich_table
from predictbench_assets.runs import OutcomeStatus, RunKey
from predictbench_assets.scoring.boards import BoardRow

ReplayState = Literal["replayed", "missing", "failed"]
"""missing: the partition is not staged. failed: it cannot be read."""

_HEAD: Final = (
    *("run date", "window", "forecasts", "skipped", "failed", "settled", "Brier", "market"),
    *("edge, 95 % interval", "seconds", "remarks"),
)
_DISAGREEMENTS_HEAD: Final = ("run date", "window", "market", "price", "forecast", "outcome", "question")
_LONGEST_QUESTION: Final = 80


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    pass


class ReplayedForecast(_Record, frozen=True):
    """The answer about one market, beside the market's own price."""

    run_date: date
    window_days: int
    market_id: str
    question: str
    price: float | None
    """Price of the first outcome at the freeze; None where there was none."""
    status: OutcomeStatus
    probability: float | None
    reason: str | None
    """The reason where there is no forecast."""
    outcome: float | None
    """Settled value of the first outcome; None where it is not final, or not stored."""

    @property
    def disagreement(self) -> float:
        """Distance of the forecast from the price; 0 where either is missing."""
        return 0.0 if self.price is None or self.probability is None else abs(self.probability - self.price)


class ReplayedPartition(_Record, frozen=True):
    """The result of one partition."""

    run_date: date
    window_days: int
    state: ReplayState
    reason: str | None = None
    """The reason for a partition that was not replayed; else that of most markets without a forecast."""
    completed: int = 0
    skipped: int = 0
    failed: int = 0
    seconds: float = 0.0
    usage: dict[str, int | float] = {}
    """As `experiments.outcomes.total_usage`; of answers that were paid for before, too."""
    scores: BoardRow | None = None
    """Scores as on a board of this partition alone; None where its markets are not stored."""
    forecasts: tuple[ReplayedForecast, ...] = ()

    @classmethod
    def of(cls, key: RunKey, state: ReplayState, reason: str) -> "ReplayedPartition":
        """A partition that was not replayed."""
        return cls(run_date=key.run_date, window_days=key.window_days, state=state, reason=reason)


def replay_table(
    title: str,
    partitions: Sequence[ReplayedPartition],
    boards: Sequence[BoardRow],
    disagreements: Sequence[ReplayedForecast],
) -> RenderableType:
    """The table for a terminal: each partition, then each board over all of them, then where it differs most.

    Args:
        title: the name of what was replayed.
        partitions: in order; those that are missing are left out.
        boards: the rows of whole boards.
        disagreements: the largest first.
    """
    shown = [one for one in partitions if one.state != "missing"]
    rows = [_cells(one) for one in shown] + [_board_cells(row, partitions) for row in boards]
    parts = [rich_table(title, _HEAD, rows)]
    if disagreements:
        cells = [_disagreement_cells(one) for one in disagreements]
        parts.append(rich_table("Largest disagreements with the market", _DISAGREEMENTS_HEAD, cells))
    legend = "\nedge: Brier score of the market's price minus that of the forecasts; above 0 beats the market."
    return Group(*parts, Text(legend, "dim"))


def _cells(one: ReplayedPartition) -> tuple[str, ...]:
    place = one.run_date.isoformat(), str(one.window_days)
    if one.state != "replayed":
        return (*place, *[""] * (len(_HEAD) - 3), f"{one.state}: {one.reason}")
    counts = f"{one.completed:,}", f"{one.skipped:,}", f"{one.failed:,}"
    unknown = "" if one.scores is not None else "its markets are not stored"
    remarks = "; ".join(filter(None, [unknown, one.reason]))
    return (*place, *counts, *_score_cells(one.scores), f"{one.seconds:.1f}", remarks)


def _board_cells(row: BoardRow, partitions: Sequence[ReplayedPartition]) -> tuple[str, ...]:
    """The sums of the partitions of a board's window, and the scores of the board."""
    of = [one for one in partitions if one.scores is not None and _same_board(one.scores, row)]
    counts = (f"{sum(getattr(one, name) for one in of):,}" for name in ("completed", "skipped", "failed"))
    flags = ", ".join([f"{row.board} board", *(flag.replace("_", " ") for flag in row.flags)])
    seconds = sum(one.seconds for one in of)
    return ("all", str(row.window_days), *counts, *_score_cells(row), f"{seconds:.1f}", flags)


def _same_board(one: BoardRow, other: BoardRow) -> bool:
    return (one.board, one.window_days) == (other.board, other.window_days)


def _score_cells(row: BoardRow | None) -> tuple[str, str, str, str]:
    if row is None:
        return "", "", "", ""
    briers = ("" if value is None else f"{value:.4f}" for value in (row.brier, row.market_brier))
    return (f"{row.n_markets:,}", *briers, edge_text(row))  # type: ignore[return-value]


def _disagreement_cells(one: ReplayedForecast) -> tuple[str, ...]:
    numbers = ("" if value is None else f"{value:.3f}" for value in (one.price, one.probability))
    outcome = "" if one.outcome is None else f"{one.outcome:g}"
    question = one.question if len(one.question) <= _LONGEST_QUESTION else one.question[: _LONGEST_QUESTION - 1] + "…"
    return (one.run_date.isoformat(), str(one.window_days), one.market_id, *numbers, outcome, question)
