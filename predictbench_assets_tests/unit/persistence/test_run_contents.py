"""What a write is handed, market by market, whatever the order and the state of the staged outcomes."""

import random
from pathlib import Path

import pytest

from predictbench_assets.clock import FixedClock
from predictbench_assets.experiments.headers import OutcomesHeader
from predictbench_assets.experiments.outcomes import OUTCOMES, Outcome
from predictbench_assets.ingestion.cohort import cohort_markets, stage_cohort
from predictbench_assets.ingestion.headers import SnapshotHeader
from predictbench_assets.ingestion.snapshot import SNAPSHOT
from predictbench_assets.markets.cohort import Cohort
from predictbench_assets.persistence.run_contents import RunContents, StagedExperiment
from predictbench_assets.staging import StagedFile, StagedFileBroken, StagingArea
from predictbench_assets_tests.kit.builders import KEY, NOW, attempt, market

COUNT = 40


@pytest.fixture
def area(tmp_path: Path) -> StagingArea:
    return StagingArea(str(tmp_path))


def outcomes(area: StagingArea, name: str, numbers: list[int]) -> StagedFile:
    """Staged outcomes of an experiment for these markets, in this order; each has its number in the probability."""
    header = OutcomesHeader(name=name, version="1", status="completed", snapshot_hash="snap", counts={})
    rows = (
        Outcome(market_id=f"m{number}", status="completed", probability=number / 100, probabilities=(number / 100, 0.0))
        for number in numbers
    )
    return area.publish(name, OUTCOMES, header, (row.encode() for row in rows))


def contents(area: StagingArea, **staged: StagedFile | None) -> RunContents:
    """A cohort of `COUNT` markets with these experiments, none of which is mandatory."""
    ids = [f"m{number}" for number in range(COUNT)]
    lines = [f'{{"market_id":"{one}","quote":null,"row":{{"id":"{one}"}}}}'.encode() for one in ids]
    snapshot = area.publish("raw", SNAPSHOT, SnapshotHeader(captured_at=NOW), lines)
    found = Cohort(markets=[market(number) for number in range(COUNT)], rejected=[], excluded={})
    cohort = stage_cohort(area, "cohort", found, snapshot=snapshot, limit=None, dagster_run_id="d")
    experiments = [StagedExperiment(attempt(name, mandatory=False), file) for name, file in staged.items()]
    return RunContents(KEY, cohort, cohort_markets(cohort), snapshot, experiments, FixedClock(NOW))


def test_each_market_has_its_own_outcomes_whatever_their_order(area: StagingArea) -> None:
    shuffled = random.Random(7).sample(range(COUNT), COUNT)
    run = contents(
        area,
        sorted=outcomes(area, "sorted", list(range(COUNT))),
        reversed=outcomes(area, "reversed", list(reversed(range(COUNT)))),
        shuffled=outcomes(area, "shuffled", shuffled),
        more=outcomes(area, "more", list(range(-5, COUNT + 5))),
    )
    records = list(run.records())
    assert [record.market.market_id for record in records] == [f"m{number}" for number in range(COUNT)]
    for number, record in enumerate(records):
        assert [result.probability for result in record.results] == [number / 100] * 4
        assert record.raw == b'{"id":"m%d"}' % number


def test_a_market_that_an_experiment_lacks_is_not_run_by_it_alone(area: StagingArea) -> None:
    some = [number for number in range(COUNT) if number % 3]
    run = contents(area, some=outcomes(area, "some", some), none=None, all=outcomes(area, "all", list(range(COUNT))))
    for number, record in enumerate(run.records()):
        statuses = [result.status for result in record.results]
        assert statuses == ["completed" if number % 3 else "not_run", "not_run", "completed"]
    assert run.counts["some"] == {"completed": len(some), "not_run": COUNT - len(some)}


def test_of_damaged_outcomes_nothing_is_handed_on(area: StagingArea, tmp_path: Path) -> None:
    whole = outcomes(area, "whole", list(range(COUNT)))
    run = contents(area, one=whole, two=outcomes(area, "damaged", list(range(COUNT))))
    (tmp_path / "damaged").write_bytes((tmp_path / "whole").read_bytes()[:-9])
    with pytest.raises(StagedFileBroken):
        next(run.records())


def test_of_outcomes_whose_damage_shows_at_their_end_nothing_is_handed_on_either(
    area: StagingArea, tmp_path: Path
) -> None:
    run = contents(area, one=outcomes(area, "one", list(range(COUNT))))
    outcomes(area, "fewer", list(range(COUNT - 1)))
    (tmp_path / "one").write_bytes((tmp_path / "fewer").read_bytes())
    with pytest.raises(StagedFileBroken, match=f"holds {COUNT - 1} rows where its header says {COUNT}"):
        next(run.records())
