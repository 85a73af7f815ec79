"""How far cohorts have settled, as checks see it, and the asset itself."""

import json
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest
from sqlalchemy import text

from predictbench_assets.assets.resolution import REPORT, market_resolutions
from predictbench_assets.persistence.run_store import RunDatabase
from predictbench_assets.resolution.ledger import CohortSettled, settled_cohorts
from predictbench_assets.sandbox.world import Market
from predictbench_assets.settings import Settings
from predictbench_assets_tests.kit.sweeps import NOW, Swept

WEEK = timedelta(days=7)


def settled(swept: Swept, after: timedelta) -> list[CohortSettled]:
    return settled_cohorts(swept.engine, NOW + after, closed_for=WEEK, long_open=2 * WEEK)


def test_cohorts_are_counted_when_they_are_a_week_past_their_close(swept: Swept, cohort: list[Market]) -> None:
    stored = swept.store(cohort)
    split, never, withdrawn = stored[:3]
    swept.exchange.settle(split, (1, 1))
    swept.exchange.settle(never, None)
    with swept.engine.begin() as connection:
        gone = "UPDATE predictbench.processed_markets SET withdrawn_at = now() WHERE market_id = :id"
        connection.execute(text(gone), {"id": withdrawn})
    assert settled(swept, timedelta(days=13)) == [], "none of them is a week past its close"

    swept.at(4 * WEEK)
    [one] = settled(swept, 4 * WEEK)
    markets = len(cohort) - 1
    assert (one.run_date.isoformat(), one.window_days, one.markets) == ("2026-03-02", 7, markets)
    splits = sum(market.settlement.payout[0] == 0.5 for market in cohort[3:]) + 1
    assert (one.final, one.splits, one.long_open, one.gave_up) == (markets - 1, splits, 1, 0)

    swept.at(12 * WEEK)
    [one] = settled(swept, 12 * WEEK)
    assert (one.final, one.long_open, one.gave_up) == (markets - 1, 0, 1)


def asset_settings(swept: Swept, folder: Path, **more: object) -> Settings:
    return Settings(
        _env_file=None,  # type: ignore[call-arg]
        predictbench_home=folder,
        database_url=swept.engine.url.render_as_string(hide_password=False),
        polymarket_base_url=swept.exchange.base_url,
        polymarket_clob_url=swept.exchange.clob_url,
        polymarket_requests_per_second=1_000,
        polymarket_max_attempts=1,
        predictbench_now=swept.exchange.now,
        **more,
    )


def materialized(settings: Settings) -> dg.ExecuteInProcessResult:
    database = RunDatabase(settings)
    try:
        resources = {"settings": settings, "database": database}
        with dg.DagsterInstance.ephemeral() as instance:
            return dg.materialize([market_resolutions], resources=resources, instance=instance, raise_on_error=False)
    finally:
        database.engine.dispose()


def test_the_asset_says_what_a_sweep_came_to(swept: Swept, cohort: list[Market], one: Market, tmp_path: Path) -> None:
    swept.store(cohort)
    swept.at(timedelta(days=20))
    swept.exchange.settle(one.market_id, tuple(reversed(one.settlement.payout)))  # type: ignore[arg-type]
    result = materialized(asset_settings(swept, tmp_path))
    assert result.success
    [event] = result.get_asset_materialization_events()
    metadata = {name: value.value for name, value in event.materialization.metadata.items()}
    assert (metadata["looked_at"], metadata["observations"], metadata["remaining"]) == (len(cohort), 1, 0)
    [changed] = metadata["changed"].records  # type: ignore[union-attr]
    assert changed.data["market"] == one.market_id
    assert {check.check_name for check in result.get_asset_check_evaluations()} == {
        *("cohorts_final", "split_share", "long_open", "settlements_stable")
    }
    report = json.loads((tmp_path / "artifacts" / REPORT).read_text())
    assert report["changed"][0]["market_id"] == one.market_id
    assert one.market_id in (tmp_path / "artifacts" / REPORT).with_suffix(".md").read_text()


@pytest.mark.parametrize(("reversed_markets", "stable"), [(5, True), (6, False)])
def test_an_exchange_that_takes_settlements_back_in_numbers_is_pointed_out(
    swept: Swept, cohort: list[Market], tmp_path: Path, reversed_markets: int, stable: bool
) -> None:
    swept.store(cohort)
    swept.at(timedelta(days=20))
    won = [market for market in cohort if market.settlement.payout[0] != 0.5][:reversed_markets]
    for market in won:
        swept.exchange.settle(market.market_id, tuple(reversed(market.settlement.payout)))  # type: ignore[arg-type]
    result = materialized(asset_settings(swept, tmp_path))
    assert result.success
    checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
    assert checks["settlements_stable"].passed is stable
    assert checks["settlements_stable"].metadata["changed"].value == reversed_markets


def test_the_asset_fails_where_the_exchange_does_and_leaves_its_report(
    swept: Swept, cohort: list[Market], tmp_path: Path
) -> None:
    swept.store(cohort)
    swept.exchange.set_time(NOW + timedelta(days=20))
    swept.exchange.set_faults("http500=1")
    assert not materialized(asset_settings(swept, tmp_path)).success
    assert json.loads((tmp_path / "artifacts" / REPORT).read_text())["remaining"] == len(cohort)


def test_a_dry_run_sweeps_nothing(swept: Swept, cohort: list[Market], tmp_path: Path) -> None:
    swept.store(cohort)
    assert not materialized(asset_settings(swept, tmp_path, predictbench_dry_run=True)).success
    assert swept.asked() == 0
