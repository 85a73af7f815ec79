"""The ledger of settlements: the queue of markets to look up, the newest observation of each, and new ones.

Observations are only ever added. One with the content of the newest of its market adds nothing but the time of the
look, so a sweep that is run again, or was killed and goes on, changes nothing that it need not.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import Connection, Engine, Row, text

from predictbench_assets.database.as_of import newest_observations, run_is_known
from predictbench_assets.database.errors import in_transaction
from predictbench_assets.markets.settlement import LastObservation, PendingMarket
from predictbench_assets.persistence.leases import refuse_foreign

logger = logging.getLogger(__name__)

RECHECK_FOR = timedelta(days=30)
"""Time after the newest observation in which a final market is looked up: resolutions are corrected."""

ABANDON_AFTER = timedelta(days=60)
"""Time after its close at which a market that is still not final is looked up one last time."""

RECHECK_EARLY_EVERY = timedelta(hours=44)
"""Interval of look-ups before the close: a third of the markets close more than a day early."""

CLOCKS_DIFFER = timedelta(hours=1)
"""The most that the clocks of two sweeps differ, unless one of them is at another day on purpose."""

LEDGER_LOCK = "predictbench.resolution_observations"
"""The name of the advisory lock under which observations are added."""

_LONGEST_PROBLEM = 500

_LOCK = text("SELECT pg_advisory_xact_lock(hashtext(:name))")


def _join_known(asked: str = "true") -> str:
    """A join of what is believed of market `one`, as the view `market_resolutions` has it."""
    # Looked up market by market: to read all that there are, for a few markets, may seem cheaper to the planner.
    return f"""
        LEFT JOIN LATERAL (
            SELECT o.state, o.outcome, o.observed_at FROM predictbench.resolution_observations o
            WHERE o.market_id = one.market_id AND ({asked})
            ORDER BY o.observed_at DESC, o.observation_id LIMIT 1
        ) known ON true"""  # noqa: S608 - names of ours


# All is as of one moment: an entry that is added meanwhile is not seen, and stays. Of others one stays for each market
# that has not settled. What is believed of a market can have changed only if something of it came since the last
# sweep, and matters only if that or the time calls for a look-up.
_QUEUE = text(f"""
    WITH one AS (
        SELECT market_id, max(due_id) AS last, count(*) > 1 OR max(due_id) IS NULL AS news
        FROM (
            SELECT market_id, due_id FROM predictbench.resolutions_due
            UNION ALL
            SELECT market_id, NULL FROM predictbench.resolution_observations
            WHERE state = 'final' AND observed_at > :final_since
        ) noted
        GROUP BY market_id
    ), seen AS MATERIALIZED (
        SELECT one.market_id, one.last, looked.checked_at, stored.close_time, known.state,
            CASE
                WHEN known.state = 'gave_up' THEN false
                WHEN known.state = 'final' THEN known.observed_at > :final_since
                ELSE timely.due
            END AND coalesce(looked.checked_at <= :seen_until, true) AS due
        FROM one
        LEFT JOIN LATERAL (
            SELECT c.checked_at FROM predictbench.resolution_checks c WHERE c.market_id = one.market_id OFFSET 0
        ) looked ON true
        CROSS JOIN LATERAL (
            SELECT max(m.close_time) AS close_time, min(m.captured_at) AS captured_at
            FROM predictbench.processed_markets m WHERE m.market_id = one.market_id
        ) stored
        CROSS JOIN LATERAL (
            SELECT stored.close_time <= :now OR coalesce(looked.checked_at, stored.captured_at) <= :early_since AS due
        ) timely
        {_join_known("one.news OR timely.due")}
    ), removed AS (
        DELETE FROM predictbench.resolutions_due entry USING seen
        WHERE entry.market_id = seen.market_id
            AND (entry.due_id < seen.last OR seen.state IN ('final', 'gave_up') OR seen.close_time IS NULL)
    )
    SELECT market_id FROM seen WHERE due AND close_time IS NOT NULL
    ORDER BY checked_at NULLS FIRST, close_time, market_id
""")  # noqa: S608 - names of ours

_PENDING = text("""
    SELECT DISTINCT ON (market_id)
        market_id, condition_id, contract_id AS first_token, contract.name AS first_name,
        max(close_time) OVER (PARTITION BY market_id) AS close_time,
        min(CASE WHEN reconstructed THEN as_of ELSE captured_at END) OVER (PARTITION BY market_id) AS open_at
    FROM predictbench.processed_markets
    LEFT JOIN predictbench.processed_contracts AS contract
        ON contract.processed_market_id = processed_markets.processed_market_id AND contract.metadata->>'index' = '0'
    WHERE market_id = ANY(:ids)
    ORDER BY market_id, captured_at, contract_id
""")

_NEWEST = text(
    newest_observations(
        "o.market_id, o.observed_at, o.source, o.state, o.payout::text AS payout, o.closed_time, o.status",
        "o.market_id = ANY(:ids)",
    )
)

_ADD = text("""
    INSERT INTO predictbench.resolution_observations
        (market_id, observed_at, source, state, status, payout, outcome, closed_time, raw)
    SELECT market_id, observed_at, source, state, status, payout, outcome, closed_time, raw
    FROM jsonb_to_recordset(cast(:rows AS jsonb)) AS t (
        market_id text, observed_at timestamptz, source text, state text, status text, payout jsonb, outcome float8,
        closed_time timestamptz, raw jsonb
    )
""")

_CHECKED = text("""
    INSERT INTO predictbench.resolution_checks AS known (market_id, checked_at, checks, problem)
    SELECT market_id, :now, 1, problem
    FROM jsonb_to_recordset(cast(:rows AS jsonb)) AS t (market_id text, problem text)
    ON CONFLICT (market_id) DO UPDATE SET
        checked_at = greatest(known.checked_at, excluded.checked_at),
        checks = known.checks + 1,
        problem = excluded.problem
""")

# Counted are those that are not as usual: final, with a winner. The others are the rest. The listed markets are found
# by the two columns that an index has: `market_is_listed` would read every row.
_COHORTS = text(f"""
    WITH closed AS (
        SELECT run_id, count(*) AS markets FROM predictbench.processed_markets
        WHERE withdrawn_at IS NULL AND close_time <= :closed_by GROUP BY run_id
    ), unusual AS (
        SELECT m.run_id,
            count(*) FILTER (WHERE known.state IS DISTINCT FROM 'final') AS not_final,
            count(*) FILTER (WHERE known.state = 'gave_up') AS gave_up,
            count(*) FILTER (WHERE known.state = 'final' AND known.outcome NOT IN (0, 1)) AS splits,
            count(*) FILTER (
                WHERE known.state IS DISTINCT FROM 'final' AND known.state IS DISTINCT FROM 'gave_up'
                    AND m.close_time <= :long_open_since
            ) AS long_open
        FROM (
            SELECT market_id FROM predictbench.resolutions_due
            UNION
            SELECT market_id FROM predictbench.resolution_observations
            WHERE state = 'gave_up' OR state = 'final' AND outcome NOT IN (0, 1)
        ) one
        CROSS JOIN LATERAL (
            SELECT stored.run_id, stored.close_time FROM predictbench.processed_markets stored
            WHERE stored.market_id = one.market_id AND stored.withdrawn_at IS NULL AND stored.close_time <= :closed_by
            OFFSET 0
        ) m
        {_join_known()}
        GROUP BY m.run_id
    )
    SELECT run_date, window_days, markets, markets - coalesce(not_final, 0) AS final, coalesce(gave_up, 0) AS gave_up,
        coalesce(splits, 0) AS splits, coalesce(long_open, 0) AS long_open
    FROM closed JOIN predictbench.processing_runs p USING (run_id) LEFT JOIN unusual USING (run_id)
    WHERE {run_is_known(":now")}
    ORDER BY run_date, window_days
""")  # noqa: S608 - names of ours


@dataclass(frozen=True)
class Observation:
    """One look at a market: an observation, or why there is none."""

    market_id: str
    state: str | None = None
    """None where nothing could be observed, because of `problem`."""
    source: str = "gamma"
    payout: tuple[float, ...] | None = None
    closed_time: datetime | None = None
    status: str | None = None
    raw: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None
    vanished: bool = False
    """True where the exchange answered that there is no such market."""

    @property
    def content(self) -> tuple[object, ...]:
        """The fields by which two observations are the same."""
        return self.state, self.payout, self.closed_time, self.status


@dataclass(frozen=True)
class NewObservation:
    """A row that was added to the ledger, and what was known before."""

    observation: Observation
    before: LastObservation | None

    @property
    def changed_settlement(self) -> bool:
        """True for a market that was final and is not any more, or has another payout."""
        return (
            self.before is not None
            and self.before.state == "final"
            and (self.observation.state != "final" or self.observation.payout != self.before.payout)
        )


@dataclass(frozen=True)
class CohortSettled:
    """Settled markets of one run, of those past their close for long enough."""

    run_date: date
    window_days: int
    markets: int
    final: int
    gave_up: int
    splits: int
    long_open: int
    """Neither final nor given up, although their close is long past."""


def require_exchange(engine: Engine, exchange: str) -> None:
    """Refuse to go on where the database holds another exchange's markets.

    Raises:
        ForeignExchange: it does.
    """
    in_transaction(engine, lambda connection: refuse_foreign(connection, exchange))


def resolution_queue(engine: Engine, now: datetime) -> list[str]:
    """The ids of all markets that should be looked at now, those first that were not looked at for longest.

    One that was seen later than now, by a sweep with another clock, is left alone: what an earlier moment shows of it
    would be added as if it were news.
    """
    given = {"now": now, "final_since": now - RECHECK_FOR, "early_since": now - RECHECK_EARLY_EVERY}
    given |= {"seen_until": now + CLOCKS_DIFFER}

    def work(connection: Connection) -> list[str]:
        connection.execute(_LOCK, {"name": LEDGER_LOCK})
        return list(connection.execute(_QUEUE, given).scalars())

    return in_transaction(engine, work)


def pending_markets(engine: Engine, market_ids: Sequence[str]) -> list[PendingMarket]:
    """Stored markets with their newest observation, in the order of the ids."""

    def work(connection: Connection) -> list[PendingMarket]:
        ids = {"ids": list(market_ids)}
        known = _newest(connection, market_ids)
        for market_id in (market_id for market_id, newest in known.items() if newest.payout == ()):
            logger.warning(
                "the stored payout of market %s cannot be read; it is looked up as if it were new", market_id
            )
        rows = {row.market_id: row for row in connection.execute(_PENDING, ids)}
        return [
            PendingMarket(**rows[market_id]._asdict(), known=known.get(market_id))
            for market_id in market_ids
            if market_id in rows
        ]

    return in_transaction(engine, work)


def record_observations(engine: Engine, observed: Sequence[Observation], now: datetime) -> list[NewObservation]:
    """Note that markets were looked up, and add the observations with new content. One transaction.

    An observation is always later than the one before it, whatever the clock shows, so that the newest is never in
    doubt.
    """

    def work(connection: Connection) -> list[NewObservation]:
        # Two sweeps at once must not both find an observation new. Held to the end of this transaction only.
        connection.execute(_LOCK, {"name": LEDGER_LOCK})
        newest = _newest(connection, [one.market_id for one in observed])
        added = [NewObservation(one, newest.get(one.market_id)) for one in observed if one.state is not None]
        added = [one for one in added if one.before is None or one.observation.content != one.before.content]
        if added:
            connection.execute(_ADD, {"rows": json.dumps([_row(one, now) for one in added])})
        checks = [
            {"market_id": one.market_id, "problem": (one.problem or "")[:_LONGEST_PROBLEM] or None} for one in observed
        ]
        if checks:
            connection.execute(_CHECKED, {"now": now, "rows": json.dumps(checks)})
        return added

    return in_transaction(engine, work)


def settled_cohorts(
    engine: Engine, now: datetime, *, closed_for: timedelta, long_open: timedelta
) -> list[CohortSettled]:
    """Settled markets of each run.

    Args:
        closed_for: only markets whose close is so long past are counted.
        long_open: time after the close from which a market that has not settled counts as `long_open`.
    """
    given = {"now": now, "closed_by": now - closed_for, "long_open_since": now - long_open}
    rows = in_transaction(engine, lambda connection: connection.execute(_COHORTS, given).all())
    return [CohortSettled(**row._asdict()) for row in rows]


def _newest(connection: Connection, market_ids: Sequence[str]) -> dict[str, LastObservation]:
    rows = connection.execute(_NEWEST, {"ids": list(market_ids)})
    return {row.market_id: _known(row) for row in rows}


def _known(row: Row[Any]) -> LastObservation:
    values = row._asdict()
    del values["market_id"]
    return LastObservation(payout=_payout(values.pop("payout")), **values)


def _payout(stored: str | None) -> tuple[float, ...] | None:
    """Read a stored payout; an empty one, which is like no other, where a hand has left something else."""
    try:
        return None if stored is None else msgspec.json.decode(stored, type=tuple[float, ...])
    except (msgspec.MsgspecError, RecursionError):
        return ()


def _row(added: NewObservation, now: datetime) -> dict[str, Any]:
    observed, before = added.observation, added.before
    observed_at = now if before is None else max(now, before.observed_at + timedelta(microseconds=1))
    return {
        "market_id": observed.market_id,
        "observed_at": observed_at.isoformat(),
        "source": observed.source,
        "state": observed.state,
        "status": observed.status,
        "payout": observed.payout,
        "outcome": observed.payout[0] if observed.payout else None,
        "closed_time": observed.closed_time.isoformat() if observed.closed_time else None,
        "raw": dict(observed.raw),
    }
