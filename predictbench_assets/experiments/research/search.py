"""Search services behind one protocol: what is asked for, what is found, and the adapters of Exa and Tavily.

A service is asked once a query, over the desk of paid calls: `content` is what the ledger keeps and knows the request
by, `send` sends it, and `sources` reads an answer, also one that was paid for in an earlier run. Another way to search,
such as a model provider's own tool, is one more class with these methods.
"""

import asyncio
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from email.utils import parsedate_to_datetime
from typing import Any, ClassVar, Final, Protocol

import httpx
import msgspec
from pydantic import SecretStr

from predictbench_assets.clock import Clock
from predictbench_assets.experiments.model_calls.desk import CallFailed
from predictbench_assets.experiments.model_calls.records import Reply
from predictbench_assets.experiments.protocol import Prerequisite
from predictbench_assets.printable import on_one_line
from predictbench_assets.web import async_client, retry_after

LONGEST_TEXT: Final = 200_000
"""Characters of a source's text that are kept."""

LONGEST_ANSWER: Final = 16_000_000
"""Bytes of an answer that are read; a longer one is paid for, and of no use."""

_LONGEST_TITLE: Final = 500
_SHOWN: Final = 200


@dataclass(frozen=True)
class Search:
    """A search as it is asked for."""

    query: str
    not_after: datetime
    """Nothing that was published later is wanted."""
    exclude: tuple[str, ...]
    """Hosts that are not wanted, with all below them."""
    limit: int
    """Most sources."""


@dataclass(frozen=True)
class Source:
    """A page that was found."""

    url: str
    title: str
    published_at: datetime | None
    """As the service says, UTC; None where it does not know."""
    fetched_at: datetime
    """Instant of the service's answer, UTC."""
    text: str
    """At most `LONGEST_TEXT` characters of it."""
    sha256: str
    """Of the whole text, in UTF-8."""


class SearchClient(Protocol):
    """A service that finds sources."""

    @property
    def name(self) -> str:
        """Its name as a provider, whose limits all experiments share."""

    def prerequisites(self) -> Iterable[Prerequisite]:
        """Its key, and its server where that is not the service's own."""

    def opened(self, connections: int) -> AbstractAsyncContextManager[None]:
        """Keep open what all searches of a run share."""

    def content(self, search: Search) -> Mapping[str, Any]:
        """All that is sent and decides what is found, in JSON's own types, without the key."""

    async def send(self, content: Mapping[str, Any], clock: Clock, deadline_s: float) -> Reply:
        """Send it once.

        Raises:
            CallFailed: there is no answer.
        """

    def sources(self, answer: Any, fetched_at: datetime) -> Sequence[Source]:
        """The sources in an answer, in its order; what is none is passed over."""


class HttpSearch(ABC):
    """A service that takes one POST with JSON; `opened` keeps one client for all of a run.

    Args:
        key: of the service, by the name of its variable; in no error text and in no ledger.
        base_url: address of a server that is not the service's own, which may want no key.
        usd_per_search: the price of one, where the service does not tell it with its answer.
    """

    name: ClassVar[str]
    default_url: ClassVar[str]
    path: ClassVar[str] = "/search"

    def __init__(
        self, key: tuple[str, SecretStr | None], base_url: str | None = None, usd_per_search: Decimal | None = None
    ) -> None:
        self._variable, self._key = key
        self._base_url = base_url
        self._url = (base_url or self.default_url).rstrip("/") + self.path
        self._usd = usd_per_search
        self._client: httpx.AsyncClient | None = None

    def prerequisites(self) -> Iterator[Prerequisite]:
        """The key, and a server that is not the service's own."""
        if self._keyless:
            found = f"{self._variable} is not set, and {self.name} cannot be asked without a key"
            yield Prerequisite(found, "fail", f"set {self._variable}")
        else:
            yield Prerequisite(f"{self._variable} is {'not set' if self._key is None else 'set'}")
        if self._base_url is not None:
            fix = f"start that server, or correct base_url or {self.name.upper()}_BASE_URL"
            yield Prerequisite(self._base_url, fix=fix, address=self._base_url)

    @property
    def _keyless(self) -> bool:
        """True where the service's own server would be asked without a key."""
        return self._key is None and self._base_url is None

    @asynccontextmanager
    async def opened(self, connections: int) -> AsyncIterator[None]:
        """Hold one client with so many connections meanwhile.

        Raises:
            LookupError: the key is not set, and the service's own server wants one.
        """
        if self._keyless:
            raise LookupError(f"{self._variable} is not set: {self.name} cannot be asked without a key")
        headers = {} if self._key is None else self.headers(self._key.get_secret_value())
        async with async_client(timeout_s=60.0, connections=connections, headers=headers) as client:
            self._client = client
            try:
                yield
            finally:
                self._client = None

    @abstractmethod
    def headers(self, key: str) -> Mapping[str, str]:
        """The headers that bear the key."""

    @abstractmethod
    def content(self, search: Search) -> Mapping[str, Any]:
        """The body of the request."""

    @abstractmethod
    def row(self, row: Mapping[str, Any]) -> tuple[object, object, object]:
        """Address, published date and text in one of an answer's rows."""

    @abstractmethod
    def cost(self, answer: Mapping[str, Any]) -> Decimal | None:
        """Dollars that the answer says it costs; None where it says nothing."""

    async def send(self, content: Mapping[str, Any], clock: Clock, deadline_s: float) -> Reply:
        """Send a search once; no redirect is followed, and no more is read than `LONGEST_ANSWER`.

        Raises:
            CallFailed: there is no answer.
        """
        assert self._client is not None, "not opened"
        try:
            async with (
                asyncio.timeout(deadline_s),
                self._client.stream("POST", self._url, json=content, timeout=deadline_s) as answer,
            ):
                body = bytearray()
                async for part in answer.aiter_bytes():
                    body += part
                    if len(body) > LONGEST_ANSWER:
                        break
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol) as error:
            raise CallFailed("unreachable", f"{self.name} cannot be reached: {_said(error)}") from None
        except (TimeoutError, httpx.HTTPError, httpx.InvalidURL) as error:
            raise CallFailed("unknown", f"{self.name} gave no whole answer: {_said(error)}") from None
        if answer.status_code != httpx.codes.OK:
            raise _refusal(self.name, answer, bytes(body), clock)
        return self._reply(bytes(body), clock.now())

    def sources(self, answer: Any, fetched_at: datetime) -> Sequence[Source]:
        """The sources in an answer; a row without an address or a text is none."""
        return list(self._sources(answer, fetched_at))

    def _sources(self, answer: Any, fetched_at: datetime) -> Iterator[Source]:
        rows = answer.get("results") if isinstance(answer, Mapping) else None
        for row in rows if isinstance(rows, list) else ():
            if isinstance(row, Mapping):
                url, published, text = self.row(row)
                title = row.get("title")
                if isinstance(url, str) and isinstance(text, str) and url.strip() and text.strip():
                    yield Source(
                        url=url.strip(),
                        title=" ".join(title.split())[:_LONGEST_TITLE] if isinstance(title, str) else "",
                        published_at=instant(published),
                        fetched_at=fetched_at,
                        text=text[:LONGEST_TEXT],
                        sha256=hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(),
                    )

    def _reply(self, body: bytes, at: datetime) -> Reply:
        problem = None
        answer: Any = None
        if len(body) > LONGEST_ANSWER:
            problem = f"the answer is longer than {LONGEST_ANSWER:,} bytes"
        else:
            try:
                answer = _decoded(body)
            except (ValueError, RecursionError):
                problem = "the answer is no JSON"
            if problem is None and not (isinstance(answer, dict) and isinstance(answer.get("results"), list)):
                problem = "the answer has no list of results"
        cost = self.cost(answer) if isinstance(answer, dict) else None
        identity = next((answer[one] for one in _IDENTITIES if answer.get(one)), None) if problem is None else None
        return Reply(
            status="invalid" if problem else "answered",
            text="",
            reason=problem,
            response_id=identity if isinstance(identity, str) else None,
            cost=self._usd if cost is None else cost,
            answered_at=at,
            response=None if problem else answer,
        )


def _decoded(body: bytes) -> Any:
    """JSON without what the ledger could not keep: numbers that are none become null, half a surrogate a mark.

    Raises:
        ValueError, RecursionError: it is none.
    """
    given = json.loads(body, parse_constant=lambda _: None)
    return msgspec.json.decode(json.dumps(given, ensure_ascii=False).encode("utf-8", "replace"))


_IDENTITIES: Final = ("requestId", "request_id")


class Exa(HttpSearch):
    """Exa, with the text of each page."""

    name = "exa"
    default_url = "https://api.exa.ai"

    def headers(self, key: str) -> Mapping[str, str]:
        """The key as Exa takes it."""
        return {"x-api-key": key}

    def content(self, search: Search) -> Mapping[str, Any]:
        """Exa's body of a search."""
        return {
            "query": search.query,
            "numResults": search.limit,
            "endPublishedDate": search.not_after.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z"),
            "excludeDomains": list(search.exclude),
            "contents": {"text": True},
        }

    def row(self, row: Mapping[str, Any]) -> tuple[object, object, object]:
        """Address, published date and text."""
        return row.get("url"), row.get("publishedDate"), row.get("text")

    def cost(self, answer: Mapping[str, Any]) -> Decimal | None:
        """The dollars that Exa names."""
        told = answer.get("costDollars")
        return _amount(told.get("total")) if isinstance(told, Mapping) else None


class Tavily(HttpSearch):
    """Tavily, with the text of each page, or else its own extract of it."""

    name = "tavily"
    default_url = "https://api.tavily.com"

    def headers(self, key: str) -> Mapping[str, str]:
        """The key as Tavily takes it."""
        return {"Authorization": f"Bearer {key}"}

    def content(self, search: Search) -> Mapping[str, Any]:
        """Tavily's body of a search; its last day is a whole one, so what is later is sifted out afterwards."""
        return {
            "query": search.query,
            "max_results": search.limit,
            "end_date": search.not_after.astimezone(UTC).date().isoformat(),
            "exclude_domains": list(search.exclude),
            "include_raw_content": True,
            "include_usage": True,
        }

    def row(self, row: Mapping[str, Any]) -> tuple[object, object, object]:
        """Address, published date and text."""
        return row.get("url"), row.get("published_date"), row.get("raw_content") or row.get("content")

    def cost(self, answer: Mapping[str, Any]) -> Decimal | None:
        """Credits at the price of one search, which takes one."""
        used = answer.get("usage")
        credits_used = _amount(used.get("credits")) if isinstance(used, Mapping) else None
        return None if credits_used is None or self._usd is None else credits_used * self._usd


def instant(text: object) -> datetime | None:
    """The instant of a date as services write it (ISO 8601, or as in e-mail), UTC; None for anything else."""
    if not isinstance(text, str) or len(text) > _SHOWN:
        return None
    for read in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            found = read(text.strip())
            return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
        except (ValueError, TypeError, OverflowError, IndexError):
            continue
    return None


def _amount(value: object) -> Decimal | None:
    try:
        amount = Decimal(str(value)) if isinstance(value, int | float | str) and not isinstance(value, bool) else None
    except InvalidOperation:
        return None
    return amount if amount is not None and amount.is_finite() and 0 <= amount < 1_000_000 else None


def _refusal(name: str, answer: httpx.Response, body: bytes, clock: Clock) -> CallFailed:
    """The trouble that an answer stands for, by its status."""
    status = answer.status_code
    reason = f"{name} answered {status}: {_shown(body.decode('utf-8', 'replace'))}"
    if answer.is_redirect:
        return CallFailed("rejected", f"{name} redirects elsewhere, which is not followed: correct its ..._BASE_URL")
    if status in (401, 402, 403, 432, 433):  # the last two are Tavily's, for a plan that is used up
        return CallFailed("access", reason)
    if status == httpx.codes.TOO_MANY_REQUESTS:
        return CallFailed("limited", reason, retry_after_s=retry_after(answer, clock.now))
    if status in (503, 529):
        return CallFailed("overloaded", reason, retry_after_s=retry_after(answer, clock.now))
    return CallFailed("server" if status >= httpx.codes.INTERNAL_SERVER_ERROR else "rejected", reason)


def _said(error: Exception) -> str:
    return _shown(f"{type(error).__name__} {error}".strip())


def _shown(text: str) -> str:
    return on_one_line(text)[:_SHOWN]
