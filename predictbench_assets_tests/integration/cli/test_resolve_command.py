"""`predictbench resolve`: how many markets wait for their settlement."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import Engine, text

from predictbench_assets.cli.main import main
from predictbench_assets.settings import all_variables

RUN = """
    INSERT INTO predictbench.processing_runs (run_id, run_date, window_days, target_date, started_at, status, attempt,
        holder, heartbeat_at, dagster_run_id, exchange)
    VALUES (:run_id, '2026-03-02', :window, date '2026-03-02' + :window, now(), 'running', 1, 'h', now(), 'd', 'x')
"""
MARKET = """
    INSERT INTO predictbench.processed_markets (processed_market_id, run_id, market_id, market_slug, question,
        close_time, processed_at, cluster, category, neg_risk, captured_at, price_source, price_quality, core,
        raw_snapshot, withdrawn_at)
    VALUES (gen_random_uuid(), :run_id, :market, :market, '?', :close, now(), 'c', 'c', false, now(), 'none', 'none',
        false, '{}', :withdrawn)
"""
OBSERVATION = """
    INSERT INTO predictbench.resolution_observations (market_id, observed_at, source, state)
    VALUES (:market, :at, 'test', :state)
"""


@pytest.fixture
def resolve(database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., str]:
    """What `predictbench resolve` prints on 2026-03-10."""
    for name in list(os.environ):
        if name.upper() in all_variables():
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def run(url: str = database_url) -> str:
        given = {"DATABASE_URL": url, "PREDICTBENCH_NOW": "2026-03-10T08:00:00Z"}
        done = CliRunner().invoke(main, ["resolve"], env=given)
        assert done.exit_code == 0, done.output
        return done.stdout

    return run


def test_markets_are_counted_once_and_only_those_past_their_close(resolve: Callable[..., str], engine: Engine) -> None:
    with engine.begin() as connection:
        runs = {7: "00000000-0000-0000-0000-000000000007", 1: "00000000-0000-0000-0000-000000000001"}
        for window, run_id in runs.items():
            connection.execute(text(RUN), {"run_id": run_id, "window": window})
        stored = [
            *((7, market, "2026-03-09T12:00:00Z", None) for market in ("final", "again", "proposed", "unknown")),
            (1, "unknown", "2026-03-09T12:00:00Z", None),
            (7, "open", "2026-03-10T12:00:00Z", None),
            (7, "withdrawn", "2026-03-09T12:00:00Z", "2026-03-02T12:00:00Z"),
        ]
        for window, market, close, withdrawn in stored:
            given = {"run_id": runs[window], "market": market, "close": close, "withdrawn": withdrawn}
            connection.execute(text(MARKET), given)
        for market, at, state in (
            ("final", "2026-03-09T13:00:00Z", "final"),
            ("again", "2026-03-09T13:00:00Z", "final"),
            ("again", "2026-03-09T14:00:00Z", "disputed"),
            ("proposed", "2026-03-09T13:00:00Z", "proposed"),
        ):
            connection.execute(text(OBSERVATION), {"market": market, "at": at, "state": state})
    first, second = resolve().splitlines()
    assert first == "3 of 4 stored markets past their close are not known to be final."
    assert "does not fetch" in second


def test_there_is_nothing_to_do_in_an_empty_database(resolve: Callable[..., str]) -> None:
    assert resolve() == "0 of 0 stored markets past their close are not known to be final.\n"


def test_a_database_without_tables_is_no_error(resolve: Callable[..., str], empty_database_url: str) -> None:
    assert "predictbench db upgrade" in resolve(empty_database_url)
