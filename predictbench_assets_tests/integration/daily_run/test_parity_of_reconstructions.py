"""`predictbench backfill --check`: a day that was captured, reconstructed when the exchange has moved on."""

import json
import signal
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from predictbench_assets.cli.main import main
from predictbench_assets.launch import parity as comparison
from predictbench_assets.sandbox.world import World
from predictbench_assets.settings import Settings
from predictbench_assets_tests.kit.daily_run import BASELINE, KEY, NOW, DailyRun, MakeRun

LATER = NOW + timedelta(days=12)
DAYS = ("--from", str(KEY.run_date - timedelta(days=1)), "--to", str(KEY.run_date), "--window-days", "7")
Check = Callable[..., Result]


@pytest.fixture(scope="module")
def daily(make_run: MakeRun) -> DailyRun:
    """A day that was captured, twelve days ago: its markets have ended and most of them are settled."""
    daily = make_run(World(7, 60), PROCESSING_EXPERIMENTS=BASELINE)
    assert daily.here().exit_code == 0
    daily.sandbox.set_time(LATER)
    return daily


@pytest.fixture
def check(daily: DailyRun, tmp_path: Path) -> Check:
    def run(*arguments: str, days: Sequence[str] = DAYS, **variables: str) -> Result:
        environment = daily.environment(tmp_path / "none.json", {"PREDICTBENCH_NOW": LATER.isoformat()} | variables)
        return CliRunner().invoke(main, ["backfill", *days, "--check", *arguments], env=environment)

    return run


def files(daily: DailyRun) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (daily.folder / "home").rglob("*") if path.is_file()}


def read(file: Path) -> list[dict[str, Any]]:
    return list(json.loads(file.read_text())["partitions"])


def test_a_captured_day_is_reconstructed_beside_itself_and_nothing_is_stored(
    daily: DailyRun, check: Check, tmp_path: Path
) -> None:
    before, staged, summary = daily.tables(), files(daily), tmp_path / "parity.json"

    # Money cannot choose markets of a reconstruction, so that all of them are compared.
    done = check("--summary", str(summary), MIN_VOLUME="1000")

    assert done.exit_code == 0, done.output
    never, captured = read(summary)
    assert (never["outcome"], never["reason"]) == ("missing", "no snapshot is stored")
    parity, as_of = captured["parity"], captured["as_of"]
    assert [(as_of,)] == daily.rows(
        'SELECT to_char(captured_at, \'YYYY-MM-DD"T"HH24:MI:SS"Z"\') FROM predictbench.snapshots'
    )
    assert parity["captured"] == daily.count("processed_markets")
    assert parity["both"] == parity["reconstructed"] > 50
    assert set(parity["missing"]) <= {"no price in the hours before"}
    assert (parity["too_many"], parity["changed"]) == ({}, {})
    assert parity["good_prices"]["markets"] > 30
    assert parity["good_prices"]["p99"] <= 0.005
    assert daily.tables() == before
    assert files(daily) == staged


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_what_was_compared_is_shown(
    daily: DailyRun, check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    beginning = comparison.print_status

    def stop_at_the_third(settings: Settings, text: str) -> None:
        beginning(settings, text)
        if text.startswith("[3/"):
            signal.raise_signal(number)

    monkeypatch.setattr(comparison, "print_status", stop_at_the_third)
    summary = tmp_path / "parity.json"
    days = ("--from", str(KEY.run_date - timedelta(days=1)), "--to", str(KEY.run_date + timedelta(days=2)))

    done = check("--summary", str(summary), days=(*days, "--window-days", "7"))

    assert done.exit_code == 128 + number
    assert [one["outcome"] for one in read(summary)] == ["missing", "within", "not_run", "not_run"]
    assert f"1 missing, 1 within, 2 not run; stopped by {number.name}" in " ".join(done.output.split())


def test_a_market_that_the_exchange_forgot_is_named_as_such(daily: DailyRun, check: Check, tmp_path: Path) -> None:
    summary = tmp_path / "parity.json"
    check("--summary", str(summary))
    whole = read(summary)[-1]["parity"]
    gone = daily.rows("SELECT market_id FROM predictbench.processed_markets ORDER BY volume DESC LIMIT 7")
    for (market_id,) in gone:
        daily.sandbox.settle(market_id, vanish=True)

    done = check("--summary", str(summary))

    assert done.exit_code == 1
    parity = read(summary)[-1]["parity"]
    assert parity["missing"]["not listed any more"] == 7
    assert sum(parity["missing"].values()) == whole["captured"] - parity["both"]
    assert parity["beyond"] == ["11.7% markets missing, of 2% that are tolerated"]


def test_nothing_to_compare_is_an_exit_code_of_its_own(daily: DailyRun, check: Check, make_run: MakeRun) -> None:
    done = check("--window-days", "3")
    assert done.exit_code == 3
    assert "no snapshot is stored" in done.output
    elsewhere = check(POLYMARKET_BASE_URL="https://gamma.example")
    assert elsewhere.exit_code == 3
    assert "and POLYMARKET_BASE_URL names gamma.example" in " ".join(elsewhere.output.split())


def test_a_listing_that_does_not_answer_costs_its_partition(daily: DailyRun, check: Check) -> None:
    requests = sum(daily.sandbox.requests.values())
    done = check(POLYMARKET_CLOB_URL="http://127.0.0.1:9", POLYMARKET_MAX_ATTEMPTS="1")
    assert done.exit_code == 1
    assert "1 missing, 1 failed" in done.output
    assert sum(daily.sandbox.requests.values()) > requests


def test_without_a_range_it_is_the_last_day_whose_markets_have_ended(check: Check) -> None:
    now = (NOW + timedelta(days=8)).isoformat()
    done = check(days=(), PREDICTBENCH_NOW=now)
    assert str(KEY.run_date) in done.output
    assert "no snapshot is stored" not in done.output
    half = check(days=DAYS[:2])
    assert half.exit_code == 2
    assert "Missing option '--to'" in half.output


def test_it_runs_no_experiment(check: Check) -> None:
    for option in (("--experiment", "baseline_snapshot"), ("--reconstruct",)):
        done = check(*option)
        assert done.exit_code == 2
        assert "--check runs no experiment" in done.output
