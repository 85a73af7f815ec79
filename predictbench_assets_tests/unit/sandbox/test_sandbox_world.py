"""The sandbox's world: exact in number, the same everywhere, and true to the rules of its kinds of events."""

import math
import statistics
import subprocess
import sys
from collections import Counter, defaultdict
from datetime import date, time, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictbench_assets.sandbox.poison import HIDES_END, REJECTABLE
from predictbench_assets.sandbox.world import DAY, HOUR, Market, World

CLOSING = date(2026, 11, 30)
MIDNIGHT = (CLOSING - date(1970, 1, 1)).days * DAY


def cohort(world: World, at: int, midnight: int = MIDNIGHT) -> list[Market]:
    """Markets of the day that are listed and open at that instant."""
    return [market for market in world.listed(at, midnight, midnight + DAY - 1) if not market.is_closed(at)]


@pytest.fixture(scope="module")
def world() -> World:
    return World(7, 800)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 7, 33, 600])
@pytest.mark.parametrize("hour", [0, 7, 23.99])
def test_exactly_the_asked_number_is_open_seven_days_ahead(size: int, hour: float) -> None:
    assert len(cohort(World(7, size), MIDNIGHT - 7 * DAY + int(hour * HOUR))) == size


@given(st.integers(0, 2**32), st.dates(date(2021, 1, 1), date(2040, 1, 1)), st.integers(0, DAY - 1))
@settings(max_examples=25, deadline=None)
def test_the_number_holds_for_any_seed_day_and_hour(seed: int, day: date, second: int) -> None:
    midnight = (day - date(1970, 1, 1)).days * DAY
    open_then = cohort(World(seed, 100), midnight - 7 * DAY + second, midnight)
    assert len(open_then) == 100
    assert len({market.number for market in open_then}) == 100


def test_one_seed_is_one_world_in_every_process(world: World) -> None:
    script = (
        "from datetime import date; from hashlib import sha256; from predictbench_assets.sandbox.world import World\n"
        "from predictbench_assets.sandbox.payloads import market_row\n"
        "rows = [market_row(m, 1764000000) for m in World(7, 800).day(date(2026, 11, 30)).markets]\n"
        "print(sha256(b''.join(rows)).hexdigest())"
    )
    command = [sys.executable, "-c", script]
    runs = {
        subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": salt}).stdout
        for salt in ("1", "2")
    }
    assert len(runs) == 1
    again = World(7, 800)
    again.day(CLOSING + timedelta(days=9))  # another day first
    assert again.day(CLOSING).markets == world.day(CLOSING).markets
    assert World(8, 800).day(CLOSING).markets != world.day(CLOSING).markets


def test_identifiers_are_unique_and_lead_back_to_their_market(world: World) -> None:
    markets = world.day(CLOSING).markets
    for market in markets:
        assert world.market(market.market_id) is market
        assert world.market_of_condition(market.condition_id) is market
        assert world.market_of_slug(market.slug) is market
        assert [world.market_of_token(token) for token in market.token_ids] == [(market, 0), (market, 1)]
        assert len(market.condition_id) == 66
        assert {len(token) for token in market.token_ids} == {77}
    assert len({token for market in markets for token in market.token_ids}) == 2 * len(markets)


@pytest.mark.parametrize("nonsense", ["", "0", "-1", "abc", "\uff19", "9" * 30, "0x", "x-", "99999999999"])
def test_identifiers_that_are_none_find_nothing(world: World, nonsense: str) -> None:
    assert world.market(nonsense) is None
    assert world.market_of_condition(nonsense) is None
    assert world.market_of_token(nonsense) is None
    assert world.market_of_slug(nonsense) is None
    assert world.event(nonsense) is None


def test_the_largest_day_has_numbers_enough_for_its_markets_and_events() -> None:
    world = World(7, 100_000)
    day = world.day(CLOSING)
    assert len(cohort(world, MIDNIGHT - 7 * DAY)) == 100_000
    next_day = MIDNIGHT // DAY - (date(2020, 1, 1) - date(1970, 1, 1)).days + 1
    for numbers in ([market.number for market in day.markets], [event.number for event in day.events]):
        assert len(set(numbers)) == len(numbers)
        assert max(numbers) < next_day * 200_000
    last = day.markets[-1]
    assert world.market(last.market_id) is last
    assert world.market_of_condition(last.condition_id) is last
    assert [world.market_of_token(token) for token in last.token_ids] == [(last, 0), (last, 1)]
    assert world.event(day.events[-1].event_id) is day.events[-1]
    assert world.members(last.event) == [last]


@pytest.mark.parametrize("share", [0.0, 0.5, 0.8, 1.0])
def test_the_share_of_markets_that_end_at_one_instant_can_be_set(share: float) -> None:
    world = World(3, 1000, concentration=share, instants=(time(0),))
    markets = cohort(world, MIDNIGHT - 7 * DAY)
    assert sum(market.ends == MIDNIGHT for market in markets) / 1000 == pytest.approx(share, abs=0.07)


def test_the_default_day_has_most_markets_at_two_instants(world: World) -> None:
    ends = Counter(market.ends for market in cohort(world, MIDNIGHT - 7 * DAY))
    assert 0.65 < sum(count for _, count in ends.most_common(2)) / 800 < 0.85


def test_all_kinds_of_events_occur_and_share_what_they_should(world: World) -> None:
    markets = world.day(CLOSING).markets
    assert {market.event.kind for market in markets} == {
        "group", "thresholds", "deadlines", "game", "single", "short",
    }  # fmt: skip
    assert len({market.event.category.name for market in markets}) >= 6
    assert any(not market.question.isascii() for market in markets)
    games = defaultdict(set)
    for market in markets:
        if market.event.kind == "game":
            games[market.event.number].add(market.sports_type)
    assert {"moneyline", "totals"} <= set.union(*games.values())
    assert {market.outcomes for market in markets if market.event.kind == "short"} == {("Up", "Down")}


def test_a_group_has_exactly_one_winner_and_its_truth_sums_to_one(world: World) -> None:
    at = MIDNIGHT - 7 * DAY
    groups = [event for event in world.day(CLOSING).events if event.kind == "group"]
    assert len(groups) > 20
    for event in groups:
        members = world.members(event)
        assert len(members) >= 2
        assert math.fsum(market.probability(at) for market in members) == pytest.approx(1)
        assert sum(market.settlement.payout == (1.0, 0.0) for market in members) == 1
        assert all(market.settlement.payout[0] in (0.0, 1.0) for market in members)


def test_a_ladder_of_deadlines_has_several_end_dates_in_one_event(world: World) -> None:
    ladders = [event for event in world.day(CLOSING).events if event.kind == "deadlines"]
    assert ladders
    for event in ladders:
        members = world.members(event)
        assert len({market.ends // DAY for market in members}) == len(members) == 3
        for at in range(event.begins, event.ends, DAY):
            chances = [market.probability(at) for market in sorted(members, key=lambda market: market.ends)]
            assert chances == sorted(chances)
        payouts = [market.settlement.payout[0] for market in sorted(members, key=lambda market: market.ends)]
        assert payouts == sorted(payouts)


def test_a_day_that_is_made_anew_leaves_the_ladders_as_they_were() -> None:
    world = World(7, 100)
    ladders = [event for event in world.day(CLOSING).events if event.kind == "deadlines"]
    before = [world.members(event) for event in ladders]
    for later in range(30, 160):  # more days than are kept
        world.day(CLOSING + timedelta(days=later))
    assert ladders
    assert [world.members(event) for event in ladders] == before


def test_short_markets_appear_on_the_last_day_only(world: World) -> None:
    shorts = [market for market in world.day(CLOSING).markets if market.event.kind == "short"]
    assert len(shorts) == 160
    assert all(market.ends - DAY <= market.created < market.ends for market in shorts)
    assert all(market.probability(market.created) == pytest.approx(0.5) for market in shorts)


def test_markets_close_early_late_and_after_disputes_and_some_are_split() -> None:
    markets = [market for day in range(4) for market in World(7, 3000).day(CLOSING + timedelta(days=day)).markets]
    early = sum(market.settlement.closed < market.ends for market in markets) / len(markets)
    assert 0.15 < early < 0.4
    assert any(market.settlement.closed > market.ends + 7 * DAY for market in markets)
    assert any("disputed" in market.oracle_statuses(market.settlement.closed) for market in markets)
    split = [market for market in markets if market.settlement.payout == (0.5, 0.5)]
    assert 0 < len(split) < 0.01 * len(markets)
    assert all(market.settlement.closed >= market.latent.decided for market in markets)


def test_quotes_surround_the_truth_and_some_books_are_thin_or_empty(world: World) -> None:
    at = MIDNIGHT - 7 * DAY
    depths = Counter()
    for market in cohort(world, at):
        quote, truth = market.quote(at), market.probability(at)
        depths[(quote.bid is None, quote.ask is None)] += 1
        if quote.bid is not None:
            assert 0 < quote.bid <= truth + 1e-9
        if quote.ask is not None:
            assert truth - 1e-9 <= quote.ask < 1
        assert quote.mirrored.mirrored == quote
    assert depths[(False, False)] > 400
    assert depths[(True, True)] > 10
    assert depths[(True, False)] > 40


def test_the_quoted_price_a_week_ahead_is_the_frequency_of_the_outcome() -> None:
    """The whole world, ladders, groups, games and early closing included: no bin is off by four clustered errors."""
    world, bins = World(11, 4000), defaultdict(lambda: defaultdict(list))
    for day in range(3):
        midnight = MIDNIGHT + 7 * DAY * day
        for market in cohort(world, midnight - 7 * DAY + 7 * HOUR, midnight):
            quote = market.quote(midnight - 7 * DAY + 7 * HOUR)
            if market.settlement.payout[0] != 0.5 and quote.bid and quote.ask and quote.ask - quote.bid < 0.1:
                price = (quote.bid + quote.ask) / 2
                won = market.settlement.payout[0]
                bins[int(price * 10)][market.event.number].append(won - price)
    assert set(bins) >= set(range(9))
    for events in bins.values():
        sums = [math.fsum(members) for members in events.values()]
        spread = math.sqrt(math.fsum(each**2 for each in sums))
        assert abs(math.fsum(sums)) < 4 * spread
    overall = [gap for events in bins.values() for members in events.values() for gap in members]
    assert abs(statistics.fmean(overall)) < 0.015


def test_an_exact_share_of_the_open_rows_is_poisoned() -> None:
    world = World(7, 5000, poison=0.01)
    found = Counter(market.poison for market in cohort(world, MIDNIGHT - 7 * DAY) if market.poison)
    assert found.total() == 50
    assert set(found) == set(REJECTABLE)
    hidden = [market for market in world.day(CLOSING).markets if market.poison in HIDES_END]
    assert hidden
    assert all(market.ends != MIDNIGHT for market in hidden)
    clean = World(7, 5000).day(CLOSING).markets
    assert [market.number for market in clean] == [market.number for market in world.day(CLOSING).markets]


def test_a_bounded_world_has_no_other_days() -> None:
    world = World(7, 100, start=CLOSING, days=2)
    found = {market.ends // DAY * DAY - MIDNIGHT for market in world.listed(MIDNIGHT - 7 * DAY)}
    assert found == {0, DAY}
    assert World(7, 100).market(next(iter(World(7, 100).day(CLOSING + timedelta(days=5)).markets)).market_id)
    assert world.market(World(7, 100).day(CLOSING + timedelta(days=5)).markets[0].market_id) is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"markets_per_day": -1}, "--markets"),
        ({"markets_per_day": 100_001}, "a day holds 0 to 100000 markets, got --markets 100001"),
        ({"poison": 1.5}, "poison"),
        ({"poisons": ("arsenic",)}, "arsenic"),
    ],
)
def test_impossible_worlds_are_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        World(7, **arguments)
