"""A sandbox exchange as a process of its own, which outlives the command that started it.

A file in its folder has its number, its port and the world that it serves.
"""

import hashlib
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import httpx
import msgspec
import psutil  # type: ignore[import-untyped]

from predictbench_assets.failures import PermanentError

SEED = 7

_START_SECONDS = 30.0
_PID_FILE = "sandbox.json"


class SandboxNotRunning(PermanentError):
    """The sandbox process did not come up, or is gone; the text has the end of its log."""


class WorldIdentity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The inputs that decide the content of a made-up world: worlds that differ in any of them are never mixed."""

    seed: int
    markets: int
    """Markets that close on each day."""
    generator: str
    """Hash of the code that makes it up, see `generator_hash`."""


class SandboxProcess(msgspec.Struct, frozen=True):
    """A sandbox that was left running, as its file describes it."""

    pid: int
    began: float
    """Start time of the process by the operating system: a pid alone may be another process by now."""
    port: int
    world: WorldIdentity | None = None
    """None where an older version of Predictbench started it, which did not record it."""

    @property
    def base_url(self) -> str:
        """The address of its Gamma API."""
        return f"http://127.0.0.1:{self.port}"


def world_of(markets: int) -> WorldIdentity:
    """The identity of the world that this code makes up with so many markets a day."""
    return WorldIdentity(SEED, markets, generator_hash())


@cache
def generator_hash() -> str:
    """SHA-256 of the sandbox's source files, shortened: another text may be another world."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path != Path(__file__):
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def start_sandbox(folder: Path, world: WorldIdentity) -> SandboxProcess:
    """A sandbox at the real time: the one that is running, if it can be brought there, else a new one.

    Raises:
        SandboxNotRunning: it does not come up.
    """
    with _locked(folder):
        running = running_sandbox(folder)
        if running is not None and running.world == world and _bring_to_now(running):
            return running
        return _restart(folder, world, running)


def start_sandbox_at(folder: Path, world: WorldIdentity, now: datetime) -> SandboxProcess:
    """A new sandbox at another time, in place of a running one: an exchange's time goes forward only.

    Raises:
        SandboxNotRunning: it does not come up.
    """
    with _locked(folder):
        return _restart(folder, world, running_sandbox(folder), "--now", now.isoformat())


def move_sandbox(folder: Path, sandbox: SandboxProcess, now: datetime) -> None:
    """Bring a sandbox to a later time.

    Raises:
        SandboxNotRunning: it is gone, or does not answer.
    """
    try:
        with _client(sandbox, timeout_s=30) as client:
            client.post("/_sandbox/time", json={"now": now.isoformat()}).raise_for_status()
    except httpx.HTTPError as error:
        raise SandboxNotRunning(
            f"the sandbox exchange (process {sandbox.pid}) is gone or was moved by another command ({error}). "
            f"Run the same command again: it goes on where it stopped. Its log is {folder / 'sandbox.log'}"
        ) from error


def stop_sandbox(folder: Path) -> bool:
    """End the sandbox that was left running; false where there is none."""
    running = running_sandbox(folder)
    if running is None:
        return False
    _end(running)
    (folder / _PID_FILE).unlink(missing_ok=True)
    return True


def running_sandbox(folder: Path) -> SandboxProcess | None:
    """The sandbox that the file names, if that process still is the one it was."""
    found = _last_started(folder)
    if found is None:
        return None
    try:
        process = psutil.Process(found.pid)
        same = abs(process.create_time() - found.began) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return None
    return found if same else None


def _client(sandbox: SandboxProcess, *, timeout_s: float) -> httpx.Client:
    # There is no TLS on this machine's own address; to read the certificates takes longer than the request.
    nothing_trusted = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return httpx.Client(base_url=sandbox.base_url, timeout=timeout_s, trust_env=False, verify=nothing_trusted)


def _last_started(folder: Path) -> SandboxProcess | None:
    try:
        return msgspec.json.decode((folder / _PID_FILE).read_bytes(), type=SandboxProcess)
    except (OSError, msgspec.DecodeError):
        return None


def _restart(folder: Path, world: WorldIdentity, running: SandboxProcess | None, *options: str) -> SandboxProcess:
    """End the one that is running, and start one of this world."""
    if running is not None:
        _end(running)
    last = _last_started(folder)
    for wanted in (last.port if last else 0, 0):  # between looking for a port and taking it another may have it
        if (started := _started(folder, world, _free_port(wanted), options)) is not None:
            return started
    raise _not_started(folder)


def _not_started(folder: Path) -> SandboxNotRunning:
    log = folder / "sandbox.log"
    tail = log.read_text(encoding="utf-8", errors="replace")[-1500:]
    return SandboxNotRunning(f"the sandbox exchange does not start; the end of {log}:\n{tail}")


def _started(folder: Path, world: WorldIdentity, port: int, options: Sequence[str]) -> SandboxProcess | None:
    """A sandbox at a port; None where it has ended before it was ready.

    Raises:
        SandboxNotRunning: it is still not ready after half a minute.
    """
    log = folder / "sandbox.log"
    arguments = ["sandbox", "serve", "--port", str(port), "--seed", str(world.seed), "--markets", str(world.markets)]
    with log.open("wb") as output:
        child = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-m", "predictbench_assets.cli.main", *arguments, *options],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # it outlives this command, and Ctrl-C
        )
    try:
        started = _recorded(folder, child, port, world)
        deadline = time.monotonic() + _START_SECONDS
        while child.poll() is None:
            if b"sandbox ready" in log.read_bytes():
                return started
            if time.monotonic() >= deadline:
                raise _not_started(folder)
            time.sleep(0.05)
    except BaseException:  # an interrupt, too: nothing may stay that no file names
        child.kill()
        raise
    return None


def _recorded(folder: Path, child: "subprocess.Popen[bytes]", port: int, world: WorldIdentity) -> SandboxProcess:
    """Write down which process it is, before it answers: one that is killed meanwhile leaves no unknown sandbox."""
    started = SandboxProcess(child.pid, psutil.Process(child.pid).create_time(), port, world)
    partial = folder / f".{_PID_FILE}"
    partial.write_bytes(msgspec.json.encode(started))
    partial.replace(folder / _PID_FILE)
    return started


def _free_port(wanted: int) -> int:
    """The port of the last one where it is free: a UI that was started with it goes on working."""
    for port in (wanted, 0):
        try:
            with socket.create_server(("127.0.0.1", port)) as free:
                return int(free.getsockname()[1])
        except OSError:
            continue
    raise SandboxNotRunning("no port of 127.0.0.1 is free for the sandbox exchange")


def _bring_to_now(sandbox: SandboxProcess) -> bool:
    """Move a running sandbox to the present; false where it does not answer, or is ahead of the present."""
    now = datetime.now(UTC)
    try:
        with _client(sandbox, timeout_s=10) as client:
            status = client.get("/_sandbox/status").raise_for_status().json()
            if datetime.fromisoformat(status["now"]) > now + timedelta(seconds=5):
                return False
            return client.post("/_sandbox/time", json={"now": now.isoformat()}).is_success
    except (httpx.HTTPError, ValueError, KeyError):
        return False


def _end(sandbox: SandboxProcess) -> None:
    try:
        process = psutil.Process(sandbox.pid)
        process.terminate()
        process.wait(timeout=5)
    except psutil.TimeoutExpired:
        with suppress(psutil.Error):  # its parent may not have noticed yet
            process.kill()
            process.wait(timeout=5)
    except psutil.NoSuchProcess:
        pass


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time starts a sandbox here."""
    import fcntl  # not on Windows, where nothing is started

    with (folder / "sandbox.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
