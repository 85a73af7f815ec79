"""The stand-in over HTTP: the providers' own paths, and `/stand-in/...` to steer it and to see what reached it.

| control | effect |
|---|---|
| `GET /stand-in/counts` | requests, tokens, duplicates, in flight; by model and by route |
| `GET /stand-in/prompts` | requests by hash of the prompt |
| `GET /stand-in/calls?after=N` | each request from number N on: model, prompt, fault, tokens, whether it was billed |
| `POST /stand-in/reset` | begin to count again |
| `GET`, `POST /stand-in/settings` | `{"seconds": 2, "retry_after": 1, "polls": 2}`: see `Settings` |
"""

import asyncio
import math
import secrets
import socket
import sys
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from predictbench_assets.sandbox.hosting import QuietServer, disconnected, halved, in_thread, reset
from predictbench_assets.sandbox.models import openai_wire
from predictbench_assets.sandbox.models.answers import Answer, Asked, Usage, answer
from predictbench_assets.sandbox.models.behaviours import KINDS, Behaviour, UnknownBehaviour, behaviour_of
from predictbench_assets.sandbox.models.counts import Call, Counts
from predictbench_assets.sandbox.models.openai_wire import Unreadable
from predictbench_assets.sandbox.models.problems import PROBLEMS, Wire

_DRIP_SECONDS = 0.1
_MAX_BODY = 220 * 10**6
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
        self._minute: dict[str, deque[float]] = defaultdict(deque)
        self._routes = Starlette(
            routes=[
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/models", self._models),
                Route("/stand-in/counts", self._counts),
                Route("/stand-in/prompts", self._prompts),
                Route("/stand-in/calls", self._calls),
                Route("/stand-in/reset", self._reset, methods=["POST"]),
                Route("/stand-in/settings", self._settings, methods=["GET", "POST"]),
            ],
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await self._routes(scope, receive, send)

    # Models that write

    async def _chat(self, request: Request) -> Response:
        def written(asked: Asked, kind: str, identity: str) -> tuple[Any, Usage]:
            made = self.work_out(asked, kind)
            return openai_wire.chat(asked, made, identity), made.usage

        return await self._asked(request, "openai", openai_wire.read_chat, written, openai_wire.chat_chunks)

    def work_out(self, asked: Asked, kind: str) -> Answer:
        """The answer of a model that writes."""
        return answer(asked, kind)

    async def _asked(
        self,
        request: Request,
        wire: Wire,
        read: Callable[[Mapping[str, Any]], Asked],
        write: Callable[[Asked, str, str], tuple[Any, Usage]],
        chunks: Callable[[Any], list[dict[str, Any]]] | None = None,
    ) -> Response:
        """Answer one request to a model: read it, wait, and go wrong where its model's name says so."""
        identity = secrets.token_hex(12)
        self.counts.routes[f"{request.method} {request.url.path}"] += 1
        try:
            asked = read(await _object(request))
        except Unreadable as error:
            return _problem("400", wire, identity, str(error))
        counts = self.counts
        call = counts.begin(request.url.path, asked)
        response: Response
        try:
            behaviour = behaviour_of(asked.model)
        except UnknownBehaviour as error:
            call.fault = "404"
            response = _problem("404", wire, identity, str(error))
        else:
            call.fault = (
                "429" if self._over_rate(asked.model, behaviour) else behaviour.fault(call_hash(call), call.turn)
            )
            await asyncio.sleep(self.settings.seconds + behaviour.seconds)
            response = self._outcome(request, wire, call, lambda: write(asked, call.fault, identity), identity)
            if asked.stream and chunks and call.billed and call.fault not in _TRANSPORT:
                response = _Streamed(chunks(write(asked, call.fault, identity)[0]), wire)
        return _Counted(response, counts, call)

    def _outcome(
        self, request: Request, wire: Wire, call: Call, write: Callable[[], tuple[Any, Usage]], identity: str
    ) -> Response:
        kind = call.fault
        if kind in PROBLEMS:
            message = PROBLEMS[kind].message.replace("{key}", _key_of(request))
            return _problem(kind, wire, identity, message, retry_after=self.settings.retry_after)
        if kind == "hang":
            return _Hang()
        body, call.usage = write()
        call.billed = True
        if kind == "html":
            return Response(_PAGE, media_type="text/html", headers=_headers(wire, identity))
        transported = _TRANSPORT.get(kind, Response)
        return transported(_encoded(body), media_type="application/json", headers=_headers(wire, identity))

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


def call_hash(call: Call) -> int:
    """The number that decides whether a share of requests contains this one."""
    return int(call.prompt[:16], 16)


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
        try:
            gone = await Request(scope, receive).is_disconnected()
            if call.fault not in _BROKEN:
                call.status = self.inner.status_code
            await self.inner(scope, receive, send)
            call.delivered = call.billed and not gone and call.fault not in _BROKEN
        finally:
            self.counts.end(call)


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

    def __init__(self, chunks: list[dict[str, Any]], wire: Wire) -> None:
        async def events() -> AsyncIterator[bytes]:
            for chunk in chunks:
                name = f"event: {chunk['type']}\n".encode() if "type" in chunk else b""
                yield name + b"data: " + _encoded(chunk) + b"\n\n"
            if wire == "openai":
                yield b"data: [DONE]\n\n"

        super().__init__(events(), media_type="text/event-stream")


_TRANSPORT: Mapping[str, type[Response]] = {"reset": _Reset, "cut": _Cut, "drip": _Drip}
_BROKEN = {"reset", "cut", "hang"}


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
    return msgspec.json.encode(body)


def _json(value: object, status: int = 200) -> Response:
    return Response(_encoded(value), status, media_type="application/json")
