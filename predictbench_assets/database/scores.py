"""Scores of single forecasts, kept in step with the ledger of resolutions.

A forecast has a score exactly while the newest observation of its market is final. The score names that observation
and the version of the rules; whatever has another one is scored anew, and nothing else is touched.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine, text

from predictbench_assets.database.columns import Kind, fetch_columns
from predictbench_assets.database.errors import in_transaction
from predictbench_assets.database.known import RESULTS_OF_AN_ATTEMPT
from predictbench_assets.database.portions import AT_ONCE, portions
from predictbench_assets.scoring import rules

_BATCH: Final = 20_000

_RUNS = text(f"""
    SELECT p.run_id AS run, array_agg(a.experiment_run_id) AS attempts,
        sum({RESULTS_OF_AN_ATTEMPT}) AS size
    FROM predictbench.processing_runs p JOIN predictbench.experiment_runs a USING (run_id)
    GROUP BY p.run_id ORDER BY p.run_date, p.window_days""")  # noqa: S608 - names of ours

# A forecast made on a snapshot that was replaced since has no price to be compared with.
# OFFSET 0 has scores looked up one by one: to read all that there are, for a few runs, may seem cheaper to the planner.
_DUE = """
    WITH settled AS MATERIALIZED (
        SELECT m.processed_market_id, m.price, m.snapshot_hash, newest.observation_id, newest.outcome
        FROM predictbench.processed_markets m CROSS JOIN LATERAL (
            SELECT o.observation_id, o.state, o.outcome FROM predictbench.resolution_observations o
            WHERE o.market_id = m.market_id ORDER BY o.observed_at DESC, o.observation_id LIMIT 1
        ) newest
        WHERE m.run_id = ANY(%(runs)s::uuid[]) AND newest.state = 'final' AND newest.outcome IS NOT NULL
    )
    SELECT r.experiment_result_id, n.observation_id, r.probability, n.outcome,
        coalesce(CASE WHEN coalesce(r.snapshot_hash = n.snapshot_hash, true) THEN n.price END, 'NaN'::float8),
        s.observation_id IS NOT NULL
    FROM settled n
    JOIN predictbench.experiment_results r USING (processed_market_id)
    LEFT JOIN LATERAL (
        SELECT scored.observation_id, scored.scoring_version FROM predictbench.experiment_scores scored
        WHERE scored.experiment_result_id = r.experiment_result_id OFFSET 0
    ) s ON true
    WHERE r.experiment_run_id = ANY(%(attempts)s::uuid[]) AND r.status = 'completed' AND r.probability IS NOT NULL
      AND (s.observation_id, s.scoring_version) IS DISTINCT FROM (n.observation_id, %(version)s)
    ORDER BY r.experiment_result_id"""
_DUE_KINDS: Final[Mapping[str, Kind]] = {
    "result": "uuid",
    "observation": "uuid",
    "forecast": "float",
    "outcome": "float",
    "price": "float",
    "again": "bool",
}

_STORE = text("""
    INSERT INTO predictbench.experiment_scores AS s (experiment_result_id, observation_id, outcome, brier, log_loss,
        clipped, edge, disagreement, scoring_version, scored_at)
    SELECT x.result, x.observation, x.outcome, x.brier, x.log_loss, x.clipped, x.edge, x.disagreement, :version, :now
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS x(result uuid, observation uuid, outcome float8, brier float8,
        log_loss float8, clipped boolean, edge float8, disagreement float8)
    ON CONFLICT (experiment_result_id) DO UPDATE SET observation_id = excluded.observation_id,
        outcome = excluded.outcome, brier = excluded.brier, log_loss = excluded.log_loss, clipped = excluded.clipped,
        edge = excluded.edge, disagreement = excluded.disagreement, scoring_version = excluded.scoring_version,
        scored_at = excluded.scored_at
    WHERE (s.observation_id, s.scoring_version) IS DISTINCT FROM (excluded.observation_id, excluded.scoring_version)""")

_REOPENED = """
    predictbench.resolution_observations used JOIN predictbench.market_resolutions newest USING (market_id)
    WHERE used.observation_id = s.observation_id
      AND (newest.state = 'final' AND newest.outcome IS NOT NULL) IS NOT TRUE"""
_REMOVE = text(f"DELETE FROM predictbench.experiment_scores s USING {_REOPENED}")  # noqa: S608 - names of ours
_COUNT_REMOVABLE = text(f"SELECT count(*) FROM predictbench.experiment_scores s, {_REOPENED}")  # noqa: S608

_COUNT_SCORES = text("SELECT count(*) FROM predictbench.experiment_scores")
_COUNT_FORECASTS = text("""
    SELECT count(*) FROM predictbench.experiment_results
    WHERE experiment_run_id = ANY(:attempts) AND status = 'completed' AND probability IS NOT NULL""")


@dataclass(frozen=True)
class ScoreReport:
    """What scoring did; every number counts forecasts, but for `markets`."""

    scored: int
    """That had no score."""
    rescored: int
    """Whose resolution, or whose rules, had changed."""
    removed: int
    """Scores of markets that are not settled any more."""
    markets: int
    """Markets that these belong to, removed ones left out."""
    scores: int
    """Scores that are stored now."""
    waiting: int
    """Stored forecasts of markets that are not final."""
    scoring_version: str


def score_settled(engine: Engine, now: datetime, *, dry_run: bool = False) -> ScoreReport:
    """Score what is settled and not scored yet, or was scored by another observation or other rules. Idempotent.

    Runs are looked at a few at a time, and scores are written in batches, each a transaction of its own: what is cut
    short goes on the next time.

    Args:
        now: when they count as scored.
        dry_run: only say what would be done.

    Raises:
        DatabaseUnavailable, DatabaseRefused: as the names say.
    """
    removed = in_transaction(engine, lambda connection: _remove_reopened(connection, dry_run=dry_run))
    scored, rescored, forecasts, markets = 0, 0, 0, set[bytes]()
    for due, among in _due(engine):
        again = int(due["again"].sum())
        scored, rescored, forecasts = scored + len(due) - again, rescored + again, forecasts + among
        markets.update(due["observation"].tolist())
        if not dry_run:
            for start in range(0, len(due), _BATCH):
                _store(engine, due[start : start + _BATCH], now)
    stored = in_transaction(engine, lambda connection: int(connection.execute(_COUNT_SCORES).scalar_one()))
    stored += scored - removed if dry_run else 0
    return ScoreReport(
        scored=scored,
        rescored=rescored,
        removed=removed,
        markets=len(markets),
        scores=stored,
        waiting=forecasts - stored,
        scoring_version=rules.SCORING_VERSION,
    )


def _due(engine: Engine) -> Iterator[tuple[NDArray[Any], int]]:
    """What is to be scored of a few runs at a time, and among how many forecasts it was found."""
    runs = in_transaction(engine, lambda connection: connection.execute(_RUNS).all())
    for part in portions([row.size for row in runs], AT_ONCE):
        attempts = [attempt for row in runs[part] for attempt in row.attempts]
        values = {"runs": [row.run for row in runs[part]], "attempts": attempts, "version": rules.SCORING_VERSION}
        yield in_transaction(engine, partial(_read, values=values))


def _read(connection: Connection, values: Mapping[str, Any]) -> tuple[NDArray[Any], int]:
    among = int(connection.execute(_COUNT_FORECASTS, {"attempts": values["attempts"]}).scalar_one())
    return fetch_columns(connection, _DUE, values, _DUE_KINDS), among


def _store(engine: Engine, due: NDArray[Any], now: datetime) -> None:
    rows = msgspec.json.encode(_scores(due)).decode()
    values = {"rows": rows, "version": rules.SCORING_VERSION, "now": now}
    in_transaction(engine, lambda connection: connection.execute(_STORE, values))


def _scores(due: NDArray[Any]) -> list[dict[str, Any]]:
    """The scores of forecasts as rows of JSON; what needs a price is null where there is none."""
    forecast, outcome, price = (due[name].astype(np.float64) for name in ("forecast", "outcome", "price"))
    columns: dict[str, Any] = {
        "result": [one.hex() for one in due["result"].tolist()],
        "observation": [one.hex() for one in due["observation"].tolist()],
        "outcome": outcome,
        **rules.scores(forecast, price, outcome),
    }
    lists = [column if isinstance(column, list) else column.tolist() for column in columns.values()]
    return [dict(zip(columns, values, strict=True)) for values in zip(*lists, strict=True)]


def _remove_reopened(connection: Connection, *, dry_run: bool) -> int:
    if dry_run:
        return int(connection.execute(_COUNT_REMOVABLE).scalar_one())
    return connection.execute(_REMOVE).rowcount
