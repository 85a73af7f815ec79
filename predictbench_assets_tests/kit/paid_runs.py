"""Runs of a declared experiment of any kind at instants of the test's choice, each as one of another process."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from predictbench_assets.clock import FixedClock
from predictbench_assets.experiments.declared.table import Table
from predictbench_assets.experiments.outcomes import Outcome
from predictbench_assets.experiments.protocol import Experiment
from predictbench_assets.experiments.testing import CAPTURED_AT
from predictbench_assets.markets.market import Market
from predictbench_assets.settings import Settings
from predictbench_assets_tests.kit.paid import Paid


@dataclass
class PaidRuns:
    """A table's experiment on the markets of one snapshot, with the place that its calls are kept in."""

    paid: Paid
    settings: Settings
    markets: Sequence[Market]
    now: datetime = CAPTURED_AT

    def made(self, table: Table, **settings: Any) -> Experiment:
        """The experiment of a table; `settings` are set beside the usual ones."""
        return table.made("mini", self.settings.model_copy(update={"predictbench_now": self.now, **settings}))

    def run(self, table: Table, markets: Sequence[Market] | None = None, **settings: Any) -> list[Outcome]:
        """The outcomes of a run, without a journal: what is not asked again is known from the ledger alone."""
        asked = self.markets if markets is None else markets
        return self.paid.run(self.made(table, **settings), asked, clock=FixedClock(self.now))

    @property
    def rows(self) -> list[Any]:
        """The rows of the ledger, in the order of their attempts."""
        return self.paid.rows(more="ORDER BY unit_id, sample, attempt")
