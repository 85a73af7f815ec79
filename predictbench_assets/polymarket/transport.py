"""One request until its answer can be used: rate limit, retries, and which failures may pass.

429, 5xx, resets, time-outs, cut bodies and Cloudflare's HTML pages heal; any other 4xx is an answer.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Self, TypeVar

import httpx
import msgspec
from aiolimiter import AsyncLimiter
from pydantic import SecretStr
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from predictbench_assets import web
from predictbench_assets.clock import Clock
from predictbench_assets.failures import PermanentError, TransientError
from predictbench_assets.polymarket.payloads import DECODE_ERRORS
from predictbench_assets.polymarket.stats import ApiStats

logger = logging.getLogger(__name__)

LIMIT_PERIOD_S = 10.0
"""The API counts requests in a sliding window of this length."""

_LONGEST_WAIT_S = 60.0
_PAUSES = 3  # a response that only trickles in ends after so many times the time-out, though no pause was too long
_ERROR_SHOWN = 200
_BACKOFF = wait_random_exponential(multiplier=0.5, max=20)

T = TypeVar("T")
Params = Mapping[str, str | Sequence[str]]
"""Of a query; a parameter with several values is sent once for each."""


class RequestRefused(PermanentError):
    """The API understood a request and refused it: asking again would be refused again."""

    def __init__(self, path: str, status: int, text: str) -> None:
        super().__init__(
            f"{path} answered {status}: {text or 'no text'}. If the address is right (POLYMARKET_BASE_URL, "
            "POLYMARKET_CLOB_URL), the API has changed."
        )
        self.path = path
        self.status = status


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
        base_url: what paths are appended to.
        clock: to read a Retry-After that is a date, where the server does not tell its own time.
        headers: sent with each request.
        requests_per_second: kept over sliding windows of 10 seconds; a burst may use a window's worth at once.
        concurrency: requests under way at once.
        timeout_s: for connecting, and for each pause of a response.
        max_attempts: of one request, the first included.
        sleep: how to wait between attempts; tests pass one that does not.
    """

    def __init__(
        self,
        base_url: str,
        *,
        clock: Clock,
        headers: Mapping[str, str],
        requests_per_second: float,
        concurrency: int,
        timeout_s: float,
        max_attempts: int,
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._clock = clock
        self._headers = {"User-Agent": "predictbench", "Accept": "application/json", **headers}
        self._budget = requests_per_second * LIMIT_PERIOD_S
        self._concurrency = concurrency
        self._timeout_s = timeout_s
        self._max_attempts = max_attempts
        self._sleep = sleep

    async def __aenter__(self) -> Self:
        self._http = web.async_client(timeout_s=self._timeout_s, connections=self._concurrency, headers=self._headers)
        self._under_way = asyncio.Semaphore(self._concurrency)
        # A window's worth at once, which then refills: at worst two windows' worth in one window, and the default of 10
        # a second stays below the documented 300 in 10 seconds even so.
        self._limit = AsyncLimiter(self._budget, LIMIT_PERIOD_S)
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
    ) -> T:
        """Send a request until `read` makes something of its body.

        Raises:
            RequestRefused: an answer that no repetition will change.
            RequestFailed: the attempts are used up.
        """

        def read_good(response: httpx.Response) -> T:
            if response.status_code != httpx.codes.OK:
                raise RequestRefused(path, response.status_code, error_text(response.content))
            return read(response.content)

        return await self._until_read(method, path, read_good, stats, params=params, json=json)

    async def answer(
        self, method: str, path: str, stats: ApiStats, *, params: Params | None = None, json: object = None
    ) -> httpx.Response:
        """The answer to a request as it came, a refusal included; only what may pass is asked for again.

        Raises:
            RequestFailed: the attempts are used up.
        """
        return await self._until_read(method, path, lambda response: response, stats, params=params, json=json)

    async def _until_read(
        self,
        method: str,
        path: str,
        read: Callable[[httpx.Response], T],
        stats: ApiStats,
        *,
        params: Params | None,
        json: object,
    ) -> T:
        def build() -> httpx.Request:
            return self._http.build_request(method, self._base_url + path, params=params, json=json)

        def note(state: RetryCallState) -> None:
            failure = state.outcome.exception() if state.outcome else None
            if isinstance(failure, PassingFailure) and state.next_action:
                stats.retries[failure.cause] += 1
                stats.backoff_seconds += state.next_action.sleep
                logger.debug("%s: %s, attempt %d", path, failure, state.attempt_number, extra={"cause": failure.cause})

        attempts = AsyncRetrying(
            sleep=self._sleep,
            stop=stop_after_attempt(self._max_attempts),
            wait=_wait,
            retry=retry_if_exception_type(PassingFailure),
            before_sleep=note,
            reraise=True,
        )
        try:
            async for attempt in attempts:
                with attempt:
                    return read(await self._send(build(), stats))
        except PassingFailure as failure:
            raise RequestFailed(path, self._max_attempts, str(failure)) from failure
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _send(self, request: httpx.Request, stats: ApiStats) -> httpx.Response:
        """An answer that would not be another one the next time; `PassingFailure` for what may heal."""
        async with self._under_way:
            waited_from = time.monotonic()
            await self._limit.acquire()
            stats.throttle_seconds += time.monotonic() - waited_from
            stats.requests += 1
            try:
                async with asyncio.timeout(_PAUSES * self._timeout_s):
                    response = await self._http.send(request)
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
        self._refuse_passing(response)
        return response

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
        """Seconds that a Retry-After asks for; a date in it is read by the server's own clock, where it tells it."""
        text = response.headers.get("retry-after", "").strip()
        if text.isascii() and text.isdecimal():
            return float(text)
        until = http_date(text)
        if until is None:
            return None
        return (until - (http_date(response.headers.get("date", "")) or self._clock.now())).total_seconds()


def _wait(state: RetryCallState) -> float:
    """Jittered exponential, and no less than the server asked for (within reason)."""
    failure = state.outcome.exception() if state.outcome else None
    asked = failure.retry_after if isinstance(failure, PassingFailure) else None
    return max(_BACKOFF(state), min(asked or 0.0, _LONGEST_WAIT_S))


def authorization(api_key: SecretStr | None) -> dict[str, str]:
    """The header that carries the key, which is Gamma's alone; none without a key."""
    return {"Authorization": f"Bearer {api_key.get_secret_value()}"} if api_key else {}


def http_date(text: str) -> datetime | None:
    """The instant that a header such as `Date` names, UTC; None where it names none."""
    try:
        return parsedate_to_datetime(text).astimezone(UTC)
    except (ValueError, IndexError, OverflowError):
        return None


def error_text(body: bytes) -> str:
    """The API's own words for an error, short and printable."""
    try:
        answer = msgspec.json.decode(body)
    except DECODE_ERRORS:
        answer = None
    said = answer.get("error") if isinstance(answer, Mapping) else None
    text = said if isinstance(said, str) else body.decode("utf-8", "replace")
    return "".join(character if character.isprintable() else " " for character in text)[:_ERROR_SHOWN].strip()
