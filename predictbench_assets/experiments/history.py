"""The history that experiments learn from: markets whose settlement was known at an instant, read from the database."""

from collections.abc import Iterator
from datetime import datetime

from sqlalchemy import Engine, text

from predictbench_assets.database.as_of import (
    IS_SETTLED,
    market_is_known,
    market_is_listed,
    newest_observations,
    result_is_known,
    run_is_known,
)
from predictbench_assets.database.errors import in_transaction
from predictbench_assets.experiments.protocol import SettledCount, SettledForecast, SettledMarket
from predictbench_assets.runs import FREEZE_WINDOW_HOURS

_NEWEST = newest_observations("o.market_id, o.state, o.outcome, o.observed_at AS settled_at", "o.observed_at <= :as_of")
_KNOWN = f"""
    WITH newest AS ({_NEWEST}), captured AS (
        SELECT DISTINCT ON (m.market_id) m.market_id, m.question, m.category, m.close_time,
            CASE WHEN NOT m.reconstructed THEN m.price END AS price
        FROM predictbench.processed_markets m JOIN predictbench.processing_runs p USING (run_id)
        WHERE {market_is_known(":as_of")} AND {run_is_known(":as_of")}
        ORDER BY m.market_id, m.reconstructed, m.captured_at
    ), settled AS (
        SELECT * FROM newest o JOIN captured USING (market_id) WHERE {IS_SETTLED}
    )
"""  # noqa: S608 - names of ours
_SETTLED = text(f"""{_KNOWN}
    SELECT market_id, question, category, close_time, outcome, price, settled_at
    FROM settled ORDER BY settled_at, market_id
""")  # noqa: S608 - a text of ours
_SETTLED_COUNTS = text(f"""{_KNOWN}
    SELECT category, count(*) AS markets, sum(outcome) AS first_outcomes FROM settled GROUP BY category
""")  # noqa: S608 - a text of ours

_OBSERVED = newest_observations(
    "o.market_id, o.state, o.outcome, o.closed_time, o.observed_at AS settled_at", "o.observed_at <= :as_of"
)
_FORECASTS = text(f"""
    WITH o AS ({_OBSERVED})
    SELECT * FROM (
        SELECT DISTINCT ON (m.market_id)
            m.market_id, m.category, o.outcome, m.price, r.probability,
            CASE WHEN :own THEN r.payload END AS payload, o.settled_at
        FROM o JOIN predictbench.processed_markets m USING (market_id)
        JOIN predictbench.processing_runs p USING (run_id)
        JOIN predictbench.experiment_results r USING (processed_market_id)
        JOIN predictbench.experiment_runs x USING (experiment_run_id)
        JOIN predictbench.experiments e USING (experiment_id)
        WHERE {IS_SETTLED} AND {market_is_listed(":as_of")} AND {run_is_known(":as_of")} AND NOT m.reconstructed
            AND e.name = :name AND e.version = :version AND r.probability IS NOT NULL AND {result_is_known(":as_of")}
            AND coalesce(x.snapshot_hash = m.snapshot_hash, true)
            AND r.forecast_at <= m.captured_at + make_interval(hours => :hours)
            AND r.forecast_at < coalesce(o.closed_time, m.close_time)
        ORDER BY m.market_id, m.captured_at, x.attempt DESC
    ) one_a_market ORDER BY settled_at, market_id
""")  # noqa: S608 - a text of ours


def settled_markets(engine: Engine, as_of: datetime) -> Iterator[SettledMarket]:
    """Markets whose final resolution had been observed by `as_of`, oldest first.

    A market that several runs stored counts once, with the price of its earliest capture. Runs and markets are those
    that a board of that instant has. What was observed later, a correction included, is as unknown as it was then: to a
    run of a past day that is reconstructed now, so is whatever was observed since. A market that was never captured and
    only reconstructed, by then, counts with its outcome; its price is None, since one out of a history is of another
    kind.

    Raises:
        DatabaseUnavailable, DatabaseRefused: the database cannot be reached, or refuses.
    """
    # Fetched at once: a cursor would keep a transaction open for as long as experiments run.
    rows = in_transaction(engine, lambda connection: connection.execute(_SETTLED, {"as_of": as_of}).all())
    return (SettledMarket(**row._asdict()) for row in rows)


def settled_counts(engine: Engine, as_of: datetime) -> dict[str, SettledCount]:
    """Counts of `settled_markets` by category, made by the database.

    Raises:
        DatabaseUnavailable, DatabaseRefused: the database cannot be reached, or refuses.
    """
    rows = in_transaction(engine, lambda connection: connection.execute(_SETTLED_COUNTS, {"as_of": as_of}).all())
    return {row.category: SettledCount(row.markets, row.first_outcomes) for row in rows}


def settled_forecasts(
    engine: Engine, name: str, version: str, as_of: datetime, *, own: bool = True
) -> Iterator[SettledForecast]:
    """Timely forecasts of a version of an experiment for the markets that had settled by `as_of`, oldest first.

    One for each market: of its earliest run that has one, the newest attempt. A forecast that was made later than the
    boards allow is none of them, since it may have known the outcome.

    Args:
        own: False to leave payloads out, which may be long texts.

    Raises:
        DatabaseUnavailable, DatabaseRefused: the database cannot be reached, or refuses.
    """
    values = {"name": name, "version": version, "as_of": as_of, "hours": FREEZE_WINDOW_HOURS, "own": own}
    rows = in_transaction(engine, lambda connection: connection.execute(_FORECASTS, values).all())
    return (SettledForecast(**(row._asdict() | {"payload": row.payload or {}})) for row in rows)
