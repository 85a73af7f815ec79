"""Hosting of the sandbox's applications: a quiet server, in a thread or in this process, with breakable connections."""

import asyncio
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol


class QuietServer(uvicorn.Server):
    """Uvicorn, quiet, and telling when it is ready."""

    def __init__(self, app: ASGIApp, ready: Callable[[], None] | None = None) -> None:
        super().__init__(
            uvicorn.Config(
                cast("Any", app),
                http=_Protocol,
                loop="asyncio",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                timeout_keep_alive=75,
                timeout_graceful_shutdown=1,
            )
        )
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to accept, then print that it is ready."""
        await super().startup(sockets)
        if self._ready:
            self._ready()

    def wait_until_started(self, thread: threading.Thread) -> None:
        """Return once connections are accepted."""
        deadline = time.monotonic() + 10
        while not self.started:
            if not thread.is_alive() or time.monotonic() > deadline:
                raise RuntimeError("the sandbox's server did not start")
            time.sleep(0.002)


@contextmanager
def in_thread(app: ASGIApp, host: str, port: int) -> Iterator[int]:
    """Run an application in a thread of this process; yields its port, a free one for 0."""
    # Callers come in bursts of a hundred connections.
    with socket.create_server((host, port), backlog=1024) as listener:
        server = QuietServer(app)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="sandbox", daemon=True)
        thread.start()
        try:
            server.wait_until_started(thread)
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


class _Protocol(H11Protocol):
    """HTTP that shows the application its connection, so that it can be broken."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Keep the transport where requests carry it, and send small replies at once.

        asyncio leaves Nagle's algorithm on for connections of a listener made by hand: 40 ms for every reply.
        """
        super().connection_made(transport)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.app_state = {**self.app_state, "transport": transport}


def _transport(scope: Scope) -> asyncio.Transport:
    return cast("asyncio.Transport", scope["state"]["transport"])


def reset(scope: Scope) -> None:
    """Close a request's connection with a TCP reset: what a reader sees is `connection reset by peer`."""
    transport = _transport(scope)
    linger_nothing = struct.pack("ii", 1, 0)
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_nothing)
    transport.abort()


async def disconnected(receive: Receive) -> None:
    """Return once the other side has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


def halved(scope: Scope, receive: Receive, send: Send) -> Send:
    """Send the first half of a reply's body, then close the connection."""

    async def cut(message: Message) -> None:
        if message["type"] != "http.response.body":
            await send(message)
            return
        body = message["body"]
        await send({**message, "body": body[: len(body) // 2], "more_body": True})
        _transport(scope).close()
        await disconnected(receive)

    return cut
