"""What a run keeps in the memory of its process, and what it leaves there: the process may go on to other days."""

import gc
import sys
import weakref
from contextlib import suppress
from typing import Any

from predictbench_assets.experiments.protocol import Experiment, ExperimentResult, PipelineContext
from predictbench_assets.markets.market import Market
from predictbench_assets_tests.kit import killing
from predictbench_assets_tests.kit.daily_run import BASELINE, DailyRun

seen: dict[str, weakref.ref[Market]] = {}


class Shown(Experiment):
    """Remembers what it was shown, without keeping it."""

    name = "shown"
    version = "1"
    description = "Remembers what it was shown."

    def run(self, market: Market, context: PipelineContext) -> ExperimentResult:
        """Remember the market."""
        seen[market.market_id] = weakref.ref(market)
        return ExperimentResult.binary(0.5)


class ShownTheSame(Shown):
    """Is certain of a market that the one before was shown as well."""

    name = "shown_the_same"
    requires = ("shown",)

    def run(self, market: Market, context: PipelineContext) -> ExperimentResult:
        """Compare the market."""
        return ExperimentResult.binary(float(seen[market.market_id]() is market))


def test_the_experiments_of_a_run_are_shown_one_cohort(daily: DailyRun) -> None:
    ran = daily.here(PROCESSING_EXPERIMENTS=",".join([BASELINE, f"{__name__}:Shown", f"{__name__}:ShownTheSame"]))
    assert ran.exit_code == 0
    certain = """SELECT DISTINCT probability FROM predictbench.experiment_results
        JOIN predictbench.experiment_runs USING (experiment_run_id) JOIN predictbench.experiments USING (experiment_id)
        WHERE name = 'shown_the_same'"""
    assert daily.rows(certain) == [(1,)]
    gc.collect()
    assert not [market for one in seen.values() if (market := one()) is not None]


def test_no_market_of_a_run_outlives_it(daily: DailyRun) -> None:
    ran = daily.forked(run=counted)
    assert ran.said["processed_markets"] > 0, ran.output
    assert "alive after the run: 0" in ran.output


def counted(*arguments: Any) -> None:
    """Run, and say how many markets are left."""
    with suppress(SystemExit):
        killing.run(*arguments)
    gc.collect()
    gc.unfreeze()  # what is frozen is not among the objects
    sys.stderr.write(f"alive after the run: {sum(isinstance(one, Market) for one in gc.get_objects())}\n")
