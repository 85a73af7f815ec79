"""Which questions are rungs of a ladder, and which of them implies which."""

import itertools
import json
from collections import defaultdict
from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictbench_assets.exchanges.polymarket.payloads import parse_instant
from predictbench_assets.sandbox.world import World
from predictbench_assets.scoring.ladders import implications, rung
from predictbench_assets_tests.kit.places import SAMPLES

ENDS = date(2026, 6, 30)


def implies(first: str, second: str, first_ends: date = ENDS, second_ends: date = ENDS) -> bool | None:
    """Whether the first question implies the second (True), or the other way round (False); None where neither does."""
    one, other = rung(first, first_ends), rung(second, second_ends)
    if one is None or other is None or one.ladder != other.ladder or one.position == other.position:
        return None
    return one.position < other.position


@pytest.mark.parametrize(
    ("surer", "likelier"),
    [
        ("Will Bitcoin be above $64,000 on March 9?", "Will Bitcoin be above $60,000 on March 9?"),
        ("Will Bitcoin be above $1.2 million?", "Will Bitcoin be above $900,000?"),
        ("Will Bitcoin be over $150k in June?", "Will Bitcoin be over $99,999.50 in June?"),
        ("Market cap (FDV) >$6B one day after launch?", "Market cap (FDV) >$2B one day after launch?"),
        ("Market cap <$2B?", "Market cap <$2.5B?"),
        ("Inflation \u2265 3.1%?", "Inflation \u2265 3.0%?"),
        ("Will Tessera close over $105 on June 30?", "Will Tessera close over $100 on June 30?"),
        ("Will inflation be below 2.5%?", "Will inflation be below 3%?"),
        ("Will it be 41°C or higher in Mirabel?", "Will it be 40°C or higher in Mirabel?"),
        ("Will the low be below -5°C?", "Will the low be below 3°C?"),
        ("Will the low be below \u22125°C?", "Will the low be below -3°C?"),
        ("Will she post 300+ times?", "Will she post 280+ times?"),
        ("Will 5 or fewer ships pass?", "Will 10 or fewer ships pass?"),
        ("Will more than 6 rockets launch by June 30?", "Will more than 5 rockets launch by June 30?"),
        ("Will turnout be at least 60 percent?", "Will turnout be at least 55 percent?"),
    ],
)
def test_thresholds_imply_each_other(surer: str, likelier: str) -> None:
    assert implies(surer, likelier) is True
    assert implies(likelier, surer) is False


@pytest.mark.parametrize(
    ("sooner", "later", "ends"),
    [
        ("Kraken IPO by June 30, 2026?", "Kraken IPO by December 31, 2026?", date(2027, 1, 1)),
        ("Will Vostria call an election by June 30?", "Will Vostria call an election by July 7?", date(2026, 7, 7)),
        ("Will it launch before June 30th, 2026?", "Will it launch before July 4th 2026?", date(2026, 7, 4)),
        # Neither names a year; the nominal end does.
        ("Will it launch by June 30?", "Will it launch by January 2?", date(2027, 1, 3)),
    ],
)
def test_an_earlier_deadline_implies_a_later_one(sooner: str, later: str, ends: date) -> None:
    assert implies(sooner, later, ENDS, ends) is True
    assert implies(later, sooner, ends, ENDS) is False


@pytest.mark.parametrize(
    "question",
    [
        "Will the Reds win?",
        "Will Bitcoin hit $60,000?",  # from above, or from below?
        "Will Ethereum reach $2,000 in November?",
        "Will the price be between $60 and $62?",
        "Will there be at least 5-9 strikes?",
        "Will it be 60\u201364°C?",
        "Will it be exactly above 60?",
        "Will Bitcoin not be above $60,000?",
        "Will Bitcoin be above $60,000 or below $50,000?",
        "Will more than 5 rockets and at least 3 planes start?",
        "Will more than 5 rockets launch with over 3 tons?",
        "Will no treaty be signed by June 30?",
        "Will she still be mayor by June 30?",
        "Will he remain in office before June 30?",
        "Won't it launch by June 30?",
        "Kraken IPO in 2025?",
        "Will it launch by February 30?",
        "Will it launch by July 31, 2026?",  # not when the market ends
        "Will it launch by July 31?",
        "Will the odds be above 5/1?",
        "",
    ],
)
def test_wordings_whose_order_is_in_doubt_are_on_no_ladder(question: str) -> None:
    assert rung(question, ENDS) is None


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Will Bitcoin be above $60,000?", "Will Bitcoin be below $64,000?"),
        ("Will Bitcoin be above $60,000?", "Will Ether be above $64,000?"),
        ("Will Bitcoin be above $60,000 on March 9?", "Will Bitcoin be above $64,000 on March 10?"),
        ("Will Bitcoin be above $60,000?", "Will Bitcoin be above $60k?"),
        ("Will it launch by June 30?", "Will it land by July 1?"),
        ("Will more than 5 rockets launch by June 30?", "Will more than 5 rockets launch by July 1?"),
        ("Will it launch by June 30?", "Will it launch before July 1?"),
    ],
)
def test_other_questions_are_other_ladders(first: str, second: str) -> None:
    assert implies(first, second, ENDS, date(2026, 7, 1)) is None
    assert implies(second, first, ENDS, date(2026, 7, 1)) is None


@given(st.text())
def test_any_text_can_be_asked(question: str) -> None:
    rung(question, ENDS)
    rung(f"above {question}", ENDS)
    rung(f"{question} or more by June {question}", ENDS)


@given(st.floats(0, 1e9), st.floats(0, 1e9))
def test_the_order_is_that_of_the_numbers(first: float, second: float) -> None:
    low, high = sorted((round(first, 2), round(second, 2)))
    answer = implies(f"Will it be above ${high:,.2f}?", f"Will it be above ${low:,.2f}?")
    assert answer is (None if low == high else True)


@given(st.dictionaries(st.integers(), st.integers(-5, 5)))
def test_neighbours_are_ordered_and_reach_from_end_to_end(positions: dict[int, int]) -> None:
    pairs = implications(positions)
    assert len(pairs) == max(0, len(set(positions.values())) - 1)
    assert all(positions[first] < positions[second] for first, second in pairs)
    assert all(one[1] == other[0] for one, other in itertools.pairwise(pairs))


# Ladders as they are


def test_the_sandboxes_ladders_are_all_found_and_their_truth_is_in_order() -> None:
    world, at = World(seed=3, markets_per_day=400), datetime(2026, 6, 22, 7, tzinfo=UTC)
    rungs, found = 0, 0
    for day in (date(2026, 6, 29), date(2026, 7, 6)):
        for market in world.day(day).markets:
            ladder = market.event.kind in ("thresholds", "deadlines")
            rungs += ladder
            position = rung(market.question, datetime.fromtimestamp(market.ends, UTC).date())
            found += ladder and position is not None
    assert found == rungs > 40

    compared = 0
    for event in world.day(date(2026, 6, 29)).events:
        if event.neg_risk:
            continue
        ladders: dict[str, dict[int, float]] = defaultdict(dict)
        members = world.members(event)
        for number, market in enumerate(members):
            if position := rung(market.question, datetime.fromtimestamp(market.ends, UTC).date()):
                ladders[position.ladder][number] = position.position
        for positions in ladders.values():
            for first, second in implications(positions):
                seconds = int(at.timestamp())
                assert members[first].probability(seconds) <= members[second].probability(seconds)
                compared += 1
    assert compared > 20


@pytest.mark.recorded
@pytest.mark.skipif(not SAMPLES.is_dir(), reason="no recorded payloads here: set PREDICTBENCH_SAMPLES")
def test_recorded_ladders_of_deadlines_are_in_order() -> None:
    events = json.loads((SAMPLES / "gamma/ladder_events_2026-07.json").read_text())
    found = []
    for event in events:
        ladders: dict[str, dict[str, float]] = defaultdict(dict)
        for market in event["markets"]:
            ends = parse_instant(market["endDate"])
            assert ends is not None
            if position := rung(market["question"], ends.date()):
                ladders[position.ladder][market["groupItemTitle"]] = position.position
        found += [pair for positions in ladders.values() for pair in implications(positions)]
    assert found == [
        ("March 31, 2026", "June 30"),
        ("June 30", "December 31, 2026"),
        ("October 31, 2025", "June 30, 2026"),
        ("June 30, 2026", "July 31, 2026"),
    ]


@pytest.mark.recorded
@pytest.mark.skipif(not SAMPLES.is_dir(), reason="no recorded payloads here: set PREDICTBENCH_SAMPLES")
def test_how_a_recorded_day_settled_breaks_no_order() -> None:
    """On that day "reach $3,250" came true and "reach $2,000" did not: such wordings must be on no ladder."""
    markets = json.loads((SAMPLES / "closing_day_2024-11-30/markets_resolved.json").read_text())
    ladders: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    outcomes = {market["question"]: float(json.loads(market["outcomePrices"])[0]) for market in markets}
    for market in markets:
        ends = parse_instant(market["endDate"])
        assert ends is not None
        if position := rung(market["question"], ends.date()):
            event = market["events"][0]["id"] if market.get("events") else market["question"]
            ladders[event, position.ladder][market["question"]] = position.position
    assert not any("reach" in ladder for _, ladder in ladders)
    for positions in ladders.values():
        for first, second in implications(positions):
            assert outcomes[first] <= outcomes[second]
