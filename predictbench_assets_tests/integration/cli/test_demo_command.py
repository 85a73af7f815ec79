"""`predictbench demo`, `ui --demo` and `stop`, on a machine with nothing but things in the way."""

import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from predictbench_assets.settings import all_variables
from predictbench_assets_tests.integration.cli.conftest import command

pytestmark = pytest.mark.long


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a `.env` that would lead a demo astray; short, since a socket's path has a limit."""
    with tempfile.TemporaryDirectory(prefix="pbd-") as name:
        folder = Path(name)
        (folder / ".env").write_text("ENVIRONMENT=production\nMAX_MARKETS=1\nDATABASE_URL=postgres://u@127.0.0.1:9/x\n")
        yield folder
        run(folder, "stop")


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name.upper() not in all_variables()}
    astray = {
        "DATABASE_URL": "postgres://u:p@127.0.0.1:9/x",
        "POLYMARKET_BASE_URL": "http://127.0.0.1:9",
        "DAGSTER_HOME": "/nowhere",
        "PGHOST": "nowhere.example",
        "HTTP_PROXY": "http://127.0.0.1:9",
        "http_proxy": "http://127.0.0.1:9",
    }
    return subprocess.run(
        command(*arguments),
        cwd=folder,
        env=clean | (astray if arguments != ("stop",) else {}),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def sandbox_pid(folder: Path) -> int:
    return int(json.loads((folder / ".predictbench" / "demo" / "sandbox.json").read_text())["pid"])


def test_demo_twice_then_stop(folder: Path) -> None:
    settings_of_theirs = (folder / ".env").read_bytes()
    first = run(folder, "demo", "--markets", "50")
    assert first.returncode == 0, first.stderr
    assert "completed" in first.stdout
    assert "make ui DEMO=1" in first.stdout
    assert "ok    persisted_run" in first.stderr
    assert "summary_" in first.stderr
    assert "{" not in first.stderr.replace('{"dagster', ""), "a demo is for people, whatever it writes to"
    pid = sandbox_pid(folder)

    began = time.monotonic()
    second = run(folder, "demo", "--markets", "50")
    assert second.returncode == 0, second.stderr
    assert time.monotonic() - began < 20
    assert sandbox_pid(folder) == pid
    assert "reused" in second.stdout

    query = "select attempt, processed_markets from predictbench.processing_runs"
    asked = run(folder, "db", "--demo", "sql", query)
    assert asked.stdout.split()[-2:] == ["2", "50"], asked.stderr
    assert asked.stdout == run(folder, "db", "sql", "--demo", query).stdout

    assert (folder / ".env").read_bytes() == settings_of_theirs
    assert sorted(path.name for path in folder.iterdir()) == [".env", ".predictbench"]
    assert [path.name for path in (folder / ".predictbench").iterdir()] == ["demo"]

    stopped = run(folder, "stop")
    assert "exchange" in stopped.stdout
    assert "database" in stopped.stdout
    assert not psutil.pid_exists(pid)


def test_days_of_the_past_are_settled_scored_and_shown(folder: Path) -> None:
    first = run(folder, "demo", "--past", "2", "--markets", "30")
    assert first.returncode == 0, first.stderr
    assert first.stdout.count("30 markets stored") == 2
    assert "core board, 7 days ahead" in first.stdout
    assert '{"timestamp"' not in first.stderr
    page = (folder / ".predictbench" / "demo" / "report" / "index.html").read_text()
    assert "of them settled" in page
    query = "select count(*) from predictbench.experiment_scores"
    scores = int(run(folder, "db", "--demo", "sql", query).stdout.split()[-1])
    assert scores > 300

    second = run(folder, "demo", "--past", "2", "--markets", "30")
    assert second.returncode == 0, second.stderr
    assert second.stdout.count("stored before") == 2
    assert int(run(folder, "db", "--demo", "sql", query).stdout.split()[-1]) == scores


def test_a_sandbox_that_is_ahead_of_time_or_dead_is_replaced(folder: Path) -> None:
    assert run(folder, "demo", "--markets", "20").returncode == 0
    ahead = json.loads((folder / ".predictbench" / "demo" / "sandbox.json").read_text())
    with httpx.Client(base_url=f"http://127.0.0.1:{ahead['port']}", trust_env=False) as client:
        client.post("/_sandbox/time", json={"advance_hours": 48}).raise_for_status()
    again = run(folder, "demo", "--markets", "20")
    assert again.returncode == 0, again.stderr
    assert sandbox_pid(folder) != ahead["pid"]

    psutil.Process(sandbox_pid(folder)).kill()
    third = run(folder, "demo", "--markets", "20")
    assert third.returncode == 0, third.stderr


def test_stop_ends_no_process_that_only_has_the_same_number(folder: Path) -> None:
    demo = folder / ".predictbench" / "demo"
    demo.mkdir(parents=True)
    bystander = {"pid": os.getpid(), "began": 1.0, "port": 1, "markets": 1}
    (demo / "sandbox.json").write_text(json.dumps(bystander))
    assert run(folder, "stop").stdout == ""


def test_the_ui_comes_up_on_the_demos_data_and_leaves_no_process(folder: Path) -> None:
    assert run(folder, "demo", "--markets", "20").returncode == 0
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with (folder / "ui.log").open("w") as log:
        ui = subprocess.Popen(
            command("ui", "--demo", "--port", str(port)), cwd=folder, stdout=subprocess.DEVNULL, stderr=log
        )
    with ui:
        try:
            runs = answer(port, "{runsOrError(limit: 9) {... on Runs {results {jobName status}}}}")
            assert runs["runsOrError"]["results"] == [{"jobName": "daily_run", "status": "SUCCESS"}]
            children = psutil.Process(ui.pid).children(recursive=True)
        finally:
            ui.send_signal(signal.SIGTERM)
            ui.wait(30)
    assert f"The UI is at http://127.0.0.1:{port}" in (folder / "ui.log").read_text()
    assert len(children) > 3
    assert not psutil.wait_procs(children, timeout=10)[1]


def answer(port: int, query: str) -> dict[str, dict[str, object]]:
    """What the UI's own API says, once it does."""
    deadline = time.monotonic() + 60
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client:
        while True:
            try:
                read: dict[str, dict[str, object]] = client.post("/graphql", json={"query": query}).json()["data"]
            except httpx.TransportError:
                assert time.monotonic() < deadline, "the UI does not come up"
                time.sleep(0.1)
            else:
                return read
