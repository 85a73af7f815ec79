"""Records for the writer: markets with their results, and the attempts of the experiments that made them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import msgspec

from predictbench_assets.experiments.protocol import Usage
from predictbench_assets.failures import Failure
from predictbench_assets.markets.market import Market
from predictbench_assets.runs import ExperimentStatus, ResultStatus


class ResultRecord(msgspec.Struct, frozen=True, gc=False):
    """The result of one experiment for one market; no dataclass, since a large day makes 200,000 of them."""

    experiment: str
    status: ResultStatus
    reason: str | None = None
    probability: float | None = None
    """Probability of the market's first outcome."""
    probabilities: Sequence[float] | None = None
    payload: Mapping[str, Any] | msgspec.Raw | None = None
    """Raw is JSON that was checked when it was made, without spaces."""
    artifact_uri: str | None = None
    diagnostics: Mapping[str, Any] | msgspec.Raw | None = None
    forecast_at: datetime | None = None
    exception_type: str | None = None
    retriable: bool = False
    """True where the same call may succeed later. For the run's failures: the result's row has no column for it."""
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class MarketRecord:
    """A market that is ready to be stored: all of it, or nothing."""

    market: Market
    raw: bytes
    """The row's JSON exactly as received."""
    results: tuple[ResultRecord, ...]
    """One for each experiment of the write, those that were not run included."""


@dataclass(frozen=True)
class ExperimentAttempt:
    """One registered experiment in this run, with the identity of what it produced."""

    name: str
    version: str
    description: str
    information: str
    mandatory: bool
    status: ExperimentStatus
    content_hash: str
    """Hash of the staged results: version and content equal to the newest stored attempt's mean the same attempt."""
    control: bool = False
    forecasts: bool = True
    """False for one whose results have no probabilities."""
    knowledge_cutoff: date | None = None
    snapshot_hash: str | None = None
    config_hash: str | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    error_message: str | None = None
    completed: int = 0
    skipped: int = 0
    failed: int = 0


@dataclass(frozen=True)
class WriteReport:
    """Numbers of a write, and the markets that it could not store."""

    processed: int
    """Markets that are stored, whether or not a row of them had to change."""
    failures: list[Failure]
    """Markets that are not, each with its reason."""
    batches: int
    retried: int
    """Number of times that a batch was sent again because the database was unavailable."""
    bytes: int
    """Bytes of the rows as they were sent."""
