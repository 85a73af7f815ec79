"""Calibration: decompositions that add up, known errors of a calibrated forecaster."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from predictbench_assets.scoring.calibration import (
    calibration_error,
    corp,
    decompose,
    expected_calibration_error,
    forecast_bins,
)
from predictbench_assets.scoring.forecasts import Floats
from predictbench_assets.scoring.rules import brier

settled = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60)


def columns(markets: list[tuple[float, bool]]) -> tuple[Floats, Floats]:
    forecast, outcome = zip(*markets, strict=True)
    return np.array(forecast), np.array(outcome, np.float64)


@given(settled)
def test_murphys_parts_are_the_brier_score_of_the_binned_forecasts(markets: list[tuple[float, bool]]) -> None:
    forecast, outcome = columns(markets)
    found = decompose(forecast, outcome)
    bins = forecast_bins(forecast)
    rounded = np.array([forecast[bins == one].mean() for one in bins.tolist()])
    parts = found.reliability - found.resolution + found.uncertainty
    assert parts == pytest.approx(float(brier(rounded, outcome).mean()), abs=1e-12)
    assert parts + found.within_bins == pytest.approx(float(brier(forecast, outcome).mean()), abs=1e-12)
    assert min(found.reliability, found.resolution, found.uncertainty) >= 0


@given(settled)
def test_corps_parts_are_the_brier_score(markets: list[tuple[float, bool]]) -> None:
    forecast, outcome = columns(markets)
    found = corp(forecast, outcome)
    assert found.miscalibration - found.discrimination + found.uncertainty == pytest.approx(
        float(brier(forecast, outcome).mean()), abs=1e-12
    )
    assert found.miscalibration >= -1e-12
    assert found.discrimination >= -1e-12


@given(st.lists(st.tuples(st.integers(0, 20).map(lambda number: number / 20), st.booleans()), min_size=2, max_size=40))
def test_corp_recalibrates_as_scikit_learn_does(markets: list[tuple[float, bool]]) -> None:
    forecast, outcome = columns(markets)
    recalibrated = IsotonicRegression().fit(forecast, outcome).predict(forecast)
    expected = float(brier(forecast, outcome).mean() - brier(recalibrated, outcome).mean())
    assert corp(forecast, outcome).miscalibration == pytest.approx(expected, abs=1e-6)


def test_edges_of_bins() -> None:
    forecast = np.array([0.0, 0.0999, 0.1, 0.3, 0.6, 0.7, 0.95, 1.0])
    assert forecast_bins(forecast).tolist() == [0, 0, 1, 3, 6, 7, 9, 9]


def test_two_bins_by_hand() -> None:
    forecast, outcome = np.array([0.2, 0.2, 0.8, 0.8]), np.array([0.0, 0.0, 1.0, 0.0])
    found = decompose(forecast, outcome)
    assert (found.reliability, found.resolution, found.uncertainty, found.within_bins) == pytest.approx(
        ((0.04 + 0.09) / 2, 0.0625, 0.1875, 0.0)
    )
    assert calibration_error(forecast, outcome) == pytest.approx(0.25)
    isotonic = corp(forecast, outcome)
    assert (isotonic.miscalibration, isotonic.discrimination) == pytest.approx((0.065, 0.0625))


@pytest.mark.parametrize(("n", "known"), [(100, 0.095), (300, 0.055), (1_000, 0.030)])
def test_a_calibrated_forecaster_shows_an_error_and_it_is_expected(n: int, known: float) -> None:
    rng = np.random.default_rng(n)
    worlds = [rng.random(n) for _ in range(300)]
    shown = float(np.mean([calibration_error(f, (rng.random(n) < f) * 1.0) for f in worlds]))
    expected = float(np.mean([expected_calibration_error(f) for f in worlds]))
    assert shown == pytest.approx(known, rel=0.1)
    assert expected == pytest.approx(shown, rel=0.04)


@pytest.mark.parametrize("skew", [(0.3, 3.0), (0.05, 0.05), (5.0, 0.5)])
def test_the_expected_error_holds_for_forecasts_near_the_ends(skew: tuple[float, float]) -> None:
    rng = np.random.default_rng(11)
    forecast = rng.beta(*skew, 250)
    shown = [calibration_error(forecast, (rng.random(250) < forecast) * 1.0) for _ in range(2_000)]
    assert expected_calibration_error(forecast) == pytest.approx(float(np.mean(shown)), rel=0.04)


def test_certainties_expect_no_error() -> None:
    assert expected_calibration_error(np.array([0.0, 0.0, 1.0])) == 0.0
