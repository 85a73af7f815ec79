"""Stored markets that belong together, and the coherence of the forecasts of them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import numpy as np
from sqlalchemy import Connection, Engine, Row

from predictbench_assets.database.as_of import market_is_listed
from predictbench_assets.database.chunks import chunks_by_size
from predictbench_assets.database.errors import in_transaction
from predictbench_assets.scoring.boards import Coherence
from predictbench_assets.scoring.coherence import Member, Relations, coherence, joined, relations
from predictbench_assets.scoring.forecasts import Cohorts, Forecasts
from predictbench_assets.scoring.ladders import WORDS

_MARKETS_PER_CHUNK: Final = 20_000
"""Markets of one statement, which reads the words of all of them: less than a second."""

# Markets of neg-risk groups, and those of other events whose words may put them on a ladder: a small part of a day.
_RELATED: Final = f"""
    SELECT p.run_date, p.window_days, m.market_id, m.event_id, m.question, m.close_time, m.captured_at,
        CASE WHEN m.neg_risk THEN m.neg_risk_market_id END AS neg_risk_group
    FROM predictbench.processed_markets m JOIN predictbench.processing_runs p USING (run_id)
    WHERE p.run_date BETWEEN %(first)s AND %(last)s
      AND {market_is_listed("%(as_of)s")} AND (
        (m.neg_risk AND m.neg_risk_market_id IS NOT NULL)
        OR (NOT m.neg_risk AND m.event_id IS NOT NULL AND m.question ~* %(words)s AND EXISTS (
            SELECT FROM predictbench.processed_contracts c
            WHERE c.processed_market_id = m.processed_market_id
              AND c.metadata ->> 'index' = '0' AND lower(c.name) = 'yes'
            OFFSET 0 -- else all contracts there are might be hashed
        ))
    )
    ORDER BY p.run_date, p.window_days, m.market_id COLLATE "C\""""  # noqa: S608 - names of ours


def load_relations(engine: Engine, cohorts: Cohorts, as_of: datetime) -> Relations:
    """Load the whole neg-risk groups and the ladders of some cohorts.

    Nothing is related across run dates, so they are read a few at a time.

    Raises:
        DatabaseUnavailable, DatabaseRefused: the database cannot be reached, or refuses.
    """
    _, starts, sizes = np.unique(cohorts.run_date, return_index=True, return_counts=True)
    stops = starts + sizes
    parts = (slice(starts[days][0], stops[days][-1]) for days in chunks_by_size(sizes.tolist(), _MARKETS_PER_CHUNK))
    return joined((part.start, _related(engine, cohorts.part(part), as_of)) for part in parts)


def _related(engine: Engine, cohorts: Cohorts, as_of: datetime) -> Relations:
    """`load_relations` at once."""
    dates = cohorts.run_date.tolist()
    values = {"as_of": as_of, "words": WORDS, "first": dates[0], "last": dates[-1]}

    def read(connection: Connection) -> Sequence[Row[Any]]:
        return connection.exec_driver_sql(_RELATED, values).all()

    keys = zip(dates, cohorts.window_days.tolist(), cohorts.market_id.tolist(), strict=True)
    columns = {key: column for column, key in enumerate(keys)}
    rows = in_transaction(engine, read)
    return relations(
        cohorts,
        (
            Member(column, row.event_id, row.neg_risk_group, row.question, row.close_time, row.captured_at)
            for row in rows
            if (column := columns.get((row.run_date, row.window_days, row.market_id))) is not None
        ),
    )


def load_coherence(engine: Engine, forecasts: Forecasts) -> tuple[Coherence, ...]:
    """Measure the coherence of each entrant's forecasts, in each window, as known when the forecasts were.

    Raises:
        DatabaseUnavailable, DatabaseRefused: the database cannot be reached, or refuses.
    """
    return coherence(forecasts, load_relations(engine, forecasts.cohorts, forecasts.as_of))
