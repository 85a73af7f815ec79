"""What the summary of compared partitions says, and its exit code."""

import json
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from predictbench_assets.ingestion.parity import Parity, PriceDifferences
from predictbench_assets.reporting.parity import ParityLine, ParityOutcome, ParitySummary
from predictbench_assets.runs import RunKey

KEY = RunKey(date(2026, 11, 23), 7)
NOW = datetime(2026, 11, 23, 7, tzinfo=UTC)
NONE = PriceDifferences(markets=0, median=None, p90=None, p99=None)


def parity(**changes: object) -> Parity:
    values = {
        "captured": 1000,
        "reconstructed": 990,
        "both": 990,
        "missing": {"ends at another time": 9, "no price": 1},
        "missing_good": {},
        "too_many": {},
        "good_prices": PriceDifferences(markets=900, median=0.0, p90=0.004, p99=0.013),
        "prices": NONE,
        "changed": {"question": 6},
    }
    return Parity.model_validate(values | changes)


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [
        (["within", "missing"], 0),
        (["within", "beyond"], 1),
        (["within", "failed"], 1),
        (["missing", "failed"], 1),
        (["missing", "missing"], 3),
        ([], 3),
    ],
)
def test_the_exit_code(outcomes: list[ParityOutcome], code: int) -> None:
    assert ParitySummary(partitions=tuple(ParityLine.of(KEY, one, "why") for one in outcomes)).exit_code == code


def test_a_comparison_is_one_line_of_the_table_and_all_of_it_is_in_the_file(tmp_path: Path) -> None:
    within = ParityLine.compared(KEY, parity(), as_of=NOW, seconds=12.34, requests=456)
    beyond = ParityLine.compared(KEY, parity(missing={"closed before": 360}), as_of=NOW, seconds=1, requests=2)
    summary = ParitySummary(partitions=(within, beyond))

    told = json.loads(summary.write(tmp_path / "parity.json").read_text())["partitions"]

    assert [one["outcome"] for one in told] == ["within", "beyond"]
    assert told[0]["parity"]["missing"] == {"ends at another time": 9, "no price": 1}
    assert told[1]["parity"]["beyond"] == ["36.0% markets missing, of 2% that are tolerated"]
    *_, first, second = (tmp_path / "parity.md").read_text().splitlines()
    assert (
        "| 1,000 | 990 | 9 ends at another time, 1 no price | 0 | 0.0000 0.0040 0.0130 | - - - | 6 question |" in first
    )
    assert "36.0% markets missing" in second
