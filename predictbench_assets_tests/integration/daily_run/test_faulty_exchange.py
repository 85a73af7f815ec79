"""What an exchange that misbehaves does to a run: mostly nothing, and otherwise something that a person can read."""

from datetime import timedelta
from itertools import count
from typing import Any

import pytest

from predictbench_assets.exchanges.polymarket.client import PolymarketClient
from predictbench_assets.sandbox.exchange import ReplayWorld, View
from predictbench_assets.sandbox.faults import Faults, FaultSource
from predictbench_assets.sandbox.server import serve
from predictbench_assets.sandbox.world import World
from predictbench_assets.settings import DEFAULT_EXPERIMENTS
from predictbench_assets_tests.kit.daily_run import BASELINE, KEY, NOW, MakeRun, Tables, differences

IMPATIENT = {"POLYMARKET_MAX_ATTEMPTS": "2", "PROCESSING_EXPERIMENTS": BASELINE}

SNAPSHOTS = "SELECT superseded_at IS NULL, refused FROM predictbench.snapshots ORDER BY captured_at, superseded_at"
"""Of each capture, whether it counts, and why it was refused."""


def test_faults_that_heal_change_nothing(make_run: MakeRun) -> None:
    faults = "http500=0.05,http429=0.02,reset=0.01,truncate=0.01,repeat=0.1,retry_after=0.05"
    pages = {"POLYMARKET_PAGE_SIZE": "5"}
    well = make_run(World(markets_per_day=160), **pages)
    assert well.here().exit_code == 0
    requests = sum(well.sandbox.requests.values())
    unwell = make_run(World(markets_per_day=160), faults=faults, seed=_seed_with_all(faults, requests), **pages)

    ran = unwell.here()

    assert ran.exit_code == 0
    assert unwell.sandbox.injected.keys() >= {"http500", "http429", "reset", "truncate", "repeat"}
    # `sha256` is of the bodies as received: the repeated rows are in it. What was made of them is the same.
    assert not differences(_without_received(well.tables()), _without_received(unwell.tables()))
    assert ran.said["api"]["retries"] >= 4
    assert ran.said["api"]["duplicates"] > 0


def test_a_walk_that_cannot_be_completed_fails_the_run(make_run: MakeRun) -> None:
    daily = make_run(faults="http500=1", **IMPATIENT)

    ran = daily.here()

    assert ran.exit_code == 1
    status, stage, reason = daily.run_row("status", "stage", "reason")
    assert (status, stage) == ("failed", "raw_markets")
    assert "were not all read" in reason
    assert "status 500" in reason
    assert (ran.said["status"], ran.said["stage"], ran.said["reason"]) == (status, stage, reason)
    assert ran.said["failures"] == [{"market_id": None, "stage": stage, "reason": reason, "retriable": True}]
    assert daily.rows("SELECT market_id, stage, retriable FROM predictbench.processing_failures") == [
        (None, "raw_markets", True)
    ]
    assert daily.count("snapshots") == daily.count("processed_markets") == 0

    daily.sandbox.set_faults("")
    assert daily.here().exit_code == 0
    assert daily.run_row("status", "stage", "reason", "processed_markets") == ("completed", "persisted_run", None, 40)


def test_without_the_order_books_gamma_says_the_price(make_run: MakeRun) -> None:
    daily = make_run(POLYMARKET_CLOB_URL="http://127.0.0.1:9", **IMPATIENT)

    ran = daily.here()

    assert ran.exit_code == 0
    assert ran.said["quotes_source"] == "gamma"
    assert ran.said["processed_markets"] == 40
    sources = {source for (source,) in daily.rows("SELECT price_source FROM predictbench.processed_markets")}
    assert sources == {"gamma"}


def test_too_many_unreadable_rows_stop_the_run(make_run: MakeRun) -> None:
    daily = make_run(World(markets_per_day=40, poison=0.3), PROCESSING_EXPERIMENTS=BASELINE)

    ran = daily.here()

    assert ran.exit_code == 1
    assert ran.checks()["rejected_share"] is False
    status, stage, reason = daily.run_row("status", "stage", "reason")
    assert (status, stage) == ("failed", "normalized_markets")
    assert "REJECTED_SHARE_LIMIT" in reason
    assert "its API has changed" in reason
    assert "the next try of the day asks the exchange again" in reason
    assert (ran.said["status"], ran.said["stage"], ran.said["reason"]) == (status, stage, reason)
    assert ran.said["offered_markets"] == 40
    assert ran.said["rejected_markets"] == 12
    assert daily.count("processed_markets") == daily.count("experiment_runs") == 0

    # The exchange is asked again while the day lasts, and listened to once it is well.
    assert daily.rows(SNAPSHOTS) == [(False, reason)]
    requests = sum(daily.sandbox.requests.values())
    assert daily.here().exit_code == 1
    assert sum(daily.sandbox.requests.values()) > requests
    with serve(World(markets_per_day=40), now=NOW) as well:
        healed = daily.here(POLYMARKET_BASE_URL=well.base_url)
    assert healed.exit_code == 0
    assert (healed.said["processed_markets"], healed.said["rejected_markets"]) == (40, 0)
    assert daily.rows(SNAPSHOTS) == [(False, reason), (True, None)]


def test_what_was_refused_is_kept_for_whoever_mends_the_reader_after_the_day(make_run: MakeRun) -> None:
    daily = make_run(World(markets_per_day=40, poison=0.3), PROCESSING_EXPERIMENTS=BASELINE)
    daily.here()
    requests = sum(daily.sandbox.requests.values())
    next_day = {"PREDICTBENCH_NOW": (NOW + timedelta(days=1)).isoformat()}

    assert daily.here(**next_day).exit_code == 1
    assert [counts for counts, _ in daily.rows(SNAPSHOTS)] == [False]
    # Somebody has looked, and finds them bearable.
    again = daily.here(REJECTED_SHARE_LIMIT="0.5", **next_day)

    assert again.exit_code == 0
    assert (again.said["processed_markets"], again.said["rejected_markets"]) == (28, 12)
    assert sum(daily.sandbox.requests.values()) == requests
    assert daily.rows(SNAPSHOTS) == [(True, None)]


def test_a_refresh_that_is_refused_leaves_the_day_as_it_was(make_run: MakeRun) -> None:
    daily = make_run(World(markets_per_day=40), PROCESSING_EXPERIMENTS=BASELINE)
    daily.here()
    before = daily.tables()
    later = {"PREDICTBENCH_NOW": (NOW + timedelta(hours=2)).isoformat()}
    with serve(World(markets_per_day=40, poison=0.3), now=NOW + timedelta(hours=2)) as unwell:
        ran = daily.here(ops={"raw_markets": {"refresh": True}}, POLYMARKET_BASE_URL=unwell.base_url, **later)
    assert ran.exit_code == 1
    assert [counts for counts, _ in daily.rows(SNAPSHOTS)] == [True, False]

    again = daily.here(**later)

    assert again.exit_code == 0
    assert again.metadata("raw_markets")["reused"] is True
    assert differences(before, daily.tables()).keys() == {"snapshots", "processing_failures"}


def test_a_listing_that_disagrees_with_itself_stops_the_run_until_it_is_captured_again(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    daily = make_run(PROCESSING_EXPERIMENTS=BASELINE)
    whole, recheck = daily.sandbox.app.view, PolymarketClient._recheck

    async def after_all_markets_have_gone(client: PolymarketClient, *args: Any) -> Any:
        daily.sandbox.app.view = View(ReplayWorld([]), whole.at)
        return await recheck(client, *args)

    with monkeypatch.context() as patch:
        patch.setattr(PolymarketClient, "_recheck", after_all_markets_have_gone)
        ran = daily.here()
    daily.sandbox.app.view = whole

    said = "walk_repeatable: The listing changed between two walks; the next try captures again."
    assert ran.exit_code == 1
    assert daily.run_row("status", "stage", "reason") == ("failed", "raw_markets", said)
    assert ran.said["reason"] == said
    assert daily.here().exit_code == 0
    assert daily.rows(SNAPSHOTS) == [(False, said), (True, None)]


def test_a_listing_without_any_market_is_asked_for_again(make_run: MakeRun) -> None:
    daily = make_run(PROCESSING_EXPERIMENTS=BASELINE)
    with serve(ReplayWorld([]), now=NOW) as empty:
        ran = daily.here(POLYMARKET_BASE_URL=empty.base_url)

    assert ran.exit_code == 1
    status, stage, reason = daily.run_row("status", "stage", "reason")
    assert (status, stage) == ("failed", "raw_markets")
    assert "the exchange lists no market that closes on 2026-03-09" in reason
    assert "--allow-empty" in reason
    assert "ALLOW_EMPTY_WINDOWS" in reason
    assert daily.rows("SELECT retriable FROM predictbench.processing_failures") == [(True,)]
    assert daily.count("snapshots") == 0

    healed = daily.here()
    assert healed.exit_code == 0
    assert healed.said["processed_markets"] == 40


@pytest.mark.parametrize(
    ("ops", "variables"),
    [({"raw_markets": {"allow_empty": True}}, {}), ({}, {"ALLOW_EMPTY_WINDOWS": "7,90"})],
    ids=["for this run", "for its window"],
)
def test_a_day_that_truly_has_no_market_is_a_run_of_zeros(
    make_run: MakeRun, ops: dict[str, dict[str, bool]], variables: dict[str, str]
) -> None:
    daily = make_run(World(markets_per_day=0))

    ran = daily.here(ops=ops, **variables)

    assert ran.exit_code == 0
    assert ran.said["status"] == "completed"
    assert daily.run_row("status", "offered_markets", "total_markets", "processed_markets") == ("completed", 0, 0, 0)
    assert ran.checks()["cohort_size"] is False
    assert daily.count("experiment_runs") == len(DEFAULT_EXPERIMENTS)


@pytest.mark.parametrize("fault", ["truncate", "reset", "html403", "http429"])
def test_no_fault_that_lasts_passes_for_a_short_day(fault: str, make_run: MakeRun) -> None:
    daily = make_run(faults=f"{fault}=1,retry_after=0.05", **IMPATIENT)

    ran = daily.here(KEY)

    assert ran.exit_code == 1
    assert ran.said["stage"] == "raw_markets"
    assert "were not all read" in ran.said["reason"]
    assert daily.count("snapshots") == 0


def _seed_with_all(faults: str, requests: int) -> int:
    """A seed with which every kind of fault happens among so many requests, whatever their order."""

    def drawn(seed: int) -> set[str | None]:
        source = FaultSource(Faults.parse(faults), seed)
        return {source.draw() for _ in range(requests)}

    return next(seed for seed in count() if drawn(seed) >= {"http500", "http429", "reset", "truncate", "repeat"})


def _without_received(tables: Tables) -> dict[str, Any]:
    received = {"sha256"}
    return {
        name: [sorted(pair for pair in row if pair[0] not in received) for row in rows.elements()]
        if name == "snapshots"
        else rows
        for name, rows in tables.items()
    }
