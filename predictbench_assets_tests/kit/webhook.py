"""A little server that is told things: what was sent to it, and how it answers."""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any


@dataclass
class Webhook:
    """Where it is, and what it was sent; it answers with each of `codes` once, the last one from then on."""

    codes: Sequence[int]
    url: str = ""
    received: list[tuple[str, str, Any]] = field(default_factory=list)
    """Method, path and decoded body of each request."""

    @property
    def texts(self) -> list[str]:
        """The notes it was sent."""
        return [body["text"] for method, _, body in self.received if method == "POST"]


@contextmanager
def webhook(*codes: int) -> Iterator[Webhook]:
    """A webhook on this machine; answers 200 unless told otherwise."""
    told = Webhook(codes or (200,))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self._take()

        def do_GET(self) -> None:
            self._take()

        def _take(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            told.received.append((self.command, self.path, json.loads(content) if content else None))
            self.send_response(told.codes[min(len(told.received), len(told.codes)) - 1])
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        told.url = f"http://127.0.0.1:{server.server_port}/services/T0/B0/hidden-key"
        try:
            yield told
        finally:
            server.shutdown()
            thread.join()
