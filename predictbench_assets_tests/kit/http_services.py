"""HTTP services on this machine: one that takes notes, one that answers all requests alike, one that searches."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Request:
    """What a service was asked."""

    method: str
    path: str
    headers: dict[str, str]
    """Names in lower case."""
    content: Any
    """The decoded body, None without one."""


Answer = tuple[int, Mapping[str, str], bytes]
"""Status, headers and body."""


@contextmanager
def serving(answer: Callable[[Request], Answer]) -> Iterator[str]:
    """The address of a server on this machine that gives these answers to GET and POST."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def _answer(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            content = self.rfile.read(int(headers.get("content-length", 0)))
            asked = Request(self.command, self.path, headers, json.loads(content) if content else None)
            status, named, body = answer(asked)
            self.send_response(status)
            for name, value in named.items():
                self.send_header(name, value)
            if body:
                self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


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

    def answer(asked: Request) -> Answer:
        taking.received.append((asked.method, asked.path, asked.content))
        return taking.codes[min(len(taking.received), len(taking.codes)) - 1], {}, b""

    with serving(answer) as address:
        taking.url = f"{address}/services/T0/B0/hidden-key"
        yield taking


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

    def answer(asked: Request) -> Answer:
        answering.asked.append((asked.path, asked.headers))
        return answering.status, {"content-type": "application/json"}, json.dumps(answering.body).encode()

    with serving(answer) as answering.base_url:
        yield answering


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

    def answer(asked: Request) -> Answer:
        answering.asked.append((asked.path, asked.headers, asked.content))
        raw = answering.raw_for.get(asked.content["query"], answering.raw)
        body = json.dumps(answering.answer(asked.path)).encode() if raw is None else raw
        return answering.status, answering.headers, body

    with serving(answer) as answering.base_url:
        yield answering
