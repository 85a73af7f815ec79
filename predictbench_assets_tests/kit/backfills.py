"""A backfill of days that are weeks past, with an experiment that is paid for: what it is of, and what runs it."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from predictbench_assets.sandbox.server import SandboxServer, serve
from predictbench_assets.sandbox.world import World
from predictbench_assets_tests.kit.daily_run import BASELINE

NOW = datetime(2026, 3, 22, 7, 0, tzinfo=UTC)
FIRST = NOW.date() - timedelta(days=20)
BACKFILL = (
    *("backfill", "--from", str(FIRST), "--to", str(FIRST + timedelta(days=1)), "--window-days", "1,2"),
    *("--reconstruct", "--summary", "b.json"),
)
"""The command for four runs."""
_PAID = """\
[stand_in]
kind = "language_model"
model = "openai:stand-in"
base_url = "{address}/_models/v1"
prices = "hidden"
limits.concurrency = 1
"""
_PRICES = """\
[[price]]
model = "openai:stand-in"
base_url = "{address}/_models/v1"
input = 1
output = 2
"""


@contextmanager
def exchange_weeks_later() -> Iterator[SandboxServer]:
    """A small exchange, weeks after the days of the backfill; it has a model, too."""
    with serve(World(7, 20), now=NOW) as server:
        yield server


def paid_settings(folder: Path, exchange: SandboxServer) -> dict[str, str]:
    """Settings with the prices of the exchange's model, which are in a file in the folder."""
    (folder / "prices.toml").write_text(_PRICES.format(address=exchange.base_url))
    return {
        "PREDICTBENCH_NOW": NOW.isoformat(),
        "PROCESSING_EXPERIMENTS": BASELINE,
        "MODEL_PRICES_FILE": str(folder / "prices.toml"),
        "OPENAI_API_KEY": "sk-planted-key-of-the-tests",
    }


def declare_paid(folder: Path, exchange: SandboxServer) -> None:
    """Declare an experiment that asks the model about a market at a time, for commands that run in the folder."""
    folder.mkdir(exist_ok=True)
    (folder / "experiments.toml").write_text(_PAID.format(address=exchange.base_url))


def calls_of_models(exchange: SandboxServer) -> int:
    """Requests that the exchange's model was sent."""
    return sum(count for path, count in exchange.requests.items() if "/_models/" in path)
