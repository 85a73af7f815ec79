"""Check the exchange's habits that the client relies on: a few requests, and a finding for each habit.

What the client copes with is at most a note. A deviation is something that would make a run stop, or go wrong without
a word. Keys and types are those of the wire's models, so what is read and what is checked cannot drift apart.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from statistics import median
from typing import Any, Literal

import msgspec
from pydantic import SecretStr

from predictbench_assets.clock import SKEW_NOTED, SKEW_REFUSED, Clock, skew
from predictbench_assets.exchanges.json_text import DECODE_ERRORS, object_members
from predictbench_assets.exchanges.polymarket.client import (
    HISTORIES_PER_REQUEST,
    LARGEST_PAGE,
    LISTING,
    PRICE_HISTORY,
    PRICES,
    QUOTES_PER_REQUEST,
    listing_params,
    split_page,
)
from predictbench_assets.exchanges.polymarket.payloads import (
    MANDATORY,
    GammaEvent,
    GammaMarket,
    Payload,
    ids_key,
    list_keys,
    parse_instant,
    read_closed,
    read_head,
    wire_names,
)
from predictbench_assets.exchanges.polymarket.price_history import (
    UnreadableHistory,
    history_request,
    past_span,
    read_past_prices,
)
from predictbench_assets.exchanges.polymarket.quotes import UnreadablePrices, order_price, prices_request, read_prices
from predictbench_assets.exchanges.polymarket.reading import read_row
from predictbench_assets.exchanges.stats import ApiStats
from predictbench_assets.exchanges.transport import (
    PassingFailure,
    RequestFailed,
    RequestRefused,
    Transport,
    UnexpectedAnswer,
    authorization,
    error_text,
)
from predictbench_assets.failures import TransientError
from predictbench_assets.markets.cohort import Filters, normalize_cohort
from predictbench_assets.markets.market import GOOD_SPREAD, Market
from predictbench_assets.markets.quotes import Quote
from predictbench_assets.printable import shortened
from predictbench_assets.web import http_date

HabitLevel = Literal["ok", "note", "deviation"]

MOST_REQUESTS = 15
"""An examination makes no more, retries aside."""

_REQUESTS_PER_SECOND = 5.0
_WINDOW = timedelta(days=14)
_PAGES = 3
_SECOND = timedelta(seconds=1)
_FAR = timedelta(days=365 * 20)
_SHOWN = 5
_BRIEF_TOKENS = 20
_UNKNOWN = str(10**76 + 1)
"""An id as long as a token's, and hardly one's."""
_PRICES_APART = 0.05
"""Gamma's rows are up to five minutes older than the CLOB's quotes."""


class ExchangeUnreachable(TransientError):
    """The exchange did not answer the first request, so that nothing could be examined."""


@dataclass(frozen=True)
class HabitFinding:
    """One habit of the exchange: what the client expects, and what was seen."""

    level: HabitLevel
    name: str
    expected: str
    seen: str


@dataclass
class Examination:
    """All findings, in the order in which they were made."""

    findings: list[HabitFinding] = field(default_factory=list)
    requests: int = 0
    skew: timedelta | None = None
    """The exchange's clock minus ours, give or take a second; None where it sent no time."""

    @property
    def deviations(self) -> list[HabitFinding]:
        """The findings that the client does not cope with."""
        return [finding for finding in self.findings if finding.level == "deviation"]


async def examine(
    base_url: str,
    clob_url: str,
    *,
    clock: Clock,
    opens: datetime | None = None,
    api_key: SecretStr | None = None,
    rejected_share_limit: float = 0.2,
    timeout_s: float = 20.0,
    max_attempts: int = 4,
    brief: bool = False,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Examination:
    """Ask the exchange what a run would ask, and a few things that it would rather not meet unprepared.

    Args:
        base_url: Gamma's address.
        clob_url: the CLOB's address.
        clock: compared with the exchange's.
        opens: markets are looked at that end in the two weeks from the next midnight after it; default: now.
        api_key: as the client sends it.
        rejected_share_limit: share of unreadable rows above which a run stops.
        timeout_s: for connecting, and for each pause of a response.
        max_attempts: attempts of one request.
        brief: one page and a few quotes only, two requests.
        sleep: waits between attempts; tests pass one that does not.

    Raises:
        ExchangeUnreachable: not even the first request was answered.
    """

    def transport(url: str, headers: Mapping[str, str]) -> Transport:
        return Transport(
            url,
            clock=clock,
            headers=headers,
            limits={"": _REQUESTS_PER_SECOND},
            concurrency=1,
            timeout_s=timeout_s,
            max_attempts=max_attempts,
            sleep=sleep,
        )

    async with transport(base_url, authorization(api_key)) as gamma, transport(clob_url, {}) as clob:
        examiner = _Examiner(gamma, clob, clock, opens or clock.now(), rejected_share_limit)
        await (examiner.briefly() if brief else examiner.thoroughly())
        return examiner.examination


@dataclass(frozen=True)
class _Page:
    rows: list[bytes]
    next_cursor: str | None
    members: frozenset[str]

    @property
    def ids(self) -> list[str]:
        return [found for row in self.rows if (found := read_head(row).market_id) is not None]


class _Examiner:
    def __init__(self, gamma: Transport, clob: Transport, clock: Clock, opens: datetime, limit: float) -> None:
        self._gamma = gamma
        self._clob = clob
        self._clock = clock
        self._opens = opens
        midnight = datetime.combine(opens.astimezone(UTC).date() + timedelta(days=1), time.min, tzinfo=UTC)
        self._start, self._end = midnight, midnight + _WINDOW
        self._limit = limit
        self._stats = ApiStats()
        self._answered = False
        self._rows: list[bytes] = []
        self._markets: list[Market] = []
        self._quoted = False
        self.examination = Examination()

    async def briefly(self) -> None:
        if await self._section("listing", self._read_one_page):
            await self._section("rows", self._judge_rows)
        await self._section("quotes", lambda: self._judge_quotes(_BRIEF_TOKENS))
        self.examination.requests = self._stats.requests

    async def thoroughly(self) -> None:
        if await self._section("listing", self._walk):
            await self._section("rows", self._judge_rows)
        await self._section("largest page", self._ask_for_too_much)
        await self._section("bounds", self._judge_bounds)
        await self._section("empty window", self._ask_for_nothing)
        await self._section("bad input", self._ask_badly)
        await self._section("quotes", lambda: self._judge_quotes(QUOTES_PER_REQUEST))
        await self._section("unknown token", self._ask_for_an_unknown_token)
        await self._section("price history", self._judge_price_history)
        self.examination.requests = self._stats.requests

    # Asking

    async def _section(self, name: str, work: Callable[[], Awaitable[None]]) -> bool:
        """One part; when the exchange does not answer it, the others are still looked at. False: it was left."""
        try:
            await work()
            return True
        except RequestFailed as error:
            if not self._answered:
                raise ExchangeUnreachable(
                    f"the exchange does not answer: {error}. Check the network, POLYMARKET_BASE_URL and "
                    "POLYMARKET_CLOB_URL."
                ) from error
            self._note("deviation", name, "an answer", str(error))
        except (RequestRefused, UnexpectedAnswer, PassingFailure) as error:
            self._note("deviation", name, "an answer that the client reads", str(error))
        return False

    def _note(self, level: HabitLevel, name: str, expected: str, seen: str) -> None:
        self.examination.findings.append(HabitFinding(level, name, expected, seen))

    async def _ask(self, transport: Transport, method: str, path: str, **request: Any) -> tuple[int, bytes]:
        """Status and body; the first answer's `Date` is compared with our clock."""
        before = self._clock.now()
        response = await transport.answer(method, path, self._stats, **request)
        if not self._answered:
            self._answered = True
            self._judge_clock(http_date(response.headers.get("date", "")), before, self._clock.now())
        return response.status_code, response.content

    async def _page(self, start: datetime, end: datetime, limit: int, cursor: str | None = None) -> _Page:
        params = listing_params(start, end, limit, cursor)
        status, body = await self._ask(self._gamma, "GET", LISTING, params=params)
        if status != 200:
            raise RequestRefused(LISTING, status, error_text(body))
        rows, next_cursor = split_page(body, LISTING)
        return _Page(rows, next_cursor or None, frozenset(_members(body)))

    def _judge_clock(self, theirs: datetime | None, before: datetime, after: datetime) -> None:
        expected = f"a Date within {SKEW_NOTED.total_seconds():g} s of our clock"
        if theirs is None:
            self._note("note", "clock", expected, "no Date that can be read")
            return
        # The header has whole seconds, rounded down.
        self.examination.skew = apart = skew(before, theirs, after, resolution=_SECOND)
        level: HabitLevel = "ok" if abs(apart) <= SKEW_NOTED else "note" if abs(apart) <= SKEW_REFUSED else "deviation"
        ahead = "ahead of" if apart > timedelta(0) else "behind"
        seen = "they agree" if level == "ok" else f"{abs(apart).total_seconds():.0f} s {ahead} ours"
        self._note(level, "clock", expected, seen)

    # The listing

    async def _read_one_page(self) -> None:
        page = await self._page(self._start, self._end, LARGEST_PAGE)
        self._rows = page.rows

    async def _walk(self) -> None:
        pages = [await self._page(self._start, self._end, LARGEST_PAGE)]
        while len(pages) < _PAGES and (cursor := pages[-1].next_cursor) is not None:
            pages.append(await self._page(self._start, self._end, LARGEST_PAGE, cursor))
        self._rows = list({read_head(row).market_id or row: row for page in pages for row in page.rows}.values())
        self._judge_envelope(pages[0])
        self._judge_cursors(pages)
        self._judge_repeats(pages)
        self._judge_window()
        self._judge_state()

    def _judge_envelope(self, page: _Page) -> None:
        expected = "an object with `markets` and, before the last page, `next_cursor`"
        unknown = page.members - {"markets", "next_cursor"}
        more = f", and {_listed(unknown)}" if unknown else ""
        self._note("note" if unknown else "ok", "envelope", expected, f"{len(page.rows)} markets{more}")

    def _judge_cursors(self, pages: Sequence[_Page]) -> None:
        name, expected = "next cursor", "on every full page, absent on the last one"
        sizes = [len(page.rows) for page in pages]
        last = pages[-1]
        if len(last.rows) >= LARGEST_PAGE and last.next_cursor is None:
            self._note("deviation", name, expected, f"page {len(pages)} is full and names none: walks would end there")
        elif any(size < LARGEST_PAGE and page.next_cursor for size, page in zip(sizes, pages, strict=True)):
            seen = f"pages of {_joined(sizes)} rows name one: the page size has changed, or the last page has one"
            self._note("note", name, expected, seen)
        else:
            self._note("ok", name, expected, f"pages of {_joined(sizes)} rows")

    def _judge_repeats(self, pages: Sequence[_Page]) -> None:
        name, expected = "paging advances", f"no market twice in {_PAGES} pages"
        if len(pages) == 1:
            self._note("note", name, expected, "one page only, nothing to compare")
            return
        seen: set[str] = set()
        repeated = 0
        for number, page in enumerate(pages, 1):
            new = set(page.ids) - seen
            if not new:
                detail = f"page {number} holds nothing new: `after_cursor` is ignored, or no longer its name"
                self._note("deviation", name, expected, detail)
                return
            repeated += len(page.ids) - len(new)
            seen |= new
        self._note("note" if repeated else "ok", name, expected, f"{repeated} of {len(seen)} markets came again")

    def _judge_window(self) -> None:
        name, expected = "rows within the window", "only markets that end from end_date_min to end_date_max"
        ends = [at for row in self._rows if (at := parse_instant(read_head(row).end_date)) is not None]
        if not ends:
            level: HabitLevel = "deviation" if self._rows else "note"
            self._note(level, name, expected, "no market with an end date that can be read")
            return
        outside = sum(not self._start <= at <= self._end for at in ends)
        level = "ok" if not outside else "deviation" if outside > len(ends) / 2 else "note"
        self._note(level, name, expected, f"{outside} of {len(ends)} end outside of it")

    def _judge_state(self) -> None:
        rows = [_object(row) for row in self._rows]
        closed = sum(read_closed(row.get("closed"))[0] for row in rows)
        level: HabitLevel = "deviation" if closed else "ok"
        self._note(level, "closed=false", "open markets only", f"{closed} of {len(rows)} are closed")
        odd = sum(row.get("active") is False or row.get("archived") is True for row in rows)
        level = "deviation" if odd / max(1, len(rows)) > self._limit else "note" if odd else "ok"
        expected = "markets that are active and not archived"
        self._note(level, "listed markets", expected, f"{odd} of {len(rows)} are not: a run excludes them")

    async def _ask_for_too_much(self) -> None:
        name, expected = "largest page", f"limit=1000 is answered with {LARGEST_PAGE} rows"
        status, body = await self._ask(
            self._gamma, "GET", LISTING, params=listing_params(self._start, self._end, LARGEST_PAGE * 10)
        )
        if status != 200:
            self._note("note", name, expected, f"status {status}: {error_text(body)}")
            return
        rows, cursor = split_page(body, LISTING)
        if len(rows) < LARGEST_PAGE and cursor is None:
            self._note("note", name, expected, f"the window has only {len(rows)} markets: not to be seen")
            return
        self._note("ok" if len(rows) == LARGEST_PAGE else "note", name, expected, f"{len(rows)} rows")

    async def _judge_bounds(self) -> None:
        """Around an instant at which few markets end, so that one page holds them all."""
        ends: Counter[datetime] = Counter()
        for row in self._rows:
            at = parse_instant(read_head(row).end_date)
            if at is not None and at.microsecond == 0 and self._start < at < self._end:
                ends[at] += 1
        if not ends:
            self._note("note", "bounds", "markets that end at one instant", "none to ask for")
            return
        instant = min(ends, key=lambda at: (ends[at], at))
        known = {head.market_id for row in self._rows if parse_instant((head := read_head(row)).end_date) == instant}
        page = await self._page(instant - _SECOND, instant + _SECOND, LARGEST_PAGE)
        missing = len(known - set(page.ids))
        expected = "a window of two seconds holds the markets that end in its middle"
        full = len(page.rows) >= LARGEST_PAGE
        level: HabitLevel = "ok" if not missing else "deviation" if missing == len(known) and not full else "note"
        self._note(level, "narrow window", expected, f"{missing} of {len(known)} missing")
        if not full:
            await self._judge_last_page(page, instant)
        await self._judge_inclusiveness(instant)

    async def _judge_last_page(self, page: _Page, instant: datetime) -> None:
        name, expected = "last page", "no next_cursor"
        if page.next_cursor is None:
            self._note("ok", name, expected, f"none after {len(page.rows)} rows")
            return
        after = await self._page(instant - _SECOND, instant + _SECOND, LARGEST_PAGE, page.next_cursor)
        ended = after.next_cursor is None
        seen = "one, and an empty page after it" if ended else "one, and another after it: walks would not end"
        self._note("note" if ended else "deviation", name, expected, seen)

    async def _judge_inclusiveness(self, instant: datetime) -> None:
        """Either way is fine, since the client asks first and cuts by itself; that it may ask is what matters."""
        both = await self._page(instant, instant, 1)
        if _ends_at(both.rows, instant):
            seen = "end_date_min and end_date_max are inclusive"
        else:
            upper = await self._page(instant - _SECOND, instant, LARGEST_PAGE)
            found = _ends_at(upper.rows, instant)
            seen = f"end_date_max is {'inclusive, end_date_min is not' if found else 'exclusive'}"
        self._note("ok", "inclusive bounds", "either", seen)

    async def _ask_for_nothing(self) -> None:
        page = await self._page(self._end + _FAR, self._end + _FAR + _SECOND, LARGEST_PAGE)
        name, expected = "empty window", "no markets, no next_cursor"
        if page.rows or page.next_cursor:
            seen = f"{len(page.rows)} markets{' and a next_cursor' if page.next_cursor else ''}"
            self._note("deviation", name, expected, seen)
        else:
            self._note("ok", name, expected, "nothing")

    async def _ask_badly(self) -> None:
        params = listing_params(self._start, self._end, 1, "not a cursor of yours")
        status, body = await self._ask(self._gamma, "GET", LISTING, params=params)
        detail = (
            f"status {status}: {error_text(body)}" if status != 200 else "status 200 with a page: walks would restart"
        )
        self._note(_refusal(status, "deviation"), "bad cursor", "status 422", detail)
        params = listing_params(self._start, self._end, 1) | {"end_date_min": "soon"}
        status, body = await self._ask(self._gamma, "GET", LISTING, params=params)
        detail = f"status {status}: {error_text(body)}" if status != 200 else "status 200: a bad date is ignored"
        self._note(_refusal(status, "note"), "bad date", "status 422", detail)

    # The rows

    async def _judge_rows(self) -> None:
        if not self._rows:
            days = f"{self._start:%Y-%m-%d} to {self._end:%Y-%m-%d}"
            self._note("deviation", "rows", "open markets in the next two weeks", f"none from {days}")
            return
        self._judge_normalization()
        rows = [row for row in map(_object, self._rows) if row]
        events = [event for row in rows for event in _objects(row.get("events"))]
        self._judge_mandatory_keys(rows)
        self._judge_forms(rows)
        self._judge_embedded_event(rows)
        self._judge_tags(rows)
        self._judge_keys("market", GammaMarket, rows)
        self._judge_keys("event", GammaEvent, events)

    def _judge_normalization(self) -> None:
        cohort = normalize_cohort(
            ((row, None) for row in self._rows),
            read_row,
            captured_at=self._clock.now(),
            filters=Filters(),
            core_size=0,
            seed=0,
        )
        self._markets = cohort.markets
        name, expected = "rows that are read", f"at most {self._limit:.0%} rejected (REJECTED_SHARE_LIMIT)"
        share = len(cohort.rejected) / cohort.offered
        reasons = Counter(rejected.reason for rejected in cohort.rejected)
        seen = f"{len(cohort.rejected)} of {cohort.offered} rejected"
        if reasons:
            seen += ": " + "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common(_SHOWN))
        level: HabitLevel = "deviation" if share > self._limit else "note" if share > self._limit / 4 else "ok"
        self._note(level, name, expected, seen)
        worst = max(cohort.unreadable.values(), default=0) / cohort.offered
        level = "deviation" if worst > self._limit else "note" if cohort.unreadable else "ok"
        detail = ", ".join(f"{key} in {count} rows" for key, count in sorted(cohort.unreadable.items()))
        seen = f"unreadable: {detail}" if detail else "all"
        self._note(level, "optional keys that are read", "each, where it is sent", seen)

    def _judge_mandatory_keys(self, rows: Sequence[Mapping[str, Any]]) -> None:
        missing = Counter(key for row in rows for key in MANDATORY if key not in row)
        ids = [ids_key(row.get("version")) for row in rows]
        missing.update(key for row, key in zip(rows, ids, strict=True) if key is not None and key not in row)
        worst = max(missing.values(), default=0) / len(rows)
        detail = ", ".join(f"{key} missing in {count} of {len(rows)}" for key, count in missing.items())
        level: HabitLevel = "ok" if not missing else "deviation" if worst > self._limit else "note"
        expected = f"{_joined(MANDATORY)}, and the outcome ids of the version"
        self._note(level, "mandatory keys", expected, detail or f"in all {len(rows)} rows")
        versions = Counter(str(row.get("version", "none")) for row in rows)
        unknown = sum(key is None for key in ids)
        level = "ok" if not unknown else "deviation" if unknown / len(rows) > self._limit else "note"
        detail = ", ".join(f"{shortened(version)[1:-1]} in {count}" for version, count in versions.most_common(_SHOWN))
        self._note(level, "versions", "v1 (or none) and v2, whose outcome ids are known", detail)

    def _judge_forms(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Check the forms of values. The client reads other forms too, but a change is news."""
        odd = Counter(key for row in rows for key in list_keys(GammaMarket) if not isinstance(row.get(key, ""), str))
        self._note(*_form("lists", "JSON inside a string", odd, "sent as another type"))
        odd = Counter(key for row in rows for key in ("id", "conditionId") if not isinstance(row.get(key, ""), str))
        self._note(*_form("ids", "strings", odd, "sent as another type"))
        keys = {key for names in wire_names(GammaMarket).values() for key in names}
        odd = Counter(key for row in rows for key in keys & row.keys() if row[key] is None)
        self._note(*_form("absent values", "a missing key rather than null", odd, "null"))

    def _judge_embedded_event(self, rows: Sequence[Mapping[str, Any]]) -> None:
        numbers = [len(_objects(row.get("events"))) for row in rows]
        named = sum(any(event.get("id") for event in _objects(row.get("events"))) for row in rows)
        without, several = len(rows) - named, sum(number > 1 for number in numbers)
        level: HabitLevel = "deviation" if without / len(rows) > self._limit else "note" if without or several else "ok"
        seen = f"{named} of {len(rows)} rows have one" + (f", {several} have several" if several else "")
        self._note(level, "embedded event", "one in every row, with an id", seen)

    def _judge_tags(self, rows: Sequence[Mapping[str, Any]]) -> None:
        tagged = sum(bool(_objects(row.get("tags"))) for row in rows)
        seen = f"{tagged} of {len(rows)} rows have tags"
        self._note("ok" if tagged else "deviation", "include_tag=true", "tags, by which markets are categorised", seen)

    def _judge_keys(self, kind: str, model: type[Payload], rows: Sequence[Mapping[str, Any]]) -> None:
        """Report keys of the model that are no longer sent, and keys that are sent and not read."""
        if not rows:
            return
        sent = {key for row in rows for key in row}
        names = wire_names(model)
        gone = [keys[0] for keys in names.values() if sent.isdisjoint(keys)]
        seen = f"in none of {len(rows)}: {_listed(gone)}" if gone else "all"
        self._note("note" if gone else "ok", f"{kind} keys", "each of the model in some row", seen)
        unread = sorted(sent - {key for keys in names.values() for key in keys})
        self._note("note", f"unread {kind} keys", "compare with the last time", ", ".join(unread) or "none")

    # The order books

    async def _judge_quotes(self, most: int) -> None:
        markets = {market.contracts[0].contract_id: market for market in self._markets[:most]}
        tokens = [token for token in markets if token.isascii() and token.isdecimal()]
        if not tokens:
            self._note("note", "quotes", "best bid and ask of a market's token", "no market to ask for")
            return
        body = await self._prices(tokens)
        quotes = {quote.token_id: quote for quote in _quotes(body, self._clock.now())}
        found = [quotes[token] for token in tokens if token in quotes]
        self._quoted = bool(found)
        two_sided = [quote for quote in found if quote.bid is not None and quote.ask is not None]
        level: HabitLevel = "ok" if two_sided else "deviation" if not found else "note"
        seen = f"{len(found)} of {len(tokens)} tokens quoted, {len(two_sided)} on both sides"
        self._note(level, "quotes", "best bid and ask of each token in one request", seen)
        self._judge_sides(body)
        self._judge_outcome([quote for quote in two_sided if _spread(quote) <= GOOD_SPREAD], markets)

    async def _prices(self, tokens: Sequence[str]) -> bytes:
        status, body = await self._ask(self._clob, "POST", PRICES, json=prices_request(tokens))
        if status != 200:
            raise RequestRefused(PRICES, status, error_text(body))
        return body

    def _judge_sides(self, body: bytes) -> None:
        """Check quotes of one side alone, which only their name shows."""
        buys = sells = 0
        for sides in map(_object, object_members(body).values()):
            buy, sell = order_price(sides.get("BUY")), order_price(sides.get("SELL"))
            if buy is not None and sell is not None:
                buys += buy < sell
                sells += sell < buy
        if not buys and not sells:
            level, seen = "note", "no quote with two different sides"
        else:
            level, seen = "deviation" if sells else "ok", f"BUY is the lower one in {buys}, SELL in {sells}"
        self._note(level, "sides of a quote", "BUY is the bid", seen)  # type: ignore[arg-type]

    def _judge_outcome(self, quotes: Sequence[Quote], markets: Mapping[str, Market]) -> None:
        """Gamma's price of the first outcome must be near the CLOB's of the first token."""
        apart, mirrored = [], []
        for quote in quotes:
            shown = markets[quote.token_id].contracts[0].price
            if quote.bid is None or quote.ask is None or shown is None:
                continue
            # With a wide spread Gamma shows the last trade instead.
            middle = (quote.bid + quote.ask) / 2
            apart.append(abs(shown - middle))
            mirrored.append(abs(1 - shown - middle))
        name, expected = "first outcome", f"prices of row and quote at most {_PRICES_APART:.2f} apart, the middle one"
        if not apart:
            self._note("note", name, expected, "nothing to compare")
            return
        far, other = median(apart), median(mirrored)
        level: HabitLevel = "ok" if far <= _PRICES_APART else "deviation" if other < far else "note"
        detail = " as if the second outcome's" if level == "deviation" else ""
        self._note(level, name, expected, f"{far:.3f} apart in {len(apart)}{detail}")

    async def _judge_price_history(self) -> None:
        """A run goes on without, so nothing here is a deviation."""
        name, expected = "price history", "for most tokens a price of a day before, in one request"
        known = (market.contracts[0].contract_id for market in self._markets)
        tokens = [token for token in known if token.isascii() and token.isdecimal()][:HISTORIES_PER_REQUEST]
        if not tokens:
            self._note("note", name, expected, "no market to ask for")
            return
        try:
            request = history_request(tokens, *past_span(self._opens))
            status, body = await self._ask(self._clob, "POST", PRICE_HISTORY, json=request)
            if status != 200:
                self._note("note", name, expected, f"status {status}: {error_text(body)}")
                return
            found = len(read_past_prices(body, self._opens).keys() & set(tokens))
        except (RequestFailed, UnreadableHistory) as error:
            self._note("note", name, expected, str(error))
            return
        self._note("ok" if found > len(tokens) / 2 else "note", name, expected, f"{found} of {len(tokens)} have one")

    async def _ask_for_an_unknown_token(self) -> None:
        known = [market.contracts[0].contract_id for market in self._markets[:_SHOWN]]
        if not known:
            return
        name, expected = "unknown token", "left out of the answer, without harm to the others"
        status, answer = await self._ask(self._clob, "POST", PRICES, json=prices_request([*known, _UNKNOWN]))
        if status != 200:
            # The client asks again in halves, which takes longer.
            level: HabitLevel = "note" if self._quoted else "deviation"
            self._note(level, name, expected, f"status {status} for the whole batch: {error_text(answer)}")
            return
        quoted = {quote.token_id for quote in _quotes(answer, self._clock.now())}
        seen = "quoted" if _UNKNOWN in quoted else f"left out, {len(quoted)} of {len(known)} others quoted"
        self._note("deviation" if _UNKNOWN in quoted else "ok", name, expected, seen)


def _quotes(body: bytes, at: datetime) -> list[Quote]:
    try:
        return read_prices(body, at=at).quotes
    except UnreadablePrices as error:
        raise UnexpectedAnswer(f"{PRICES} answered no map from tokens to sides: {error}") from error


def _spread(quote: Quote) -> float:
    return 1.0 if quote.bid is None or quote.ask is None else quote.ask - quote.bid


def _refusal(status: int, otherwise: HabitLevel) -> HabitLevel:
    """The client takes any status of the 400s for a refusal."""
    return "ok" if status == 422 else "note" if 400 <= status < 500 else otherwise


def _form(name: str, expected: str, odd: Counter[str], how: str) -> tuple[HabitLevel, str, str, str]:
    seen = ", ".join(f"{key} in {count} rows" for key, count in sorted(odd.items()))
    return ("note", name, expected, f"{how}: {seen}") if odd else ("ok", name, expected, "in all rows")


def _ends_at(rows: Iterable[bytes], instant: datetime) -> bool:
    return any(parse_instant(read_head(row).end_date) == instant for row in rows)


def _object(row: bytes) -> dict[str, Any]:
    """A row as a dictionary; an empty one where it is none."""
    try:
        value = msgspec.json.decode(row)
    except DECODE_ERRORS:
        return {}
    return value if isinstance(value, dict) else {}


def _objects(value: object) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _members(body: bytes) -> list[str]:
    return list(_object(body))


def _joined(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))


def _listed(keys: Iterable[str]) -> str:
    return ", ".join(sorted(keys))
