"""The writer's statements, each a single round trip: the attempts of the experiments, and a batch of markets.

Those that write begin with the lease: without its row nothing else has anything to insert. Everything they need is in
their parameters, so they run on whatever server connection a pooler picks.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql

from predictbench_assets.database import schema
from predictbench_assets.persistence.pipelining import Statement
from predictbench_assets.persistence.rows import MARKET_COLUMNS, EncodedMarket

_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]


def _typed(table: Table, *, without: Collection[str] = ()) -> dict[str, str]:
    """The columns of a table with their types, as `jsonb_to_recordset` wants them."""
    return {column.name: column.type.compile(_DIALECT) for column in table.c if column.name not in without}


_EVENT = _typed(schema.events)
_MARKET = {name: kind for name, kind in _typed(schema.processed_markets).items() if name in MARKET_COLUMNS}
_CONTRACT = _typed(schema.processed_contracts, without={"metadata"})
_RESULT = _typed(schema.experiment_results, without={"score", "stored_at", "snapshot_hash", "config_hash"})
# The server's numbers for the types of parameters.
_BOOLEAN, _INTEGER, _TEXT, _TIMESTAMPTZ, _UUID, _JSONB = 16, 23, 25, 1184, 2950, 3802


def _columns(columns: Sequence[str] | dict[str, str], prefix: str = "") -> str:
    return ", ".join(f"{prefix}{column}" for column in columns)


def _record(columns: dict[str, str]) -> str:
    return ", ".join(f"{column} {kind}" for column, kind in columns.items())


def _update(table: str, columns: Sequence[str], *, also: str = "") -> str:
    """Overwrite a row only when something in it changed, so that a rerun leaves no dead tuples."""
    return (
        f"DO UPDATE SET ({_columns(columns)}) = ROW({_columns(columns, 'excluded.')})\n"
        f"        WHERE ({_columns(columns, f'{table}.')}) IS DISTINCT FROM ({_columns(columns, 'excluded.')}){also}"
    )


_STORED_MARKET = [*_MARKET, "snapshot_hash", "reconstructed"]
_MARKET_CHANGES = [column for column in _STORED_MARKET if column not in ("processed_market_id", "market_id")]
_UPSERT_MARKET = _update("m", _MARKET_CHANGES, also=" OR m.withdrawn_at IS NOT NULL").replace(
    "DO UPDATE SET", "DO UPDATE SET processed_at = excluded.processed_at, withdrawn_at = NULL,"
)

_UNLESS_ANY = """
        WHERE NOT coalesce(x.fill, false) OR NOT EXISTS (
            SELECT FROM predictbench.experiment_results other
            JOIN predictbench.experiment_runs other_run USING (experiment_run_id)
            JOIN predictbench.experiments other_name USING (experiment_id)
            WHERE other.processed_market_id = x.processed_market_id AND other_name.name = named.name)"""


def _batch_sql(*, filling: bool) -> bytes:
    # Put together from the names above, never from data.
    return f"""
    WITH lease AS (
        UPDATE predictbench.processing_runs SET heartbeat_at = $3
        WHERE run_id = $1 AND attempt = $2 AND status = 'running'
        RETURNING run_id, snapshot_hash
    ), moment AS (
        SELECT greatest($3, max(made_at) + interval '1 microsecond') AS stored_at
        FROM predictbench.forecast_digests WHERE run_id = $1
    ), stored_events AS (
        INSERT INTO predictbench.events AS e ({_columns(_EVENT)})
        SELECT {_columns(_EVENT, "x.")} FROM lease, jsonb_to_recordset($5) AS x({_record(_EVENT)})
        ON CONFLICT (event_id) {_update("e", ["slug", "title", "neg_risk"])}
    ), stored_markets AS (
        INSERT INTO predictbench.processed_markets AS m ({_columns(_STORED_MARKET)}, run_id, processed_at)
        SELECT {_columns(_MARKET, "x.")}, lease.snapshot_hash, $4, lease.run_id, $3
        FROM lease, jsonb_to_recordset($6) AS x({_record(_MARKET)})
        ON CONFLICT (processed_market_id) {_UPSERT_MARKET}
    ), gone_contracts AS (
        DELETE FROM predictbench.processed_contracts c USING lease
        WHERE c.processed_market_id IN (
            SELECT x.processed_market_id FROM jsonb_to_recordset($7) AS x(processed_market_id uuid)
        ) AND c.processed_contract_id NOT IN (
            SELECT x.processed_contract_id FROM jsonb_to_recordset($7) AS x(processed_contract_id uuid)
        )
    ), stored_contracts AS (
        INSERT INTO predictbench.processed_contracts AS c ({_columns(_CONTRACT)}, metadata)
        SELECT {_columns(_CONTRACT, "x.")}, jsonb_build_object('index', x.index)
        FROM lease, jsonb_to_recordset($7) AS x({_record(_CONTRACT)}, index integer)
        ON CONFLICT (processed_contract_id) {_update("c", ["contract_id", "name", "price", "metadata"])}
    ), stored_results AS (
        INSERT INTO predictbench.experiment_results ({_columns(_RESULT)}, stored_at, snapshot_hash, config_hash)
        SELECT {_columns(_RESULT, "x.")}, moment.stored_at, attempt.snapshot_hash, attempt.config_hash
        FROM lease, moment, jsonb_to_recordset($8) AS x({_record(_RESULT)}, fill boolean)
        JOIN predictbench.experiment_runs attempt USING (experiment_run_id)
        JOIN predictbench.experiments named USING (experiment_id){_UNLESS_ANY if filling else ""}
        ON CONFLICT (experiment_run_id, processed_market_id) DO NOTHING
    )
    SELECT count(*) FROM lease""".encode()  # noqa: S608


_BATCH = _batch_sql(filling=False)
_FILLING_BATCH = _batch_sql(filling=True)

_ATTEMPT = _typed(schema.experiment_runs, without={"run_id", "dagster_run_id"})
_EXPERIMENT = _typed(schema.experiments, without={"is_active"})
_EXPERIMENT_CHANGES = [
    *("description", "information", "mandatory", "control", "forecasts", "is_active", "knowledge_cutoff"),
]

# Of the markets the first one, as an index has them: to look through all for any may seem cheaper to the planner.
_STORED_BEFORE = b"""
    SELECT coalesce(jsonb_agg(jsonb_build_object(
        'name', named.name, 'version', named.version, 'attempt', attempt.attempt, 'content_hash', attempt.content_hash,
        'snapshot_hash', attempt.snapshot_hash, 'completed', coalesce(attempt.completed, 0)
    ) ORDER BY attempt.attempt), '[]'),
        (SELECT processed_market_id FROM predictbench.processed_markets WHERE run_id = $1 ORDER BY market_id LIMIT 1)
    FROM predictbench.experiment_runs attempt JOIN predictbench.experiments named USING (experiment_id)
    WHERE attempt.run_id = $1"""

_REGISTER = f"""
    WITH lease AS (
        UPDATE predictbench.processing_runs SET heartbeat_at = $3, stage = 'persisted_run'
        WHERE run_id = $1 AND attempt = $2 AND status = 'running'
        RETURNING run_id
    ), registered AS (
        INSERT INTO predictbench.experiments AS e ({_columns(_EXPERIMENT)}, is_active)
        SELECT DISTINCT ON (x.name, x.version) {_columns(_EXPERIMENT, "x.")}, true
        FROM lease, jsonb_to_recordset($5) AS x({_record(_EXPERIMENT)}) ORDER BY x.name, x.version
        ON CONFLICT (experiment_id) {_update("e", _EXPERIMENT_CHANGES)}
    ), retired AS (
        UPDATE predictbench.experiments e SET is_active = false
        FROM lease, jsonb_to_recordset($5) AS x(name text)
        WHERE e.name = x.name AND e.is_active AND e.experiment_id NOT IN (
            SELECT kept.experiment_id FROM jsonb_to_recordset($5) AS kept(experiment_id uuid)
        )
    ), opened AS (
        INSERT INTO predictbench.experiment_runs ({_columns(_ATTEMPT)}, run_id, dagster_run_id)
        SELECT {_columns(_ATTEMPT, "x.")}, lease.run_id, $4
        FROM lease, jsonb_to_recordset($6) AS x({_record(_ATTEMPT)})
        ON CONFLICT DO NOTHING
    )
    SELECT count(*) FROM lease""".encode()  # noqa: S608 - put together from the names above, never from data

GUARD = Statement(
    b"SELECT set_config('statement_timeout', '110s', true), set_config('lock_timeout', '30s', true),"
    b" set_config('work_mem', '64MB', true), set_config('jit', 'off', true)"
)
"""Limits for the transaction that follows; `true` is SET LOCAL, so a pooler's next client never sees them."""


def stored_before(run_id: UUID) -> Statement:
    """Statement that reads all attempts of experiments in a run, oldest first, as one JSON array, and the id of any one
    of its markets."""
    return Statement(_STORED_BEFORE, (str(run_id).encode(),), (_UUID,))


def register(
    *, run_id: UUID, attempt: int, dagster_run_id: str, now: datetime, experiments: bytes, attempts: bytes
) -> Statement:
    """Keeps `experiments` in step with what is registered and adds attempts (both JSON arrays of rows); answers as
    `store` does."""
    identity = (str(run_id).encode(), str(attempt).encode(), now.isoformat().encode(), dagster_run_id.encode())
    return Statement(
        _REGISTER, (*identity, experiments, attempts), (_UUID, _INTEGER, _TIMESTAMPTZ, _TEXT, _JSONB, _JSONB)
    )


def store(
    markets: Sequence[EncodedMarket], *, run_id: UUID, attempt: int, now: datetime, reconstructed: bool, filling: bool
) -> Statement:
    """The statement that stores these markets whole, in the run and as the attempt named; it answers 1, or 0 when the
    lease is lost.

    Args:
        filling: True where some results only go where their experiment has none yet.
    """
    # In one order everywhere: two runs that meet in the same events must not wait for each other in a circle.
    events = {market.event_id: market.event for market in markets if market.event_id and market.event}
    return Statement(
        _FILLING_BATCH if filling else _BATCH,
        (
            str(run_id).encode(),
            str(attempt).encode(),
            now.isoformat().encode(),
            b"true" if reconstructed else b"false",
            _array([events[event_id] for event_id in sorted(events)]),
            _array([market.market for market in markets]),
            _array([market.contracts for market in markets if market.contracts]),
            _array([market.results for market in markets if market.results]),
        ),
        (_UUID, _INTEGER, _TIMESTAMPTZ, _BOOLEAN, _JSONB, _JSONB, _JSONB, _JSONB),
    )


def _array(rows: Sequence[bytes]) -> bytes:
    return b"[" + b",".join(rows) + b"]"
