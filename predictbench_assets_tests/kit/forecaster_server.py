"""A forecaster's server on this machine, which answers byte for byte as a test wants it to."""

import json
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from socket import socket
from typing import Any

Behaviour = Callable[["Asked", socket], None]


@dataclass(frozen=True)
class Asked:
    """A request: its number from 1 on, its path, its headers (names in lower case), its decoded body."""

    number: int
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class ForecasterServer:
    """The server; `behaviour` writes the whole answer and can be changed at any time."""

    behaviour: Behaviour
    port: int = 0
    keeps_connections: bool = False
    connections: int = 0
    asked: list[Asked] = field(default_factory=list)
    ending: threading.Event = field(default_factory=threading.Event)
    """Set when the server is stopped; a behaviour that goes on for long looks at it."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/forecast"


def answers(body: Any, status: str = "200 OK", **headers: str) -> Behaviour:
    """Answer with a value as JSON, or with bytes as they are."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    def behave(asked: Asked, connection: socket) -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(content)}", "Connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + content)

    return behave


def in_turn(*behaviours: Behaviour) -> Behaviour:
    """Each once, the last one from then on."""
    return lambda asked, connection: behaviours[min(asked.number, len(behaviours)) - 1](asked, connection)


@contextmanager
def forecaster_server(behaviour: Behaviour, certificate: Path | None = None) -> Iterator[ForecasterServer]:
    """A server at a free port; with a certificate and its key it speaks https."""
    server = ForecasterServer(behaviour)
    one_at_a_time = threading.Lock()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            server.connections += 1
            while self._answered() and server.keeps_connections:
                pass

        def _answered(self) -> bool:
            if not (first := self.rfile.readline().decode()):
                return False
            headers = {}
            while line := self.rfile.readline().decode().strip():
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            content = self.rfile.read(int(headers.get("content-length", 0)))
            with one_at_a_time:
                asked = Asked(len(server.asked) + 1, first.split()[1], headers, json.loads(content))
                server.asked.append(asked)
            with suppress(OSError):  # the client has gone
                server.behaviour(asked, self.connection)
            return True

    class Threads(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = True
        request_queue_size = 64

    with Threads(("127.0.0.1", 0), Handler) as listening:
        server.port = listening.server_address[1]
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            listening.socket = context.wrap_socket(listening.socket, server_side=True)
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.ending.set()
            listening.shutdown()
            thread.join()
