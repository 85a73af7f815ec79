"""What a deployment stands on, on this machine, each with a way to go wrong: exchange, database, store, webhook."""

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import psutil  # type: ignore[import-untyped]
import psycopg
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from sqlalchemy.engine import make_url
from starlette.types import Message, Receive, Scope, Send
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from predictbench_assets.database.embedded import EmbeddedPostgres
from predictbench_assets.sandbox.faults import Faults
from predictbench_assets.sandbox.models.server import StandInApp
from predictbench_assets.sandbox.poison import REJECTABLE
from predictbench_assets.sandbox.server import SandboxApp
from predictbench_assets.sandbox.world import World

BUCKET = "soak"
_KEYS = {"STAGING_S3_ACCESS_KEY_ID": "soak-key", "STAGING_S3_SECRET_ACCESS_KEY": "soak-secret"}
_POISON = 0.03
"""Share of rows that are broken: some of each day must be rejected."""


class _Silent(WSGIRequestHandler):
    def log_request(self, *_: Any, **__: Any) -> None:
        """Log nothing."""


_FULL = (
    b"<Error><Code>XMinioStorageFull</Code><Message>The disk has reached its minimum of free space.</Message></Error>"
)

Lie = Callable[[bytes, int], bytes]
"""Makes another page of a page; the number is that of the pages lied about before."""


class Exchange:
    """The sandbox exchange; what it tells of a page can be turned into a lie."""

    def __init__(self, seed: int, markets: int, now: datetime) -> None:
        self.app = SandboxApp(
            World(seed, markets, poison=_POISON, poisons=tuple(REJECTABLE)), now=now, faults=Faults(), seed=seed
        )
        self.models = StandInApp()
        """The stand-in for a model, below `/_models`."""
        self.lie: Lie | None = None
        self.lies = 0
        """Lies left to be told; none when 0."""
        self.told = 0
        """Lies told in all."""
        self.pages = 0
        """Pages of listings since the last fault was armed."""
        self.on_page: Callable[[int], None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; pages of the listing may be lied about."""
        if scope["type"] == "http" and scope["path"].startswith("/_models/"):
            await self.models({**scope, "path": scope["path"].removeprefix("/_models")}, receive, send)
            return
        if scope["type"] != "http" or scope["path"] != "/markets/keyset":
            await self.app(scope, receive, send)
            return
        self.pages += 1
        if self.on_page is not None:
            self.on_page(self.pages)
        if self.lie is None or self.lies <= 0:
            await self.app(scope, receive, send)
            return
        kept: list[Message] = []

        async def keep(message: Message) -> None:
            kept.append(message)

        await self.app(scope, receive, keep)
        start, *bodies = kept
        body = b"".join(message.get("body", b"") for message in bodies)
        if start["status"] == 200:
            body = self.lie(body, self.told)
            self.told += 1
            self.lies -= 1
        headers = [(name, value) for name, value in start["headers"] if name != b"content-length"]
        await send({**start, "headers": [*headers, (b"content-length", str(len(body)).encode())]})
        await send({"type": "http.response.body", "body": body})

    def offered(self, first: datetime, end: datetime) -> dict[str, dict[str, Any]]:
        """The open markets that close in `[first, end)` now, by id, with what decides whether they are left out."""
        at = self.app.view.at
        found = self.app.view.exchange.listed(at, int(first.timestamp()), int(end.timestamp()) - 1)
        return {
            one.market_id: {"volume": one.volume(at), "liquidity": one.liquidity(at), "ends": one.ends}
            for one in found
            if one.created <= at and not one.is_closed(at)
        }

    def move(self, now: datetime) -> None:
        """Bring it to a later time; an earlier one is passed over."""
        if now > self.app.now:
            self.app.set_time(now)

    def honest(self) -> None:
        """End everything that goes wrong."""
        self.app.source.faults = Faults()
        self.lie, self.lies, self.on_page = None, 0, None


class Relay:
    """A TCP door in front of the database's socket: it can close, stall and be slow."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._listening = self._listen(0)
        self.port: int = self._listening.getsockname()[1]
        self.delay = 0.0
        """Seconds by which each packet of the server is late."""
        self.on_request: Callable[[], None] | None = None
        """Called before each packet of a client is handed on."""
        self._flowing = threading.Event()
        self._flowing.set()
        self._open: set[socket.socket] = set()
        self._changing = threading.Lock()
        self._accepting()

    @property
    def connections(self) -> int:
        """Connections of clients that are open now."""
        with self._changing:
            return len(self._open) // 2

    def close(self) -> None:
        """Refuse what comes, and reset what is open."""
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._flowing.set()
        with self._changing:
            open_ = list(self._open)
        for one in open_:
            with suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                one.shutdown(socket.SHUT_RDWR)

    def open(self) -> None:
        """Accept again, at the same port."""
        self._listening = self._listen(self.port)
        self._accepting()

    def freeze(self) -> None:
        """Take everything from now on, and hand on nothing."""
        self._flowing.clear()

    def thaw(self) -> None:
        """Hand on what was held, and all that comes."""
        self._flowing.set()

    def _listen(self, port: int) -> socket.socket:
        return socket.create_server(("127.0.0.1", port), backlog=64)

    def _accepting(self) -> None:
        threading.Thread(target=self._accept, args=(self._listening,), daemon=True).start()

    def _accept(self, listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listening.accept()
                server = socket.socket(socket.AF_UNIX)
                try:
                    server.connect(self._server)
                except OSError:
                    client.close()
                    server.close()
                    continue
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with self._changing:
                    self._open |= {client, server}
                threading.Thread(target=self._connected, args=(client, server), daemon=True).start()

    def _connected(self, client: socket.socket, server: socket.socket) -> None:
        back = threading.Thread(target=self._pump, args=(server, client, True), daemon=True)
        back.start()
        self._pump(client, server, False)
        back.join()
        with self._changing:
            self._open -= {client, server}
        client.close()
        server.close()

    def _pump(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        with suppress(OSError):
            while content := source.recv(65536):
                if not answers and (called := self.on_request) is not None:
                    called()
                self._flowing.wait()
                if answers and self.delay:
                    time.sleep(self.delay)
                target.sendall(content)
        for one in (source, target):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


def dsn_of(server: EmbeddedPostgres) -> str:
    """The address of a server's database for libpq, past any relay."""
    immune = "-c statement_timeout=0 -c default_transaction_read_only=off"
    return f"host={make_url(server.url).query['host']} user=postgres dbname=predictbench options='{immune}'"


class Database:
    """A Postgres of the soak's own, reached through a relay; the audit and the faults go past that."""

    def __init__(self, folder: Path) -> None:
        self.server = EmbeddedPostgres(folder, durable=False)
        self.server.start()
        self.dsn = dsn_of(self.server)
        self._socket = self.dsn.split()[0].removeprefix("host=")
        self.relay = Relay(f"{self._socket}/.s.PGSQL.5432")
        self.execute("CREATE DATABASE dagster", dbname="postgres")

    def url(self, name: str) -> str:
        """The address of one of its databases, through the relay."""
        return f"postgresql://postgres:soak@127.0.0.1:{self.relay.port}/{name}?sslmode=disable"

    def execute(self, *statements: str, dbname: str = "predictbench") -> None:
        """Run statements outside of a transaction, past the relay."""
        with self._connected(dbname) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def rows(self, query: str, dbname: str = "predictbench") -> list[tuple[Any, ...]]:
        """Rows of a query, past the relay."""
        with self._connected(dbname) as connection:
            return connection.execute(query.encode()).fetchall()

    def _connected(self, dbname: str) -> psycopg.Connection[tuple[Any, ...]]:
        """A session that no fault of ours concerns."""
        return psycopg.connect(f"{self.dsn} dbname={dbname}", autocommit=True)

    def cut(self) -> None:
        """End the sessions that came through the relay."""
        self.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            " AND backend_type = 'client backend'"
        )

    def restart(self) -> None:
        """Stop it as an administrator does, and start it."""
        self.server.stop()
        self.server.start()

    def crash(self) -> None:
        """Kill it, and start it again: it recovers from its log."""
        pid = self.server.status().pid
        assert pid is not None
        children = psutil.Process(pid).children()
        for one in (psutil.Process(pid), *children):
            with suppress(psutil.Error):
                one.kill()
        psutil.wait_procs(children, timeout=10)
        self.server.start()

    def stop(self) -> None:
        """End it."""
        self.relay.close()
        self.server.stop()


class Store:
    """An S3 API: it can go away, refuse what is written, and lose objects."""

    def __init__(self) -> None:
        self._app = DomainDispatcherApplication(create_backend_app)
        self.full = False
        self._server = self._start(0)
        self.port: int = self._server.server_port
        self._client = boto3.client(
            "s3",
            endpoint_url=self.address,
            region_name="us-east-1",
            aws_access_key_id=_KEYS["STAGING_S3_ACCESS_KEY_ID"],
            aws_secret_access_key=_KEYS["STAGING_S3_SECRET_ACCESS_KEY"],
        )
        self._client.create_bucket(Bucket=BUCKET)

    @property
    def address(self) -> str:
        """The endpoint."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def variables(self) -> dict[str, str]:
        """The settings of staging."""
        return {
            "STAGING_URI": f"s3://{BUCKET}/predictbench",
            "STAGING_S3_ENDPOINT_URL": self.address,
            "STAGING_S3_REGION": "us-east-1",
            **_KEYS,
        }

    def objects(self) -> dict[str, int]:
        """Sizes by key, bytes."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
        return {one["Key"]: one["Size"] for page in pages for one in page.get("Contents", [])}

    def lose(self, key: str) -> None:
        """Lose one object."""
        self._client.delete_object(Bucket=BUCKET, Key=key)

    def close(self) -> None:
        """Refuse connections."""
        self._server.shutdown()
        self._server.server_close()

    def open(self) -> None:
        """Accept them again, with all that was stored."""
        self._server = self._start(self.port)

    def _start(self, port: int) -> BaseWSGIServer:
        server = make_server("127.0.0.1", port, self._answer, threaded=True, request_handler=_Silent)
        server.daemon_threads = True  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return server

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if self.full and environ["REQUEST_METHOD"] in ("PUT", "POST") and "delete" not in environ["QUERY_STRING"]:
            start_response("507 Insufficient Storage", [("Content-Length", str(len(_FULL)))])
            return [_FULL]
        answer: Iterable[bytes] = self._app(environ, start_response)
        return answer


class Webhook:
    """A webhook and a dead man's switch; it can take a request and never answer."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.hanging = threading.Event()
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def _take(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if hook.hanging.is_set():
                    time.sleep(30)
                    return
                hook.notes.append(body.decode())
                self.send_response(200)
                self.end_headers()

            do_GET = do_POST = _take  # noqa: N815 - named by the library

            def log_message(self, *_: Any) -> None:
                """Log nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
