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
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import quote as escaped

import msgspec
from pydantic import SecretStr

from predictbench_assets.clock import Clock
from predictbench_assets.exchanges.exchange import ReadOf, Recheck
from predictbench_assets.exchanges.json_text import DECODE_ERRORS, UnreadableJson, json_members
from predictbench_assets.exchanges.polymarket.batches import Batches, side_by_side
from predictbench_assets.exchanges.polymarket.books import ReadBooks, UnreadableBooks, books_request, read_books
from predictbench_assets.exchanges.polymarket.payloads import parse_instant, read_head
from predictbench_assets.exchanges.polymarket.price_history import (
    LOOK_BACK,
    WEEK,
    PastPrices,
    UnreadableHistory,
    history_request,
    one_history_params,
    past_span,
    read_histories,
    read_history,
    read_past_prices,
)
from predictbench_assets.exchanges.polymarket.quotes import (
    Quotes,
    ReadPrices,
    UnreadablePrices,
    prices_request,
    read_prices,
)
from predictbench_assets.exchanges.stats import ApiStats
from predictbench_assets.exchanges.transport import (
    ANSWER_LIMIT,
    LIMIT_PERIOD_S,
    PassingFailure,
    RegionBlocked,
    RequestFailed,
    RequestRefused,
    Transport,
    UnexpectedAnswer,
    authorization,
    error_text,
    refusal,
)
from predictbench_assets.failures import PermanentError, PredictbenchError, TransientError
from predictbench_assets.markets.market_data import OrderBook
from predictbench_assets.markets.quotes import PastPrice, Quote
from predictbench_assets.printable import shortened

logger = logging.getLogger(__name__)

T = TypeVar("T")
Shape = Callable[[bytes], bytes]
"""Makes of a row's JSON what is held of it."""

LISTING = "/markets/keyset"
"""Gamma's route."""

PRICES = "/prices"
"""The CLOB's route."""

PRICE_HISTORY = "/batch-prices-history"
"""The CLOB's route."""

ONE_HISTORY = "/prices-history"
"""The CLOB's route."""

BOOKS = "/books"
"""The CLOB's route."""

HISTORIES_PER_REQUEST = 20
"""Tokens in one `POST /batch-prices-history`; more are refused."""

LARGEST_PAGE = 100
"""The API clamps larger pages to this silently."""

CONDITIONS_PER_REQUEST = 40
"""Conditions in one query: with 50 and more it is so long that Cloudflare answers in Gamma's place."""

QUOTES_PER_REQUEST = 250
"""Tokens in one `POST /prices`; each takes two entries of the 500 that a request may hold."""

BOOKS_PER_REQUEST = 100
"""Tokens in one `POST /books`, of 500 that are allowed: a book may have hundreds of levels."""

GAMMA_LIMITS: Mapping[str, int] = {"/markets": 300, "": 4_000}
CLOB_LIMITS: Mapping[str, int] = {PRICES: 500, BOOKS: 500, PRICE_HISTORY: 1_000, ONE_HISTORY: 1_000, "": 9_000}
"""Requests in 10 seconds that are documented, by the beginning of a route. Batches of histories, which have no line of
their own, are taken for histories."""

SHARE_OF_LIMITS = 0.5
"""The part of a limit that is used: others may be behind the same address."""

LISTING_LIMIT = 1_000_000_000
"""Bytes of one listing that are held at most, `_ROW_COST` for each row included; the largest days are a tenth of it."""

_ROW_COST = 1_000
_SECOND = timedelta(seconds=1)
"""The precision with which end dates are asked for; they can be finer."""
_INNER_MARGIN = timedelta(seconds=1)
# Markets end at full minutes. Cuts at odd seconds keep the thousands that end at one instant in one slice.
_CUT_OFFSET = timedelta(seconds=37)
_PAGES_WITHOUT_NEWS = 3
_OK, _NO_SUCH_THING = 200, (404, 422)
_MOST_PAGES = 5_000


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


class WalkTooLong(WalkIncomplete, PermanentError):
    """The listing is longer than what is held of one."""


class RawRow(msgspec.Struct, frozen=True, gc=False):
    """A market as it was received."""

    market_id: str | None
    end_date: str | None
    first_token_id: str | None
    """As `RowHead` has it."""
    raw: bytes
    """The row's JSON on one line; line feeds between its tokens became spaces, nothing else was touched."""


@dataclass(frozen=True)
class Walk:
    """Every market that ends in a window, as the API listed them."""

    rows: list[RawRow]
    """One per id, by number. Rows without a readable end date are among them: it is not here that they are judged."""
    sha256: str
    """Hash of the hashes of the bodies, in the order of slices and pages: the identity of the API's answer."""
    stats: ApiStats
    recheck: Recheck | None
    """None where no slice had rows, or it was not asked for."""


@dataclass(frozen=True)
class _Page:
    rows: list[RawRow]
    next_cursor: str | None
    digest: bytes


class _Envelope(msgspec.Struct):
    markets: list[msgspec.Raw] | None
    next_cursor: str | None = None
    error: msgspec.Raw = msgspec.Raw(b"null")


class _ListingBudget:
    """The memory that a listing may still take."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._rows = 0

    def taken(self, rows: Sequence[RawRow]) -> str | None:
        """The reason for which a page is too much; None where it still fits."""
        self._held += sum(len(row.raw) + _ROW_COST for row in rows)
        self._rows += len(rows)
        if self._held <= self._limit:
            return None
        return (
            f"{self._rows:,} markets are more than POLYMARKET_MAX_LISTING_MB ({self._limit / 1e6:g} MB). If a day can "
            "be so large, raise it; if not, the listing has no end"
        )


class PolymarketClient:
    """A reader of Gamma's listing and the CLOB's quotes. An async context manager; one instance serves many calls.

    Args:
        base_url: Gamma's address.
        clob_url: the CLOB's address.
        clock: for the time of quotes, and to read a Retry-After that is a date.
        api_key: sent to Gamma as a bearer token, where its host asks for one; public reads need none.
        page_size: rows in a page, 1 to 100.
        requests_per_second: kept over sliding windows of 10 seconds, for each host; a burst may use a window's worth.
            None keeps `SHARE_OF_LIMITS` of what is documented for each route.
        concurrency: requests under way at once.
        shared_by: processes that keep these two limits together; this one keeps to its equal part.
        timeout_s: for connecting, and for each pause of a response.
        max_attempts: attempts of one request, the first included.
        slices: into which the window is cut by end time.
        answer_limit: bytes that are held of one answer, as it was sent and decompressed.
        listing_limit: bytes that are held of one listing.
        rng: picks the slice that is read twice.
        sleep: waits between attempts; tests pass one that does not.
    """

    def __init__(
        self,
        base_url: str,
        clob_url: str,
        *,
        clock: Clock,
        api_key: SecretStr | None = None,
        page_size: int = LARGEST_PAGE,
        requests_per_second: float | None = None,
        concurrency: int = 8,
        shared_by: int = 1,
        timeout_s: float = 20.0,
        max_attempts: int = 7,
        slices: int = 24,
        answer_limit: int = ANSWER_LIMIT,
        listing_limit: int = LISTING_LIMIT,
        rng: random.Random | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        if not 1 <= page_size <= LARGEST_PAGE:
            raise ValueError(f"POLYMARKET_PAGE_SIZE must be 1 to {LARGEST_PAGE}, got {page_size}")
        if min(slices, concurrency, shared_by, max_attempts) < 1:
            raise ValueError("slices, concurrency, shared_by and max_attempts must be at least 1")
        if requests_per_second is not None:
            requests_per_second /= shared_by
        concurrency = max(1, concurrency // shared_by)
        if requests_per_second is not None and requests_per_second * LIMIT_PERIOD_S < 1:
            raise ValueError(f"requests_per_second must be at least {1 / LIMIT_PERIOD_S:g}, got {requests_per_second}")
        self._clock = clock
        self._concurrency = concurrency
        self._page_size = page_size
        self._slices = slices
        self._listing_limit = listing_limit
        self._rng = rng or random.Random()  # noqa: S311 - which slice to check again is no secret
        secret = authorization(api_key)

        def transport(url: str, headers: dict[str, str], documented: Mapping[str, int]) -> Transport:
            usual = {path: SHARE_OF_LIMITS * most / LIMIT_PERIOD_S / shared_by for path, most in documented.items()}
            return Transport(
                url,
                clock=clock,
                headers=headers,
                limits=usual if requests_per_second is None else {"": requests_per_second},
                concurrency=concurrency,
                timeout_s=timeout_s,
                max_attempts=max_attempts,
                answer_limit=answer_limit,
                sleep=sleep,
            )

        self._gamma = transport(base_url, secret, GAMMA_LIMITS)
        self._clob = transport(clob_url, {}, CLOB_LIMITS)

    async def __aenter__(self) -> Self:
        await self._gamma.__aenter__()
        await self._clob.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._clob.__aexit__(kind, error, trace)
        await self._gamma.__aexit__(kind, error, trace)

    async def fetch_window(
        self,
        start: datetime,
        end: datetime,
        *,
        recheck: bool = True,
        probe: bool = True,
        closed: bool = False,
        on_rows: Callable[[Sequence[RawRow]], None] | None = None,
        shape: Shape = bytes,
    ) -> Walk:
        """Every open market that ends in `[start, end)`, and one slice read twice to see whether the listing holds.

        The window is asked for a little wider and cut here. Where one id came with different bytes, the row received
        last is kept.

        Args:
            start, end: bounds of the window.
            recheck: True to read a slice twice.
            probe: True to read the last second first, see `_last_second`; of open markets only.
            closed: True for the closed markets instead.
            on_rows: handed the rows of each page as they come, uncut and with those that come again.
            shape: makes of each row what is held of it, as its page comes.

        Raises:
            WalkIncomplete: a slice could not be read to its end (`WalkInterrupted`, `WalkStuck`, `WalkTooLong`).
            RequestRefused: the API refused a request.
            AnswerTooLarge: an answer was larger than what is held of one.
            UnexpectedAnswer: an answer was no page of markets.
        """
        stats = ApiStats()
        slices = slice_window(start, end, self._slices)
        arrived: list[RawRow] = []
        room = _ListingBudget(self._listing_limit)

        def keep(rows: Sequence[RawRow]) -> None:
            arrived.extend(rows)
            if on_rows is not None:
                on_rows(rows)

        try:
            with stats.phase("walk"):
                last_second = None
                if probe:
                    upper, last_second = await self._last_second(end, stats, shape)
                    slices[-1] = (slices[-1][0], upper)
                walks = await side_by_side(
                    [self._walk_slice(*each, stats, room, keep, closed=closed, shape=shape) for each in slices]
                )
                if last_second is not None:
                    keep(last_second.rows)
        except PredictbenchError:
            logger.warning("the walk is given up", extra={"api": stats.as_dict()})
            raise
        rows = _merged(arrived, start, end, stats)
        received = [page.digest for pages in walks for page in pages]
        if last_second is not None and last_second.rows:
            received.append(last_second.digest)
        digest = hashlib.sha256(b"".join(received))
        checked = None
        if recheck:
            with stats.phase("recheck"):
                checked = await self._recheck(slices, walks, stats)
        logger.info("read %d markets", len(rows), extra={"api": stats.as_dict()})
        return Walk(rows=rows, sha256=digest.hexdigest(), stats=stats, recheck=checked)

    async def fetch_quotes(self, token_ids: Sequence[str]) -> Quotes:
        """Best bid and ask of each token; one that the CLOB does not know is absent.

        Never raises for what the CLOB does: without it there are no quotes, and a reason. One token's trouble costs
        that token's quote.
        """
        stats = ApiStats()
        quotes: dict[str, Quote] = {}
        unreadable = 0

        async def read(batch: list[str], attempts: int | None) -> None:
            nonlocal unreadable
            found = await self._quotes_of(batch, attempts, stats)
            requested = set(batch)
            quotes.update((quote.token_id, quote) for quote in found.quotes if quote.token_id in requested)
            unreadable += found.unreadable

        batches = Batches(read, size=QUOTES_PER_REQUEST, readers=self._concurrency)
        with stats.phase("quotes"):
            await batches.run(_each(token_ids))
        reason = batches.reason
        if reason is None and unreadable:
            reason = f"{unreadable:,} of {batches.requested:,} tokens: what {PRICES} answered for them is no price"
        if reason is not None:
            logger.warning("quotes of the CLOB are missing: %s", reason)
        logger.info("read %d quotes", len(quotes), extra={"api": stats.as_dict()})
        return Quotes(
            available=batches.answered > 0 or not batches.requested, reason=reason, by_token=quotes, stats=stats
        )

    async def fetch_past_prices(
        self, token_ids: Sequence[str] | AsyncIterable[str], captured_at: datetime, *, budget_s: float = 300.0
    ) -> PastPrices:
        """The price of each token a day before an instant; one that has none is absent.

        Never raises for what the CLOB does, and ends no later than `budget_s` seconds after the last token is known:
        what is missing then is missing, and there is a reason. One token's trouble costs that token's price.

        Args:
            token_ids: may still be coming in.
            captured_at: the capture, or an instant before it.
            budget_s: seconds.
        """
        stats = ApiStats()
        found: dict[str, PastPrice] = {}

        async def read(batch: list[str], attempts: int | None) -> None:
            found.update(await self._past_prices_of(batch, captured_at, attempts, stats))

        source = token_ids if isinstance(token_ids, AsyncIterable) else _each(token_ids)
        batches = Batches(read, size=HISTORIES_PER_REQUEST, readers=self._concurrency)
        with stats.phase("price_history"):
            await _run_within(batches, source, budget_s)
        if batches.reason is not None:
            logger.warning("prices of a day before are missing: %s", batches.reason)
        logger.info("read %d prices of a day before", len(found), extra={"api": stats.as_dict()})
        return PastPrices(reason=batches.reason, by_token=found, stats=stats)

    async def fetch_books(self, token_ids: Sequence[str], *, budget_s: float = 300.0) -> ReadOf[OrderBook]:
        """The order book of each token. Never raises for what the CLOB does, as `fetch_past_prices`."""
        read_of: ReadOf[OrderBook] = ReadOf()

        async def read(batch: list[str], attempts: int | None) -> None:
            found = await self._books_of(batch, attempts, read_of.stats)
            for token in batch:
                if (book := found.books.get(token)) is not None:
                    read_of.found[token] = book
                elif (problem := found.unreadable.get(token)) is not None:
                    read_of.missing[token] = f"its book cannot be right: {problem}"
                else:
                    read_of.missing[token] = "the exchange has no order book of it"

        batches = Batches(read, size=BOOKS_PER_REQUEST, readers=self._concurrency)
        with read_of.stats.phase("books"):
            await _run_within(batches, _each(token_ids), budget_s)
        return read_of.ended(token_ids, batches.reason, "order books")

    async def fetch_weeks(
        self, token_ids: Sequence[str], captured_at: datetime, *, budget_s: float = 300.0
    ) -> ReadOf[tuple[tuple[float, float], ...]]:
        """The prices of each token in the week up to an instant. Never raises for what the CLOB does, as above."""
        read_of = await self.fetch_histories(token_ids, captured_at - WEEK - LOOK_BACK, captured_at, budget_s=budget_s)
        silent = [token for token, points in read_of.found.items() if not points]
        for token in silent:
            del read_of.found[token]
            read_of.missing[token] = "the exchange has no price of it in that time"
        return read_of

    async def fetch_histories(
        self,
        token_ids: Sequence[str],
        begins: datetime,
        ends: datetime,
        *,
        singly: bool = False,
        budget_s: float = 300.0,
    ) -> ReadOf[tuple[tuple[float, float], ...]]:
        """The prices of each token from one instant to another, at most 15 days later: seconds and price, oldest first.

        A token is found without any where the answer has it so, and missing where the answer has nothing of it, which
        an answer about one token alone (`singly`) always has. Never raises for what the CLOB does, as above.
        """
        read_of: ReadOf[tuple[tuple[float, float], ...]] = ReadOf()

        async def read(batch: list[str], attempts: int | None) -> None:
            asked = self._history_of if singly else self._histories_of
            found = await asked(batch, begins, ends, attempts, read_of.stats)
            for token in batch:
                if token in found:
                    read_of.found[token] = found[token]
                else:
                    read_of.missing[token] = "the exchange answered, and not about it"

        batches = Batches(read, size=1 if singly else HISTORIES_PER_REQUEST, readers=self._concurrency)
        with read_of.stats.phase("price_history"):
            await _run_within(batches, _each(token_ids), budget_s)
        return read_of.ended(token_ids, batches.reason, "histories of prices")

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

    async def _last_second(self, end: datetime, stats: ApiStats, shape: Shape) -> tuple[datetime, _Page | None]:
        """The `end_date_max` that the last slice needs, and the rows that end after it and before `end`.

        Whether the bound is inclusive is not documented. Where it is, the second before will do, which matters at
        midnight: thousands of markets of the next day end then and need not be read. What ends in fractions of that
        second would be lost; in the order of end dates it comes before them, so one page has it.
        """
        try:
            page = await self._read_page(end - _SECOND, end, None, stats, order="endDate", shape=shape)
        except RequestFailed as error:
            raise WalkInterrupted(end - _SECOND, end, 1, str(error)) from error
        except RegionBlocked:
            raise
        except RequestRefused:  # the order is no part of what a walk needs
            return end, None
        ends = [parse_instant(row.end_date) for row in page.rows]
        known = [at for at in ends if at is not None]
        if not known or len(known) < len(ends) or known != sorted(known) or known[-1] != end:
            return end, None
        between = [row for row, at in zip(page.rows, known, strict=True) if end - _SECOND < at < end]
        return end - _SECOND, _Page(between, None, page.digest)

    async def _walk_slice(
        self,
        start: datetime,
        end: datetime,
        stats: ApiStats,
        room: _ListingBudget,
        on_rows: Callable[[Sequence[RawRow]], None] | None = None,
        *,
        closed: bool = False,
        shape: Shape = bytes,
    ) -> list[_Page]:
        """The pages of one slice, first to last; rows are also handed to `on_rows` as they come."""
        pages: list[_Page] = []
        cursors: set[str] = set()
        keys: set[str | bytes] = set()
        cursor: str | None = None
        stale = 0
        while True:
            try:
                page = await self._read_page(start, end, cursor, stats, closed=closed, shape=shape)
            except RequestFailed as error:
                raise WalkInterrupted(start, end, len(pages) + 1, str(error)) from error
            pages.append(page)
            if (too_much := room.taken(page.rows)) is not None:
                raise WalkTooLong(start, end, len(pages), too_much)
            if on_rows is not None:
                on_rows(page.rows)
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
        self,
        start: datetime,
        end: datetime,
        cursor: str | None,
        stats: ApiStats,
        *,
        order: str | None = None,
        closed: bool = False,
        shape: Shape = bytes,
    ) -> _Page:
        def read(body: bytes) -> _Page:
            rows, next_cursor = split_page(body, LISTING)
            held = [_row(raw, shape) for raw in rows]
            return _Page(rows=held, next_cursor=next_cursor or None, digest=hashlib.sha256(body).digest())

        params = listing_params(start, end, self._page_size, cursor, closed=closed) | (
            {} if order is None else {"order": order}
        )
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
        again = await self._walk_slice(start, end, stats, _ListingBudget(self._listing_limit))
        second = {_key(row) for page in again for row in page.rows}
        differing = len(first ^ second)
        return Recheck(
            slice_start=start,
            slice_end=end,
            first=len(first),
            second=len(second),
            differing=differing,
            share=differing / len(first | second),
        )

    async def _quotes_of(self, tokens: list[str], attempts: int | None, stats: ApiStats) -> ReadPrices:
        read = _passing(UnreadablePrices, lambda body: read_prices(body, at=self._clock.now()))
        body = prices_request(tokens)
        return await self._clob.ask("POST", PRICES, read, stats, json=body, max_attempts=attempts)

    async def _books_of(self, tokens: list[str], attempts: int | None, stats: ApiStats) -> ReadBooks:
        read = _passing(UnreadableBooks, lambda body: read_books(body, at=self._clock.now()))
        body = books_request(tokens)
        return await self._clob.ask("POST", BOOKS, read, stats, json=body, max_attempts=attempts)

    async def _histories_of(
        self, tokens: list[str], begins: datetime, ends: datetime, attempts: int | None, stats: ApiStats
    ) -> dict[str, tuple[tuple[float, float], ...]]:
        body = history_request(tokens, begins, ends)
        return await self._histories(body, lambda answer: read_histories(answer, begins, ends), attempts, stats)

    async def _history_of(
        self, tokens: list[str], begins: datetime, ends: datetime, attempts: int | None, stats: ApiStats
    ) -> dict[str, tuple[tuple[float, float], ...]]:
        [token] = tokens
        read = _passing(UnreadableHistory, lambda body: read_history(body, begins, ends))
        params = one_history_params(token, begins, ends)
        return {token: await self._clob.ask("GET", ONE_HISTORY, read, stats, params=params, max_attempts=attempts)}

    async def _past_prices_of(
        self, tokens: list[str], captured_at: datetime, attempts: int | None, stats: ApiStats
    ) -> dict[str, PastPrice]:
        body = history_request(tokens, *past_span(captured_at))
        found = await self._histories(body, lambda answer: read_past_prices(answer, captured_at), attempts, stats)
        return {token: found[token] for token in tokens if token in found}

    async def _histories(
        self, request: Mapping[str, object], read: Callable[[bytes], T], attempts: int | None, stats: ApiStats
    ) -> T:
        passing = _passing(UnreadableHistory, read)
        return await self._clob.ask("POST", PRICE_HISTORY, passing, stats, json=request, max_attempts=attempts)


def _passing(unreadable: type[ValueError], read: Callable[[bytes], T]) -> Callable[[bytes], T]:
    """A reader of bodies of which one that it cannot read is asked for again."""

    def reading(body: bytes) -> T:
        try:
            return read(body)
        except unreadable as error:
            raise PassingFailure("undecodable", shortened(str(error))) from error

    return reading


async def _run_within(batches: Batches, tokens: AsyncIterable[str], budget_s: float) -> None:
    """Read the batches, and end no later than `budget_s` seconds after the last token is known."""

    def set_deadline() -> None:
        deadline.reschedule(asyncio.get_running_loop().time() + budget_s)

    try:
        async with asyncio.timeout(None) as deadline:
            await batches.run(tokens, when_all_known=set_deadline)
    except TimeoutError:
        batches.end(f"not all answered within {budget_s:g} s")


async def _each(tokens: Iterable[str]) -> AsyncIterator[str]:
    for token in tokens:
        yield token


async def _known(transport: Transport, path: str, stats: ApiStats) -> bytes | None:
    """The body of an answer, or None where the API has no such thing."""
    response = await transport.answer("GET", path, stats)
    if response.status_code in _NO_SUCH_THING:
        return None
    if response.status_code != _OK:
        raise refusal(path, response)
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


def listing_params(
    start: datetime, end: datetime, limit: int, cursor: str | None = None, *, closed: bool = False
) -> dict[str, str]:
    """The parameters that ask for a page of the open (or closed) markets that end from `start` to `end`.

    A cursor belongs to the filters it was given for, so they are sent with each page. `closed` has had another default
    before.
    """
    filters = {
        "closed": "true" if closed else "false",
        "end_date_min": _written(start),
        "end_date_max": _written(end),
        "include_tag": "true",
        "limit": str(limit),
    }
    return filters if cursor is None else filters | {"after_cursor": cursor}


def split_page(body: bytes, path: str) -> tuple[list[bytes], str | None]:
    """The rows of a page, undecoded, and its next cursor. A list that is null is an empty one.

    Raises:
        PassingFailure: a body that is no JSON, or an error with status 200.
        UnexpectedAnswer: JSON, but no page of markets.
    """
    try:
        envelope = msgspec.json.decode(body, type=_Envelope)
    except DECODE_ERRORS:
        return _split_odd_page(body, path)
    if not _is_none(envelope.error):
        return _split_odd_page(body, path)
    return [bytes(raw) for raw in envelope.markets or ()], envelope.next_cursor


def _split_odd_page(body: bytes, path: str) -> tuple[list[bytes], str | None]:
    """Split a page that the strict parser refuses: one row is hostile, or this is no page."""
    try:
        members = dict(json_members(body))
        rows = members.get("markets")
        # Rows beside an error are those that were read before it.
        if rows is not None and (rows.startswith(b"[") or rows == b"null") and _is_none(members.get("error", b"null")):
            cursor = msgspec.json.decode(members.get("next_cursor", b"null"), type=str | None)
            return [raw for _, raw in json_members(rows)], cursor
    except (UnreadableJson, *DECODE_ERRORS) as error:
        raise PassingFailure("undecodable", f"a body that is no JSON: {error}") from error
    if not _is_none(members.get("error", b"null")):
        raise PassingFailure("error_object", f"status 200 with an error: {error_text(body)}")
    raise UnexpectedAnswer(
        f"{path} answered without a list of markets. Check that POLYMARKET_BASE_URL is Gamma's address; if it is, the "
        "API has changed."
    )


def _is_none(error: bytes | msgspec.Raw) -> bool:
    """True where it is no error: some servers have the key in every answer."""
    return bytes(error) in (b"null", b'""', b"false")


def _row(raw: bytes, shape: Shape = bytes) -> RawRow:
    if b"\n" in raw or b"\r" in raw:
        raw = raw.replace(b"\n", b" ").replace(b"\r", b" ")
    head = read_head(raw)
    return RawRow(market_id=head.market_id, end_date=head.end_date, first_token_id=head.first_token_id, raw=shape(raw))


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
    """True for a page whose markets have end dates, but none within a day of the time asked for."""
    ends = [at for row in rows if (at := parse_instant(row.end_date)) is not None]
    day = timedelta(days=1)
    return bool(ends) and not any(start - day <= at <= end + day for at in ends)


def _written(instant: datetime) -> str:
    return instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
