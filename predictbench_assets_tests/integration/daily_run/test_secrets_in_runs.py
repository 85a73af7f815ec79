"""What is secret in the settings is nowhere to be found after a run that went wrong.

Every secret of the settings is planted, whichever there are, and looked for in what was printed and logged, in every
file of the run, and in every row of the database, as it is, percent-encoded and in base64.
"""

import base64
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, quote_plus

import psycopg
import pytest
import zstandard
from sqlalchemy.engine import make_url

import predictbench_assets
from predictbench_assets.sandbox.server import SandboxServer
from predictbench_assets.sandbox.world import World
from predictbench_assets.settings import Settings, all_variables, secret_names, variables
from predictbench_assets_tests.integration.daily_run.leaking_experiment import TOLD
from predictbench_assets_tests.kit.daily_run import BASELINE, DailyRun, MakeSandbox
from predictbench_assets_tests.kit.places import CLONE

TELLTALES = "predictbench_assets_tests.integration.daily_run.leaking_experiment"
NOBODY = "127.0.0.1:9"


def planted_text(name: str) -> str:
    """A secret that is nowhere else, and that looks different in a URL."""
    return f"pl4nt:{name.replace('_', '/')}@{len(name)}+x"


PLANTED = {variables(name)[0]: planted_text(name) for name in sorted(secret_names())}
"""The secret part of each setting, by its variable."""


def planted_settings(database_url: str) -> dict[str, str]:
    """All secrets of the settings, each in a value that the setting takes."""
    values = dict(PLANTED)
    for name, text in PLANTED.items():
        if name.endswith("_URL"):
            values[name] = f"http://{NOBODY}/hooks/{quote(text, safe='')}"
        if name.endswith(("_DB_URL", "DATABASE_URL", "POSTGRES_URL")):
            values[name] = f"postgresql://someone:{quote(text, safe='')}@{NOBODY}/nothing"
    # The executor of these runs takes nothing that may be a secret: that is what others hand on to their workers.
    values["EXECUTOR_OPTIONS"] = '{"retries": {"enabled": {}}}'
    return values | {"DATABASE_URL": with_password(database_url, PLANTED["DATABASE_URL"])}


def with_password(url: str, password: str) -> str:
    """A trusting server does not read the password."""
    return make_url(url).set(password=password).render_as_string(hide_password=False)


def test_every_secret_is_planted_where_the_settings_take_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in planted_settings("postgresql://me@localhost/here").items():
        monkeypatch.setenv(name, value)
    settings = Settings(_env_file=None)
    for name in secret_names():
        assert getattr(settings, name) is not None, f"plant a good value for {name}"


@pytest.fixture(scope="module")
def exchange(make_sandbox: MakeSandbox) -> SandboxServer:
    return make_sandbox(World(markets_per_day=10))


@pytest.fixture(params=["sqlite"])
def daily(
    request: pytest.FixtureRequest, exchange: SandboxServer, new_database: Callable[[], str], tmp_path: Path
) -> DailyRun:
    """A run with all secrets planted, on a laptop's instance of Dagster or (`postgres`) on a deployed one."""
    daily = DailyRun(tmp_path, new_database(), exchange, {"LOG_LEVEL": "DEBUG"})
    secrets = planted_settings(daily.database_url)
    if request.param == "postgres":
        daily.home.joinpath("dagster.yaml").write_bytes((CLONE / "deploy" / "dagster.yaml").read_bytes())
        secrets["DAGSTER_POSTGRES_URL"] = with_password(
            make_url(daily.database_url).set(drivername="postgresql+psycopg2").render_as_string(hide_password=False),
            PLANTED["DAGSTER_POSTGRES_URL"],
        )
    daily.database_url = secrets.pop("DATABASE_URL")
    daily.variables |= secrets | {TOLD: ",".join([*PLANTED, "TEST_RAW"]), "TEST_RAW": PLANTED["POLYMARKET_API_KEY"]}
    return daily


@pytest.mark.parametrize(
    ("daily", "experiment", "exit_code"),
    [
        ("sqlite", "LeakingExperimentThatFails", 1),
        ("postgres", "LeakingExperiment", 0),
        pytest.param("sqlite", "LeakingExperiment", 0, marks=pytest.mark.long),
        pytest.param("postgres", "LeakingExperimentThatFails", 1, marks=pytest.mark.long),
    ],
    indirect=["daily"],
)
def test_an_experiment_that_tells_secrets_is_not_passed_on(daily: DailyRun, experiment: str, exit_code: int) -> None:
    ran = daily.forked(PROCESSING_EXPERIMENTS=f"{BASELINE},{TELLTALES}:{experiment}")

    assert ran.exit_code == exit_code, ran.output
    assert "about to log in with" in ran.output
    reasons = daily.rows("SELECT reason FROM predictbench.processing_failures WHERE market_id IS NOT NULL")
    assert reasons
    assert all("no forecast" in reason and "***" in reason for (reason,) in reasons)
    if exit_code == 0:
        payloads = daily.rows(
            "SELECT payload::text FROM predictbench.experiment_results WHERE payload::text ~ 'header'"
        )
        assert payloads
        assert all("***" in payload for (payload,) in payloads)
    assert_not_told(daily, [ran.output, *everything_stored(daily)])


def test_an_experiment_that_tells_secrets_before_anything_runs(daily: DailyRun) -> None:
    ran = daily.forked(PROCESSING_EXPERIMENTS=f"{TELLTALES}:LeakingExperimentThatCannotBeMade")

    assert ran.exit_code == 1
    assert "RuntimeError: no login with " in ran.output
    assert_not_told(daily, [ran.output, *everything_stored(daily)])


@pytest.mark.parametrize(
    ("daily", "status"),
    [
        ("sqlite", 401),
        ("postgres", 500),
        pytest.param("sqlite", 500, marks=pytest.mark.long),
        pytest.param("postgres", 401, marks=pytest.mark.long),
    ],
    indirect=["daily"],
)
def test_an_exchange_that_quotes_what_it_was_sent(daily: DailyRun, status: int) -> None:
    with echo(status) as address:
        ran = daily.forked(POLYMARKET_BASE_URL=address, POLYMARKET_CLOB_URL=address, POLYMARKET_MAX_ATTEMPTS="2")

    assert ran.exit_code == 1
    assert (ran.said["stage"], "Bearer ***" in ran.said["reason"]) == ("raw_markets", True), ran.said["reason"]
    assert "***" in daily.run_row("reason")
    assert_not_told(daily, [ran.output, *everything_stored(daily)])


def test_a_database_that_quotes_the_wrong_password(daily: DailyRun) -> None:
    real, password = daily.database_url, PLANTED["DATABASE_URL"]
    with refusing_database(f'password authentication failed for user "me" with {password}') as address:
        daily.database_url = f"postgresql://me:{quote(password, safe='')}@{address}/here"
        ran = daily.forked()

    assert ran.exit_code == 1
    assert (ran.said["status"], ran.said["stage"]) == ("failed", "target_window")
    assert "authentication failed" in ran.said["reason"]
    daily.database_url = real
    assert_not_told(daily, [ran.output, *everything_stored(daily)])


@pytest.mark.long
def test_a_database_that_cannot_be_reached_keeps_its_password(daily: DailyRun) -> None:
    real = daily.database_url
    daily.database_url = f"postgresql://someone:{quote(PLANTED['DATABASE_URL'], safe='')}@{NOBODY}/nothing"

    ran = daily.forked()

    assert ran.exit_code == 1
    assert (ran.said["status"], ran.said["stage"]) == ("failed", "target_window")
    assert "the database is not available" in ran.said["reason"]
    daily.database_url = real
    assert_not_told(daily, [ran.output, *everything_stored(daily)])


@pytest.mark.long
def test_the_daily_command_and_its_note_to_a_webhook(daily: DailyRun) -> None:
    told = {"PROCESSING_EXPERIMENTS": f"{BASELINE},{TELLTALES}:LeakingExperimentThatFails", "DAGSTER_POSTGRES_URL": ""}
    summary = daily.folder / "summary.json"
    ran = predictbench(daily, "daily", "--summary", str(summary), **told)
    assert ran.returncode == 1
    assert "none of 10 markets could be stored" in ran.stderr + ran.stdout

    with echo(500) as address:
        webhook = f"{address}/hooks/{quote(PLANTED['NOTIFY_WEBHOOK_URL'], safe='')}"
        noted = predictbench(
            daily, "notify", "--outcome", "failure", "--summary", str(summary), NOTIFY_WEBHOOK_URL=webhook
        )
    assert "NOTIFY_WEBHOOK_URL" in noted.stderr
    outputs = [ran.stdout, ran.stderr, noted.stdout, noted.stderr]
    assert_not_told(daily, [*outputs, *everything_stored(daily)])


def predictbench(daily: DailyRun, *arguments: str, **given: str) -> "subprocess.CompletedProcess[str]":
    """The command as a person runs it, at the time of the other runs."""
    inherited = {name: value for name, value in os.environ.items() if name not in all_variables()}
    settings = daily.environment(daily.folder / "summary.json", {"LOG_LEVEL": "INFO"} | given)
    del settings["PREDICTBENCH_SUMMARY"]
    return subprocess.run(
        [sys.executable, "-m", "predictbench_assets.cli.main", *arguments],
        cwd=daily.folder,
        env=inherited | settings | {"PYTHONPATH": str(CLONE), "NO_PROXY": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


# The service-role key

KEY = "supabase_service_role_key"


def test_only_doctor_names_the_service_role_key() -> None:
    package = Path(predictbench_assets.__file__).parent
    naming = {
        str(path.relative_to(package))
        for path in package.rglob("*")
        if path.is_file() and path.suffix != ".pyc" and KEY in path.read_text(errors="replace").lower()
    }
    assert naming == {"settings.py", "settings_overview.py", "diagnosis/remote.py"} & naming
    assert {"settings.py", "diagnosis/remote.py"} <= naming


def test_a_daily_run_reads_the_service_role_key_for_redaction_only(
    daily: DailyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    readers: list[str] = []

    def noted(settings: Settings, name: str) -> object:
        if name == KEY:
            readers.append(sys._getframe(1).f_code.co_name)
        return object.__getattribute__(settings, name)

    monkeypatch.setattr(Settings, "__getattribute__", noted)
    assert daily.here().exit_code == 0
    assert set(readers) <= {"_secret_texts"}


# Where a secret could be


def assert_not_told(daily: DailyRun, texts: Iterable[str]) -> None:
    """No text, and no file of the run (Dagster's events, staged files, the journal, the summary), has a secret."""
    for number, text in enumerate(texts):
        assert_clean(text.encode(), f"text {number}")
    files = [path for path in daily.folder.rglob("*") if path.is_file()]
    assert any(path.suffix in (".db", ".log") for path in files)
    for path in files:
        assert_clean(content_of(path), str(path.relative_to(daily.folder)))


_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{16,}")


def assert_clean(content: bytes, where: str) -> None:
    """No planted text is in the content in any form."""
    decoded = b"\n".join(decodings(content))
    for setting, secret in PLANTED.items():
        for form in (secret, quote(secret, safe=""), quote(secret), quote_plus(secret)):
            assert form.encode() not in content, f"{setting} is in {where}"
        assert secret.encode() not in decoded, f"{setting} is in {where}, in base64"


def decodings(content: bytes) -> Iterator[bytes]:
    """What each run of base64's characters would be, wherever it begins."""
    for found in _BASE64.finditer(content.replace(b"-", b"+").replace(b"_", b"/")):
        for offset in range(4):
            part = found.group()[offset:]
            if len(part) % 4 == 1:
                part = part[:-1]  # no byte ends there
            yield base64.b64decode(part + b"=" * (-len(part) % 4))


@pytest.mark.parametrize("before", ["", "u:", "us:", "use:"])
def test_a_secret_would_be_found(before: str) -> None:
    secret = PLANTED["POLYMARKET_API_KEY"]
    for form in (secret, quote(secret, safe=""), base64.urlsafe_b64encode(f"{before}{secret}".encode()).decode()):
        with pytest.raises(AssertionError, match="POLYMARKET_API_KEY is in here"):
            assert_clean(f"a header: {form}, and more".encode(), "here")


def content_of(path: Path) -> bytes:
    if path.name.endswith(".zst"):
        with path.open("rb") as raw:
            return zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True).read()
    return path.read_bytes()


def everything_stored(daily: DailyRun) -> list[str]:
    """Every row of every table, Dagster's too where they are there, as text."""
    url = make_url(daily.database_url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url, autocommit=True) as connection:
        tables = connection.execute(
            "SELECT format('%I.%I', table_schema, table_name) FROM information_schema.tables"
            " WHERE table_type = 'BASE TABLE' AND table_schema NOT IN ('pg_catalog', 'information_schema')"
        ).fetchall()
        rows: list[str] = []
        for (table,) in tables:
            rows += (row for (row,) in connection.execute(f"SELECT t::text FROM {table} t"))
    deployed = "StagingComputeLogManager" in daily.home.joinpath("dagster.yaml").read_text()
    assert any("STEP_FAILURE" in row or "STEP_SUCCESS" in row for row in rows) == deployed
    return ["\n".join(rows)]


# Others who tell


@contextmanager
def echo(status: int) -> Iterator[str]:
    """A service that refuses everything, quoting address and headers."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"error": f"no: {self.headers.get('Authorization')} {self.path}"}).encode()
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 - the library's name

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@contextmanager
def refusing_database(words: str) -> Iterator[str]:
    """Something that speaks enough of Postgres' protocol to turn everybody away."""
    fields = b"SFATAL\0VFATAL\0C28P01\0M" + words.encode() + b"\0\0"
    refusal = b"E" + (len(fields) + 4).to_bytes(4, "big") + fields
    ended = threading.Event()

    def serve(listener: socket.socket) -> None:
        while not ended.is_set():
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client:
                asked = client.recv(8)
                if asked == b"\0\0\0\x08\x04\xd2\x16\x2f":  # may we speak TLS?
                    client.sendall(b"N")
                    client.recv(4096)
                client.sendall(refusal)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        ended.set()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)
