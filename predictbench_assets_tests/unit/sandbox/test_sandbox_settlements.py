"""Markets that settle when they are told to, as Gamma, the CLOB and the data API tell it."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from predictbench_assets.sandbox.exchange import ReplayWorld
from predictbench_assets.sandbox.server import SandboxServer, serve
from predictbench_assets.sandbox.world import Market, World

NOW = datetime(2026, 11, 23, 7, tzinfo=UTC)


@pytest.fixture
def world() -> World:
    return World(7, 40)


@pytest.fixture
def server(world: World) -> Iterator[SandboxServer]:
    with serve(world, now=NOW) as running:
        yield running


@pytest.fixture
def market(world: World) -> Market:
    day = world.day(date(2026, 11, 30))
    return next(one for one in day.markets if one.created < NOW.timestamp() < one.settlement.closed)


def row(server: SandboxServer, market: Market) -> dict[str, Any]:
    return httpx.get(f"{server.base_url}/markets/{market.market_id}").json()  # type: ignore[no-any-return]


def clob(server: SandboxServer, market: Market) -> list[tuple[Any, bool]]:
    body = httpx.get(f"{server.clob_url}/markets/{market.condition_id}").json()
    return [(token["price"], token["winner"]) for token in body["tokens"]]


def settle(server: SandboxServer, **body: Any) -> httpx.Response:
    return httpx.post(f"{server.base_url}/_sandbox/settle", json=body)


def test_a_market_is_paid_out_as_told_everywhere(server: SandboxServer, market: Market) -> None:
    assert row(server, market)["closed"] is False
    assert settle(server, market_id=market.market_id, payout=[0, 1]).status_code == 200
    gamma = row(server, market)
    assert (gamma["closed"], gamma["outcomePrices"]) == (True, '["0","1"]')
    assert gamma["closedTime"] == "2026-11-23 07:00:00+00"
    assert clob(server, market) == [(0, False), (1, True)]
    data = httpx.get(f"{server.data_url}/v2/resolutions", params={"condition": market.condition_id}).json()
    assert data["data"][0]["payouts"] == [0, 1_000_000]
    for closed, found in (("true", 1), ("false", 0)):
        params = {"condition_ids": market.condition_id, "closed": closed}
        assert len(httpx.get(f"{server.base_url}/markets/keyset", params=params).json()["markets"]) == found


def test_a_settlement_changes_and_is_taken_back(server: SandboxServer, market: Market) -> None:
    for payout, prices in (([1, 0], '["1","0"]'), ([0, 1], '["0","1"]'), ([0.5, 0.5], '["0.5","0.5"]')):
        settle(server, market_id=market.market_id, payout=payout)
        assert row(server, market)["outcomePrices"] == prices
    settle(server, market_id=market.market_id, payout=None)
    assert row(server, market)["closed"] is False
    # It outlives the days that are made anew.
    settle(server, market_id=market.market_id, payout=[0, 1])
    server.app.view.exchange.world.day.cache_clear()  # type: ignore[union-attr, attr-defined]
    server.set_time(NOW + timedelta(days=30))
    assert row(server, market)["outcomePrices"] == '["0","1"]'


def test_gamma_can_write_a_split_as_two_wins_and_nonsense(server: SandboxServer, market: Market) -> None:
    settle(server, market_id=market.market_id, payout=[1, 1])
    assert row(server, market)["outcomePrices"] == '["1","1"]'
    assert clob(server, market) == [(0.5, False), (0.5, False)]
    settle(server, market_id=market.market_id, payout=[1, 0], gamma=[0.9999, 0.0001])
    assert row(server, market)["outcomePrices"] == '["0.9999","0.0001"]'
    assert clob(server, market) == [(1, True), (0, False)]


def test_some_splits_of_the_world_are_written_as_two_wins() -> None:
    world = World(3, 400)
    markets = [one for day in range(20) for one in world.day(date(2026, 11, 1) + timedelta(days=day)).markets]
    splits = [one.settlement for one in markets if one.settlement.payout == (0.5, 0.5)]
    assert {split.shown for split in splits} == {(0.5, 0.5), (1.0, 1.0)}
    assert 0 < len(splits) < 0.01 * len(markets)


def test_a_market_vanishes_from_listings_and_identifiers(server: SandboxServer, market: Market) -> None:
    settle(server, market_id=market.market_id, vanish=True)
    assert httpx.get(f"{server.base_url}/markets/{market.market_id}").status_code == 404
    assert httpx.get(f"{server.clob_url}/markets/{market.condition_id}").status_code == 404
    params = {"end_date_min": "2026-11-30T00:00:00Z", "end_date_max": "2026-11-30T23:59:59Z", "limit": "100"}
    listed = httpx.get(f"{server.base_url}/markets/keyset", params=params).json()["markets"]
    assert listed
    assert market.market_id not in {one["id"] for one in listed}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"market_id": "1", "payout": [0, 1]}, 404),
        ({"market_id": "1", "vanish": True}, 404),
        ({"market_id": "1"}, 422),
        ({"market_id": "1", "payout": [1]}, 422),
        ({"market_id": "1", "payout": "yes"}, 422),
    ],
)
def test_what_cannot_be_meant_is_refused(server: SandboxServer, body: dict[str, Any], status: int) -> None:
    assert settle(server, **body).status_code == status


def test_from_the_same_process(server: SandboxServer, market: Market) -> None:
    server.settle(market.market_id, (0, 1))
    assert row(server, market)["outcomePrices"] == '["0","1"]'
    with pytest.raises(KeyError):
        server.settle("1", (0, 1))


def test_recorded_rows_settle_too(tmp_path: Path) -> None:
    rows = [{"id": str(number), "conditionId": f"0x{number}", "closed": False} for number in (1, 2)]
    with serve(ReplayWorld(rows), now=NOW) as server:
        assert settle(server, market_id="1", payout=[0, 1]).status_code == 200
        assert settle(server, market_id="2", vanish=True).status_code == 200
        assert settle(server, market_id="3", payout=[0, 1]).status_code == 404
        found = msgspec.json.decode(httpx.get(f"{server.base_url}/markets/1").content)
        assert (found["closed"], found["outcomePrices"]) == (True, '["0","1"]')
        assert httpx.get(f"{server.base_url}/markets/2").status_code == 404
        settle(server, market_id="1", payout=None)
        assert httpx.get(f"{server.base_url}/markets/1").json()["closed"] is False
