"""A snapshot is frozen: whatever is run later, the markets and prices are those of the run date."""

from datetime import timedelta
from pathlib import Path

import dagster as dg
import msgspec

from predictbench_assets.ingestion.snapshot import SNAPSHOT
from predictbench_assets.sandbox.exchange import ReplayWorld
from predictbench_assets.sandbox.world import World
from predictbench_assets.staging import StagingArea
from predictbench_assets_tests.kit.daily_run import BASELINE, NOW, DailyRun, MakeRun, MakeSandbox, Ran, differences

UNIFORM = "predictbench_assets.experiments.builtin.controls:UniformExperiment"
SETTINGS = {"PROCESSING_EXPERIMENTS": BASELINE}
LATER = {"PREDICTBENCH_NOW": (NOW + timedelta(hours=5)).isoformat()}
NEXT_DAY = {"PREDICTBENCH_NOW": (NOW + timedelta(days=1)).isoformat()}


def test_a_run_on_the_next_day_reuses_what_was_frozen(make_run: MakeRun) -> None:
    daily = make_run(**SETTINGS)
    first = daily.here()
    before, requests = daily.tables(), sum(daily.sandbox.requests.values())
    daily.sandbox.set_time(NOW + timedelta(days=1))

    ran = daily.here(**NEXT_DAY)

    assert ran.exit_code == 0
    assert sum(daily.sandbox.requests.values()) == requests
    assert (first.metadata("raw_markets")["reused"], ran.metadata("raw_markets")["reused"]) == (False, True)
    assert (first.said["snapshot"]["reused"], ran.said["snapshot"]["reused"]) == (False, True)
    for asset in ("raw_markets", "normalized_markets"):
        assert _data_version(first, asset) == _data_version(ran, asset)
    assert not differences(before, daily.tables())


def test_a_snapshot_whose_file_is_not_what_was_registered_is_refused_with_the_way_out(make_run: MakeRun) -> None:
    daily = make_run(**SETTINGS)
    daily.here()
    [(uri,)] = daily.rows("SELECT uri FROM predictbench.snapshots")
    file = Path(uri.removeprefix("file://"))
    frozen, area = file.read_bytes(), StagingArea(str(file.parent))
    snapshot = area.open(file.name, SNAPSHOT)

    area.publish(file.name, SNAPSHOT, snapshot.meta, list(snapshot.lines())[:10])  # whole, and another one
    replaced = daily.here(**LATER)
    file.write_bytes(frozen[:-20])
    cut = daily.here(**LATER)

    for ran, what in ((replaced, "other rows"), (cut, "damaged after")):
        assert ran.exit_code == 1
        assert what in ran.said["reason"]
        assert "--refresh" in ran.said["reason"]
    file.write_bytes(frozen)
    assert daily.here(**LATER).exit_code == 0
    assert daily.rows("SELECT count(*) FROM predictbench.processed_markets WHERE withdrawn_at IS NULL") == [(40,)]


def test_a_missed_day_cannot_be_captured_later(make_run: MakeRun) -> None:
    daily = make_run(**SETTINGS)

    ran = daily.here(**NEXT_DAY, PAST_SNAPSHOTS="refuse")

    assert ran.exit_code == 1
    assert "no snapshot is stored for 2026-03-02|7 and its day is over" in ran.said["reason"]
    assert "STAGING_URI" in ran.said["reason"]
    assert daily.run_row("status", "stage", "reason") == ("failed", "raw_markets", ran.said["reason"])
    assert not daily.sandbox.requests


def test_a_refresh_supersedes_and_withdraws(make_run: MakeRun, make_sandbox: MakeSandbox) -> None:
    daily = make_run(**SETTINGS)
    daily.here()
    stored = daily.rows("SELECT market_id, raw_snapshot FROM predictbench.processed_markets ORDER BY market_id")
    gone = {market_id for market_id, _ in stored[:3]}
    fewer = make_sandbox(ReplayWorld(msgspec.json.encode(row) for market_id, row in stored if market_id not in gone))

    ran = daily.here(ops={"raw_markets": {"refresh": True}}, POLYMARKET_BASE_URL=fewer.base_url, **LATER)

    assert ran.exit_code == 0
    assert ran.said["processed_markets"] == 37
    assert ran.metadata("raw_markets")["reused"] is False
    withdrawn = "SELECT market_id FROM predictbench.processed_markets WHERE withdrawn_at IS NOT NULL"
    assert {market_id for (market_id,) in daily.rows(withdrawn)} == gone
    assert daily.count("processed_markets") == 40
    superseded = daily.rows("SELECT superseded_at IS NOT NULL FROM predictbench.snapshots ORDER BY captured_at")
    assert superseded == [(True,), (False,)]
    # Forecasts made on the old snapshot stay.
    assert daily.rows("SELECT attempt FROM predictbench.experiment_runs ORDER BY attempt") == [(1,), (2,)]
    assert daily.count("experiment_results") == 40 + 37

    again = daily.here(**NEXT_DAY)
    assert again.said["processed_markets"] == 37
    assert {market_id for (market_id,) in daily.rows(withdrawn)} == gone


def test_a_market_that_a_refresh_brings_back_is_no_longer_withdrawn(
    make_run: MakeRun, make_sandbox: MakeSandbox
) -> None:
    daily = make_run(**SETTINGS)
    daily.here()
    [(market_id, row)] = daily.rows("SELECT market_id, raw_snapshot FROM predictbench.processed_markets LIMIT 1")
    alone = make_sandbox(ReplayWorld([row]))
    daily.here(ops={"raw_markets": {"refresh": True}}, POLYMARKET_BASE_URL=alone.base_url, **LATER)
    present = "SELECT market_id FROM predictbench.processed_markets WHERE withdrawn_at IS NULL"
    assert daily.rows(present) == [(market_id,)]

    latest = {"PREDICTBENCH_NOW": (NOW + timedelta(hours=9)).isoformat()}
    assert daily.here(ops={"raw_markets": {"refresh": True}}, **latest).exit_code == 0

    assert len(daily.rows(present)) == 40


def test_a_cohort_of_an_earlier_snapshot_is_not_stored(make_run: MakeRun) -> None:
    daily = make_run(**SETTINGS)
    daily.here()
    markets = daily.rows("SELECT market_id, price, raw_snapshot FROM predictbench.processed_markets ORDER BY 1")
    daily.sandbox.set_time(NOW + timedelta(hours=5))
    refresh = {"raw_markets": {"refresh": True}}
    assert daily.here(ops=refresh, selection=[dg.AssetKey("raw_markets")], **LATER).exit_code == 0

    ran = daily.here(selection=[dg.AssetKey("persisted_run")], **LATER)

    assert ran.exit_code == 1
    assert "normalized_markets of 2026-03-02|7 was made of another snapshot" in ran.said["reason"]
    assert markets == daily.rows("SELECT market_id, price, raw_snapshot FROM predictbench.processed_markets ORDER BY 1")
    assert daily.here(**LATER).exit_code == 0
    assert daily.rows("SELECT count(DISTINCT captured_at) FROM predictbench.processed_markets") == [(1,)]


def test_who_says_the_same_after_a_refresh_stays_on_the_board(make_run: MakeRun) -> None:
    daily = make_run(PROCESSING_EXPERIMENTS=f"{BASELINE},{UNIFORM}")
    daily.here()
    daily.sandbox.set_time(NOW + timedelta(hours=5))

    ran = daily.here(ops={"raw_markets": {"refresh": True}}, **LATER)

    assert ran.exit_code == 0
    answering = (
        "SELECT e.name, count(*) FROM predictbench.experiment_results r"
        " JOIN predictbench.processed_markets m USING (processed_market_id, snapshot_hash)"
        " JOIN predictbench.experiment_runs a USING (experiment_run_id)"
        " JOIN predictbench.experiments e USING (experiment_id) WHERE r.status = 'completed' GROUP BY 1 ORDER BY 1"
    )
    assert daily.rows(answering) == [("baseline_snapshot", 40), ("uniform", 40)]
    assert daily.here(**LATER).exit_code == 0  # the same again inserts nothing
    assert daily.rows(answering) == [("baseline_snapshot", 40), ("uniform", 40)]


def test_a_refresh_that_would_take_others_off_the_board_is_refused(make_run: MakeRun) -> None:
    daily = make_run(PROCESSING_EXPERIMENTS=f"{BASELINE},{UNIFORM}")
    daily.here()
    before = daily.tables()
    refresh = {"raw_markets": {"refresh": True}}

    unselected = daily.here(ops=refresh | {"experiment_results__uniform": {"selected": False}}, **LATER)
    unregistered = daily.here(ops=refresh, PROCESSING_EXPERIMENTS=BASELINE, **LATER)

    assert (unselected.exit_code, unregistered.exit_code) == (1, 1)
    assert "uniform (leave --experiment out, so that they run again too)" in unselected.said["reason"]
    assert "uniform (add them to PROCESSING_EXPERIMENTS again)" in unregistered.said["reason"]
    assert differences(before, daily.tables()).keys() == {"processing_runs", "processing_failures"}


def test_a_newer_snapshot_is_not_stored_without_those_who_forecast_the_earlier_one(make_run: MakeRun) -> None:
    daily = make_run(PROCESSING_EXPERIMENTS=f"{BASELINE},{UNIFORM}")
    daily.here()
    daily.sandbox.set_time(NOW + timedelta(hours=5))
    some = [dg.AssetKey("raw_markets"), dg.AssetKey("normalized_markets"), dg.AssetKey("persisted_run")]
    some.append(dg.AssetKey(["experiment_results", "baseline_snapshot"]))

    # As whoever clicks these in the UI.
    ran = daily.here(ops={"raw_markets": {"refresh": True}}, selection=some, **LATER)

    assert ran.exit_code == 1
    assert "uniform forecast the earlier one only: nothing was stored" in ran.said["reason"]
    assert daily.rows("SELECT DISTINCT m.captured_at = s.captured_at FROM predictbench.processed_markets m,"
                      " predictbench.snapshots s WHERE s.superseded_at IS NULL") == [(False,)]  # fmt: skip
    assert daily.here(**LATER).exit_code == 0
    assert daily.rows("SELECT max(attempt) FROM predictbench.experiment_runs") == [(2,)]


def test_a_refresh_of_another_day_is_refused(make_run: MakeRun) -> None:
    daily = make_run(**SETTINGS)
    daily.here()

    ran = daily.here(ops={"raw_markets": {"refresh": True}}, **NEXT_DAY)

    assert ran.exit_code == 1
    assert "a refresh of 2026-03-02|7 is refused" in ran.said["reason"]
    assert daily.count("snapshots") == 1


def test_a_snapshot_whose_body_is_gone_is_said_to_be(daily: DailyRun) -> None:
    daily.here()
    [(uri,)] = daily.rows("SELECT uri FROM predictbench.snapshots")
    Path(uri.removeprefix("file://")).unlink()

    ran = daily.here()

    assert ran.exit_code == 1
    assert f"nothing is staged at {uri}" in ran.said["reason"]
    assert daily.run_row("status", "stage") == ("failed", "raw_markets")


def test_a_snapshot_that_is_lost_before_anything_is_stored_of_it_is_captured_again_on_its_day_alone(
    make_run: MakeRun,
) -> None:
    daily = make_run(World(markets_per_day=8), **SETTINGS)
    assert daily.here(selection=[dg.AssetKey("target_window"), dg.AssetKey("raw_markets")]).exit_code == 0
    [(uri,)] = daily.rows("SELECT uri FROM predictbench.snapshots")
    Path(uri.removeprefix("file://")).unlink()

    too_late = daily.here(**NEXT_DAY)
    again = daily.here(**LATER)

    assert (too_late.exit_code, again.exit_code) == (1, 0)
    assert uri in too_late.said["reason"]
    assert again.metadata("raw_markets")["reused"] is False
    assert daily.run_row("status") == "completed"
    [(kept,)] = daily.rows("SELECT uri FROM predictbench.snapshots WHERE superseded_at IS NULL")
    assert kept != uri


def test_a_snapshot_whose_body_was_damaged_is_said_to_be(daily: DailyRun) -> None:
    daily.here()
    [(uri,)] = daily.rows("SELECT uri FROM predictbench.snapshots")
    body = Path(uri.removeprefix("file://"))
    body.write_bytes(body.read_bytes()[:200])

    ran = daily.here()

    assert ran.exit_code == 1
    assert ran.said["status"] == "failed"
    assert uri in ran.said["reason"]
    assert daily.run_row("status", "stage", "reason")[0] == "failed"


def test_another_exchange_may_not_write_into_the_database(make_run: MakeRun) -> None:
    daily = make_run(World(markets_per_day=5), **SETTINGS)
    daily.here()
    before = daily.tables()

    ran = daily.here(POLYMARKET_BASE_URL="http://exchange.invalid")

    assert ran.exit_code == 1
    assert "the database holds runs of localhost, this one reads exchange.invalid" in ran.said["reason"]
    assert not differences(before, daily.tables())


def _data_version(ran: Ran, asset: str) -> str:
    assert ran.result is not None
    [event] = [
        event for event in ran.result.get_asset_materialization_events() if event.asset_key.path == [asset]
    ]  # fmt: skip
    return event.materialization.tags["dagster/data_version"]
