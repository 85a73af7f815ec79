"""A client that never really waits."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from predictbench_assets.clock import FixedClock
from predictbench_assets.exchanges.polymarket.client import PolymarketClient

Connect = Callable[..., AbstractAsyncContextManager[PolymarketClient]]


@pytest.fixture
def waits() -> list[float]:
    """Seconds that the client would have waited between attempts."""
    return []


@pytest.fixture
def connect(waits: list[float]) -> Connect:
    """Opens a client to the two addresses, unlimited unless told otherwise."""

    async def no_sleep(seconds: float) -> None:
        waits.append(seconds)
        await asyncio.sleep(0)

    @asynccontextmanager
    async def open_client(base_url: str, clob_url: str, **options: Any) -> AsyncIterator[PolymarketClient]:
        clock = FixedClock(datetime(2026, 11, 23, 7, tzinfo=UTC))
        settings = {"requests_per_second": 1_000, "timeout_s": 5, "clock": clock, "sleep": no_sleep} | options
        async with PolymarketClient(base_url, clob_url, **settings) as client:
            yield client

    return open_client
