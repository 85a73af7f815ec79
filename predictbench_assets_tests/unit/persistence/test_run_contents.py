"""The cohort of a run joined with the staged outcomes of its experiments, whatever order these have."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from predictbench_assets.clock import FixedClock
from predictbench_assets.exchanges.stats import ApiStats
from predictbench_assets.experiments.outcomes import OUTCOMES, Outcome
from predictbench_assets.experiments.testing import CAPTURED_AT, make_market
from predictbench_assets.ingestion.cohort import cohort_markets, stage_cohort
from predictbench_assets.ingestion.headers import SnapshotHeader
from predictbench_assets.ingestion.snapshot import SNAPSHOT
from predictbench_assets.markets.cohort import Cohort
from predictbench_assets.persistence.records import ExperimentAttempt, MarketRecord
from predictbench_assets.persistence.run_contents import RunContents, StagedExperiment
from predictbench_assets.runs import RunKey
from predictbench_assets.staging import StagedFile, StagedFileBroken, StagingArea

IDS = ("1", "2", "3", "4")
NAME = "uniform"


def staged_outcomes(area: StagingArea, ids: Sequence[str]) -> StagedFile:
    lines = [
        Outcome(market_id=one, status="completed", probability=int(one) / 10, probabilities=(0.5, 0.5)).encode()
        for one in ids
    ]
    return area.publish("outcomes.jsonl.zst", OUTCOMES, {}, lines)


def records_with(area: StagingArea, outcomes: StagedFile) -> Iterator[MarketRecord]:
    rows = (f'{{"market_id":"{one}","quote":null,"row":{{"id":"{one}"}}}}'.encode() for one in IDS)
    made = SnapshotHeader(
        captured_at=CAPTURED_AT,
        exchange="bourse.test",
        dagster_run_id="",
        received_sha256="",
        received_bytes=0,
        api=ApiStats().rounded(),
        recheck=None,
        quotes=0,
        quotes_available=False,
        quotes_reason=None,
        rows_by_source={},
    )
    snapshot = area.publish("snapshot.jsonl.zst", SNAPSHOT, made, rows)
    given = Cohort(markets=[make_market(one) for one in IDS], rejected=[], excluded={})
    cohort = stage_cohort(area, "cohort.jsonl.zst", given, snapshot=snapshot, limit=None, dagster_run_id="")
    attempt = ExperimentAttempt(
        name=NAME,
        version="1",
        description="",
        information="blind",
        mandatory=False,
        status="completed",
        content_hash="",
    )
    staged = [StagedExperiment(attempt, outcomes)]
    key = RunKey(CAPTURED_AT.date(), 7)
    return RunContents(key, cohort, cohort_markets(cohort), snapshot, staged, FixedClock(CAPTURED_AT)).records()


@pytest.mark.parametrize(
    ("ids", "stored"),
    [
        (("1", "2", "3", "4"), {"1": 0.1, "2": 0.2, "3": 0.3, "4": 0.4}),
        (("4", "3", "2", "1"), {"1": 0.1, "2": 0.2, "3": 0.3, "4": 0.4}),
        (("1", "9", "4", "2"), {"1": 0.1, "2": 0.2, "3": None, "4": 0.4}),
        ((), {"1": None, "2": None, "3": None, "4": None}),
    ],
    ids=["in order", "backwards", "one missing, one of another market", "empty"],
)
def test_each_market_has_its_own_outcome(tmp_path: Path, ids: Sequence[str], stored: dict[str, float | None]) -> None:
    area = StagingArea(str(tmp_path))
    found = list(records_with(area, staged_outcomes(area, ids)))
    assert {one.market.market_id: one.results[0].probability for one in found} == stored
    assert {one.market.market_id: one.results[0].status for one in found} == {
        one: "not_run" if probability is None else "completed" for one, probability in stored.items()
    }


def test_of_a_damaged_file_not_even_the_first_outcomes_are_used(tmp_path: Path) -> None:
    area = StagingArea(str(tmp_path))
    outcomes = staged_outcomes(area, IDS)
    other = staged_outcomes(StagingArea(str(tmp_path / "other")), ("1", "2", "3"))
    Path(outcomes.path).write_bytes(Path(other.path).read_bytes())
    with pytest.raises(StagedFileBroken, match="holds 3 rows where its header says 4"):
        next(records_with(area, outcomes))
