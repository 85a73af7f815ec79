"""A sandbox exchange whose markets are stored, and sweeps of it at any time."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Engine, text

from predictbench_assets.clock import Clock, FixedClock
from predictbench_assets.exchanges.polymarket.client import PolymarketClient
from predictbench_assets.exchanges.polymarket.exchange import Polymarket
from predictbench_assets.resolution.summary import SweepReport
from predictbench_assets.resolution.sweep import sweep
from predictbench_assets.sandbox.server import SandboxServer
from predictbench_assets.sandbox.world import Market, World

NOW = datetime(2026, 3, 2, 7, 0, tzinfo=UTC)
CLOSING = date(2026, 3, 9)


EXCHANGE = "localhost"
_RUN = text("""
    WITH attempt AS (
        INSERT INTO predictbench.processing_attempts (run_id, attempt, dagster_run_id, holder, started_at, heartbeat_at,
            finished_at, status)
        VALUES (:run_id, 1, 'd', 'h', :now, :now, :now, 'completed') ON CONFLICT DO NOTHING
    )
    INSERT INTO predictbench.processing_runs (run_id, run_date, window_days, target_date, started_at, status, attempt,
        holder, heartbeat_at, dagster_run_id, exchange, offered_markets, excluded_markets, rejected_markets,
        total_markets, failed_markets, processed_markets)
    VALUES (:run_id, '2026-03-02', 7, '2026-03-09', :now, 'completed', 1, 'h', :now, 'd', :exchange, 0, 0, 0, 0, 0, 0)
    ON CONFLICT DO NOTHING
""")


_MARKET = text("""
    INSERT INTO predictbench.processed_markets (processed_market_id, run_id, market_id, market_slug, question,
        close_time, processed_at, condition_id, cluster, category, neg_risk, captured_at, price_source, price_quality,
        core, raw_snapshot)
    VALUES (:id, :run_id, :market, 's', '?', :close, :now, :condition, 'c', 'c', false, :now, 'none', 'none', false,
        '{}')
""")


_CONTRACT = text("""
    INSERT INTO predictbench.processed_contracts (processed_contract_id, processed_market_id, contract_id, name,
        metadata)
    VALUES (gen_random_uuid(), :id, :token, :name, jsonb_build_object('index', cast(:place AS int)))
""")


RUN_ID = UUID("00000000-0000-0000-0000-000000000007")


@dataclass
class Swept:
    """Stored markets of a sandbox, and sweeps of them."""

    engine: Engine
    exchange: SandboxServer
    world: World
    waits: list[float] = field(default_factory=list)

    def store(self, markets: Iterable[Market], *, condition: Any = ..., turned: bool = False) -> list[str]:
        """Put markets into the database as a run of 2 March would; returns their ids.

        Args:
            condition: what to store as their condition id instead of it.
            turned: whether the exchange's second outcome was first when they were stored.
        """
        stored = []
        with self.engine.begin() as connection:
            connection.execute(_RUN, {"run_id": RUN_ID, "now": NOW, "exchange": EXCHANGE})
            for market in markets:
                key = uuid4()
                given = {"id": key, "run_id": RUN_ID, "market": market.market_id, "now": NOW}
                given["close"] = datetime.fromtimestamp(market.ends, UTC)
                given["condition"] = market.condition_id if condition is ... else condition
                connection.execute(_MARKET, given)
                outcomes = list(zip(market.token_ids, market.outcomes, strict=True))
                for place, (token, name) in enumerate(reversed(outcomes) if turned else outcomes):
                    connection.execute(_CONTRACT, {"id": key, "token": token, "name": name, "place": place})
                stored.append(market.market_id)
        return stored

    def at(self, after: timedelta, **options: Any) -> SweepReport:
        """A sweep so long after the run; moves the exchange's time there too."""
        now = NOW + after
        self.exchange.set_time(max(now, self.exchange.now))
        return self.again(now, **options)

    def again(
        self,
        now: datetime | None = None,
        *,
        clob_url: str | None = None,
        moving: Clock | None = None,
        **options: Any,
    ) -> SweepReport:
        """A sweep at the exchange's present time, at another, or while a clock moves on."""

        async def no_sleep(seconds: float) -> None:
            self.waits.append(seconds)
            await asyncio.sleep(0)

        async def work() -> SweepReport:
            clock = moving or FixedClock(now or self.exchange.now)
            client = PolymarketClient(
                self.exchange.base_url,
                clob_url or self.exchange.clob_url,
                clock=clock,
                requests_per_second=10_000,
                timeout_s=5,
                max_attempts=options.pop("max_attempts", 3),
                sleep=no_sleep,
            )
            exchange = Polymarket(client, host=options.pop("exchange", EXCHANGE), clock=clock)
            return await sweep(exchange, self.engine, clock, **({"max_requests": 10_000} | options))

        return asyncio.run(work())

    def rows(self, query: str, **given: Any) -> list[tuple[Any, ...]]:
        """Rows of a query; tables without their schema are ours."""
        with self.engine.begin() as connection:
            connection.execute(text("SET LOCAL search_path TO predictbench"))
            return [tuple(row) for row in connection.execute(text(query), given)]

    def resolution(self, market_id: str) -> tuple[Any, ...] | None:
        """State, outcome and source of the newest observation of a market."""
        query = "SELECT state, outcome, source FROM market_resolutions WHERE market_id = :id"
        found = self.rows(query, id=market_id)
        return found[0] if found else None

    def problem(self, market_id: str) -> str | None:
        """The problem of the last look; None where there was none."""
        [(problem,)] = self.rows("SELECT problem FROM resolution_checks WHERE market_id = :id", id=market_id)
        return problem

    def observations(self, market_id: str | None = None) -> int:
        """Rows of the ledger."""
        query = "SELECT count(*) FROM resolution_observations WHERE :id IS NULL OR market_id = :id"
        [(count,)] = self.rows(query.replace(":id", "cast(:id AS text)"), id=market_id)
        return int(count)

    def asked(self) -> int:
        """Requests that the exchange has got so far."""
        return sum(self.exchange.requests.values())
