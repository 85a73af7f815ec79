"""`predictbench doctor` as a person runs it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from predictbench_assets.sandbox.server import SandboxServer, serve
from predictbench_assets.sandbox.world import World
from predictbench_assets.settings import all_variables, secret_names, variables
from predictbench_assets_tests.kit.places import CLONE

DOCTOR = [sys.executable, "-c", "from predictbench_assets.cli.main import main; main()", "doctor"]
Doctor = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def exchange() -> Iterator[SandboxServer]:
    with serve(World(7, 30), now=datetime.now(UTC)) as server:
        yield server


def environment(**given: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name.upper() not in all_variables()}
    return inherited | {"NO_PROXY": "127.0.0.1"} | given


@pytest.fixture
def doctor(exchange: SandboxServer, tmp_path: Path) -> Doctor:
    """Runs the command in an empty folder."""

    def run(*arguments: str, **given: str) -> "subprocess.CompletedProcess[str]":
        here = {"POLYMARKET_BASE_URL": exchange.base_url, "POLYMARKET_CLOB_URL": exchange.clob_url}
        return subprocess.run(
            [*DOCTOR, *arguments],
            cwd=tmp_path,
            env=environment(**here | given),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def test_all_is_well_but_for_the_first_run(doctor: Doctor, database_url: str, tmp_path: Path) -> None:
    done = doctor("--json", DATABASE_URL=database_url)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["counts"]["fail"] == 0
    assert [one["name"] for one in report["findings"] if one["level"] == "warn"] == ["runs"]
    assert all(set(one) == {"level", "name", "found", "fix"} for one in report["findings"])
    names = {one["name"] for one in report["findings"]}
    assert {"settings", "database", "revision", "staging", "archive", "exchange", "schedule", "REST API"} <= names
    assert list(tmp_path.rglob("*")) == []


def test_everything_is_looked_at_although_everything_is_wrong_and_nothing_secret_is_shown(
    doctor: Doctor, tmp_path: Path
) -> None:
    planted = {variables(name)[0]: f"planted-{number}-secret" for number, name in enumerate(sorted(secret_names()))}
    urls = {
        name: f"postgresql://{name.lower()}:{text}@127.0.0.1:9/nothing"
        for name, text in planted.items()
        if name.endswith(("DB_URL", "DATABASE_URL", "POSTGRES_URL"))
    }
    addresses = {name: f"http://127.0.0.1:9/{planted[name]}" for name in ("NOTIFY_WEBHOOK_URL", "DEAD_MAN_URL")}
    (tmp_path / ".env").write_text("POLYMARKET_BASE_URI=x\n")
    done = doctor(
        **planted | urls | addresses,
        ENVIRONMENT="production",
        STAGING_URI="s3://bucket/staging",
        STAGING_S3_ENDPOINT_URL="http://127.0.0.1:9",
        POLYMARKET_BASE_URL="http://127.0.0.1:9",
        POLYMARKET_CLOB_URL="nonsense",
        PROCESSING_EXPERIMENTS="no.such:Thing",
        HORIZONS="1,x",
        PREDICTBENCH_NOW="yesterday",
        GITHUB_REPOSITORY="owner/name",
        GITHUB_API_URL="http://127.0.0.1:9",
        SUPABASE_API_URL="http://127.0.0.1:9",
    )
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    failed = {line[6:27].strip() for line in lines if line.startswith("fail")}
    assert failed == {"settings", "experiments", "database", "Dagster's storage", "staging", "archive", "exchange"}
    for setting in ("POLYMARKET_CLOB_URL", "HORIZONS", "PREDICTBENCH_NOW"):
        assert any(line.startswith("fail  settings") and setting in line for line in lines)
    assert any(line.startswith("warn  settings") and "POLYMARKET_BASE_URI" in line for line in lines)
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if line.startswith("fail"):
            has_it = any(text in line for text in ("`", "PROCESSING_EXPERIMENTS", "check STAGING_S3_ENDPOINT_URL"))
            assert has_it or following.strip().startswith("fix: ")
    assert "Traceback" not in done.stdout + done.stderr
    for text in planted.values():
        assert text not in done.stdout + done.stderr


def test_an_experiment_that_tells_secrets_does_not_tell_them_here(doctor: Doctor) -> None:
    module = "predictbench_assets_tests.integration.daily_run.leaking_experiment"
    done = doctor(
        "--json",
        PROCESSING_EXPERIMENTS=f"{module}:LeakingExperimentThatCannotBeMade",
        TEST_TOLD="POLYMARKET_API_KEY",
        POLYMARKET_API_KEY="planted-secret/4711",
        PYTHONPATH=str(CLONE),
    )
    assert done.returncode == 1
    assert "no login with ***" in done.stdout
    assert "***" in done.stderr
    json.loads(done.stdout)
    assert "planted" not in done.stdout + done.stderr


def test_a_password_that_is_no_password_yet(doctor: Doctor) -> None:
    done = doctor(DATABASE_URL="postgresql://me:[YOUR-PASSWORD]@127.0.0.1:9/here", ENVIRONMENT="producton")
    assert done.returncode == 1
    assert "fail  settings               DATABASE_URL: still has a placeholder" in done.stdout
    assert "ENVIRONMENT" in done.stdout
    assert "ok    exchange" in done.stdout


@pytest.mark.long
def test_a_dead_network_costs_less_than_half_a_minute(doctor: Doctor) -> None:
    """A host that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        begun = time.monotonic()
        done = doctor(
            DATABASE_URL=f"postgresql://a:b@{address}/c",
            DAGSTER_POSTGRES_URL=f"postgresql://a:b@{address}/c",
            STAGING_URI="s3://bucket/staging",
            STAGING_S3_ENDPOINT_URL=f"http://{address}",
            STAGING_S3_ACCESS_KEY_ID="access-key",
            STAGING_S3_SECRET_ACCESS_KEY="secret-key",
            POLYMARKET_BASE_URL=f"http://{address}",
            POLYMARKET_CLOB_URL=f"http://{address}",
            GITHUB_REPOSITORY="owner/name",
            GITHUB_API_URL=f"http://{address}",
            SUPABASE_SERVICE_ROLE_KEY="service-role-key",
            SUPABASE_API_URL=f"http://{address}",
        )
        took = time.monotonic() - begun
    assert done.returncode == 1
    assert took < 30
    assert len([line for line in done.stdout.splitlines() if line.startswith("fail")]) >= 5


def test_an_interrupt_ends_it_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=100) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        given = {"DATABASE_URL": f"postgresql://a:b@{address}/c", "POLYMARKET_BASE_URL": f"http://{address}"}
        process = subprocess.Popen(
            DOCTOR,
            cwd=tmp_path,
            env=environment(**given, PYTHONUNBUFFERED="1"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ok    settings")
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=20)
        assert time.monotonic() - begun < 6
    assert process.returncode == 1
    assert "Aborted" in errors
    assert "Traceback" not in output + errors
