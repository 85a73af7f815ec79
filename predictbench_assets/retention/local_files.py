"""Old files of this machine: the folders of runs and debug files, and what a killed process left half-written."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from predictbench_assets.retention.pruned import Pruned

_RUN_FOLDER = re.compile(r"\d{4}-\d{2}-\d{2}_w\d+_(\d{4})(\d{2})(\d{2})T\d{6}_.+")
_DEBUG_FOLDER = re.compile(r"(\d{4})-(\d{2})-(\d{2})_w\d+")
_SCRATCH = ("predictbench-dry-run-*", "predictbench-compute-logs-*")
"""Folders of dry runs, and of what steps print until it is in staging."""
_LEFT_BEHIND = timedelta(days=7)


def prune_artifacts(artifacts: Path, *, now: datetime, days: int, dry_run: bool = False) -> Pruned:
    """Remove the folders of runs that were made more than `days` ago, and debug files of runs of days before that.

    Summaries stay: they are small, and the record of what happened.
    """
    pruned = Pruned("folders of runs and debug files")
    before = now.date() - timedelta(days=days)
    for folder in (
        *_older(artifacts / "runs", _RUN_FOLDER, before),
        *_older(artifacts / "debug", _DEBUG_FOLDER, before),
    ):
        pruned.add(1, _size(folder))
        if not dry_run:
            shutil.rmtree(folder)
    return pruned


def prune_leftovers(folders: list[Path], scratch: Path, *, now: datetime, dry_run: bool = False) -> Pruned:
    """Remove what processes left when they were killed, more than a week ago.

    Args:
        folders: folders that may hold half-written files, at any depth.
        scratch: the temporary folder, in which runs make theirs.
    """
    pruned = Pruned("what killed processes left")
    for folder in folders:
        for file in folder.rglob(".*.partial"):
            if _left_behind(file, now):
                pruned.add(1, file.stat().st_size)
                if not dry_run:
                    file.unlink(missing_ok=True)
    for folder in (one for pattern in _SCRATCH for one in scratch.glob(pattern)):
        if _is_ours(folder) and _left_behind(folder, now):
            pruned.add(1, _size(folder))
            if not dry_run:
                shutil.rmtree(folder, ignore_errors=True)
    return pruned


def _left_behind(path: Path, now: datetime) -> bool:
    with suppress(FileNotFoundError):
        return datetime.fromtimestamp(path.stat().st_mtime, UTC) < now - _LEFT_BEHIND
    return False


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _older(folder: Path, pattern: re.Pattern[str], before: date) -> Iterator[Path]:
    for one in sorted(folder.glob("*")):
        match = pattern.fullmatch(one.name)
        if match is not None and one.is_dir():
            with suppress(ValueError):  # no day of the calendar: nothing of ours
                if date(*map(int, match.groups())) < before:
                    yield one


def _is_ours(folder: Path) -> bool:
    """True where this user made it; where users are no numbers, temporary folders are their own anyway."""
    return not hasattr(os, "geteuid") or folder.stat().st_uid == os.geteuid()
