"""Old files of a machine: folders of runs, debug files, and what killed processes left."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from predictbench_assets.retention.local_files import prune_artifacts, prune_leftovers

NOW = datetime(2026, 6, 30, 12, tzinfo=UTC)
OLD, YOUNG = NOW - timedelta(days=8), NOW - timedelta(days=6)


def made(path: Path, at: datetime | None = None, size: int = 10) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    if at is not None:
        for one in (path, path.parent):
            os.utime(one, (at.timestamp(), at.timestamp()))
    return path


def test_folders_go_by_when_they_were_made(tmp_path: Path) -> None:
    gone = [
        made(tmp_path / "runs/2026-01-01_w7_20260301T070000_ab/log.jsonl"),
        made(tmp_path / "debug/2026-03-01_w7/raw_markets.json"),
    ]
    stays = [
        made(tmp_path / "runs/2026-01-01_w7_20260302T070000_repaired/log.jsonl"),  # 120 days ago
        made(tmp_path / "runs/2026-01-01_w7_20261301T070000_no_day/log.jsonl"),
        made(tmp_path / "runs/mine/log.jsonl"),
        made(tmp_path / "debug/2026-03-02_w7/raw_markets.json"),
        made(tmp_path / "summary_2026-01-01_w7.json"),
    ]
    would = prune_artifacts(tmp_path, now=NOW, days=120, dry_run=True)
    assert all(path.exists() for path in (*gone, *stays))
    did = prune_artifacts(tmp_path, now=NOW, days=120)
    assert (would.count, would.bytes) == (did.count, did.bytes) == (2, 20)
    assert not any(path.exists() for path in gone)
    assert all(path.exists() for path in stays)
    assert prune_artifacts(tmp_path / "nowhere", now=NOW, days=120).count == 0


@pytest.mark.parametrize(("at", "goes"), [(OLD, True), (YOUNG, False)])
def test_what_killed_processes_left_goes_after_a_week(tmp_path: Path, at: datetime, goes: bool) -> None:
    half = made(tmp_path / "staging/raw_markets/.7.jsonl.zst.1234abcd.partial", at)
    whole = made(tmp_path / "staging/raw_markets/7.jsonl.zst", at)
    dry = made(tmp_path / "tmp/predictbench-dry-run-abc/log", at)
    printed = made(tmp_path / "tmp/predictbench-compute-logs-abc/x.out", at)
    other = made(tmp_path / "tmp/someone-elses/log", at)
    for dry_run in (True, False):
        pruned = prune_leftovers([tmp_path / "staging"], tmp_path / "tmp", now=NOW, dry_run=dry_run)
        assert pruned.count == (3 if goes else 0)
        assert half.exists() == dry.exists() == printed.exists() == (dry_run or not goes)
    assert whole.exists()
    assert other.exists()
