"""A sandbox day that is reconstructed after the fact is the day that was captured live, but for what is named here."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from predictbench_assets.clock import FixedClock
from predictbench_assets.exchanges.exchange import Capture
from predictbench_assets.exchanges.polymarket.client import PolymarketClient
from predictbench_assets.exchanges.polymarket.exchange import Polymarket
from predictbench_assets.exchanges.polymarket.kept_listings import KeptListings
from predictbench_assets.exchanges.polymarket.price_history import LOOK_BACK
from predictbench_assets.markets.cohort import Filters, normalize_cohort
from predictbench_assets.markets.market import Market
from predictbench_assets.runs import RunKey
from predictbench_assets.sandbox.afterwards import Afterwards
from predictbench_assets.sandbox.latent import uniform
from predictbench_assets.sandbox.payloads import NEW_BOOK, QUIET, QUIET_SHARE
from predictbench_assets.sandbox.server import SandboxServer, serve
from predictbench_assets.sandbox.world import Market as TrueMarket
from predictbench_assets.sandbox.world import World

FIRST = date(2026, 3, 2)
WINDOWS = (1, 3, 7)
OPENS_AFTER = 900
"""Seconds after which a listed market of the sandbox opens."""


@dataclass
class Compared:
    """What differs between captured and reconstructed cohorts, by the cause."""

    markets: int = 0
    missing: Counter[str] = field(default_factory=Counter)
    more: Counter[str] = field(default_factory=Counter)
    texts: Counter[str] = field(default_factory=Counter)
    unexplained: list[str] = field(default_factory=list)
    price_differences: list[float] = field(default_factory=list)


def hour_of(key: RunKey) -> datetime:
    return datetime(key.run_date.year, key.run_date.month, key.run_date.day, 7, tzinfo=UTC)


def cohort(made: Capture, exchange: Polymarket) -> dict[str, Market]:
    rows = ((row.raw, row.quote) for row in made.rows)
    read = normalize_cohort(
        rows, exchange.read, captured_at=made.captured_at, as_of=made.as_of, filters=Filters(), core_size=0, seed=1
    )
    return {market.market_id: market for market in read.markets}


def keys(days: int) -> Iterator[RunKey]:
    for number in range(days):
        for window in WINDOWS:
            yield RunKey(FIRST + timedelta(days=number), window)


def reader(server: SandboxServer, now: datetime, kept: KeptListings | None = None) -> Polymarket:
    clock = FixedClock(now)
    client = PolymarketClient(server.base_url, server.clob_url, clock=clock, requests_per_second=1_000, slices=2)
    return Polymarket(client, host="sandbox", clock=clock, kept=kept)


def compared(days: int, folder: Path, *, changed: float, rough: bool, markets_per_day: int = 40) -> Compared:
    """Captures of so many days and all windows, and reconstructions of the same, ten days after the last."""
    world = World(seed=5, markets_per_day=markets_per_day)
    exchange = Afterwards(world, changed)
    result = Compared()
    with serve(exchange, now=datetime(2026, 3, 2, 7, tzinfo=UTC)) as server:
        captured = {}
        for key in keys(days):
            if server.now < hour_of(key):
                server.set_time(hour_of(key))
            live = reader(server, hour_of(key))
            captured[key] = cohort(asyncio.run(live.capture(key.start, key.end)), live)
        later = server.now + timedelta(days=10)
        server.set_time(later)
        server.app.rough_histories = rough
        past = reader(server, later, KeptListings(folder, server.base_url))
        for key in keys(days):
            made = asyncio.run(past.reconstruct(key.start, key.end, hour_of(key)))
            compare(captured[key], cohort(made, past), exchange, hour_of(key), later, result)
        walks = server.requests["GET /markets/keyset"]
    assert walks > 0
    return result


def compare(
    live: dict[str, Market],
    made: dict[str, Market],
    exchange: Afterwards,
    as_of: datetime,
    later: datetime,
    result: Compared,
) -> None:
    at = int(as_of.timestamp())
    result.markets += len(live)
    for market_id in live.keys() | made.keys():
        true = exchange.find(market_id=market_id)
        assert true is not None
        change = exchange.change(true)
        kind = change[0] if change is not None and at < change[1] <= int(later.timestamp()) else None
        if market_id not in made:
            if kind in ("archived", "moved"):
                result.missing[kind] += 1
            elif true.created + OPENS_AFTER > at:
                result.missing["not open yet"] += 1
            elif true.depth == "empty":
                result.missing["no order"] += 1
            elif all(true.quote(hour).shown == 0.5 for hour in read_hours(true, at)):
                result.missing["at one half all the time"] += 1
            elif true.created + NEW_BOOK > at - 3_600:
                result.missing["new book"] += 1
            elif quiet(true.number, at):
                result.missing["quiet for six hours"] += 1
            else:
                result.unexplained.append(f"{market_id} is missing at {as_of}")
        elif market_id not in live:
            result.more["moved" if kind == "moved" else "?"] += 1
        else:
            check_market(live[market_id], made[market_id], kind, true, as_of, result)


def read_hours(true: TrueMarket, at: int) -> range:
    """The points of the history that a price and the one of a day before are looked for in."""
    return range(max(true.created // 3_600 * 3_600 + 3_600, at - 30 * 3_600), at + 1, 3_600)


def quiet(number: int, at: int) -> bool:
    hours = range(at - int(LOOK_BACK.total_seconds()), at + 1, 3_600)
    return all(uniform(number, 73, hour // QUIET) < QUIET_SHARE for hour in hours)


def check_market(
    live: Market, made: Market, kind: str | None, true: TrueMarket, as_of: datetime, result: Compared
) -> None:
    if (live.question, live.description) != (made.question, made.description):
        result.texts[kind or "?"] += 1
    if (live.close_time, live.contracts[0].contract_id, live.cluster) != (
        made.close_time,
        made.contracts[0].contract_id,
        made.cluster,
    ):
        result.unexplained.append(f"{live.market_id} has another end, token or cluster")
    price = made.price
    if price.value is None or price.at is None or not as_of - LOOK_BACK <= price.at <= as_of:
        result.unexplained.append(f"{live.market_id} has a price of {price.at}")
        return
    expected = true.quote(int(price.at.timestamp())).shown
    if abs(price.value - expected) > 1e-5:
        result.unexplained.append(f"{live.market_id} is priced {price.value}, and the book was {expected}")
    if live.price.quality == "good" and live.price.value is not None and price.at == as_of:
        result.price_differences.append(abs(price.value - live.price.value))


def check(result: Compared) -> None:
    assert not result.unexplained, result.unexplained[:5]
    assert "?" not in result.more + result.texts
    assert max(result.price_differences) < 1e-5, "on the history's grid it is the price itself"


def test_three_days_are_what_they_were_where_nothing_changed_later(tmp_path: Path) -> None:
    result = compared(3, tmp_path, changed=0.0, rough=False, markets_per_day=20)
    check(result)
    assert result.markets > 120
    assert set(result.missing) <= {"no order", "at one half all the time", "not open yet"}
    assert not result.more
    assert not result.texts


@pytest.mark.long
def test_thirty_days_are_what_they_were_but_for_what_is_named(tmp_path: Path) -> None:
    """Edited, moved and withdrawn markets; quiet hours, new books and payouts in the histories."""
    result = compared(30, tmp_path, changed=0.1, rough=True)
    check(result)
    print(result.markets, dict(result.missing), dict(result.more), dict(result.texts))  # noqa: T201 - the figures
    assert result.markets > 3_000
    assert result.missing.keys() >= {"archived", "moved", "no order"}
    assert result.more["moved"] > 0
    assert result.texts.keys() == {"edited"}
    assert sum(result.missing.values()) < 0.25 * result.markets
