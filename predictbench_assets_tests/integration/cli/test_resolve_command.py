"""`predictbench resolve`: how stored markets settled, as a person and a program are told."""

import json
import os
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine, text

from predictbench_assets.cli.main import main
from predictbench_assets.sandbox.server import SandboxServer, serve
from predictbench_assets.sandbox.world import Market, World
from predictbench_assets.settings import all_variables

RUN_ID = "00000000-0000-0000-0000-000000000007"
RUN = """
    INSERT INTO predictbench.processing_runs (run_id, run_date, window_days, target_date, started_at, status, attempt,
        holder, heartbeat_at, dagster_run_id, exchange)
    VALUES (:run_id, '2026-03-02', 7, '2026-03-09', now(), 'running', 1, 'h', now(), 'd', 'localhost')
"""
MARKET = """
    INSERT INTO predictbench.processed_markets (processed_market_id, run_id, market_id, market_slug, question,
        close_time, processed_at, condition_id, cluster, category, neg_risk, captured_at, price_source, price_quality,
        core, raw_snapshot)
    VALUES (gen_random_uuid(), :run_id, :market, 's', '?', :close, now(), :condition, 'c', 'c', false, now(), 'none',
        'none', false, '{}')
"""
Resolve = Callable[..., Result]


@pytest.fixture
def settling() -> Iterator[SandboxServer]:
    """An exchange a month after the close of a day."""
    with serve(World(7, 50), now=datetime(2026, 4, 10, tzinfo=UTC)) as server:
        yield server


@pytest.fixture
def stored(settling: SandboxServer, engine: Engine) -> list[Market]:
    """Fifty markets and more of the exchange, in the database."""
    assert settling.app.view.exchange.world is not None
    markets = settling.app.view.exchange.world.day(date(2026, 3, 9)).markets
    with engine.begin() as connection:
        connection.execute(text(RUN), {"run_id": RUN_ID})
        for market in markets:
            given = {"run_id": RUN_ID, "market": market.market_id, "condition": market.condition_id}
            connection.execute(text(MARKET), given | {"close": datetime.fromtimestamp(market.ends, UTC)})
    return markets


@pytest.fixture
def resolve(database_url: str, settling: SandboxServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Resolve:
    """Runs `predictbench resolve` on 10 April."""
    for name in list(os.environ):
        if name.upper() in all_variables():
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, **variables: str) -> Result:
        given = {
            "DATABASE_URL": database_url,
            "PREDICTBENCH_NOW": "2026-04-10T08:00:00Z",
            "POLYMARKET_BASE_URL": settling.base_url,
            "POLYMARKET_CLOB_URL": settling.clob_url,
            "POLYMARKET_REQUESTS_PER_SECOND": "1000",
            "POLYMARKET_MAX_ATTEMPTS": "1",
            "GITHUB_STEP_SUMMARY": str(tmp_path / "page.md"),
        }
        return CliRunner().invoke(main, ["resolve", *arguments], env=given | variables)

    return run


def test_a_person_is_told_what_was_found(resolve: Resolve, stored: list[Market], tmp_path: Path) -> None:
    done = resolve()
    assert done.exit_code == 0, done.output
    facts = {line[:26].strip(): line[26:].strip() for line in done.stdout.splitlines()}
    assert facts["markets looked at"] == f"{len(stored)} of {len(stored)}"
    assert facts["final"] == facts["newly final"] == str(len(stored))
    assert f"| newly final | {len(stored)} |" in (tmp_path / "page.md").read_text()
    assert "of " in done.stderr, "nothing was said while it worked"


def test_a_program_gets_one_object(resolve: Resolve, stored: list[Market], settling: SandboxServer) -> None:
    first = json.loads(resolve("--json").stdout)
    assert (first["states"], first["requests"]) == ({"final": len(stored)}, 2)
    market = stored[0]
    settling.settle(market.market_id, tuple(reversed(market.settlement.payout)))  # type: ignore[arg-type]
    second = json.loads(resolve("--json").stdout)
    assert second["observations"] == 1
    assert [change["market_id"] for change in second["changed"]] == [market.market_id]
    assert market.market_id in resolve_text(resolve, settling, market)


def resolve_text(resolve: Resolve, settling: SandboxServer, market: Market) -> str:
    settling.settle(market.market_id, market.settlement.payout)
    return resolve().stdout


def test_limits_leave_the_rest_for_the_next_one(resolve: Resolve, stored: list[Market]) -> None:
    some = json.loads(resolve("--json", "--limit", "10").stdout)
    assert (some["looked_at"], some["remaining"]) == (10, len(stored) - 10)
    more = json.loads(resolve("--json", RESOLUTION_MAX_REQUESTS="1").stdout)
    assert (more["requests"], more["looked_at"]) == (1, 40)
    rest = json.loads(resolve("--json", "--max-requests", "5").stdout)
    assert (rest["looked_at"], rest["remaining"]) == (len(stored), 0)


def test_an_exchange_that_does_not_answer_is_an_error_that_says_what_to_do(
    resolve: Resolve, stored: list[Market], settling: SandboxServer, tmp_path: Path
) -> None:
    settling.set_faults("http500=1")
    done = resolve()
    assert done.exit_code == 1
    assert "predictbench resolve" in done.stderr
    assert "Traceback" not in done.output
    assert f"{len(stored)}" in (tmp_path / "page.md").read_text()


def test_there_is_nothing_to_do_in_an_empty_database(resolve: Resolve) -> None:
    done = resolve("--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["queued"] == 0


def test_another_exchanges_database_is_refused(resolve: Resolve, stored: list[Market]) -> None:
    done = resolve(POLYMARKET_BASE_URL="https://gamma-api.invalid")
    assert done.exit_code == 1
    assert "POLYMARKET_BASE_URL" in done.stderr


def test_a_dry_run_is_refused(resolve: Resolve, stored: list[Market]) -> None:
    done = resolve(PREDICTBENCH_DRY_RUN="1")
    assert done.exit_code == 1
    assert "PREDICTBENCH_DRY_RUN" in done.stderr


def test_a_database_without_tables_says_which_command_makes_them(resolve: Resolve, empty_database_url: str) -> None:
    done = resolve(DATABASE_URL=empty_database_url)
    assert done.exit_code == 1
    assert "predictbench db upgrade" in done.stderr


def test_a_market_before_its_close_waits(resolve: Resolve, stored: list[Market]) -> None:
    early = (datetime(2026, 3, 2, 8, tzinfo=UTC) + timedelta(hours=1)).isoformat()
    assert json.loads(resolve("--json", PREDICTBENCH_NOW=early).stdout)["queued"] == 0
