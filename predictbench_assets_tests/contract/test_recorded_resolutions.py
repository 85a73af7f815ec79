"""Every recorded market: how it settled, or that it has not."""

import json
from collections import Counter
from typing import Any

import pytest

from predictbench_assets.exchanges.polymarket.settlement import clob_reading, gamma_reading, reconciled
from predictbench_assets.markets.settlement import Reading
from predictbench_assets_tests.kit.places import SAMPLES

pytestmark = [
    pytest.mark.recorded,
    pytest.mark.skipif(not SAMPLES.is_dir(), reason="no recorded payloads here: set PREDICTBENCH_SAMPLES"),
]

# file -> markets by state and settled value of the first outcome
EXPECTED: dict[str, dict[tuple[str, float | None], int]] = {
    "closing_day_2024-11-30/markets_resolved": {("final", 0): 102, ("final", 1): 57, ("final", 0.5): 1},
    "gamma/btc_5m_open_2026-03": {("open", None): 1},
    "gamma/closed_but_status_proposed_or_missing": {("final", 0): 52, ("final", 1): 8},
    "gamma/closed_no_uma_status_2026-06": {("final", 1): 1},
    # Closed and paid by a formula, or not paid at all: no answer to a question of yes or no.
    "gamma/closed_scalar_legacy": {("open", None): 1},
    "gamma/closed_zero_zero_legacy": {("open", None): 1},
    "gamma/disputed": {("final", 0): 10, ("final", 1): 5},
    "gamma/esports_handicap_2026-04": {("final", 1): 1},
    "gamma/ladder_events_2026-07": {("final", 0): 5, ("open", None): 3},
    "gamma/market_closed_sports_2026-10": {("final", 1): 1},
    "gamma/market_newest_schema_2026-10": {("open", None): 1},
    "gamma/market_with_schema_key_2026-08": {("open", None): 1},
    "gamma/missing_end_date": {("final", 0): 15, ("final", 1): 4, ("final", 0.5): 1},
    # Residual prices of an automated market maker.
    "gamma/multi_outcome_3_to_7_legacy": {("open", None): 10},
    "gamma/negrisk_markets_2026-07": {("open", None): 3},
    "gamma/non_ascii": {("final", 0): 17, ("final", 1): 3},
    "gamma/open_markets_2025-05": {("open", None): 97, ("disputed", None): 2, ("proposed", None): 1},
    "gamma/open_markets_2026-02": {("open", None): 500},
    "gamma/resolved_void_and_half": {("final", 0.5): 34},
}


def readings(name: str) -> list[Reading]:
    """The rows of a file: bare, in a list, inside events, or wrapped by the recorder."""

    def flat(value: Any) -> list[dict[str, Any]]:
        if isinstance(value, list):
            return [row for each in value for row in flat(each)]
        if "body" in value or ("markets" in value and "question" not in value):
            return flat(value.get("body") or value["markets"])
        return [value]

    rows = flat(json.loads((SAMPLES / f"{name}.json").read_text()))
    return [gamma_reading(json.dumps(row, ensure_ascii=False).encode()) for row in rows]


def test_every_recorded_file_of_markets_has_its_line() -> None:
    found = {f"{path.parent.name}/{path.stem}" for path in SAMPLES.glob("*/*.json")}
    assert {name for name in found if name.startswith(("gamma/", "closing_day_"))} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_recorded_markets_have_the_right_state(name: str) -> None:
    read = readings(name)
    assert Counter((one.state, one.outcome) for one in read) == EXPECTED[name]
    for one in read:
        assert one.closed == (one.state == "final" or one.problem is not None)
        assert (one.closed_time is not None) == one.closed


def test_the_recorded_market_of_the_clob_agrees_with_its_row() -> None:
    [gamma] = readings("gamma/closed_no_uma_status_2026-06")
    clob = clob_reading((SAMPLES / "clob" / "market_resolved_2026-06.json").read_bytes())
    assert clob.raw["condition_id"] == gamma.raw["conditionId"]
    assert clob.payout == gamma.payout == (1, 0)
    assert reconciled(gamma, clob).source == "gamma"
