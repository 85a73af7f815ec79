"""A snapshot's rows: the count that always adds up, filters, clusters."""

import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictbench_assets.exchanges.polymarket.reading import read_row
from predictbench_assets.markets.cohort import Cohort, Filters, normalize_cohort
from predictbench_assets_tests.kit.builders import wire_row

NOW = datetime(2026, 11, 23, 7, tzinfo=UTC)


def cohort(rows: list[bytes], filters: Filters = Filters(), core_size: int = 0) -> Cohort:  # noqa: B008 - frozen
    offered = ((raw, None) for raw in rows)
    return normalize_cohort(offered, read_row, captured_at=NOW, filters=filters, core_size=core_size, seed=1)


def ids(found: Cohort) -> list[str]:
    return [market.market_id for market in found.markets]


def test_a_bad_row_stops_no_other_and_the_order_is_kept() -> None:
    found = cohort([wire_row(id="3"), wire_row(id="2", question=None), b"{}", wire_row(id="1")])
    assert ids(found) == ["3", "1"]
    assert [(each.market_id, each.field) for each in found.rejected] == [("2", "question"), (None, "id")]
    assert found.offered == 4


def test_the_second_row_with_one_id_is_rejected() -> None:
    found = cohort([wire_row(id="3"), wire_row(id="3", question="Again?")])
    assert ids(found) == ["3"]
    assert [(each.market_id, each.field) for each in found.rejected] == [("3", "id")]


def test_unreadable_optional_keys_are_counted() -> None:
    found = cohort(
        [wire_row(id="1", startDate="soon"), wire_row(id="2", startDate="NOW()", volumeNum={}), wire_row(id="3")]
    )
    assert found.unreadable == {"startDate": 2, "volumeNum": 1}
    assert len(found.markets) == 3


def test_filters_count_what_they_leave_out_by_reason() -> None:
    rows = [
        wire_row(id="1", liquidityNum=1, volumeNum=50),
        wire_row(id="2", liquidityNum=None, volumeNum=50),
        wire_row(id="3", liquidityNum=9, volumeNum=2),
        wire_row(id="4", liquidityNum=9, volumeNum=30),
        wire_row(id="5", liquidityNum=9, volumeNum=50),
        wire_row(id="6", liquidityNum=9, volumeNum=40),
        wire_row(id="7", liquidityNum=9, volumeNum=40),
    ]
    found = cohort(rows, Filters(min_liquidity=5, min_volume=10, max_markets=3, limit=2))
    assert found.excluded == {"min_liquidity": 2, "min_volume": 1, "max_markets": 1, "limit": 1}
    assert ids(found) == ["5", "6"]
    assert cohort(rows).excluded == {}


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"closed": True}, "closed"),
        ({"closed": "true"}, "closed"),
        ({"closed": True, "outcomePrices": '["1", "0"]', "active": False}, "closed"),
        ({"archived": True}, "archived"),
        ({"active": False, "outcomePrices": None}, "inactive"),
    ],
)
def test_a_row_that_says_it_is_not_open_is_excluded_and_counted(said: dict[str, Any], reason: str) -> None:
    found = cohort([wire_row(id="1", **said), wire_row(id="2", **said), wire_row(id="3")], Filters(limit=0))
    assert found.excluded == {reason: 2, "limit": 1}
    assert (found.offered, found.rejected) == (3, [])
    assert ids(cohort([wire_row(id="1", **said), wire_row(id="3")])) == ["3"]


@pytest.mark.parametrize(
    "said",
    [
        {"closed": False, "active": True, "archived": False},
        # It may have been reopened, and the flag is not kept up to date.
        {"closedTime": "2026-11-20 00:00:00+00", "acceptingOrders": False},
        {"umaResolutionStatus": "proposed"},
    ],
)
def test_a_row_that_contradicts_nothing_is_a_market(said: dict[str, Any]) -> None:
    found = cohort([wire_row(id="1", **said)])
    assert (ids(found), found.excluded) == (["1"], {})


amounts = st.none() | st.integers(0, 5)


@given(
    st.lists(st.tuples(st.integers(1, 12), amounts, amounts, st.booleans()), max_size=15),
    st.builds(
        Filters,
        min_liquidity=st.integers(0, 4),
        min_volume=st.integers(0, 4),
        max_markets=st.none() | st.integers(0, 8),
        limit=st.none() | st.integers(0, 8),
    ),
)
def test_each_row_is_in_exactly_one_place(drawn: list[tuple[Any, ...]], filters: Filters) -> None:
    rows = [
        wire_row(id=str(number), liquidityNum=liquidity, volumeNum=volume, question="?" if fine else None)
        for number, liquidity, volume, fine in drawn
    ]
    found = cohort(rows, filters, core_size=4)
    assert len(rows) == found.offered
    assert found == cohort(rows, filters, core_size=4)
    assert sum(market.core for market in found.markets) <= 4
    assert all((market.core_weight is not None) == market.core for market in found.markets)


def clusters(*rows: bytes) -> dict[str, str]:
    return {market.market_id: market.cluster for market in cohort(list(rows)).markets}


def test_markets_that_depend_on_each_other_share_a_cluster() -> None:
    found = clusters(
        wire_row(id="1", events=[{"id": "50"}]),
        wire_row(id="2", events=[{"id": "50"}], negRiskMarketID="0xg"),
        wire_row(id="3", negRiskMarketID="0xg"),
        wire_row(id="4", events=[{"id": "60", "seriesSlug": "btc"}]),
        wire_row(id="5", events=[{"id": "7", "series": [{"slug": "btc"}]}]),
        wire_row(id="6", events=[{"id": "61", "seriesSlug": "btc"}], endDate="2026-12-01T00:00:00Z"),
        wire_row(id="7", gameId="900", events=[{"id": "70"}]),
        wire_row(id="8", events=[{"id": "71", "gameId": 900, "parentEventId": 70}]),
        wire_row(id="9"),
    )
    assert found == {
        "1": "event:50",
        "2": "event:50",
        "3": "event:50",
        "4": "event:7",
        "5": "event:7",
        "6": "event:61",
        "7": "game:900",
        "8": "game:900",
        "9": "market:9",
    }


@pytest.mark.parametrize(
    ("key", "value", "field"),
    [
        ("gameId", "9" * 300, "gameId"),
        ("negRiskMarketID", "n" * 300, "negRiskMarketID"),
        ("events", [{"id": "5"}, {"id": "e" * 300}], "events"),
        ("events", [{"id": "5", "parentEventId": "e" * 300}], "events"),
        ("events", [{"id": "5", "seriesSlug": "s" * 300}], "events"),
    ],
)
def test_an_endless_id_of_a_group_costs_its_own_row_and_not_the_group(key: str, value: object, field: str) -> None:
    endless = {"id": "1", "events": [{"id": "5"}], key: value}
    found = cohort([wire_row(**endless), wire_row(id="2", events=[{"id": "5"}])])
    assert [(each.market_id, each.field) for each in found.rejected] == [("1", field)]
    assert [(market.market_id, market.cluster) for market in found.markets] == [("2", "event:5")]


def test_two_games_of_a_league_on_one_day_are_independent() -> None:
    league = {"seriesSlug": "k-league"}
    found = clusters(
        wire_row(id="1", events=[{"id": "1", "gameId": 1, **league}]),
        wire_row(id="2", events=[{"id": "2", "gameId": 2, **league}]),
        wire_row(id="3", sportsMarketType="totals", events=[{"id": "3", **league}]),
    )
    assert len(set(found.values())) == 3


@given(st.permutations(range(6)))
def test_clusters_do_not_depend_on_the_order_of_the_rows(order: list[int]) -> None:
    rows = [
        wire_row(id="1", events=[{"id": "9"}]),
        wire_row(id="2", events=[{"id": "9"}, {"id": "10"}]),
        wire_row(id="3", events=[{"id": "10"}], negRiskMarketID="0xg"),
        wire_row(id="4", negRiskMarketID="0xg", gameId="5"),
        wire_row(id="5", events=[{"id": "11"}]),
        wire_row(id="6", gameId="5", events=[{"id": "12", "parentEventId": "11"}]),
    ]
    assert set(clusters(*[rows[index] for index in order]).values()) == {"game:5"}


def test_a_cluster_is_named_alike_on_other_days_and_by_what_came_first() -> None:
    ladder = [
        wire_row(id=str(day), events=[{"id": "9", "seriesSlug": "s"}], endDate=f"2026-12-{day}T00:00:00Z")
        for day in (10, 11)
    ]
    newcomer = wire_row(id="12", events=[{"id": "10", "seriesSlug": "s"}], endDate="2026-12-10T00:00:00Z")
    assert clusters(ladder[0])["10"] == clusters(ladder[1])["11"] == clusters(ladder[0], newcomer)["12"] == "event:9"


def test_a_filter_changes_no_cluster() -> None:
    rows = [
        wire_row(id="1", events=[{"id": "5"}], volumeNum=9),
        wire_row(id="2", events=[{"id": "5"}], negRiskMarketID="0xg", volumeNum=0),
        wire_row(id="3", negRiskMarketID="0xg", volumeNum=9),
    ]
    found = cohort(rows, Filters(min_volume=1))
    assert [market.cluster for market in found.markets] == ["event:5", "event:5"]


@pytest.mark.long
def test_a_day_of_20_000_markets_fits_in_memory() -> None:
    def rows() -> Iterator[tuple[bytes, None]]:
        for number in range(20_000):
            events = [{"id": str(number // 7), "title": f"Event {number // 7}", "slug": f"event-{number // 7}"}]
            yield wire_row(id=str(number), description=f"{number} rules " * 150, events=events), None

    tracemalloc.start()
    try:
        found = normalize_cohort(rows(), read_row, captured_at=NOW, filters=Filters(), core_size=300, seed=1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(found.markets) == 20_000
    assert peak < 250 * 2**20
