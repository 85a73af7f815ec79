"""A dry run says what would be written, and leaves nothing behind."""

import hashlib
from pathlib import Path

from predictbench_assets.sandbox.world import World
from predictbench_assets_tests.kit.daily_run import EXPERIMENT, DailyRun, MakeRun, differences

DEFAULT = (
    "predictbench_assets.experiments.builtin.baseline:BaselineSnapshotExperiment",
    "predictbench_assets.experiments.builtin.pricing:DeviggedEventExperiment",
    f"{EXPERIMENT}:MandatoryFailsForSome",
)
SETTINGS = {"PROCESSING_EXPERIMENTS": ",".join(DEFAULT)}


def test_a_dry_run_writes_nothing_and_counts_what_a_run_then_writes(make_run: MakeRun, tmp_path: Path) -> None:
    daily = make_run(World(markets_per_day=60, poison=0.1), **SETTINGS)
    nothing, files = daily.tables(), _files(daily)

    metrics = tmp_path / "metrics" / "run.prom"

    dry = daily.here(
        PREDICTBENCH_DRY_RUN="1",
        PREDICTBENCH_SCRATCH=str(tmp_path / "scratch"),
        PROMETHEUS_TEXTFILE=str(metrics),
    )

    assert dry.exit_code == 0
    assert dry.said["dry_run"] is True
    assert not metrics.parent.exists()
    assert not differences(nothing, daily.tables())
    assert daily.count("processing_attempts") == 0
    assert _files(daily) == files

    real = daily.here()
    assert real.exit_code == 0
    assert dry.said["would_be_rows"].keys() >= {
        *("processing_runs", "processed_markets", "processed_contracts", "events"),
        *("experiment_runs", "experiment_results", "processing_failures"),
    }
    assert dry.said["would_be_rows"] == {table: daily.count(table) for table in dry.said["would_be_rows"]}
    for name in ("offered_markets", "rejected_markets", "failed_markets", "processed_markets"):
        assert dry.said[name] == real.said[name]
    assert [failure["reason"] for failure in dry.said["failures"]] == [
        failure["reason"] for failure in real.said["failures"]
    ]


def test_a_dry_run_reads_the_stored_snapshot(make_run: MakeRun, tmp_path: Path) -> None:
    daily = make_run(World(markets_per_day=20), **SETTINGS)
    real = daily.here()
    before, files, requests = daily.tables(), _files(daily), sum(daily.sandbox.requests.values())

    dry = daily.here(
        PREDICTBENCH_DRY_RUN="1",
        PREDICTBENCH_SCRATCH=str(tmp_path / "scratch"),
        PREDICTBENCH_NOW="2026-03-09T07:00:00Z",
    )

    assert dry.exit_code == 0
    assert sum(daily.sandbox.requests.values()) == requests
    assert not differences(before, daily.tables())
    assert _files(daily) == files
    assert dry.said["snapshot"]["sha256"] == real.said["snapshot"]["sha256"]
    assert dry.said["snapshot"]["reused"] is True
    assert dry.said["processed_markets"] == real.said["processed_markets"]


def test_a_dry_run_that_fails_leaves_nothing_either(make_run: MakeRun, tmp_path: Path) -> None:
    daily = make_run(faults="http500=1", POLYMARKET_MAX_ATTEMPTS="2", **SETTINGS)
    files = _files(daily)

    dry = daily.here(PREDICTBENCH_DRY_RUN="1", PREDICTBENCH_SCRATCH=str(tmp_path / "scratch"))

    assert dry.exit_code == 1
    assert (dry.said["status"], dry.said["dry_run"], dry.said["stage"]) == ("failed", True, "raw_markets")
    assert daily.count("processing_runs") == daily.count("processing_failures") == 0
    assert _files(daily) == files


def _files(daily: DailyRun) -> dict[str, str]:
    """Every file of the local state, by the hash of its content."""
    return {
        str(path.relative_to(daily.folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (daily.folder / "home").rglob("*")
        if path.is_file()
    }
