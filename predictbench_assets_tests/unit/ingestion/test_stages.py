"""The first three stages as functions, with an exchange that is not Polymarket behind the port."""

import json
import weakref
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from predictbench_assets.exchanges.exchange import (
    Capture,
    CapturedRow,
    Exchange,
    MarketDataRead,
    PricesRead,
    ReadOf,
    SettlementReader,
)
from predictbench_assets.exchanges.stats import ApiStats
from predictbench_assets.experiments.testing import CAPTURED_AT, make_market
from predictbench_assets.ingestion.cohort import (
    COHORT,
    SharedCohort,
    build_cohort,
    cohort_markets,
    cohort_rejected,
    stage_cohort,
)
from predictbench_assets.ingestion.headers import CohortHeader, SnapshotHeader, WindowHeader
from predictbench_assets.ingestion.names import open_staged, staged_name
from predictbench_assets.ingestion.registry import SnapshotRecord
from predictbench_assets.ingestion.snapshot import (
    FrozenSnapshot,
    NoSnapshot,
    NothingListed,
    RefreshRefused,
    freeze,
    refuse_losses,
    snapshot_rows,
)
from predictbench_assets.ingestion.window import WINDOW, open_window
from predictbench_assets.markets.cohort import ExclusionReason, MarketRejected, ReadMarket
from predictbench_assets.markets.quotes import Quote
from predictbench_assets.runs import Began, RunKey
from predictbench_assets.settings import Settings
from predictbench_assets.staging import StagedFileBroken, StagingArea

TODAY = CAPTURED_AT.date()
KEY = RunKey(TODAY, 7)
RUN = "0" * 32
ROWS = (b'{"ticker":"A","yes":0.25}', b'{"ticker":"B"}', b'{"ticker":"C","yes":0.5,"halted":true}', b'{"yes":0.125}')


@dataclass
class Bourse:
    """An exchange whose rows have a ticker and a price."""

    rows: Sequence[bytes] = ROWS
    host: str = "bourse.test"
    captures: int = 0

    async def capture(self, start: datetime, end: datetime) -> Capture:
        assert (start, end) == (KEY.start, KEY.end)
        self.captures += 1
        return Capture(
            rows=[CapturedRow(json.loads(raw).get("ticker"), raw, None) for raw in self.rows],
            captured_at=CAPTURED_AT,
            sha256="f" * 64,
            received_bytes=sum(map(len, self.rows)),
            recheck=None,
            quotes=PricesRead(0, available=False, reason="there is no order book"),
            past_prices=PricesRead(0, available=False),
            warnings=["there is no order book"],
            stats=ApiStats(pages=1, requests=1),
        )

    async def reconstruct(self, start: datetime, end: datetime, as_of: datetime) -> Capture:
        raise NotImplementedError

    async def why_missing(
        self, markets: Mapping[str, str | None], start: datetime, end: datetime, as_of: datetime
    ) -> Mapping[str, str]:
        raise NotImplementedError

    def read(self, raw: bytes, quote: Quote | None, captured_at: datetime, /) -> ReadMarket | ExclusionReason:
        row = json.loads(raw)
        if row.get("halted"):
            return "inactive"
        if "ticker" not in row or "yes" not in row:
            raise MarketRejected("yes" if "ticker" in row else "ticker", "is missing", row.get("ticker"))
        market = make_market(row["ticker"], price=row["yes"], captured_at=captured_at)
        return ReadMarket(market, [f"market:{market.market_id}"])

    async def quotes(self, contract_ids: Sequence[str]) -> Mapping[str, Quote]:
        raise NotImplementedError

    async def market_data(self, contract_ids: Sequence[str], captured_at: datetime) -> MarketDataRead:
        return MarketDataRead(ReadOf(), ReadOf())

    def settlements(self, max_requests: int) -> AbstractAsyncContextManager[SettlementReader]:
        raise NotImplementedError


@dataclass
class Registry:
    """The registry of snapshots, in memory."""

    counting: SnapshotRecord | None = None
    refused: SnapshotRecord | None = None
    runs: list[str] = field(default_factory=list)

    def snapshot(self, key: RunKey) -> SnapshotRecord | None:
        return self.counting

    def refused_snapshot(self, key: RunKey) -> SnapshotRecord | None:
        return self.refused

    def register(self, record: SnapshotRecord, dagster_run_id: str, began: Began | None = None) -> None:
        self.counting = record
        self.runs.append(dagster_run_id)


@pytest.fixture
def area(tmp_path: Path) -> StagingArea:
    return StagingArea(str(tmp_path))


def frozen(
    area: StagingArea, registry: Registry, exchange: Exchange | None = None, *, today: date = TODAY, **options: Any
) -> FrozenSnapshot:
    return freeze(exchange or Bourse(), area, registry, KEY, today=today, dagster_run_id=RUN, **options)


def test_the_window_of_a_run_is_staged_under_its_name(area: StagingArea) -> None:
    open_window(area, KEY, dagster_run_id=RUN)
    staged = open_staged(area, ["target_window"], KEY, WINDOW)
    assert staged.header(WindowHeader).dagster_run_id == RUN
    assert [(row["start"], row["window_days"]) for row in staged] == [("2026-03-09T00:00:00+00:00", 7)]


def test_another_exchange_goes_through_all_three_stages(area: StagingArea) -> None:
    registry, exchange = Registry(), Bourse()
    warnings: list[str] = []
    snapshot = freeze(exchange, area, registry, KEY, today=TODAY, dagster_run_id=RUN, warn=warnings.append).file
    assert [(row.market_id, row.raw) for row in snapshot_rows(snapshot)] == [
        (ticker, raw) for ticker, raw in zip(("A", "B", "C", None), ROWS, strict=True)
    ]
    assert snapshot.header(SnapshotHeader).exchange == "bourse.test"
    assert warnings == ["there is no order book"]
    assert registry.counting is not None
    assert (registry.counting.content_hash, registry.counting.quotes_source) == (snapshot.sha256, "gamma")

    cohort = build_cohort(snapshot, exchange.read, Settings(core_sample_size=1))
    name = staged_name([COHORT.name], KEY)
    staged = stage_cohort(area, name, cohort, snapshot=snapshot, limit=None, dagster_run_id=RUN)
    assert [(market.market_id, market.price.value) for market in cohort_markets(staged)] == [("A", 0.25)]
    assert [(one.market_id, one.field) for one in cohort_rejected(staged)] == [("B", "yes"), (None, "ticker")]
    header = staged.header(CohortHeader)
    assert (header.offered, header.excluded, header.rejected) == (4, {"inactive": 1}, 2)

    # What was rejected is asked for before any market is written: whatever else is damaged is known by then.
    whole = stage_cohort(area, "whole", replace(cohort, rejected=[]), snapshot=snapshot, limit=None, dagster_run_id=RUN)
    assert list(cohort_rejected(whole)) == []
    nothing = replace(cohort, markets=[], rejected=[])
    stage_cohort(area, "whole", nothing, snapshot=snapshot, limit=None, dagster_run_id=RUN)
    with pytest.raises(StagedFileBroken, match="holds 0 rows where its header says 1"):
        list(cohort_rejected(whole))
    assert (header.snapshot_hash, header.captured_at) == (snapshot.sha256, CAPTURED_AT)


def test_a_shared_cohort_is_the_one_that_is_asked_for(area: StagingArea) -> None:
    snapshot, shared = frozen(area, Registry()).file, SharedCohort()
    of_one, of_none = (
        stage_cohort(
            area,
            f"cohort_of_{limit}",
            build_cohort(snapshot, Bourse().read, Settings(), limit=limit),
            snapshot=snapshot,
            limit=limit,
            dagster_run_id=RUN,
        )
        for limit in (1, 0)
    )
    asked = (of_one, of_one, of_none, of_one)
    assert [[market.market_id for market in shared.markets(staged)] for staged in asked] == [["A"], ["A"], [], ["A"]]
    assert [[market.market_id for market in shared.hand_over(staged)] for staged in asked] == [["A"], ["A"], [], ["A"]]


def test_a_market_that_is_handed_over_is_held_no_longer(area: StagingArea) -> None:
    rows = [b'{"ticker":"A","yes":0.25}', b'{"ticker":"B","yes":0.5}']
    snapshot, shared = frozen(area, Registry(), Bourse(rows)).file, SharedCohort()
    cohort = build_cohort(snapshot, Bourse().read, Settings())
    staged = stage_cohort(area, "cohort", cohort, snapshot=snapshot, limit=None, dagster_run_id=RUN)
    held = [weakref.ref(market) for market in shared.markets(staged)]
    handed_over = shared.hand_over(staged)
    alive = []
    for market in handed_over:
        del market
        alive.append(sum(one() is not None for one in held))
    assert alive == [1, 0]


def test_a_stored_snapshot_is_used_again_whatever_the_day(area: StagingArea) -> None:
    registry, exchange = Registry(), Bourse()
    first = frozen(area, registry, exchange)
    again = frozen(area, registry, exchange, today=TODAY + timedelta(days=1))
    assert (first.reused, again.reused) == (False, True)
    assert again.file.sha256 == first.file.sha256
    assert exchange.captures == 1


def test_a_refused_snapshot_is_read_after_the_day_and_captured_again_on_it(area: StagingArea) -> None:
    registry, exchange = Registry(), Bourse()
    frozen(area, registry, exchange)
    registry.counting, registry.refused = None, registry.counting
    assert not frozen(area, registry, exchange).reused
    registry.counting = None
    assert frozen(area, registry, exchange, today=TODAY + timedelta(days=1)).reused
    assert exchange.captures == 2
    assert len(registry.runs) == 3, "what is read after all counts from then on"


@pytest.mark.parametrize("refresh", [False, True])
def test_another_day_is_not_captured(area: StagingArea, refresh: bool) -> None:
    with pytest.raises(NoSnapshot, match="refresh" if refresh else "a missed day cannot be captured later"):
        frozen(area, Registry(), today=TODAY + timedelta(days=1), refresh=refresh)


def test_an_empty_listing_is_believed_only_when_asked_to(area: StagingArea) -> None:
    registry = Registry()
    with pytest.raises(NothingListed, match="2026-03-09"):
        frozen(area, registry, Bourse(rows=()))
    assert registry.counting is None
    assert frozen(area, registry, Bourse(rows=()), allow_empty=True).file.rows == 0


def test_a_refresh_is_for_everybody_with_forecasts_of_the_day() -> None:
    refuse_losses(KEY, {"uniform"}, registered={"uniform", "base_rate"}, unselected={"base_rate"})
    with pytest.raises(RefreshRefused, match=r"base_rate \(leave --experiment out.*gone \(add them to PROCESSING"):
        refuse_losses(
            KEY, {"uniform", "base_rate", "gone"}, registered={"uniform", "base_rate"}, unselected={"base_rate"}
        )
