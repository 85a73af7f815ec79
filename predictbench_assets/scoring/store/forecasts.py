"""The forecasts to score, out of the database: every market of every complete run, with those of each experiment.

Everything is held to what was known at `as_of`, so the same moment gives the same arrays again, whatever came later.
That is also why it may be read in chunks, each a transaction of its own: attempts, results and observations are only
ever added, and what is added meanwhile is later than that moment. A market that is captured again meanwhile is unknown,
as it is to a reader who begins then.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime
from typing import Any, Final, LiteralString
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine, Row

from predictbench_assets.database.arrays import Kind, fetch_columns, indices_of
from predictbench_assets.database.as_of import (
    ESTIMATED_RESULTS,
    market_is_listed,
    newest_observation,
    result_is_known,
    run_is_known,
)
from predictbench_assets.database.chunks import ROWS_PER_CHUNK, chunks_by_size
from predictbench_assets.database.errors import in_transaction
from predictbench_assets.markets.market import REFERENCE
from predictbench_assets.runs import RunKey
from predictbench_assets.scoring.collection import MARKET_COLUMNS, Attempt, ForecastCollection, Results
from predictbench_assets.scoring.forecasts import Entrant, Forecasts
from predictbench_assets.scoring.store.coherence import load_coherence

_AS_OF: Final[LiteralString] = "%(as_of)s"

_ATTEMPTS = f"""
    SELECT p.run_id, p.run_date, p.window_days, a.experiment_run_id, a.attempt, a.snapshot_hash, e.name, e.version,
        e.information, e.control, e.description, e.knowledge_cutoff,
        {ESTIMATED_RESULTS} AS size
    FROM predictbench.processing_runs p
    JOIN predictbench.experiment_runs a USING (run_id) JOIN predictbench.experiments e USING (experiment_id)
    WHERE p.run_date BETWEEN %(since)s AND %(until)s AND e.forecasts AND {run_is_known(_AS_OF)}
    ORDER BY p.run_date, p.window_days"""  # noqa: S608 - names of ours, here and below

_MARKETS = f"""
    SELECT m.processed_market_id, m.market_id, p.run_date, p.window_days,
        (m.close_time AT TIME ZONE 'UTC')::date AS end_date, m.category, m.cluster, m.event_id, m.neg_risk_market_id,
        m.game_id, m.price, m.price IS NOT NULL AND m.price_quality = 'good' AS good, m.core, m.reconstructed,
        m.snapshot_hash, m.captured_at AT TIME ZONE 'UTC' AS captured_at,
        coalesce(newest.closed_time, m.close_time) AT TIME ZONE 'UTC' AS closed_at,
        CASE WHEN newest.state = 'final' THEN newest.outcome END AS outcome,
        (coalesce(m.as_of, m.captured_at) AT TIME ZONE 'UTC')::date AS as_of
    FROM predictbench.processed_markets m JOIN predictbench.processing_runs p USING (run_id)
    LEFT JOIN LATERAL ({newest_observation("o.state, o.outcome, o.closed_time", _AS_OF)}) newest ON true
    WHERE m.run_id = ANY(%(runs)s::uuid[]) AND {market_is_listed(_AS_OF)}
    ORDER BY p.run_date, p.window_days, m.market_id COLLATE "C\""""  # noqa: S608

# Rows without a forecast as well: they show that the market was there, and that the experiment was.
_RESULTS: LiteralString = f"""
    SELECT r.processed_market_id, r.experiment_run_id,
        coalesce(CASE WHEN r.status = 'completed' THEN r.probability END, 'NaN'::float8),
        coalesce(r.forecast_at, 'infinity'::timestamptz), r.status <> 'not_run', r.leaked
    FROM predictbench.experiment_results r
    WHERE r.experiment_run_id = ANY(%(attempts)s::uuid[])
      AND {result_is_known(_AS_OF)}"""  # noqa: S608 - names of ours
_RESULT_KINDS: Final[Mapping[str, Kind]] = {
    "market": "uuid",
    "attempt": "uuid",
    "probability": "float",
    "forecast_at": "time",
    "ran": "bool",
    "leaked": "bool",
}

_PLACED: Final = ("processed_market_id", *MARKET_COLUMNS)
"""Columns in the order of the query."""


def load_forecasts(
    engine: Engine, as_of: datetime, *, since: date | None = None, until: date | None = None
) -> Forecasts:
    """Load every market of every complete run, its settlement, and the result of each version of each experiment.

    `ForecastCollection` decides which forecast of several counts.

    Args:
        as_of: runs that ended, results that were stored and resolutions that were observed later are unknown.
        since: the first run date.
        until: the last run date, itself included.

    Raises:
        DatabaseUnavailable, DatabaseRefused: the database cannot be reached, or refuses.
    """
    values = {"as_of": as_of, "since": since or date.min, "until": until or date.max}
    attempts = in_transaction(engine, lambda connection: connection.exec_driver_sql(_ATTEMPTS, values).all())
    by_run: dict[UUID, list[Row[Any]]] = defaultdict(list)
    for row in attempts:
        by_run[row.run_id].append(row)
    runs = list(by_run)
    collection = ForecastCollection(_entrant(row) for row in attempts)
    sizes = [sum(row.size for row in by_run[run]) for run in runs]
    for part in [*chunks_by_size(sizes, ROWS_PER_CHUNK)] or [slice(0)]:
        made = [row for run in runs[part] for row in by_run[run]]
        made_by = [Attempt(_entrant(row), row.attempt, row.snapshot_hash) for row in made]
        collection.add(made_by, *_read(engine, as_of, runs[part], made))
    forecasts = collection.forecasts(as_of)
    return replace(forecasts, coherence=load_coherence(engine, forecasts))


def load_cohort(engine: Engine, key: RunKey, as_of: datetime) -> Mapping[str, Sequence[Any]]:
    """Load the stored markets of one run with their settlement, as columns for `ForecastCollection.add`.

    Raises:
        DatabaseUnavailable, DatabaseRefused: the database cannot be reached, or refuses.
    """
    values = {"as_of": as_of, "runs": [key.run_id]}
    return _columns(in_transaction(engine, lambda connection: connection.exec_driver_sql(_MARKETS, values).all()))


def _columns(markets: Sequence[Row[Any]]) -> dict[str, Sequence[Any]]:
    columns = zip(*markets, strict=True) if markets else ((),) * len(_PLACED)
    return dict(zip(_PLACED, columns, strict=True))


def _read(
    engine: Engine, as_of: datetime, runs: Sequence[UUID], attempts: Sequence[Row[Any]]
) -> tuple[Mapping[str, Sequence[Any]], Results]:
    """The markets of some runs, as columns, and the results of their attempts."""
    values = {"as_of": as_of, "runs": list(runs), "attempts": [row.experiment_run_id for row in attempts]}

    def work(connection: Connection) -> tuple[Sequence[Row[Any]], NDArray[Any]]:
        markets = connection.exec_driver_sql(_MARKETS, values).all()
        return markets, fetch_columns(connection, _RESULTS, values, _RESULT_KINDS)

    rows, results = in_transaction(engine, work)
    # Whatever a run stores of a market has a result of each experiment: without one that is known, it came later.
    there = set(results["market"].tolist())
    column = _columns([row for row in rows if row.processed_market_id.bytes in there])
    market = indices_of(results["market"], {one.bytes: n for n, one in enumerate(column["processed_market_id"])})
    attempt = indices_of(results["attempt"], {row.experiment_run_id.bytes: n for n, row in enumerate(attempts)})
    known = (market >= 0) & (attempt >= 0)
    probability, made_at, ran, leaked = (
        results[name][known] for name in ("probability", "forecast_at", "ran", "leaked")
    )
    return column, Results(market[known], attempt[known], probability, made_at.astype(np.int64), ran, leaked)


def _entrant(row: Row[Any]) -> Entrant:
    is_reference = row.name == REFERENCE
    described = row.description, row.knowledge_cutoff
    return Entrant(row.name, row.version, row.information, row.control, is_reference, *described)
