"""The base rate walks forward: it knows what the ledger knew at the freeze, and counts every market once."""

from collections.abc import Callable
from datetime import date, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Engine

from predictbench_assets.clock import FixedClock
from predictbench_assets.experiments.builtin.controls import PRIOR_MARKETS, BaseRateExperiment
from predictbench_assets.experiments.history import REACH, settled_counts, settled_forecasts, settled_markets
from predictbench_assets.experiments.protocol import RunMetadata, count_settled
from predictbench_assets.experiments.runner import run_experiment_sync
from predictbench_assets.persistence.leases import Lease, RunCounts
from predictbench_assets.persistence.writer import RunWriter
from predictbench_assets.runs import RunKey
from predictbench_assets_tests.kit.builders import KEY, NOW, attempt, market, observe, record

Takes = Callable[..., Lease]


@pytest.fixture
def ledger(take: Takes, engine: Engine) -> Engine:
    """Four markets, each captured by two runs, that settle one after another."""
    for key in (KEY, RunKey(KEY.run_date + timedelta(days=1), KEY.window_days - 1)):
        lease = take(key, dagster_run_id=str(key))
        writer = RunWriter(engine, lease, lease.clock)
        writer.write([record(number) for number in range(4)], [attempt()])
        writer.finish(RunCounts(4, 0, 0, 0, 4), "completed")
    day = timedelta(days=1)
    observe(engine, "m0", "final", 1.0, at=NOW + day)
    observe(engine, "m1", "final", 0.5, at=NOW + 2 * day)
    observe(engine, "m2", "final", 1.0, at=NOW + 3 * day)
    observe(engine, "m2", "final", 0.0, at=NOW + 5 * day)  # settled otherwise after all
    observe(engine, "m3", "disputed", at=NOW + day)
    return engine


def base_rate(engine: Engine, captured_at: datetime) -> tuple[float, Any]:
    """The rate and the number of settled markets behind it, of a run that is frozen then."""
    key = RunKey(date(2026, 2, 20), 7)
    run = RunMetadata(key.run_id, key.run_date, key.window_days, key.target_date, captured_at, captured_at, "0" * 64)
    [outcome] = run_experiment_sync(
        BaseRateExperiment(),
        [market(77)],
        run=run,
        clock=FixedClock(NOW + timedelta(days=30)),
        history_counts=partial(settled_counts, engine),
    )
    assert outcome.probability is not None
    assert outcome.payload is not None
    return outcome.probability, outcome.payload["settled"]


def rate(first: float, settled: int) -> float:
    """All markets are of one category, which is drawn towards the overall rate, and that towards one half."""
    overall = (first + PRIOR_MARKETS * 0.5) / (settled + PRIOR_MARKETS)
    return (first + PRIOR_MARKETS * overall) / (settled + PRIOR_MARKETS)


def test_only_what_was_observed_before_the_freeze_counts_and_each_market_once(ledger: Engine) -> None:
    day, moment = timedelta(days=1), timedelta(microseconds=1)
    assert base_rate(ledger, NOW) == (0.5, 0)
    assert base_rate(ledger, NOW + day - moment) == (0.5, 0)
    assert base_rate(ledger, NOW + day) == (pytest.approx(rate(1.0, 1)), 1)
    assert base_rate(ledger, NOW + 2 * day) == (pytest.approx(rate(1.5, 2)), 2)
    assert base_rate(ledger, NOW + 4 * day) == (pytest.approx(rate(2.5, 3)), 3)
    # The run is made on the thirtieth day. A settlement that was changed counts as it was known at the freeze.
    assert base_rate(ledger, NOW + 6 * day) == (pytest.approx(rate(1.5, 3)), 3)


def test_what_settled_longer_than_the_reach_ago_does_not_count(ledger: Engine) -> None:
    first = NOW + timedelta(days=1)
    for as_of, left in (
        (first + REACH - timedelta(microseconds=1), {"m0", "m1", "m2"}),
        (first + REACH, {"m1", "m2"}),
        (first + REACH + timedelta(days=3), {"m2"}),  # settled anew two days after
        (first + REACH + timedelta(days=4), set()),
    ):
        assert base_rate(ledger, as_of)[1] == len(left)
        assert {one.market_id for one in settled_markets(ledger, as_of)} == left
        assert {one.market_id for one in settled_forecasts(ledger, attempt().name, "1", as_of)} == left


def test_a_settlement_that_was_only_proposed_does_not_count(ledger: Engine) -> None:
    observe(ledger, "m3", "proposed", 1.0, at=NOW + timedelta(days=2))
    assert base_rate(ledger, NOW + timedelta(days=2)) == (pytest.approx(rate(1.5, 2)), 2)


def test_a_price_is_that_of_a_capture_and_of_a_reconstruction_it_is_none(ledger: Engine, take: Takes) -> None:
    """The reconstruction is of an earlier day, and crawled before the captures were."""
    lease = take(RunKey(KEY.run_date - timedelta(days=1), KEY.window_days + 1), dagster_run_id="reconstructed")
    writer, earlier = RunWriter(ledger, lease, lease.clock), {"captured_at": NOW - timedelta(hours=1)}
    writer.write([record(number, **earlier) for number in (0, 9)], [attempt()], reconstructed=True)
    writer.finish(RunCounts(2, 0, 0, 0, 2), "completed")
    observe(ledger, "m9", "final", 1.0, at=NOW + timedelta(days=1))
    known = {one.market_id: one.price for one in settled_markets(ledger, NOW + timedelta(days=1))}
    assert known == {"m0": market(0).price.value, "m9": None}


@pytest.mark.parametrize("days", range(7))
def test_the_history_in_short_is_that_of_the_history(ledger: Engine, days: int) -> None:
    moment = NOW + timedelta(days=days)
    assert settled_counts(ledger, moment) == count_settled(settled_markets(ledger, moment))
