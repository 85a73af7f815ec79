"""The base of a declared experiment's table: the keys that all kinds have."""

from abc import ABC, abstractmethod
from decimal import Decimal

from pydantic import BaseModel, ConfigDict

from predictbench_assets.experiments.protocol import Experiment
from predictbench_assets.settings import Settings


class Limits(BaseModel):
    """The limits of a declared experiment; None for none."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    usd_per_day: Decimal | None = None
    tokens_per_day: int | None = None
    calls_per_day: int | None = None
    markets: int | None = None
    concurrency: int | None = None
    requests_per_minute: int | None = None
    timeout_seconds: float | None = None


class Table(BaseModel, ABC):
    """A declared experiment: the keys of its table, which is named as the experiment is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str
    version: str = "1"
    description: str | None = None
    requires: tuple[str, ...] = ()
    limits: Limits = Limits()

    @abstractmethod
    def experiment(self, name: str, settings: Settings) -> Experiment:
        """Make the experiment."""
