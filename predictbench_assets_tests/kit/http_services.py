"""HTTP services on this machine: one that takes notes, one that answers all requests alike, one that searches."""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from typing import Any


@dataclass
class Webhook:
    """A server that takes notes; it answers with each of `codes` once, the last one from then on."""

    codes: Sequence[int]
    url: str = ""
    received: list[tuple[str, str, Any]] = field(default_factory=list)
    """Method, path and decoded body of each request."""

    @property
    def texts(self) -> list[str]:
        """Texts of the notes."""
        return [body["text"] for method, _, body in self.received if method == "POST"]


@contextmanager
def webhook(*codes: int) -> Iterator[Webhook]:
    """A webhook on this machine; answers 200 by default."""
    taking = Webhook(codes or (200,))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self._take()

        def do_GET(self) -> None:
            self._take()

        def _take(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            taking.received.append((self.command, self.path, json.loads(content) if content else None))
            self.send_response(taking.codes[min(len(taking.received), len(taking.codes)) - 1])
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        taking.url = f"http://127.0.0.1:{server.server_port}/services/T0/B0/hidden-key"
        try:
            yield taking
        finally:
            server.shutdown()
            thread.join()


@dataclass
class JsonService:
    """A server with one answer to every GET."""

    base_url: str = ""
    status: int = 200
    body: Any = None
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    """Path and headers (names in lower case) of each request."""


@contextmanager
def json_service() -> Iterator[JsonService]:
    """A service on this machine; its answer can be changed at any time."""
    answering = JsonService()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answering.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
            body = json.dumps(answering.body).encode()
            self.send_response(answering.status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        answering.base_url = f"http://127.0.0.1:{server.server_address[1]}"
        yield answering
        server.shutdown()


@dataclass
class SearchService:
    """A server that answers each search with the same pages, as Exa does below `/exa` and Tavily below `/tavily`."""

    base_url: str = ""
    pages: list[dict[str, Any]] = field(default_factory=list)
    """Each with `url`, `title`, `text` and `published` (in ISO 8601, or None)."""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    """Body of the answer, whatever the pages are."""
    raw_for: dict[str, bytes] = field(default_factory=dict)
    """The same for single queries."""
    asked: list[tuple[str, dict[str, str], dict[str, Any]]] = field(default_factory=list)
    """Path, headers (names in lower case) and body of each request."""

    def answer(self, path: str) -> dict[str, Any]:
        """The answer of the service that the path names."""
        if path.startswith("/exa"):
            rows = [
                {"url": one["url"], "title": one["title"], "publishedDate": one["published"], "text": one["text"]}
                for one in self.pages
            ]
            return {"requestId": "r-1", "results": rows, "costDollars": {"total": 0.007}}
        rows = [
            {
                "url": one["url"],
                "title": one["title"],
                "content": one["text"][:40],
                "raw_content": one["text"],
                "published_date": one["published"],
            }
            for one in self.pages
        ]
        return {"request_id": "r-1", "results": rows, "usage": {"credits": 2}}


@contextmanager
def search_service() -> Iterator[SearchService]:
    """A search service on this machine; its answer can be changed at any time."""
    answering = SearchService()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            answering.asked.append((self.path, {name.lower(): one for name, one in self.headers.items()}, content))
            raw = answering.raw_for.get(content["query"], answering.raw)
            body = json.dumps(answering.answer(self.path)).encode() if raw is None else raw
            self.send_response(answering.status)
            for name, value in answering.headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        answering.base_url = f"http://127.0.0.1:{server.server_address[1]}"
        yield answering
        server.shutdown()
