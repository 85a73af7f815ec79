"""`predictbench demo`, `ui --demo` and `stop`, on a machine with nothing but things in the way."""

import csv
import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from dagster import AssetKey, DagsterInstance

from predictbench_assets.launch.demo_world import Demo, demo_lock, write_demo
from predictbench_assets.sandbox.process import world_of
from predictbench_assets.settings import all_variables
from predictbench_assets_tests.kit.commands import command
from predictbench_assets_tests.kit.places import CLONE

README = (CLONE / "README.md").read_text()
[CONTRARIAN] = [
    block for block in re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE) if "class " in block
]
"""What a newcomer copies into a file."""
OWN = ("--experiment", "my_forecasters:Contrarian")


@dataclass(frozen=True)
class Walked:
    """A demo with a past, and what it printed."""

    folder: Path
    first: subprocess.CompletedProcess[str]


def make_folder() -> Iterator[Path]:
    """A folder with a `.env` that would lead a demo astray; short, since a socket's path has a limit."""
    with tempfile.TemporaryDirectory(prefix="pbd-") as name:
        folder = Path(name)
        (folder / ".env").write_text("ENVIRONMENT=production\nMAX_MARKETS=1\nDATABASE_URL=postgres://u@127.0.0.1:9/x\n")
        yield folder
        run(folder, "stop")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder without a demo."""
    yield from make_folder()


@pytest.fixture(scope="module")
def walked() -> Iterator[Walked]:
    """A demo with four days of the past, of twenty markets each; its tests add to it and take nothing away."""
    for folder in make_folder():
        first = run(folder, "demo", "--markets", "20", "--past", "4", columns=None)
        assert first.returncode == 0, first.stdout + first.stderr
        yield Walked(folder, first)


def environment(*arguments: str) -> dict[str, str]:
    """Variables of a machine with other plans."""
    clean = {name: value for name, value in os.environ.items() if name.upper() not in {*all_variables(), "COLUMNS"}}
    astray = {
        "DATABASE_URL": "postgres://u:p@127.0.0.1:9/x",
        "POLYMARKET_BASE_URL": "http://127.0.0.1:9",
        "DAGSTER_HOME": "/nowhere",
        "PGHOST": "nowhere.example",
        "HTTP_PROXY": "http://127.0.0.1:9",
        "http_proxy": "http://127.0.0.1:9",
    }
    return clean | (astray if arguments != ("stop",) else {})


def run(folder: Path, *arguments: str, columns: int | None = 120) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; without `columns`, as in a pipe of unknown width."""
    width = {} if columns is None else {"COLUMNS": str(columns)}
    return subprocess.run(
        command(*arguments),
        cwd=folder,
        env=environment(*arguments) | width,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def sandbox_pid(folder: Path) -> int:
    return int(json.loads((folder / ".predictbench" / "demo" / "sandbox.json").read_text())["pid"])


def query(folder: Path, sql: str) -> list[list[str]]:
    """The rows of a query, as texts."""
    asked = run(folder, "db", "--demo", "sql", "--format", "csv", sql)
    assert asked.returncode == 0, asked.stderr
    return list(csv.reader(asked.stdout.splitlines()))[1:]


# What goes wrong before anything is made


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("my_forecasters:Contrari", "has no Contrari, did you mean Contrarian?"),
        ("my_forecasters.py:Contrarian", "leave out the .py, as in my_forecasters:Contrarian"),
        ("contrarian", "not of the form module:Class"),
        ("forecasters:Contrarian", "no forecasters.py is in"),
    ],
)
def test_a_class_that_is_not_found_is_named_at_once(folder: Path, asked: str, told: str) -> None:
    (folder / "my_forecasters.py").write_text(CONTRARIAN)
    refused = run(folder, "demo", "--experiment", asked)
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"Error: --experiment lists '{asked}'"), refused.stderr
    assert told in refused.stderr
    assert list((folder / ".predictbench" / "demo").iterdir()) == []


@pytest.mark.parametrize("arguments", [("demo",), ("resolve", "--demo"), ("ui", "--demo")], ids=" ".join)
def test_while_a_demo_is_at_work_a_second_one_says_so(folder: Path, arguments: tuple[str, ...]) -> None:
    demo = folder / ".predictbench" / "demo"
    demo.mkdir(parents=True)
    write_demo(demo, Demo(world_of(5)))
    with demo_lock(demo):
        refused = run(folder, *arguments)
    assert refused.returncode == 1
    assert f"another demo is at work in {demo} (process {os.getpid()})" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("arguments", [("db", "sql", "select 1"), ("ui",), ("resolve",), ("report",)], ids=" ".join)
def test_without_a_demo_a_command_on_it_makes_nothing(folder: Path, arguments: tuple[str, ...]) -> None:
    refused = run(folder, *arguments, "--demo")
    assert refused.returncode == 1
    assert "`predictbench demo` makes one" in refused.stderr
    assert [path.name for path in folder.iterdir()] == [".env"]


def test_stop_ends_no_process_that_only_has_the_same_number(folder: Path) -> None:
    demo = folder / ".predictbench" / "demo"
    demo.mkdir(parents=True)
    bystander = {"pid": os.getpid(), "began": 1.0, "port": 1, "markets": 1}
    (demo / "sandbox.json").write_text(json.dumps(bystander))
    assert run(folder, "stop").stdout == ""


def test_a_sandbox_that_an_older_version_started_is_stopped(folder: Path) -> None:
    demo = folder / ".predictbench" / "demo"
    demo.mkdir(parents=True)
    with subprocess.Popen(["sleep", "600"]) as theirs:
        began = psutil.Process(theirs.pid).create_time()
        threading.Thread(target=theirs.wait).start()  # a sandbox is nobody's child by then
        (demo / "sandbox.json").write_text(json.dumps({"pid": theirs.pid, "began": began, "port": 1, "markets": 300}))
        assert "exchange" in run(folder, "stop").stdout
        assert theirs.wait(10) == -signal.SIGTERM


# A demo with a past


@pytest.mark.long
def test_days_of_the_past_know_what_had_settled_by_then(walked: Walked) -> None:
    lines = re.findall(r"day (\d) of 4  \S+  20 markets stored; (\d+) settled ones known", walked.first.stdout)
    known = [int(settled) for _, settled in lines]
    assert [number for number, _ in lines] == ["1", "2", "3", "4"]
    assert known[0] == 0
    assert known == sorted(known)
    # How many have settled within the four days is up to the date; that a run learned from just those is not.
    learned = query(
        walked.folder,
        "select min((full_row.payload->>'settled')::int), max((full_row.payload->>'settled')::int),"
        " max(abs(newest.probability - 0.5)) from predictbench.latest_experiment_results newest"
        " join predictbench.experiment_results full_row using (experiment_result_id)"
        " where experiment = 'base_rate' group by run_date order by run_date",
    )
    *past, today = [(int(least), int(most)) for least, most, _ in learned]
    assert past == [(settled, settled) for settled in known]
    assert today[0] == today[1] > known[-1], "those of the past, whose close is days ago"
    assert [float(off) for (_, most, off) in learned if most == "0"] == [0.0] * known.count(0)


@pytest.mark.long
def test_what_settled_was_scored_and_drawn_by_dagster(walked: Walked) -> None:
    assert [
        stage in walked.first.stderr
        for stage in ("market_resolutions", "experiment_scores", "leaderboard", "benchmark_report")
    ] == [True] * 4
    with DagsterInstance.from_config(str(walked.folder / ".predictbench" / "demo" / "dagster")) as instance:
        for name in ("market_resolutions", "experiment_scores", "leaderboard", "benchmark_report"):
            assert instance.get_latest_materialization_event(AssetKey(name)) is not None, name
    [[scores]] = query(walked.folder, "select count(*) from predictbench.experiment_scores")
    assert int(scores) > 300
    assert "core board, 7 days ahead" in walked.first.stdout


@pytest.mark.long
def test_everything_is_called_simulated(walked: Walked) -> None:
    assert "localhost (simulated)" in walked.first.stdout
    assert "simulated markets of 5 runs" in walked.first.stdout
    report = walked.folder / ".predictbench" / "demo" / "report"
    pages = list(report.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        text = page.read_text()
        assert "Simulated." in text, page
        assert "polymarket.com" not in text, page


@pytest.mark.long
def test_what_a_demo_prints_is_for_people(walked: Walked) -> None:
    printed = walked.first.stdout + walked.first.stderr
    assert "job execute" not in printed
    assert '{"timestamp"' not in printed
    assert " INFO " not in printed
    for word in ("core sample", "thin", "none", "digest", "snapshot", "rejected", "excluded"):
        assert len(re.findall(rf"^  (good, )?{word} ", walked.first.stdout, re.M)) >= 1, word
    suggested = walked.first.stdout.split("\nNext:\n")[1]
    assert "demo --past 8\n" not in suggested, "it was done already"
    assert "demo --past 8 --experiment my_forecasters:Contrarian" in suggested
    before_the_board = walked.first.stdout.split("As known at")[0] + walked.first.stderr
    assert [line for line in before_the_board.splitlines() if len(line.rstrip()) > 80] == []


@pytest.mark.long
def test_a_demo_again_keeps_everything_and_a_verbose_one_shows_its_commands(walked: Walked) -> None:
    pid = sandbox_pid(walked.folder)
    [[before]] = query(walked.folder, "select count(*) from predictbench.experiment_results")
    second = run(walked.folder, "demo", "-v")
    assert second.returncode == 0, second.stderr
    assert second.stdout.count("stored before") == 4
    assert "reused" in second.stdout
    assert "predictbench_assets.backfill_process" in second.stderr
    assert "log.jsonl" in second.stderr
    assert sandbox_pid(walked.folder) == pid
    assert query(walked.folder, "select count(*) from predictbench.experiment_results") == [[before]]


@pytest.mark.long
def test_ones_own_class_gets_onto_the_settled_board(walked: Walked) -> None:
    module = walked.folder / "my_forecasters.py"
    module.write_text(re.sub(r"binary\(.*\)", "binary(1.7)", CONTRARIAN))
    refused = run(walked.folder, "demo", *OWN)
    assert refused.returncode == 1
    assert "contrarian failed on 20 of 20 markets" in refused.stderr
    assert "20 x ValidationError: probabilities: Value error, probabilities must be finite and in [0, 1]" in (
        refused.stderr
    )
    assert re.search(r"\(my_forecasters\.py:\d+ in run\)$", refused.stderr, re.M)
    assert "day 2 of 4" not in refused.stdout

    module.write_text(CONTRARIAN)
    corrected = run(walked.folder, "demo", *OWN)
    assert corrected.returncode == 0, corrected.stdout + corrected.stderr
    assert corrected.stdout.count("contrarian added") == 4
    assert "contrarian 1: 100 completed (all days)" in corrected.stdout
    assert "the code has changed" not in corrected.stdout
    row = re.search(r"contrarian 1 +(\d+) .*100%", corrected.stdout)
    assert row is not None, corrected.stdout
    assert int(row[1]) > 10
    assert "my_forecasters" not in corrected.stdout.split("\nNext:\n")[1], "it was done already"

    module.write_text(CONTRARIAN.replace('version = "1"', 'version = "2"').replace("0.8", "0.6"))
    changed = run(walked.folder, "demo", *OWN)
    assert changed.returncode == 0, changed.stdout + changed.stderr
    assert re.search(r"contrarian 1 +\d+ .*100%", changed.stdout)
    assert re.search(r"contrarian 2 +\d+ .*100%", changed.stdout)
    timely = query(
        walked.folder,
        "select bool_and(forecast_at <= captured_at + interval '1 hour') from predictbench.latest_experiment_results"
        " join predictbench.processed_markets using (processed_market_id) where experiment = 'contrarian'"
        " and run_date < current_date",
    )
    assert timely == [["true"]]


@pytest.mark.long
def test_the_ui_comes_up_on_the_demos_data_and_leaves_no_process(walked: Walked) -> None:
    (walked.folder / "my_forecasters.py").write_text(CONTRARIAN)
    demo = walked.folder / ".predictbench" / "demo" / "demo.json"
    kept = json.loads(demo.read_text())
    demo.write_text(json.dumps(kept | {"experiments": [OWN[1]]}))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with (walked.folder / "ui.log").open("w") as log:
        ui = subprocess.Popen(
            command("ui", "--demo", "--port", str(port)), cwd=walked.folder, stdout=subprocess.DEVNULL, stderr=log
        )
    with ui:
        try:
            runs = answer(port, "{runsOrError(limit: 99) {... on Runs {results {jobName status}}}}")
            found = {(one["jobName"], one["status"]) for one in runs["runsOrError"]["results"]}
            assert {("daily_run", "SUCCESS"), ("resolution_sweep", "SUCCESS")} <= found
            assets = answer(port, "{assetNodes {assetKey {path}}}")["assetNodes"]
            assert ["experiment_results", "contrarian"] in [one["assetKey"]["path"] for one in assets]
            children = psutil.Process(ui.pid).children(recursive=True)
            refused = run(walked.folder, "demo", "--fresh")
            assert refused.returncode == 1
            assert "ui --demo" in refused.stderr
        finally:
            ui.send_signal(signal.SIGTERM)
            ui.wait(30)
    assert f"The UI is at http://127.0.0.1:{port}" in (walked.folder / "ui.log").read_text()
    assert len(children) > 3
    assert not psutil.wait_procs(children, timeout=10)[1]


# Demos of their own


@pytest.mark.long
def test_demo_of_another_size_then_stop(folder: Path) -> None:
    settings_of_theirs = (folder / ".env").read_bytes()
    first = run(folder, "demo", "--markets", "12")
    assert first.returncode == 0, first.stderr
    assert "completed" in first.stdout
    assert "demo --past 8\n" in first.stdout.split("\nNext:\n")[1]
    assert "ok    persisted_run" in first.stderr
    pid = sandbox_pid(folder)
    asked = query(folder, "select attempt, processed_markets from predictbench.processing_runs")
    assert asked == [["1", "12"]]

    resolved = run(folder, "resolve", "--demo")
    assert resolved.returncode == 0, resolved.stderr
    other = run(folder, "demo", "--markets", "15")
    assert other.returncode == 0, other.stderr
    assert "the demo that was here is removed: it had 12 markets a day, not 15" in other.stderr
    assert not psutil.pid_exists(pid)
    assert query(folder, "select attempt, processed_markets from predictbench.processing_runs") == [["1", "15"]]

    assert (folder / ".env").read_bytes() == settings_of_theirs
    assert sorted(path.name for path in folder.iterdir()) == [".env", ".predictbench"]
    assert [path.name for path in (folder / ".predictbench").iterdir()] == ["demo"]

    pid = sandbox_pid(folder)
    stopped = run(folder, "stop")
    assert "exchange" in stopped.stdout
    assert "database" in stopped.stdout
    assert not psutil.pid_exists(pid)
    assert run(folder, "resolve", "--demo").returncode == 0, "it starts what it needs"


@pytest.mark.long
def test_code_that_changed_under_its_version_is_the_last_thing_said(folder: Path) -> None:
    module = folder / "my_forecasters.py"
    module.write_text(CONTRARIAN)
    assert run(folder, "demo", "--markets", "6", *OWN).returncode == 0
    module.write_text(CONTRARIAN.replace("0.8", "0.6"))
    again = run(folder, "demo", *OWN)
    assert again.returncode == 0, again.stdout + again.stderr
    closing = again.stdout.split("\nYour own\n")[1]
    assert "the code has changed since 6 of today's were answered" in closing
    assert "--forget" not in again.stdout


@pytest.mark.long
def test_a_sandbox_that_is_ahead_of_time_or_dead_is_replaced(folder: Path) -> None:
    assert run(folder, "demo", "--markets", "20").returncode == 0
    ahead = json.loads((folder / ".predictbench" / "demo" / "sandbox.json").read_text())
    with httpx.Client(base_url=f"http://127.0.0.1:{ahead['port']}", trust_env=False) as client:
        client.post("/_sandbox/time", json={"advance_hours": 48}).raise_for_status()
    again = run(folder, "demo")
    assert again.returncode == 0, again.stderr
    assert sandbox_pid(folder) != ahead["pid"]

    psutil.Process(sandbox_pid(folder)).kill()
    third = run(folder, "demo")
    assert third.returncode == 0, third.stderr


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
def test_a_demo_that_was_ended_at_any_moment_goes_on(folder: Path, number: signal.Signals) -> None:
    """Ended while database, exchange, a day of the past, its sweep, today's run and the last sweep are under way."""
    arguments = ("demo", "--markets", "6", "--past", "2")
    demo = folder / ".predictbench" / "demo"
    today = f"artifacts/runs/{datetime.now(UTC):%Y-%m-%d}_w7_*/run_config.yaml"
    a_day, its_sweep = "artifacts/runs/*_w7_*/run_config.yaml", "artifacts/summary_*.json"
    for moment in (
        "postgres/data.partial",  # the exchange starts at the same time
        a_day,
        its_sweep,
        today,
        "artifacts/runs/*_w7_*/sweep_config.yaml",
    ):
        before = set(demo.glob(moment))
        with subprocess.Popen(
            command(*arguments),
            cwd=folder,
            env=environment(*arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as begun:
            deadline = time.monotonic() + 100
            while set(demo.glob(moment)) <= before and begun.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
            begun.send_signal(number)
            printed = begun.communicate(timeout=60)[0]
        assert begun.returncode in ((-number,) if number == signal.SIGKILL else (130, 1)), (moment, printed)
        assert "Traceback" not in printed, (moment, printed)
    whole = run(folder, *arguments)
    assert whole.returncode == 0, whole.stdout + whole.stderr
    runs = query(folder, "select status, processed_markets from predictbench.processing_runs")
    assert runs == [["completed", "6"]] * 3
    missing = query(
        folder,
        "select count(*) from predictbench.processed_markets join predictbench.processing_runs using (run_id)"
        " left join predictbench.market_resolutions using (market_id)"
        " where run_date < current_date and state is null",
    )
    assert missing == [["0"]]
    kept = json.loads((demo / "sandbox.json").read_text())
    left = [one for one in psutil.process_iter(["cmdline", "cwd"]) if one.info["cwd"] == str(demo)]
    assert [one.pid for one in left if "sandbox" in (one.info["cmdline"] or ())] == [kept["pid"]]


def answer(port: int, query: str) -> dict[str, Any]:
    """What the UI's own API says, once it does."""
    deadline = time.monotonic() + 60
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client:
        while True:
            try:
                read: dict[str, Any] = client.post("/graphql", json={"query": query}).json()["data"]
            except httpx.TransportError:
                assert time.monotonic() < deadline, "the UI does not come up"
                time.sleep(0.1)
            else:
                return read
