"""The resolution sweep as the asset and the command run it: with the client and the limits of the settings."""

import asyncio
from collections.abc import Callable

from sqlalchemy import Engine

from predictbench_assets.exchanges.configured import polymarket_client
from predictbench_assets.failures import PermanentError
from predictbench_assets.resolution.summary import SweepReport
from predictbench_assets.resolution.sweep import sweep
from predictbench_assets.settings import Settings


class DryRunSweep(PermanentError):
    """A sweep does nothing but write, which a dry run must not."""


def run_sweep(
    settings: Settings,
    engine: Engine,
    *,
    limit: int | None = None,
    max_requests: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> SweepReport:
    """Sweep the configured exchange into the database of `engine`.

    Args:
        limit: the most markets to look at.
        max_requests: default: RESOLUTION_MAX_REQUESTS.
        on_progress: told after each round how many markets are done, and of how many.

    Raises:
        SweepInterrupted: the exchange stopped answering; what had been seen is stored.
        ForeignExchange: the database holds another exchange's markets.
        DryRunSweep: PREDICTBENCH_DRY_RUN is set.
    """
    if settings.predictbench_dry_run:
        raise DryRunSweep("a resolution sweep writes to the database, which PREDICTBENCH_DRY_RUN forbids: unset it")

    async def work() -> SweepReport:
        async with polymarket_client(settings) as client:
            return await sweep(
                client,
                engine,
                settings.clock,
                exchange=settings.exchange,
                max_requests=max_requests or settings.resolution_max_requests,
                limit=limit,
                on_progress=on_progress,
            )

    return asyncio.run(work())
