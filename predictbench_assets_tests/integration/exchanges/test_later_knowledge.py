"""No row of a reconstruction knows more than its day did: a marker in each key of today's row, one at a time."""

import asyncio
import json
from datetime import UTC, datetime, time, timedelta
from typing import Any

import httpx
import msgspec
import pytest
import respx

from predictbench_assets.clock import FixedClock
from predictbench_assets.exchanges.exchange import Capture
from predictbench_assets.exchanges.polymarket.client import PolymarketClient
from predictbench_assets.exchanges.polymarket.payloads import outcome_ids, parse_instant
from predictbench_assets.exchanges.polymarket.reconstruction import reconstruct
from predictbench_assets.sandbox.server import serve
from predictbench_assets.sandbox.world import World
from predictbench_assets_tests.kit.later_knowledge import Row, is_kept, leaves, planted, with_later_keys
from predictbench_assets_tests.kit.places import SAMPLES

GAMMA, CLOB = "https://gamma.test", "https://clob.test"
HOUR = timedelta(hours=1)
DAY = datetime(2026, 3, 9, tzinfo=UTC)


def reconstructed(rows: list[Row], start: datetime, as_of: datetime) -> Capture:
    """What is put together of these closed rows, each with a price of 0.25."""

    def page(request: httpx.Request) -> httpx.Response:
        closed = request.url.params["closed"] == "true"
        return httpx.Response(200, json={"markets": rows if closed else []})

    def history(request: httpx.Request) -> httpx.Response:
        asked = json.loads(request.content)
        return httpx.Response(
            200, json={"history": {one: [{"t": asked["end_ts"], "p": 0.25}] for one in asked["markets"]}}
        )

    client = PolymarketClient(
        GAMMA, CLOB, clock=FixedClock(as_of + timedelta(days=90)), requests_per_second=1_000, slices=1
    )
    with respx.mock() as mock:
        mock.get(f"{GAMMA}/markets/keyset").mock(side_effect=page)
        mock.post(f"{CLOB}/batch-prices-history").mock(side_effect=history)
        return asyncio.run(
            reconstruct(client, start, start + timedelta(days=1), as_of, FixedClock(as_of + timedelta(days=90)))
        )


def shown(capture: Capture) -> dict[str, tuple[Row, Any]]:
    """Each row without its id, and its quote, by the id."""
    return {str(row.market_id): ({**msgspec.json.decode(row.raw), "id": ""}, row.quote) for row in capture.rows}


def check_every_key(row: Row) -> None:
    """A marker in any key that is not kept changes nothing at all; in any other one it is seen."""
    row = with_later_keys(row)
    ends, closed = parse_instant(row["endDate"]), parse_instant(row["closedTime"])
    assert ends is not None
    assert closed is not None
    as_of = min(ends, closed) - HOUR
    paths = [path for path in leaves(row) if path != ("id",)]
    variants = [planted(row, path, number) for number, path in enumerate(paths)]
    rows = [
        row | {"id": "1"},
        *({**variant, "id": str(1_000 + number)} for number, (variant, _) in enumerate(variants)),
    ]
    found = shown(reconstructed(rows, datetime.combine(ends, time(), UTC), as_of))
    plain = found["1"]
    for number, path in enumerate(paths):
        variant = found.get(str(1_000 + number))
        if path in (("active",), ("archived",)):
            assert variant is None, "withdrawn markets are not listed, neither then nor now"
        elif is_kept(path):
            assert variant != plain, f"{path} is on the list, and is not kept"
        else:
            assert variant == plain, f"{path} of a later day is known"


def closed_rows() -> dict[str, Row]:
    """A settled row of each kind of market in the sandbox, and one of the second version of the protocol."""
    world = World(seed=3, markets_per_day=60)
    found: dict[str, Row] = {}
    with serve(world, now=DAY + timedelta(days=60)) as server:
        params = {"closed": "true", "include_tag": "true", "limit": "100"}
        window = {"end_date_min": f"{DAY:%Y-%m-%dT%H:%M:%SZ}", "end_date_max": f"{DAY:%Y-%m-%dT23:59:59Z}"}
        rows = httpx.get(f"{server.base_url}/markets/keyset", params=params | window).json()["markets"]
    for row in rows:
        market = world.market(row["id"])
        assert market is not None
        found.setdefault(market.event.kind, row)
        found.setdefault(market.version, row)
    return found


def test_no_key_of_a_settled_row_is_known_unless_it_is_on_the_list() -> None:
    rows = closed_rows()
    assert {"group", "game", "deadlines", "single", "short", "thresholds", "v2"} <= rows.keys()
    for row in {row["id"]: row for row in rows.values()}.values():
        check_every_key(row)


def recorded() -> list[Row]:
    files = ("market_closed_sports_2026-10", "closed_no_uma_status_2026-06", "market_newest_schema_2026-10", "disputed")

    def rows(value: Any) -> list[Row]:
        if isinstance(value, list):
            return [row for each in value for row in rows(each)]
        return rows(value["markets"]) if "markets" in value and "question" not in value else [value.get("body", value)]

    found = [row for name in files for row in rows(json.loads((SAMPLES / f"gamma/{name}.json").read_text()))]
    found += rows(json.loads((SAMPLES / "closing_day_2024-11-30/markets_resolved.json").read_text()))[:3]
    return [
        row
        for row in found
        if isinstance(row, dict) and row.get("closed") and row.get("closedTime") and row.get("endDate")
        and len(outcome_ids(row) or ()) == 2 and row["createdAt"] < min(row["endDate"], row["closedTime"])
    ]  # fmt: skip


@pytest.mark.recorded
@pytest.mark.skipif(not SAMPLES.is_dir(), reason="no recorded payloads here: set PREDICTBENCH_SAMPLES")
def test_no_key_of_a_recorded_row_is_known_unless_it_is_on_the_list() -> None:
    rows = recorded()
    assert len(rows) >= 3
    for row in rows[:8]:
        check_every_key(row)
