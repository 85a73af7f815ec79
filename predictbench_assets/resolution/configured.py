"""The resolution sweep with the exchange and the limits of the settings, for the asset and the command."""

import asyncio
from collections.abc import Callable

from sqlalchemy import Engine

from predictbench_assets.exchanges.configured import configured_exchange
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
        on_progress: called after each round with how many markets are done, and of how many.

    Raises:
        SweepInterrupted: the exchange stopped answering; what had been seen is stored.
        ForeignExchange: the database holds another exchange's markets.
        DryRunSweep: PREDICTBENCH_DRY_RUN is set.
    """
    if settings.predictbench_dry_run:
        raise DryRunSweep("a resolution sweep writes to the database, which PREDICTBENCH_DRY_RUN forbids: unset it")

    return asyncio.run(
        sweep(
            configured_exchange(settings),
            engine,
            settings.clock,
            max_requests=max_requests or settings.resolution_max_requests,
            limit=limit,
            on_progress=on_progress,
        )
    )
