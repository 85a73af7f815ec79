"""Whatever happened before, in whatever order, cut short or in between: scores are those of scoring everything anew."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, event

from predictbench_assets.database import migrations
from predictbench_assets.runs import RunKey
from predictbench_assets.scoring import rules
from predictbench_assets.scoring.store import scores
from predictbench_assets.scoring.store.checks import ScoreProblems, score_problems
from predictbench_assets.scoring.store.scores import ScoreReport, score_settled
from predictbench_assets_tests.kit.ledger import DAY, Forecaster, Ledger, at

KEYS = (RunKey(DAY, 7), RunKey(DAY, 6), RunKey(DAY + timedelta(days=1), 6))
MARKETS = ("m0", "m3", "m6")
BEGINNING = at(date(2026, 3, 1))

keys, markets = st.sampled_from(KEYS), st.sampled_from(MARKETS)
numbers = st.sampled_from((0.0, 0.1, 0.5, 0.9995, 1.0))
tables = st.dictionaries(markets, numbers, min_size=1)
# The same few numbers: an attempt that says what an older one said, and a price that is the old one, occur.
stored = st.tuples(st.just("run"), keys, tables, tables)
observed = st.tuples(st.just("observe"), markets, st.none() | numbers)
priced = st.tuples(st.just("price"), keys, markets, st.none() | numbers)
change = st.one_of(stored, observed, observed, priced)
events = st.one_of(
    change,
    change,
    st.tuples(st.just("delete"), keys),
    st.tuples(st.just("rules"), st.sampled_from(("1", "2"))),
    st.tuples(st.just("score")),
    st.tuples(st.just("kill"), st.integers(1, 25)),
    st.tuples(st.just("amid"), st.integers(1, 25), observed | priced),
)


class Killed(BaseException):
    """Stands for the end of the process."""


@dataclass
class History:
    """A database to which things happen, an hour after each other."""

    engine: Engine
    ledger: Ledger
    patch: pytest.MonkeyPatch
    now: datetime = BEGINNING

    def happen(self, what: str, *given: Any) -> None:
        self.now += timedelta(hours=1)
        getattr(self, what)(*given)

    def run(self, key: RunKey, prices: dict[str, float], said: dict[str, float]) -> None:
        """A run, or a refresh of it: other prices are another snapshot."""
        snapshot = str(sorted(prices.items()))
        self.ledger.run(prices, Forecaster("bold", said), key=key, now=self.now, snapshot=snapshot)

    def observe(self, market_id: str, outcome: float | None) -> None:
        self.ledger.observe({market_id: outcome}, self.now)

    def price(self, key: RunKey, market_id: str, price: float | None) -> None:
        self.ledger.execute(
            "UPDATE predictbench.processed_markets SET price = :price WHERE (run_id, market_id) = (:run, :market)",
            price=price,
            run=key.run_id,
            market=market_id,
        )

    def delete(self, key: RunKey) -> None:
        self.ledger.execute("DELETE FROM predictbench.processing_runs WHERE run_id = :run", run=key.run_id)

    def rules(self, version: str) -> None:
        self.patch.setattr(rules, "SCORING_VERSION", version)

    def score(self) -> None:
        """Score, and hold what is there against what should be."""
        before = stored_scores(self.engine)
        promised = score_settled(self.engine, self.now, dry_run=True)
        assert stored_scores(self.engine) == before
        report = score_settled(self.engine, self.now)
        assert report == promised
        self.verify(before, report)
        assert nothing_done(score_settled(self.engine, self.now + timedelta(minutes=1)))

    def kill(self, after: int) -> None:
        def end() -> None:
            raise Killed

        with before_statement(self.engine, after, end), pytest.MonkeyPatch.context() as patch:
            patch.setattr(scores, "ROWS_PER_CHUNK", 1)
            patch.setattr(scores, "_MARKETS_PER_CHUNK", 1)
            with suppress(Killed):
                score_settled(self.engine, self.now)

    def amid(self, after: int, what: tuple[Any, ...]) -> None:
        """Something happens while scores are made: it may be seen or not, but not lost."""
        with before_statement(self.engine, after, lambda: self.happen(*what)):
            score_settled(self.engine, self.now)

    def verify(self, before: dict[Any, Any], report: ScoreReport) -> None:
        expected, found = expected_scores(self.engine), stored_scores(self.engine)
        assert found.keys() == expected.keys()
        for key, row in found.items():
            assert row[:2] == expected[key][:2]
            np.testing.assert_allclose(np.array(row[2:7], float), np.array(expected[key][2:7], float), atol=1e-12)
            touched = key not in before or before[key][:-1] != row[:-1]
            assert row[-1] == (self.now if touched else before[key][-1])
        changes = Counter(
            "scored" if key not in before else "rescored" for key, row in found.items() if before.get(key) != row
        )
        removed = len(before.keys() - found.keys())
        assert (report.scored, report.rescored, report.removed) == (changes["scored"], changes["rescored"], removed)
        [(forecasts, of_reference, edges)] = self.ledger.rows(
            "SELECT count(*), count(s) FILTER (WHERE e.name = 'baseline_snapshot'),"
            " count(*) FILTER (WHERE e.name = 'baseline_snapshot' AND s.edge <> 0)"
            " FROM predictbench.experiment_results r JOIN predictbench.experiment_runs USING (experiment_run_id)"
            " JOIN predictbench.experiments e USING (experiment_id)"
            " LEFT JOIN predictbench.experiment_scores s USING (experiment_result_id) WHERE r.probability IS NOT NULL"
        )
        assert (report.scores, report.waiting) == (len(found), forecasts - len(found))
        assert score_problems(self.engine) == ScoreProblems(len(found), 0, of_reference, edges)
        assert self.ledger.rows("SELECT * FROM predictbench.scores_due") == []


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=st.lists(events, min_size=6, max_size=14))
def test_scores_are_those_of_scoring_everything_anew(
    history: list[tuple[Any, ...]], engine: Engine, ledger: Ledger
) -> None:
    ledger.execute(
        "TRUNCATE predictbench.processing_runs, predictbench.experiments, predictbench.resolution_observations,"
        " predictbench.scores_due CASCADE"
    )
    with pytest.MonkeyPatch.context() as patch:
        running = History(engine, ledger, patch)
        for key in KEYS:
            running.run(key, dict.fromkeys(MARKETS, 0.5), dict.fromkeys(MARKETS, 0.1))
        ledger.observe({"m0": 1.0, "m3": 0.0}, running.now)
        for what in (("score",), *history, ("score",)):
            running.happen(*what)


def test_a_database_of_before_is_scored_whole_once(engine: Engine, database_url: str, ledger: Ledger) -> None:
    ledger.run(dict.fromkeys(MARKETS, 0.5), Forecaster("bold", dict.fromkeys(MARKETS, 0.1)))
    ledger.run(dict.fromkeys(MARKETS, 0.4), key=KEYS[1])
    ledger.observe(dict.fromkeys(MARKETS, 1.0), BEGINNING)
    score_settled(engine, BEGINNING)
    ledger.run(dict.fromkeys(MARKETS, 0.3), key=KEYS[2])  # today's writer needs today's tables
    migrations.downgrade(database_url, "0003")
    # What older code would have seen at its next call: a correction, a market taken back, one that waits.
    ledger.observe({"m0": 0.0, "m3": None}, BEGINNING + timedelta(hours=1))
    before = stored_scores(engine)
    migrations.upgrade(database_url)
    now = BEGINNING + timedelta(hours=2)
    promised = score_settled(engine, now, dry_run=True)
    report = score_settled(engine, now)
    assert (report.scored, report.rescored, report.removed, report.scores, report.waiting) == (2, 3, 3, 8, 4)
    assert promised == report
    with pytest.MonkeyPatch.context() as patch:
        History(engine, ledger, patch, now).verify(before, report)
    assert nothing_done(score_settled(engine, now))


@contextmanager
def before_statement(engine: Engine, number: int, action: Callable[[], None]) -> Iterator[None]:
    """Have something happen before the statement of this number, counted from here."""
    seen = 0

    def count(*_: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == number:
            action()

    event.listen(engine, "before_cursor_execute", count)
    try:
        yield
    finally:
        event.remove(engine, "before_cursor_execute", count)


def nothing_done(report: ScoreReport) -> bool:
    return (report.scored, report.rescored, report.removed, report.markets) == (0, 0, 0, 0)


def stored_scores(engine: Engine) -> dict[Any, tuple[Any, ...]]:
    """Every score by its forecast: version, observation, numbers, and last when it was made."""
    rows = Ledger(engine).rows(
        "SELECT experiment_result_id, scoring_version, observation_id, outcome, brier, log_loss, edge, disagreement,"
        " scored_at FROM predictbench.experiment_scores"
    )
    return {row[0]: row[1:] for row in rows}


def expected_scores(engine: Engine) -> dict[Any, tuple[Any, ...]]:
    """What a first scoring of all that is stored would come to, put together in plain Python."""
    ledger = Ledger(engine)
    newest: dict[str, tuple[Any, ...]] = {}
    for market_id, *said in ledger.rows(
        "SELECT market_id, observation_id, state, outcome FROM predictbench.resolution_observations"
        " ORDER BY observed_at"
    ):
        newest[market_id] = tuple(said)
    expected = {}
    for result, forecast, made_on, market_id, price, snapshot in ledger.rows(
        "SELECT r.experiment_result_id, r.probability, r.snapshot_hash, m.market_id, m.price, m.snapshot_hash"
        " FROM predictbench.experiment_results r JOIN predictbench.processed_markets m USING (processed_market_id)"
        " WHERE r.status = 'completed'"
    ):
        observation, state, outcome = newest.get(market_id, (None, None, None))
        if state != "final":
            continue
        compared = np.nan if price is None or made_on != snapshot else price
        found = rules.scores(np.array([forecast]), np.array([compared]), np.array([outcome]))
        numbers = [float(found[name][0]) for name in ("brier", "log_loss", "edge", "disagreement")]
        expected[result] = (rules.SCORING_VERSION, observation, outcome, *numbers)
    return expected
