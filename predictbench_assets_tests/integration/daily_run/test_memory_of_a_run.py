"""What a run leaves in the memory of its process, which may go on to other days."""

import gc
import sys
from contextlib import suppress
from typing import Any

from predictbench_assets.markets.market import Market
from predictbench_assets_tests.kit import killing
from predictbench_assets_tests.kit.daily_run import DailyRun


def test_no_market_of_a_run_outlives_it(daily: DailyRun) -> None:
    ran = daily.forked(run=counted)
    assert ran.said["processed_markets"] > 0, ran.output
    assert "alive after the run: 0" in ran.output


def counted(*arguments: Any) -> None:
    """Run, and say how many markets are left."""
    with suppress(SystemExit):
        killing.run(*arguments)
    gc.collect()
    sys.stderr.write(f"alive after the run: {sum(isinstance(one, Market) for one in gc.get_objects())}\n")
