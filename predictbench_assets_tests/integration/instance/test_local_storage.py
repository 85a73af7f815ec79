"""Dagster's storage in SQLite with connections that stay open: the same files, read by everybody else as before."""

import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import dagster as dg
import psutil  # type: ignore[import-untyped]
import pytest

from predictbench_assets.instance.local import LocalStorage, instance_for_many_runs
from predictbench_assets.launch.commands import CLONE


@dg.asset
def counted() -> dg.MaterializeResult:  # type: ignore[type-arg]
    return dg.MaterializeResult(metadata={"rows": 3})


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


def test_processes_that_make_its_files_at_once_make_them_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        for storage in pool.map(lambda _: LocalStorage(str(tmp_path)), range(4)):
            storage.event_log_storage.dispose()
    revisions = {}
    for file in tmp_path.rglob("*.db"):
        with closing(sqlite3.connect(file)) as connection:
            revisions[file.name] = connection.execute("SELECT count(*) FROM alembic_version").fetchone()
    assert revisions == dict.fromkeys(("runs.db", "index.db", "schedules.db"), (1,))
