"""A whole day, long settled, is pruned as the command does it, and can be run again from what is left."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import Engine, make_url

from predictbench_assets.cli.main import main
from predictbench_assets.database.embedded import EmbeddedPostgres
from predictbench_assets.database.engine import make_engine
from predictbench_assets.experiments.history import settled_markets
from predictbench_assets.retention import staged_files
from predictbench_assets.retention.pruned import Pruned
from predictbench_assets.retention.staged_files import ArchiveInStaging, archive_snapshots, prune_journals, prune_staged
from predictbench_assets.settings import DEFAULT_EXPERIMENTS, all_variables
from predictbench_assets.staging import StagedFileBroken, StagingArea
from predictbench_assets_tests.kit.daily_run import KEY, DailyRun, MakeRun, differences
from predictbench_assets_tests.kit.database import administer, database_of
from predictbench_assets_tests.kit.other_store import OtherStore

SETTLED = datetime(2026, 3, 12, tzinfo=UTC)
NOW = datetime(2026, 9, 1, tzinfo=UTC)
DAYS: dict[str, Any] = {"now": NOW, "days": 120}
Day = tuple[DailyRun, str, Path]
EXPERIMENTS = len(DEFAULT_EXPERIMENTS)
"""Each has a staged file and a journal; the window, the snapshot's pointer and the cohort are three more files."""


def settle(daily: DailyRun, state: str = "final", *, but: int = 0) -> None:
    """Observe that the markets of the run have settled, but for some."""
    with make_engine(daily.database_url, pool_size=0).begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO predictbench.resolution_observations (market_id, observed_at, source, state, outcome)"
            " SELECT market_id, %s, 'gamma', %s, 1.0 FROM predictbench.processed_markets ORDER BY market_id OFFSET %s",
            (SETTLED, state, but),
        )


@pytest.fixture(scope="module")
def day(make_run: MakeRun, postgres_server: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Day:
    """A day that was run and stored once: its runner, its database as it was then, and a copy of its folder."""
    daily = make_run()
    assert daily.here().exit_code == 0
    name = make_url(daily.database_url).database
    administer(postgres_server, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    return daily, f"TEMPLATE {name}", shutil.copytree(daily.folder, tmp_path_factory.mktemp("day") / "copy")


@pytest.fixture
def ran(day: Day, postgres_server: EmbeddedPostgres) -> Iterator[DailyRun]:
    """The day as it was when it had been stored, to change; its snapshot is registered with the path it has."""
    daily, database, copy = day
    shutil.rmtree(daily.folder)
    shutil.copytree(copy, daily.folder)
    with database_of(postgres_server, database) as url:
        yield replace(daily, database_url=url)


@pytest.fixture
def engine(ran: DailyRun) -> Iterator[Engine]:
    made = make_engine(ran.database_url)
    yield made
    made.dispose()


@pytest.fixture
def archive(ran: DailyRun) -> StagingArea:
    return StagingArea(str(ran.folder / "home" / "archive"))


def moved(engine: Engine, area: StagingArea, archive: StagingArea, **how: Any) -> Pruned:
    return archive_snapshots(engine, area, archive, **(DAYS | {"settled_days": 90} | how))


def prune(daily: DailyRun, *arguments: str) -> Any:
    """`predictbench prune --json`, in this process."""
    nothing = dict.fromkeys(all_variables())
    environment = nothing | daily.environment(daily.folder / "none", {"PREDICTBENCH_NOW": NOW.isoformat()})
    done = CliRunner(env=environment).invoke(main, ["prune", "--json", *arguments])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def counts(said: dict[str, Any]) -> dict[str, int]:
    return {one["what"]: one["count"] for one in said["pruned"]}


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def everything_read(daily: DailyRun) -> list[Any]:
    """What scores are made of."""
    engine = make_engine(daily.database_url, pool_size=0)
    return [
        list(settled_markets(engine, NOW)),
        daily.rows("SELECT * FROM predictbench.latest_experiment_results ORDER BY 1, 7"),
        daily.rows("SELECT * FROM predictbench.market_resolutions ORDER BY 1"),
    ]


def test_a_day_that_is_over_and_done_with(ran: DailyRun) -> None:
    home = ran.folder / "home"
    runs = home / "artifacts" / "runs"
    for name in ("2026-03-02_w7_20260302T070000_a", "2026-03-02_w7_20260831T070000_b", "something else"):
        (runs / name).mkdir(parents=True)
        (runs / name / "log.jsonl").write_text("{}")
    settle(ran)
    reads, tables = everything_read(ran), ran.tables()
    before = files(home)
    would = prune(ran, "--dry-run")
    assert files(home) == before
    assert ran.tables() == tables

    said = prune(ran)
    assert (
        counts(said)
        == counts(would)
        == {
            "raw snapshots of settled markets": 40,
            "frozen snapshots, moved to the archive": 1,
            "staged files": 3 + EXPERIMENTS,
            "journals of experiments": EXPERIMENTS,
            "folders of runs and debug files": 1,
            "what killed processes left": 0,
            "Dagster's runs with their event logs": 0,
        }
    )
    assert ran.rows("SELECT count(*) FROM predictbench.processed_markets WHERE raw_snapshot IS NOT NULL") == [(0,)]
    assert files(home / "staging") == set()
    assert sorted(path.name for path in runs.iterdir()) == ["2026-03-02_w7_20260831T070000_b", "something else"]
    [(uri,)] = ran.rows("SELECT uri FROM predictbench.snapshots")
    assert uri.startswith(f"file://{home}/archive/snapshots/")
    assert everything_read(ran) == reads
    assert set(counts(prune(ran)).values()) == {0}, "the second time there is nothing to do"

    # The day can be run again: its snapshot is read where it is now, and the rows are what they were.
    requests = sum(ran.sandbox.requests.values())
    again = ran.here(PREDICTBENCH_NOW=NOW.isoformat())
    assert again.exit_code == 0
    assert again.said["snapshot"]["reused"] is True
    assert again.metadata("raw_markets")["uri"] == uri
    assert sum(ran.sandbox.requests.values()) == requests
    assert [row[:2] for row in ran.rows("SELECT status, processed_markets FROM predictbench.processing_runs")] == [
        ("completed", 40)
    ]
    changed = differences(tables, ran.tables())
    assert not {table for table in changed if table not in ("archives", "processed_markets")}, changed
    assert everything_read(ran)[0] == reads[0]

    later = counts(prune(ran))
    assert later["raw snapshots of settled markets"] == 40
    assert later["staged files"] == 3 + EXPERIMENTS
    assert later["frozen snapshots, moved to the archive"] == 0
    assert set(counts(prune(ran)).values()) == {0}
    verified = prune(ran, "--verify")
    assert (verified["rows"], verified["problems"]) == (40, [])
    [(market,)] = ran.rows("SELECT min(market_id) FROM predictbench.processed_markets")
    assert prune(ran, "--restore", market) == {"restored": 1}
    assert prune(ran, "--restore", str(KEY)) == {"restored": 39}


def test_what_is_not_old_or_not_asked_for_stays(ran: DailyRun, engine: Engine, archive: StagingArea) -> None:
    settle(ran)
    before = files(ran.folder / "home")
    young = {"now": datetime(2026, 6, 30, tzinfo=UTC), "days": 120}  # the 120th day after
    for prune_files in (prune_staged, prune_journals):
        assert prune_files(engine, ran.staging, **young).count == 0
    assert moved(engine, ran.staging, archive, **young).count == 0
    assert files(ran.folder / "home") == before
    assert prune_journals(engine, ran.staging, **(young | {"days": 119})).count == EXPERIMENTS
    assert len(files(ran.folder / "home")) == len(before) - EXPERIMENTS


@pytest.mark.parametrize(("state", "but", "goes"), [("final", 1, False), ("disputed", 0, False), ("gave_up", 0, True)])
def test_a_snapshot_stays_until_every_market_is_settled(
    ran: DailyRun, engine: Engine, archive: StagingArea, state: str, but: int, goes: bool
) -> None:
    settle(ran, state, but=but)
    pruned = moved(engine, ran.staging, archive)
    assert (pruned.count, pruned.kept) == ((1, 0) if goes else (0, 1))
    assert len(ran.staging.list("snapshots")) == (0 if goes else 1)


def test_a_partition_that_is_being_run_is_left_alone(ran: DailyRun, engine: Engine, archive: StagingArea) -> None:
    settle(ran)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE predictbench.processing_runs SET status = 'running', heartbeat_at = %s", (NOW - timedelta(hours=1),)
        )
    before = files(ran.folder / "home")
    for prune_files in (prune_staged, prune_journals):
        pruned = prune_files(engine, ran.staging, **DAYS)
        assert pruned.count == 0
        assert pruned.kept > 0
    assert moved(engine, ran.staging, archive).count == 0
    assert files(ran.folder / "home") == before


def test_a_snapshot_that_this_database_does_not_know_is_never_touched(
    ran: DailyRun, engine: Engine, archive: StagingArea
) -> None:
    """Staging may be shared with another database, or the database be restored from before the snapshot."""
    settle(ran)
    with engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM predictbench.snapshots")
    pruned = moved(engine, ran.staging, archive)
    assert pruned.count == 0
    assert any("not registered" in note for note in pruned.notes)
    assert len(ran.staging.list("snapshots")) == 1


class Killed(BaseException):
    """Ends the process wherever it is."""


@pytest.mark.parametrize("at", ["before the registry", "before the original is removed"])
def test_a_move_that_is_cut_short_is_finished_the_next_time(
    ran: DailyRun, engine: Engine, archive: StagingArea, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    settle(ran)
    real = staged_files.replace_snapshot_uri

    def killed(*arguments: Any) -> bool:
        if at == "before the original is removed":
            real(*arguments)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(staged_files, "replace_snapshot_uri", killed)
        with pytest.raises(Killed):
            moved(engine, ran.staging, archive)
    assert len(ran.staging.list("snapshots")) == 1
    assert ran.here(PREDICTBENCH_NOW=NOW.isoformat()).exit_code == 0, "it can be run in between"
    assert moved(engine, ran.staging, archive).count == 1
    assert ran.staging.list("snapshots") == []
    assert moved(engine, ran.staging, archive).count == 0
    assert ran.here(PREDICTBENCH_NOW=NOW.isoformat()).exit_code == 0


def test_a_snapshot_that_is_damaged_is_not_moved(ran: DailyRun, engine: Engine, archive: StagingArea) -> None:
    settle(ran)
    [name] = ran.staging.list("snapshots")
    path = Path(ran.staging.path(name))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(StagedFileBroken):
        moved(engine, ran.staging, archive)
    assert path.exists()
    assert archive.list("") == []


def test_the_archive_may_not_be_the_staging_area(ran: DailyRun, engine: Engine, tmp_path: Path) -> None:
    """Moved onto itself and then removed, a snapshot would be gone."""
    settle(ran)
    (tmp_path / "link").symlink_to(ran.staging.root)
    for uri in (ran.staging.root, f"file://{ran.staging.root}/", str(tmp_path / "link")):
        with pytest.raises(ArchiveInStaging, match="ARCHIVE_URI"):
            moved(engine, ran.staging, StagingArea(uri))
    assert len(ran.staging.list("snapshots")) == 1


@pytest.fixture(params=["amazons", "strict"])
def any_store(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """Settings of an object store, of one that does what Amazon's does and of one that takes less."""
    if request.param == "amazons":
        yield request.getfixturevalue("store")
        return
    strict = OtherStore()
    yield strict.settings
    strict.close()


def test_in_an_object_store(any_store: dict[str, str], make_run: MakeRun) -> None:
    daily = make_run(**any_store)
    assert daily.here().exit_code == 0
    settle(daily)
    done = counts(prune(daily))
    assert done.pop("journals of experiments") >= EXPERIMENTS  # an object for each group that was answered at a time
    assert done == {
        "raw snapshots of settled markets": 40,
        "frozen snapshots, moved to the archive": 1,
        "staged files": 3 + EXPERIMENTS,
        "folders of runs and debug files": 0,
        "what killed processes left": 0,
        "Dagster's runs with their event logs": 0,
    }
    assert set(counts(prune(daily)).values()) == {0}
    archive = any_store["STAGING_URI"].replace("/some/folder", "/some/archive")
    [(uri,)] = daily.rows("SELECT uri FROM predictbench.snapshots")
    assert uri.startswith(f"{archive}/snapshots/")
    [(uri,)] = daily.rows("SELECT uri FROM predictbench.archives")
    assert uri.startswith(f"{archive}/raw_snapshots/")
    again = daily.here(PREDICTBENCH_NOW=NOW.isoformat())
    assert again.exit_code == 0
    assert again.said["snapshot"]["reused"] is True


def test_the_day_of_a_file_is_the_one_in_its_name(ran: DailyRun, engine: Engine) -> None:
    strangers = ("a/2026-02-30/7.jsonl.zst", "journals/notes.txt", "artifacts/2026-03-02_w7/x/1.json", "README")
    for name in (*strangers, "x/2026-01-05/30.jsonl.zst"):
        ran.staging.write_bytes(name, b"")
        os.utime(ran.staging.path(name), (0, 0))
    prune_staged(engine, ran.staging, **DAYS)
    prune_journals(engine, ran.staging, **DAYS)
    assert set(ran.staging.list("")) == {*strangers, *ran.staging.list("snapshots")}
