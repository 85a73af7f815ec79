"""Earlier forecasts to learn from: timely ones of one version, whose markets had settled, as known at an instant."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine

from predictbench_assets.experiments.history import settled_forecasts
from predictbench_assets.persistence.leases import Lease, RunCounts
from predictbench_assets.persistence.writer import RunWriter
from predictbench_assets.runs import RunKey
from predictbench_assets_tests.kit.builders import KEY, NOW, attempt, observe, record, result

Takes = Callable[..., Lease]
DAY = timedelta(days=1)
LAST = NOW + 30 * DAY


@pytest.fixture
def write(take: Takes, engine: Engine) -> Callable[..., None]:
    """Writes the forecasts of `mine` for the first markets of a run."""

    def written(*said: float | None, key: RunKey = KEY, **more: Any) -> None:
        lease = take(key, dagster_run_id=f"{key}{said}")
        writer = RunWriter(engine, lease, lease.clock)
        rows = [
            record(
                number, result(), result("mine", one, payload={"number": number}, **more) if one is not None
                else result("mine", None, status="skipped", reason="no", probabilities=None, forecast_at=None),
                close_time=NOW + 7 * DAY,
            )
            for number, one in enumerate(said)
        ]  # fmt: skip
        writer.write(rows, [attempt(), attempt("mine", str(said))])
        writer.finish(RunCounts(len(said), 0, 0, 0, len(said)), "completed")

    return written


def known(engine: Engine, as_of: datetime = LAST, version: str = "1") -> list[tuple[str, float, float, Any]]:
    found = settled_forecasts(engine, "mine", version, as_of)
    return [(one.market_id, one.probability, one.outcome, one.payload) for one in found]


def test_only_what_had_settled_by_then_is_known_oldest_first(write: Callable[..., None], engine: Engine) -> None:
    write(0.1, 0.2, None, 0.4)
    observe(engine, "m1", "final", 1.0, at=NOW + 8 * DAY)
    observe(engine, "m0", "final", 0.0, at=NOW + 9 * DAY)
    observe(engine, "m2", "final", 0.0, at=NOW + 9 * DAY)
    observe(engine, "m3", "proposed", 1.0, at=NOW + 9 * DAY)
    moment = timedelta(microseconds=1)
    assert known(engine, NOW + 8 * DAY - moment) == []
    assert known(engine, NOW + 8 * DAY) == [("m1", 0.2, 1.0, {"number": 1})]
    assert known(engine) == [("m1", 0.2, 1.0, {"number": 1}), ("m0", 0.1, 0.0, {"number": 0})]
    [one, _] = settled_forecasts(engine, "mine", "1", LAST)
    [bare, _] = settled_forecasts(engine, "mine", "1", LAST, own=False)
    assert (bare.market_id, bare.payload) == ("m1", {})
    assert (one.price, one.category, one.settled_at) == (0.4, "politics", NOW + 8 * DAY)


def test_other_versions_and_other_experiments_are_none_of_it(write: Callable[..., None], engine: Engine) -> None:
    write(0.1)
    observe(engine, "m0", "final", 1.0, at=NOW + 8 * DAY)
    assert known(engine, version="2") == []
    assert list(settled_forecasts(engine, "yours", "1", LAST)) == []


def test_a_forecast_that_was_not_made_in_time_is_no_lesson(write: Callable[..., None], engine: Engine) -> None:
    """It may have known the outcome: one of after the freeze window, and one of after the market closed."""
    write(0.9, forecast_at=NOW + 25 * timedelta(hours=1))
    observe(engine, "m0", "final", 1.0, at=NOW + 8 * DAY)
    assert known(engine) == []


def test_a_forecast_of_after_the_market_closed_is_no_lesson(write: Callable[..., None], engine: Engine) -> None:
    hour = timedelta(hours=1)
    write(0.9, 0.8, forecast_at=NOW + 3 * hour)
    observe(engine, "m0", "final", 1.0, at=NOW + 8 * DAY, closed_time=NOW + 2 * hour)
    observe(engine, "m1", "final", 1.0, at=NOW + 8 * DAY, closed_time=NOW + 4 * hour)
    assert [one[0] for one in known(engine)] == ["m1"]


def test_a_market_of_two_runs_counts_once_by_its_first(write: Callable[..., None], engine: Engine) -> None:
    write(0.1)
    write(0.6, key=RunKey(KEY.run_date + DAY, KEY.window_days - 1))
    observe(engine, "m0", "final", 1.0, at=NOW + 8 * DAY)
    assert len(known(engine)) == 1
