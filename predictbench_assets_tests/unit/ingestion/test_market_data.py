"""What is frozen beside a snapshot: once, right after it, core first, and one market's trouble is its own."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from predictbench_assets.exchanges.exchange import Capture, MarketDataRead, ReadOf, SettlementReader
from predictbench_assets.experiments.testing import CAPTURED_AT, make_market
from predictbench_assets.ingestion.cohort import COHORT
from predictbench_assets.ingestion.headers import CohortHeader, MarketDataHeader
from predictbench_assets.ingestion.market_data import (
    LATEST,
    FrozenMarketData,
    freeze_market_data,
    frozen_market_data,
)
from predictbench_assets.ingestion.names import staged_name
from predictbench_assets.markets.cohort import ExclusionReason, ReadMarket
from predictbench_assets.markets.market_data import MarketData, OrderBook
from predictbench_assets.markets.quotes import Quote
from predictbench_assets.runs import RunKey
from predictbench_assets.staging import StagedFile, StagingArea

KEY = RunKey(CAPTURED_AT.date(), 7)
SNAPSHOT = "5" * 64
BOOK = OrderBook(CAPTURED_AT + timedelta(seconds=9), ((0.4, 10.0),), ((0.42, 5.0),))
POINTS = ((CAPTURED_AT.timestamp() - 3600, 0.4), (CAPTURED_AT.timestamp(), 0.41))


@dataclass
class Books:
    """An exchange that is asked for books and histories alone."""

    broken: Sequence[str] = ()
    down: bool = False
    host: str = "bourse.test"
    asked: list[list[str]] = field(default_factory=list)

    async def market_data(self, contract_ids: Sequence[str], captured_at: datetime) -> MarketDataRead:
        self.asked.append(list(contract_ids))
        books: ReadOf[OrderBook] = ReadOf()
        weeks: ReadOf[tuple[tuple[float, float], ...]] = ReadOf()
        reason = "status 500" if self.down else None
        if not self.down:
            for contract in contract_ids:
                if contract in self.broken:
                    books.missing[contract] = "its book cannot be right: a side that is no list"
                else:
                    books.found[contract] = BOOK
                weeks.found[contract] = POINTS
        return MarketDataRead(
            books.ended(contract_ids, reason, "order books"), weeks.ended(contract_ids, reason, "prices of the week")
        )

    async def capture(self, start: datetime, end: datetime) -> Capture:
        raise NotImplementedError

    def read(self, raw: bytes, quote: Quote | None, captured_at: datetime, /) -> ReadMarket | ExclusionReason:
        raise NotImplementedError

    def settlements(self, max_requests: int) -> AbstractAsyncContextManager[SettlementReader]:
        raise NotImplementedError


@pytest.fixture
def area(tmp_path: Path) -> StagingArea:
    return StagingArea(str(tmp_path))


def cohort(area: StagingArea, count: int = 4, snapshot: str = SNAPSHOT, *, as_of: datetime | None = None) -> StagedFile:
    """Markets of which the odd ones are of the core."""
    markets = [make_market(f"m{number}", core=bool(number % 2)) for number in range(count)]
    header = CohortHeader(
        snapshot_hash=snapshot, captured_at=CAPTURED_AT, limit=None, offered=count, excluded={}, rejected=0,
        markets=count, contracts=2 * count, core=count // 2, clusters=count, price_quality={}, price_source={},
        category={}, as_of=as_of,
    )  # fmt: skip
    lines = [b'{"market":' + market.model_dump_json().encode() + b"}" for market in markets]
    return area.publish(staged_name([COHORT.name], KEY), COHORT, header, lines)


def freeze(
    area: StagingArea,
    exchange: Books,
    of: StagedFile | None = None,
    *,
    after: timedelta = timedelta(),
    wanted: bool = True,
    warnings: list[str] | None = None,
) -> FrozenMarketData:
    return freeze_market_data(
        exchange,
        area,
        KEY,
        of or cohort(area),
        now=CAPTURED_AT + after,
        dagster_run_id="r",
        wanted=wanted,
        warn=[].append if warnings is None else warnings.append,
    )


def rows(area: StagingArea, snapshot: str = SNAPSHOT) -> dict[str, MarketData]:
    found = frozen_market_data(area, KEY, snapshot)
    return {market_id: msgspec.json.decode(line, type=MarketData) for market_id, line in found.items()}


def test_the_core_is_asked_about_first_and_every_market_has_a_row(area: StagingArea) -> None:
    exchange = Books()
    frozen = freeze(area, exchange)
    assert exchange.asked == [["m1-0", "m3-0", "m0-0", "m2-0"]]
    assert not frozen.reused
    assert rows(area).keys() == {"m0", "m1", "m2", "m3"}
    assert rows(area)["m0"].book == BOOK
    assert [price for _, price in rows(area)["m0"].price_history] == [0.4, 0.41]
    header = frozen.file.header(MarketDataHeader)
    assert (header.books, header.histories, header.reasons, header.not_frozen) == (4, 4, {}, None)


def test_one_broken_book_costs_that_market_its_book_and_is_counted(area: StagingArea) -> None:
    frozen = freeze(area, Books(broken=["m2-0"]))
    found = rows(area)
    assert found["m2"].book is None
    assert found["m2"].history == POINTS
    assert found["m2"].no_book == "its book cannot be right: a side that is no list"
    assert all(found[one].book == BOOK for one in ("m0", "m1", "m3"))
    assert frozen.file.header(MarketDataHeader).reasons == {found["m2"].no_book: 1}


def test_what_is_frozen_is_not_asked_for_again(area: StagingArea) -> None:
    exchange = Books()
    first = freeze(area, exchange)
    for after in (timedelta(minutes=1), timedelta(days=30)):
        again = freeze(area, exchange, after=after)
        assert (again.reused, again.file.sha256) == (True, first.file.sha256)
    assert freeze(area, exchange, wanted=False).reused
    assert len(exchange.asked) == 1


@pytest.mark.parametrize("after", [LATEST + timedelta(seconds=1), timedelta(days=2), -LATEST - timedelta(seconds=1)])
def test_too_late_nothing_is_asked_for(area: StagingArea, after: timedelta) -> None:
    exchange = Books()
    frozen = freeze(area, exchange, after=after)
    assert exchange.asked == []
    assert frozen.file.rows == 0
    assert "order books of now are not those of then" in str(frozen.file.header(MarketDataHeader).not_frozen)
    assert rows(area) == {}


def test_of_a_day_that_is_reconstructed_nothing_is_asked_for(area: StagingArea) -> None:
    exchange = Books()
    frozen = freeze(area, exchange, cohort(area, as_of=CAPTURED_AT - timedelta(days=9)))
    assert exchange.asked == []
    assert "the snapshot was reconstructed" in str(frozen.file.header(MarketDataHeader).not_frozen)


def test_where_no_experiment_asks_the_exchange_is_not_asked(area: StagingArea) -> None:
    exchange = Books()
    assert freeze(area, exchange, wanted=False).file.rows == 0
    assert exchange.asked == []
    # One that asks soon after still gets what there was.
    assert freeze(area, exchange, after=timedelta(minutes=2)).file.rows == 4


def test_an_exchange_that_is_down_is_asked_again_while_there_is_time(area: StagingArea) -> None:
    exchange, warnings = Books(down=True), list[str]()
    frozen = freeze(area, exchange, warnings=warnings)
    assert warnings == ["order books are missing: status 500", "prices of the week are missing: status 500"]
    assert "status 500" in str(frozen.file.header(MarketDataHeader).not_frozen)
    exchange.down = False
    assert freeze(area, exchange, after=timedelta(minutes=2)).file.rows == 4


def test_a_larger_cohort_of_the_snapshot_is_asked_about_while_there_is_time(area: StagingArea) -> None:
    exchange = Books()
    freeze(area, exchange, cohort(area, 2))
    assert freeze(area, exchange, cohort(area, 1)).reused
    assert len(exchange.asked) == 1
    assert freeze(area, exchange, cohort(area, 4), after=LATEST * 2).file.rows == 2
    assert freeze(area, exchange, cohort(area, 4)).file.rows == 4


def test_another_snapshot_has_its_own(area: StagingArea) -> None:
    exchange = Books()
    freeze(area, exchange)
    other = "6" * 64
    assert rows(area, other) == {}
    freeze(area, exchange, cohort(area, 2, other))
    assert (len(rows(area)), len(rows(area, other))) == (4, 2)


def test_a_damaged_file_gives_nothing_and_stops_nothing(area: StagingArea, caplog: pytest.LogCaptureFixture) -> None:
    freeze(area, Books())
    [name] = [one for one in area.list("market_data") if SNAPSHOT[:32] in one]
    path = Path(area.path(name))
    path.write_bytes(path.read_bytes()[:-20])
    assert frozen_market_data(area, KEY, SNAPSHOT) == {}
    assert "is not used" in caplog.text
    assert freeze(area, Books(), cohort(area, 3)).file.rows == 3
