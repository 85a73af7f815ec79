"""The simulation of days past one machine, which `docs/scale.md` tells its readers to run."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "simulate_scale.py"


def _simulated(**options: float) -> dict[str, Any]:
    given = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    done = subprocess.run([sys.executable, SCRIPT, "--json", *given], capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    return {stage["name"]: stage for stage in told["stages"]} | {"totals": told["totals"]}


def test_the_exchange_is_waited_for_in_proportion_to_the_markets() -> None:
    one, two = (_simulated(markets=markets, models=0, quantitative=1) for markets in (50_000, 100_000))

    spans = [day["raw_markets"]["ends"] - day["raw_markets"]["begins"] for day in (one, two)]
    assert abs(spans[1] / spans[0] - 2) < 0.01
    assert one["raw_markets"]["waits_for"] == "the exchange's rate limit"


def test_more_shards_and_workers_help_until_the_providers_limit_does_not() -> None:
    size = {"markets": 20_000, "models": 1, "quantitative": 0, "at_once": 8}
    alone = _simulated(**size, shards=1, workers=1, calls_per_second=1_000)
    shared = _simulated(**size, shards=8, workers=8, calls_per_second=1_000)
    limited = _simulated(**size, shards=8, workers=8, calls_per_second=10)

    spans = [day["language models"]["ends"] - day["language models"]["begins"] for day in (alone, shared, limited)]
    assert spans[0] > 6 * spans[1]
    assert spans[2] >= 20_000 / 10
    assert limited["language models"]["waits_for"] == "the provider's rate limit"
    assert "shards" in shared["language models"]["waits_for"]


def test_a_day_is_added_up() -> None:
    totals = _simulated(markets=1_000, models=2, quantitative=3, dollars_per_call=0.01)["totals"]

    assert (totals["model calls"], totals["results"]) == (2_000, 5_000)
    assert totals["dollars for models"] == 20
