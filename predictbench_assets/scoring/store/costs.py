"""Costs out of the database: the ledger of paid calls, and the usage of results of experiments that are not in it.

Everything is what was known at `as_of`: a call that was answered later was one of unknown outcome. An experiment whose
calls of a run are in the ledger is counted by these alone, since the usage of its results is a part of them, as that
of what an attempt had asked twice, or of an answer that was never stored, is not. An answer that later attempts took
from the journal is paid for once: they have it with the same instant.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, Row, text

from predictbench_assets.database.as_of import ESTIMATED_RESULTS, result_is_known
from predictbench_assets.database.chunks import ROWS_PER_CHUNK, chunks_by_size
from predictbench_assets.database.errors import in_transaction
from predictbench_assets.runs import RunKey
from predictbench_assets.scoring.costs import TOKENS, UNKNOWN, USD, Cost, RunCost

_Key = tuple[date, int, str, str]
"""Run date, window, experiment and version."""

_CALLS = text("""
    SELECT run_date, window_days, experiment, version, known_status AS status, count(*) AS calls,
        sum(known_cost) AS cost,
        count(*) FILTER (WHERE known_cost IS NULL AND known_status <> 'failed') AS unpriced,
        sum(input_tokens) FILTER (WHERE settled) AS input_tokens,
        sum(cached_tokens) FILTER (WHERE settled) AS cached_tokens,
        sum(output_tokens) FILTER (WHERE settled) AS output_tokens,
        sum(reasoning_tokens) FILTER (WHERE settled) AS reasoning_tokens
    FROM (
        SELECT c.*, s.settled, CASE WHEN s.settled THEN c.status ELSE 'unknown' END AS known_status,
            CASE WHEN s.settled THEN c.cost ELSE coalesce(c.reserved_cost, c.cost) END AS known_cost
        FROM predictbench.model_calls c,
            LATERAL (SELECT c.status <> 'unknown' AND coalesce(c.answered_at <= :as_of, true) AS settled) s
        WHERE c.run_date BETWEEN :since AND :until AND c.asked_at <= :as_of
            AND (CAST(:window AS integer) IS NULL OR c.window_days = :window)
    ) known
    GROUP BY run_date, window_days, experiment, version, known_status
    ORDER BY run_date, window_days, experiment, version, known_status""")

_RUNS = text(f"""
    SELECT p.run_id, sum({ESTIMATED_RESULTS}) AS size
    FROM predictbench.processing_runs p JOIN predictbench.experiment_runs a USING (run_id)
    WHERE p.run_date BETWEEN :since AND :until
    GROUP BY p.run_id, p.run_date, p.window_days ORDER BY p.run_date, p.window_days""")  # noqa: S608 - names of ours

# A row for each experiment and run with the counts, and one for each currency with its amount. Attempts are an array:
# the results of a run lie together, and by a join each attempt would read those of all.
_USAGE = text(f"""
    SELECT run_date, window_days, name AS experiment, version, grouping(currency) AS whole, currency,
        count(DISTINCT processed_market_id) FILTER (WHERE status = 'completed' AND probability IS NOT NULL)
            AS forecasts,
        sum(requests) AS requests, sum(cost) AS cost,
        count(*) FILTER (WHERE cost IS NULL AND coalesce(input_tokens, output_tokens, 0) > 0) AS unpriced,
        sum(input_tokens) AS input_tokens, sum(cached_tokens) AS cached_tokens, sum(output_tokens) AS output_tokens
    FROM (
        SELECT DISTINCT ON (a.run_id, a.experiment_id, r.processed_market_id, r.forecast_at)
            p.run_date, p.window_days, e.name, e.version, r.*
        FROM predictbench.experiment_results r
        JOIN predictbench.experiment_runs a USING (experiment_run_id)
        JOIN predictbench.experiments e USING (experiment_id)
        JOIN predictbench.processing_runs p USING (run_id)
        WHERE r.experiment_run_id = ANY(ARRAY(
                SELECT experiment_run_id FROM predictbench.experiment_runs WHERE run_id = ANY(:runs)
            )) AND {result_is_known(":as_of")}
            AND num_nonnulls(r.requests, r.input_tokens, r.cached_tokens, r.output_tokens, r.cost) > 0
        ORDER BY a.run_id, a.experiment_id, r.processed_market_id, r.forecast_at, a.attempt
    ) answers
    GROUP BY GROUPING SETS ((run_date, window_days, name, version), (run_date, window_days, name, version, currency))
    ORDER BY run_date, window_days, name, version, whole DESC, currency""")  # noqa: S608 - names of ours


def load_costs(
    engine: Engine, as_of: datetime, *, since: date | None = None, until: date | None = None
) -> list[RunCost]:
    """Load what each version of each experiment took in each run, oldest first; only what took anything is there.

    Args:
        as_of: what was asked, answered or stored later is unknown.
        since: the first run date.
        until: the last run date, itself included.

    Raises:
        DatabaseUnavailable, DatabaseRefused: the database cannot be reached, or refuses.
    """
    values = _chosen(as_of, since, until)
    found = _by_usage(engine, as_of, in_transaction(engine, lambda connection: connection.execute(_RUNS, values).all()))
    for place, rows in _calls(engine, values).items():
        found[place] = _of_ledger(rows, found[place].forecasts if place in found else 0)
    return [RunCost(*place, cost) for place, cost in sorted(found.items())]


def load_calls(engine: Engine, as_of: datetime, key: RunKey) -> list[RunCost]:
    """Load what the ledger of paid calls has of one run, without the number of forecasts that came of it.

    Raises:
        DatabaseUnavailable, DatabaseRefused: the database cannot be reached, or refuses.
    """
    values = _chosen(as_of, key.run_date, key.run_date) | {"window": key.window_days}
    return [RunCost(*place, _of_ledger(rows, 0)) for place, rows in _calls(engine, values).items()]


def _chosen(as_of: datetime, since: date | None, until: date | None) -> dict[str, Any]:
    return {"as_of": as_of, "since": since or date.min, "until": until or date.max, "window": None}


def _calls(engine: Engine, values: Mapping[str, Any]) -> dict[_Key, list[Row[Any]]]:
    rows: defaultdict[_Key, list[Row[Any]]] = defaultdict(list)
    for row in in_transaction(engine, lambda connection: connection.execute(_CALLS, values).all()):
        rows[_key(row)].append(row)
    return rows


def _by_usage(engine: Engine, as_of: datetime, runs: Sequence[Row[Any]]) -> dict[_Key, Cost]:
    """Costs by the usage of stored results."""
    rows: defaultdict[_Key, list[Row[Any]]] = defaultdict(list)
    for part in chunks_by_size([int(run.size) for run in runs], ROWS_PER_CHUNK):
        chosen = [run.run_id for run in runs[part]]
        for row in in_transaction(engine, partial(_usage, as_of, chosen)):
            rows[_key(row)].append(row)
    return {place: _of_usage(*of_run) for place, of_run in rows.items()}


def _usage(as_of: datetime, runs: Sequence[UUID], connection: Connection) -> Sequence[Row[Any]]:
    return connection.execute(_USAGE, {"as_of": as_of, "runs": runs}).all()


def _of_usage(whole: Row[Any], *by_currency: Row[Any]) -> Cost:
    return Cost(
        forecasts=whole.forecasts,
        requests=int(whole.requests or 0),
        settled=_amounts((row.currency, row.cost) for row in by_currency),
        unpriced=whole.unpriced,
        tokens=_tokens([whole]),
    )


def _of_ledger(rows: Sequence[Row[Any]], forecasts: int) -> Cost:
    return Cost(
        forecasts=forecasts,
        requests=sum(row.calls for row in rows),
        calls={row.status: row.calls for row in rows},
        settled=_amounts((USD, row.cost) for row in rows if row.status != UNKNOWN),
        reserved=sum((row.cost or Decimal(0) for row in rows if row.status == UNKNOWN), Decimal(0)),
        unpriced=sum(row.unpriced for row in rows),
        tokens=_tokens(rows),
    )


def _key(row: Row[Any]) -> _Key:
    return row.run_date, row.window_days, row.experiment, row.version


def _amounts(costs: Iterable[tuple[str | None, Decimal | None]]) -> dict[str, Decimal]:
    amounts: defaultdict[str, Decimal] = defaultdict(Decimal)
    for currency, cost in costs:
        if currency is not None and cost is not None:
            amounts[currency] += cost
    return dict(amounts)


def _tokens(rows: Sequence[Row[Any]]) -> dict[str, int]:
    """Sums of what is known, by kind."""
    known = {kind: [getattr(row, f"{kind}_tokens", None) for row in rows] for kind in TOKENS}
    return {
        kind: int(sum(count or 0 for count in counts))
        for kind, counts in known.items()
        if any(count is not None for count in counts)
    }
