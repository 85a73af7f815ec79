"""Days of the soak, with the product's real commands."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from predictbench_assets_tests.kit.places import CLONE

pytestmark = [pytest.mark.long, pytest.mark.timeout(5400)]


def soak(folder: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, report and output of a soak."""
    done = subprocess.run(
        [sys.executable, "-m", "soak", "--folder", str(folder / "s"), "--json", str(folder / "r.json"), *arguments],
        cwd=CLONE,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, json.loads((folder / "r.json").read_text()), done.stdout + done.stderr


def test_ten_days_with_a_fault_on_each_lose_nothing(tmp_path: Path) -> None:
    code, report, output = soak(tmp_path, "--days", "10", "--seed", "14")

    assert code == 0, output
    assert (report["passed"], report["days"], len(report["faults"])) == (True, 10, 10)
    looked_at = {check["check"]: check["looked_at"] for check in report["audit"]}
    assert looked_at["every day is stored, nothing is left running"] == 20
    assert all(looked_at.values())


def test_a_quiet_day_is_audited_too(tmp_path: Path) -> None:
    code, report, output = soak(tmp_path, "--days", "1", "--seed", "2", "--no-faults", "--markets", "20")

    assert code == 0, output
    assert report["faults"] == []
    [failed] = [check for check in report["audit"] if "went well" in check["check"]]
    assert failed["facts"]["failed and run again"] == 0
