"""The table of a declared experiment: the keys that all kinds share, and the experiment that is made of it."""

from abc import abstractmethod
from decimal import Decimal
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from predictbench_assets.experiments.model_calls.allowance import Allowance
from predictbench_assets.experiments.protocol import MOST_SHARDS, Experiment
from predictbench_assets.settings import Settings

_MANY = 1_000_000_000
_A_DAY_S = 86_400

Count = Annotated[int, Field(ge=1, le=_MANY)]


class Limits(BaseModel):
    """The limits of one experiment; None for none of its own. They never enter its `config`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    usd_per_day: Annotated[Decimal, Field(ge=0, le=_MANY)] | None = None
    tokens_per_day: Count | None = None
    calls_per_day: Count | None = None
    markets: Count | None = None
    """Markets of a run: the core first, then a seeded stratified sample; the others are skipped."""
    concurrency: Annotated[int, Field(ge=1, le=1_000)] | None = None
    """Calls under way at once."""
    requests_per_minute: Count | None = None
    """Requests to the provider, shared by all experiments that ask it."""
    timeout_seconds: Annotated[float, Field(gt=0, le=_A_DAY_S)] | None = None
    """Limit for one call."""

    @property
    def allowance(self) -> Allowance:
        """The limits that concern paid calls."""
        return Allowance(
            usd_per_day=self.usd_per_day,
            tokens_per_day=self.tokens_per_day,
            calls_per_day=self.calls_per_day,
            requests_per_minute=self.requests_per_minute,
        )


class Table(BaseModel):
    """The base of each kind's table: add the kind's own keys as fields, and implement `experiment`.

    Texts, numbers and lists are taken as TOML has them: "3" is no number. A validator that raises a ValueError is
    told with the line of its key.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str
    version: str = "1"
    description: str | None = None
    requires: tuple[str, ...] = ()
    limits: Limits = Limits()
    shards: Annotated[int, Field(ge=1, le=MOST_SHARDS)] = 1
    """Processes that share out its calls, see `Experiment`."""
    op_tags: dict[str, JsonValue] = {}
    """Tags of its steps, see `Experiment`."""

    @abstractmethod
    def experiment(self, name: str, settings: Settings) -> Experiment:
        """Make the experiment; `made` sets on it what all tables have.

        Raises:
            ValueError: what the table asks for cannot be; the text says what to change.
            PredictbenchError: alike, for example a `SettingsError` where a key is not set.
        """

    def made(self, name: str, settings: Settings) -> Experiment:
        """The experiment with its name, its limits, and what else the table says; made again for each process.

        Raises:
            ValueError, PredictbenchError: as `experiment`.
        """
        one = self.experiment(name, settings)
        one.name, one.kind = name, self.kind
        if "version" in self.model_fields_set or not getattr(one, "version", None):
            one.version = self.version
        if self.description is not None:
            one.description = self.description
        if self.requires:
            one.requires = self.requires
        one.allowance = self.limits.allowance
        if self.limits.markets is not None:
            one.max_markets = self.limits.markets
        if self.limits.concurrency is not None:
            one.max_concurrency = self.limits.concurrency
        if self.limits.timeout_seconds is not None:
            one.timeout_seconds = self.limits.timeout_seconds
        if "shards" in self.model_fields_set:
            one.shards = self.shards
        if self.op_tags:
            one.op_tags = self.op_tags
        return one
