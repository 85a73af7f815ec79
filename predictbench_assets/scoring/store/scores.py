"""Scores of single forecasts, kept in step with the ledger of resolutions.

A forecast has a score exactly while the newest observation of its market is final. The score names that observation
and the version of the rules; whatever has another one, or was compared with another price, is scored anew, and nothing
else is touched.

What may be due is entered in `scores_due` by whatever brings it about, in its own transaction: an observation enters
its market; new forecasts and changed prices enter their run. So a call costs what is new, however much is stored. The
entries that a transaction has read are removed in the same one that scores them: one that is added meanwhile stays, and
what is cut short is found again. A run that was scored by other rules, or that has no
count, is due without an entry.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, Final, LiteralString
from uuid import UUID

import msgspec
import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine, Row

from predictbench_assets.database.arrays import Kind, fetch_columns
from predictbench_assets.database.as_of import ESTIMATED_RESULTS, IS_SETTLED, newest_observation
from predictbench_assets.database.chunks import ROWS_PER_CHUNK, chunks_by_size
from predictbench_assets.database.errors import in_transaction
from predictbench_assets.scoring import rules
from predictbench_assets.scoring.store.checks import COUNTED, counts_sql, counts_values

_BATCH: Final = 20_000
_MARKETS_PER_CHUNK: Final = 2_000

# Compiling a statement for many rows takes longer than running it for the few that are new.
_BEGIN: Final = "SELECT set_config('jit', 'off', true)"
_LOCK: Final = "SELECT pg_advisory_xact_lock(hashtext('predictbench.experiment_scores'))"

_RUNS: Final = f"""
    WITH due AS (
        SELECT run_id, due_id FROM predictbench.scores_due WHERE run_id IS NOT NULL
        UNION ALL SELECT run_id, NULL FROM predictbench.processing_runs
        LEFT JOIN predictbench.scored_runs USING (run_id) WHERE scoring_version IS DISTINCT FROM %(version)s
    )
    SELECT d.run_id, d.entries, coalesce(a.size, 0) AS size
    FROM (
        SELECT run_id, array_agg(due_id) FILTER (WHERE due_id IS NOT NULL) AS entries FROM due GROUP BY run_id
    ) d
    LEFT JOIN predictbench.processing_runs p USING (run_id)
    LEFT JOIN LATERAL (
        SELECT sum({ESTIMATED_RESULTS}) AS size FROM predictbench.experiment_runs a WHERE a.run_id = p.run_id
    ) a ON true
    ORDER BY p.run_date, p.window_days, d.run_id"""  # noqa: S608 - names of ours
_MARKETS: Final = """
    SELECT market_id, array_agg(due_id) AS entries FROM predictbench.scores_due
    WHERE market_id > %(after)s GROUP BY market_id ORDER BY market_id LIMIT %(most)s"""
_DONE: Final = "DELETE FROM predictbench.scores_due WHERE due_id = ANY(%(entries)s) OR market_id = ''"

_OF_RUNS: Final = "m.run_id = ANY(%(runs)s::uuid[])"
# Markets without a final observation have no scores, now or before.
_OF_MARKETS: Final = """
    m.market_id = ANY(%(markets)s) AND m.run_id <> ALL(%(but)s::uuid[]) AND EXISTS (
        SELECT FROM predictbench.resolution_observations o WHERE o.market_id = m.market_id AND o.state = 'final'
    )"""

_NEWEST: Final[LiteralString] = f"""
    CROSS JOIN LATERAL ({newest_observation(f"o.observation_id, o.outcome, {IS_SETTLED} AS settled")}) newest"""


def _candidates(markets: LiteralString) -> LiteralString:
    """A query of the forecasts of settled markets with what they would be scored by, and were."""
    # A forecast made on a snapshot that was replaced since has no price to be compared with.
    # OFFSET 0 has rows looked up one by one: to read all that there are, for a few markets, may seem cheaper to the
    # planner.
    return f"""
    WITH settled AS MATERIALIZED (
        SELECT m.processed_market_id, m.price, m.snapshot_hash, newest.observation_id, newest.outcome
        FROM predictbench.processed_markets m {_NEWEST} WHERE newest.settled AND {markets}
    )
    SELECT r.experiment_result_id, n.observation_id, r.probability, n.outcome,
        coalesce(CASE WHEN coalesce(r.snapshot_hash = n.snapshot_hash, true) THEN n.price END, 'NaN'::float8),
        s.observation_id IS NOT NULL,
        (s.observation_id, s.scoring_version) IS NOT DISTINCT FROM (n.observation_id, %(version)s),
        coalesce(s.edge, 'NaN'::float8), coalesce(s.disagreement, 'NaN'::float8)
    FROM settled n
    CROSS JOIN LATERAL (
        SELECT made.experiment_result_id, made.probability, made.snapshot_hash FROM predictbench.experiment_results made
        WHERE made.processed_market_id = n.processed_market_id
          AND made.status = 'completed' AND made.probability IS NOT NULL
          AND NOT made.leaked OFFSET 0
    ) r
    LEFT JOIN LATERAL (
        SELECT scored.observation_id, scored.scoring_version, scored.edge, scored.disagreement
        FROM predictbench.experiment_scores scored
        WHERE scored.experiment_result_id = r.experiment_result_id OFFSET 0
    ) s ON true"""  # noqa: S608 - names of ours


_CANDIDATE_KINDS: Final[Mapping[str, Kind]] = {
    "result": "uuid",
    "observation": "uuid",
    "forecast": "float",
    "outcome": "float",
    "price": "float",
    "again": "bool",
    "same": "bool",
    "edge": "float",
    "disagreement": "float",
}


def _reopened(markets: LiteralString) -> LiteralString:
    """A query of the scores whose markets are not settled any more."""
    return f"""
    WITH unsettled AS MATERIALIZED (
        SELECT m.processed_market_id, m.market_id FROM predictbench.processed_markets m {_NEWEST}
        WHERE newest.settled IS NOT TRUE AND {markets}
    )
    SELECT s.experiment_result_id FROM unsettled u
    CROSS JOIN LATERAL (
        SELECT o.observation_id FROM predictbench.resolution_observations o
        WHERE o.market_id = u.market_id AND o.state = 'final' OFFSET 0
    ) used
    CROSS JOIN LATERAL (
        SELECT scored.experiment_result_id FROM predictbench.experiment_scores scored
        WHERE scored.observation_id = used.observation_id OFFSET 0
    ) s
    CROSS JOIN LATERAL (
        SELECT FROM predictbench.experiment_results made
        WHERE made.experiment_result_id = s.experiment_result_id
          AND made.processed_market_id = u.processed_market_id OFFSET 0
    ) r"""  # noqa: S608 - names of ours


_REMOVE: Final = "DELETE FROM predictbench.experiment_scores WHERE experiment_result_id = ANY(%(results)s)"
_STORE: Final = """
    INSERT INTO predictbench.experiment_scores AS s (experiment_result_id, observation_id, outcome, brier, log_loss,
        clipped, edge, disagreement, scoring_version, scored_at)
    SELECT x.result, x.observation, x.outcome, x.brier, x.log_loss, x.clipped, x.edge, x.disagreement,
        %(version)s, %(now)s
    FROM jsonb_to_recordset(%(rows)s::jsonb) AS x(result uuid, observation uuid, outcome float8, brier float8,
        log_loss float8, clipped boolean, edge float8, disagreement float8)
    ON CONFLICT (experiment_result_id) DO UPDATE SET observation_id = excluded.observation_id,
        outcome = excluded.outcome, brier = excluded.brier, log_loss = excluded.log_loss, clipped = excluded.clipped,
        edge = excluded.edge, disagreement = excluded.disagreement, scoring_version = excluded.scoring_version,
        scored_at = excluded.scored_at"""

_GIVEN: Final = f"jsonb_to_recordset(%(rows)s::jsonb) AS x(run_id uuid, {', '.join(f'{name} int' for name in COUNTED)})"
_COUNT: Final = f"""
    INSERT INTO predictbench.scored_runs (run_id, scoring_version, {", ".join(COUNTED)})
    SELECT x.run_id, %(version)s, {", ".join(f"x.{name}" for name in COUNTED)}
    FROM {_GIVEN} JOIN predictbench.processing_runs USING (run_id)
    ON CONFLICT (run_id) DO UPDATE SET scoring_version = excluded.scoring_version,
        {", ".join(f"{name} = excluded.{name}" for name in COUNTED)}"""  # noqa: S608 - names of ours
# A run that was never counted is due as a whole.
_COUNT_MORE: Final = f"""
    UPDATE predictbench.scored_runs k SET {", ".join(f"{name} = k.{name} + x.{name}" for name in COUNTED)}
    FROM {_GIVEN} WHERE k.run_id = x.run_id"""  # noqa: S608 - names of ours
_SUMS: Final = """
    SELECT coalesce(sum(forecasts), 0) AS forecasts, coalesce(sum(scores), 0) AS scores
    FROM predictbench.scored_runs WHERE run_id <> ALL(%(but)s::uuid[])"""


@dataclass(frozen=True)
class ScoreReport:
    """Numbers of a call of `score_settled`, of forecasts but for `markets`."""

    scored: int
    """Forecasts that had no score."""
    rescored: int
    """Forecasts whose resolution, rules or price had changed."""
    removed: int
    """Scores of markets that are not settled any more."""
    markets: int
    """Markets that these belong to, removed ones left out."""
    scores: int
    """Scores that are stored now."""
    waiting: int
    """Stored forecasts of markets that are not final."""
    scoring_version: str


@dataclass
class _Done:
    """Numbers of one chunk, or the sums of several."""

    scored: int = 0
    rescored: int = 0
    removed: int = 0
    observations: set[bytes] = field(default_factory=set)
    forecasts: int = 0
    """Forecasts, counted in a dry run only, and so are the scores that are stored already."""
    scores: int = 0
    last: str | None = None
    """The last market in the chunk; None where there was none."""

    def add(self, other: "_Done") -> None:
        self.scored += other.scored
        self.rescored += other.rescored
        self.removed += other.removed
        self.observations |= other.observations
        self.forecasts += other.forecasts
        self.scores += other.scores


@dataclass(frozen=True)
class _Scoring:
    """One call of `score_settled`."""

    now: datetime
    dry_run: bool

    def runs(self, connection: Connection, due: Sequence[Row[Any]]) -> _Done:
        """Score the whole of some runs."""
        values = {"runs": [row.run_id for row in due]}
        self._begin(connection)
        done = self._score(connection, _OF_RUNS, values)
        counts = dict.fromkeys(values["runs"], dict.fromkeys(COUNTED, 0)) | _counts(connection, _OF_RUNS, values)
        if self.dry_run:
            done.forecasts = sum(one["forecasts"] for one in counts.values())
            done.scores = sum(one["scores"] for one in counts.values())
        else:
            connection.exec_driver_sql(_COUNT, {"rows": _rows(counts), "version": rules.SCORING_VERSION})
            self._end(connection, due)
        return done

    def markets(self, connection: Connection, after: str, but: Sequence[UUID]) -> _Done:
        """Score some of the markets that are entered, in all runs but some."""
        self._begin(connection)
        due = connection.exec_driver_sql(_MARKETS, {"after": after, "most": _MARKETS_PER_CHUNK}).all()
        if not due:
            return _Done()
        values = {"markets": [row.market_id for row in due], "but": but}
        before = {} if self.dry_run else _counts(connection, _OF_MARKETS, values)
        done = self._score(connection, _OF_MARKETS, values)
        done.last = due[-1].market_id
        if not self.dry_run:
            now = _counts(connection, _OF_MARKETS, values)
            none = dict.fromkeys(COUNTED, 0)
            more = {
                run: {name: one[name] - before.get(run, none)[name] for name in COUNTED} for run, one in now.items()
            }
            connection.exec_driver_sql(_COUNT_MORE, {"rows": _rows(more)})
            self._end(connection, due)
        return done

    def _begin(self, connection: Connection) -> None:
        """Have no other scoring between what is read, written, counted and removed. Held to the end of the transaction
        only."""
        connection.exec_driver_sql(_BEGIN)
        if not self.dry_run:
            connection.exec_driver_sql(_LOCK)

    def _end(self, connection: Connection, due: Iterable[Row[Any]]) -> None:
        entries = [entry for row in due for entry in row.entries or ()]
        connection.exec_driver_sql(_DONE, {"entries": entries})

    def _score(self, connection: Connection, markets: LiteralString, values: Mapping[str, Any]) -> _Done:
        gone = connection.exec_driver_sql(_reopened(markets), dict(values)).scalars().all()
        if gone and not self.dry_run:
            connection.exec_driver_sql(_REMOVE, {"results": list(gone)})
        given = {**values, "version": rules.SCORING_VERSION}
        rows = fetch_columns(connection, _candidates(markets), given, _CANDIDATE_KINDS)
        forecast, outcome, price = (rows[name].astype(np.float64) for name in ("forecast", "outcome", "price"))
        found = rules.scores(forecast, price, outcome)
        # Without the logarithm, whose last digit is not the same on all machines.
        priced = [_same(rows[name].astype(np.float64), found[name]) for name in ("edge", "disagreement")]
        due = ~(rows["same"] & priced[0] & priced[1])
        chosen = rows[due]
        if not self.dry_run:
            columns = {
                "result": [one.hex() for one in chosen["result"].tolist()],
                "observation": [one.hex() for one in chosen["observation"].tolist()],
                "outcome": outcome[due].tolist(),
                **{name: column[due].tolist() for name, column in found.items()},
            }
            self._store(connection, columns, len(chosen))
        again = int(chosen["again"].sum())
        return _Done(len(chosen) - again, again, len(gone), set(chosen["observation"].tolist()))

    def _store(self, connection: Connection, columns: Mapping[str, list[Any]], number: int) -> None:
        """Store scores; what is not a number becomes null, where there is no price to compare with."""
        for start in range(0, number, _BATCH):
            lists = [column[start : start + _BATCH] for column in columns.values()]
            rows = [dict(zip(columns, each, strict=True)) for each in zip(*lists, strict=True)]
            given = {"rows": msgspec.json.encode(rows).decode(), "version": rules.SCORING_VERSION, "now": self.now}
            connection.exec_driver_sql(_STORE, given)


def score_settled(engine: Engine, now: datetime, *, dry_run: bool = False) -> ScoreReport:
    """Score forecasts that are settled and unscored, or scored by another observation, rules or price. Idempotent.

    Due scores are taken in chunks, each a transaction of its own: the next call goes on where one was cut short.

    Args:
        now: instant that the scores are dated with.
        dry_run: count, and store nothing.

    Raises:
        DatabaseUnavailable, DatabaseRefused: the database cannot be reached, or refuses.
    """
    scoring, done = _Scoring(now, dry_run), _Done()
    version = {"version": rules.SCORING_VERSION}
    runs = in_transaction(engine, lambda connection: connection.exec_driver_sql(_RUNS, version).all())
    for part in chunks_by_size([row.size for row in runs], ROWS_PER_CHUNK):
        done.add(in_transaction(engine, partial(scoring.runs, due=runs[part])))
    # A dry run would find again what it found in whole runs. Else all must be read again:
    # what was entered since then may be of a run that was looked at before.
    but = [row.run_id for row in runs] if dry_run else []
    after: str | None = ""
    while after is not None:
        chunk = in_transaction(engine, partial(scoring.markets, after=after, but=but))
        done.add(chunk)
        after = chunk.last
    kept = in_transaction(engine, lambda connection: connection.exec_driver_sql(_SUMS, {"but": but}).one())
    stored = int(kept.scores) + (done.scores + done.scored - done.removed if dry_run else 0)
    return ScoreReport(
        scored=done.scored,
        rescored=done.rescored,
        removed=done.removed,
        markets=len(done.observations),
        scores=stored,
        waiting=int(kept.forecasts) + done.forecasts - stored,
        scoring_version=rules.SCORING_VERSION,
    )


def _counts(connection: Connection, markets: str, values: Mapping[str, Any]) -> dict[UUID, dict[str, int]]:
    """Counts of what is stored of some markets, by run."""
    rows = connection.exec_driver_sql(counts_sql(markets), {**values, **counts_values()}).all()
    return {row.run_id: {name: getattr(row, name) for name in COUNTED} for row in rows}


def _rows(counts: Mapping[UUID, Mapping[str, int]]) -> str:
    return msgspec.json.encode([{"run_id": run, **numbers} for run, numbers in counts.items()]).decode()


def _same(one: NDArray[np.float64], other: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Mask of the rows where two columns have the same number, or neither has one."""
    return np.asarray((one == other) | (np.isnan(one) & np.isnan(other)))
