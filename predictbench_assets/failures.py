"""The vocabulary of failure: what went wrong, where, and whether trying again can help.

A market's failure is data (`Failure`; an experiment's, an `Outcome`), never an exception that stops the others.
Exceptions are for what stops a run: `PermanentError` where a person has to act, `TransientError` where trying again may
do.
"""

from datetime import datetime
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict

Stage = Literal[
    "target_window", "raw_markets", "normalized_markets", "market_data", "experiment_results", "persisted_run"
]


class Failure(BaseModel):
    """One thing that did not complete: a row of `processing_failures` and of the summary."""

    model_config = ConfigDict(frozen=True)

    market_id: str | None
    """Polymarket's id of the market, or None for a failure of the run itself."""
    stage: Stage
    reason: str
    """One sentence that a person can act on; never a secret, never a traceback."""
    retriable: bool
    logged_at: datetime
    field: str | None = None
    """The field of the payload at fault, for rejected markets."""
    experiment: str | None = None
    exception_type: str | None = None


class PredictbenchError(Exception):
    """Base of every error that this project raises on purpose. `retriable`: the same call may succeed later."""

    retriable: ClassVar[bool] = False


class PermanentError(PredictbenchError):
    """An error that a repetition without a change meets again; the text names the change."""


class TransientError(PredictbenchError):
    """The other side was unwell; the same call may succeed later."""

    retriable: ClassVar[bool] = True


class StoreRefused(PermanentError):
    """The store will not do what it is asked; the text names the setting, or the right, that is missing."""


class StoreUnwell(TransientError):
    """The store cannot be reached, does not answer in time, or is overloaded."""
