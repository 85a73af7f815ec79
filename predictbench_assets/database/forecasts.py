"""What is scored, out of the database: every market of every complete run and what each experiment said about it.

Everything is held to what was known at `as_of`, so the same moment gives the same arrays again, whatever came later.
That is also why it may be read in portions, each a transaction of its own: attempts, results and observations are only
ever added, and what is added meanwhile is later than that moment. A market that is captured again meanwhile is unknown,
as it is to whoever begins to read then.
"""

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any, Final
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine, Row

from predictbench_assets.database.coherence import load_coherence
from predictbench_assets.database.columns import Kind, fetch_columns, positions
from predictbench_assets.database.errors import in_transaction
from predictbench_assets.database.known import RESULTS_OF_AN_ATTEMPT, market_listed, newest_observation, run_counts
from predictbench_assets.database.portions import AT_ONCE, portions
from predictbench_assets.experiments.baseline import BaselineSnapshotExperiment
from predictbench_assets.scoring.clusters import linked, value_numbers
from predictbench_assets.scoring.forecasts import FREEZE_WINDOW_HOURS, Bools, Cohorts, Entrant, Floats, Forecasts, Ints

_EPOCH_US: Final = int(np.datetime64("2000-01-01", "us").astype(np.int64))
_FREEZE_WINDOW_US: Final = FREEZE_WINDOW_HOURS * 3_600_000_000

_AS_OF: Final = "%(as_of)s"

_ATTEMPTS = f"""
    SELECT p.run_id, p.run_date, p.window_days, a.experiment_run_id, a.attempt, a.snapshot_hash, e.name, e.version,
        e.information, e.control, e.description,
        {RESULTS_OF_AN_ATTEMPT} AS size
    FROM predictbench.processing_runs p
    JOIN predictbench.experiment_runs a USING (run_id) JOIN predictbench.experiments e USING (experiment_id)
    WHERE p.run_date BETWEEN %(since)s AND %(until)s AND {run_counts("p", _AS_OF)}
    ORDER BY p.run_date, p.window_days"""  # noqa: S608 - names of ours, here and below

_MARKETS = f"""
    SELECT m.processed_market_id, m.market_id, p.run_date, p.window_days,
        (m.close_time AT TIME ZONE 'UTC')::date AS end_date, m.category, m.cluster, m.event_id, m.neg_risk_market_id,
        m.game_id, m.price, m.price IS NOT NULL AND m.price_quality = 'good' AS good, m.core, m.reconstructed,
        m.snapshot_hash, m.captured_at AT TIME ZONE 'UTC' AS captured_at,
        coalesce(newest.closed_time, m.close_time) AT TIME ZONE 'UTC' AS closed_at,
        CASE WHEN newest.state = 'final' THEN newest.outcome END AS outcome
    FROM predictbench.processed_markets m JOIN predictbench.processing_runs p USING (run_id)
    LEFT JOIN LATERAL ({newest_observation(_AS_OF)}) newest ON true
    WHERE m.run_id = ANY(%(runs)s::uuid[]) AND {market_listed(_AS_OF)}
    ORDER BY p.run_date, p.window_days, m.market_id COLLATE "C\""""  # noqa: S608

# Rows without a forecast as well: they say that the market was there, and that the experiment was.
_RESULTS = """
    SELECT r.processed_market_id, r.experiment_run_id,
        coalesce(CASE WHEN r.status = 'completed' THEN r.probability END, 'NaN'::float8),
        coalesce(r.forecast_at, 'infinity'::timestamptz), r.status <> 'not_run'
    FROM predictbench.experiment_results r
    WHERE r.experiment_run_id = ANY(%(attempts)s::uuid[])
      AND coalesce(r.stored_at, '-infinity'::timestamptz) <= %(as_of)s"""
_RESULT_KINDS: Final[Mapping[str, Kind]] = {
    "market": "uuid",
    "attempt": "uuid",
    "probability": "float",
    "forecast_at": "time",
    "ran": "bool",
}

_LINKS: Final = ("market_id", "event_id", "neg_risk_market_id", "game_id", "cluster")
"""Markets that share any of these are of one cluster."""
_MARKET_COLUMNS: Final = (
    *("processed_market_id", "market_id", "run_date", "window_days", "end_date", "category", "cluster", "event_id"),
    *("neg_risk_market_id", "game_id", "price", "good", "core", "reconstructed", "snapshot_hash"),
    *("captured_at", "closed_at", "outcome"),
)
"""In the order of the query."""


def load_forecasts(
    engine: Engine, as_of: datetime, *, since: date | None = None, until: date | None = None
) -> Forecasts:
    """Every market of every complete run, how it settled, and what each version of each experiment said about it.

    Of several attempts of a version the newest timely forecast counts: one made inside of the freeze window and before
    the market closed, on a snapshot that was captured live. A late one never replaces it, and one that did not
    complete hides nothing. A forecast made on a snapshot that a refresh has replaced since counts nowhere: the price
    it answered to is not the one that is stored.

    Args:
        as_of: runs that ended, results that were stored and resolutions that were observed later are unknown.
        since: the first run date.
        until: the last run date, itself included.

    Raises:
        DatabaseUnavailable, DatabaseRefused: as the names say.
    """
    values = {"as_of": as_of, "since": since or date.min, "until": until or date.max}
    attempts = in_transaction(engine, lambda connection: connection.exec_driver_sql(_ATTEMPTS, values).all())
    by_run: dict[UUID, list[Row[Any]]] = defaultdict(list)
    for row in attempts:
        by_run[row.run_id].append(row)
    runs = list(by_run)
    loading = _Loading(attempts)
    sizes = [sum(row.size for row in by_run[run]) for run in runs]
    for part in [*portions(sizes, AT_ONCE)] or [slice(0)]:
        made = [row for run in runs[part] for row in by_run[run]]
        loading.add(made, *_read(engine, as_of, runs[part], made))
    forecasts = loading.forecasts(as_of)
    return replace(forecasts, coherence=load_coherence(engine, forecasts))


def _read(
    engine: Engine, as_of: datetime, runs: Sequence[UUID], attempts: Sequence[Row[Any]]
) -> tuple[Sequence[Row[Any]], NDArray[Any]]:
    """The markets of some runs and the results of their attempts."""
    values = {"as_of": as_of, "runs": list(runs), "attempts": [row.experiment_run_id for row in attempts]}

    def work(connection: Connection) -> tuple[Sequence[Row[Any]], NDArray[Any]]:
        markets = connection.exec_driver_sql(_MARKETS, values).all()
        return markets, fetch_columns(connection, _RESULTS, values, _RESULT_KINDS)

    markets, results = in_transaction(engine, work)
    # Whatever a run stores of a market has a result of each experiment: without one that is known, it came later.
    there = set(results["market"].tolist())
    return [row for row in markets if row.processed_market_id.bytes in there], results


@dataclass(frozen=True)
class _Portion:
    """Some cohorts, one after the other, and what was said of them; of matrices, a row for each version."""

    columns: dict[str, NDArray[Any]]
    """Of `Cohorts`, but for `cluster`."""
    links: tuple[Ints, ...]
    probability: Floats
    late: Floats


class _Loading:
    """What has been read so far, as arrays: rows of the database are held for one portion only."""

    def __init__(self, attempts: Sequence[Row[Any]]) -> None:
        self._versions = {(row.name, row.version): row for row in attempts}
        self._numbers = {version: number for number, version in enumerate(sorted(self._versions))}
        self._that_ran: set[int] = set()
        self._categories: dict[str, str] = {}
        self._links: tuple[dict[Hashable, int], ...] = tuple({} for _ in _LINKS)
        self._portions: list[_Portion] = []

    def add(self, attempts: Sequence[Row[Any]], markets: Sequence[Row[Any]], results: NDArray[Any]) -> None:
        """Add the next cohorts."""
        values = zip(*markets, strict=True) if markets else ((),) * len(_MARKET_COLUMNS)
        column: dict[str, Sequence[Any]] = dict(zip(_MARKET_COLUMNS, values, strict=True))
        links = tuple(value_numbers(column[name], known) for name, known in zip(_LINKS, self._links, strict=True))
        self._portions.append(_Portion(self._cohorts(column), links, *self._said(attempts, column, results)))

    def forecasts(self, as_of: datetime) -> Forecasts:
        """All of it. To be called once: portions are let go as they are copied, so that nothing is held twice."""
        columns = {
            name: np.concatenate([portion.columns[name] for portion in self._portions])
            for name in self._portions[0].columns
        }
        cluster = linked(*(np.concatenate(parts) for parts in zip(*(one.links for one in self._portions), strict=True)))
        # Each version that ran at least once, even if it never gave a forecast; by name and version.
        that_ran = sorted(self._that_ran)
        probability, late = (np.empty((len(that_ran), len(cluster))) for _ in range(2))
        start = 0
        while self._portions:
            portion = self._portions.pop(0)
            stop = start + portion.probability.shape[1]
            probability[:, start:stop] = portion.probability[that_ran]
            late[:, start:stop] = portion.late[that_ran]
            start = stop
        entrants = [_entrant(self._versions[version]) for version in sorted(self._versions)]
        ran = tuple(entrants[number] for number in that_ran)
        return Forecasts(as_of, Cohorts(cluster=cluster, **columns), ran, probability, late)

    def _cohorts(self, column: Mapping[str, Sequence[Any]]) -> dict[str, NDArray[Any]]:
        outcome = np.array(column["outcome"], np.float64)
        return {
            "market_id": np.array(column["market_id"], np.object_),
            "run_date": np.array(column["run_date"], "datetime64[D]"),
            "window_days": np.array(column["window_days"], np.int64),
            "end_date": np.array(column["end_date"], "datetime64[D]"),
            "category": np.array([self._categories.setdefault(one, one) for one in column["category"]], np.object_),
            "price": np.array(column["price"], np.float64),
            "good": np.array(column["good"], np.bool_),
            "core": np.array(column["core"], np.bool_),
            "reconstructed": np.array(column["reconstructed"], np.bool_),
            "final": ~np.isnan(outcome),
            "outcome": outcome,
        }

    def _said(
        self, attempts: Sequence[Row[Any]], column: Mapping[str, Sequence[Any]], results: NDArray[Any]
    ) -> tuple[Floats, Floats]:
        """The forecasts that are timely, and those that are not."""
        markets = len(column["market_id"])
        market = positions(results["market"], {one.bytes: n for n, one in enumerate(column["processed_market_id"])})
        attempt = positions(results["attempt"], {row.experiment_run_id.bytes: n for n, row in enumerate(attempts)})
        known = (market >= 0) & (attempt >= 0)
        market, attempt, results = market[known], attempt[known], results[known]

        entrant = np.array([self._numbers[row.name, row.version] for row in attempts], np.int64)[attempt]
        turn = np.array([row.attempt for row in attempts], np.int64)[attempt]
        self._that_ran.update(np.unique(entrant[results["ran"]]).tolist())

        made_at = results["forecast_at"].astype(np.int64)
        captured_at, closed_at = (_microseconds(column[name])[market] for name in ("captured_at", "closed_at"))
        reconstructed = np.array(column["reconstructed"], np.bool_)[market]
        timely = (made_at <= captured_at + _FREEZE_WINDOW_US) & (made_at < closed_at) & ~reconstructed
        snapshots = value_numbers([*column["snapshot_hash"], *(row.snapshot_hash for row in attempts)], {})
        same_snapshot = _same(snapshots[:markets][market], snapshots[markets:][attempt])
        counts = ~np.isnan(results["probability"]) & same_snapshot

        def newest(chosen: Bools) -> Floats:
            shape = (len(self._numbers), markets)
            order = np.flatnonzero(chosen)
            if not len(order):
                return np.broadcast_to(np.nan, shape)  # no memory: late forecasts are rare
            matrix = np.full(shape, np.nan)
            order = order[np.argsort(turn[order], kind="stable")]  # of several for one place the last one stays
            matrix[entrant[order], market[order]] = results["probability"][order]
            return matrix

        return newest(counts & timely), newest(counts & ~timely)


def _entrant(row: Row[Any]) -> Entrant:
    is_reference = row.name == BaselineSnapshotExperiment.name
    return Entrant(row.name, row.version, row.information, row.control, is_reference, row.description)


def _microseconds(instants: Sequence[datetime]) -> Ints:
    """Instants in UTC as `fetch_columns` has them."""
    return np.array(instants, "datetime64[us]").astype(np.int64) - _EPOCH_US


def _same(first: Ints, second: Ints) -> Bools:
    """Where two of `value_numbers` do not contradict each other."""
    same: Bools = (first == second) | (first < 0) | (second < 0)
    return same
