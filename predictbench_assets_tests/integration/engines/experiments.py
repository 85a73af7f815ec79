"""An experiment whose calls are counted and can be halted, wherever it runs."""

import json
import os
import select
from pathlib import Path

from predictbench_assets.experiments.protocol import Experiment, ExperimentResult, PipelineContext
from predictbench_assets.markets.market import Market

CALLS = "TEST_CALLS"
"""Names the file that gets a line for each call."""
HALT = "TEST_HALT"
"""Names the file whose presence lets calls go on after the first ten."""
SHARDS, OP_TAGS = "TEST_SHARDS", "TEST_OP_TAGS"

FREE = 10


class Halting(Experiment):
    """Answers ten markets, and the others when it may."""

    name = "halting"
    version = "1"
    description = "Notes every call in a file, and waits."
    max_concurrency = 2
    shards = int(os.environ.get(SHARDS, "1"))
    op_tags = json.loads(os.environ.get(OP_TAGS, "{}"))

    def run(self, market: Market, context: PipelineContext) -> ExperimentResult:
        """Note the market, wait, and answer by its id."""
        noted = Path(os.environ[CALLS])
        with noted.open("a") as file:
            file.write(f"{market.market_id}\n")
        gate = os.environ.get(HALT)
        while gate and not Path(gate).exists() and len(noted.read_text().splitlines()) > FREE:
            _pause(0.05)
        _pause(0.2)
        return ExperimentResult.binary(int(market.market_id) % 100 / 100, payload={"draw": context.rng.random()})


def _pause(seconds: float) -> None:
    """Wait, also where libfaketime shifts the clock: it refuses `time.sleep` then."""
    select.select([], [], [], seconds)
