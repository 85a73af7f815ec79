"""Runs and resolutions written as the pipeline writes them, at instants of the test's choice."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from predictbench_assets.markets.market import MarketPrice
from predictbench_assets.persistence.leases import RunCounts
from predictbench_assets.persistence.records import ExperimentAttempt, MarketRecord, ResultRecord
from predictbench_assets.persistence.writer import RunWriter
from predictbench_assets.runs import RunKey, StoredStatus
from predictbench_assets_tests.kit.builders import KEY, attempt, market, observe, open_run
from predictbench_assets_tests.kit.database import Database

DAY = KEY.run_date

Said = Mapping[str, float | None]
"""Forecasts of an experiment by the markets' ids; None where it skipped one."""


def at(day: date, hour: int = 7, minute: int = 0) -> datetime:
    """An instant, UTC."""
    return datetime(day.year, day.month, day.day, hour, minute, tzinfo=UTC)


@dataclass(frozen=True)
class Forecaster:
    """An experiment and its forecasts."""

    name: str
    said: Said
    version: str = "1"
    made_at: datetime | None = None
    """Time of its forecasts; default: when the run is stored."""
    control: bool = False
    status: str = "completed"
    """Status of its attempt."""
    forecasts: bool = True
    """False for one that prepares what others require: `said` has the markets that it did, with any number."""
    leaked: Collection[str] = ()
    """Markets of which it cites a price that it was not shown."""
    information: str = "market"


class Ledger(Database):
    """A database that is filled as the pipeline does."""

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
        """Store a run of these markets (ids such as `m7`) with their prices; the baseline repeats them.

        Args:
            now: when it is stored, and with `finished` ended; default: 07:00 of its day.
            status: what it comes to, with `finished`.
            snapshot: the hash of its snapshot.
            changes: of every market.
        """
        now = now or at(key.run_date)
        lease = open_run(self.engine, key, now)
        self.execute(
            "UPDATE predictbench.processing_runs SET snapshot_hash = :hash WHERE run_id = :run_id",
            hash=snapshot,
            run_id=key.run_id,
        )
        everyone = [Forecaster("baseline_snapshot", prices), *forecasters]
        writing = RunWriter(self.engine, lease, lease.clock)
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
        """Add observations of markets, final ones where there is an outcome."""
        for market_id, outcome in outcomes.items():
            state_now = state or ("open" if outcome is None else "final")
            observe(self.engine, market_id, state_now, outcome, at=seen, closed_time=closed)


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
    if not one.forecasts:
        return ResultRecord(one.name, "completed", payload={"sources": []})
    payload = {"leaked": True} if market_id in one.leaked else {}
    made_at = one.made_at or now
    return ResultRecord(one.name, "completed", probability=probability, payload=payload, forecast_at=made_at)


def _attempt(one: Forecaster, snapshot: str) -> ExperimentAttempt:
    return attempt(
        one.name,
        "" if one.status == "not_run" else str(sorted(one.said.items(), key=str)),
        version=one.version,
        control=one.control,
        forecasts=one.forecasts,
        information=one.information,
        status="not_run" if one.status == "not_run" else "completed",
        snapshot_hash=snapshot,
    )
