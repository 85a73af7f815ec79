"""Rows of the ledger of paid calls, as an experiment leaves them."""

from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

from sqlalchemy import Engine, insert

from predictbench_assets.database.schema import model_calls
from predictbench_assets.runs import RunKey
from predictbench_assets_tests.kit.builders import KEY, NOW


def pay(engine: Engine, status: str = "answered", *, times: int = 1, key: RunKey = KEY, **changes: Any) -> None:
    """Add calls of `mini`, each about another market: $0.0050 of a reserved $0.0200, 1,000 tokens in and 200 out.

    An unknown one has no more than its reservation, a failed one costs nothing.
    """
    values: dict[str, Any] = {
        "run_date": key.run_date,
        "window_days": key.window_days,
        "experiment": "mini",
        "version": "1",
        "config_hash": "conf",
        "snapshot_hash": "snap",
        "unit": "market",
        "sample": 0,
        "attempt": 1,
        "provider": "openai",
        "model_asked": "openai:gpt-5-mini",
        "prompt_hash": "prompt",
        "status": status,
        "reserved_cost": Decimal("0.0200"),
        "asked_at": NOW + timedelta(minutes=1),
        "expires_at": NOW + timedelta(minutes=11),
        "owner": "host:1",
    }
    if status not in ("unknown", "failed"):
        values |= {"input_tokens": 1_000, "cached_tokens": 400, "output_tokens": 200, "reasoning_tokens": 50}
        values |= {"cost": Decimal("0.0050"), "model_returned": "gpt-5-mini-2025-08-07"}
    if status != "unknown":
        values |= {"answered_at": NOW + timedelta(minutes=2)}
    rows = [values | {"call_id": uuid4(), "unit_id": f"m{number}"} | changes for number in range(times)]
    if rows:
        with engine.begin() as connection:
            connection.execute(insert(model_calls), rows)
