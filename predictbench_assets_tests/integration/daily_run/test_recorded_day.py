"""The acceptance of the whole: real payloads of one day, over HTTP, into a real database."""

import json
from datetime import date
from typing import Any

import pytest

from predictbench_assets.runs import RunKey
from predictbench_assets.sandbox.exchange import ReplayWorld
from predictbench_assets.settings import DEFAULT_EXPERIMENTS
from predictbench_assets_tests.kit.daily_run import MakeRun
from predictbench_assets_tests.kit.places import SAMPLES

RECORDED = SAMPLES / "gamma" / "open_markets_2026-02.json"
KEY = RunKey(date(2026, 2, 2), 7)
NOW = "2026-02-02T07:00:00Z"

pytestmark = [
    pytest.mark.recorded,
    pytest.mark.skipif(not RECORDED.exists(), reason="recorded payloads are not beside the repository"),
]


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    return json.loads(RECORDED.read_bytes())


def test_a_recorded_day_is_stored_market_by_market(rows: list[dict[str, Any]], make_run: MakeRun) -> None:
    daily = make_run(ReplayWorld.from_file(RECORDED), PREDICTBENCH_NOW=NOW)

    ran = daily.process(KEY)

    assert ran.exit_code == 0, ran.output
    expected = {row["id"]: row for row in rows if row.get("endDate", "").startswith("2026-02-09")}
    stored = daily.rows("SELECT market_id, raw_snapshot, question, close_time FROM predictbench.processed_markets")
    assert len(stored) == len(expected) == 33
    assert {market_id: raw for market_id, raw, *_ in stored} == expected
    assert all(question == expected[market_id]["question"] for market_id, _, question, _ in stored)
    assert {close_time.date().isoformat() for *_, close_time in stored} == {"2026-02-09"}
    assert daily.count("processed_contracts") == 66
    assert daily.count("experiment_results") == len(DEFAULT_EXPERIMENTS) * 33
    assert daily.count("processing_failures") == 0
    counts = ("offered_markets", "processed_markets", "failed_markets", "rejected_markets", "excluded_markets")
    assert daily.run_row("status", *counts) == ("completed", 33, 33, 0, 0, 0)
    assert [ran.said[name] for name in counts] == [33, 33, 0, 0, 0]
    assert ran.said["target_date"] == "2026-02-09"


def test_the_window_is_a_day_to_the_second(rows: list[dict[str, Any]], make_run: MakeRun) -> None:
    ends = {"9000001": "2026-02-08T23:59:59Z", "9000002": "2026-02-09T23:59:59Z", "9000003": "2026-02-10T00:00:00Z"}
    model = next(row for row in rows if row.get("endDate", "").startswith("2026-02-09"))
    added = [
        model
        | {
            "id": market_id,
            "slug": f"added-{market_id}",
            "conditionId": f"0x{market_id:0>64}",
            "clobTokenIds": json.dumps([f"{market_id}0", f"{market_id}1"]),
            "endDate": end,
        }
        for market_id, end in ends.items()
    ]
    daily = make_run(ReplayWorld([*rows, *added]), PREDICTBENCH_NOW=NOW)

    assert daily.here(KEY).exit_code == 0

    stored = {market_id for (market_id,) in daily.rows("SELECT market_id FROM predictbench.processed_markets")}
    assert len(stored) == 34
    assert stored & ends.keys() == {"9000002"}
