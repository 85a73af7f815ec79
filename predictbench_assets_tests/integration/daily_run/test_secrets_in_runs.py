"""What is secret in the settings is nowhere to be found after a run that went wrong."""

from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

import pytest
from sqlalchemy.engine import make_url

from predictbench_assets.sandbox.world import World
from predictbench_assets_tests.integration.daily_run.conftest import MakeRun
from predictbench_assets_tests.integration.daily_run.experiments import SECRET
from predictbench_assets_tests.integration.daily_run.harness import BASELINE, EXPERIMENT, DailyRun

PASSWORD = "pa:ss/w@rd-4711"
API_KEY = "key-0815-never-shown"
PLANTED = (PASSWORD, quote(PASSWORD, safe=""), API_KEY)


@pytest.fixture
def daily(make_run: MakeRun) -> DailyRun:
    """A run whose database has a password (which a trusting server does not read) and whose exchange wants a key."""
    daily = make_run(
        World(markets_per_day=10),
        PROCESSING_EXPERIMENTS=f"{BASELINE},{EXPERIMENT}:Indiscreet",
        POLYMARKET_API_KEY=API_KEY,
        LOG_LEVEL="DEBUG",
    )
    url = make_url(daily.database_url).set(password=PASSWORD)
    daily.database_url = url.render_as_string(hide_password=False)
    return daily


def test_an_experiment_that_tells_secrets_is_not_passed_on(daily: DailyRun) -> None:
    ran = daily.forked(**{SECRET: f"{PASSWORD} {API_KEY} {daily.database_url}"})

    assert ran.exit_code == 0, ran.output
    assert ran.said["experiments"]["indiscreet"]["failed"] == 10
    reasons = daily.rows("SELECT DISTINCT reason FROM predictbench.experiment_results WHERE reason IS NOT NULL")
    assert reasons
    assert all("could not log in with *** *** " in reason for (reason,) in reasons)
    assert_not_told(daily, [ran.output, *map(str, daily.tables().values())])


def test_a_failing_run_keeps_its_secrets(daily: DailyRun) -> None:
    daily.sandbox.set_faults("http500=1")

    ran = daily.forked(POLYMARKET_MAX_ATTEMPTS="1", **{SECRET: "nothing"})

    assert ran.exit_code == 1
    assert ran.said["stage"] == "raw_markets"
    assert_not_told(daily, [ran.output, *map(str, daily.tables().values())])


def test_a_database_that_cannot_be_reached_keeps_its_password(daily: DailyRun) -> None:
    daily.database_url = f"postgresql://someone:{quote(PASSWORD, safe='')}@127.0.0.1:9/nothing"

    ran = daily.forked()

    assert ran.exit_code == 1
    assert (ran.said["status"], ran.said["stage"]) == ("failed", "target_window")
    assert "the database is not available" in ran.said["reason"]
    assert_not_told(daily, [ran.output])


def assert_not_told(daily: DailyRun, texts: Iterable[str]) -> None:
    """No text, and no file of the run (Dagster's events, staged files, the journal, the summary), has a secret."""
    for text in texts:
        for planted in PLANTED:
            assert planted not in text
    files = [path for path in daily.folder.rglob("*") if path.is_file()]
    assert any(path.suffix == ".db" for path in files)
    for path in files:
        content = _content(daily, path)
        for planted in PLANTED:
            assert planted.encode() not in content, path


def _content(daily: DailyRun, path: Path) -> bytes:
    if path.name.endswith(".jsonl.zst"):
        import zstandard

        with path.open("rb") as raw:
            return zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True).read()
    return path.read_bytes()
