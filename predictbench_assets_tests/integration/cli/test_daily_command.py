"""`predictbench daily`, really run: what it prints, stores, leaves behind, and how it ends when it is killed."""

import json
import os
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import psutil
import psycopg
import pytest
from sqlalchemy.engine import make_url

from predictbench_assets.sandbox.server import SandboxServer
from predictbench_assets_tests.kit.commands import Predictbench, command
from predictbench_assets_tests.kit.relay import Relay, relay_to

MINE = """
from predictbench_assets.experiments.protocol import Experiment, ExperimentResult

class Mine(Experiment):
    name = "mine"
    version = "1"
    description = "One third."

    def run(self, market, context):
        return ExperimentResult.binary(1 / 3)
"""

TABLES = "select table_name from information_schema.tables where table_schema = 'predictbench'"


def rows(url: str, query: str) -> list[tuple[object, ...]]:
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain) as connection:
        return connection.execute(query).fetchall()


def test_a_run_stores_the_day_and_says_so(
    predictbench: Predictbench, environment: Mapping[str, str], tmp_path: Path
) -> None:
    page = tmp_path / "step-summary.md"
    done = predictbench("daily", "--summary", "out/summary.json", GITHUB_STEP_SUMMARY=str(page))
    assert done.returncode == 0, done.stderr
    assert "completed" in done.stdout
    read = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert read["status"] == "completed"
    assert read["processed_markets"] == 30
    assert page.read_text() == (tmp_path / "out" / "summary.md").read_text()
    stored = rows(environment["DATABASE_URL"], "select status, processed_markets from predictbench.processing_runs")
    assert stored == [("completed", 30)]

    lines = [json.loads(text) for text in done.stderr.splitlines()]
    assert all({"timestamp", "level", "message", "run_id", "process_stage", "market_id"} <= set(line) for line in lines)
    lines = [line for line in lines if line["logger"] != "predictbench_assets.observability.console"]
    assert {line["run_id"] for line in lines if line["process_stage"]} == {read["run_id"]}
    stages = [line["process_stage"] for line in lines if line.get("event") == "STEP_SUCCESS"]
    assert stages[:3] == ["target_window", "raw_markets", "normalized_markets"]
    assert stages[-1] == "persisted_run"
    (log,) = (tmp_path / ".predictbench" / "artifacts" / "runs").glob("*/log.jsonl")
    assert [json.loads(text) for text in log.read_text().splitlines()] == lines
    assert log.with_name("run_config.yaml").read_text() == predictbench("run-config").stdout


@pytest.mark.long
def test_the_printed_command_is_the_one_that_runs(
    predictbench: Predictbench, environment: Mapping[str, str], tmp_path: Path
) -> None:
    first = predictbench("daily", LOG_FORMAT="text")
    assert first.returncode == 0, first.stderr
    printed = next(text[2:] for text in first.stderr.splitlines() if text.startswith("$ "))
    assert shlex.split(printed)[-2] == "-c"
    again = subprocess.run(
        ["sh", "-c", printed], env=dict(environment), cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stderr
    attempts = rows(environment["DATABASE_URL"], "select attempt from predictbench.processing_attempts order by 1")
    assert attempts == [(1,), (2,)]


@pytest.mark.long
def test_an_env_file_is_read_and_the_environment_wins(predictbench: Predictbench, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("CORE_SAMPLE_SIZE=5\nDATABASE_URL=postgres://nobody@127.0.0.1:9/none\n")
    done = predictbench("daily")
    assert done.returncode == 0, done.stderr
    (summary,) = (tmp_path / ".predictbench" / "artifacts").glob("summary_*_w7.json")
    assert json.loads(summary.read_text())["core_markets"] == 5


def test_one_experiment_runs_with_what_it_needs_and_the_others_are_not_run(
    predictbench: Predictbench, tmp_path: Path
) -> None:
    (tmp_path / "my_experiments.py").write_text(MINE)
    mine = "predictbench_assets.experiments.builtin.controls:UniformExperiment,my_experiments:Mine"
    done = predictbench("daily", "--experiment", "mine", "--summary", "s.json", PROCESSING_EXPERIMENTS=mine)
    assert done.returncode == 0, done.stderr
    experiments = json.loads((tmp_path / "s.json").read_text())["experiments"]
    assert {name: one["completed"] for name, one in experiments.items()} == {
        "baseline_snapshot": 30,
        "mine": 30,
        "uniform": 0,
    }
    assert experiments["uniform"]["not_run"] == 30


CRASHING = """
import ctypes, os
from predictbench_assets.experiments.protocol import Experiment, ExperimentResult

class Segfaults(Experiment):
    name, version, description = "segfaults", "1", "Crashes for each tenth market."

    def run(self, market, context):
        if int(market.market_id) % 10 == 0:
            ctypes.string_at(0)
        return ExperimentResult.binary(0.4)

class Exits(Experiment):
    name, version, description = "exits", "1", "Ends its process for one event."

    def run_event(self, markets, contexts):
        if any(int(market.market_id) % 10 == 0 for market in markets):
            os._exit(3)
        return {market.market_id: ExperimentResult.binary(0.4) for market in markets}
"""


def test_an_experiment_that_ends_its_process_loses_the_event_that_it_does_so_for_and_nothing_else(
    predictbench: Predictbench, environment: Mapping[str, str], tmp_path: Path
) -> None:
    (tmp_path / "crashing.py").write_text(CRASHING)

    done = predictbench("daily", "--summary", "s.json", "--forget", "exits", PROCESSING_EXPERIMENTS="crashing:Exits")

    assert done.returncode == 0, done.stderr
    assert "the run goes on with exits in a process of its own" in done.stderr
    read = json.loads((tmp_path / "s.json").read_text())
    assert (read["status"], read["processed_markets"], read["attempt"]) == ("completed", 30, 2)
    exits = read["experiments"]["exits"]
    assert exits["completed"] + exits["failed"] == 30
    [why] = exits["reasons"]
    assert (why["markets"], why["reason"]) == (exits["failed"], "the process that forecast it ended with exit code 3")
    assert 0 < exits["failed"] < 30
    query = "select status, reason from predictbench.processing_attempts order by attempt"
    (first, reason), second = rows(environment["DATABASE_URL"], query)
    assert (first, second) == ("failed", ("completed", None))
    assert reason == "the process of the run ended while exits was at work"


@pytest.mark.long
def test_several_that_crash_in_processes_of_their_own_cost_no_other_and_are_not_asked_again(
    predictbench: Predictbench, tmp_path: Path
) -> None:
    (tmp_path / "crashing.py").write_text(CRASHING)
    both = {"PROCESSING_EXPERIMENTS": "crashing:Segfaults,crashing:Exits", "EXECUTOR": "multiprocess"}

    done = predictbench("daily", "--summary", "s.json", **both)

    assert done.returncode == 0, done.stderr
    read = json.loads((tmp_path / "s.json").read_text())
    assert (read["status"], read["processed_markets"]) == ("completed", 30)
    assert read["experiments"]["baseline_snapshot"]["completed"] == 30
    for name, how in (("segfaults", "SIGSEGV"), ("exits", "exit code 3")):
        [why] = read["experiments"][name]["reasons"]
        assert why["reason"] == f"the process that forecast it ended with {how}"
        assert read["experiments"][name]["completed"] == 30 - why["markets"]

    assert predictbench("daily", "--summary", "s.json", **both).returncode == 0
    again = json.loads((tmp_path / "s.json").read_text())
    assert again["attempt"] == read["attempt"] + 1
    assert again["experiments"]["segfaults"]["from_journal"] == 30


def test_a_dry_run_writes_nothing_and_leaves_nothing_behind(
    predictbench: Predictbench, environment: Mapping[str, str], tmp_path: Path
) -> None:
    done = predictbench("daily", "--dry-run", "--limit", "10", TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "Would have written" in done.stdout
    assert "dry run" in done.stdout
    assert rows(environment["DATABASE_URL"], "select count(*) from predictbench.processing_runs") == [(0,)]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_a_dry_run_of_a_stored_day_reads_its_snapshot_and_changes_nothing(
    predictbench: Predictbench, environment: Mapping[str, str], exchange: SandboxServer, tmp_path: Path
) -> None:
    assert predictbench("daily").returncode == 0
    tables = [name for (name,) in rows(environment["DATABASE_URL"], TABLES)]
    before = {name: rows(environment["DATABASE_URL"], f'select * from predictbench."{name}"') for name in tables}
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    asked = sum(exchange.requests.values())
    done = predictbench("daily", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "reused" in done.stdout
    assert sum(exchange.requests.values()) == asked
    assert before == {
        name: rows(environment["DATABASE_URL"], f'select * from predictbench."{name}"') for name in tables
    }
    assert files == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}


@pytest.mark.long
def test_a_dry_run_without_any_database_leaves_nothing_either(predictbench: Predictbench, tmp_path: Path) -> None:
    scratch = Path(tempfile.mkdtemp(prefix="pbt-"))  # short: a socket's path has a limit
    done = predictbench("daily", "--dry-run", DATABASE_URL="", TMPDIR=str(scratch))
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
    assert list(scratch.iterdir()) == []
    scratch.rmdir()


@pytest.mark.long
@pytest.mark.parametrize(("choice", "code", "status"), [("skip", 0, "skipped"), ("fail", 1, "failed")])
def test_a_stored_run_can_be_left_alone(
    predictbench: Predictbench, tmp_path: Path, choice: str, code: int, status: str
) -> None:
    assert predictbench("daily").returncode == 0
    done = predictbench("daily", "--on-existing", choice, "--summary", "s.json")
    assert done.returncode == code, done.stderr
    assert json.loads((tmp_path / "s.json").read_text())["status"] == status


def test_a_dry_run_that_is_terminated_leaves_nothing_either(
    environment: Mapping[str, str], exchange: SandboxServer, tmp_path: Path
) -> None:
    variables = {"TMPDIR": str(tmp_path), "PROMETHEUS_TEXTFILE": str(tmp_path / "metrics.prom")}
    with slow_run(environment | variables, exchange, tmp_path, "--dry-run") as running:
        running.terminate()
        output, _ = running.communicate(timeout=60)
    assert running.returncode == 128 + signal.SIGTERM
    assert "failed, dry run" in output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.json", "s.md"]


def test_a_past_day_without_a_snapshot_fails_with_a_reason(predictbench: Predictbench, tmp_path: Path) -> None:
    refused = {"PAST_SNAPSHOTS": "refuse", "LOG_FORMAT": "text"}
    done = predictbench("daily", "--run-date", "2026-03-01", "--summary", "s.json", **refused)
    assert done.returncode == 1
    read = json.loads((tmp_path / "s.json").read_text())
    assert (read["status"], read["stage"]) == ("failed", "raw_markets")
    assert "Traceback" not in done.stderr
    assert "Stack Trace" not in done.stderr


@pytest.mark.long
def test_dagster_keeps_its_runs_in_postgres_where_that_is_set(
    predictbench: Predictbench, empty_database_url: str, tmp_path: Path
) -> None:
    # As a person writes it: without a driver, which Dagster would take for another one than it can work with.
    written = empty_database_url.replace("postgresql+psycopg://", "postgres://")
    done = predictbench("daily", DAGSTER_POSTGRES_URL=written)
    assert done.returncode == 0, done.stderr
    assert rows(empty_database_url, "select pipeline_name, status from runs") == [("daily_run", "SUCCESS")]
    assert not (tmp_path / ".predictbench" / "dagster" / "history" / "runs.db").exists()


@pytest.mark.long
def test_a_database_of_another_revision_is_not_touched(predictbench: Predictbench, empty_database_url: str) -> None:
    done = predictbench("daily", DATABASE_URL=empty_database_url)
    assert done.returncode == 1
    assert "predictbench db upgrade" in done.stderr
    assert predictbench("db", "upgrade", DATABASE_URL=empty_database_url).returncode == 0
    assert predictbench("daily", DATABASE_URL=empty_database_url).returncode == 0


def slow_run(
    environment: Mapping[str, str], exchange: SandboxServer, folder: Path, *arguments: str
) -> subprocess.Popen[str]:
    """A run that is inside `raw_markets`, waiting for an exchange that takes its time."""
    exchange.set_faults("latency_ms=20000")
    running = subprocess.Popen(
        command("daily", "--summary", "s.json", *arguments),
        cwd=folder,
        env=dict(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stderr is not None
    for text in running.stderr:
        if '"STEP_START"' in text and '"raw_markets"' in text:
            return running
    raise AssertionError("the run ended before raw_markets began")


def test_a_killed_run_is_told_by_where_it_was_last_seen(
    environment: Mapping[str, str], exchange: SandboxServer, tmp_path: Path
) -> None:
    with slow_run(environment, exchange, tmp_path) as running:
        (child,) = psutil.Process(running.pid).children()
        child.kill()
        output, _ = running.communicate(timeout=30)
    assert running.returncode == 1
    read = json.loads((tmp_path / "s.json").read_text())
    assert (read["status"], read["stage"]) == ("failed", "raw_markets")
    assert "signal 9" in read["reason"]
    assert "raw_markets" in output
    query = "select status, stage, reason from predictbench.processing_runs"
    assert rows(environment["DATABASE_URL"], query) == [("failed", "raw_markets", read["reason"])]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_and_is_recorded(
    environment: Mapping[str, str], exchange: SandboxServer, tmp_path: Path, number: signal.Signals
) -> None:
    with slow_run(environment, exchange, tmp_path) as running:
        began = time.monotonic()
        os.kill(running.pid, number)
        _, errors = running.communicate(timeout=60)
    assert running.returncode == 128 + number, errors
    assert time.monotonic() - began < 15
    read = json.loads((tmp_path / "s.json").read_text())
    reason = f"stopped by signal {int(number)}; run it again, it goes on where it stopped"
    assert (read["status"], read["reason"]) == ("failed", reason)
    today = datetime.now(UTC).date()
    assert rows(environment["DATABASE_URL"], "select run_date, status, reason from predictbench.processing_runs") == [
        (today, "failed", reason)
    ]


def freeze_when_it_captures(running: subprocess.Popen[str], relay: Relay) -> None:
    """Let the database of a run fall silent once its exchange is asked."""
    assert running.stderr is not None
    for line in running.stderr:
        if '"STEP_START"' in line and '"raw_markets"' in line:
            break
    relay.freeze()


@pytest.mark.long
def test_a_signal_ends_a_run_whose_database_is_silent(environment: Mapping[str, str], tmp_path: Path) -> None:
    with relay_to(environment["DATABASE_URL"]) as relay:
        variables = environment | {"DATABASE_URL": relay.url, "PROCESSING_EXPERIMENTS": "", "LOG_FORMAT": "json"}
        running = subprocess.Popen(
            command("daily", "--summary", "s.json"), cwd=tmp_path, env=variables, text=True, stderr=subprocess.PIPE
        )
        freeze_when_it_captures(running, relay)
        relay.held.wait()
        running.terminate()
        running.communicate(timeout=60)
    assert running.returncode == 128 + signal.SIGTERM
    read = json.loads((tmp_path / "s.json").read_text())
    assert (read["status"], read["stage"]) == ("failed", "raw_markets")
    assert read["reason"].startswith("stopped by signal 15;")
    (log,) = (tmp_path / ".predictbench" / "artifacts" / "runs").glob("*/log.jsonl")
    assert "Not executing" not in log.read_text(), "the other steps do not go on"


@pytest.mark.long
def test_a_database_that_falls_silent_fails_the_run_with_the_settings_name(
    environment: Mapping[str, str], tmp_path: Path
) -> None:
    with relay_to(environment["DATABASE_URL"]) as relay:
        variables = environment | {"DATABASE_URL": relay.url, "PROCESSING_EXPERIMENTS": "", "LOG_FORMAT": "json"}
        running = subprocess.Popen(
            command("daily", "--summary", "s.json"),
            cwd=tmp_path,
            env=variables | {"DB_TIMEOUT_SECONDS": "0.5"},
            text=True,
            stderr=subprocess.PIPE,
        )
        freeze_when_it_captures(running, relay)
        running.communicate(timeout=60)
    read = json.loads((tmp_path / "s.json").read_text())
    assert (read["status"], read["stage"]) == ("failed", "raw_markets")
    assert "the database is not available" in read["reason"]
