"""The history that experiments learn from: markets whose settlement was known at an instant, read from the database."""

from collections.abc import Iterator
from datetime import datetime, timedelta

from sqlalchemy import Engine, text

from predictbench_assets.database.as_of import (
    IS_SETTLED,
    market_is_known,
    market_is_listed,
    newest_observation,
    result_is_known,
    run_is_known,
)
from predictbench_assets.database.errors import in_transaction
from predictbench_assets.experiments.protocol import SettledCount, SettledForecast, SettledMarket
from predictbench_assets.runs import FREEZE_WINDOW_HOURS

REACH = timedelta(days=365)
"""How far the history goes back: settlements that were observed earlier are none of it. Without an end to it, each run
would read, and hold, more than the one of the day before."""

# Rows are looked up market by market, by OFFSET 0 and LIMIT: to read all there are may seem cheaper to the planner.
_SETTLED_LATELY = f"""
    known_runs AS MATERIALIZED (
        SELECT p.run_id FROM predictbench.processing_runs p WHERE {run_is_known(":as_of")}
    ), lately AS MATERIALIZED (
        SELECT DISTINCT market_id FROM predictbench.resolution_observations
        WHERE state = 'final' AND observed_at > :since AND observed_at <= :as_of ORDER BY market_id
    ), o AS MATERIALIZED (
        SELECT m.market_id, o.outcome, o.closed_time, o.observed_at AS settled_at
        FROM lately m CROSS JOIN LATERAL (
            {newest_observation("o.state, o.outcome, o.closed_time, o.observed_at", ":as_of")}
        ) o WHERE {IS_SETTLED}
    )
"""  # noqa: S608 - names of ours
_KNOWN = f"""
    WITH {_SETTLED_LATELY}, settled AS (
        SELECT o.market_id, o.outcome, o.settled_at, captured.* FROM o CROSS JOIN LATERAL (
            SELECT m.question, m.category, m.close_time, CASE WHEN NOT m.reconstructed THEN m.price END AS price
            FROM predictbench.processed_markets m
            WHERE m.market_id = o.market_id AND m.run_id IN (SELECT run_id FROM known_runs)
                AND {market_is_known(":as_of")}
            ORDER BY m.reconstructed, m.captured_at LIMIT 1
        ) captured
    )
"""  # noqa: S608 - names of ours
_SETTLED = text(f"""{_KNOWN}
    SELECT market_id, question, category, close_time, outcome, price, settled_at
    FROM settled ORDER BY settled_at, market_id
""")  # noqa: S608 - a text of ours
_SETTLED_COUNTS = text(f"""{_KNOWN}
    SELECT category, count(*) AS markets, sum(outcome) AS first_outcomes FROM settled GROUP BY category
""")  # noqa: S608 - a text of ours

_FORECASTS = text(f"""
    WITH {_SETTLED_LATELY}, attempts AS MATERIALIZED (
        SELECT x.run_id, x.experiment_run_id, x.attempt, x.snapshot_hash
        FROM predictbench.experiment_runs x JOIN predictbench.experiments e USING (experiment_id)
        JOIN known_runs USING (run_id) WHERE e.name = :name AND e.version = :version
    )
    SELECT * FROM (
        SELECT DISTINCT ON (m.market_id)
            m.market_id, m.category, o.outcome, m.price, r.probability, r.payload, o.settled_at
        FROM o
        CROSS JOIN LATERAL (
            SELECT m.* FROM predictbench.processed_markets m
            WHERE m.market_id = o.market_id AND {market_is_listed(":as_of")} AND NOT m.reconstructed OFFSET 0
        ) m
        JOIN attempts x ON x.run_id = m.run_id AND coalesce(x.snapshot_hash = m.snapshot_hash, true)
        CROSS JOIN LATERAL (
            SELECT r.probability, r.forecast_at, CASE WHEN :own THEN r.payload END AS payload
            FROM predictbench.experiment_results r
            WHERE r.experiment_run_id = x.experiment_run_id AND r.processed_market_id = m.processed_market_id
                AND r.probability IS NOT NULL AND {result_is_known(":as_of")} OFFSET 0
        ) r
        WHERE r.forecast_at <= m.captured_at + make_interval(hours => :hours)
            AND r.forecast_at < coalesce(o.closed_time, m.close_time)
        ORDER BY m.market_id, m.captured_at, x.attempt DESC
    ) one_a_market ORDER BY settled_at, market_id
""")  # noqa: S608 - a text of ours


def settled_markets(engine: Engine, as_of: datetime) -> Iterator[SettledMarket]:
    """Markets whose final resolution had been observed by `as_of`, and not longer ago than `REACH`, oldest first.

    A market that several runs stored counts once, with the price of its earliest capture. Runs and markets are those
    that a board of that instant has. What was observed later, a correction included, is as unknown as it was then: to a
    run of a past day that is reconstructed now, so is whatever was observed since. A market that was never captured and
    only reconstructed, by then, counts with its outcome; its price is None, since one out of a history is of another
    kind.

    Raises:
        DatabaseUnavailable, DatabaseRefused: the database cannot be reached, or refuses.
    """
    # Fetched at once: a cursor would keep a transaction open for as long as experiments run.
    rows = in_transaction(engine, lambda connection: connection.execute(_SETTLED, _span(as_of)).all())
    return (SettledMarket(**row._asdict()) for row in rows)


def settled_counts(engine: Engine, as_of: datetime) -> dict[str, SettledCount]:
    """Counts of `settled_markets` by category, made by the database.

    Raises:
        DatabaseUnavailable, DatabaseRefused: the database cannot be reached, or refuses.
    """
    rows = in_transaction(engine, lambda connection: connection.execute(_SETTLED_COUNTS, _span(as_of)).all())
    return {row.category: SettledCount(row.markets, row.first_outcomes) for row in rows}


def settled_forecasts(
    engine: Engine, name: str, version: str, as_of: datetime, *, own: bool = True
) -> Iterator[SettledForecast]:
    """Timely forecasts of a version of an experiment for the markets of `settled_markets`, oldest first.

    One for each market: of its earliest run that has one, the newest attempt. A forecast that was made later than the
    boards allow is none of them, since it may have known the outcome.

    Args:
        own: False to leave payloads out, which may be long texts.

    Raises:
        DatabaseUnavailable, DatabaseRefused: the database cannot be reached, or refuses.
    """
    values = {"name": name, "version": version, "hours": FREEZE_WINDOW_HOURS, "own": own, **_span(as_of)}
    rows = in_transaction(engine, lambda connection: connection.execute(_FORECASTS, values).all())
    return (SettledForecast(**(row._asdict() | {"payload": row.payload or {}})) for row in rows)


def _span(as_of: datetime) -> dict[str, datetime]:
    return {"as_of": as_of, "since": as_of - REACH}
