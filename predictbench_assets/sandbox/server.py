"""The sandbox exchange over HTTP: Gamma at the root, the order books under `/clob`, the data API under `/data`.

Its time stands still until it is moved, forward only, by `POST /_sandbox/time`. `GET /_sandbox/status` counts the
requests and the faults made on purpose, `GET /_sandbox/truth` has what no real exchange shows, and
`POST /_sandbox/warm` prepares rows ahead for a bench.

`POST /_sandbox/settle` settles a market otherwise than by chance, also one that has settled: `{"market_id": "1",
"payout": [0, 1]}`. A payout of `null` opens it again, `"gamma": [0.9, 0.1]` beside the payout has Gamma write something
else than the CLOB, and `{"market_id": "1", "vanish": true}` takes the market away.
"""

import asyncio
import re
import socket
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, NamedTuple, get_args

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.types import Receive, Scope, Send

from predictbench_assets.failures import PermanentError
from predictbench_assets.sandbox import listing, payloads
from predictbench_assets.sandbox.exchange import Exchange, View, WorldExchange
from predictbench_assets.sandbox.faults import Faults, FaultSource
from predictbench_assets.sandbox.hosting import QuietServer, disconnected, halved, in_thread, reset
from predictbench_assets.sandbox.latent import mixed
from predictbench_assets.sandbox.listing import Invalid
from predictbench_assets.sandbox.models.server import StandInApp
from predictbench_assets.sandbox.world import DAY, HOUR, Market, Quote, World

_MAX_TOKENS = 500
_MAX_HISTORIES = 20
_LONGEST_HISTORY = 15 * DAY
_INTERVALS = {"1h": HOUR, "6h": 6 * HOUR, "1d": DAY, "1w": 7 * DAY, "1m": 30 * DAY, "max": 31 * DAY, "all": 31 * DAY}
_LEAST_FIDELITY = {"1w": 5, "1m": 10}
_REPEATED_ROWS = 3
_NO_BOOK = {"error": "No orderbook exists for the requested token id"}
_LEGACY_HEADERS = {
    "deprecation": "true",
    "sunset": "Fri, 01 May 2026 00:00:00 GMT",
    "warning": '299 - "use /markets/keyset"',
}
_CLOUDFLARE_PAGE = (
    b"<!DOCTYPE html>\n<html lang=en><head><title>Attention Required! | Cloudflare</title></head>"
    b"<body><h1>Sorry, you have been blocked</h1><p>Cloudflare Ray ID: 0000000000000000</p></body></html>\n"
)


Histories = Literal["whole", "rough", "half", "half-batched", "gone"]
HISTORIES: Final[tuple[Histories, ...]] = get_args(Histories)
"""What price histories are like: whole; with the gaps, new books and payouts of real ones; about half of the tokens,
whichever way they are asked for; about half of them in batches, and about each alone; or a route that is gone."""


class TimeGoesForward(PermanentError):
    """Refusal to go back in time: what has settled cannot be open again. Start another one."""


class InvalidFilters(Exception):
    """Filters that the order books' host answers with 400."""


class SandboxApp:
    """The ASGI application: routes, and the faults in front of them.

    Args:
        world: the markets to serve.
        now: the exchange's time at first.
        faults: kinds of faults, and their rates.
        seed: seed of the faults' draws.
    """

    def __init__(self, world: World | Exchange, *, now: datetime, faults: Faults | None = None, seed: int = 0) -> None:
        exchange: Exchange = WorldExchange(world) if isinstance(world, World) else world
        self.view = View(exchange, int(now.timestamp()))
        self.source = FaultSource(faults or Faults(), seed)
        self.requests: Counter[str] = Counter()
        self.histories_answered = 1.0
        """Share of tokens that price histories have an answer about; at 0 the route is gone."""
        self.answers_singly = False
        """True where the others are answered for when they are asked about alone."""
        self.rough_histories = False
        """True for price histories with gaps, the 0.5 of new books, and payouts (`payloads.rough_history`)."""
        gamma = [
            Route("/markets/keyset", self._keyset),
            Route("/markets/slug/{slug}", self._market_by_slug),
            Route("/markets/{market_id}/tags", self._market_tags),
            Route("/markets/{market_id}", self._market),
            Route("/markets", self._legacy),
            Route("/events/keyset", self._events),
            Route("/events/{event_id}", self._event),
        ]
        clob = [
            Route("/book", self._book),
            Route("/books", self._books, methods=["POST"]),
            Route("/price", self._price),
            Route("/prices", self._prices, methods=["POST"]),
            Route("/midpoint", self._midpoint),
            Route("/midpoints", self._midpoints, methods=["POST"]),
            Route("/prices-history", self._history),
            Route("/batch-prices-history", self._histories, methods=["POST"]),
            Route("/markets/{condition_id}", self._clob_market),
        ]
        control = [
            Route("/time", self._time, methods=["GET", "POST"]),
            Route("/settle", self._settle, methods=["POST"]),
            Route("/faults", self._faults, methods=["GET", "POST"]),
            Route("/warm", self._warm, methods=["POST"]),
            Route("/status", self._status),
            Route("/truth", self._truth),
        ]
        self._routes = Starlette(
            routes=[
                Mount("/_sandbox", routes=control),
                Mount("/clob", routes=clob),
                Mount("/_models", app=StandInApp()),
                Mount("/data", routes=[Route("/v2/resolutions", self._resolutions)]),
                *gamma,
            ],
            exception_handlers={InvalidFilters: _invalid_filters, Invalid: _invalid, PermanentError: _refused},
        )

    # Time and faults

    def set_histories(self, kind: Histories) -> None:
        """Serve price histories of a kind from now on, see `HISTORIES`."""
        self.rough_histories = kind == "rough"
        self.histories_answered = {"gone": 0.0, "half": 0.5, "half-batched": 0.5}.get(kind, 1.0)
        self.answers_singly = kind == "half-batched"

    @property
    def now(self) -> datetime:
        """The exchange's time, UTC."""
        return datetime.fromtimestamp(self.view.at, UTC)

    def set_time(self, now: datetime) -> None:
        """Move the exchange to a later instant: markets appear, trade, close and settle accordingly.

        Raises:
            TimeGoesForward: the instant is before the exchange's.
        """
        if now.tzinfo is None:
            raise TimeGoesForward(f"the exchange's time needs a time zone, got {now.isoformat()}")
        at = int(now.timestamp())
        if at < self.view.at:
            raise TimeGoesForward(
                f"the exchange is at {self.now.isoformat()} already, it cannot go to {now.isoformat()}"
            )
        self.view = View(self.view.exchange, at)

    def settle(
        self,
        market_id: str,
        payout: tuple[float, float] | None,
        *,
        gamma: tuple[float, float] | None = None,
        vanish: bool = False,
    ) -> bool:
        """Pay a market out from now on, whatever it was before; False where there is no such market.

        Args:
            market_id: id of the market.
            payout: worth of a share of each outcome; None opens the market again.
            gamma: payout that Gamma writes, where that differs from the CLOB's.
            vanish: know nothing of the market any more instead.
        """
        exchange, at = self.view.exchange, self.view.at
        known = exchange.vanish(market_id) if vanish else exchange.settle(market_id, payout, at, gamma)
        self.view = View(exchange, at)
        return known

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, unless it is this one's turn to go wrong."""
        path = scope["path"]
        if scope["type"] != "http" or path.startswith("/_sandbox/"):
            await self._routes(scope, receive, send)
            return
        self.requests[f"{scope['method']} {_template(path)}"] += 1
        if self.source.faults.latency_ms:
            await asyncio.sleep(self.source.faults.latency_ms / 1000)
        kind = self.source.draw()
        if kind == "repeat":
            scope["state"] = {
                **scope.get("state", {}),
                "repeat": True,
            }  # the listing counts it, if it has a page before
        elif kind is not None:
            self.source.injected[kind] += 1
            await self._fail(kind, scope, receive, send)
            return
        await self._routes(scope, receive, send)

    async def _fail(self, kind: str, scope: Scope, receive: Receive, send: Send) -> None:
        if kind == "http500":
            await _json({"type": "internal error", "error": "cannot get the information"}, 500)(scope, receive, send)
        elif kind == "http429":
            with_header = self.source.injected[kind] % 2 == 1
            headers = {"retry-after": f"{self.source.faults.retry_after:g}"} if with_header else {}
            await _json({"error": "Too Many Requests"}, 429, headers)(scope, receive, send)
        elif kind == "html403":
            await Response(_CLOUDFLARE_PAGE, 403, media_type="text/html")(scope, receive, send)
        elif kind == "truncate":
            await self._routes(scope, receive, halved(scope, receive, send))
        else:
            # A reader still writing its request would see a broken pipe instead, so it is let finish.
            while (await receive()).get("more_body"):
                pass
            reset(scope)
            await disconnected(receive)

    # Gamma

    async def _keyset(self, request: Request) -> Response:
        params, view = request.query_params, self.view
        if "offset" in params:
            raise Invalid("offset is not allowed on keyset endpoints")
        query, size = listing.parsed(params), listing.page_size(params)
        cursor = params.get("after_cursor")
        position = listing.after(cursor, query.fingerprint) if cursor else None
        found = view.select(query)
        start = listing.start_of_page(found.keys, position)
        repeated = min(_REPEATED_ROWS, start, size - 1) if getattr(request.state, "repeat", False) else 0
        if repeated:
            self.source.injected["repeat"] += 1
        stop = start + size - repeated
        markets = found.markets[start - repeated : stop]
        with_tags = _with_tags(request)
        rows = [view.row(market, include_tag=with_tags) for market in markets]
        following = listing.cursor_at(found.keys[stop - 1], query.fingerprint) if len(rows) == size and rows else None
        return _page("markets", rows, following)

    async def _legacy(self, request: Request) -> Response:
        params, view = request.query_params, self.view
        query, size, start = listing.parsed(params), listing.page_size(params), listing.offset(params)
        found = view.select(query)
        markets = found.markets
        if query.order != "id":
            # No tie-breaker here: rows with one value come in another order each time.
            turn = self.requests.total()
            shuffled = sorted(
                zip(found.keys, markets, strict=True), key=lambda it: (it[0][0], mixed(turn, it[1].number))
            )
            markets = [market for _, market in shuffled]
        with_tags = _with_tags(request)
        rows = [view.row(market, include_tag=with_tags) for market in markets[start : start + size]]
        return Response(b"[" + b",".join(rows) + b"]", media_type="application/json", headers=_LEGACY_HEADERS)

    async def _market(self, request: Request) -> Response:
        return self._one(request, market_id=request.path_params["market_id"])

    async def _market_by_slug(self, request: Request) -> Response:
        return self._one(request, slug=request.path_params["slug"])

    def _one(self, request: Request, **identifier: str) -> Response:
        market = self.view.find(**identifier)
        if market is None:
            return _json({"type": "not found error", "error": "id not found"}, 404)
        row = self.view.row(market, include_tag=_with_tags(request))
        return Response(row, media_type="application/json")

    async def _market_tags(self, request: Request) -> Response:
        market = self.view.find(market_id=request.path_params["market_id"])
        if market is None:
            return _json({"type": "not found error", "error": "id not found"}, 404)
        return _json(payloads.tags(market.event) if isinstance(market, Market) else [])

    async def _events(self, request: Request) -> Response:
        params, view = request.query_params, self.view
        if "offset" in params:
            raise Invalid("offset is not allowed on keyset endpoints")
        query, size = listing.parsed(params), listing.page_size(params)
        cursor = params.get("after_cursor")
        position = listing.after(cursor, query.fingerprint) if cursor else None
        world = view.exchange.world
        events = [] if world is None else [
            event
            for event in world.events(view.at, query.ends_from, query.ends_to)
            if (view.at >= event.closes) == query.closed
            and (not query.ids or event.event_id in query.ids)
            and (not query.slugs or event.slug in query.slugs)
            and (not query.tag_ids or any(tag.number in query.tag_ids for tag in event.category.tags))
        ]  # fmt: skip
        events = sorted(events, key=lambda event: event.number)
        start = listing.start_of_page([(float(event.number), event.number) for event in events], position)
        page = events[start : start + size]
        whole = params.get("include_markets") != "false"
        rows = [
            payloads.event_row(event, view.at, self._nested(view, event.event_id)) if whole else view.event_row(event)
            for event in page
        ]
        last = page[-1].number if page else 0
        full = len(page) == size
        return _page("events", rows, listing.cursor_at((float(last), last), query.fingerprint) if full else None)

    async def _event(self, request: Request) -> Response:
        view = self.view
        world = view.exchange.world
        event = world.event(request.path_params["event_id"]) if world else None
        if event is None or event.begins > view.at:
            return _json({"type": "not found error", "error": "id not found"}, 404)
        row = payloads.event_row(event, view.at, self._nested(view, event.event_id))
        return Response(row, media_type="application/json")

    def _nested(self, view: View, event_id: str) -> list[bytes]:
        world = view.exchange.world
        event = world.event(event_id) if world else None
        if world is None or event is None:
            return []
        return [view.row(market, nested=True) for market in world.members(event) if market.created <= view.at]

    # The order books

    def _traded(self, token_id: str) -> tuple[Market, int] | None:
        """The market and outcome of a token that is traded now."""
        world = self.view.exchange.world
        found = world.market_of_token(token_id) if world else None
        if found is None or found[0].created > self.view.at or found[0].is_closed(self.view.at):
            return None
        return found

    def _quote(self, token_id: str) -> Quote | None:
        found = self._traded(token_id)
        if found is None:
            return None
        quote = found[0].quote(self.view.at)
        return quote if found[1] == 0 else quote.mirrored

    async def _book(self, request: Request) -> Response:
        found = self._traded(request.query_params.get("token_id", ""))
        return _json(payloads.book(*found, self.view.at)) if found else _json(_NO_BOOK, 404)

    async def _books(self, request: Request) -> Response:
        found = [self._traded(item["token_id"]) for item in await _tokens(request)]
        return _json([payloads.book(*each, self.view.at) for each in found if each])

    async def _price(self, request: Request) -> Response:
        side = request.query_params.get("side", "").upper()
        if side not in {"BUY", "SELL"}:
            return _json({"error": "Invalid side"}, 400)
        quote = self._quote(request.query_params.get("token_id", ""))
        price = payloads.best(quote).get(side) if quote else None
        return _json({"price": price}) if price else _json(_NO_BOOK, 404)

    async def _prices(self, request: Request) -> Response:
        answer: dict[str, dict[str, str]] = {}
        quotes: dict[str, Quote | None] = {}
        for item in await _tokens(request):
            token, side = item["token_id"], str(item.get("side", "")).upper()
            if token not in quotes:
                quotes[token] = self._quote(token)
            quote = quotes[token]
            price = payloads.best(quote).get(side) if quote else None
            if price is not None:
                answer.setdefault(token, {})[side] = price
        return _json(answer)

    async def _midpoint(self, request: Request) -> Response:
        quote = self._quote(request.query_params.get("token_id", ""))
        middle = payloads.midpoint(quote) if quote else None
        return _json({"mid": middle}) if middle else _json(_NO_BOOK, 404)

    async def _midpoints(self, request: Request) -> Response:
        tokens = [item["token_id"] for item in await _tokens(request)]
        quotes = ((token, self._quote(token)) for token in tokens)
        middles = ((token, payloads.midpoint(quote)) for token, quote in quotes if quote)
        return _json({token: middle for token, middle in middles if middle})

    async def _history(self, request: Request) -> Response:
        params = request.query_params
        token, span = params.get("market", ""), _history_span(params, ("startTs", "endTs"), self.view.at)
        if not self._is_answered(token) and not self.answers_singly:
            return _json({"error": "not found"}, 404)
        return _json({"history": self._points(token, span)})

    async def _histories(self, request: Request) -> Response:
        if not self.histories_answered:
            return _json({"error": "not found"}, 404)
        body = await _object(request)
        tokens = body.get("markets")
        if not isinstance(tokens, list) or not 0 < len(tokens) <= _MAX_HISTORIES:
            raise InvalidFilters(f"'markets' must hold 1 to {_MAX_HISTORIES} token ids")
        span = _history_span(body, ("start_ts", "end_ts"), self.view.at)
        answered = (token for token in map(str, tokens) if self._is_answered(token))
        return _json({"history": {token: self._points(token, span) for token in answered}})

    def _is_answered(self, token: str) -> bool:
        return self.histories_answered >= 1 or zlib.crc32(token.encode()) % 1000 < 1000 * self.histories_answered

    def _points(self, token_id: str, span: "_HistorySpan") -> list[dict[str, Any]]:
        at, world = self.view.at, self.view.exchange.world
        found = world.market_of_token(token_id) if world else None
        if found is None or found[0].created > at:
            return []
        if span.anchored and found[0].is_closed(at) and span.fidelity < 720:
            return []  # an interval is anchored to now, and fine data are gone
        points = payloads.history(*found, span.starts, min(span.ends, at), 60 * span.fidelity)
        return payloads.rough_history(*found, points, span.ends, at) if self.rough_histories else points

    async def _clob_market(self, request: Request) -> Response:
        market = self.view.find(condition_id=request.path_params["condition_id"])
        if not isinstance(market, Market):
            return _json({"error": "market not found"}, 404)
        return _json(payloads.clob_market(market, self.view.at))

    async def _resolutions(self, request: Request) -> Response:
        conditions = [part for text in request.query_params.getlist("condition") for part in text.split(",") if part]
        if not conditions or len(conditions) > 20:
            return _json({"error": "1 to 20 conditions are required", "code": "bad_request", "retryable": False}, 400)
        found = [self.view.find(condition_id=condition) for condition in conditions]
        rows = [payloads.resolution(market, self.view.at) for market in found if isinstance(market, Market)]
        return _json({"data": rows})

    # The sandbox itself

    async def _time(self, request: Request) -> Response:
        if request.method == "POST":
            body = await _object(request)
            if "advance_hours" in body:
                self.set_time(self.now + timedelta(hours=float(body["advance_hours"])))
            elif "now" in body:
                self.set_time(datetime.fromtimestamp(listing.seconds(str(body["now"])), UTC))
            else:
                raise Invalid('send {"now": "2026-11-30T12:00:00Z"} or {"advance_hours": 24}')
        return _json({"now": payloads.instant(self.view.at)})

    async def _settle(self, request: Request) -> Response:
        """Settle a market, now or otherwise than before; open it again; or forget it."""
        body = await _object(request)
        if "payout" not in body and body.get("vanish") is not True:
            raise Invalid('send {"market_id": "1", "payout": [0, 1]} or {"market_id": "1", "vanish": true}')
        market_id = str(body.get("market_id", ""))
        if not self.settle(
            market_id, _payout(body, "payout"), gamma=_payout(body, "gamma"), vanish=body.get("vanish") is True
        ):
            return _json({"type": "not found error", "error": "id not found"}, 404)
        return _json({"market_id": market_id, "now": payloads.instant(self.view.at)})

    async def _faults(self, request: Request) -> Response:
        if request.method == "POST":
            body = await _object(request)
            self.source.faults = Faults.parse(str(body.get("faults", "")))
        return _json({"faults": str(self.source.faults)})

    async def _warm(self, request: Request) -> Response:
        """Prepare the rows that the same parameters would list; they stay ready until the time is moved."""
        query = listing.parsed(request.query_params)
        return _json({"rows": self.view.warm(query, include_tag=_with_tags(request))})

    async def _status(self, request: Request) -> Response:
        """Counts; with `end_date_min` and `end_date_max` also of the window's markets and poisoned rows."""
        view, params = self.view, request.query_params
        world = view.exchange.world
        status: dict[str, Any] = {
            "now": payloads.instant(view.at),
            "seed": world.seed if world else None,
            "markets_per_day": world.markets_per_day if world else None,
            "requests": dict(self.requests),
            "faults": str(self.source.faults),
            "injected": dict(self.source.injected),
        }
        if "end_date_min" in params and "end_date_max" in params:
            query = listing.parsed(params)
            markets = list(view.exchange.listed(view.at, query.ends_from, query.ends_to))
            markets = [market for market in markets if query.admits(market, view.at) or market.is_closed(view.at)]
            status["listed"] = len(markets)
            status["open"] = sum(not market.is_closed(view.at) for market in markets)
            status["poison"] = Counter(
                market.poison for market in markets if isinstance(market, Market) and market.poison
            )
        return _json(status)

    async def _truth(self, request: Request) -> Response:
        """P(first outcome) at `at` (now where it is not given), and how the market settles in the end."""
        view, params = self.view, request.query_params
        at = listing.seconds(params["at"]) if "at" in params else view.at
        named = params.getlist("market_id")
        if not named and not ("end_date_min" in params and "end_date_max" in params):
            raise Invalid("name markets by market_id, or a window by end_date_min and end_date_max")
        if named:
            found: list[Any] = [view.exchange.find(market_id=market_id) for market_id in named]
        else:
            query = listing.parsed(params)
            found = list(view.exchange.listed(view.at, query.ends_from, query.ends_to))
        markets = {
            market.market_id: {
                "probability": market.probability(at),
                "outcome": market.settlement.payout[0],
                "decided": payloads.instant(market.latent.decided),
                "closed": payloads.instant(market.settlement.closed),
                "poison": market.poison,
            }
            for market in found
            if isinstance(market, Market)
        }
        return _json({"at": payloads.instant(at), "markets": markets})


class SandboxServer:
    """A running sandbox: where it is, and how to steer it from the same process."""

    def __init__(self, app: SandboxApp, host: str, port: int) -> None:
        self.app = app
        self.base_url = f"http://{host}:{port}"
        self.clob_url = f"{self.base_url}/clob"
        self.data_url = f"{self.base_url}/data"

    @property
    def now(self) -> datetime:
        """The exchange's time, UTC."""
        return self.app.now

    @property
    def requests(self) -> Mapping[str, int]:
        """Requests served or spoilt, by method and path."""
        return self.app.requests

    @property
    def injected(self) -> Mapping[str, int]:
        """Faults carried out, by kind."""
        return self.app.source.injected

    def set_time(self, now: datetime) -> None:
        """Move the exchange's time forward (see `SandboxApp.set_time`)."""
        self.app.set_time(now)

    def settle(
        self,
        market_id: str,
        payout: tuple[float, float] | None = None,
        *,
        gamma: tuple[float, float] | None = None,
        vanish: bool = False,
    ) -> None:
        """Settle a market otherwise than by chance, open it again, or forget it (see `SandboxApp.settle`).

        Raises:
            KeyError: there is no such market.
        """
        if not self.app.settle(market_id, payout, gamma=gamma, vanish=vanish):
            raise KeyError(market_id)

    def set_faults(self, faults: Faults | str) -> None:
        """Replace what goes wrong."""
        self.app.source.faults = Faults.parse(faults) if isinstance(faults, str) else faults


@contextmanager
def serve(
    world: World | Exchange,
    *,
    now: datetime,
    host: str = "127.0.0.1",
    port: int = 0,
    faults: Faults | str | None = None,
    seed: int = 0,
) -> Iterator[SandboxServer]:
    """Run the sandbox in a thread of this process; port 0 takes a free one."""
    parsed = Faults.parse(faults) if isinstance(faults, str) else faults
    app = SandboxApp(world, now=now, faults=parsed, seed=seed)
    with in_thread(app, host, port) as bound:
        yield SandboxServer(app, host, bound)


def run(
    world: World | Exchange,
    *,
    host: str = "127.0.0.1",
    port: int = 8765,
    now: datetime | None = None,
    faults: Faults | str | None = None,
    histories: Histories = "whole",
    seed: int = 0,
    announce: Callable[[str], object] = sys.stdout.write,
) -> None:
    """Run the sandbox until it is interrupted; one line is printed, with its address, once it is ready.

    Raises:
        OSError: the port is taken.
        UnknownFault: the text of faults names one that does not exist.
    """
    parsed = Faults.parse(faults) if isinstance(faults, str) else faults
    app = SandboxApp(world, now=now or datetime.now(UTC), faults=parsed, seed=seed)
    app.set_histories(histories)
    with socket.create_server((host, port)) as listener:
        running = SandboxServer(app, host, listener.getsockname()[1])

        def ready() -> None:
            announce(f"sandbox ready: {running.base_url} clob {running.clob_url} at {payloads.instant(app.view.at)}\n")
            sys.stdout.flush()

        with suppress(KeyboardInterrupt):
            QuietServer(app, ready).run(sockets=[listener])


def _json(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(value), status, headers=headers, media_type="application/json")


def _page(name: str, rows: list[bytes], following: str | None) -> Response:
    end = b"]}" if following is None else b'],"next_cursor":"' + following.encode() + b'"}'
    return Response(b'{"' + name.encode() + b'":[' + b",".join(rows) + end, media_type="application/json")


def _with_tags(request: Request) -> bool:
    return request.query_params.get("include_tag", "").lower() in {"true", "1"}


async def _invalid(_: Request, error: Exception) -> Response:
    return _json({"type": "validation error", "error": str(error)}, 422)


async def _invalid_filters(_: Request, error: Exception) -> Response:
    return _json({"error": f"invalid filters: {error}"}, 400)


async def _refused(_: Request, error: Exception) -> Response:
    return _json({"error": str(error)}, 409)


async def _object(request: Request) -> dict[str, Any]:
    try:
        return msgspec.json.decode(await request.body(), type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise Invalid("the body is not a JSON object") from error


def _payout(body: Mapping[str, Any], name: str) -> tuple[float, float] | None:
    """Two numbers of a body; None where it has none."""
    if body.get(name) is None:
        return None
    try:
        first, second = map(float, body[name])
    except (TypeError, ValueError) as error:
        raise Invalid(
            f'{name} is two numbers, such as [0, 1], of a body such as {{"market_id": "1", "payout": [0, 1]}}'
        ) from error
    return first, second


async def _tokens(request: Request) -> list[dict[str, Any]]:
    """The body of a batch request: objects with a token id."""
    try:
        items = msgspec.json.decode(await request.body(), type=list[dict[str, Any]])
    except msgspec.DecodeError as error:
        raise Invalid("Invalid payload") from error
    if len(items) > _MAX_TOKENS:
        raise Invalid("Payload exceeds the limit")
    return [item for item in items if isinstance(item.get("token_id"), str)]


class _HistorySpan(NamedTuple):
    starts: int
    ends: int
    fidelity: int
    """Minutes between points."""
    anchored: bool
    """True where the time was given as an interval up to now."""


def _history_span(params: Mapping[str, Any], names: tuple[str, str], at: int) -> _HistorySpan:
    """Read a request for price histories; `names` are those of the start and the end."""
    interval = params.get("interval")
    try:
        starts, ends = (int(params.get(name) or usual) for name, usual in zip(names, (0, at), strict=True))
        fidelity = int(params.get("fidelity") or 1)
    except (TypeError, ValueError) as error:
        raise InvalidFilters("not a number") from error
    if interval is not None and interval not in _INTERVALS:
        raise InvalidFilters("'interval' is not valid")
    if interval is None and not starts:
        raise InvalidFilters(f"'{names[0]}' or 'interval' is required")
    if fidelity < (least := _LEAST_FIDELITY.get(interval or "", 1)):
        raise InvalidFilters(f"minimum 'fidelity' for '{interval}' range is {least}")
    if interval is None and names[1] in params and ends - starts > _LONGEST_HISTORY:
        raise InvalidFilters(f"'{names[0]}' and '{names[1]}' interval is too long")
    if interval is not None:
        starts, ends = at - _INTERVALS[interval], at
    return _HistorySpan(starts, ends, fidelity, anchored=interval is not None)


_IDENTIFIER = re.compile(r"/(slug/[^/]+|\d+|0x[0-9a-fA-F]+)(?=/|$)")


def _template(path: str) -> str:
    """A path with its identifiers left out, for counting."""
    return _IDENTIFIER.sub(lambda found: "/slug/{}" if found[1].startswith("slug/") else "/{}", path)
