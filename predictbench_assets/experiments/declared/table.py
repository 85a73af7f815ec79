"""The table of a declared experiment: the keys that every kind has."""

from abc import ABC, abstractmethod
from decimal import Decimal

from pydantic import BaseModel

from predictbench_assets.experiments.protocol import Experiment
from predictbench_assets.settings import Settings


class Limits(BaseModel, extra="forbid", frozen=True):
    """Limits of one experiment; None where there is none."""

    usd_per_day: Decimal | None = None
    tokens_per_day: int | None = None
    calls_per_day: int | None = None
    markets: int | None = None
    concurrency: int | None = None
    requests_per_minute: int | None = None
    timeout_seconds: float | None = None


class Table(BaseModel, ABC, extra="forbid", frozen=True):
    """A table of the file of experiments."""

    kind: str
    version: str = "1"
    description: str | None = None
    requires: tuple[str, ...] = ()
    limits: Limits = Limits()

    @abstractmethod
    def experiment(self, name: str, settings: Settings) -> Experiment:
        """Make the experiment that the table declares."""
