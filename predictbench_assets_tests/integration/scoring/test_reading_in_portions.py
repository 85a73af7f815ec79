"""A long history is read and scored a few runs at a time: the boards are those of one reading."""

from dataclasses import fields
from datetime import date, timedelta

import numpy as np
import pytest
from sqlalchemy import Engine

from predictbench_assets.runs import RunKey
from predictbench_assets.scoring.forecasts import Cohorts
from predictbench_assets.scoring.store import coherence, forecasts, scores
from predictbench_assets.scoring.store.boards import encoded_leaderboard, rebuild_leaderboard
from predictbench_assets.scoring.store.forecasts import load_forecasts
from predictbench_assets.scoring.store.scores import score_settled
from predictbench_assets_tests.kit.ledger import DAY, Forecaster, Ledger, at

NOW = at(date(2026, 3, 10))
DAYS, WINDOWS = 4, (1, 7)


@pytest.fixture
def history(ledger: Ledger) -> Ledger:
    """Eight runs; a version that comes later, one that never ran, a late attempt, settled markets and open ones."""
    for day in range(DAYS):
        for window in WINDOWS:
            key = RunKey(DAY + timedelta(days=day), window)
            start = 10 * day  # a market is in both windows of its day, and one in the next day as well
            prices = {f"m{start + number}": price for number, price in enumerate((0.2, 0.3, 0.5))} | {
                f"m{start + 10}": 0.1
            }
            said = {one: price / 2 for one, price in prices.items()}
            bold = Forecaster("bold", said, version="1" if day < 2 else "2")
            ledger.run(
                prices,
                bold,
                Forecaster("absent", {}, status="not_run"),
                key=key,
                neg_risk=True,
                neg_risk_market_id=f"group {day}",
            )
            if day == 1:
                late = at(key.run_date) + timedelta(hours=25)
                ledger.run(
                    prices,
                    Forecaster("slow", said, made_at=late),
                    key=key,
                    now=late,
                    neg_risk=True,
                    neg_risk_market_id=f"group {day}",
                )
    ledger.observe({"m0": 1.0, "m11": 0.0, "m22": 0.5, "m30": 1.0}, at(date(2026, 2, 20)))
    return ledger


def test_forecasts_are_the_same_in_portions_of_any_size(
    engine: Engine, history: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load_forecasts(engine, NOW)
    board = encoded_leaderboard(rebuild_leaderboard(engine, NOW))
    assert [one.label for one in whole.entrants] == ["baseline_snapshot 1", "bold 1", "bold 2", "slow 1"]
    assert len(whole.cohorts) == DAYS * len(WINDOWS) * 4
    assert np.isfinite(whole.late).any()
    assert sum(one.n_groups for one in whole.coherence if one.experiment == "baseline_snapshot") == 8
    for most in (1, 30):
        monkeypatch.setattr(forecasts, "AT_ONCE", most)
        monkeypatch.setattr(coherence, "_AT_ONCE", most)
        found = load_forecasts(engine, NOW)
        for field in fields(Cohorts):
            np.testing.assert_array_equal(getattr(found.cohorts, field.name), getattr(whole.cohorts, field.name))
        np.testing.assert_array_equal(found.probability, whole.probability)
        np.testing.assert_array_equal(found.late, whole.late)
        assert (found.entrants, found.coherence) == (whole.entrants, whole.coherence)
        assert encoded_leaderboard(rebuild_leaderboard(engine, NOW)) == board


def test_scores_are_the_same_in_portions(engine: Engine, history: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = score_settled(engine, NOW, dry_run=True)
    assert whole.scored > 0
    assert whole.waiting > 0
    monkeypatch.setattr(scores, "AT_ONCE", 1)
    assert score_settled(engine, NOW, dry_run=True) == score_settled(engine, NOW) == whole
    assert score_settled(engine, NOW).scored == 0
