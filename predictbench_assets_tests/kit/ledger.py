"""Runs and resolutions written as the pipeline writes them, at instants of the test's choice."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import count
from typing import Any

from sqlalchemy import Engine, text

from predictbench_assets.clock import FixedClock
from predictbench_assets.markets.market import MarketPrice
from predictbench_assets.persistence.leases import RunCounts, open_lease
from predictbench_assets.persistence.records import ExperimentAttempt, MarketRecord, ResultRecord
from predictbench_assets.persistence.writer import RunWriter
from predictbench_assets.runs import RunKey, StoredStatus
from predictbench_assets_tests.kit.builders import market

DAY = date(2026, 2, 2)
KEY = RunKey(DAY, 7)

Said = Mapping[str, float | None]
"""What an experiment said of markets by their id; None where it skipped one."""


def at(day: date, hour: int = 7, minute: int = 0) -> datetime:
    """An instant, UTC."""
    return datetime(day.year, day.month, day.day, hour, minute, tzinfo=UTC)


@dataclass(frozen=True)
class Forecaster:
    """An experiment, and what it says."""

    name: str
    said: Said
    version: str = "1"
    made_at: datetime | None = None
    """Of its forecasts; default: when the run is stored."""
    control: bool = False
    status: str = "completed"
    """Of its attempt."""


@dataclass
class Ledger:
    """A database, and the ways in which it fills."""

    engine: Engine
    _numbers: Any = field(default_factory=lambda: count(1))

    def run(
        self,
        prices: Mapping[str, float],
        *forecasters: Forecaster,
        key: RunKey = KEY,
        now: datetime | None = None,
        finished: bool = True,
        status: StoredStatus = "completed",
        reconstructed: bool = False,
        snapshot: str = "snap",
        **changes: Any,
    ) -> RunKey:
        """Store a run of these markets (ids such as `m7`) with their prices; the baseline says what they are.

        Args:
            now: when it is stored, and with `finished` ended; default: 07:00 of its day.
            status: what it comes to, with `finished`.
            snapshot: the hash of its snapshot.
            changes: of every market.
        """
        now = now or at(key.run_date)
        clock = FixedClock(now)
        number = next(self._numbers)
        lease = open_lease(
            self.engine,
            key,
            dagster_run_id=f"dagster-{number}",
            holder="host:1",
            exchange="gamma.example",
            git_sha=None,
            clock=clock,
        )
        self.execute(
            "UPDATE predictbench.processing_runs SET snapshot_hash = :hash WHERE run_id = :run_id",
            hash=snapshot,
            run_id=key.run_id,
        )
        everyone = [Forecaster("baseline_snapshot", prices), *forecasters]
        writing = RunWriter(self.engine, lease, clock)
        report = writing.write(
            [_record(market_id, prices[market_id], everyone, key, now, changes) for market_id in prices],
            [_attempt(one, snapshot) for one in everyone],
            reconstructed=reconstructed,
        )
        assert not report.failures
        if finished:
            stored = report.processed
            writing.finish(RunCounts(offered=stored, excluded=0, rejected=0, failed=0, processed=stored), status)
        return key

    def observe(
        self, outcomes: Mapping[str, float | None], seen: datetime, *, closed: datetime | None = None, state: str = ""
    ) -> None:
        """Observations of markets, final ones where the outcome is told."""
        for market_id, outcome in outcomes.items():
            self.execute(
                "INSERT INTO predictbench.resolution_observations (market_id, observed_at, source, state, outcome,"
                " closed_time) VALUES (:market_id, :seen, 'gamma', :state, :outcome, :closed)",
                market_id=market_id,
                seen=seen,
                state=state or ("open" if outcome is None else "final"),
                outcome=outcome,
                closed=closed,
            )

    def execute(self, statement: str, **values: Any) -> None:
        with self.engine.begin() as connection:
            connection.execute(text(statement), values)

    def rows(self, query: str, **values: Any) -> list[tuple[Any, ...]]:
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(query), values)]


def _record(
    market_id: str,
    price: float,
    forecasters: Sequence[Forecaster],
    key: RunKey,
    now: datetime,
    changes: Mapping[str, Any],
) -> MarketRecord:
    captured = changes.get("captured_at", at(key.run_date))
    values: dict[str, Any] = {
        "captured_at": captured,
        "close_time": key.start + timedelta(hours=12),
        "price": MarketPrice(value=price, bid=price, ask=price, source="clob", quality="good", at=captured),
    }
    results = tuple(_result(one, market_id, now) for one in forecasters)
    row = market(int(market_id.removeprefix("m")), **(values | changes))
    return MarketRecord(row, b'{"id": "m"}', results)


def _result(one: Forecaster, market_id: str, now: datetime) -> ResultRecord:
    if one.status == "not_run":
        return ResultRecord(one.name, "not_run")
    probability = one.said.get(market_id)
    if probability is None:
        return ResultRecord(one.name, "skipped", reason="nothing to say", forecast_at=one.made_at or now)
    return ResultRecord(one.name, "completed", probability=probability, forecast_at=one.made_at or now)


def _attempt(one: Forecaster, snapshot: str) -> ExperimentAttempt:
    return ExperimentAttempt(
        name=one.name,
        version=one.version,
        description=f"{one.name}, for a test",
        information="market",
        mandatory=one.name == "baseline_snapshot",
        control=one.control,
        status="not_run" if one.status == "not_run" else "completed",
        content_hash="" if one.status == "not_run" else str(sorted(one.said.items(), key=str)),
        snapshot_hash=snapshot,
        config_hash="conf",
    )
