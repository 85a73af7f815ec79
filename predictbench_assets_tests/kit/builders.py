"""Markets, rows of the listing, results, attempts, leases and observations to write, plain enough to predict every row.

What a test is about it names itself, and what it leaves out is the same everywhere.
"""

import json
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import uuid4

from sqlalchemy import Engine, insert

from predictbench_assets.clock import FixedClock
from predictbench_assets.database.errors import Backoff
from predictbench_assets.database.schema import resolution_observations
from predictbench_assets.experiments.testing import make_market
from predictbench_assets.markets.market import Contract, Event, Market, MarketPrice
from predictbench_assets.persistence.leases import Lease, open_lease
from predictbench_assets.persistence.records import ExperimentAttempt, MarketRecord, ResultRecord
from predictbench_assets.runs import RunKey

KEY = RunKey(date(2026, 2, 2), 7)
NOW = datetime(2026, 2, 2, 7, 0, tzinfo=UTC)
QUICK = Backoff(attempts=4, first=0.01, longest=0.05)


def market(number: int, **changes: Any) -> Market:
    """Market `m<number>` of event `e<number // 3>`, at 0.40; changes are taken unread, so it may be no valid one."""
    outcomes = (("Yes", 0.4), ("No", 0.6))
    values: dict[str, Any] = {
        "slug": f"will-it-{number}",
        "question": f"Will it happen {number} times? Ünïcode ✓",
        "contracts": tuple(
            Contract(contract_id=f"{number}0{place + 1}", index=place, name=name, price=price)
            for place, (name, price) in enumerate(outcomes)
        ),
        "event": Event(event_id=f"e{number // 3}", slug=f"event-{number // 3}", title="An event"),
        "category": "politics",
        "cluster": f"c{number // 3}",
        "close_time": KEY.start + timedelta(hours=12),
        "volume": 1234.5,
        "volume_24h": None,
        "liquidity": 99.25,
        "price": MarketPrice(value=0.4, bid=0.39, ask=0.41, source="clob", quality="good", at=NOW),
        "captured_at": NOW,
        "core": number % 2 == 0,
        "core_weight": 2.0 if number % 2 == 0 else None,
    }
    return make_market(f"m{number}").model_copy(update=values | changes)


def wire_row(**changes: Any) -> bytes:
    """A well-formed row of Polymarket's listing, changed by names on the wire; None, or `...`, leaves a key out."""
    number = int(changes.get("id") or 100) if str(changes.get("id", "100")).isdecimal() else 100
    whole = {
        "id": "100",
        "question": "Will it rain?",
        "slug": "will-it-rain",
        "conditionId": "0xabc",
        "endDate": "2026-11-30T12:00:00Z",
        "outcomes": '["Yes", "No"]',
        "outcomePrices": '["0.6", "0.4"]',
        "clobTokenIds": json.dumps([str(number * 10), str(number * 10 + 1)]),
        "bestBid": 0.58,
        "bestAsk": 0.62,
        "volumeNum": 10,
        "liquidityNum": 5.5,
    } | changes
    return json.dumps({key: value for key, value in whole.items() if value not in (None, ...)}).encode()


def result(experiment: str = "baseline_snapshot", probability: float | None = 0.4, **changes: Any) -> ResultRecord:
    values: dict[str, Any] = {
        "experiment": experiment,
        "status": "completed",
        "probability": probability,
        "probabilities": None if probability is None else (probability, 1 - probability),
        "payload": {"note": "as quoted", "missing": None, "nested": {"levels": [1, 2.5, None]}},
        "forecast_at": NOW,
    }
    return ResultRecord(**(values | changes))


def record(number: int, *results: ResultRecord, raw: bytes | None = None, **changes: Any) -> MarketRecord:
    payload = json.dumps({"id": f"m{number}", "question": "Ünïcode ✓ \U0001f600", "deep": {"z": [1, {"a": None}]}})
    return MarketRecord(market(number, **changes), raw if raw is not None else payload.encode(), results or (result(),))


def attempt(name: str = "baseline_snapshot", content: str = "A", **changes: Any) -> ExperimentAttempt:
    values: dict[str, Any] = {
        "name": name,
        "version": "1",
        "description": f"{name}, for a test",
        "information": "market",
        "mandatory": name == "baseline_snapshot",
        "status": "completed",
        "content_hash": content,
        "snapshot_hash": "snap",
        "config_hash": "conf",
    }
    return ExperimentAttempt(**(values | changes))


def open_run(engine: Engine, key: RunKey = KEY, at: datetime = NOW, **changes: Any) -> Lease:
    """Open a run as another Dagster run than any before."""
    values: dict[str, Any] = {
        "dagster_run_id": f"dagster-{uuid4()}",
        "holder": "host:1",
        "exchange": "gamma.example",
        "git_sha": "abc",
        "clock": FixedClock(at),
    }
    return open_lease(engine, key, **(values | changes))


def observe(
    engine: Engine, market_id: str, state: str, outcome: float | None = None, *, at: datetime, **changes: Any
) -> None:
    """Add an observation to the ledger of settlements."""
    payout = None if outcome is None else [outcome, 1 - outcome]
    values = {"source": "gamma", "state": state, "outcome": outcome, "payout": payout} | changes
    with engine.begin() as connection:
        connection.execute(insert(resolution_observations).values(market_id=market_id, observed_at=at, **values))
