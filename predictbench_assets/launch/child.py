"""Running Dagster: the home it runs in, the command for one run, and the child process that does it.

Dagster is only ever run as a command of its own, in a folder of ours: a `.env` in its working folder would override
variables that were exported for it.
"""

import errno
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty, Queue
from types import FrameType
from typing import Any

import httpx
import psutil  # type: ignore[import-untyped]
from sqlalchemy import make_url

from predictbench_assets.commit import running_commit
from predictbench_assets.failures import PermanentError
from predictbench_assets.runs import RunKey, partition_tags
from predictbench_assets.settings import ENV_FILE_VARIABLE, Settings, default_env_file

DEFINITIONS = "predictbench_assets.definitions"
DAILY_RUN = "daily_run"
RESOLUTION_SWEEP = "resolution_sweep"
SUMMARY_VARIABLE = "PREDICTBENCH_SUMMARY"
RUN_STARTED, RUN_ENDED = "RUN_STARTED", "RUN_ENDED"
"""Events of the log of `series`, beside Dagster's."""
CLONE = Path(__file__).resolve().parents[2]

STOPS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""The signals that ask a process to stop; Windows has no SIGHUP."""

LOCAL = "127.0.0.1"

ENDING_SECONDS = 20.0
"""How long a process may take to end after it was asked to, before it is killed."""

_ENDS = {"PIPELINE_SUCCESS": 0, "PIPELINE_FAILURE": 1, "PIPELINE_CANCELED": 1}
"""Dagster's events at the end of a run, and the exit code that it ends with."""

_NOT_ENDING = "The run has ended and its process has not: something that an experiment started keeps it. It is killed."
_LEFT_BEHIND = "A process that an experiment started and left behind keeps the run's output open. It is killed."

_QUIET_SECONDS = 1.0
"""A process that has ended has no more to say when its output has been quiet for so long."""

_LINES_AHEAD = 1_000  # of output that are read before they are dealt with
_GRACE_SECONDS = 5.0
_POLL_SECONDS = 0.25

_OUTPUT = "output"
"""The logger of lines that were printed, not logged."""

_TRACEBACK, _CHAINED = "Traceback (most recent call last)", ("The above exception was", "During handling of the above")
_RAISED = re.compile(r"(\w+\.)*[A-Z]\w*(Error|Exception|Unavailable|Refused): \S")

_QUIET = (
    # These commands and YAML handlers are what we mean; Dagster says of them that they may change.
    "ignore:Function `job_execute_command` is superseded",
    "ignore:Function `dev_command` is superseded",
    "ignore:Handling yaml-defined logging configuration",
)

Line = dict[str, Any]
"""A log line of the child, as `observability.logs.JsonLines` writes it."""


class LaunchError(PermanentError):
    """Dagster cannot be run from here."""


@dataclass(frozen=True)
class Command:
    """A command, the folder it runs in, and the variables it is given on top of ours."""

    arguments: tuple[str, ...]
    folder: Path
    variables: Mapping[str, str]
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        """The command as it can be pasted into a shell; secrets are not part of it."""
        given = [f"{name}={shlex.quote(value)}" for name, value in self.variables.items()]
        return f"cd {shlex.quote(str(self.folder))} && {' '.join([*given, shlex.join(self.arguments)])}"

    def environment(self) -> dict[str, str]:
        """Everything the child's environment holds."""
        warnings = ",".join([*filter(None, [os.environ.get("PYTHONWARNINGS")]), *_QUIET])
        # Not in the encoding of an old locale: experiments, YAML and logs are UTF-8.
        return {**os.environ, "PYTHONUTF8": "1", "PYTHONWARNINGS": warnings, **self.variables, **self.secrets}


def run_command(
    settings: Settings,
    key: RunKey,
    *,
    home: Path,
    config_file: Path,
    summary: Path,
    import_path: Path | None = None,
    scratch: Path | None = None,
) -> Command:
    """`dagster job execute` for one partition.

    Args:
        home: the DAGSTER_HOME, see `prepare_home`.
        config_file: the run's configuration, see `write_run_config`.
        summary: where the run leaves its summary.
        import_path: a folder with modules of experiments, if there is one.
        scratch: makes it a dry run, whose new files go there.
    """
    tags = json.dumps(partition_tags(key), separators=(",", ":"))
    arguments = ("job", "execute", "-m", DEFINITIONS, "-j", DAILY_RUN, "--tags", tags, "-c", str(config_file))
    variables = _run_variables(settings, home, summary, import_path, scratch)
    return Command((sys.executable, "-m", "dagster", *arguments), home, variables, _secrets(settings))


@dataclass(frozen=True)
class PlannedRun:
    """One run of a series."""

    partition: str
    config_file: str
    """See `write_run_config`."""
    summary: str
    """Where it leaves its summary."""


def series_command(
    settings: Settings,
    runs: Sequence[PlannedRun],
    *,
    home: Path,
    folder: Path,
    import_path: Path | None = None,
    scratch: Path | None = None,
) -> Command:
    """The runs one after another in one process, see `series`.

    Args:
        home: the DAGSTER_HOME, see `prepare_home`.
        folder: where the plan of the series is written.
        import_path: a folder with modules of experiments, if there is one.
        scratch: makes them dry runs, whose new files go there.
    """
    plan = folder / "series.json"
    plan.write_text(json.dumps([asdict(run) for run in runs], indent=2) + "\n", encoding="utf-8")
    variables = _run_variables(settings, home, folder / "series.summary.json", import_path, scratch)
    arguments = (sys.executable, "-m", "predictbench_assets.series", str(plan))
    return Command(arguments, home, variables, _secrets(settings))


def _run_variables(
    settings: Settings, home: Path, summary: Path, import_path: Path | None, scratch: Path | None
) -> dict[str, str]:
    variables = shared_variables(settings, home) | {SUMMARY_VARIABLE: str(summary)} | _importing(import_path)
    if scratch is not None:
        variables |= {"PREDICTBENCH_DRY_RUN": "1", "PREDICTBENCH_SCRATCH": str(scratch)}
    return variables


def sweep_command(settings: Settings, *, home: Path, config_file: Path, import_path: Path | None = None) -> Command:
    """`dagster job execute` for the resolution sweep: settlements, scores, boards and the page."""
    arguments = ("job", "execute", "-m", DEFINITIONS, "-j", RESOLUTION_SWEEP, "-c", str(config_file))
    variables = shared_variables(settings, home) | _importing(import_path)
    return Command((sys.executable, "-m", "dagster", *arguments), home, variables, _secrets(settings))


def ui_command(settings: Settings, *, home: Path, port: int, import_path: Path | None = None) -> Command:
    """`dagster dev`: the web server and the daemon on the local instance."""
    arguments = ("dev", "-m", DEFINITIONS, "-h", LOCAL, "-p", str(port))
    variables = shared_variables(settings, home) | _importing(import_path)
    return Command((sys.executable, "-m", "dagster", *arguments), home, variables, _secrets(settings))


def read_only_ui_command(settings: Settings, *, home: Path, port: int) -> Command:
    """`dagster-webserver --read-only`: the web server alone, on the storage that DAGSTER_POSTGRES_URL names.

    The code it loads to draw the graph is given no deployment's environment: it never comes to write anything, so it
    need not have the database's secrets.
    """
    arguments = ("--read-only", "-h", LOCAL, "-p", str(port), "-w", str(CLONE / "workspace.yaml"))
    variables = shared_variables(settings, home) | {"ENVIRONMENT": "development"}
    return Command((sys.executable, "-m", "dagster_webserver", *arguments), home, variables, _secrets(settings))


def shared_variables(settings: Settings, home: Path) -> dict[str, str]:
    """What a child in another folder needs to mean the same files: relative paths of the settings, made absolute."""
    env_file = default_env_file()
    variables = {
        "DAGSTER_HOME": str(home),
        "PREDICTBENCH_HOME": str(settings.home),
        ENV_FILE_VARIABLE: str(env_file.resolve()) if env_file is not None and env_file.is_file() else "",
    }
    if settings.staging_uri is not None and "://" not in settings.staging_uri:
        variables["STAGING_URI"] = settings.staging
    if settings.artifacts_dir is not None:
        variables["ARTIFACTS_DIR"] = str(settings.artifacts)
    if (sha := running_commit(settings)) is not None:
        variables["GIT_SHA"] = sha
    # Part of the command, so that a demo's, pasted into another shell, does not turn to the real exchange.
    exchange = ("POLYMARKET_BASE_URL", "POLYMARKET_CLOB_URL")
    return variables | {name: os.environ[name] for name in exchange if name in os.environ}


def _importing(import_path: Path | None) -> dict[str, str]:
    """The variables with which a child in another folder finds modules of experiments in this one."""
    if import_path is None:
        return {}
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(import_path), os.environ.get("PYTHONPATH")]))}


def _secrets(settings: Settings) -> dict[str, str]:
    """Dagster reads this one itself, so it must be given the address with the driver named."""
    secret = settings.dagster_postgres_url
    return {"DAGSTER_POSTGRES_URL": secret.get_secret_value()} if secret else {}


def prepare_home(settings: Settings, home: Path, *, temporary: bool = False) -> Path:
    """Make a DAGSTER_HOME, or bring its `dagster.yaml` up to date.

    Args:
        temporary: never with the shared storage, whatever the settings say.

    Raises:
        LaunchError: Predictbench was not installed from a clone, so that its `dagster.yaml` is not there; or Dagster
            cannot keep its storage in a folder of that name.
    """
    if not _can_be_addressed(home):
        raise LaunchError(
            f"Dagster cannot keep its storage in {str(home)!a}, whose name is not UTF-8 or has a ? or a % in it: "
            "work in another folder, or name one with PREDICTBENCH_HOME."
        )
    shared = settings.dagster_postgres_url is not None and not temporary
    source = CLONE / "deploy" / "dagster.yaml" if shared else CLONE / "dagster.yaml"
    if not source.is_file():
        raise LaunchError(f"{source} is missing: install Predictbench from a clone of its repository (`make setup`).")
    text = source.read_text(encoding="utf-8")
    if settings.log_level == "DEBUG":
        text = text.replace("python_log_level: INFO", "python_log_level: DEBUG")
    home.mkdir(parents=True, exist_ok=True)
    target = home / "dagster.yaml"
    if not target.exists() or target.read_bytes() != text.encode():
        target.write_bytes(text.encode())
    return home


def _can_be_addressed(folder: Path) -> bool:
    """Whether a folder's path is the same in the address that Dagster makes of it for SQLite, without quoting it."""
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        return False
    return make_url(f"sqlite:///{folder}").database == str(folder)


def run_config(ops: Mapping[str, Mapping[str, Any]]) -> str:
    """The configuration of a run: what each op is told, and Dagster's own console logger silenced.

    Our handler (see `dagster.yaml`) prints the same lines in the project's format. JSON is YAML, which Dagster reads.
    """
    config = {
        "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
        "ops": {name: {"config": dict(values)} for name, values in ops.items() if values},
    }
    return json.dumps(config, indent=2) + "\n"


def write_run_config(path: Path, ops: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write the configuration of a run into a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(run_config(ops), encoding="utf-8")
    return path


@dataclass
class Watched:
    """What was seen of a run from outside: enough to say where it stopped when it cannot say so itself."""

    stage: str | None = None
    reason: str | None = None
    begun: set[str] = field(default_factory=set)
    """The stages that were begun."""
    raised: list[str] = field(default_factory=list)
    """The errors of the last traceback that was printed, the cause first: what Dagster itself ended with."""
    dagster_run_id: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    ended: int | None = None
    """The exit code that the end of the run stands for; None while it is under way."""
    _chained: bool = False

    def see(self, line: Line) -> None:
        """Take note of a log line. What goes wrong after a signal came of it, and is no reason."""
        self.dagster_run_id = line.get("dagster_run_id") or self.dagster_run_id
        if self.signal is not None:
            return
        event, stage = line.get("event"), line.get("process_stage")
        if event is not None:
            self.ended = _ENDS.get(event, line.get("exit_code"))
        if event == "STEP_START" and stage is not None:
            self.begun.add(stage)
        if event == "STEP_START" and self.reason is None:
            self.stage = stage
        elif event == "STEP_FAILURE" and self.reason is None:
            self.stage, self.reason = stage, line.get("reason")
        elif line.get("level") == "ERROR" and event is None and self.dagster_run_id is None:
            self.reason = line.get("message")
        elif line.get("logger") == _OUTPUT:
            self._see_output(str(line.get("message")))

    def _see_output(self, text: str) -> None:
        if text.startswith(_TRACEBACK) and not self._chained:
            self.raised.clear()
        elif _RAISED.match(text):
            self.raised.append(text)
        if text.strip():
            self._chained = text.startswith(_CHAINED)


def run_watched(
    command: Command,
    *,
    log: Path,
    redact: Callable[[str], str],
    on_line: Callable[[Line], None],
    ending_s: float = ENDING_SECONDS,
) -> Watched:
    """Run a command to its end, keeping its output in `log` and handing each line on.

    Signals that this process gets are passed on to the child. A third one kills it, and what it has started; so does
    the first one, and the end of its run, when the child has not ended so many seconds after it. What it leaves behind
    is killed where it keeps the output open.
    """
    watched = Watched()
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("a", encoding="utf-8") as kept,
        _signals_passed_on(watched, ending_s) as pass_to,
        subprocess.Popen(  # noqa: S603 - our own command
            command.arguments,
            cwd=command.folder,
            env=command.environment() | {"LOG_FORMAT": "json", "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # Ctrl-C reaches the child through us alone, not twice
        ) as child,
    ):
        pass_to(child.send_signal, lambda: _kill(child))
        for text in _output(child, watched, ending_s):
            line = as_line(text.rstrip("\n"), redact)
            if line is None:
                continue
            kept.write(json.dumps(line) + "\n")
            kept.flush()
            watched.see(line)
            on_line(line)
    if watched.exit_code is None:
        watched.exit_code = child.returncode
    return watched


def _output(child: subprocess.Popen[str], watched: Watched, ending_s: float) -> Iterator[str]:
    """The lines that a process prints, to its end, whatever it has started or left undone."""
    lines: Queue[str | None] = Queue(_LINES_AHEAD)
    # Taken from it, since a file cannot be closed while another thread waits for a line.
    output, child.stdout = child.stdout, None
    assert output is not None

    def read() -> None:
        with output:
            for text in output:
                lines.put(text)
        lines.put(None)

    threading.Thread(target=read, name="output", daemon=True).start()
    quiet_since, killed = time.monotonic(), False
    while True:
        try:
            text = lines.get(timeout=_POLL_SECONDS)
        except Empty:
            quiet_s = time.monotonic() - quiet_since
            if child.poll() is not None and quiet_s >= _QUIET_SECONDS:
                if killed:
                    return  # what keeps the output open is in no group of the child's
                yield _LEFT_BEHIND
            elif child.returncode is None and watched.ended is not None and quiet_s >= ending_s:
                yield _NOT_ENDING
                watched.exit_code = watched.ended
            else:
                continue
            _kill(child)
            quiet_since, killed = time.monotonic(), True
            continue
        if text is None:
            return
        quiet_since = time.monotonic()
        yield text


def run_in_foreground(command: Command, address: str, on_answer: Callable[[], None]) -> int:
    """Run a UI, which starts processes of its own, with this terminal for its output, until it or we are ended.

    Every process of it is told to stop, and killed if it does not: `dagster dev` leaves them behind otherwise.

    Args:
        address: of the page that it serves.
        on_answer: called once, when that page is there.

    Returns:
        Its exit code, 0 where we were asked to end it.

    Raises:
        LaunchError: it ended by itself before the page was there.
    """
    watched, waiting = Watched(), True
    with (
        _signals_passed_on(watched) as pass_to,
        subprocess.Popen(  # noqa: S603 - our own command
            command.arguments, cwd=command.folder, env=command.environment(), start_new_session=True
        ) as child,
    ):
        # It ends its processes on an interrupt, and forgets them on a request to terminate.
        if hasattr(os, "killpg"):
            pass_to(lambda _: os.killpg(child.pid, signal.SIGINT), lambda: os.killpg(child.pid, signal.SIGKILL))
        else:
            pass_to(lambda _: child.terminate(), child.kill)
        try:
            while waiting and watched.signal is None and child.poll() is None:
                if _answers(address):
                    waiting = False
                    on_answer()
                else:
                    with suppress(subprocess.TimeoutExpired):
                        child.wait(_POLL_SECONDS)
            code = child.wait()
        finally:
            if hasattr(os, "killpg"):
                _end_group(child.pid)
    if watched.signal is not None:
        return 0
    if waiting:
        raise LaunchError(f"it ended with exit code {code} before it answered at {address}; the lines above say why")
    return code


def require_free(port: int) -> None:
    """Refuse a port of this machine on which something listens, or may not be listened.

    Raises:
        LaunchError: names the process that holds it, as far as the system shows it, and a port that is free.
    """
    try:
        socket.create_server((LOCAL, port)).close()
    except PermissionError as error:
        raise LaunchError(f"port {port} is the system's: choose one above 1023, such as --port 3000") from error
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise LaunchError(
            f"port {port} is taken by {_holder(port)}. If that is another UI, it is at http://{LOCAL}:{port}; "
            f"to start one beside it, choose another port, such as --port {_free_above(port)}"
        ) from error


def _holder(port: int) -> str:
    """The process that listens there; the system does not show everybody those of others."""
    with suppress(psutil.Error, OSError):
        for one in psutil.net_connections(kind="tcp"):
            if one.status == psutil.CONN_LISTEN and one.laddr.port == port and one.pid is not None:
                return f"process {one.pid} ({psutil.Process(one.pid).name()})"
    return "another process"


def _free_above(port: int) -> int:
    for candidate in range(port + 1, min(port + 100, 65536)):
        with suppress(OSError):
            socket.create_server((LOCAL, candidate)).close()
            return candidate
    with socket.create_server((LOCAL, 0)) as free:
        return int(free.getsockname()[1])


def _answers(address: str) -> bool:
    try:
        return httpx.get(f"{address}/server_info", timeout=_POLL_SECONDS, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def as_line(text: str, redact: Callable[[str], str]) -> Line | None:
    """A line of output as a log line: what is not JSON of ours (a library's print) becomes a message."""
    if not text.strip():
        return None
    try:
        line = json.loads(text)
    except ValueError:
        line = None
    if isinstance(line, dict) and {"timestamp", "level", "message"} <= line.keys():
        return line
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    nothing = dict.fromkeys(("run_id", "process_stage", "market_id"))
    return {"timestamp": now, "level": "INFO", "logger": _OUTPUT, "message": redact(text), **nothing}


PassTo = Callable[[Callable[[int], object], Callable[[], object]], None]


@contextmanager
def _signals_passed_on(watched: Watched, ending_s: float | None = None) -> Iterator[PassTo]:
    """Pass on the signals that this process gets, once told to whom: how to send one, and how to kill.

    With `ending_s` whoever gets them is killed so many seconds after the first one.

    Entered before the child is started: a handler is not inherited, but an ignored signal (as in a shell's background
    job) would be.
    """
    received: list[int] = []
    child: list[tuple[Callable[[int], object], Callable[[], object]]] = []
    timers: list[threading.Timer] = []

    def kill_later(kill: Callable[[], object]) -> None:
        if ending_s is not None and not timers:
            timers.append(threading.Timer(ending_s, kill))
            timers[0].daemon = True
            timers[0].start()

    def forward(number: int, _: FrameType | None = None) -> None:
        received.append(number)
        watched.signal = number
        for send, kill in child:
            kill_later(kill)
            with suppress(ProcessLookupError):
                # A terminal that was closed is a request to stop, too.
                kill() if len(received) >= 3 else send(signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)

    def pass_to(send: Callable[[int], object], kill: Callable[[], object]) -> None:
        child.append((send, kill))
        if received:
            kill_later(kill)
            send(signal.SIGTERM)

    before = {number: signal.signal(number, forward) for number in STOPS}
    try:
        yield pass_to
    finally:
        for timer in timers:
            timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


def _kill(child: subprocess.Popen[str]) -> None:
    """Kill a process that leads a group, and the rest of its group, which would keep its output open."""
    with suppress(ProcessLookupError):
        if hasattr(os, "killpg"):
            os.killpg(child.pid, signal.SIGKILL)
        else:
            child.kill()


def _end_group(group: int) -> None:
    """End what is left of a process group: politely, then not."""
    for number, seconds in ((signal.SIGTERM, _GRACE_SECONDS), (signal.SIGKILL, 1.0)):
        try:
            os.killpg(group, number)
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                time.sleep(0.05)
                os.killpg(group, 0)  # raises once nobody is left
        except ProcessLookupError:
            return
