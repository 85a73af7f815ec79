"""What a person sees of a run: the figures of the summary, metadata of the assets, log lines, and what was known."""

import json
import subprocess
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from predictbench_assets.runs import RunKey
from predictbench_assets_tests.kit.daily_run import BASELINE, KEY, NOW, DailyRun, MakeRun, Ran
from predictbench_assets_tests.kit.places import CLONE

HISTORIANS = "predictbench_assets_tests.integration.daily_run.historian"
SETTINGS = {"PROCESSING_EXPERIMENTS": f"{BASELINE},{HISTORIANS}:Historian,{HISTORIANS}:BlindHistorian"}

METADATA = {
    "target_window": {"run_id", "run_date", "window_days", "target_date", "start", "end", "attempt", "exchange"},
    "raw_markets": {
        *("dagster/row_count", "reused", "captured_at", "received_sha256", "content_sha256", "uri"),
        *("pages", "requests", "retries", "bytes", "throttle_seconds", "quotes", "quotes_source"),
    },
    "normalized_markets": {
        *("dagster/row_count", "offered", "excluded", "rejected", "contracts", "core_sample", "price_quality"),
        *("excluded_by_reason", "rejected_rows"),
    },
    "persisted_run": {"offered", "excluded", "rejected", "processed", "failed", "summary", "summary_json"},
}


@pytest.fixture(scope="module")
def daily(make_run: MakeRun) -> DailyRun:
    """A day with experiments that skip some markets and fail for others."""
    return make_run(**SETTINGS)


@pytest.fixture(scope="module")
def ran(daily: DailyRun) -> Ran:
    """Its first run."""
    return daily.here()


def test_the_summary_counts_every_request_that_the_exchange_saw(daily: DailyRun, ran: Ran) -> None:
    asked = daily.sandbox.requests
    assert ran.said["api"]["requests"] == sum(asked.values())
    assert ran.said["api"]["pages"] == sum(count for path, count in asked.items() if "keyset" in path)
    assert ran.said["api"]["requests"] > ran.said["api"]["pages"], "the quotes' requests are missing"
    assert daily.rows("SELECT api->>'requests' FROM predictbench.snapshots") == [(str(sum(asked.values())),)]
    assert ran.metadata("raw_markets")["requests"] == sum(asked.values())


def test_a_walk_that_is_given_up_says_what_it_took(make_run: MakeRun, caplog: pytest.LogCaptureFixture) -> None:
    daily = make_run(faults="http500=1", PROCESSING_EXPERIMENTS=BASELINE, POLYMARKET_MAX_ATTEMPTS="2")

    assert daily.here().exit_code == 1

    [line] = [record for record in caplog.records if record.getMessage() == "the walk is given up"]
    # Those that were on their way when the walk was given up need not have arrived.
    assert vars(line)["api"]["requests"] >= sum(daily.sandbox.requests.values()) > 0
    assert vars(line)["api"]["retries"]["http_5xx"] > 0


@pytest.mark.parametrize("asset", METADATA)
def test_an_assets_metadata_says_what_it_holds(asset: str, ran: Ran) -> None:
    assert METADATA[asset] <= ran.metadata(asset).keys()


def test_an_experiments_metadata_has_counts_failures_and_a_picture(ran: Ran) -> None:
    shown = _materialized(ran, ["experiment_results", "historian"])
    told = ran.said["experiments"]["historian"]
    assert {name: shown[name] for name in ("completed", "skipped", "failed")} == {
        name: told[name] for name in ("completed", "skipped", "failed")
    }
    assert told["failed"] > 0
    assert len(shown["failures"].records) == told["failed"]
    assert {record.data["reason"] for record in shown["failures"].records} == {"ValueError: ends in 2"}
    assert shown["seconds"] >= 0
    assert "data:image/png;base64," in shown["forecasts_against_market"]


def test_log_lines_of_dagster_and_ours_say_which_run_stage_and_market(daily: DailyRun, ran: Ran) -> None:
    again = daily.forked(RunKey(KEY.run_date, 1))

    assert again.exit_code == 0, again.output
    lines = [json.loads(line) for line in again.output.splitlines() if line.startswith("{")]
    assert all(
        {"timestamp", "level", "message", "run_id", "process_stage", "market_id"} <= line.keys() for line in lines
    )
    begun = [line for line in lines if line.get("event") == "STEP_START"]
    assert {line["process_stage"] for line in begun} >= {"raw_markets", "experiment_results/historian"}
    asked = [line for line in lines if line["message"] == "asked for the history"]
    assert all(line["market_id"] for line in asked)
    assert {line["process_stage"] for line in asked} == {
        "experiment_results/historian",
        "experiment_results/blind_historian",
    }
    assert {line["run_id"] for line in [*begun, *asked]} == {str(RunKey(KEY.run_date, 1).run_id)}
    assert any(line["message"].startswith("read ") and line["process_stage"] == "raw_markets" for line in lines)


def test_an_experiment_knows_what_was_settled_at_the_freeze_and_nothing_later(daily: DailyRun, ran: Ran) -> None:
    (market_id, price), (other, _) = daily.rows(
        "SELECT market_id, price FROM predictbench.processed_markets ORDER BY market_id LIMIT 2"
    )
    tomorrow = NOW + timedelta(days=1)
    _settle(daily, market_id, tomorrow - timedelta(hours=1))
    _settle(daily, other, tomorrow + timedelta(hours=1))
    daily.sandbox.set_time(tomorrow)

    later = daily.here(RunKey(date(2026, 3, 3), 7), PREDICTBENCH_NOW=tomorrow.isoformat())

    assert later.exit_code == 0
    known = dict(
        daily.rows(
            "SELECT DISTINCT e.name, r.payload->'settled' FROM predictbench.experiment_results r"
            " JOIN predictbench.experiment_runs er USING (experiment_run_id)"
            " JOIN predictbench.experiments e USING (experiment_id)"
            " WHERE r.status = 'completed' AND er.run_id = %s AND e.name LIKE '%%historian'",
            RunKey(date(2026, 3, 3), 7).run_id,
        )
    )
    assert known == {"historian": [[market_id, 1.0, price]], "blind_historian": [[market_id, 1.0, None]]}


def test_a_run_is_stored_with_the_commit_that_it_ran_with(daily: DailyRun, ran: Ran, make_run: MakeRun) -> None:
    assert ran.said["git_sha"] == daily.rows("SELECT git_sha FROM predictbench.processing_runs")[0][0] == "0123abc"

    by_hand = make_run(PROCESSING_EXPERIMENTS=BASELINE, GIT_SHA="")
    found = subprocess.run(["git", "-C", CLONE, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)

    assert by_hand.here().said["git_sha"] == (found.stdout.strip() or None)
    assert by_hand.run_row("git_sha") == (found.stdout.strip() or None)


def test_a_part_of_the_day_is_not_stored_in_production(make_run: MakeRun) -> None:
    daily = make_run(PROCESSING_EXPERIMENTS=BASELINE)
    now = datetime.now(UTC)
    daily.sandbox.set_time(now)
    daily.variables |= {
        "ENVIRONMENT": "production",
        "SUPABASE_DB_URL": daily.database_url,
        "STAGING_URI": "memory://production",
        "PREDICTBENCH_NOW": "",
    }

    ran = daily.here(RunKey(now.date(), 7), ops={"normalized_markets": {"limit": 3}})

    assert (ran.exit_code, ran.said["stage"]) == (1, "normalized_markets")
    assert "a part of the day in production" in ran.said["reason"]
    assert daily.count("processed_markets") == 0
    assert daily.here(RunKey(now.date(), 7)).said["processed_markets"] == 40


def _materialized(ran: Ran, key: list[str]) -> Mapping[str, Any]:
    assert ran.result is not None
    [event] = [one for one in ran.result.get_asset_materialization_events() if one.asset_key == dg.AssetKey(key)]
    return {name: value.value for name, value in event.materialization.metadata.items()}


def _settle(daily: DailyRun, market_id: str, at: datetime) -> None:
    daily.rows(
        "INSERT INTO predictbench.resolution_observations (market_id, observed_at, source, state, outcome)"
        " VALUES (%s, %s, 'test', 'final', 1.0) RETURNING market_id",
        market_id,
        at,
    )
