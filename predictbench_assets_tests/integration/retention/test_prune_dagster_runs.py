"""Dagster's old runs go with all they left; which partitions are materialized is still known."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.storage.partition_status_cache import AssetPartitionStatus
from sqlalchemy import create_engine, inspect

from predictbench_assets.instance.run_retention import dagster_instance, prune_runs
from predictbench_assets.partitions import partition_key, run_partitions
from predictbench_assets.runs import RunKey
from predictbench_assets.sandbox.world import World
from predictbench_assets.settings import load_settings
from predictbench_assets_tests.kit.daily_run import BASELINE, DailyRun, MakeRun
from predictbench_assets_tests.kit.places import CLONE

DAY = date(2026, 3, 2)
OLD, NEWER = RunKey(DAY, 7), RunKey(DAY, 8)
ASSETS = [
    dg.AssetKey([*name.split("/")]) for name in ("target_window", "raw_markets", "normalized_markets", "persisted_run")
]


def later() -> datetime:
    """When every run of this test is more than a hundred days old."""
    return datetime.now(UTC) + timedelta(days=101)


@pytest.fixture
def daily(make_run: MakeRun) -> DailyRun:
    return make_run(World(markets_per_day=10), PROCESSING_EXPERIMENTS=BASELINE)


@pytest.fixture(params=["sqlite", "postgres"])
def instance(request: pytest.FixtureRequest, daily: DailyRun) -> Iterator[dg.DagsterInstance]:
    """The instance of a laptop, or of a deployment, that keeps what steps print in a folder."""
    home = daily.folder / request.param
    home.mkdir()
    config = yaml.safe_load((CLONE / "dagster.yaml").read_text())
    config["compute_logs"] = {
        "module": "dagster._core.storage.local_compute_log_manager",
        "class": "LocalComputeLogManager",
        "config": {"base_dir": str(daily.folder / "logs")},
    }
    if request.param == "postgres":
        url = daily.database_url.replace("+psycopg:", "+psycopg2:")
        config["storage"] = {"postgres": {"postgres_url": url}}
    (home / "dagster.yaml").write_text(yaml.safe_dump(config))
    with dg.DagsterInstance.from_config(str(home)) as made:
        yield made


def statuses(instance: dg.DagsterInstance, key: RunKey) -> set[AssetPartitionStatus | None]:
    found = set()
    for asset in ASSETS:
        answer = instance.get_status_by_partition(asset, [partition_key(key)], run_partitions)
        found.add(None if answer is None else answer[partition_key(key)])
    return found


def test_old_runs_go_with_their_events_and_logs(daily: DailyRun, instance: dg.DagsterInstance) -> None:
    for key in (OLD, NEWER):
        assert daily.here(key, instance=instance).exit_code == 0
    newer, old = instance.get_run_ids()
    assert len(instance.all_logs(old)) > 50
    assert list((daily.folder / "logs").rglob(f"{old}*"))

    assert prune_runs(instance, now=later(), days=102).count == 0
    assert prune_runs(instance, now=later(), days=100, dry_run=True).count == 1
    assert len(instance.get_run_ids()) == 2

    pruned = prune_runs(instance, now=later(), days=100)
    assert (pruned.count, pruned.kept) == (1, 0)
    assert instance.get_run_ids() == [newer], "the newest materialization of each asset stays"
    assert not [path for folder in ("logs", "sqlite", "postgres") for path in (daily.folder / folder).rglob(f"{old}*")]
    with dg.DagsterInstance.from_ref(instance.get_ref()) as another:  # this one has the file still open
        assert another.all_logs(old) == []
    assert statuses(instance, OLD) == statuses(instance, NEWER) == {AssetPartitionStatus.MATERIALIZED}
    assert len(instance.all_logs(newer)) > 50
    assert prune_runs(instance, now=later(), days=100).count == 0

    # A partition that is run again is materialized as ever.
    assert daily.here(OLD, instance=instance).exit_code == 0
    assert statuses(instance, OLD) == {AssetPartitionStatus.MATERIALIZED}


def test_a_run_that_never_ended_is_told_and_left(daily: DailyRun, instance: dg.DagsterInstance) -> None:
    instance.add_run(dg.DagsterRun("daily_run", status=dg.DagsterRunStatus.STARTED))
    pruned = prune_runs(instance, now=later(), days=100)
    assert (pruned.count, pruned.kept) == (0, 1)
    assert any("never ended" in note for note in pruned.notes)
    assert len(instance.get_run_ids()) == 1


def test_a_deletion_that_is_cut_short_is_finished_the_next_time(
    daily: DailyRun, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        instance.add_run(dg.DagsterRun("daily_run", status=dg.DagsterRunStatus.FAILURE))

    class Killed(BaseException):
        pass

    def killed(_: str) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(instance, "delete_run", killed)
        with pytest.raises(Killed):
            prune_runs(instance, now=later(), days=100)
    assert len(instance.get_run_ids()) == 2
    assert prune_runs(instance, now=later(), days=100).count == 2
    assert instance.get_run_ids() == []


def test_which_instance(
    daily: DailyRun, empty_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREDICTBENCH_ENV_FILE", "")
    local = load_settings(predictbench_home=tmp_path)
    with dagster_instance(local) as none:
        assert none is None
    (tmp_path / "dagster").mkdir()
    with dagster_instance(local) as instance:
        assert instance is not None
        assert instance.root_directory == str(tmp_path / "dagster")
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", "to be restored when the test is over")
    monkeypatch.delenv("DAGSTER_POSTGRES_URL")
    shared = load_settings(predictbench_home=tmp_path, dagster_postgres_url=empty_database_url)
    with dagster_instance(shared) as instance:
        assert instance is not None
        assert prune_runs(instance, now=later(), days=1).count == 0
    engine = create_engine(empty_database_url)
    assert "event_logs" in inspect(engine).get_table_names()
    engine.dispose()
