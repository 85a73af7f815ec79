"""`predictbench demo`: everything under one folder, with an exchange and a database of its own.

Nothing of the user's is read: every variable that could be a setting of ours or of Dagster's is taken out of this
process before anything is loaded, and `.env` is not opened. The embedded server does the same with those of libpq.
"""

import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from predictbench_assets.failures import PermanentError

FOLDER = Path(".predictbench") / "demo"
MARKETS = 300

_START_SECONDS = 30.0
_FOREIGN_PREFIX = "DAGSTER_"


class SandboxNotRunning(PermanentError):
    """The sandbox process did not come up; the text has the end of its log."""


@click.command(
    short_help="A whole run against the sandbox exchange.",
    epilog="""\
\b
Examples:
  predictbench demo
  predictbench demo --past 8                eight days before today's, settled and scored: a board
  predictbench demo --markets 2000
  predictbench ui --demo
  predictbench stop
""",
)
@click.option("--markets", type=click.IntRange(1, 100_000), default=MARKETS, help="Markets that close on each day.")
@click.option(
    "--past",
    type=click.IntRange(0, 60),
    default=0,
    metavar="N",
    help="Run N days of the past first and let them settle, so that there is a board.",
)
@click.pass_context
def demo(context: click.Context, markets: int, past: int) -> None:
    """Run a whole day against the sandbox exchange, in an embedded Postgres; needs nothing and nobody.

    The exchange and the database keep running, so that the next demo is quick: `predictbench stop` ends them.
    """
    from predictbench_assets.cli.daily import DailyOptions, run_daily
    from predictbench_assets.cli.demo_past import run_past_days, show_board
    from predictbench_assets.cli.progress import stages
    from predictbench_assets.observability.logs import configure_logging
    from predictbench_assets.settings import load_settings

    folder = enter_demo()
    os.environ["LOG_FORMAT"] = "text"  # a person reads this, even where a pipe or a file lies between
    if past and (code := run_past_days(folder, markets, past)) != 0:
        sys.exit(code)
    use_sandbox(start_sandbox(folder, markets))
    settings = load_settings()
    configure_logging(settings)
    code = run_daily(settings, DailyOptions(window_days=7), show=stages)
    if code == 0 and past:
        show_board(context)
    if code == 0:
        click.echo(_next_steps())
    sys.exit(code)


def _next_steps() -> str:
    installed = shutil.which("predictbench") is not None
    program = "predictbench" if installed else ".venv/bin/predictbench"
    query = "select question, price from predictbench.processed_markets limit 5"
    return (
        "\nNext:\n"
        "  make ui DEMO=1      the asset graph of this run, at http://127.0.0.1:3000\n"
        f"  {program} db --demo sql '{query}'\n"
        f"  {program} demo --past 8     days of the past as well, settled and scored: a board\n"
        "  make daily          the same for the real Polymarket\n"
        "  make stop           end the demo's exchange and database"
    )


def demo_option(command: Any) -> Any:
    """`--demo`: work on the demo's data instead of one's own."""

    def enter(_: click.Context, __: click.Parameter, value: bool) -> None:
        if value:
            enter_demo()

    return click.option(
        "--demo", is_flag=True, is_eager=True, expose_value=False, callback=enter, help="On the demo's data."
    )(command)


def enter_demo() -> Path:
    """Turn this process, and every child of it, to the demo's folder; returns that folder."""
    from predictbench_assets.settings import ENV_FILE_VARIABLE, all_variables

    folder = FOLDER.resolve()
    for name in list(os.environ):
        if name.upper() in all_variables() or name.upper().startswith(_FOREIGN_PREFIX):
            del os.environ[name]
    local = "127.0.0.1,localhost"
    os.environ |= {
        ENV_FILE_VARIABLE: "",
        "PREDICTBENCH_HOME": str(folder),
        # Nothing of the demo may go to a real exchange, even when it is entered without a running sandbox.
        "POLYMARKET_BASE_URL": "http://127.0.0.1:9",
        "POLYMARKET_CLOB_URL": "http://127.0.0.1:9/clob",
        "POLYMARKET_REQUESTS_PER_SECOND": "100",
        "NO_PROXY": local,
        "no_proxy": local,
    }
    folder.mkdir(parents=True, exist_ok=True)
    if (running := running_sandbox(folder)) is not None:
        use_sandbox(running)
    return folder


@dataclass(frozen=True)
class SandboxProcess:
    """A sandbox that was left running, as its pid file tells it."""

    pid: int
    began: float
    """When the operating system says the process began: a pid alone may be someone else's by now."""
    port: int
    markets: int

    @property
    def base_url(self) -> str:
        """Where its Gamma API is."""
        return f"http://127.0.0.1:{self.port}"


def use_sandbox(sandbox: SandboxProcess) -> None:
    """Point this process and its children at a sandbox."""
    os.environ["POLYMARKET_BASE_URL"] = sandbox.base_url
    os.environ["POLYMARKET_CLOB_URL"] = f"{sandbox.base_url}/clob"


def start_sandbox(folder: Path, markets: int | None = None) -> SandboxProcess:
    """A sandbox at the real time: the one that is running, if it can be brought there, else a new one.

    Args:
        folder: the demo's.
        markets: how many close on each day; None takes a running one of any size.

    Raises:
        SandboxNotRunning: it does not come up.
    """
    with _locked(folder):
        running = running_sandbox(folder)
        if running is not None and markets in (None, running.markets) and _bring_to_now(running):
            return running
        if running is not None:
            _end(running)
        started = _start(folder, markets or MARKETS)
        _pid_file(folder).write_text(json.dumps(asdict(started)), encoding="utf-8")
        return started


def start_sandbox_at(folder: Path, markets: int, now: datetime) -> SandboxProcess:
    """A new sandbox at another time, in place of a running one: an exchange's time goes forward only.

    Raises:
        SandboxNotRunning: it does not come up.
    """
    with _locked(folder):
        if (running := running_sandbox(folder)) is not None:
            _end(running)
        started = _start(folder, markets, "--now", now.isoformat())
        _pid_file(folder).write_text(json.dumps(asdict(started)), encoding="utf-8")
        return started


def stop_sandbox(folder: Path) -> bool:
    """End the sandbox that a demo left running; false where there is none."""
    running = running_sandbox(folder)
    if running is None:
        return False
    _end(running)
    _pid_file(folder).unlink(missing_ok=True)
    return True


def running_sandbox(folder: Path) -> SandboxProcess | None:
    """The sandbox that the pid file names, if that process still is the one it was."""
    import psutil  # type: ignore[import-untyped]

    try:
        found = SandboxProcess(**json.loads(_pid_file(folder).read_text(encoding="utf-8")))
        process = psutil.Process(found.pid)
        same = abs(process.create_time() - found.began) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except (OSError, ValueError, TypeError, psutil.Error):
        return None
    return found if same else None


def _start(folder: Path, markets: int, *options: str) -> SandboxProcess:
    import psutil

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = folder / "sandbox.log"
    arguments = ["sandbox", "serve", "--port", str(port), "--markets", str(markets), *options]
    with log.open("wb") as output:
        child = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-m", "predictbench_assets.cli.main", *arguments],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # it outlives this command, and Ctrl-C
        )
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and child.poll() is None:
        if b"sandbox ready" in log.read_bytes():
            return SandboxProcess(child.pid, psutil.Process(child.pid).create_time(), port, markets)
        time.sleep(0.05)
    child.kill()
    tail = log.read_text(encoding="utf-8", errors="replace")[-1500:]
    raise SandboxNotRunning(f"the sandbox exchange does not start; the end of {log}:\n{tail}")


def _bring_to_now(sandbox: SandboxProcess) -> bool:
    """Move a running sandbox to the present; false where it does not answer, or is ahead of the present."""
    import httpx

    now = datetime.now(UTC)
    try:
        with httpx.Client(base_url=sandbox.base_url, timeout=10, trust_env=False) as client:
            status = client.get("/_sandbox/status").raise_for_status().json()
            if datetime.fromisoformat(status["now"]) > now + timedelta(seconds=5):
                return False
            return client.post("/_sandbox/time", json={"now": now.isoformat()}).is_success
    except (httpx.HTTPError, ValueError, KeyError):
        return False


def _end(sandbox: SandboxProcess) -> None:
    import psutil

    try:
        process = psutil.Process(sandbox.pid)
        process.terminate()
        process.wait(timeout=5)
    except psutil.TimeoutExpired:
        process.kill()
    except psutil.NoSuchProcess:
        pass


def _pid_file(folder: Path) -> Path:
    return folder / "sandbox.json"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time starts a sandbox here."""
    with (folder / "sandbox.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
