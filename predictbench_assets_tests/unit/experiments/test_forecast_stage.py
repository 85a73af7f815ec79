"""The stage of the experiments without Dagster: forecast a cohort, stage the outcomes, judge staged ones."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from predictbench_assets.experiments.forecast import (
    ExperimentForecasts,
    ForecastCohort,
    ForgetRefused,
    forecast,
    outcomes_by_market,
    refuse_to_forget,
    stage_forecasts,
    stage_not_run,
    stale_reason,
)
from predictbench_assets.experiments.protocol import Experiment, ExperimentResult, ExperimentSkip, PipelineContext
from predictbench_assets.experiments.testing import make_market, make_run
from predictbench_assets.markets.market import Market
from predictbench_assets.settings import Settings, load_settings
from predictbench_assets.staging import StagedFile, StagingArea

RUN = make_run()
COHORT = ForecastCohort(RUN, [make_market(str(number)) for number in range(4)], "cohort")


class Counting(Experiment):
    """Counts its calls, and skips one market."""

    name = "counting"
    version = "1"
    description = "Counts its calls."

    def __init__(self) -> None:
        self.calls = 0

    def run(self, market: Market, context: PipelineContext) -> ExperimentResult:
        self.calls += 1
        if market.market_id == "3":
            raise ExperimentSkip("too hard")
        return ExperimentResult(probabilities=(0.25, 0.75))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(predictbench_home=tmp_path)


@pytest.fixture
def area(tmp_path: Path) -> StagingArea:
    return StagingArea(str(tmp_path / "staging"))


def forecasts(experiment: Experiment, area: StagingArea, settings: Settings, **options: Any) -> ExperimentForecasts:
    given: dict[str, Any] = {
        "config_hash": "config",
        "required": {},
        "history": lambda as_of: (),
        "history_counts": lambda as_of: {},
        "area": area,
        "writer_id": "writer",
        "settings": settings,
    }
    return forecast(experiment, COHORT, **(given | options))


def staged(area: StagingArea, made: ExperimentForecasts) -> StagedFile:
    return stage_forecasts(area, "results.jsonl.zst", made, dagster_run_id="dagster")


def test_a_later_attempt_calls_nobody_again_and_comes_to_the_same(area: StagingArea, settings: Settings) -> None:
    experiment = Counting()
    first = forecasts(experiment, area, settings)
    again = forecasts(experiment, area, settings)
    assert experiment.calls == 4
    assert (first.from_journal, again.from_journal) == (0, 4)
    assert again.content_hash == first.content_hash
    assert again.counts == {"completed": 3, "skipped": 1, "failed": 0}
    forecasts(experiment, area, settings, forget=True)
    assert experiment.calls == 8


def test_an_experiment_without_a_journal_is_asked_each_time_and_leaves_none(
    area: StagingArea, settings: Settings
) -> None:
    experiment = Counting()
    forecasts(experiment, area, settings)
    before = area.list("journals")
    experiment.journalled = False
    for forget in (False, True):
        assert forecasts(experiment, area, settings, forget=forget).from_journal == 0
    assert experiment.calls == 12
    assert area.list("journals") == before


def test_staged_outcomes_are_those_of_the_cohort(area: StagingArea, settings: Settings) -> None:
    found = staged(area, forecasts(Counting(), area, settings))
    outcomes = outcomes_by_market(found)
    assert list(outcomes) == [market.market_id for market in COHORT.markets]
    assert [one.probability for one in outcomes.values()] == [0.25, 0.25, 0.25, None]
    assert found.meta["status"] == "completed"
    assert found.meta["snapshot_hash"] == RUN.snapshot_hash
    assert [(one["status"], one["reason"]) for one in found.meta["reasons"]] == [("skipped", "too hard")]


def test_staged_outcomes_count_for_their_snapshot_version_and_configuration_only(
    area: StagingArea, settings: Settings
) -> None:
    experiment, newer = Counting(), Counting()
    newer.version = "2"
    found = staged(area, forecasts(experiment, area, settings))
    assert stale_reason(found, experiment, "config", RUN.snapshot_hash) is None
    assert "of an earlier snapshot" in str(stale_reason(found, experiment, "config", "1" * 64))
    assert "of version 1; version 2 was not run" in str(stale_reason(found, newer, "config", RUN.snapshot_hash))
    assert "another configuration" in str(stale_reason(found, experiment, "other", RUN.snapshot_hash))
    empty = stage_not_run(area, "none.jsonl.zst", experiment, RUN, dagster_run_id="dagster")
    assert "was not selected" in str(stale_reason(empty, experiment, "config", RUN.snapshot_hash))


def test_another_cohort_of_the_snapshot_has_a_journal_of_its_own(area: StagingArea, settings: Settings) -> None:
    experiment = Counting()
    forecasts(experiment, area, settings)
    other = replace(COHORT, content_hash="other cohort")
    options: dict[str, Any] = {"history": lambda as_of: (), "history_counts": lambda as_of: {}, "required": {}}
    forecast(experiment, other, config_hash="config", area=area, writer_id="w", settings=settings, **options)
    assert experiment.calls == 8


def test_answers_of_production_are_not_forgotten(tmp_path: Path) -> None:
    production = load_settings(predictbench_home=tmp_path).model_copy(update={"environment": "production"})
    with pytest.raises(ForgetRefused, match="may have been paid for"):
        refuse_to_forget(production, dry_run=False)
    refuse_to_forget(production, dry_run=True)
    refuse_to_forget(load_settings(predictbench_home=tmp_path), dry_run=False)
