"""Steps in processes of their own: experiments that wait do so side by side."""

import pytest

from predictbench_assets.sandbox.world import World
from predictbench_assets_tests.integration.daily_run.conftest import MakeRun
from predictbench_assets_tests.integration.daily_run.experiments import WAIT
from predictbench_assets_tests.integration.daily_run.harness import BASELINE, EXPERIMENT

SLOW = ("Slow", "Slow2", "Slow3", "Slow4")
SETTINGS = {"PROCESSING_EXPERIMENTS": ",".join([BASELINE, *(f"{EXPERIMENT}:{name}" for name in SLOW)])}


@pytest.mark.long
@pytest.mark.parametrize("wait", [10.0])
def test_four_experiments_that_wait_do_so_together(wait: float, make_run: MakeRun) -> None:
    daily = make_run(World(markets_per_day=5), EXECUTOR="multiprocess", **SETTINGS)

    with daily.started(**{WAIT: str(wait)}) as started:
        ran = started.ended(within=280)

    assert ran.exit_code == 0, ran.output
    began, ended = daily.rows(
        "SELECT extract(epoch FROM min(started_at)), extract(epoch FROM max(finished_at))"
        " FROM predictbench.experiment_runs JOIN predictbench.experiments USING (experiment_id)"
        " WHERE name LIKE 'slow%%'"
    )[0]
    together = float(ended - began)
    slowest = max(ran.said["experiments"][f"slow_{number}"]["seconds"] for number in range(1, 5))
    assert slowest >= wait
    assert together <= 1.3 * slowest
    assert ran.said["duration_seconds"] >= together
