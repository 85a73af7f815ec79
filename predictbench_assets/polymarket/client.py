"""Reading Polymarket over HTTP: every market that ends in a window, and the quotes of their first outcomes.

The listing is read by keyset: pages of at most 100 rows, each naming a cursor for the next, until one does not. A day
is cut by end time into slices that are walked side by side, since one chain of cursors can only be walked page by page.
What the API gets wrong in practice (errors that heal, rows that move between pages, parameters ignored silently) is
dealt with here; what a row means is not.
"""

import asyncio
import hashlib
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote as escaped

import msgspec
from pydantic import SecretStr

from predictbench_assets.clock import Clock
from predictbench_assets.failures import PermanentError, PredictbenchError, TransientError
from predictbench_assets.polymarket.payloads import (
    DECODE_ERRORS,
    UnreadableJson,
    json_members,
    parse_instant,
    read_head,
    shortened,
)
from predictbench_assets.polymarket.price_history import (
    PastPrice,
    PastPrices,
    UnreadableHistory,
    history_request,
    read_histories,
)
from predictbench_assets.polymarket.quotes import Quote, Quotes, UnreadablePrices, prices_request, read_prices
from predictbench_assets.polymarket.stats import ApiStats
from predictbench_assets.polymarket.transport import (
    LIMIT_PERIOD_S,
    PassingFailure,
    RequestFailed,
    RequestRefused,
    Transport,
    UnexpectedAnswer,
    authorization,
    error_text,
)

logger = logging.getLogger(__name__)

LISTING = "/markets/keyset"
"""Gamma's route."""

PRICES = "/prices"
"""The CLOB's route."""

PRICE_HISTORY = "/batch-prices-history"
"""The CLOB's route."""

HISTORIES_PER_REQUEST = 20
"""Tokens in one `POST /batch-prices-history`; more are refused."""

LARGEST_PAGE = 100
"""The API clamps larger pages to this silently."""

CONDITIONS_PER_REQUEST = 40
"""With 50 and more, the query is so long that Cloudflare answers in Gamma's place."""

QUOTES_PER_REQUEST = 250
"""Tokens in one `POST /prices`; each takes two entries of the 500 that a request may hold."""

_SECOND = timedelta(seconds=1)
"""The precision of end dates."""
_INNER_MARGIN = timedelta(seconds=1)
# Markets end at full minutes. Cuts at odd seconds keep the thousands that end at one instant in one slice.
_CUT_OFFSET = timedelta(seconds=37)
_PAGES_WITHOUT_NEWS = 3
_OK, _NO_SUCH_THING = 200, (404, 422)
_FAILED_HISTORIES = 3
_MOST_PAGES = 5_000

T = TypeVar("T")


class WalkIncomplete(PredictbenchError):
    """A slice of the window was not read to its end, so what was read must not pass for the whole."""

    def __init__(self, start: datetime, end: datetime, page: int, reason: str) -> None:
        super().__init__(
            f"the markets ending from {start.isoformat()} to {end.isoformat()} were not all read: page {page}: {reason}"
        )
        self.slice = (start, end)
        self.page = page
        self.reason = reason


class WalkInterrupted(WalkIncomplete, TransientError):
    """The API was unwell for longer than the retries last. Running again later may do."""


class WalkStuck(WalkIncomplete, PermanentError):
    """The listing does not advance: the API ignores its own cursor, or has changed."""


@dataclass(frozen=True, slots=True)
class RawRow:
    """A market as it was received."""

    market_id: str | None
    end_date: str | None
    raw: bytes
    """The row's JSON on one line; line feeds between its tokens became spaces, nothing else was touched."""


@dataclass(frozen=True)
class Recheck:
    """One slice read a second time: how much the listing disagrees with itself."""

    slice_start: datetime
    slice_end: datetime
    first: int
    """Ids in the first walk of the slice."""
    second: int
    differing: int
    """Ids in one of the two walks and not in the other."""
    share: float
    """`differing` over all ids seen in either."""


@dataclass(frozen=True)
class Walk:
    """Every market that ends in a window, as the API listed them."""

    rows: list[RawRow]
    """One per id, by number. Rows without a readable end date are among them: it is not here that they are judged."""
    sha256: str
    """Of the hashes of the bodies received, in the order of slices and pages: the identity of what the API said."""
    stats: ApiStats
    recheck: Recheck | None
    """None where no slice had rows, or it was not asked for."""


@dataclass(frozen=True)
class _Page:
    rows: list[RawRow]
    next_cursor: str | None
    digest: bytes


class _Envelope(msgspec.Struct):
    markets: list[msgspec.Raw]
    next_cursor: str | None = None


class PolymarketClient:
    """Reads Gamma's listing and the CLOB's quotes. Use as an async context manager; one instance serves many calls.

    Args:
        base_url: of Gamma.
        clob_url: of the CLOB.
        clock: for the time of quotes, and to read a Retry-After that is a date.
        api_key: sent to Gamma as a bearer token, where its host asks for one; public reads need none.
        page_size: rows in a page, 1 to 100.
        requests_per_second: kept over sliding windows of 10 seconds, for each host; a burst may use a window's worth.
        concurrency: requests under way at once.
        timeout_s: for connecting, and for each pause of a response.
        max_attempts: of one request, the first included.
        slices: into which the window is cut by end time.
        rng: picks the slice that is read twice.
        sleep: how to wait between attempts; tests pass one that does not.
    """

    def __init__(
        self,
        base_url: str,
        clob_url: str,
        *,
        clock: Clock,
        api_key: SecretStr | None = None,
        page_size: int = LARGEST_PAGE,
        requests_per_second: float = 10.0,
        concurrency: int = 8,
        timeout_s: float = 20.0,
        max_attempts: int = 7,
        slices: int = 24,
        rng: random.Random | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        if not 1 <= page_size <= LARGEST_PAGE:
            raise ValueError(f"POLYMARKET_PAGE_SIZE must be 1 to {LARGEST_PAGE}, got {page_size}")
        if min(slices, concurrency, max_attempts) < 1:
            raise ValueError("slices, concurrency and max_attempts must be at least 1")
        if requests_per_second * LIMIT_PERIOD_S < 1:
            raise ValueError(f"requests_per_second must be at least {1 / LIMIT_PERIOD_S:g}, got {requests_per_second}")
        self._clock = clock
        self._concurrency = concurrency
        self._page_size = page_size
        self._slices = slices
        self._rng = rng or random.Random()  # noqa: S311 - which slice to check again is no secret
        secret = authorization(api_key)

        def transport(url: str, headers: dict[str, str]) -> Transport:
            return Transport(
                url,
                clock=clock,
                headers=headers,
                requests_per_second=requests_per_second,
                concurrency=concurrency,
                timeout_s=timeout_s,
                max_attempts=max_attempts,
                sleep=sleep,
            )

        self._gamma = transport(base_url, secret)
        self._clob = transport(clob_url, {})

    async def __aenter__(self) -> Self:
        await self._gamma.__aenter__()
        await self._clob.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._clob.__aexit__(kind, error, trace)
        await self._gamma.__aexit__(kind, error, trace)

    async def fetch_window(self, start: datetime, end: datetime, *, recheck: bool = True, probe: bool = True) -> Walk:
        """Every open market that ends in `[start, end)`, and one slice read twice to see whether the listing holds.

        The window is asked for a little wider and cut here. Where one id came with different bytes, the row received
        last is kept.

        Args:
            recheck: whether to read a slice twice.
            probe: whether to ask first how the API treats its upper bound, see `_upper_bound`.

        Raises:
            WalkIncomplete: a slice could not be read to its end (`WalkInterrupted`, `WalkStuck`).
            RequestRefused: the API refused a request.
            UnexpectedAnswer: an answer was no page of markets.
        """
        stats = ApiStats()
        slices = slice_window(start, end, self._slices)
        arrived: list[RawRow] = []
        try:
            with stats.phase("walk"):
                if probe:
                    slices[-1] = (slices[-1][0], await self._upper_bound(end, stats))
                walks = await _side_by_side([self._walk_slice(*each, stats, arrived) for each in slices])
        except PredictbenchError:
            logger.warning("the walk is given up", extra={"api": stats.as_dict()})
            raise
        rows = _merged(arrived, start, end, stats)
        digest = hashlib.sha256(b"".join(page.digest for pages in walks for page in pages))
        checked = None
        if recheck:
            with stats.phase("recheck"):
                checked = await self._recheck(slices, walks, stats)
        logger.info("read %d markets", len(rows), extra={"api": stats.as_dict()})
        return Walk(rows=rows, sha256=digest.hexdigest(), stats=stats, recheck=checked)

    async def fetch_quotes(self, token_ids: Sequence[str]) -> Quotes:
        """Best bid and ask of each token; one that the CLOB does not know is absent.

        Never raises for what the CLOB does: without it there are no quotes, and a reason. What is no token id (not a
        number) is not asked for, since it would have a whole batch refused.
        """
        stats = ApiStats()
        tokens = list(dict.fromkeys(token for token in token_ids if token.isascii() and token.isdecimal()))
        batches = [tokens[first : first + QUOTES_PER_REQUEST] for first in range(0, len(tokens), QUOTES_PER_REQUEST)]
        failures: list[str] = []
        quotes: dict[str, Quote] = {}
        answered = 0

        async def read(batch: list[str]) -> None:
            nonlocal answered
            if failures:
                return  # one batch has used up its attempts: the CLOB is not there, and the run is waiting
            try:
                quotes.update((quote.token_id, quote) for quote in await self._quotes_of(batch, stats))
                answered += 1
            except PredictbenchError as error:
                failures.append(str(error))

        with stats.phase("quotes"):
            await self._in_turn(read, batches)
        if failures:
            logger.warning("quotes of the CLOB are missing: %s", failures[0])
        logger.info("read %d quotes", len(quotes), extra={"api": stats.as_dict()})
        reason = f"{len(batches) - answered} of {len(batches)} batches: {failures[0]}" if failures else None
        return Quotes(available=answered > 0 or not batches, reason=reason, by_token=quotes, stats=stats)

    async def fetch_past_prices(
        self, token_ids: Sequence[str], captured_at: datetime, *, budget_s: float = 300.0
    ) -> PastPrices:
        """The price of each token a day before the capture; one that has none is absent.

        Never raises for what the CLOB does, and never takes longer than `budget_s` seconds: what is missing then is
        missing, and there is a reason.
        """
        stats = ApiStats()
        tokens = list(dict.fromkeys(token for token in token_ids if token.isascii() and token.isdecimal()))
        batches = [
            tokens[first : first + HISTORIES_PER_REQUEST] for first in range(0, len(tokens), HISTORIES_PER_REQUEST)
        ]
        failures: list[str] = []
        found: dict[str, PastPrice] = {}
        answered = 0

        async def read(batch: list[str]) -> None:
            nonlocal answered
            if len(failures) >= _FAILED_HISTORIES:
                return  # one batch may be refused for a token in it; several mean that there is nothing to be had
            try:
                found.update(await self._past_prices_of(batch, captured_at, stats))
                answered += 1
            except PredictbenchError as error:
                failures.append(str(error))

        with stats.phase("price_history"):
            try:
                async with asyncio.timeout(budget_s):
                    await self._in_turn(read, batches)
            except TimeoutError:
                failures.append(f"not all answered within {budget_s:g} s")
        if failures:
            logger.warning("prices of a day before are missing: %s", failures[0])
        logger.info("read %d prices of a day before", len(found), extra={"api": stats.as_dict()})
        reason = f"{len(batches) - answered} of {len(batches)} batches: {failures[0]}" if failures else None
        return PastPrices(reason=reason, by_token=found, stats=stats)

    async def fetch_conditions(self, condition_ids: Sequence[str], *, closed: bool, stats: ApiStats) -> list[RawRow]:
        """The rows of those of up to 40 conditions that are closed, or of those that are open; unknown ones are absent.

        Raises:
            RequestFailed: the API was unwell for longer than the retries last.
            RequestRefused: it refused the request.
            UnexpectedAnswer: the answer was no page of markets, or its pages do not end.
        """
        if not 1 <= len(condition_ids) <= CONDITIONS_PER_REQUEST:
            raise ValueError(f"1 to {CONDITIONS_PER_REQUEST} conditions at a time, got {len(condition_ids)}")
        params: dict[str, str | Sequence[str]] = {
            "condition_ids": list(condition_ids),
            "closed": "true" if closed else "false",
            "limit": str(LARGEST_PAGE),
        }
        rows: list[RawRow] = []
        for _ in range(len(condition_ids) + 1):  # a page may be shorter than was asked for, but not empty
            found, cursor = await self._gamma.ask(
                "GET", LISTING, lambda body: split_page(body, LISTING), stats, params=params
            )
            rows += [_row(raw) for raw in found]
            stats.pages += 1
            if not cursor:
                return rows
            params["after_cursor"] = cursor
        raise UnexpectedAnswer(
            f"{LISTING} has no end for {len(condition_ids)} conditions: the API ignores its own cursor"
        )

    async def fetch_market(self, market_id: str, *, stats: ApiStats) -> bytes | None:
        """Gamma's row of a market whatever its state, or None where there is none with that id.

        Raises:
            RequestFailed, RequestRefused: as for `fetch_conditions`.
        """
        return await _known(self._gamma, f"/markets/{escaped(market_id, safe='')}", stats)

    async def fetch_clob_market(self, condition_id: str, *, stats: ApiStats) -> bytes | None:
        """A market as the CLOB has it, winner included, or None where it does not know the condition.

        Raises:
            RequestFailed, RequestRefused: as for `fetch_conditions`.
        """
        return await _known(self._clob, f"/markets/{escaped(condition_id, safe='')}", stats)

    async def _upper_bound(self, end: datetime, stats: ApiStats) -> datetime:
        """The `end_date_max` that has the window's last second in it, and not more than it must.

        Whether the bound is inclusive is not documented. If markets that end at `end` itself are listed for it, it is,
        and the second before will do: at midnight, thousands of markets of the next day end that need not be read.
        """
        try:
            page = await self._read_page(end, end, None, stats, limit=1)
        except RequestFailed as error:
            raise WalkInterrupted(end - _SECOND, end, 1, str(error)) from error
        inclusive = any(parse_instant(row.end_date) == end for row in page.rows)
        return end - _SECOND if inclusive else end

    async def _walk_slice(
        self, start: datetime, end: datetime, stats: ApiStats, arrived: list[RawRow] | None = None
    ) -> list[_Page]:
        """The pages of one slice, first to last; rows are also put into `arrived` as they come."""
        pages: list[_Page] = []
        cursors: set[str] = set()
        keys: set[str | bytes] = set()
        cursor: str | None = None
        stale = 0
        while True:
            try:
                page = await self._read_page(start, end, cursor, stats)
            except RequestFailed as error:
                raise WalkInterrupted(start, end, len(pages) + 1, str(error)) from error
            pages.append(page)
            if arrived is not None:
                arrived.extend(page.rows)
            if page.next_cursor is None:
                return pages
            known = len(keys)
            keys.update(_key(row) for row in page.rows)
            stale = 0 if len(keys) > known else stale + 1
            stuck = None
            if page.next_cursor in cursors:
                stuck = "its cursor was given before"
            elif stale == _PAGES_WITHOUT_NEWS:
                stuck = f"{stale} pages in a row held nothing new"
            elif len(pages) == _MOST_PAGES:
                stuck = "there is no end to it"
            elif _ends_elsewhere(page.rows, start, end):
                stuck = "none of its markets ends in the time asked for, so the listing ignores end_date_min or _max"
            if stuck:
                raise WalkStuck(start, end, len(pages), stuck)
            cursor = page.next_cursor
            cursors.add(cursor)

    async def _read_page(
        self, start: datetime, end: datetime, cursor: str | None, stats: ApiStats, *, limit: int | None = None
    ) -> _Page:
        def read(body: bytes) -> _Page:
            rows, next_cursor = split_page(body, LISTING)
            return _Page(
                rows=[_row(raw) for raw in rows], next_cursor=next_cursor or None, digest=hashlib.sha256(body).digest()
            )

        params = listing_params(start, end, limit or self._page_size, cursor)
        page = await self._gamma.ask("GET", LISTING, read, stats, params=params)
        stats.pages += 1
        return page

    async def _recheck(
        self, slices: Sequence[tuple[datetime, datetime]], walks: Sequence[list[_Page]], stats: ApiStats
    ) -> Recheck | None:
        filled = [number for number, pages in enumerate(walks) if any(page.rows for page in pages)]
        if not filled:
            return None
        number = self._rng.choice(filled)
        start, end = slices[number]
        first = {_key(row) for page in walks[number] for row in page.rows}
        second = {_key(row) for page in await self._walk_slice(start, end, stats) for row in page.rows}
        differing = len(first ^ second)
        return Recheck(
            slice_start=start,
            slice_end=end,
            first=len(first),
            second=len(second),
            differing=differing,
            share=differing / len(first | second),
        )

    async def _in_turn(self, read: Callable[[list[str]], Awaitable[None]], batches: Iterable[list[str]]) -> None:
        """Read all batches, as many at once as requests may be under way: each begins knowing how others have ended."""
        waiting = iter(batches)

        async def work() -> None:
            for batch in waiting:
                await read(batch)

        await _side_by_side([work() for _ in range(self._concurrency)])

    async def _quotes_of(self, tokens: list[str], stats: ApiStats) -> list[Quote]:
        def read(body: bytes) -> list[Quote]:
            try:
                return read_prices(body, at=self._clock.now())
            except UnreadablePrices as error:
                raise PassingFailure("undecodable", shortened(str(error))) from error

        return await self._clob.ask("POST", PRICES, read, stats, json=prices_request(tokens))

    async def _past_prices_of(self, tokens: list[str], captured_at: datetime, stats: ApiStats) -> dict[str, PastPrice]:
        def read(body: bytes) -> dict[str, PastPrice]:
            try:
                found = read_histories(body, captured_at)
            except UnreadableHistory as error:
                raise PassingFailure("undecodable", shortened(str(error))) from error
            return {token: found[token] for token in tokens if token in found}

        body = history_request(tokens, captured_at)
        return await self._clob.ask("POST", PRICE_HISTORY, read, stats, json=body)


async def _known(transport: Transport, path: str, stats: ApiStats) -> bytes | None:
    """The body of an answer, or None where the API says that it has no such thing."""
    response = await transport.answer("GET", path, stats)
    if response.status_code in _NO_SUCH_THING:
        return None
    if response.status_code != _OK:
        raise RequestRefused(path, response.status_code, error_text(response.content))
    return response.content


def slice_window(start: datetime, end: datetime, count: int) -> list[tuple[datetime, datetime]]:
    """A window cut by time into `count` slices, as they are asked for: overlapping a little, wider at both ends."""
    if not (start.tzinfo and end.tzinfo and start < end):
        raise ValueError(f"a window needs a timezone, and a start before its end: {start!r}, {end!r}")
    step = (end - start) / count
    cuts = [start + number * step + min(_CUT_OFFSET, step / 2) for number in range(1, count)]
    # The API's precision is the second.
    cuts = [cut.replace(microsecond=0) for cut in cuts]
    lows = [start - _SECOND, *(cut - _INNER_MARGIN for cut in cuts)]
    highs = [*(cut + _INNER_MARGIN for cut in cuts), end]
    return list(zip(lows, highs, strict=True))


def listing_params(start: datetime, end: datetime, limit: int, cursor: str | None = None) -> dict[str, str]:
    """The parameters that ask for a page of the open markets that end from `start` to `end`.

    A cursor belongs to the filters it was given for, so they are sent with each page. `closed` has had another default
    before.
    """
    filters = {
        "closed": "false",
        "end_date_min": _written(start),
        "end_date_max": _written(end),
        "include_tag": "true",
        "limit": str(limit),
    }
    return filters if cursor is None else filters | {"after_cursor": cursor}


def split_page(body: bytes, path: str) -> tuple[list[bytes], str | None]:
    """The rows of a page, undecoded, and its next cursor.

    Raises:
        PassingFailure: a body that is no JSON, or says that something went wrong.
        UnexpectedAnswer: JSON, but no page of markets.
    """
    try:
        envelope = msgspec.json.decode(body, type=_Envelope)
    except DECODE_ERRORS:
        return _split_odd_page(body, path)
    return [bytes(raw) for raw in envelope.markets], envelope.next_cursor


def _split_odd_page(body: bytes, path: str) -> tuple[list[bytes], str | None]:
    """The same for a page that the strict parser refuses: one row is hostile, or this is no page."""
    try:
        members = dict(json_members(body))
        rows = members.get("markets")
        if rows is not None and rows.startswith(b"["):
            cursor = msgspec.json.decode(members.get("next_cursor", b"null"), type=str | None)
            return [raw for _, raw in json_members(rows)], cursor
    except (UnreadableJson, *DECODE_ERRORS) as error:
        raise PassingFailure("undecodable", f"a body that is no JSON: {error}") from error
    if "error" in members:
        raise PassingFailure("error_object", f"status 200 with an error: {error_text(body)}")
    raise UnexpectedAnswer(
        f"{path} answered without a list of markets. Check that POLYMARKET_BASE_URL is Gamma's address; if it is, the "
        "API has changed."
    )


def _row(raw: bytes) -> RawRow:
    if b"\n" in raw or b"\r" in raw:
        raw = raw.replace(b"\n", b" ").replace(b"\r", b" ")
    head = read_head(raw)
    return RawRow(market_id=head.market_id, end_date=head.end_date, raw=raw)


def _key(row: RawRow) -> str | bytes:
    return row.market_id or row.raw


def _merged(arrived: Iterable[RawRow], start: datetime, end: datetime, stats: ApiStats) -> list[RawRow]:
    """One row for each id, the last to arrive; without those that end outside of `[start, end)`; by number of id."""
    latest: dict[str | bytes, RawRow] = {}
    for row in arrived:
        before = latest.get(key := _key(row))
        if before is not None:
            stats.duplicates += 1
            stats.changed_duplicates += before.raw != row.raw
        latest[key] = row
    kept = [row for row in latest.values() if (at := parse_instant(row.end_date)) is None or start <= at < end]
    stats.cut_rows += len(latest) - len(kept)
    return sorted(kept, key=_order)


def _order(row: RawRow) -> tuple[int, str, bytes]:
    """Ids that are numbers by value (shorter is smaller), then other ids, then rows without one by their bytes."""
    if row.market_id is None:
        return 1 << 62, "", row.raw
    length = len(row.market_id) if row.market_id.isdecimal() else 1 << 61
    return length, row.market_id, row.raw


def _ends_elsewhere(rows: Iterable[RawRow], start: datetime, end: datetime) -> bool:
    """Whether a page holds markets with an end date, but none within a day of the time asked for."""
    ends = [at for row in rows if (at := parse_instant(row.end_date)) is not None]
    day = timedelta(days=1)
    return bool(ends) and not any(start - day <= at <= end + day for at in ends)


def _written(instant: datetime) -> str:
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


async def _side_by_side(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All results in order; the first failure cancels the rest and is raised as itself."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each) for each in work]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]
