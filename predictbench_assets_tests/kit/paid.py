"""Paid calls in tests: a language model that asks the stand-in, with its rows in a real database."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, text

from predictbench_assets.clock import Clock, SystemClock
from predictbench_assets.database.engine import make_engine
from predictbench_assets.experiments.crashes import CrashMark
from predictbench_assets.experiments.journal import Journal, JournalKey
from predictbench_assets.experiments.llm.language_model import LanguageModelTable
from predictbench_assets.experiments.model_calls.desk import Ledger
from predictbench_assets.experiments.model_calls.records import CallScope, this_process
from predictbench_assets.experiments.model_calls.store import PaidCalls
from predictbench_assets.experiments.outcomes import Outcome
from predictbench_assets.experiments.protocol import Experiment
from predictbench_assets.experiments.registry import config_hash
from predictbench_assets.experiments.runner import run_experiment_sync
from predictbench_assets.experiments.testing import make_market, make_run
from predictbench_assets.markets.market import Market
from predictbench_assets.settings import Settings, load_settings
from predictbench_assets.staging import StagingArea

KEY = "sk-planted-key-of-the-tests"
SNAPSHOT = "5" * 64
DEAD = f"{this_process().rsplit(':', 2)[0]}:4194303:1.00"
"""Owner of a call whose process is gone."""


@dataclass
class Paid:
    """A place where language models are run, with the rows that they leave.

    Args:
        folder: of staging, prices and journals.
        engine: of a migrated database.
        base_url: of the stand-in.
        variables: settings beside.
    """

    folder: Path
    engine: Engine
    base_url: str
    variables: Mapping[str, Any] = field(default_factory=dict)

    @property
    def settings(self) -> Settings:
        """Settings that price every model of the stand-in: a dollar in, two dollars out, for a million tokens."""
        prices = self.folder / "prices.toml"
        entry = '[[price]]\nmodel = "{}"\nbase_url = "{}"\ninput = 1\ncached_input = 0.1\noutput = 2\nsearch = 0.01\n'
        entry += "batch = 0.5\n"
        prices.write_text("".join(entry.format(model, self.base_url) for model in sorted(self._models)))
        given = {"predictbench_home": self.folder, "model_prices_file": prices, **self.variables}
        settings = load_settings(self.folder / "none.env", **given)
        settings._provider_texts["OPENAI_API_KEY"] = KEY
        return settings

    _models: set[str] = field(default_factory=set)

    def model(self, name: str = "mini", model: str = "openai:stand-in", **table: Any) -> Experiment:
        """A declared language model."""
        self._models.add(model)
        given = {"kind": "language_model", "model": model, "base_url": self.base_url, **table}
        return LanguageModelTable.model_validate(given).made(name, self.settings)

    def run(
        self,
        experiment: Experiment,
        markets: Sequence[Market] | int = 3,
        *,
        area: StagingArea | None = None,
        clock: Clock | None = None,
        journal: bool = False,
        crash_mark: CrashMark | None = None,
        kept_in: type[PaidCalls] = PaidCalls,
    ) -> list[Outcome]:
        """Forecast some markets."""
        if isinstance(markets, int):
            markets = [make_market(str(1000 + number), core=number < 10) for number in range(markets)]
        area = area or StagingArea(str(self.folder / "staging"))
        scope, run = scope_of(experiment), make_run()
        store = kept_in(lambda: self.engine, area, scope, "test", self.settings.redact)
        key = JournalKey("2026-03-02_w7", experiment.name, experiment.version, SNAPSHOT, scope.config_hash)
        assert experiment.allowance is not None
        return run_experiment_sync(
            experiment,
            markets,
            run=run,
            clock=clock or SystemClock(),
            artifacts=lambda path, content: area.write_bytes(f"artifacts/{path}", content),
            ledger=Ledger(store, scope, experiment.allowance),
            journal=Journal(area, key, "test") if journal else None,
            crash_mark=crash_mark,
            redact=self.settings.redact,
            timeout_s=60.0,
        )

    def rows(self, columns: str = "*", more: str = "") -> list[Any]:
        """Rows of the ledger, in the order of their requests."""
        query = text(f"SELECT {columns} FROM predictbench.model_calls {more or 'ORDER BY claimed_at, call_id'}")
        with self.engine.connect() as connection:
            return list(connection.execute(query))

    def change(self, statement: str) -> None:
        """Change rows by hand."""
        with self.engine.begin() as connection:
            connection.execute(text(statement))

    def transcripts(self) -> list[dict[str, Any]]:
        """The lines of all transcripts."""
        files = sorted((self.folder / "staging" / "artifacts").rglob("*.jsonl"))
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]

    def start(self, markets: int, model: str = "openai:stand-in") -> "subprocess.Popen[str]":
        """Forecast some markets in a process of its own, which may be killed; the same models each time."""
        url = self.engine.url.render_as_string(hide_password=False)
        command = [sys.executable, "-m", __name__, str(self.folder), url, self.base_url, str(markets), model]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def scope_of(experiment: Experiment) -> CallScope:
    """The scope of an experiment's calls on the kit's day."""
    run = make_run()
    return CallScope(
        run_date=run.run_date,
        window_days=run.window_days,
        experiment=experiment.name,
        version=experiment.version,
        config_hash=config_hash(experiment),
        snapshot_hash=SNAPSHOT,
    )


def main() -> None:
    """Forecast in this process, see `Paid.start`."""
    folder, url, base_url, markets, model = sys.argv[1:]
    engine = make_engine(url, pool_size=2)
    paid = Paid(Path(folder), engine, base_url)
    outcomes = paid.run(paid.model(model=model), int(markets), journal=True)
    sys.stdout.write(f"{sum(outcome.status == 'completed' for outcome in outcomes)} completed\n")
    engine.dispose()


if __name__ == "__main__":
    main()
