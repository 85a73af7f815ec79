"""Scores of single forecasts: known answers, identities, and agreement with scikit-learn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import brier_score_loss
from sklearn.metrics import log_loss as sklearn_log_loss

from predictbench_assets.scoring.forecasts import Floats
from predictbench_assets.scoring.rules import CLIP_HIGH, CLIP_LOW, brier, clipped, disagreement, edge, log_loss

probabilities = st.floats(0, 1)
three = arrays(np.float64, st.just((3, 20)), elements=probabilities)


@given(three)
def test_they_are_those_of_scikit_learn(columns: Floats) -> None:
    forecast, _, drawn = columns
    outcome = (drawn > 0.5) * 1.0
    held = np.clip(forecast, CLIP_LOW, CLIP_HIGH)
    assert brier(forecast, outcome).mean() == pytest.approx(
        brier_score_loss(outcome, forecast, labels=[0, 1]), abs=1e-12
    )
    assert log_loss(forecast, outcome).mean() == pytest.approx(
        sklearn_log_loss(outcome, held, labels=[0, 1]), rel=1e-12, abs=1e-12
    )


def test_one_half_scores_a_quarter() -> None:
    assert brier(np.full(2, 0.5), np.array([0.0, 1.0])).tolist() == [0.25, 0.25]
    assert log_loss(np.full(2, 0.5), np.array([0.0, 1.0])) == pytest.approx(np.log(2))


@given(three)
def test_the_market_against_itself_is_exactly_0(columns: Floats) -> None:
    price, _, outcome = columns
    assert not edge(price, price, np.round(outcome)).any()
    assert not disagreement(price, price).any()


@given(three)
def test_a_bold_forecaster_pays_for_leaving_the_price(columns: Floats) -> None:
    forecast, price, drawn = columns
    outcome = np.round(drawn)
    expected = 2 * (forecast - price) * (outcome - price) - disagreement(forecast, price)
    np.testing.assert_allclose(edge(forecast, price, outcome), expected, atol=1e-12)


def test_what_log_loss_does_not_take_at_its_word_is_told() -> None:
    forecast = np.array([0.0, 0.0009, 0.001, 0.5, 0.999, 0.9991, 1.0])
    assert clipped(forecast).tolist() == [True, True, False, False, False, True, True]
    assert np.isfinite(log_loss(forecast, np.ones(7))).all()
    assert log_loss(np.zeros(1), np.ones(1)) == pytest.approx(-np.log(0.001))


@given(three)
def test_scores_are_in_their_ranges(columns: Floats) -> None:
    forecast, price, drawn = columns
    outcome = np.round(drawn)
    assert ((brier(forecast, outcome) >= 0) & (brier(forecast, outcome) <= 1)).all()
    assert (np.abs(edge(forecast, price, outcome)) <= 1).all()
    assert ((log_loss(forecast, outcome) >= 0) & (log_loss(forecast, outcome) <= -np.log(CLIP_LOW) + 1e-9)).all()
