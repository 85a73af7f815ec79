"""One day without Dagster: the same client, normaliser, experiments and writer, called one after another.

The peer of `bench_daily.py`; no staging, no journal, no checks, no summary. Usage: plain_daily.py RUN_DATE WINDOW_DAYS
"""

import asyncio
import sys
from datetime import date
from uuid import uuid4

from predictbench_assets.database.engine import make_engine
from predictbench_assets.exchanges.configured import configured_exchange
from predictbench_assets.experiments.declared.file import registry_of
from predictbench_assets.experiments.outcomes import Outcome, content_hash
from predictbench_assets.experiments.protocol import RunMetadata
from predictbench_assets.experiments.runner import run_experiment_sync
from predictbench_assets.markets.cohort import Filters, normalize_cohort
from predictbench_assets.persistence.leases import RunCounts, open_lease
from predictbench_assets.persistence.records import ExperimentAttempt, MarketRecord
from predictbench_assets.persistence.run_contents import result_record
from predictbench_assets.persistence.writer import RunWriter
from predictbench_assets.runs import RunKey
from predictbench_assets.settings import load_settings


def main() -> None:
    """Capture, normalise, forecast, write."""
    settings = load_settings()
    key = RunKey(date.fromisoformat(sys.argv[1]), int(sys.argv[2]))
    exchange = configured_exchange(settings)
    captured = asyncio.run(exchange.capture(key.start, key.end))
    rows = [(row.raw, row.quote) for row in captured.rows]
    cohort = normalize_cohort(
        rows,
        exchange.read,
        captured_at=captured.captured_at,
        filters=Filters(),
        core_size=settings.core_sample_size,
        seed=1,
    )
    run = RunMetadata(
        key.run_id, key.run_date, key.window_days, key.target_date, captured.captured_at, captured.captured_at, "plain"
    )
    outcomes: dict[str, dict[str, Outcome]] = {}
    attempts = []
    for experiment in registry_of(settings):
        found = run_experiment_sync(
            experiment,
            cohort.markets,
            run=run,
            clock=settings.clock,
            required=outcomes,
            max_concurrency=settings.experiment_concurrency,
        )
        outcomes[experiment.name] = {outcome.market_id: outcome for outcome in found}
        attempts.append(
            ExperimentAttempt(
                name=experiment.name,
                version=experiment.version,
                description=experiment.description,
                information=experiment.information,
                mandatory=experiment.mandatory,
                status="completed",
                content_hash=content_hash(found),
            )
        )
    url = settings.writer_url
    assert url is not None
    engine = make_engine(url)
    lease = open_lease(
        engine,
        key,
        dagster_run_id=str(uuid4()),
        holder="plain",
        exchange=settings.exchange,
        git_sha=None,
        clock=settings.clock,
    )
    raw_by_id = {row.market_id: row.raw for row in captured.rows}
    records = (
        MarketRecord(
            market=market,
            raw=raw_by_id[market.market_id],
            results=tuple(result_record(name, found[market.market_id]) for name, found in outcomes.items()),
        )
        for market in cohort.markets
    )
    writer = RunWriter(engine, lease, settings.clock)
    report = writer.write(records, attempts)
    writer.finish(RunCounts(len(rows), 0, len(cohort.rejected), len(report.failures), report.processed), "completed")
    engine.dispose()


if __name__ == "__main__":
    main()
