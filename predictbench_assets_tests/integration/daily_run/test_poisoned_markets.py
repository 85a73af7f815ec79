"""Rows that no reader should be asked to read cost themselves, and nobody else."""

import pytest

from predictbench_assets.sandbox.world import World
from predictbench_assets_tests.kit.daily_run import BASELINE, KEY, MakeRun


@pytest.mark.parametrize(
    ("markets", "share"),
    [(500, 0.04), pytest.param(5_000, 0.01, marks=pytest.mark.long)],
    ids=["500", "5,000"],
)
def test_each_poisoned_market_is_rejected_with_its_reason(markets: int, share: float, make_run: MakeRun) -> None:
    world = World(markets_per_day=markets, poison=share)
    poisoned = round(markets * share)
    daily = make_run(world, PROCESSING_EXPERIMENTS=BASELINE)
    day = world.day(KEY.target_date).markets
    kinds = {market.market_id: market.poison for market in day if market.poison}

    ran = daily.here()

    assert ran.exit_code == 0
    counts = ("offered_markets", "excluded_markets", "rejected_markets", "failed_markets", "processed_markets")
    offered, excluded, rejected, failed, processed = daily.run_row(*counts)
    assert (offered, rejected, processed) == (markets, poisoned, markets - poisoned)
    assert offered == excluded + rejected + failed + processed
    assert [ran.said[name] for name in counts] == [offered, excluded, rejected, failed, processed]
    assert ran.checks()["counts_add_up"]

    failures = daily.rows("SELECT market_id, stage, field, reason, retriable FROM predictbench.processing_failures")
    assert {market_id for market_id, *_ in failures} == kinds.keys()
    assert len(failures) == poisoned
    for market_id, stage, field, reason, retriable in failures:
        assert (stage, retriable) == ("normalized_markets", False)
        expected = FIELDS[kinds[market_id]]
        # Which ids count goes by the version of the market.
        names = (expected, "positionIds") if expected == "clobTokenIds" else (expected,)
        assert field in names, (kinds[market_id], reason)
        assert reason.startswith(field)
    told = {(failure["market_id"], failure["reason"]) for failure in ran.said["failures"]}
    assert told == {(market_id, reason) for market_id, _, _, reason, _ in failures}
    stored = {market_id for (market_id,) in daily.rows("SELECT market_id FROM predictbench.processed_markets")}
    assert not stored & kinds.keys()
    assert len(stored) == processed


FIELDS = {
    "nul_in_question": "question",
    "lone_surrogate": "question",
    "price_not_a_number": "outcomePrices",
    "price_infinite": "outcomePrices",
    "price_out_of_range": "outcomePrices",
    "prices_sum": "outcomePrices",
    "prices_not_json": "outcomePrices",
    "missing_prices": "outcomePrices",
    "missing_question": "question",
    "missing_end_date": "endDate",
    "bad_end_date": "endDate",
    "missing_outcomes": "outcomes",
    "missing_tokens": "clobTokenIds",
    "lengths_differ": "clobTokenIds",
    "duplicate_token": "clobTokenIds",
    "outcomes_wrong_type": "outcomes",
    "long_slug": "slug",
}
