"""The stand-in over HTTP: the providers' own paths, and `/stand-in/...` to steer it and to see what reached it.

| control | effect |
|---|---|
| `GET /stand-in/counts` | requests, tokens, duplicates, in flight; by model and by route |
| `GET /stand-in/prompts` | requests by hash of the prompt |
| `GET /stand-in/calls?after=N` | each request from number N on: model, prompt, fault, tokens, whether it was billed |
| `POST /stand-in/reset` | begin to count again |
| `POST /stand-in/batches/ID/finish` | end a batch now |
| `GET`, `POST /stand-in/settings` | `{"seconds": 2, "retry_after": 1, "polls": 2}`: see `Settings` |
"""

import asyncio
import gzip
import json
import math
import re
import secrets
import socket
import sys
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route as Path
from starlette.types import Receive, Scope, Send

from predictbench_assets.sandbox.hosting import QuietServer, disconnected, halved, in_thread, reset
from predictbench_assets.sandbox.models.answers import Asked
from predictbench_assets.sandbox.models.batches import (
    Job,
    Jobs,
    Row,
    anthropic_job,
    anthropic_results,
    openai_job,
    rows_of,
    uploaded,
)
from predictbench_assets.sandbox.models.behaviours import KINDS, Behaviour, UnknownBehaviour, behaviour_of
from predictbench_assets.sandbox.models.counts import Call, Counts
from predictbench_assets.sandbox.models.openai_wire import Unreadable
from predictbench_assets.sandbox.models.problems import PROBLEMS, Wire
from predictbench_assets.sandbox.models.wires import GOOGLE, ROUTES, Body, Route

_DRIP_SECONDS = 0.1
_BOMB_BYTES = 64 * 2**20
_IDENTITY = re.compile(r"(?:batch_|msgbatch_|file-)[0-9a-f]+")
_PAGE = b"<!DOCTYPE html><html><head><title>Just a moment</title></head><body>Checking your browser</body></html>"


class Settings(msgspec.Struct, forbid_unknown_fields=True):
    """The behaviour of the whole server; what a model's name says is added to it."""

    seconds: float = 0.0
    """Time that each answer takes."""
    retry_after: float = 1.0
    """Seconds in Retry-After of a 429 and a 529."""
    polls: int = 1
    """Looks at a batch's status after which it has ended."""


class StandInApp:
    """The ASGI application: the wires, their faults, and the counts.

    Args:
        settings: how it answers; may be changed while it runs.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self.counts = Counts()
        self.jobs = Jobs()
        self._minute: dict[str, deque[float]] = defaultdict(deque)
        self._routes = Starlette(
            routes=[
                *(Path(path, partial(self._asked, route=route), methods=["POST"]) for path, route in ROUTES.items()),
                Path("/v1beta/models/{rest:path}", self._google, methods=["POST"]),
                Path("/v1/models", self._models),
                Path("/v1/files", self._upload, methods=["POST"]),
                Path("/v1/files", self._files),
                Path("/v1/files/{file}", self._file, methods=["GET", "DELETE"]),
                Path("/v1/files/{file}/content", self._content),
                Path("/v1/batches", self._create_job, methods=["POST"]),
                Path("/v1/batches", self._list_jobs),
                Path("/v1/batches/{job}", self._job),
                Path("/v1/batches/{job}/{action}", self._job, methods=["POST"]),
                Path("/v1/messages/batches", self._create_message_job, methods=["POST"]),
                Path("/v1/messages/batches", self._list_jobs),
                Path("/v1/messages/batches/{job}", self._job),
                Path("/v1/messages/batches/{job}/{action}", self._job, methods=["GET", "POST"]),
                Path("/stand-in/batches/{job}/finish", self._job, methods=["POST"]),
                Path("/stand-in/counts", self._counts),
                Path("/stand-in/prompts", self._prompts),
                Path("/stand-in/calls", self._calls),
                Path("/stand-in/reset", self._reset, methods=["POST"]),
                Path("/stand-in/settings", self._settings, methods=["GET", "POST"]),
            ],
            exception_handlers={Unreadable: _unreadable},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http" and not scope["path"].startswith("/stand-in/"):
            self.counts.routes[f"{scope['method']} {_IDENTITY.sub('{id}', scope['path'])}"] += 1
        await self._routes(scope, receive, send)

    # Models, and searches

    async def _google(self, request: Request) -> Response:
        model, _, method = request.path_params["rest"].rpartition(":")
        if method not in {"generateContent", "streamGenerateContent"}:
            return _problem("404", "google", "", f"there is no method {method!r}")
        return await self._asked(request, GOOGLE, model=model, stream=method.startswith("stream"))

    async def _asked(self, request: Request, route: Route, **added: Any) -> Response:
        """Answer one request: read it, wait, and go wrong where its model's name says so."""
        identity, path, begun = secrets.token_hex(12), request.url.path, time.monotonic()
        try:
            body = {**await _object(request), "stand_in_key": _key_of(request), **added}
            asked = route.read(body)
        except Unreadable as error:
            return _problem("400", route.wire, identity, str(error))
        counts = self.counts
        call = counts.begin(path, asked)
        response: Response
        try:
            behaviour = behaviour_of(asked.model)
        except UnknownBehaviour as error:
            call.fault = "404"
            response = _problem("404", route.wire, identity, str(error))
        else:
            over = self._over_rate(asked.model, behaviour)
            call.fault = "429" if over else behaviour.fault(call.drawn, call.turn)
            response = self._outcome(request, route, call, body, asked, identity)
            # Worked out before the wait: many that end together do not wait for each other.
            await asyncio.sleep(max(0.0, begun + self.settings.seconds + behaviour.seconds - time.monotonic()))
        return _Counted(response, counts, call)

    def _outcome(self, request: Request, route: Route, call: Call, body: Body, asked: Asked, identity: str) -> Response:
        kind, wire = call.fault, route.wire
        if kind in PROBLEMS:
            message = PROBLEMS[kind].message.replace("{key}", _key_of(request))
            return _problem(kind, wire, identity, message, retry_after=self.settings.retry_after)
        if kind == "hang":
            return _Hang()
        made, call.usage = route.write(body, asked, kind, identity)
        call.billed = kind != "redirect"
        if kind == "html":
            return Response(_PAGE, media_type="text/html", headers=_headers(wire, identity))
        if kind == "redirect":
            # The same server by another name: a client takes it for another host.
            elsewhere = f"http://localhost:{request.url.port}/v1/elsewhere"
            return Response(status_code=307, headers={"location": elsewhere, **_headers(wire, identity)})
        if kind == "bomb":
            packed = gzip.compress(_encoded(made) + b" " * _BOMB_BYTES, 6)
            headers = {"content-encoding": "gzip", **_headers(wire, identity)}
            return Response(packed, media_type="application/json", headers=headers)
        if body.get("stream") and kind not in _TRANSPORT:
            return _Streamed(route.chunks(made) if route.chunks else [made], wire, _headers(wire, identity))
        transported = _TRANSPORT.get(kind, Response)
        return transported(_encoded(made), media_type="application/json", headers=_headers(wire, identity))

    def _over_rate(self, model: str, behaviour: Behaviour) -> bool:
        """True where a model has been asked more often within a minute than its name allows."""
        if behaviour.per_minute is None:
            return False
        asked, now = self._minute[model], time.monotonic()
        while asked and asked[0] < now - 60:
            asked.popleft()
        if len(asked) >= behaviour.per_minute:
            return True
        asked.append(now)
        return False

    async def _models(self, _: Request) -> Response:
        names = ["stand-in", *(f"stand-in-{kind}" for kind in KINDS if kind not in {"flaky", "messy"})]
        names += ["stand-in-flaky-20", "stand-in-messy-20", "stand-in-slow-2", "stand-in-429-once", "stand-in-rpm-60"]
        rows = [{"id": name, "object": "model", "created": 0, "owned_by": "stand-in"} for name in names]
        return _json({"object": "list", "data": rows})

    # Batches

    async def _upload(self, request: Request) -> Response:
        name, content, purpose = uploaded(request.headers.get("content-type", ""), await request.body())
        return _json(self.jobs.add_file(name, content, purpose).as_dict())

    async def _files(self, _: Request) -> Response:
        rows = [file.as_dict() for file in reversed(self.jobs.files.values())]
        return _json({"object": "list", "data": rows, "has_more": False})

    async def _file(self, request: Request) -> Response:
        file = self.jobs.files.get(request.path_params["file"])
        if file is None:
            return _problem("404", "openai", "", "There is no such file.")
        if request.method == "DELETE":
            del self.jobs.files[file.identity]
            return _json({"id": file.identity, "object": "file", "deleted": True})
        return _json(file.as_dict())

    async def _content(self, request: Request) -> Response:
        file = self.jobs.files.get(request.path_params["file"])
        if file is None:
            return _problem("404", "openai", "", "There is no such file.")
        return Response(file.content, media_type="application/octet-stream")

    async def _create_job(self, request: Request) -> Response:
        body = await _object(request)
        file, endpoint = self.jobs.files.get(str(body.get("input_file_id"))), str(body.get("endpoint"))
        if file is None:
            raise Unreadable("there is no such input file")
        rows, described = rows_of(file, endpoint), {"endpoint": endpoint, "input_file": file.identity}
        job = self.jobs.add(rows, self.settings.polls, "batch", metadata=body.get("metadata"), **described)
        return self._created(job, "openai", openai_job(job))

    async def _create_message_job(self, request: Request) -> Response:
        given = (await _object(request)).get("requests")
        if not isinstance(given, list):
            raise Unreadable("requests are missing")
        rows = [Row(str(each.get("custom_id")), "/v1/messages", each.get("params") or {}) for each in given]
        job = self.jobs.add(rows, self.settings.polls, "msgbatch")
        return self._created(job, "anthropic", anthropic_job(job, _root(request)))

    def _created(self, job: Job, wire: Wire, shown: dict[str, Any]) -> Response:
        """The answer to a new job; a key that is refused makes none, and the answer may be lost."""
        if job.fate in {"401", "403", "404", "quota"}:
            del self.jobs.jobs[job.identity]
            return _problem(job.fate, wire, job.identity)
        return _Reset() if job.fate == "batchlost" else _json(shown)

    async def _list_jobs(self, request: Request) -> Response:
        wire = "anthropic" if "messages" in request.url.path else "openai"
        prefix = "msgbatch" if wire == "anthropic" else "batch_"
        found = [job for job in reversed(self.jobs.jobs.values()) if job.identity.startswith(prefix)]
        names, params = [job.identity for job in found], request.query_params
        after = params.get("after") or params.get("after_id")
        start = names.index(after) + 1 if after in names else 0
        limit = params.get("limit", "20")
        page = found[start : start + (int(limit) if limit.isdecimal() else 20)]
        rows = [openai_job(job) if wire == "openai" else anthropic_job(job, _root(request)) for job in page]
        ends = {"first_id": rows[0]["id"], "last_id": rows[-1]["id"]} if rows else {"first_id": None, "last_id": None}
        return _json({"object": "list", "data": rows, **ends, "has_more": start + len(page) < len(found)})

    async def _job(self, request: Request) -> Response:
        wire: Wire = "anthropic" if "messages" in request.url.path else "openai"
        job = self.jobs.jobs.get(request.path_params["job"])
        if job is None:
            return _problem("404", wire, "", "There is no such batch.")
        action = request.path_params.get("action")
        if request.url.path.startswith("/stand-in/"):
            self.jobs.finish(job, self.counts)
        elif action == "results":
            return Response(anthropic_results(job), media_type="application/x-jsonl")
        elif action == "cancel":
            job.state = job.state if job.is_over else "cancelling"
        else:
            self.jobs.look(job, self.counts)
        return _json(openai_job(job) if wire == "openai" else anthropic_job(job, _root(request)))

    # The stand-in itself

    async def _counts(self, _: Request) -> Response:
        return _json(self.counts.as_dict())

    async def _prompts(self, _: Request) -> Response:
        return _json(dict(self.counts.prompts))

    async def _calls(self, request: Request) -> Response:
        after = request.query_params.get("after", "0")
        if not after.isdecimal():
            return _json({"error": "after is a number"}, 422)
        return _json([asdict(call) for call in self.counts.calls[int(after) :]])

    async def _reset(self, _: Request) -> Response:
        self.reset()
        return _json({})

    def reset(self) -> None:
        """Begin to count again; requests in flight are not counted any more."""
        self.counts = Counts()
        self._minute.clear()

    async def _settings(self, request: Request) -> Response:
        if request.method == "POST":
            given = {**msgspec.structs.asdict(self.settings), **await _object(request)}
            try:
                self.settings = msgspec.convert(given, Settings)
            except msgspec.ValidationError as error:
                return _json({"error": str(error)}, 422)
        return _json(self.settings)


class StandIn:
    """A running stand-in: where it is, and what reached it."""

    def __init__(self, app: StandInApp, host: str, port: int) -> None:
        self.app = app
        self.url = f"http://{host}:{port}"
        """Its root: the base URL of Anthropic's, Google's and the search services' clients."""
        self.base_url = f"{self.url}/v1"
        """The base URL of OpenAI's client, and of all that are compatible with it."""

    @property
    def counts(self) -> dict[str, Any]:
        """The counts so far (see `Counts.as_dict`)."""
        return self.app.counts.as_dict()

    @property
    def calls(self) -> list[Call]:
        """The requests so far, oldest first."""
        return list(self.app.counts.calls)

    @property
    def prompts(self) -> Mapping[str, int]:
        """Requests by hash of the prompt."""
        return dict(self.app.counts.prompts)

    def reset(self) -> None:
        """Begin to count again."""
        self.app.reset()


@contextmanager
def serve(settings: Settings | None = None, *, host: str = "127.0.0.1", port: int = 0) -> Iterator[StandIn]:
    """Run the stand-in in a thread of this process; port 0 takes a free one."""
    app = StandInApp(settings)
    with in_thread(app, host, port) as bound:
        yield StandIn(app, host, bound)


def run(
    settings: Settings | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8766,
    announce: Callable[[StandIn], object] = lambda running: sys.stdout.write(f"{running.base_url}\n"),
) -> None:
    """Run the stand-in until it is interrupted; `announce` is told once it is ready.

    Raises:
        OSError: the port is taken.
    """
    app = StandInApp(settings)
    with socket.create_server((host, port), backlog=1024) as listener:
        running = StandIn(app, host, listener.getsockname()[1])

        def ready() -> None:
            announce(running)
            sys.stdout.flush()

        with suppress(KeyboardInterrupt):
            QuietServer(app, ready).run(sockets=[listener])


class _Counted(Response):
    """A response that notes how it ended."""

    def __init__(self, inner: Response, counts: Counts, call: Call) -> None:
        self.inner, self.counts, self.call = inner, counts, call
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call = self.call
        if call.fault not in _BROKEN:
            call.status = self.inner.status_code
        if call.fault in _ENDLESS:
            try:
                await self.inner(scope, receive, send)
            finally:
                self.counts.end(call)
            return
        gone = await Request(scope, receive).is_disconnected()
        call.delivered = call.billed and not gone and call.fault not in _BROKEN
        # Before the last byte leaves: who has the answer finds it counted.
        self.counts.end(call)
        await self.inner(scope, receive, send)


class _Reset(Response):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        reset(scope)
        await disconnected(receive)


class _Cut(Response):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await super().__call__(scope, receive, halved(scope, receive, send))


class _Hang(Response):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        await disconnected(receive)


class _Drip(Response):
    """One byte at a time, until the reader has had enough."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        gone = asyncio.ensure_future(disconnected(receive))
        try:
            for at in range(len(self.body)):
                await send({"type": "http.response.body", "body": self.body[at : at + 1], "more_body": True})
                done, _ = await asyncio.wait({gone}, timeout=_DRIP_SECONDS)
                if done:
                    return
            await send({"type": "http.response.body", "body": b""})
        finally:
            gone.cancel()


class _Streamed(StreamingResponse):
    """Server-sent events."""

    def __init__(self, chunks: list[dict[str, Any]], wire: Wire, headers: Mapping[str, str]) -> None:
        async def events() -> AsyncIterator[bytes]:
            for chunk in chunks:
                name = f"event: {chunk['type']}\n".encode() if "type" in chunk else b""
                yield name + b"data: " + _encoded(chunk) + b"\n\n"
            if wire == "openai":
                yield b"data: [DONE]\n\n"

        super().__init__(events(), media_type="text/event-stream", headers=headers)


_TRANSPORT: Mapping[str, type[Response]] = {"reset": _Reset, "cut": _Cut, "drip": _Drip}
_BROKEN = {"reset", "cut", "hang", "drip"}
_ENDLESS = {"hang", "drip"}


def _headers(wire: Wire, identity: str) -> dict[str, str]:
    if wire == "anthropic":
        return {"request-id": f"req_{identity}", "anthropic-organization-id": "stand-in"}
    return {"x-request-id": f"req_{identity}", "openai-processing-ms": "1"} if wire == "openai" else {}


def _problem(kind: str, wire: Wire, identity: str, message: str | None = None, *, retry_after: float = 1.0) -> Response:
    problem = PROBLEMS[kind]
    headers = _headers(wire, identity)
    if kind in {"429", "529", "503"}:
        # Whole seconds are all that the standard header can say; the providers' clients read the other one first.
        headers |= {"retry-after": f"{math.ceil(retry_after)}", "retry-after-ms": f"{retry_after * 1000:g}"}
    body = problem.body_on(wire, f"req_{identity}", message)
    return Response(_encoded(body), problem.status_on(wire), headers=headers, media_type="application/json")


def _key_of(request: Request) -> str:
    """The key that a caller sent, wherever its provider has it sent."""
    headers = request.headers
    bearer = headers.get("authorization", "").removeprefix("Bearer ").strip()
    return bearer or headers.get("x-api-key") or headers.get("x-goog-api-key") or "none"


async def _object(request: Request) -> dict[str, Any]:
    try:
        return msgspec.json.decode(await request.body(), type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise Unreadable("the body is not a JSON object") from error


def _encoded(body: object) -> bytes:
    # Not msgspec, which knows no NaN: a decision has one on purpose.
    return json.dumps(body, separators=(",", ":")).encode()


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


async def _unreadable(request: Request, error: Exception) -> Response:
    return _problem("400", "anthropic" if "messages" in request.url.path else "openai", "", str(error))


def _root(request: Request) -> str:
    return str(request.base_url).rstrip("/")
