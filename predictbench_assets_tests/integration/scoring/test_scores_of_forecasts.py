"""Scores follow the ledger: what is settled is scored once, what changed is scored anew, the rest is left alone."""

import math
from datetime import date, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine

from predictbench_assets.runs import RunKey
from predictbench_assets.scoring import rules
from predictbench_assets.scoring.store import scores
from predictbench_assets.scoring.store.checks import score_problems
from predictbench_assets.scoring.store.scores import score_settled
from predictbench_assets_tests.kit.ledger import DAY, Forecaster, Ledger, at

PRICES = {"m0": 0.2, "m1": 0.5, "m3": 0.9}
BOLD = Forecaster("bold", {"m0": 0.1, "m1": 0.6, "m3": 0.9995})
SEEN = at(date(2026, 2, 11))
FIRST, SECOND = SEEN + timedelta(hours=1), SEEN + timedelta(days=1)


def stored(ledger: Ledger) -> dict[tuple[str, str, int], dict[str, Any]]:
    """Every score by market, experiment and attempt."""
    names = ("outcome", "brier", "log_loss", "clipped", "edge", "disagreement", "scoring_version", "scored_at")
    found = ledger.rows(
        f"SELECT m.market_id, e.name, a.attempt, {', '.join(f's.{name}' for name in names)}, o.observed_at"
        " FROM predictbench.experiment_scores s JOIN predictbench.experiment_results r USING (experiment_result_id)"
        " JOIN predictbench.experiment_runs a USING (experiment_run_id)"
        " JOIN predictbench.experiments e USING (experiment_id)"
        " JOIN predictbench.processed_markets m USING (processed_market_id)"
        " JOIN predictbench.resolution_observations o USING (observation_id)"
    )
    return {tuple(row[:3]): dict(zip((*names, "observed_at"), row[3:], strict=True)) for row in found}  # type: ignore[misc]


def scored_at(ledger: Ledger) -> dict[tuple[str, str, int], datetime]:
    return {key: row["scored_at"] for key, row in stored(ledger).items()}


def test_what_is_settled_is_scored_and_nothing_else(engine: Engine, ledger: Ledger) -> None:
    ledger.run(PRICES, BOLD, Forecaster("shy", {"m0": 0.3}))
    ledger.observe({"m0": 1.0, "m3": 1.0}, SEEN)
    ledger.observe({"m1": 1.0}, SEEN, state="proposed")
    report = score_settled(engine, FIRST)
    assert (report.scored, report.rescored, report.removed, report.markets) == (5, 0, 0, 2)
    assert (report.scores, report.waiting) == (5, 2)

    found = stored(ledger)
    assert {key[:2] for key in found} == {
        *(("m0", name) for name in ("baseline_snapshot", "bold", "shy")),
        *(("m3", name) for name in ("baseline_snapshot", "bold")),
    }
    bold = found["m0", "bold", 1]
    assert bold["outcome"] == 1.0
    assert bold["brier"] == pytest.approx(0.81)
    assert bold["log_loss"] == pytest.approx(-math.log(0.1))
    assert bold["edge"] == pytest.approx(0.64 - 0.81)
    assert bold["disagreement"] == pytest.approx(0.01)
    assert (bold["clipped"], bold["scoring_version"], bold["scored_at"]) == (False, rules.SCORING_VERSION, FIRST)
    assert bold["observed_at"] == SEEN
    sure = found["m3", "bold", 1]
    assert sure["clipped"] is True
    assert sure["log_loss"] == pytest.approx(-math.log(0.999))
    assert sure["brier"] == pytest.approx(0.0005**2)  # of the forecast as it was made
    assert found["m0", "baseline_snapshot", 1]["edge"] == 0.0


def test_scoring_again_changes_nothing(engine: Engine, ledger: Ledger) -> None:
    ledger.run(PRICES, BOLD)
    ledger.observe(dict.fromkeys(PRICES, 1.0), SEEN)
    score_settled(engine, FIRST)
    before = stored(ledger)
    report = score_settled(engine, SECOND)
    assert (report.scored, report.rescored, report.markets) == (0, 0, 0)
    assert stored(ledger) == before


def test_runs_whose_counts_were_lost_are_counted_and_scored_again(engine: Engine, ledger: Ledger) -> None:
    ledger.run(PRICES, BOLD)
    ledger.observe({"m0": 1.0}, SEEN)
    score_settled(engine, FIRST)
    before, problems = stored(ledger), score_problems(engine)
    ledger.execute("DELETE FROM predictbench.scored_runs")
    report = score_settled(engine, SECOND)
    assert (report.scored, report.scores, report.waiting) == (0, 2, 4)
    assert (stored(ledger), score_problems(engine)) == (before, problems)
    ledger.execute("TRUNCATE predictbench.experiment_scores, predictbench.scored_runs")
    assert score_settled(engine, SECOND, dry_run=True).scored == 2
    assert score_settled(engine, SECOND).scores == 2
    assert stored(ledger).keys() == before.keys()


def test_a_changed_resolution_scores_exactly_that_market_anew(engine: Engine, ledger: Ledger) -> None:
    ledger.run(PRICES, BOLD)
    ledger.run(PRICES, BOLD, key=RunKey(DAY, 6))
    ledger.observe(dict.fromkeys(PRICES, 1.0), SEEN)
    score_settled(engine, FIRST)
    before = stored(ledger)
    ledger.observe({"m1": 0.0}, SECOND - timedelta(hours=1))
    report = score_settled(engine, SECOND)
    assert (report.scored, report.rescored, report.markets) == (0, 4, 1)
    after = ledger.rows(
        "SELECT m.market_id, s.scored_at, s.outcome FROM predictbench.experiment_scores s"
        " JOIN predictbench.experiment_results USING (experiment_result_id)"
        " JOIN predictbench.processed_markets m USING (processed_market_id)"
    )
    assert sorted(after) == sorted(
        [*(("m1", SECOND, 0.0) for _ in range(4)), *((one, FIRST, 1.0) for one in ("m0", "m3") for _ in range(4))]
    )
    assert stored(ledger)["m1", "bold", 1]["brier"] == pytest.approx(0.36)
    assert {key: row for key, row in stored(ledger).items() if key[0] != "m1"} == {
        key: row for key, row in before.items() if key[0] != "m1"
    }


@pytest.mark.parametrize("state", ["open", "disputed", "gave_up"])
def test_a_resolution_that_was_reopened_takes_its_scores_along(state: str, engine: Engine, ledger: Ledger) -> None:
    ledger.run(PRICES, BOLD)
    ledger.observe(dict.fromkeys(PRICES, 1.0), SEEN)
    score_settled(engine, FIRST)
    ledger.observe({"m1": None}, SECOND, state=state)
    assert score_settled(engine, SECOND, dry_run=True).removed == 2
    assert len(stored(ledger)) == 6
    report = score_settled(engine, SECOND)
    assert (report.removed, report.scores, report.waiting) == (2, 4, 2)
    assert {key[0] for key in stored(ledger)} == {"m0", "m3"}
    ledger.observe({"m1": 1.0}, SECOND + timedelta(hours=1))
    assert score_settled(engine, SECOND).scored == 2


def test_another_version_of_the_rules_scores_all_anew(
    engine: Engine, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.run(PRICES, BOLD)
    ledger.observe(dict.fromkeys(PRICES, 1.0), SEEN)
    score_settled(engine, FIRST)
    monkeypatch.setattr(rules, "SCORING_VERSION", "next")
    report = score_settled(engine, SECOND)
    assert (report.scored, report.rescored, report.scoring_version) == (0, 6, "next")
    assert {(row["scoring_version"], row["scored_at"]) for row in stored(ledger).values()} == {("next", SECOND)}


def test_a_later_attempt_is_scored_beside_the_earlier_one(engine: Engine, ledger: Ledger) -> None:
    ledger.run(PRICES, BOLD)
    ledger.observe(dict.fromkeys(PRICES, 1.0), SEEN)
    score_settled(engine, FIRST)
    ledger.run(PRICES, Forecaster("bold", dict.fromkeys(PRICES, 0.5)), now=SECOND)
    assert score_settled(engine, SECOND).scored == 3
    assert {key: when for key, when in scored_at(ledger).items() if when == SECOND} == {
        (one, "bold", 2): SECOND for one in PRICES
    }


def test_a_split_is_scored_as_one(engine: Engine, ledger: Ledger) -> None:
    ledger.run(PRICES, BOLD)
    ledger.observe({"m1": 0.5}, SEEN)
    score_settled(engine, FIRST)
    assert stored(ledger)["m1", "bold", 1]["outcome"] == 0.5
    assert stored(ledger)["m1", "bold", 1]["brier"] == pytest.approx(0.01)


def test_without_the_price_it_answered_to_a_forecast_has_no_edge(engine: Engine, ledger: Ledger) -> None:
    ledger.run(PRICES, BOLD, now=at(DAY, 8))
    ledger.run(
        {"m0": 0.4, "m1": 0.4, "m3": 0.4}, Forecaster("bold", {}, status="not_run"), now=at(DAY, 9), snapshot="newer"
    )
    ledger.execute(
        "UPDATE predictbench.processed_markets SET price = NULL, price_quality = 'none' WHERE market_id = 'm3'"
    )
    ledger.observe({"m0": 1.0, "m3": 1.0}, SEEN)
    score_settled(engine, FIRST)
    found = stored(ledger)
    for key in (("m0", "bold", 1), ("m0", "baseline_snapshot", 1), ("m3", "baseline_snapshot", 2)):
        assert (found[key]["edge"], found[key]["disagreement"]) == (None, None), key
        assert found[key]["brier"] > 0
    assert found["m0", "baseline_snapshot", 2]["edge"] == 0.0
    assert score_problems(engine).reference_edges == 0


def test_what_does_not_fit_into_memory_at_once_is_scored_in_portions(
    engine: Engine, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scores, "ROWS_PER_CHUNK", 4)
    monkeypatch.setattr(scores, "_BATCH", 3)
    prices = {f"m{number}": 0.3 for number in range(9)}
    ledger.run(prices, Forecaster("bold", dict.fromkeys(prices, 0.1)))
    ledger.observe(dict.fromkeys(prices, 0.0), SEEN)
    report = score_settled(engine, FIRST)
    assert (report.scored, report.markets, report.scores) == (18, 9, 18)
    assert len(stored(ledger)) == 18


def test_impossible_scores_are_counted(engine: Engine, ledger: Ledger) -> None:
    ledger.run(PRICES, BOLD)
    ledger.observe(dict.fromkeys(PRICES, 1.0), SEEN)
    score_settled(engine, FIRST)
    found = score_problems(engine)
    assert (found.scores, found.out_of_range, found.reference_scores, found.reference_edges) == (6, 0, 3, 0)
    ledger.execute(
        "UPDATE predictbench.experiment_scores s SET brier = 'NaN' FROM predictbench.latest_experiment_results r"
        " WHERE r.experiment_result_id = s.experiment_result_id AND (market_id, experiment) = ('m0', 'bold')"
    )
    ledger.execute("INSERT INTO predictbench.scores_due (run_id) SELECT run_id FROM predictbench.processing_runs")
    ledger.execute("INSERT INTO predictbench.scores_due (market_id) VALUES ('')")  # by hand: no market has it
    assert score_settled(engine, FIRST).rescored == 0
    assert ledger.rows("SELECT * FROM predictbench.scores_due") == []
    assert score_problems(engine).out_of_range == 1
    ledger.execute("UPDATE predictbench.processed_markets SET price = price + 1e-9 WHERE market_id = 'm1'")
    report = score_settled(engine, SECOND)
    assert (report.scored, report.rescored) == (0, 2)  # of the market with another price
    found = score_problems(engine)
    assert (found.scores, found.out_of_range, found.reference_scores, found.reference_edges) == (6, 1, 3, 1)


def test_a_dry_run_says_what_would_be_done(engine: Engine, ledger: Ledger) -> None:
    ledger.run(PRICES, BOLD)
    ledger.observe({"m0": 1.0}, SEEN)
    report = score_settled(engine, FIRST, dry_run=True)
    assert (report.scored, report.scores, report.waiting) == (2, 2, 4)
    assert stored(ledger) == {}
