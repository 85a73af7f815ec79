"""Dagster's storage in SQLite with connections that stay open: the same files, read by everybody else as before."""

import fcntl
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import dagster as dg
import psutil  # type: ignore[import-untyped]
import pytest

from predictbench_assets.instance.local import LocalStorage, instance_for_many_runs
from predictbench_assets.launch.commands import CLONE, STORAGE_LOCK, prepare_home
from predictbench_assets.settings import load_settings


@dg.asset
def counted() -> dg.MaterializeResult:  # type: ignore[type-arg]
    return dg.MaterializeResult(metadata={"rows": 3})


days = dg.StaticPartitionsDefinition(["monday", "tuesday"])


@dg.asset(partitions_def=days)
def first(context: dg.AssetExecutionContext) -> dg.Output[int]:
    return dg.Output(1, data_version=dg.DataVersion(f"version of {context.partition_key}"))


@dg.asset(partitions_def=days, check_specs=[dg.AssetCheckSpec("positive", asset="second")])
def second(first: int) -> Iterator[dg.Output[int] | dg.AssetCheckResult]:
    yield dg.Output(first + 1, metadata={"rows": 2})
    yield dg.AssetCheckResult(check_name="positive", passed=True)


EVERY_RUN = {"event_logs", "asset_keys", "asset_event_tags", "asset_check_executions", "runs", "run_tags"}
DIFFERS = re.compile(
    r'\b[0-9a-f]{8}-[0-9a-f-]{27}\b|[0-9a-f]{40,}|-?\b\d+(\.\d+)?(ms|s)?\b|(?<="log_key": ")\w+|/tmp\S*'
)
"""Numbers (of rows, times, processes), ids and places."""


def tables(home: Path) -> dict[str, Counter[str]]:
    """What the files below a folder hold, table by table, without what is another in every run."""
    found: dict[str, Counter[str]] = {}
    for file in sorted(home.rglob("*.db")):
        with closing(sqlite3.connect(file)) as connection:
            for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                rows = connection.execute(f"SELECT * FROM {table}") if table in EVERY_RUN else ()
                name = f"{'all runs' if file.stem == 'index' else 'a run'}: {table}"
                found.setdefault(name, Counter()).update(DIFFERS.sub("#", str(row)) for row in rows)
    return found


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(CLONE / "dagster.yaml", tmp_path)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setenv("PREDICTBENCH_ENV_FILE", "")
    return tmp_path


def test_an_ordinary_instance_reads_what_was_kept_while_it_is_written_and_few_files_are_open(home: Path) -> None:
    runs = []
    with instance_for_many_runs() as instance, dg.DagsterInstance.get() as ordinary:
        for _ in range(3):
            done = dg.materialize([counted], instance=instance)
            runs.append(done.run_id)
            assert ordinary.get_run_by_id(done.run_id).status is dg.DagsterRunStatus.SUCCESS  # type: ignore[union-attr]
        kept = {Path(file.path).stem for file in psutil.Process().open_files() if home in Path(file.path).parents}
        assert {run for run in runs if run in kept} == {runs[-1]}
        event = ordinary.get_latest_materialization_event(counted.key)
        assert event is not None
        assert event.run_id == runs[-1]
        assert [len(ordinary.all_logs(run)) for run in runs] == [len(instance.all_logs(run)) for run in runs]


def test_what_it_keeps_is_what_an_ordinary_instance_keeps(home: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    kept: list[dict[str, Counter[str]]] = []
    told: list[list[object]] = []
    for make in (dg.DagsterInstance.get, instance_for_many_runs):
        with make() as instance:
            for day in ("monday", "tuesday", "monday"):
                done = dg.materialize([first, second], instance=instance, partition_key=day)
                made = instance.get_latest_materialization_event(second.key)
                assert made is not None
                assert made.run_id == done.run_id
                assert made.asset_materialization is not None
                provenance = made.asset_materialization.tags
                assert provenance is not None
                (checked,) = done.get_asset_check_evaluations()
                assert checked.target_materialization_data is not None
                told.append([provenance["dagster/input_data_version/first"], done.success])
                assert checked.target_materialization_data.run_id == done.run_id
                (latest,) = instance.fetch_materializations(second.key, limit=1).records
                assert checked.target_materialization_data.storage_id == latest.storage_id
        kept.append(tables(home))
        (home / "history").rename(tmp_path_factory.mktemp("before") / "history")
    assert told[:3] == told[3:]
    assert told[0] == told[2] != told[1]
    assert kept[0] == kept[1]
    assert all(kept[0][f"all runs: {table}"] for table in EVERY_RUN - {"runs", "run_tags"})


def test_processes_that_make_its_files_at_once_make_them_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        for storage in pool.map(lambda _: LocalStorage(str(tmp_path)), range(4)):
            storage.event_log_storage.dispose()
    assert revisions(tmp_path) == MADE_ONCE


def test_a_run_and_the_ui_that_begin_at_once_in_a_new_home_make_its_files_once(tmp_path: Path) -> None:
    """Each prepares the home, and then starts a process of Dagster's own, which makes what it does not find."""
    settings, home = load_settings(), tmp_path / "dagster"

    def begin(_: int) -> None:
        prepare_home(settings, home, starting=True)
        command = [sys.executable, "-c", "import dagster; dagster.DagsterInstance.get()"]
        subprocess.run(command, env=os.environ | {"DAGSTER_HOME": str(home)}, check=True, capture_output=True)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(begin, range(2))) == [None, None]
    assert revisions(home) == MADE_ONCE
    assert is_free(home)


def test_nobody_waits_where_the_storage_is_elsewhere_or_goes_with_its_folder(tmp_path: Path) -> None:
    shared = load_settings(dagster_postgres_url="postgres://d:hunter33@h/db")
    assert is_free(prepare_home(shared, tmp_path / "shared", starting=True))
    assert is_free(prepare_home(load_settings(), tmp_path / "dry", temporary=True, starting=True))
    assert is_free(prepare_home(load_settings(), tmp_path / "of_a_backfill"))
    assert not is_free(prepare_home(load_settings(), tmp_path / "new", starting=True))


def is_free(home: Path) -> bool:
    """Whether a home can be prepared by somebody else now."""
    with (home / STORAGE_LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


MADE_ONCE = dict.fromkeys(("runs.db", "index.db", "schedules.db"), 1)


def revisions(home: Path) -> dict[str, int]:
    """The number of revisions that each file of Dagster's says it has."""
    found = {}
    for file in home.rglob("*.db"):
        with closing(sqlite3.connect(file)) as connection:
            (found[file.name],) = connection.execute("SELECT count(*) FROM alembic_version").fetchone()
    return found
