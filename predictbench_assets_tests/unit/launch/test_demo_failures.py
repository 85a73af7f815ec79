"""Why one's own experiment failed in a demo."""

import pytest

from predictbench_assets.experiments.reasons import ReasonCount
from predictbench_assets.launch.demo_days import print_failures
from predictbench_assets.reporting.summary import ExperimentSummary


def test_reasons_of_the_run_have_their_place_and_do_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    reasons = (
        ReasonCount(status="failed", markets=1200, reason="ValueError: \x9b2J\u202eon", place="mine.py:12 in run"),
        ReasonCount(status="failed", markets=1, reason="no answer in time"),
        ReasonCount(status="skipped", markets=5, reason="no price"),
    )
    print_failures(ExperimentSummary(version="1", status="failed", failed=1201, reasons=reasons), of="of today's ")
    assert capsys.readouterr().out.splitlines() == [
        r"    of today's 1,200 x ValueError: \x9b2J\u202eon (mine.py:12 in run)",
        "    of today's 1 x no answer in time",
    ]
