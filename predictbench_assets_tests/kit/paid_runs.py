"""Runs of a declared experiment of any kind at instants of the test's choice, each as one of another process."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from predictbench_assets.clock import FixedClock
from predictbench_assets.database.engine import make_engine
from predictbench_assets.experiments.declared.table import Table
from predictbench_assets.experiments.llm.language_model import LanguageModelTable
from predictbench_assets.experiments.outcomes import Outcome
from predictbench_assets.experiments.protocol import Experiment
from predictbench_assets.experiments.testing import CAPTURED_AT, make_market
from predictbench_assets.markets.market import Market
from predictbench_assets.settings import Settings, load_settings
from predictbench_assets_tests.kit import killing
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


def run_batch_until(point: str, paid: Paid) -> "subprocess.CompletedProcess[str]":
    """Run the batch of ten markets in a process that kills itself at a point of `killing`; what it prints is kept."""
    url = paid.engine.url.render_as_string(hide_password=False)
    command = [sys.executable, "-m", __name__, point, str(paid.folder), url, paid.base_url]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def batch_of_ten(paid: Paid) -> tuple[PaidRuns, LanguageModelTable]:
    """The experiment that `run_batch_until` runs, and its markets."""
    markets = [make_market(str(number)) for number in range(1001, 1011)]
    given = {"model": "openai:stand-in", "base_url": paid.base_url, "max_tokens": 800, "batch": True}
    given["version"] = paid.folder.name  # or a job of another test would be taken for it
    table = LanguageModelTable(kind="language_model", **given)
    return PaidRuns(paid, load_settings(predictbench_home=paid.folder), markets), table


def main() -> None:
    """Run in this process, see `run_batch_until`."""
    point, folder, url, base_url = sys.argv[1:]
    engine = make_engine(url, pool_size=2)
    runs, table = batch_of_ten(Paid(Path(folder), engine, base_url))
    killing.arm(point)
    runs.run(table)
    engine.dispose()


if __name__ == "__main__":
    main()
