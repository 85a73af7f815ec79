"""Markets and contexts to test an experiment with, for everyone who writes one."""

import logging
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from predictbench_assets.clock import Clock, FixedClock
from predictbench_assets.experiments.protocol import (
    ContextSource,
    ExperimentResult,
    Memo,
    PipelineContext,
    RunMetadata,
    SettledCount,
    SettledForecast,
    SettledMarket,
    count_settled,
)
from predictbench_assets.markets.market import Contract, Event, Market, MarketPrice
from predictbench_assets.markets.market_data import MarketData, OrderBook
from predictbench_assets.runs import RunKey

CAPTURED_AT = datetime(2026, 3, 2, 7, 0, tzinfo=UTC)


def make_run(window_days: int = 7) -> RunMetadata:
    """The metadata of a run on the day of `CAPTURED_AT`."""
    key = RunKey(CAPTURED_AT.date(), window_days)
    return RunMetadata(
        run_id=key.run_id,
        run_date=key.run_date,
        window_days=key.window_days,
        target_date=key.target_date,
        captured_at=CAPTURED_AT,
        as_of=CAPTURED_AT,
        snapshot_hash="0" * 64,
    )


def make_market(
    market_id: str = "1001",
    *,
    price: float | None = 0.62,
    outcomes: tuple[str, ...] = ("Yes", "No"),
    event_id: str | None = None,
    **overrides: Any,
) -> Market:
    """A market with quotes a cent to either side of `price`.

    Args:
        market_id: also part of its slug and of its contracts' ids.
        price: price of the first outcome; the other outcomes share the rest. None for a market without any price.
        outcomes: their names.
        event_id: id of its event; None for a market without one.
        overrides: any field of `Market`.
    """
    fields: dict[str, Any] = {
        "market_id": market_id,
        "condition_id": f"0x{market_id}",
        "slug": f"market-{market_id}",
        "question": f"Will thing {market_id} happen?",
        "description": "Resolves to the first outcome if the thing happens.",
        "contracts": tuple(
            Contract(contract_id=f"{market_id}-{index}", index=index, name=name, price=_share(price, index, outcomes))
            for index, name in enumerate(outcomes)
        ),
        "event": Event(event_id=event_id, slug=f"event-{event_id}", title=f"Event {event_id}") if event_id else None,
        "category": "other",
        "neg_risk": False,
        "neg_risk_market_id": None,
        "game_id": None,
        "series_slug": None,
        "cluster": f"event:{event_id}" if event_id else f"market:{market_id}",
        "created_at": CAPTURED_AT - timedelta(days=10),
        "opened_at": CAPTURED_AT - timedelta(days=10),
        "close_time": CAPTURED_AT + timedelta(days=7),
        "volume": 12_000.0,
        "volume_24h": 800.0,
        "liquidity": 3_000.0,
        "price": _quoted(price),
        "captured_at": CAPTURED_AT,
    }
    return Market(**(fields | overrides))


def make_context(
    market_id: str = "1001",
    *,
    required: Mapping[str, ExperimentResult] | None = None,
    siblings: Iterable[Market] = (),
    cohort: Iterable[Market] = (),
    history: Iterable[SettledMarket] = (),
    settled_forecasts: Mapping[str, Sequence[SettledForecast]] | None = None,
    book: OrderBook | None = None,
    price_history: Iterable[tuple[datetime, float]] = (),
    run: RunMetadata | None = None,
    clock: Clock | None = None,
) -> PipelineContext:
    """A context; artifacts go nowhere, their address is `memory:<name>`.

    Args:
        clock: by default it stands at the capture.
    """
    points = tuple((at.timestamp(), price) for at, price in price_history)
    source = _Given(
        run=run or make_run(),
        clock=clock or FixedClock(CAPTURED_AT),
        cohort=tuple(cohort),
        others=tuple(siblings),
        settled=tuple(history),
        forecasts=settled_forecasts or {},
        encoded=msgspec.json.encode(MarketData(market_id=market_id, book=book, history=points)),
    )
    return PipelineContext(market_id, required or {}, source)


@dataclass
class _Given(ContextSource):
    """What `make_context` was given."""

    run: RunMetadata
    clock: Clock
    cohort: Sequence[Market]
    others: tuple[Market, ...]
    settled: Sequence[SettledMarket]
    forecasts: Mapping[str, Sequence[SettledForecast]]
    encoded: bytes
    memo: Memo = field(default_factory=Memo)

    def logger(self, market_id: str) -> logging.LoggerAdapter[logging.Logger]:
        return logging.LoggerAdapter(logging.getLogger("predictbench.experiment"), {"market_id": market_id})

    def rng(self, market_id: str) -> random.Random:
        return random.Random(market_id)  # noqa: S311 - reproducible on purpose

    def siblings(self, _: str) -> tuple[Market, ...]:
        return self.others

    def market_data(self, _: str) -> bytes:
        return self.encoded

    def history(self, as_of: datetime) -> Iterable[SettledMarket]:
        return (market for market in self.settled if market.settled_at <= as_of)

    def settled_counts(self, as_of: datetime) -> Mapping[str, SettledCount]:
        return count_settled(self.history(as_of))

    def settled_forecasts(self, name: str, as_of: datetime) -> Iterable[SettledForecast]:
        return (one for one in self.forecasts.get(name, ()) if one.settled_at <= as_of)

    def artifact(self, _: str, name: str, __: bytes) -> str:
        return f"memory:{name}"


def _share(price: float | None, index: int, outcomes: tuple[str, ...]) -> float | None:
    if price is None or index == 0:
        return price
    return (1.0 - price) / (len(outcomes) - 1)


def _quoted(price: float | None) -> MarketPrice:
    if price is None:
        return MarketPrice(value=None)
    bid, ask = max(price - 0.01, 0.0), min(price + 0.01, 1.0)
    return MarketPrice(value=price, bid=bid, ask=ask, source="clob", quality="good", at=CAPTURED_AT)
