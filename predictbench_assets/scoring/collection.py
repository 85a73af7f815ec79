"""Choice of the forecast that counts: attempts, markets and results in, the arrays that are scored out.

Where they are read from, a database or the files of a release, is the reader's matter.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from predictbench_assets.runs import FREEZE_WINDOW_HOURS
from predictbench_assets.scoring.clusters import linked, value_numbers
from predictbench_assets.scoring.forecasts import Bools, Cohorts, Entrant, Floats, Forecasts, Ints

EPOCH_US: Final = int(np.datetime64("2000-01-01", "us").astype(np.int64))
NEVER: Final = int(np.iinfo(np.int64).max)
"""The instant of a forecast of which it is not known when it was made."""

_FREEZE_WINDOW_US: Final = FREEZE_WINDOW_HOURS * 3_600_000_000

_LINKS: Final = ("market_id", "event_id", "neg_risk_market_id", "game_id", "cluster")
"""Markets that share any of these are of one cluster."""

MARKET_COLUMNS: Final = (
    *("market_id", "run_date", "window_days", "end_date", "category", "cluster", "event_id"),
    *("neg_risk_market_id", "game_id", "price", "good", "core", "reconstructed", "snapshot_hash"),
    *("captured_at", "closed_at", "outcome", "as_of"),
)
"""Columns read of a market. Instants are in UTC without a zone; `outcome` only where it is final, `as_of` is a day."""


@dataclass(frozen=True)
class Attempt:
    """An attempt of an experiment in a run."""

    entrant: Entrant
    attempt: int
    snapshot_hash: str | None
    """Hash of the snapshot that the attempt was made on."""


@dataclass(frozen=True)
class Results:
    """Results of attempts, as columns."""

    market: Ints
    """The position of the market among those that are added with it."""
    attempt: Ints
    """The position of the attempt."""
    probability: Floats
    """NaN where it did not complete."""
    made_at: Ints
    """Microseconds since the year 2000, as Postgres counts them, or `NEVER`."""
    ran: Bools
    """True where the attempt got to the market."""
    leaked: Bools
    """True where the forecast cites a market's price that it was not shown: it counts on no board."""


@dataclass(frozen=True)
class _Chunk:
    """Some cohorts, one after the other, with their forecasts; of matrices, a row for each version."""

    columns: dict[str, NDArray[Any]]
    """Columns of `Cohorts`, but for `cluster`."""
    links: tuple[Ints, ...]
    probability: Floats
    late: Floats
    leaked: Bools


class ForecastCollection:
    """Forecasts read so far, as arrays: their rows are held for one chunk only.

    Of several attempts of a version the newest timely forecast counts: one made inside of the freeze window and before
    the market closed, on a snapshot that was captured live. A late one never replaces it, and one that did not
    complete, or that has leaked, hides nothing. A forecast made on a snapshot that a refresh has replaced since counts
    nowhere: the price it answered to is not the one that is stored.

    Args:
        entrants: every version of every experiment that there may be attempts of.
    """

    def __init__(self, entrants: Iterable[Entrant]) -> None:
        self._entrants = sorted(set(entrants), key=lambda one: (one.experiment, one.version))
        self._numbers = {entrant: number for number, entrant in enumerate(self._entrants)}
        self._that_ran: set[int] = set()
        self._categories: dict[str, str] = {}
        self._links: tuple[dict[Hashable, int], ...] = tuple({} for _ in _LINKS)
        self._chunks: list[_Chunk] = []

    def add(self, attempts: Sequence[Attempt], column: Mapping[str, Sequence[Any]], results: Results) -> None:
        """Add the next cohorts, in the order of run date, window and market id.

        Args:
            column: columns of their markets, those of `MARKET_COLUMNS`; None for unknown values.
        """
        links = tuple(value_numbers(column[name], known) for name, known in zip(_LINKS, self._links, strict=True))
        self._chunks.append(_Chunk(self._cohorts(column), links, *self._matrices(attempts, column, results)))

    def forecasts(self, as_of: datetime) -> Forecasts:
        """All of it. To be called once: chunks are let go as they are copied, so that nothing is held twice."""
        columns = {
            name: np.concatenate([chunk.columns[name] for chunk in self._chunks]) for name in self._chunks[0].columns
        }
        cluster = linked(*(np.concatenate(parts) for parts in zip(*(one.links for one in self._chunks), strict=True)))
        # Each version that ran at least once, even if it never gave a forecast; by name and version.
        that_ran = sorted(self._that_ran)
        probability, late = (np.empty((len(that_ran), len(cluster))) for _ in range(2))
        leaked = np.zeros(probability.shape, np.bool_)
        start = 0
        while self._chunks:
            chunk = self._chunks.pop(0)
            stop = start + chunk.probability.shape[1]
            probability[:, start:stop] = chunk.probability[that_ran]
            late[:, start:stop] = chunk.late[that_ran]
            leaked[:, start:stop] = chunk.leaked[that_ran]
            start = stop
        ran = tuple(self._entrants[number] for number in that_ran)
        return Forecasts(as_of, Cohorts(cluster=cluster, **columns), ran, probability, late, leaked)

    def _cohorts(self, column: Mapping[str, Sequence[Any]]) -> dict[str, NDArray[Any]]:
        outcome = np.array(column["outcome"], np.float64)
        return {
            "market_id": np.array(column["market_id"], np.object_),
            "run_date": np.array(column["run_date"], "datetime64[D]"),
            "window_days": np.array(column["window_days"], np.int64),
            "end_date": np.array(column["end_date"], "datetime64[D]"),
            "as_of": np.array(column["as_of"], "datetime64[D]"),
            "category": np.array([self._categories.setdefault(one, one) for one in column["category"]], np.object_),
            "price": np.array(column["price"], np.float64),
            "good": np.array(column["good"], np.bool_),
            "core": np.array(column["core"], np.bool_),
            "reconstructed": np.array(column["reconstructed"], np.bool_),
            "final": ~np.isnan(outcome),
            "outcome": outcome,
        }

    def _matrices(
        self, attempts: Sequence[Attempt], column: Mapping[str, Sequence[Any]], results: Results
    ) -> tuple[Floats, Floats, Bools]:
        """The forecasts that are timely, those that are not, and the places of leaked ones that none replaced."""
        markets = len(column["market_id"])
        market, attempt = results.market, results.attempt

        entrant = np.array([self._numbers[one.entrant] for one in attempts], np.int64)[attempt]
        turn = np.array([one.attempt for one in attempts], np.int64)[attempt]
        self._that_ran.update(np.unique(entrant[results.ran]).tolist())

        captured_at, closed_at = (microseconds(column[name])[market] for name in ("captured_at", "closed_at"))
        reconstructed = np.array(column["reconstructed"], np.bool_)[market]
        made_at = results.made_at
        timely = (made_at <= captured_at + _FREEZE_WINDOW_US) & (made_at < closed_at) & ~reconstructed
        snapshots = value_numbers([*column["snapshot_hash"], *(one.snapshot_hash for one in attempts)], {})
        same_snapshot = _same(snapshots[:markets][market], snapshots[markets:][attempt])
        given = ~np.isnan(results.probability) & same_snapshot
        counts = given & ~results.leaked

        def newest(chosen: Bools) -> Floats:
            shape = (len(self._numbers), markets)
            order = np.flatnonzero(chosen)
            if not len(order):
                return np.broadcast_to(np.nan, shape)  # no memory: late forecasts are rare
            matrix = np.full(shape, np.nan)
            order = order[np.argsort(turn[order], kind="stable")]  # of several for one place the last one stays
            matrix[entrant[order], market[order]] = results.probability[order]
            return matrix

        in_time = newest(counts & timely)
        leaked = ~np.isnan(newest(given & timely & results.leaked)) & np.isnan(in_time)
        return in_time, newest(counts & ~timely), leaked


def microseconds(instants: Sequence[datetime]) -> Ints:
    """Instants in UTC, as `Results.made_at` has them."""
    return np.array(instants, "datetime64[us]").astype(np.int64) - EPOCH_US


def _same(first: Ints, second: Ints) -> Bools:
    """True where two of `value_numbers` do not contradict each other."""
    same: Bools = (first == second) | (first < 0) | (second < 0)
    return same
