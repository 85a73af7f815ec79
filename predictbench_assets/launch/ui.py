"""A UI as a process in this terminal: its port, its page awaited, and all of its processes ended with it."""

import errno
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress

import httpx
import psutil  # type: ignore[import-untyped]

from predictbench_assets.launch.commands import LOCAL, Command, LaunchError
from predictbench_assets.launch.signals import signals_passed_on

_GRACE_SECONDS = 5.0
_POLL_SECONDS = 0.25


def run_in_foreground(command: Command, address: str, on_answer: Callable[[], None]) -> int:
    """Run a UI, which starts processes of its own, with this terminal for its output, until it or we are ended.

    Every process of it is asked to stop, and killed if it does not: `dagster dev` leaves them behind otherwise.

    Args:
        address: address of the page that it serves.
        on_answer: called once, when that page is there.

    Returns:
        Its exit code, 0 where we were asked to end it.

    Raises:
        LaunchError: it ended by itself before the page was there.
    """
    waiting, received = True, list[int]()
    with (
        signals_passed_on(received.append) as pass_to,
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
            while waiting and not received and child.poll() is None:
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
    if received:
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


def _end_group(group: int) -> None:
    """End what is left of a process group: politely, then not."""
    for number, seconds in ((signal.SIGTERM, _GRACE_SECONDS), (signal.SIGKILL, 1.0)):
        try:
            os.killpg(group, number)
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                time.sleep(0.05)
                os.killpg(group, 0)  # raises once no process is left
        except ProcessLookupError:
            return
