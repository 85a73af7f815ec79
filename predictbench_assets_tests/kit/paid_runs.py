"""Runs of a declared experiment that asks the stand-in, with a ledger in a real database."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, select

from predictbench_assets.clock import Clock, FixedClock
from predictbench_assets.database.errors import in_transaction
from predictbench_assets.database.schema import model_calls
from predictbench_assets.experiments.declared.table import Table
from predictbench_assets.experiments.model_calls.desk import Ledger
from predictbench_assets.experiments.model_calls.records import CallScope
from predictbench_assets.experiments.model_calls.store import PaidCalls
from predictbench_assets.experiments.outcomes import Outcome
from predictbench_assets.experiments.protocol import Experiment, RunMetadata
from predictbench_assets.experiments.registry import config_hash
from predictbench_assets.experiments.runner import run_experiment_sync
from predictbench_assets.experiments.testing import CAPTURED_AT, make_run
from predictbench_assets.markets.market import Market
from predictbench_assets.settings import Settings
from predictbench_assets.staging import StagingArea


@dataclass
class PaidRuns:
    """An experiment of one table and the markets of one snapshot; each `run` is as one of another process."""

    engine: Engine
    folder: Path
    settings: Settings
    markets: Sequence[Market]
    clock: Clock = field(default_factory=lambda: FixedClock(CAPTURED_AT))
    metadata: RunMetadata = field(default_factory=make_run)

    def at(self, now: datetime) -> None:
        """Move the clock."""
        self.clock = FixedClock(now)

    def scope(self, experiment: Experiment) -> CallScope:
        """The scope of its calls."""
        return CallScope(
            run_date=self.metadata.run_date,
            window_days=self.metadata.window_days,
            experiment=experiment.name,
            version=experiment.version,
            config_hash=config_hash(experiment),
            snapshot_hash=self.metadata.snapshot_hash,
        )

    def made(self, table: Table, **settings: Any) -> Experiment:
        """The experiment of a table; `settings` are set beside the usual ones."""
        return table.made("mini", self.settings.model_copy(update={"predictbench_now": self.clock.now(), **settings}))

    def store(self, experiment: Experiment) -> PaidCalls:
        """The store of its calls."""
        area = StagingArea(str(self.folder / "staging"))
        return PaidCalls(lambda: self.engine, area, self.scope(experiment), "test", self.settings.redact)

    def run(self, table: Table, markets: Sequence[Market] | None = None, **settings: Any) -> list[Outcome]:
        """The outcomes of a run, without a journal: what is not asked again is known from the ledger alone."""
        experiment = self.made(table, **settings)
        store = self.store(experiment)
        assert experiment.allowance is not None
        try:
            return run_experiment_sync(
                experiment,
                self.markets if markets is None else markets,
                run=self.metadata,
                clock=self.clock,
                ledger=Ledger(store, self.scope(experiment), experiment.allowance),
                timeout_s=30,
            )
        finally:
            store.close()

    @property
    def rows(self) -> list[Any]:
        """The rows of the ledger, in the order of their attempts."""
        query = select(model_calls).order_by(model_calls.c.unit_id, model_calls.c.sample, model_calls.c.attempt)
        return list(in_transaction(self.engine, lambda connection: connection.execute(query).all()))
