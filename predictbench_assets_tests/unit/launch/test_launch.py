"""Launching Dagster: the home, the command, and a child that is watched, passed signals, and kept in a log."""

import json
import os
import re
import signal
import socket
import sys
import threading
import time
from datetime import date
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from dagster._core.storage.sqlite import create_db_conn_string
from sqlalchemy import NullPool, create_engine

from predictbench_assets.cli.main import main
from predictbench_assets.launch.child import Line, as_line, run_child
from predictbench_assets.launch.commands import (
    CLONE,
    Command,
    LaunchError,
    prepare_home,
    run_command,
    sweep_command,
    ui_command,
    write_run_config,
)
from predictbench_assets.launch.ui import require_free, run_in_foreground
from predictbench_assets.runs import RunKey, partition_tags
from predictbench_assets.settings import load_settings

KEY = RunKey(date(2026, 11, 23), 7)


def command(tmp_path: Path, **given: object) -> Command:
    settings = load_settings(**given)
    home = tmp_path / "home"
    return run_command(settings, KEY, home=home, config_file=home / "c.yaml", summary=tmp_path / "s.json")


def test_the_tags_name_the_partition_and_both_dimensions() -> None:
    assert partition_tags(KEY) == {
        "dagster/partition": "2026-11-23|7",
        "dagster/partition/run_date": "2026-11-23",
        "dagster/partition/window_days": "7",
    }


def test_the_command_can_be_pasted_and_shows_no_secret(tmp_path: Path) -> None:
    made = command(
        tmp_path, database_url="postgres://u:hunter22@h/db", dagster_postgres_url="postgres://d:hunter33@h/db"
    )
    text = str(made)
    assert "hunter" not in text + repr(made)
    assert "job execute -m predictbench_assets.definitions -j daily_run --tags" in text
    assert text.startswith(f"cd {tmp_path / 'home'} && DAGSTER_HOME={tmp_path / 'home'}")


def test_dagster_gets_its_own_address_with_the_driver_named(tmp_path: Path) -> None:
    made = command(tmp_path, dagster_postgres_url="postgres://d:hunter33@h/db")
    assert made.environment()["DAGSTER_POSTGRES_URL"] == "postgresql+psycopg2://d:hunter33@h/db"


def test_relative_paths_are_made_absolute_for_a_child_in_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text(
        "STAGING_URI=stage\nARTIFACTS_DIR=art\nPREDICTBENCH_HOME=here\n"
        "EXPERIMENTS_FILE=mine.toml\nMODEL_PRICES_FILE=prices.toml\nPROMETHEUS_TEXTFILE=metrics.prom\n"
    )
    given = run_command(
        load_settings(), KEY, home=tmp_path, config_file=tmp_path / "c", summary=tmp_path / "s"
    ).variables
    assert given["PREDICTBENCH_ENV_FILE"] == str(tmp_path / ".env")
    assert given["STAGING_URI"] == str(tmp_path / "stage")
    assert given["ARTIFACTS_DIR"] == str(tmp_path / "art")
    assert given["PREDICTBENCH_HOME"] == str(tmp_path / "here")
    assert given["EXPERIMENTS_FILE"] == str(tmp_path / "mine.toml")
    assert given["MODEL_PRICES_FILE"] == str(tmp_path / "prices.toml")
    assert given["PROMETHEUS_TEXTFILE"] == str(tmp_path / "metrics.prom")


def test_without_an_env_file_the_child_reads_none(tmp_path: Path) -> None:
    assert command(tmp_path).variables["PREDICTBENCH_ENV_FILE"] == ""


def test_a_dry_run_is_told_to_the_child(tmp_path: Path) -> None:
    made = run_command(
        load_settings(), KEY, home=tmp_path, config_file=tmp_path, summary=tmp_path, scratch=tmp_path / "x"
    )
    assert made.variables["PREDICTBENCH_DRY_RUN"] == "1"
    assert made.variables["PREDICTBENCH_SCRATCH"] == str(tmp_path / "x")


def test_the_ui_listens_on_this_machine_only(tmp_path: Path) -> None:
    arguments = ui_command(load_settings(), home=tmp_path, port=3001).arguments
    assert arguments[arguments.index("-h") + 1] == "127.0.0.1"
    assert arguments[arguments.index("-p") + 1] == "3001"


def test_every_command_finds_experiments_in_the_folder_that_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/theirs")
    settings, given = load_settings(), {"home": tmp_path, "import_path": tmp_path / "mine"}
    files = {"config_file": tmp_path / "c", "summary": tmp_path / "s"}
    for made in (
        run_command(settings, KEY, **given, **files),
        sweep_command(settings, config_file=tmp_path / "c", **given),
        ui_command(settings, port=3001, **given),
    ):
        assert made.environment()["PYTHONPATH"] == f"{tmp_path / 'mine'}{os.pathsep}/theirs"
    assert "PYTHONPATH" not in ui_command(settings, home=tmp_path, port=3001).variables


def test_the_home_gets_the_yaml_and_follows_its_changes(tmp_path: Path) -> None:
    home = prepare_home(load_settings(), tmp_path / "dagster")
    assert "storage" not in yaml.safe_load((home / "dagster.yaml").read_text())
    (home / "dagster.yaml").write_text("old: true")
    prepare_home(load_settings(), home)
    assert (home / "dagster.yaml").read_text() == (CLONE / "dagster.yaml").read_text()


def test_the_home_has_shared_storage_where_it_is_set_except_for_a_dry_run(tmp_path: Path) -> None:
    settings = load_settings(dagster_postgres_url="postgres://d:hunter33@h/db")
    home = prepare_home(settings, tmp_path / "shared")
    storage = yaml.safe_load((home / "dagster.yaml").read_text())["storage"]
    assert storage["custom"]["config"] == {"postgres_url": {"env": "DAGSTER_POSTGRES_URL"}}
    dry = prepare_home(settings, tmp_path / "dry", temporary=True)
    assert "storage" not in yaml.safe_load((dry / "dagster.yaml").read_text())


@pytest.mark.parametrize("name", ["what?", "a%20b", "my [work]", "all*", "\udcff"])
def test_a_home_whose_name_dagster_would_misread_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(LaunchError, match="PREDICTBENCH_HOME"):
        prepare_home(load_settings(), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_home_may_have_any_other_name(tmp_path: Path) -> None:
    home = prepare_home(load_settings(), tmp_path / 'a 100% $(b) `c` "d" é,&#;\'')
    storage = create_engine(create_db_conn_string(str(home), "runs"), poolclass=NullPool)
    with storage.connect():
        assert (home / "runs.db").is_file()


def test_the_run_config_is_yaml_that_dagster_reads(tmp_path: Path) -> None:
    file = write_run_config(tmp_path / "x" / "c.yaml", {"raw_markets": {"refresh": True}, "nothing": {}})
    read = yaml.safe_load(file.read_text())
    assert read["ops"] == {"raw_markets": {"config": {"refresh": True}}}
    assert read["loggers"]["console"]["config"]["log_level"] == "CRITICAL"


def test_any_output_becomes_a_log_line() -> None:
    line = as_line("Traceback with hunter22", lambda text: text.replace("hunter22", "***"))
    assert line is not None
    assert (line["message"], line["process_stage"]) == ("Traceback with ***", None)
    assert as_line("   ", str) is None
    assert as_line('{"a": 1}', str)["message"] == '{"a": 1}'  # type: ignore[index]


def child(tmp_path: Path, body: str) -> Command:
    return Command((sys.executable, "-c", body), tmp_path, {})


def emitted(**fields: object) -> str:
    line = {"timestamp": "2026-11-23T07:00:00+00:00", "level": "INFO", "message": "m"} | fields
    return f"print({json.dumps(json.dumps(line))}, flush=True)\n"


def test_a_child_is_kept_in_a_log_and_its_stage_is_known(tmp_path: Path) -> None:
    body = emitted(event="STEP_START", process_stage="raw_markets", dagster_run_id="d")
    body += emitted(event="STEP_FAILURE", process_stage="raw_markets", level="ERROR", reason="the API changed")
    body += "print('bye'); raise SystemExit(3)"
    seen: list[Line] = []
    watched = run_child(child(tmp_path, body), log=tmp_path / "logs" / "x.jsonl", redact=str, on_line=seen.append)
    assert (watched.stage, watched.reason, watched.exit_code) == ("raw_markets", "the API changed", 3)
    assert watched.dagster_run_id == "d"
    assert [json.loads(text) for text in (tmp_path / "logs" / "x.jsonl").read_text().splitlines()] == seen
    assert len(seen) == 3


def test_what_a_child_that_never_began_a_step_raised_is_known(tmp_path: Path) -> None:
    body = "import traceback\ntry:\n  1 / 0\nexcept Exception:\n  traceback.print_exc()\n"
    body += "try:\n  int('x')\nexcept ValueError as e:\n  raise ConnectionError('FATAL: no such hunter22') from e"
    watched = run_child(
        child(tmp_path, body),
        log=tmp_path / "l",
        redact=lambda text: text.replace("hunter22", "***"),
        on_line=lambda _: None,
    )
    assert watched.reason is None
    assert watched.raised == [
        "ValueError: invalid literal for int() with base 10: 'x'",
        "ConnectionError: FATAL: no such ***",
    ]


def test_a_killed_child_is_told_by_its_stage_and_exit_code(tmp_path: Path) -> None:
    body = emitted(event="STEP_START", process_stage="persisted_run") + "import os; os.kill(os.getpid(), 9)"
    watched = run_child(child(tmp_path, body), log=tmp_path / "l", redact=str, on_line=lambda _: None)
    assert (watched.stage, watched.reason, watched.exit_code) == ("persisted_run", None, -9)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_passed_on(tmp_path: Path, number: signal.Signals) -> None:
    body = f"import signal, time\nsignal.signal({int(number)}, lambda *_: exit(42))\n" + emitted() + "time.sleep(30)"
    before = signal.getsignal(number)

    def kill_soon(_: Line) -> None:
        threading.Timer(0.01, os.kill, (os.getpid(), number)).start()

    began = time.monotonic()
    watched = run_child(child(tmp_path, body), log=tmp_path / "l", redact=str, on_line=kill_soon)
    assert (watched.exit_code, watched.signal) == (42, number)
    assert time.monotonic() - began < 10
    assert signal.getsignal(number) is before


STUBBORN = """
import signal, subprocess, sys, time
for one in (signal.SIGINT, signal.SIGTERM):
    signal.signal(one, signal.SIG_IGN)
helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
"""


def test_a_child_that_does_not_end_is_killed_with_what_it_started(tmp_path: Path) -> None:
    body = STUBBORN + emitted(event="STEP_START", process_stage="raw_markets") + "time.sleep(600)"
    watched = run_child(
        child(tmp_path, body),
        log=tmp_path / "l",
        redact=str,
        on_line=lambda _: os.kill(os.getpid(), signal.SIGTERM),
        ending_s=0.2,
    )
    assert (watched.signal, watched.exit_code, watched.stage) == (signal.SIGTERM, -signal.SIGKILL, "raw_markets")


LEAVING = """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(20)"], start_new_session={own_session})
"""


@pytest.mark.parametrize("own_session", [False, True])
def test_a_process_that_is_left_behind_holds_nothing_up(tmp_path: Path, own_session: bool) -> None:
    body, seen, began = LEAVING.format(own_session=own_session) + emitted(), list[Line](), time.monotonic()
    watched = run_child(child(tmp_path, body), log=tmp_path / "l", redact=str, on_line=seen.append)
    assert watched.exit_code == 0
    assert "left behind" in seen[-1]["message"]
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(("event", "code"), [("PIPELINE_SUCCESS", 0), ("PIPELINE_FAILURE", 1)])
def test_a_process_that_does_not_end_after_its_run_is_killed_and_the_run_is_what_it_was(
    tmp_path: Path, event: str, code: int
) -> None:
    body = "import atexit, time\natexit.register(time.sleep, 20)\n" + emitted(event=event)
    seen: list[Line] = []
    watched = run_child(child(tmp_path, body), log=tmp_path / "l", redact=str, on_line=seen.append, ending_s=0.2)
    assert watched.exit_code == code
    assert "has not" in seen[-1]["message"]


def test_what_goes_wrong_after_a_signal_is_no_reason(tmp_path: Path) -> None:
    failed = emitted(event="STEP_FAILURE", process_stage="raw_markets", level="ERROR", reason="the database went away")
    body = (
        "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, {15})\n"
        + emitted()
        + "signal.sigwait({15})\n"
        + failed
    )
    watched = run_child(
        child(tmp_path, body),
        log=tmp_path / "l",
        redact=str,
        on_line=lambda line: os.kill(os.getpid(), signal.SIGTERM) if line.get("event") is None else None,
    )
    assert (watched.signal, watched.reason, watched.exit_code) == (signal.SIGTERM, None, 0)


def test_the_command_names_an_exchange_that_is_not_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "POLYMARKET" not in str(command(tmp_path))
    monkeypatch.setenv("POLYMARKET_BASE_URL", "http://127.0.0.1:8765")
    assert "POLYMARKET_BASE_URL=http://127.0.0.1:8765" in str(command(tmp_path))


PAGE = """
import http.server, sys
class Page(http.server.BaseHTTPRequestHandler):
    asked = 0
    def do_GET(self):
        Page.asked += 1
        print(f"asked {Page.asked}", file=open(sys.argv[2], "a"))
        self.send_response(200 if self.path == "/server_info" and Page.asked > 2 else 503)
        self.end_headers()
    def log_message(self, *_): ...
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Page).serve_forever()
"""


def page(port: int, tmp_path: Path, program: str = PAGE) -> Command:
    """A command that serves a page, which is there when it was asked for the third time."""
    return Command((sys.executable, "-c", program, str(port), str(tmp_path / "asked")), tmp_path, {})


def test_a_ui_is_announced_when_it_answers_and_ctrl_c_ends_it_cleanly(tmp_path: Path) -> None:
    port, announced = free_port(), []

    def answered() -> None:
        announced.append((tmp_path / "asked").read_text().split("\n")[-2])
        os.kill(os.getpid(), signal.SIGINT)

    assert run_in_foreground(page(port, tmp_path), f"http://127.0.0.1:{port}", answered) == 0
    assert announced == ["asked 3"]
    require_free(port)


def test_a_ui_that_ends_before_it_answers_is_not_announced(tmp_path: Path) -> None:
    announced: list[None] = []
    with pytest.raises(LaunchError, match="ended with exit code 3 before it answered at http"):
        run_in_foreground(
            page(1, tmp_path, "raise SystemExit(3)"), "http://127.0.0.1:1", lambda: announced.append(None)
        )
    assert announced == []


def test_a_ui_is_ended_where_it_cannot_be_announced(tmp_path: Path) -> None:
    port = free_port()

    def answered() -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        run_in_foreground(page(port, tmp_path), f"http://127.0.0.1:{port}", answered)
    require_free(port)


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_a_taken_port_is_told_with_who_holds_it_and_one_that_is_free(address: str) -> None:
    with socket.create_server((address, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(LaunchError) as refused:
            require_free(port)
    assert f"port {port} is taken by process {os.getpid()} (" in str(refused.value)
    suggested = re.search(r"--port (\d+)$", str(refused.value))
    assert suggested is not None
    require_free(int(suggested[1]))
    require_free(port)


@pytest.mark.parametrize("options", [[], ["--read-only"]], ids=["local", "read-only"])
def test_a_second_ui_is_refused_before_anything_starts(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", "postgresql://dagster@127.0.0.1:9/dagster")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = CliRunner().invoke(main, ["ui", "--port", str(taken.getsockname()[1]), *options])
    assert done.exit_code == 1
    assert "is taken by" in done.output
    assert list(tmp_path.iterdir()) == []


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])
