"""The form of a digest is a promise: the same forecasts give the same hash, written down by anyone."""

import hashlib
from datetime import UTC, date, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from predictbench_assets.experiments.digest import DigestedForecast, ForecastHasher, digest_of
from predictbench_assets.runs import RunKey

KEY = RunKey(date(2026, 11, 23), 7)
AT = datetime(2026, 11, 23, 7, 1, 12, 34, tzinfo=UTC)


def forecast(**changes: object) -> DigestedForecast:
    values = {
        "experiment": "baseline_snapshot",
        "version": "1",
        "attempt": 1,
        "market_id": "512345",
        "probability": 0.425,
        "forecast_at": AT,
        "snapshot_hash": "aa",
        "config_hash": None,
    }
    return DigestedForecast(**(values | changes))  # type: ignore[arg-type]


def test_a_digest_is_the_hash_of_lines_that_a_person_can_write_down() -> None:
    forecasts = [forecast(attempt=10), forecast(attempt=9, probability=1.0), forecast(experiment="a b", version="2")]
    written = (
        "predictbench-forecasts-1\t2026-11-23\t7\n"
        "a b\t2\t1\t512345\t0.425\t2026-11-23T07:01:12.000034Z\taa\t\\N\n"
        "baseline_snapshot\t1\t9\t512345\t1\t2026-11-23T07:01:12.000034Z\taa\t\\N\n"
        "baseline_snapshot\t1\t10\t512345\t0.425\t2026-11-23T07:01:12.000034Z\taa\t\\N\n"
    )
    found = digest_of(KEY, forecasts, AT)
    assert found.digest == hashlib.sha256(written.encode()).hexdigest()
    assert (found.forecasts, found.made_at, found.algorithm) == (3, AT, "predictbench-forecasts-1")


def test_the_digest_of_today_is_that_of_tomorrow() -> None:
    assert (
        digest_of(KEY, [forecast()], AT).digest == "c1833fd6fd22c80454b23d22ff4a7099617a1a4d6849e9d013f79330e523e737"
    ), "this number is published: a change needs another name of the algorithm"


def test_of_a_run_without_forecasts_the_hash_tells_which_run() -> None:
    nothing = digest_of(KEY, [], AT)
    assert nothing.forecasts == 0
    assert nothing.digest != digest_of(RunKey(KEY.run_date, 1), [], AT).digest


def test_an_instant_is_told_in_utc() -> None:
    elsewhere = AT.astimezone(timezone(timedelta(hours=-5)))
    assert forecast(forecast_at=elsewhere).line() == forecast().line()


def test_what_parts_fields_cannot_be_forged_in_a_text() -> None:
    one = digest_of(KEY, [forecast(experiment="a\tb", version="c")], AT)
    other = digest_of(KEY, [forecast(experiment="a", version="b\tc")], AT)
    assert one.digest != other.digest
    assert forecast(experiment="a\n\\").line().startswith(b"a\\n\\\\\t")


@given(st.floats(0, 1), st.floats(0, 1))
def test_any_other_probability_is_another_digest(one: float, other: float) -> None:
    line = forecast(probability=one).line()
    assert float(line.split(b"\t")[4]) == one
    assert (line == forecast(probability=other).line()) == (str(one) == str(other))


def test_lines_may_come_in_blocks_of_any_size() -> None:
    lines = forecast().line() + forecast(market_id="6").line()
    whole, pieces = ForecastHasher(KEY), ForecastHasher(KEY)
    whole.update(lines)
    for start in range(0, len(lines), 7):
        pieces.update(lines[start : start + 7])
    assert whole.made_at(AT) == pieces.made_at(AT)
