"""Leases, markets and experiments to write, plain enough to predict every row."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy import Engine, text

from predictbench_assets.database.errors import Backoff
from predictbench_assets.markets.market import Contract, Event, Market, MarketPrice
from predictbench_assets.persistence.records import ExperimentAttempt, MarketRecord, ResultRecord
from predictbench_assets.runs import RunKey

NOW = datetime(2026, 2, 2, 7, 0, tzinfo=UTC)


KEY = RunKey(date(2026, 2, 2), 7)


QUICK = Backoff(attempts=4, first=0.01, longest=0.05)


def market(number: int, **changes: Any) -> Market:
    """Market `m<number>` of event `e<number // 3>`, at 0.40."""
    values: dict[str, Any] = {
        "market_id": f"m{number}",
        "condition_id": f"0x{number:064x}",
        "slug": f"will-it-{number}",
        "question": f"Will it happen {number} times? Ünïcode ✓",
        "description": "",
        "contracts": (
            Contract(contract_id=f"{number}01", index=0, name="Yes", price=0.4),
            Contract(contract_id=f"{number}02", index=1, name="No", price=0.6),
        ),
        "event": Event(event_id=f"e{number // 3}", slug=f"event-{number // 3}", title="An event", neg_risk=False),
        "category": "politics",
        "neg_risk": False,
        "neg_risk_market_id": None,
        "game_id": None,
        "series_slug": None,
        "group_item_title": None,
        "group_item_threshold": None,
        "cluster": f"c{number // 3}",
        "created_at": None,
        "opened_at": None,
        "close_time": KEY.start + timedelta(hours=12),
        "volume": 1234.5,
        "volume_24h": None,
        "liquidity": 99.25,
        "price": MarketPrice(value=0.4, bid=0.39, ask=0.41, source="clob", quality="good", at=NOW),
        "captured_at": NOW,
        "core": number % 2 == 0,
        "core_weight": 2.0 if number % 2 == 0 else None,
    }
    return Market.model_construct(**(values | changes))


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


@dataclass
class Database:
    """A short way to ask the database something."""

    engine: Engine

    def rows(self, sql: str, **values: Any) -> list[tuple[Any, ...]]:
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(sql), values)]

    def scalar(self, sql: str, **values: Any) -> Any:
        [[value]] = self.rows(sql, **values)
        return value

    def counts(self) -> Mapping[str, int]:
        tables = ("events", "processed_markets", "processed_contracts", "experiment_runs", "experiment_results")
        return {table: self.scalar(f"SELECT count(*) FROM predictbench.{table}") for table in tables}
