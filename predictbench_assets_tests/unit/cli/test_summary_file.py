"""Which summary stands in the usual place when two runs of one partition were at work."""

import os
from datetime import date
from pathlib import Path

import pytest

from predictbench_assets.cli.daily import DailyOptions, publish_summary
from predictbench_assets.reporting.summary import RunSummary
from predictbench_assets.runs import RunKey
from predictbench_assets.settings import load_settings

KEY = RunKey(date(2026, 11, 23), 7)


def summary(attempt: int, *, failed: bool) -> RunSummary:
    reason = "attempt 2 took over" if failed else None
    made = RunSummary.failed(KEY, stage="persisted_run", reason=reason or "", attempt=attempt)
    return made if failed else made.model_copy(update={"status": "completed", "stage": None, "reason": None})


@pytest.mark.parametrize(("earlier", "standing"), [(False, 2), (True, 1)], ids=["while it ran", "before it began"])
def test_a_run_that_was_overtaken_leaves_the_newer_summary(tmp_path: Path, earlier: bool, standing: int) -> None:
    settings = load_settings(artifacts_dir=tmp_path)
    usual = tmp_path / "summary_2026-11-23_w7.json"
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run_config.yaml").touch()
    publish_summary(settings, summary(2, failed=False), DailyOptions(), folder)
    if earlier:
        os.utime(usual, (0, 0))
    publish_summary(settings, summary(1, failed=True), DailyOptions(), folder)
    assert RunSummary.read(usual).attempt == standing


def test_a_later_attempt_that_fails_is_shown(tmp_path: Path) -> None:
    settings = load_settings(artifacts_dir=tmp_path)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run_config.yaml").touch()
    publish_summary(settings, summary(1, failed=False), DailyOptions(), folder)
    publish_summary(settings, summary(2, failed=True), DailyOptions(), folder)
    assert RunSummary.read(tmp_path / "summary_2026-11-23_w7.json").status == "failed"
