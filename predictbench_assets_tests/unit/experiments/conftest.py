"""How the tests of experiments run one over a few markets."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from predictbench_assets.clock import FixedClock
from predictbench_assets.experiments.outcomes import Outcome
from predictbench_assets.experiments.protocol import Experiment
from predictbench_assets.experiments.runner import run_experiment_sync
from predictbench_assets.experiments.testing import CAPTURED_AT, make_run
from predictbench_assets.markets.market import Market

RunOver = Callable[..., list[Outcome]]


@pytest.fixture
def run_over() -> RunOver:
    """Runs an experiment over markets with a standing clock; any argument of the runner can be given."""

    def run(experiment: Experiment, markets: Sequence[Market], **options: Any) -> list[Outcome]:
        defaults: dict[str, Any] = {"run": make_run(), "clock": FixedClock(CAPTURED_AT)}
        return run_experiment_sync(experiment, markets, **(defaults | options))

    return run
