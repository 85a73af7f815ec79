"""Whatever happened before: the queue and the cohorts are those that a reading of everything stored comes to."""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from predictbench_assets.database import migrations
from predictbench_assets.resolution.ledger import (
    CohortSettled,
    Observation,
    record_observations,
    resolution_queue,
    settled_cohorts,
)
from predictbench_assets.runs import RunKey
from predictbench_assets_tests.kit.ledger import DAY, Ledger, at

KEYS = (RunKey(DAY, 7), RunKey(DAY, 6), RunKey(DAY + timedelta(days=40), 1))
MARKETS = ("m0", "m3", "m6", "m9")
BEGINNING = at(date(2026, 2, 3))
STATES = ("open", "proposed", "disputed", "final", "gave_up")
INSTANTS = [timedelta(days=days) for days in (-40, -1, 0, 1, 31, 100)]
"""At which a sweep may find itself, from a history's present."""

# As the code had them that read every stored market.
ALL_DUE = text("""
    WITH stored AS (
        SELECT market_id, max(close_time) AS close_time, min(captured_at) AS captured_at
        FROM predictbench.processed_markets GROUP BY market_id
    )
    SELECT market_id FROM stored
    LEFT JOIN predictbench.market_resolutions AS known USING (market_id)
    LEFT JOIN predictbench.resolution_checks AS looked USING (market_id)
    WHERE coalesce(looked.checked_at <= CAST(:now AS timestamptz) + interval '1 hour', true) AND CASE
        WHEN known.state = 'gave_up' THEN false
        WHEN known.state = 'final' THEN known.observed_at > CAST(:now AS timestamptz) - interval '30 days'
        WHEN stored.close_time <= :now THEN true
        ELSE coalesce(looked.checked_at, stored.captured_at) <= CAST(:now AS timestamptz) - interval '44 hours'
    END
    ORDER BY looked.checked_at NULLS FIRST, stored.close_time, market_id""")
ALL_COHORTS = text("""
    SELECT run_date, window_days, count(*) AS markets,
        count(*) FILTER (WHERE known.state = 'final') AS final,
        count(*) FILTER (WHERE known.state = 'gave_up') AS gave_up,
        count(*) FILTER (WHERE known.state = 'final' AND known.outcome NOT IN (0, 1)) AS splits,
        count(*) FILTER (
            WHERE known.state IS DISTINCT FROM 'final' AND known.state IS DISTINCT FROM 'gave_up'
                AND close_time <= CAST(:now AS timestamptz) - interval '14 days'
        ) AS long_open
    FROM predictbench.processed_markets
    JOIN predictbench.processing_runs p USING (run_id)
    LEFT JOIN predictbench.market_resolutions AS known USING (market_id)
    WHERE run_id IN (
            SELECT run_id FROM predictbench.processing_attempts
            WHERE status IN ('completed', 'partial') AND finished_at <= CAST(:now AS timestamptz)
        ) AND withdrawn_at IS NULL
        AND close_time <= CAST(:now AS timestamptz) - interval '7 days'
    GROUP BY run_date, window_days ORDER BY run_date, window_days""")
NEWEST = "(SELECT observation_id FROM predictbench.market_resolutions JOIN predictbench.resolution_observations"
NEWEST += " USING (market_id, observed_at) WHERE market_id = :market)"

keys, markets, states = st.sampled_from(KEYS), st.sampled_from(MARKETS), st.sampled_from(STATES)
days = st.sampled_from((0, 1, 8, 15, 31, 61))
outcomes = st.sampled_from((None, 0.0, 0.5, 1.0))
events = st.one_of(
    st.tuples(st.just("run"), keys, st.sets(markets, min_size=1), days, st.booleans()),
    st.tuples(st.just("withdraw"), keys, markets),
    st.tuples(st.just("look"), markets, states, outcomes),
    st.tuples(st.just("look"), markets, states, outcomes),
    st.tuples(st.just("pass_"), days),
    st.tuples(st.just("observe"), markets, states, outcomes, days),
    st.tuples(st.just("correct"), markets, states),
    st.tuples(st.just("erase"), markets),
    st.tuples(st.just("delete"), keys),
)


@dataclass
class History:
    """A database to which things happen."""

    engine: Engine
    ledger: Ledger
    now: datetime = BEGINNING

    def happen(self, what: str, *given: Any) -> None:
        self.now += timedelta(minutes=1)
        getattr(self, what)(*given)

    def sweep(self) -> None:
        """Read the queue, which removes the entries of what has settled."""
        assert resolution_queue(self.engine, self.now) == all_due(self.engine, self.now)

    def run(self, key: RunKey, ids: set[str], later: int, finished: bool) -> None:
        """A run, or a refresh of it, whose markets close so many days after its own time."""
        close = key.start + timedelta(days=later, hours=12)
        self.ledger.run(dict.fromkeys(sorted(ids), 0.5), key=key, now=self.now, finished=finished, close_time=close)

    def withdraw(self, key: RunKey, market: str) -> None:
        self.ledger.execute(
            "UPDATE predictbench.processed_markets SET withdrawn_at = :now WHERE run_id = :run AND market_id = :market",
            now=self.now,
            run=key.run_id,
            market=market,
        )

    def look(self, market: str, state: str, outcome: float | None) -> None:
        """A sweep that looks at one market."""
        payout = None if state != "final" or outcome is None else (outcome, 1 - outcome)
        record_observations(self.engine, [Observation(market, state, payout=payout)], self.now)

    def pass_(self, days: int) -> None:
        self.now += timedelta(days=days)

    def observe(self, market: str, state: str, outcome: float | None, ago: int) -> None:
        """An observation by hand, of the past."""
        self.ledger.observe({market: outcome}, self.now - timedelta(days=ago), state=state)

    def correct(self, market: str, state: str) -> None:
        """What is believed of a market is changed by hand."""
        statement = f"UPDATE predictbench.resolution_observations SET state = :state WHERE observation_id IN {NEWEST}"
        self.ledger.execute(statement, market=market, state=state)

    def erase(self, market: str) -> None:
        """What is believed of a market is removed by hand."""
        self.ledger.execute(
            f"DELETE FROM predictbench.resolution_observations WHERE observation_id IN {NEWEST}",
            market=market,
        )

    def delete(self, key: RunKey) -> None:
        self.ledger.execute("DELETE FROM predictbench.processing_runs WHERE run_id = :run", run=key.run_id)

    def verify(self) -> None:
        for now in (self.now + away for away in INSTANTS):
            cohorts = settled_cohorts(self.engine, now, closed_for=timedelta(days=7), long_open=timedelta(days=14))
            assert cohorts == all_cohorts(self.engine, now)
            assert resolution_queue(self.engine, now) == all_due(self.engine, now)


def all_due(engine: Engine, now: datetime) -> list[str]:
    with engine.connect() as connection:
        return list(connection.execute(ALL_DUE, {"now": now}).scalars())


def all_cohorts(engine: Engine, now: datetime) -> list[CohortSettled]:
    with engine.connect() as connection:
        return [CohortSettled(**row._asdict()) for row in connection.execute(ALL_COHORTS, {"now": now})]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=st.lists(st.tuples(events, st.booleans()), min_size=10, max_size=30))
def test_the_queue_is_that_of_reading_everything(history: list[tuple[tuple[Any, ...], bool]], engine: Engine) -> None:
    ledger = Ledger(engine)
    ledger.execute(
        "TRUNCATE predictbench.processing_runs, predictbench.resolution_observations, predictbench.resolution_checks,"
        " predictbench.resolutions_due CASCADE"
    )
    running = History(engine, ledger)
    running.run(KEYS[0], set(MARKETS[:3]), 0, True)
    for what, swept in history:
        running.happen(*what)
        if swept:
            running.sweep()
    running.verify()


@pytest.fixture
def final(engine: Engine) -> History:
    """A market that is final, and one that is open; the first was seen to have settled by a sweep."""
    history = History(engine, Ledger(engine))
    history.run(KEYS[0], {"m0", "m3"}, 0, True)
    history.happen("look", "m0", "final", 1.0)
    history.pass_(60)
    assert resolution_queue(engine, history.now) == ["m3"]
    return history


TAKEN_BACK = """
    INSERT INTO predictbench.resolution_observations (market_id, observed_at, source, state)
    SELECT 'm0', max(observed_at) + interval '1 day', 'hand', 'open' FROM predictbench.resolution_observations"""
ERASED = "DELETE FROM predictbench.resolution_observations WHERE market_id = 'm0'"
CORRECTED = "UPDATE predictbench.resolution_observations SET state = 'disputed' WHERE market_id = 'm0'"


@pytest.mark.parametrize("statement", [TAKEN_BACK, ERASED, CORRECTED])
def test_what_is_not_committed_when_a_sweep_begins_is_for_the_next_one(
    final: History, engine: Engine, statement: str
) -> None:
    final.happen("look", "m0", "final", 0.0)  # so that there is an entry of it, to be removed
    final.pass_(60)
    with engine.connect() as other, other.begin():
        other.execute(text(statement))
        assert resolution_queue(engine, final.now) == ["m3"]
    assert sorted(resolution_queue(engine, final.now)) == ["m0", "m3"]


def test_a_market_that_is_stored_again_while_a_sweep_begins_is_for_the_next_one(final: History, engine: Engine) -> None:
    final.run(KEYS[1], {"m0"}, 0, True)
    again = """
        INSERT INTO predictbench.processed_markets
        SELECT (jsonb_populate_record(m, jsonb_build_object('processed_market_id', gen_random_uuid(), 'run_id',
            CAST(:run AS text)))).* FROM predictbench.processed_markets m WHERE market_id = 'm3'"""
    with engine.connect() as other, other.begin():
        other.execute(text(again), {"run": str(KEYS[1].run_id)})
        final.delete(KEYS[0])
        assert resolution_queue(engine, final.now) == []
        assert final.ledger.rows("SELECT market_id FROM predictbench.resolutions_due") == []
    assert resolution_queue(engine, final.now) == ["m3"]


def test_what_is_kept_for_the_queue_is_what_has_not_settled(final: History) -> None:
    for key in KEYS[1:]:
        final.run(key, set(MARKETS), 0, True)
    final.happen("look", "m6", "gave_up", None)
    final.happen("look", "m9", "open", None)
    resolution_queue(final.engine, final.now)
    assert sorted(final.ledger.rows("SELECT market_id FROM predictbench.resolutions_due")) == [("m3",), ("m9",)]


def test_a_database_of_before_is_migrated_with_what_has_not_settled(
    final: History, engine: Engine, database_url: str
) -> None:
    for key in KEYS:
        final.run(key, set(MARKETS), 0, True)
    migrations.downgrade(database_url, "0005")
    final.ledger.observe({"m6": None}, final.now, state="gave_up")
    final.ledger.observe({"m9": None}, final.now)
    migrations.downgrade(database_url, "0005")
    migrations.upgrade(database_url)
    assert sorted(final.ledger.rows("SELECT market_id FROM predictbench.resolutions_due")) == [("m3",), ("m9",)]
    final.verify()
