"""A forecaster behind an address: each market, or each event, is posted to it as JSON.

The server is a stranger's. It may be away, slow, or wrong in any way, and each costs no more than the market at hand,
or the rest of the run once it fails all the time.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cached_property
from time import monotonic
from typing import Any, Final, Literal, Self, TypeVar

import httpx
from aiolimiter import AsyncLimiter
from pydantic import SecretStr, field_validator, model_validator

from predictbench_assets.clock import Clock
from predictbench_assets.experiments.declared.table import Table
from predictbench_assets.experiments.outside.messages import (
    AnswerRefused,
    event_question,
    market_question,
    read_forecast,
    read_forecasts,
    read_json,
    sent,
    ticker,
)
from predictbench_assets.experiments.protocol import (
    SEES,
    Experiment,
    ExperimentResult,
    ExperimentSkip,
    Information,
    PipelineContext,
    Prerequisite,
    RetriableError,
    RunMetadata,
    Usage,
    information_of,
)
from predictbench_assets.markets.market import Market
from predictbench_assets.printable import shortened
from predictbench_assets.public_addresses import AddressRefused, literal_address, refusal
from predictbench_assets.secrecy import secret_forms
from predictbench_assets.settings import Settings
from predictbench_assets.web import checked_client, retry_after

LONGEST_ANSWER: Final = 1 << 20
"""Bytes of an answer; no more are read."""

FAILURES_IN_A_ROW: Final = 20
"""The number after which the rest of a run is not asked."""

_TIMEOUT_S = 60.0
_SHARE_FOR_THE_ANSWER = 0.95  # of a call's time; the rest is for saying what happened
_BUSY = frozenset({429, 502, 503, 504})
_KEY_REFUSED = frozenset({401, 403, 407})
_LONGEST_URL = 2_000
_SHOWN_ERROR = 120
_READ_OF_ERRORS = 8_192
_MOST_REPEATS = 5
_SHORTEST_PAUSE_S = 0.5
_NOT_OURS = frozenset({"host", "content-length", "content-type", "transfer-encoding", "connection", "accept-encoding"})
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")

T = TypeVar("T")


class HttpTable(Table):
    """The table of `kind = "http"`."""

    url: str
    """The address that markets are posted to: https, or http on a private network."""
    unit: Literal["market", "event"] = "market"
    prices: Literal["hidden", "shown"] = "hidden"
    search: bool = True
    """Whether the forecaster may look at the world; false is its word that it does not."""
    header: str | None = None
    """The name of the header that holds the secret."""
    secret: str | None = None
    """The name of the variable with the secret; never the secret itself."""
    allow_private: bool = False
    """True lets the address be one of this machine or of a private network, and be called without https."""

    @field_validator("url")
    @classmethod
    def _callable(cls, value: str) -> str:
        try:
            url = httpx.URL(value.strip())
        except httpx.InvalidURL:
            url = httpx.URL("")
        if url.scheme not in ("http", "https") or not url.host or len(value) > _LONGEST_URL:
            raise ValueError("expected an address such as https://forecaster.example/forecast")
        if url.userinfo:
            raise ValueError("it holds a user or a password: put the secret into a variable, see header and secret")
        if url.port is not None and not 0 < url.port < 65536:
            raise ValueError("its port is none: expected one from 1 to 65535")
        return str(url.copy_with(fragment=None))

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.header is None) != (self.secret is None):
            raise ValueError('header and secret belong together: header = "Authorization", secret = "MY_TEAM_TOKEN"')
        if self.header is not None and not _is_header(self.header):
            raise ValueError(f"header: {shortened(self.header)} is no name of a header that can be set")
        url = httpx.URL(self.url)
        literal = literal_address(url.host)
        reason = None if literal is None else refusal(url.scheme, literal, allow_private=self.allow_private)
        if literal is None and url.scheme == "http" and not self.allow_private:
            reason = "is called without https"
        if reason is not None:
            hint = "use https" if "https" in reason else "add allow_private = true to this table if that is meant"
            raise ValueError(f"url: {url.host} {reason}: {hint}")
        for name in ("usd_per_day", "tokens_per_day", "calls_per_day"):
            if getattr(self.limits, name) is not None:
                raise ValueError(f"limits.{name} means nothing to a forecaster over HTTP: take it out")
        return self

    def made(self, name: str, settings: Settings) -> Experiment:
        """The experiment, with no more calls at once than have their turn in half of their time."""
        one = super().made(name, settings)
        if (rate := self.limits.requests_per_minute) is not None:
            most = max(1, int(rate / 60 * (one.timeout_seconds or _TIMEOUT_S) / 2))
            one.max_concurrency = min(one.max_concurrency or most, most)
        return one

    def experiment(self, name: str, settings: Settings) -> "HttpExperiment":
        """Make the experiment; a secret that is not set is told when it is run.

        Raises:
            ValueError: the name of the secret is not of a variable that may hold one.
        """
        return HttpExperiment(
            name=name,
            version=self.version,
            description=f"A forecaster at {httpx.URL(self.url).host}, asked over HTTP.",
            information=information_of(prices=self.prices == "shown", search=self.search),
            unit=self.unit,
            timeout_seconds=self.limits.timeout_seconds or _TIMEOUT_S,
            max_concurrency=self.limits.concurrency,
            url=self.url,
            header=self.header,
            variable=self.secret,
            secret=None if self.secret is None else settings.provider_variable(self.secret),
            allow_private=self.allow_private,
            requests_per_minute=self.limits.requests_per_minute,
            shared_by=settings.predictbench_shared_by,
        )


class HttpForecasterFailed(Exception):
    """A forecaster's server gave no forecast, and would give none if it was asked again."""

    def __init__(self, text: str, usage: Usage | None = None) -> None:
        super().__init__(text)
        self.usage = usage


class _StatusRefused(Exception):
    """A status that is no answer.

    Attributes:
        passes: whether asking later may help.
        for_all: whether it is the same for every market.
    """

    def __init__(self, text: str, *, passes: bool = False, for_all: bool = False) -> None:
        super().__init__(text)
        self.passes = passes
        self.for_all = for_all


@dataclass
class _Line:
    """The connection of a run: its client, and whether asking still makes sense."""

    client: httpx.AsyncClient
    limiter: AsyncLimiter | None
    failures: int = 0
    closed: str | None = None
    """The reason why no more is asked."""


@dataclass
class _Count:
    """The requests of one call."""

    requests: int = 0


@dataclass(kw_only=True, eq=False)
class HttpExperiment(Experiment):
    """An experiment that posts what it is asked to a server, see `HttpTable` for its values."""

    name: str
    version: str
    description: str
    url: str
    requires: tuple[str, ...] = ()
    information: Information = "search_blind"
    unit: Literal["market", "event"] = "market"
    timeout_seconds: float = _TIMEOUT_S
    max_concurrency: int | None = None
    header: str | None = None
    variable: str | None = None
    secret: SecretStr | None = None
    allow_private: bool = False
    requests_per_minute: int | None = None
    shared_by: int = 1
    """Processes that keep to that together."""
    _line: _Line | None = field(default=None, init=False, repr=False)

    @property
    def config(self) -> Mapping[str, Any]:
        """The address and the unit: what is asked of whom."""
        return {"url": self.url, "unit": self.unit, "messages": "1"}

    @asynccontextmanager
    async def opened(self, run: RunMetadata) -> AsyncIterator[None]:  # noqa: ARG002 - the protocol's
        """Hold one client for all calls of a run.

        Raises:
            RetriableError: the variable of the secret is not set.
        """
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        headers |= {"User-Agent": "predictbench", "Content-Type": "application/json"}
        if self.header is not None:
            if self.secret is None:
                raise RetriableError(f"{self.name}: the variable {self.variable} with its secret is not set")
            headers[self.header] = self._header_text(self.secret)
        rate = self.requests_per_minute
        async with checked_client(
            timeout_s=self.timeout_seconds,
            connections=self.max_concurrency or 1_000,  # as many as the setting may allow
            headers=headers,
            allow_private=self.allow_private,
        ) as client:
            self._line = _Line(client, None if rate is None else AsyncLimiter(1, 60 * self.shared_by / rate))
            try:
                yield
            finally:
                self._line = None

    def prerequisites(self) -> Iterator[Prerequisite]:
        """The secret, and the server."""
        if self.variable is not None:
            if self.secret is None:
                yield Prerequisite(f"{self.variable} is not set", "fail", f"set {self.variable}")
            else:
                yield Prerequisite(f"{self.variable} is set")
        place = str(httpx.URL(self.url).copy_with(query=None))
        fix = "start that server, or correct url (allow_private, where it is one of a private network)"
        yield Prerequisite(place, fix=fix, address=place, allow_private=self.allow_private)

    async def run(self, market: Market, context: PipelineContext) -> ExperimentResult:
        """Ask about one market.

        Raises:
            ExperimentSkip: the forecaster skips it.
            RetriableError: the server is away, busy or slow, or is not asked any more.
            HttpForecasterFailed: the server's answer is no forecast.
        """
        prices = SEES[self.information].prices
        question = market_question(market, context.run.snapshot_hash, prices=prices)
        answer, usage = await self._asked(
            sent(question, prices=prices), lambda given: read_forecast(given, market), context.clock
        )
        if isinstance(answer, ExperimentSkip):
            answer.usage = usage
            raise answer
        return answer.model_copy(update={"usage": usage})

    async def run_event(
        self, markets: Sequence[Market], contexts: Mapping[str, PipelineContext]
    ) -> Mapping[str, ExperimentResult | Exception]:
        """Ask about all markets of an event at once; one whose forecast is wrong fails alone.

        Raises:
            RetriableError, HttpForecasterFailed: as `run`, for all of them.
        """
        context = contexts[markets[0].market_id]
        prices, snapshot = SEES[self.information].prices, context.run.snapshot_hash
        question = event_question(markets, snapshot, prices=prices)
        given, usage = await self._asked(sent(question, prices=prices), read_forecasts, context.clock)
        seconds = None if usage.seconds is None else usage.seconds / len(markets)
        answers: dict[str, ExperimentResult | Exception] = {}
        for number, market in enumerate(markets):
            share = Usage(requests=0 if number else usage.requests, seconds=seconds)
            key = ticker("market", market.market_id, snapshot, prices=prices)
            try:
                if key not in given:
                    raise AnswerRefused("leaves this market out")
                answer = read_forecast(given[key], market)
            except AnswerRefused as error:
                answers[market.market_id] = HttpForecasterFailed(self._said(f"its answer {error}"), share)
                continue
            if isinstance(answer, ExperimentSkip):
                answer.usage = share
                answers[market.market_id] = answer
            else:
                answers[market.market_id] = answer.model_copy(update={"usage": share})
        return answers

    async def _asked(self, body: bytes, read: Callable[[object], T], clock: Clock) -> tuple[T, Usage]:
        """What `read` makes of the answer to a message, and what it took."""
        line = self._line
        if line is None:
            raise RuntimeError("an HTTP experiment is asked within `opened`")
        if line.closed is not None:
            raise RetriableError(line.closed)
        limit_s = self.timeout_seconds * _SHARE_FOR_THE_ANSWER
        begun, passes, for_all = monotonic(), True, False
        count = _Count()
        try:
            async with asyncio.timeout(limit_s) as limit:
                answer = await self._answered(line, body, limit.when() or 0.0, clock, count)
            found = read(read_json(answer, self._clean))
        except (TimeoutError, httpx.TimeoutException):
            problem = f"gave no whole answer within {limit_s:g} s"
        except AddressRefused as error:
            problem, for_all = f"is not called: {error}", True
        except httpx.ConnectError as error:
            problem = f"cannot be reached: {shortened(self._clean(str(error)), _SHOWN_ERROR)}"
        except httpx.HTTPError as error:
            problem = f"broke off before its answer was whole ({type(error).__name__})"
        except _StatusRefused as error:
            problem, passes, for_all = str(error), error.passes, error.for_all
        except AnswerRefused as error:
            problem, passes = f"its answer {error}", False
        else:
            line.failures = 0
            return found, Usage(requests=count.requests, seconds=monotonic() - begun)
        said = self._said(problem)
        line.failures += 1
        if line.closed is None and (for_all or line.failures >= FAILURES_IN_A_ROW):
            why = "" if for_all else f"{line.failures} calls in a row failed, the last one: "
            line.closed = f"not asked: {why}{said}"
        usage = Usage(requests=count.requests, seconds=monotonic() - begun)
        if passes:
            raise RetriableError(said, usage=usage)
        raise HttpForecasterFailed(said, usage)

    async def _answered(self, line: _Line, body: bytes, until: float, clock: Clock, count: _Count) -> bytes:
        """The body of the answer to a message, asked again where a busy server says when."""
        while True:
            if line.limiter is not None:
                await line.limiter.acquire()
            count.requests += 1
            async with line.client.stream("POST", self.url, content=body) as response:
                if response.status_code == httpx.codes.OK:
                    return await _read(response)
                pause = retry_after(response, clock.now) if response.status_code in _BUSY else None
                left = until - asyncio.get_running_loop().time()
                if pause is None or pause >= left or count.requests > _MOST_REPEATS:
                    raise await self._refused(response, pause)
            await asyncio.sleep(max(pause, _SHORTEST_PAUSE_S))

    async def _refused(self, response: httpx.Response, pause: float | None) -> _StatusRefused:
        """The failure for a status other than 200."""
        status = response.status_code
        if status in _BUSY:
            wait = "" if pause is None else f", to be asked again in {max(0, pause):g} s"
            return _StatusRefused(f"is busy: it answered {status}{wait}", passes=True)
        if status in _KEY_REFUSED:
            secret = f"the secret of {self.variable}" if self.variable else "a call without a secret"
            return _StatusRefused(f"refuses {secret}: it answered {status}", passes=True, for_all=True)
        if response.is_redirect or response.has_redirect_location:
            to = shortened(self._clean(response.headers.get("location", "")).partition("?")[0], _SHOWN_ERROR)
            return _StatusRefused(
                f"answered {status}, a redirect to {to}, and none is followed: name the address itself"
            )
        text = self._clean(await _beginning(response)).strip()
        return _StatusRefused(f"answered {status}" + (f": {shortened(text, _SHOWN_ERROR)}" if text else ""))

    def _said(self, problem: str) -> str:
        """A sentence about the server, with neither a secret nor the address's query in it."""
        place = str(httpx.URL(self.url).copy_with(query=None))
        return self._clean(f"{self.name} at {place}: {problem}")

    def _header_text(self, secret: SecretStr) -> str:
        text = secret.get_secret_value()
        return f"Bearer {text}" if (self.header or "").lower() == "authorization" else text

    def _clean(self, text: str) -> str:
        """The text without the secret."""
        for form in self._secret_forms:
            text = text.replace(form, "***")
        return text

    @cached_property
    def _secret_forms(self) -> tuple[str, ...]:
        forms = set() if self.secret is None else secret_forms(self.secret.get_secret_value())
        return tuple(sorted(forms, key=len, reverse=True))


async def _read(response: httpx.Response) -> bytes:
    """The whole body of an answer, no more of it than the limit."""
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise AnswerRefused(f"is compressed ({shortened(encoding, 30)}), which was not asked for")
    received = bytearray()
    async for part in response.aiter_raw():
        received += part
        if len(received) > LONGEST_ANSWER:
            raise AnswerRefused(f"has more than {LONGEST_ANSWER:,} bytes")
    return bytes(received)


async def _beginning(response: httpx.Response) -> str:
    """The first characters of an error's body; none of one that does not come at once, which may be cut in a secret."""
    received = bytearray()
    try:
        async with asyncio.timeout(1):
            async for part in response.aiter_raw():
                received += part
                if len(received) >= _READ_OF_ERRORS:
                    break
    except (TimeoutError, httpx.HTTPError):
        return ""
    return received.decode(errors="replace")


def _is_header(name: str) -> bool:
    return bool(_HEADER.fullmatch(name)) and name.lower() not in _NOT_OURS
