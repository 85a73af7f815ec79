"""A real pgbouncer in transaction mode in front of a server of its own, and clients that take turns with us."""

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg
from sqlalchemy import URL

from predictbench_assets.database.embedded import EmbeddedPostgres
from predictbench_assets_tests.kit.deployment import ADMINISTRATOR, ROLES, Deployment, run

PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin:/opt/homebrew/bin")
POOL = 2
"""Connections to the server, for all clients of a role together."""


class Pgbouncer:
    """One pooler, which can be ended and begun again on the same port."""

    def __init__(self, folder: Path, server: EmbeddedPostgres) -> None:
        self._folder = folder
        self._server_folder = parse_qs(urlsplit(server.url.replace("+psycopg", "")).query)["host"][0]
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None
        users = "".join(f'"{role}" ""\n' for role in (*ROLES, ADMINISTRATOR, "postgres"))
        (folder / "users.txt").write_text(users)
        folder.chmod(0o755)

    def url(self, role: str, database: str) -> URL:
        """The address of a database through the pooler."""
        return URL.create("postgresql+psycopg", role, host="127.0.0.1", port=self.port, database=database)

    def start(self, **settings: str) -> None:
        """Begin, and wait until it listens."""
        assert PGBOUNCER is not None
        values = {
            "listen_addr": "127.0.0.1",
            "listen_port": str(self.port),
            "unix_socket_dir": "",
            "auth_type": "trust",
            "auth_file": str(self._folder / "users.txt"),
            "pool_mode": "transaction",
            "default_pool_size": str(POOL),
            "max_client_conn": "50",
            "server_login_retry": "0.05",
            "query_wait_timeout": "20",
            **settings,
        }
        lines = [f"{name} = {value}" for name, value in values.items()]
        config = self._folder / "pgbouncer.ini"
        config.write_text("\n".join(["[databases]", f"* = host={self._server_folder}", "[pgbouncer]", *lines]) + "\n")
        command = [PGBOUNCER, *(["-u", "nobody"] if os.geteuid() == 0 else []), str(config)]
        with (self._folder / "pgbouncer.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/")
        deadline = time.monotonic() + 10
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            assert self._process.poll() is None, (self._folder / "pgbouncer.log").read_text()
            assert time.monotonic() < deadline, "pgbouncer does not listen"
            time.sleep(0.01)

    def stop(self) -> None:
        """End it at once, and with it every connection."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def restart(self, **settings: str) -> None:
        """End it and begin it again."""
        self.stop()
        self.start(**settings)


@contextmanager
def others_taking_turns(url: URL, clients: int = 2) -> Iterator[None]:
    """Clients that use the same server connections, with prepared statements and settings that they leave behind."""
    over = threading.Event()
    connected = [threading.Event() for _ in range(clients)]
    address = url.set(drivername="postgresql").render_as_string(hide_password=False)

    def client(number: int) -> None:
        while not over.is_set():
            with suppress(psycopg.Error), psycopg.connect(address, autocommit=True, prepare_threshold=0) as connection:
                connected[number].set()
                while not over.wait(0.005):
                    connection.execute(f"SET application_name = 'other {number}'")
                    connection.execute("SET search_path = pg_catalog")
                    connection.execute("SELECT %s::integer, pg_sleep(0.002)", [number])
                    connection.execute("DISCARD ALL")

    threads = [threading.Thread(target=client, args=(number,), daemon=True) for number in range(clients)]
    for thread in threads:
        thread.start()
    for one in connected:  # libpq reads the environment, which a test may be changing: the two must not meet
        assert one.wait(30)
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join(10)


def left_behind(url: URL, statement: str) -> None:
    """Have another client leave a setting in every server connection of the pool."""
    address = url.set(drivername="postgresql").render_as_string(hide_password=False)
    with ExitStack() as stack:
        # Each in a transaction of its own at the same time, so that they are on different server connections.
        clients = [
            stack.enter_context(psycopg.connect(address, autocommit=True, prepare_threshold=None)) for _ in range(POOL)
        ]
        for one in clients:
            one.execute("BEGIN")
        for one in clients:
            one.execute(statement)
            one.execute("COMMIT")


def show(deployment: Deployment, database: str, statement: str) -> list[tuple[object, ...]]:
    """Rows, as the superuser, past the pooler."""
    return run(deployment.url("postgres", database), statement)
