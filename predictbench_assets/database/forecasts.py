"""What is scored, out of the database: every market of every complete run and what each experiment said about it.

Everything is held to what was known at `as_of`, so the same moment gives the same arrays again, whatever came later.
Two statements, each a transaction of its own: a run that is being stored meanwhile ends after that moment.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine, Row

from predictbench_assets.database.coherence import load_coherence
from predictbench_assets.database.columns import Kind, fetch_columns, positions
from predictbench_assets.database.errors import in_transaction
from predictbench_assets.experiments.baseline import BaselineSnapshotExperiment
from predictbench_assets.scoring.clusters import cluster_numbers
from predictbench_assets.scoring.forecasts import FREEZE_WINDOW_HOURS, Bools, Cohorts, Entrant, Floats, Forecasts, Ints

_EPOCH_US: Final = int(np.datetime64("2000-01-01", "us").astype(np.int64))
_FREEZE_WINDOW_US: Final = FREEZE_WINDOW_HOURS * 3_600_000_000

# A run counts from the end of its first complete attempt on, whatever later attempts come to.
_RUNS = """
    SELECT p.run_id, p.run_date, p.window_days FROM predictbench.processing_runs p
    WHERE p.run_date BETWEEN %(since)s AND %(until)s AND EXISTS (
        SELECT FROM predictbench.processing_attempts ended
        WHERE ended.run_id = p.run_id AND ended.status IN ('completed', 'partial') AND ended.finished_at <= %(as_of)s
    )"""

_MARKETS = f"""
    WITH runs AS ({_RUNS}), newest AS (
        SELECT DISTINCT ON (market_id) market_id, state, outcome, closed_time
        FROM predictbench.resolution_observations WHERE observed_at <= %(as_of)s
        ORDER BY market_id, observed_at DESC, observation_id
    )
    SELECT m.processed_market_id, m.market_id, runs.run_date, runs.window_days,
        (m.close_time AT TIME ZONE 'UTC')::date AS end_date, m.category, m.cluster, m.event_id, m.neg_risk_market_id,
        m.game_id, m.price, m.price IS NOT NULL AND m.price_quality = 'good' AS good, m.core, m.reconstructed,
        m.snapshot_hash, m.captured_at AT TIME ZONE 'UTC' AS captured_at,
        coalesce(newest.closed_time, m.close_time) AT TIME ZONE 'UTC' AS closed_at,
        CASE WHEN newest.state = 'final' THEN newest.outcome END AS outcome
    FROM predictbench.processed_markets m JOIN runs USING (run_id) LEFT JOIN newest USING (market_id)
    WHERE m.captured_at <= %(as_of)s AND (m.withdrawn_at IS NULL OR m.withdrawn_at > %(as_of)s)
    ORDER BY runs.run_date, runs.window_days, m.market_id COLLATE "C\""""  # noqa: S608 - names of ours

_ATTEMPTS = f"""
    WITH runs AS ({_RUNS})
    SELECT a.experiment_run_id, a.attempt, a.snapshot_hash, e.name, e.version, e.information, e.control, e.description
    FROM predictbench.experiment_runs a JOIN runs USING (run_id) JOIN predictbench.experiments e USING (experiment_id)
    ORDER BY e.name COLLATE "C", e.version COLLATE "C\""""  # noqa: S608 - names of ours

# Rows without a forecast as well: they say that the market was there, and that the experiment was.
_RESULTS = """
    SELECT r.processed_market_id, r.experiment_run_id,
        coalesce(CASE WHEN r.status = 'completed' THEN r.probability END, 'NaN'::float8),
        coalesce(r.forecast_at, 'infinity'::timestamptz), r.status <> 'not_run'
    FROM predictbench.experiment_results r
    JOIN predictbench.experiment_runs a USING (experiment_run_id) JOIN predictbench.processing_runs p USING (run_id)
    WHERE p.run_date BETWEEN %(since)s AND %(until)s
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

    def read_few(connection: Connection) -> tuple[Sequence[Row[Any]], Sequence[Row[Any]]]:
        markets, attempts = (connection.exec_driver_sql(query, values).all() for query in (_MARKETS, _ATTEMPTS))
        return markets, attempts

    markets, attempts = in_transaction(engine, read_few)
    results = in_transaction(engine, lambda connection: fetch_columns(connection, _RESULTS, values, _RESULT_KINDS))
    # Whatever a run stores of a market has a result of each experiment: without one that is known, it came later.
    there = set(results["market"].tolist())
    markets = [row for row in markets if row.processed_market_id.bytes in there]
    forecasts = _assembled(as_of, markets, attempts, results)
    return replace(forecasts, coherence=load_coherence(engine, forecasts))


def _assembled(
    as_of: datetime, markets: Sequence[Row[Any]], attempts: Sequence[Row[Any]], results: NDArray[Any]
) -> Forecasts:
    values = zip(*markets, strict=True) if markets else ((),) * len(_MARKET_COLUMNS)
    column: dict[str, Sequence[Any]] = dict(zip(_MARKET_COLUMNS, values, strict=True))
    outcome = np.array(column["outcome"], np.float64)
    cohorts = Cohorts(
        market_id=np.array(column["market_id"], np.object_),
        run_date=np.array(column["run_date"], "datetime64[D]"),
        window_days=np.array(column["window_days"], np.int64),
        end_date=np.array(column["end_date"], "datetime64[D]"),
        category=np.array(column["category"], np.object_),
        cluster=cluster_numbers(*(column[name] for name in _LINKS)),
        price=np.array(column["price"], np.float64),
        good=np.array(column["good"], np.bool_),
        core=np.array(column["core"], np.bool_),
        reconstructed=np.array(column["reconstructed"], np.bool_),
        final=~np.isnan(outcome),
        outcome=outcome,
    )
    market = positions(results["market"], {row.processed_market_id.bytes: n for n, row in enumerate(markets)})
    attempt = positions(results["attempt"], {row.experiment_run_id.bytes: n for n, row in enumerate(attempts)})
    known = (market >= 0) & (attempt >= 0)
    market, attempt, results = market[known], attempt[known], results[known]

    entrants = _entrants(attempts, set(np.unique(attempt[results["ran"]]).tolist()))
    number = {(one.experiment, one.version): position for position, one in enumerate(entrants)}
    entrant = np.array([number.get((row.name, row.version), -1) for row in attempts], np.int64)[attempt]
    turn = np.array([row.attempt for row in attempts], np.int64)[attempt]

    made_at = results["forecast_at"].astype(np.int64)
    captured_at, closed_at = (_microseconds(column[name])[market] for name in ("captured_at", "closed_at"))
    timely = (made_at <= captured_at + _FREEZE_WINDOW_US) & (made_at < closed_at) & ~cohorts.reconstructed[market]
    snapshots = _numbers([row.snapshot_hash for row in (*markets, *attempts)])
    same_snapshot = _same(snapshots[: len(markets)][market], snapshots[len(markets) :][attempt])
    counts = ~np.isnan(results["probability"]) & same_snapshot & (entrant >= 0)

    def newest(chosen: Bools) -> Floats:
        matrix = np.full((len(entrants), len(cohorts)), np.nan)
        order = np.flatnonzero(chosen)
        order = order[np.argsort(turn[order], kind="stable")]  # of several for one place the last one stays
        matrix[entrant[order], market[order]] = results["probability"][order]
        return matrix

    return Forecasts(as_of, cohorts, entrants, newest(counts & timely), newest(counts & ~timely))


def _entrants(attempts: Sequence[Row[Any]], that_ran: set[int]) -> tuple[Entrant, ...]:
    """Each version of an experiment that ran at least once, even if it never gave a forecast; by name and version."""
    reference = BaselineSnapshotExperiment.name
    rows = {(row.name, row.version): row for position, row in enumerate(attempts) if position in that_ran}
    return tuple(
        Entrant(name, version, row.information, row.control, name == reference, row.description)
        for (name, version), row in sorted(rows.items())
    )


def _microseconds(instants: Sequence[datetime]) -> Ints:
    """Instants in UTC as `fetch_columns` has them."""
    return np.array(instants, "datetime64[us]").astype(np.int64) - _EPOCH_US


def _numbers(texts: Sequence[str | None]) -> Ints:
    """A number for each different text; -1 for none."""
    known: dict[str, int] = {}
    return np.array([-1 if one is None else known.setdefault(one, len(known)) for one in texts], np.int64)


def _same(first: Ints, second: Ints) -> Bools:
    """Where two of `_numbers` do not contradict each other."""
    same: Bools = (first == second) | (first < 0) | (second < 0)
    return same
