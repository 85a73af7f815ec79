"""The commands that run Dagster: their arguments, their variables, and the DAGSTER_HOME that they run in.

Dagster is only ever run as a command of its own, in a folder of ours: a `.env` in its working folder would override
variables that were exported for it.
"""

import glob
import json
import os
import shlex
import sqlite3
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import make_url

from predictbench_assets.commit import running_commit
from predictbench_assets.failures import PermanentError
from predictbench_assets.runs import RunKey, partition_tags
from predictbench_assets.settings import ENV_FILE_VARIABLE, Settings, default_env_file

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

DEFINITIONS = "predictbench_assets.definitions"
DAILY_RUN = "daily_run"
RESOLUTION_SWEEP = "resolution_sweep"
SUMMARY_VARIABLE = "PREDICTBENCH_SUMMARY"
RUN_STARTED, RUN_ENDED = "RUN_STARTED", "RUN_ENDED"
"""Events in the log of `backfill_process`, beside Dagster's."""
CLONE = Path(__file__).resolve().parents[2]

LOCAL = "127.0.0.1"

STORAGE_LOCK = "storage.lock"
"""The file in a DAGSTER_HOME that is locked by whoever makes Dagster's storage there."""

_LAST_FILE_OF_STORAGE = "schedules/schedules.db"
_MADE_WITHIN_S = 60.0
_LOOK_S = 0.05
_HOME_OF_THE_IMAGE = "/dagster"

_QUIET = (
    # Dagster warns that these commands and YAML handlers may change; we use them on purpose.
    "ignore:Function `job_execute_command` is superseded",
    "ignore:Function `dev_command` is superseded",
    "ignore:Handling yaml-defined logging configuration",
)


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
        """All variables of the child."""
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
        summary: path of the run's summary.
        import_path: a folder with modules of experiments, if there is one.
        scratch: makes it a dry run, whose new files go there.
    """
    tags = json.dumps(partition_tags(key), separators=(",", ":"))
    arguments = ("job", "execute", "-m", DEFINITIONS, "-j", DAILY_RUN, "--tags", tags, "-c", str(config_file))
    variables = _run_variables(settings, home, summary, import_path, scratch)
    return Command((sys.executable, "-m", "dagster", *arguments), home, variables, _secrets(settings))


@dataclass(frozen=True)
class BackfillRun:
    """One run of a backfill, as its process is handed it: a line of JSON on its standard input."""

    partition: str | None
    """None for a run of the resolution sweep, which has none."""
    config_file: str
    """See `write_run_config`."""
    summary: str
    """Path of the summary that the process leaves."""
    variables: Mapping[str, str | None] | None = None
    """Variables of the environment from this run on, such as its simulated time; a value of None takes one away."""
    following: str | None = None
    """The partition that comes next and may have to be reconstructed, which is begun meanwhile; None for none."""
    modules: Sequence[str] = ()
    """Modules to load after it, while the next run is made ready: those that a later one needs."""


def backfill_command(
    settings: Settings,
    *,
    home: Path,
    folder: Path,
    import_path: Path | None = None,
    scratch: Path | None = None,
    processes: int = 1,
) -> Command:
    """The process that makes the runs it is handed, see `backfill_process`.

    Args:
        home: the DAGSTER_HOME, see `prepare_home`.
        folder: the folder of the summary of the run that is under way.
        import_path: a folder with modules of experiments, if there is one.
        scratch: makes them dry runs, whose new files go there.
        processes: those that are at work, this one among them, which share the limits of requests and calls.
    """
    variables = _run_variables(settings, home, folder / "backfill.summary.json", import_path, scratch)
    if processes > 1:
        variables["PREDICTBENCH_SHARED_BY"] = str(processes * settings.predictbench_shared_by)
    arguments = (sys.executable, "-m", "predictbench_assets.backfill_process")
    return Command(arguments, home, variables, _secrets(settings))


def _run_variables(
    settings: Settings, home: Path, summary: Path, import_path: Path | None, scratch: Path | None
) -> dict[str, str]:
    variables = shared_variables(settings, home) | {SUMMARY_VARIABLE: str(summary)} | _importing(import_path)
    if scratch is not None:
        variables |= {"PREDICTBENCH_DRY_RUN": "1", "PREDICTBENCH_SCRATCH": str(scratch), "EXECUTOR": "in_process"}
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

    The code it loads to draw the graph gets no deployment's environment: it writes nothing, so it needs none of the
    database's secrets.
    """
    arguments = ("--read-only", "-h", LOCAL, "-p", str(port), "-w", str(CLONE / "workspace.yaml"))
    variables = shared_variables(settings, home) | {"ENVIRONMENT": "development", "EXECUTOR": "in_process"}
    return Command((sys.executable, "-m", "dagster_webserver", *arguments), home, variables, _secrets(settings))


def shared_variables(settings: Settings, home: Path) -> dict[str, str]:
    """The variables with which a child in another folder means the same files: relative paths made absolute."""
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
    if (declared := settings.declared_experiments) is not None:
        variables["EXPERIMENTS_FILE"] = str(declared)
    if (prices := settings.model_prices) is not None:
        variables["MODEL_PRICES_FILE"] = str(prices)
    if settings.prometheus_textfile is not None:
        variables["PROMETHEUS_TEXTFILE"] = str(settings.prometheus_textfile.absolute())
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
    """The address of Dagster's storage with its driver named, since Dagster reads this variable itself."""
    secret = settings.dagster_postgres_url
    return {"DAGSTER_POSTGRES_URL": secret.get_secret_value()} if secret else {}


def prepare_home(settings: Settings, home: Path, *, temporary: bool = False, starting: bool = False) -> Path:
    """Make a DAGSTER_HOME, or bring its `dagster.yaml` up to date.

    Args:
        temporary: never with the shared storage, whatever the settings are.
        starting: a command of Dagster's own begins there next. In a new home nobody else is let in until it has made
            its files in SQLite; `LocalStorage` sees to that itself.

    Raises:
        LaunchError: Predictbench was not installed from a clone, so that its `dagster.yaml` is not there; or Dagster
            cannot keep its storage in a folder of that name.
    """
    if not _can_be_addressed(home):
        raise LaunchError(
            f"Dagster cannot keep its storage in {str(home)!a}, whose name is not UTF-8 or has a ?, %, * "
            "or [ in it: work in another folder, or name one with PREDICTBENCH_HOME."
        )
    shared = settings.dagster_postgres_url is not None and not temporary
    source = CLONE / "deploy" / "dagster.yaml" if shared else CLONE / "dagster.yaml"
    if not source.is_file():
        raise LaunchError(f"{source} is missing: install Predictbench from a clone of its repository (`make setup`).")
    text = source.read_text(encoding="utf-8")
    if settings.log_level == "DEBUG":
        text = text.replace("python_log_level: INFO", "python_log_level: DEBUG")
    if settings.executor == "k8s" and not temporary:
        text += _launcher_of_pods(settings.executor_config)
    home.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        keeps_storage = not (shared or temporary)
        if keeps_storage and fcntl is not None:
            fcntl.flock(held.enter_context((home / STORAGE_LOCK).open("a")), fcntl.LOCK_EX)
        target = home / "dagster.yaml"
        if not target.exists() or target.read_bytes() != text.encode():
            target.write_bytes(text.encode())
        if starting and keeps_storage and not _has_storage(home):
            threading.Thread(target=_hold, args=(held.pop_all(), home), name="storage", daemon=True).start()
    return home


def _hold(held: ExitStack, home: Path) -> None:
    """Keep a lock until Dagster has made its files in SQLite, or does not come to it.

    Two processes that make them at once (a run and the UI, in two terminals) leave each with two revisions, and then
    nothing can open them any more.
    """
    until = time.monotonic() + _MADE_WITHIN_S
    with held:
        while not _has_storage(home) and time.monotonic() < until:
            time.sleep(_LOOK_S)


def _has_storage(home: Path) -> bool:
    """Return whether the last of Dagster's files has its revision."""
    file = (home / _LAST_FILE_OF_STORAGE).absolute()
    if not file.exists():
        return False
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=_LOOK_S)) as connection:
            (revisions,) = connection.execute("SELECT count(*) FROM alembic_version").fetchone()
    except sqlite3.Error:
        return False
    return bool(revisions)


def _launcher_of_pods(options: Mapping[str, Any]) -> str:
    """The run launcher of `deploy/kubernetes`, which the executor k8s takes what is not its own option from.

    It launches nothing here: the run is in the process that `dagster job execute` is.
    """
    names = {name: options.get(name, "default") for name in ("job_namespace", "service_account_name")}
    config = {"instance_config_map": "dagster-instance", "dagster_home": _HOME_OF_THE_IMAGE, **names}
    launcher = {"module": "dagster_k8s", "class": "K8sRunLauncher", "config": config}
    return f"\nrun_launcher: {json.dumps(launcher)}\n"


def _can_be_addressed(folder: Path) -> bool:
    """Return whether Dagster finds a folder: it makes an unquoted SQLite address of it, and a pattern for its files."""
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        return False
    return make_url(f"sqlite:///{folder}").database == str(folder) == glob.escape(str(folder))


def run_config(ops: Mapping[str, Mapping[str, Any]]) -> str:
    """The configuration of a run: that of each op, and Dagster's own console logger silenced.

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
