"""Which summary stands in the usual place when two runs of one partition were at work."""

import os
from datetime import date
from pathlib import Path

import pytest

from predictbench_assets.launch.child import ChildLog
from predictbench_assets.launch.request import DailyOptions
from predictbench_assets.launch.run_summary import SUMMARY, publish_summary, summary_of
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


def test_what_a_stopped_run_says_of_its_failure_is_what_came_of_the_signal(tmp_path: Path) -> None:
    settings = load_settings(artifacts_dir=tmp_path)
    summary(1, failed=True).write(tmp_path / SUMMARY)
    stopped = ChildLog(stage="raw_markets", signal=15, exit_code=1)
    assert summary_of(settings, tmp_path, KEY, stopped, DailyOptions()).reason == (
        "stopped by signal 15; run it again, it goes on where it stopped"
    )


def test_what_had_failed_before_a_signal_and_what_succeeded_stay(tmp_path: Path) -> None:
    settings = load_settings(artifacts_dir=tmp_path)
    failed_before = ChildLog(stage="raw_markets", reason="the API changed", signal=15, exit_code=1)
    for left in (summary(1, failed=True), summary(1, failed=False)):
        left.write(tmp_path / SUMMARY)
        assert summary_of(settings, tmp_path, KEY, failed_before, DailyOptions()) == left
    assert summary_of(settings, tmp_path, KEY, ChildLog(signal=15, exit_code=0), DailyOptions()) == left
