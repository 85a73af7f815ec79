"""A relay in front of a Postgres, as a pooler is: one that can stop handing on what it takes, or cut everybody off."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from sqlalchemy.engine import make_url


class Relay:
    """Takes connections for a server on a socket of this machine.

    Args:
        url: of the server, as tests have it: on a Unix socket.
    """

    def __init__(self, url: str) -> None:
        address = make_url(url)
        self._server = f"{address.query['host']}/.s.PGSQL.{address.query.get('port', address.port or 5432)}"
        self._listening = socket.create_server(("127.0.0.1", 0))
        here = address.set(host="127.0.0.1", port=self._listening.getsockname()[1], query={})
        self.url = here.render_as_string(hide_password=False)
        self.held = threading.Event()
        """Set when something came that was not handed on."""
        self.on_request: Callable[[bytes], None] | None = None
        """Called with all that a client sends, before it is handed on."""
        self._accepted: list[socket.socket] = []
        self._refusing = False
        self._flowing = threading.Event()
        self._flowing.set()
        self._threads = [threading.Thread(target=self._serve)]
        self._threads[0].start()

    def freeze(self) -> None:
        """Take everything from now on, and hand on nothing."""
        self.held.clear()
        self._flowing.clear()

    def cut(self) -> None:
        """End all connections, and each that comes from now on."""
        self._refusing = True
        self._end_connections()

    def thaw(self) -> None:
        """Hand on what was held, and all that comes."""
        self._refusing = False
        self._flowing.set()

    def close(self) -> None:
        """End, and all connections with it."""
        self.thaw()
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._end_connections()
        self._listening.close()
        for thread in self._threads[1:]:
            thread.join()

    def _end_connections(self) -> None:
        for one in self._accepted:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                if self._refusing:
                    client.close()
                    continue
                self._accepted.append(client)
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._server)
                self._threads.append(threading.Thread(target=self._connected, args=(client, server)))
                self._threads[-1].start()

    def _connected(self, client: socket.socket, server: socket.socket) -> None:
        with client, server:
            back = threading.Thread(target=self._pump, args=(server, client))
            back.start()
            self._pump(client, server, self._asked)
            back.join()

    def _asked(self, content: bytes) -> None:
        if self.on_request is not None:
            self.on_request(content)

    def _pump(
        self, source: socket.socket, target: socket.socket, seen: Callable[[bytes], None] = lambda _: None
    ) -> None:
        with suppress(OSError):
            while content := source.recv(65536):
                seen(content)
                if not self._flowing.is_set():
                    self.held.set()
                    self._flowing.wait()
                target.sendall(content)
        for one in (source, target):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@contextmanager
def relay_to(url: str) -> Iterator[Relay]:
    """A relay in front of a server, until the block ends."""
    relay = Relay(url)
    try:
        yield relay
    finally:
        relay.close()
