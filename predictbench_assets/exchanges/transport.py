"""One request until its answer can be used: rate limit, retries, bounds, and which failures may pass.

429, 5xx, resets, time-outs, cut bodies and Cloudflare's HTML pages heal; any other 4xx is an answer. No answer is held
that is larger than a limit, neither as it was sent nor decompressed: a few kilobytes can hold gigabytes.
"""

import asyncio
import functools
import io
import logging
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Self, TypeVar

import httpx
import msgspec
import zstandard
from aiolimiter import AsyncLimiter
from pydantic import SecretStr
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from predictbench_assets import web
from predictbench_assets.clock import Clock
from predictbench_assets.exchanges.json_text import DECODE_ERRORS
from predictbench_assets.exchanges.stats import ApiStats
from predictbench_assets.failures import PermanentError, TransientError
from predictbench_assets.printable import shortened

logger = logging.getLogger(__name__)

LIMIT_PERIOD_S = 10.0
"""The API counts requests in a sliding window of this length."""

ANSWER_LIMIT = 32_000_000
"""Bytes of one answer that are held at most; a hundred markets of the longest descriptions are a tenth of it."""

_LARGEST_WINDOW = 1 << 23  # what RFC 9659 allows a sender of zstd over HTTP
_PIECE = 1 << 18
_SPACE_LEFT = {"content-encoding", "content-length", "transfer-encoding"}
_LONGEST_WAIT_S = 60.0
_PAUSES = 3  # a response that only trickles in ends after so many times the time-out, though no pause was too long
_ERROR_SHOWN = 200
_BACKOFF = wait_random_exponential(multiplier=0.5, max=20)

T = TypeVar("T")
Params = Mapping[str, str | Sequence[str]]
"""A query; a parameter with several values is sent once for each."""


class RequestRefused(PermanentError):
    """The API understood a request and refused it: asking again would be refused again."""

    def __init__(
        self,
        path: str,
        status: int,
        text: str,
        advice: str = "If the address is right (POLYMARKET_BASE_URL, POLYMARKET_CLOB_URL), the API has changed.",
    ) -> None:
        self.answer = f"{path} answered {status}: {text or 'no text'}"
        super().__init__(f"{self.answer}. {advice}")
        self.path = path
        self.status = status


class RegionBlocked(RequestRefused):
    """The exchange does not serve the region that the request came from: no other request will fare better."""

    def __init__(self, path: str) -> None:
        super().__init__(
            path,
            int(httpx.codes.UNAVAILABLE_FOR_LEGAL_REASONS),
            "the exchange does not serve the region of this machine's address",
            "Run where it does; no repetition will help.",
        )


class AnswerTooLarge(RequestRefused):
    """An answer is larger than what is held of one, as it was sent or decompressed: it is as good as none."""

    def __init__(self, path: str, status: int, limit: int) -> None:
        super().__init__(
            path,
            status,
            f"more than POLYMARKET_MAX_ANSWER_MB ({limit / 1e6:g} MB)",
            "If the address is right (POLYMARKET_BASE_URL, POLYMARKET_CLOB_URL) and so much is what it should answer, "
            "raise the limit.",
        )


class UnexpectedAnswer(PermanentError):
    """The API answered in another shape than the one this code reads: it has changed, or it is another API."""


class RequestFailed(TransientError):
    """A request failed in ways that pass, and did so in every attempt."""

    def __init__(self, path: str, attempts: int, cause: str) -> None:
        super().__init__(f"{path} failed {attempts} times, at last with: {cause}")
        self.path = path
        self.cause = cause


class PassingFailure(Exception):
    """A failure of one attempt that may pass; raised by the reader of an answer too, to have it asked for again."""

    def __init__(self, cause: str, detail: str, retry_after: float | None = None) -> None:
        super().__init__(detail)
        self.cause = cause
        self.retry_after = retry_after


class Transport:
    """An HTTP client for one host, under a rate limit and a bound on requests under way.

    Args:
        base_url: address that paths are appended to.
        clock: reads a Retry-After that is a date, where the server does not send its own time.
        headers: sent with each request.
        limits: requests a second for each path that begins so, kept over sliding windows of 10 seconds; a burst may use
            a window's worth at once. The longest beginning counts; what none fits is not limited.
        concurrency: requests under way at once.
        timeout_s: for connecting, and for each pause of a response.
        max_attempts: attempts of one request, the first included.
        answer_limit: bytes that are held of one answer, as it was sent and decompressed.
        sleep: waits between attempts; tests pass one that does not.
    """

    def __init__(
        self,
        base_url: str,
        *,
        clock: Clock,
        headers: Mapping[str, str],
        limits: Mapping[str, float],
        concurrency: int,
        timeout_s: float,
        max_attempts: int,
        answer_limit: int = ANSWER_LIMIT,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._clock = clock
        self._headers = {
            "User-Agent": "predictbench",
            "Accept": "application/json",
            "Accept-Encoding": "gzip, zstd",
            **headers,
        }
        self._limits = limits
        self._concurrency = concurrency
        self._timeout_s = timeout_s
        self._max_attempts = max_attempts
        self._answer_limit = answer_limit
        self._sleep = sleep

    async def __aenter__(self) -> Self:
        self._http = web.async_client(timeout_s=self._timeout_s, connections=self._concurrency, headers=self._headers)
        self._under_way = asyncio.Semaphore(self._concurrency)
        # A window's worth at once, which then refills: at worst two windows' worth in one window, so that half of a
        # documented limit keeps it even so.
        self._limiters = {
            path: AsyncLimiter(rate * LIMIT_PERIOD_S, LIMIT_PERIOD_S)
            for path, rate in sorted(self._limits.items(), key=lambda limit: -len(limit[0]))
        }
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def ask(
        self,
        method: str,
        path: str,
        read: Callable[[bytes], T],
        stats: ApiStats,
        *,
        params: Params | None = None,
        json: object = None,
        max_attempts: int | None = None,
    ) -> T:
        """Send a request until `read` makes something of its body.

        Args:
            method, path, params, json: of the request.
            read: raises `PassingFailure` for a body that should be asked for again.
            stats: counts the request.
            max_attempts: instead of the transport's, where that is more.

        Raises:
            RequestRefused: an answer that no repetition will change.
            RequestFailed: the attempts are used up.
            AnswerTooLarge: more than is held of one answer.
            UnexpectedAnswer: the cursor of the answer before does not fit into a request.
        """

        def read_good(response: httpx.Response) -> T:
            if response.status_code != httpx.codes.OK:
                raise refusal(path, response)
            return read(response.content)

        attempts = min(max_attempts or self._max_attempts, self._max_attempts)
        return await self._until_read(method, path, read_good, stats, params=params, json=json, max_attempts=attempts)

    async def answer(
        self, method: str, path: str, stats: ApiStats, *, params: Params | None = None, json: object = None
    ) -> httpx.Response:
        """The answer to a request as it came, a refusal included; only what may pass is asked for again.

        Raises:
            RegionBlocked: the exchange does not serve this region.
            RequestFailed: the attempts are used up.
            AnswerTooLarge: more than is held of one answer.
        """
        return await self._until_read(
            method, path, lambda response: response, stats, params=params, json=json, max_attempts=self._max_attempts
        )

    async def _until_read(
        self,
        method: str,
        path: str,
        read: Callable[[httpx.Response], T],
        stats: ApiStats,
        *,
        params: Params | None,
        json: object,
        max_attempts: int,
    ) -> T:
        def build() -> httpx.Request:
            try:
                return self._http.build_request(method, _parsed(self._base_url + path), params=params, json=json)
            except httpx.InvalidURL as error:  # such as a cursor without end
                raise UnexpectedAnswer(
                    f"{path} cannot be asked for with what was answered before ({error}): the API has changed"
                ) from error

        def note(state: RetryCallState) -> None:
            failure = state.outcome.exception() if state.outcome else None
            if isinstance(failure, PassingFailure) and state.next_action:
                stats.retries[failure.cause] += 1
                stats.backoff_seconds += state.next_action.sleep
                logger.debug("%s: %s, attempt %d", path, failure, state.attempt_number, extra={"cause": failure.cause})

        attempts = AsyncRetrying(
            sleep=self._sleep,
            stop=stop_after_attempt(max_attempts),
            wait=_wait,
            retry=retry_if_exception_type(PassingFailure),
            before_sleep=note,
            reraise=True,
        )
        try:
            async for attempt in attempts:
                with attempt:
                    return read(await self._send(build(), path, stats))
        except PassingFailure as failure:
            raise RequestFailed(path, max_attempts, str(failure)) from failure
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _send(self, request: httpx.Request, path: str, stats: ApiStats) -> httpx.Response:
        """An answer that would not be another one the next time; `PassingFailure` for what may heal."""
        async with self._under_way:
            limiter = next((one for start, one in self._limiters.items() if path.startswith(start)), None)
            if limiter is not None:
                waited_from = time.monotonic()
                await limiter.acquire()
                stats.throttle_seconds += time.monotonic() - waited_from
            stats.requests += 1
            try:
                async with asyncio.timeout(_PAUSES * self._timeout_s):
                    response = await self._received(await self._http.send(request, stream=True), path)
            except httpx.UnsupportedProtocol as error:
                raise PermanentError(
                    "an address begins with http:// or https://: set POLYMARKET_BASE_URL, POLYMARKET_CLOB_URL"
                ) from error
            except (httpx.TimeoutException, TimeoutError) as error:
                raise PassingFailure("timeout", f"no whole answer, waited {self._timeout_s:g} s") from error
            except (httpx.TransportError, httpx.DecodingError) as error:
                cut = isinstance(error, httpx.DecodingError) or "complete message body" in str(error)
                through = "" if cut else web.proxy_hint(str(request.url))
                raise PassingFailure(
                    "truncated" if cut else "connection", f"{type(error).__name__}: {error}{through}"
                ) from error
        stats.bytes += len(response.content)
        if response.status_code == httpx.codes.UNAVAILABLE_FOR_LEGAL_REASONS:
            raise RegionBlocked(path)
        self._refuse_passing(response)
        return response

    async def _received(self, response: httpx.Response, path: str) -> httpx.Response:
        """Read and decompress the body of an answer, as far as both keep to the limit."""
        sent = bytearray()
        try:
            async for piece in response.aiter_raw():
                sent += piece
                if len(sent) > self._answer_limit:
                    raise AnswerTooLarge(path, response.status_code, self._answer_limit)
        finally:
            await response.aclose()
        body = decompressed(bytes(sent), response.headers.get("content-encoding", ""), self._answer_limit)
        if len(body) > self._answer_limit:
            raise AnswerTooLarge(path, response.status_code, self._answer_limit)
        headers = [(name, value) for name, value in response.headers.multi_items() if name not in _SPACE_LEFT]
        return httpx.Response(response.status_code, headers=headers, content=body, request=response.request)

    def _refuse_passing(self, response: httpx.Response) -> None:
        status = response.status_code
        if "html" in response.headers.get("content-type", ""):
            # Cloudflare's pages, with 200, 403 or 503; the API itself never sends any.
            raise PassingFailure("html", f"an HTML page with status {status}", self._retry_after(response))
        if status == httpx.codes.TOO_MANY_REQUESTS:
            raise PassingFailure("http_429", "status 429", self._retry_after(response))
        if status >= httpx.codes.INTERNAL_SERVER_ERROR:
            raise PassingFailure(
                "http_5xx", f"status {status}: {error_text(response.content)}", self._retry_after(response)
            )

    def _retry_after(self, response: httpx.Response) -> float | None:
        return web.retry_after(response, self._clock.now)


_parsed = functools.lru_cache(maxsize=100)(httpx.URL)
"""Parses an address; most requests go to one of a few."""


def decompressed(sent: bytes, encoding: str, limit: int) -> bytes:
    """A body without its content encoding; of one that is larger than `limit`, one byte more than that and no further.

    Raises:
        httpx.DecodingError: the body is cut or damaged, or has an encoding that was not asked for.
    """
    try:
        match encoding.strip().lower():
            case "" | "identity":
                return sent
            case "gzip" | "x-gzip" | "deflate":
                inflate = zlib.decompressobj(zlib.MAX_WBITS | 32)  # the wrapping is seen from the first bytes
                body = inflate.decompress(sent, limit + 1)
                if len(body) <= limit and not inflate.eof:
                    raise httpx.DecodingError("the compressed body is cut")
                return body
            case "zstd":
                return _unpacked(sent, limit)
            case other:
                raise httpx.DecodingError(f"an encoding that was not asked for: {shortened(other)}")
    except (zlib.error, zstandard.ZstdError) as error:
        raise httpx.DecodingError(str(error)) from error


def _unpacked(sent: bytes, limit: int) -> bytes:
    unpacker = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW)
    body = bytearray()
    with unpacker.stream_reader(io.BytesIO(sent), read_across_frames=True) as reader:
        # In pieces: the reader sets aside as much as it is asked for.
        while piece := reader.read(min(_PIECE, limit + 1 - len(body))):
            body += piece
    return bytes(body)


def refusal(path: str, response: httpx.Response) -> RequestRefused:
    """The error for an answer that no repetition will change."""
    return RequestRefused(path, response.status_code, error_text(response.content))


def _wait(state: RetryCallState) -> float:
    """Jittered exponential, and no less than the server asked for (within reason)."""
    failure = state.outcome.exception() if state.outcome else None
    requested = failure.retry_after if isinstance(failure, PassingFailure) else None
    return max(_BACKOFF(state), min(requested or 0.0, _LONGEST_WAIT_S))


def authorization(api_key: SecretStr | None) -> dict[str, str]:
    """The header that carries the key, which is Gamma's alone; none without a key."""
    return {"Authorization": f"Bearer {api_key.get_secret_value()}"} if api_key else {}


def error_text(body: bytes) -> str:
    """The API's own words for an error, short and printable."""
    try:
        answer = msgspec.json.decode(body)
    except DECODE_ERRORS:
        answer = None
    message = answer.get("error") if isinstance(answer, Mapping) else None
    text = message if isinstance(message, str) else body.decode("utf-8", "replace")
    return "".join(character if character.isprintable() else " " for character in text)[:_ERROR_SHOWN].strip()
