"""The header of an experiment's staged outcomes."""

from datetime import datetime
from typing import Any

import msgspec

from predictbench_assets.runs import ExperimentStatus


class OutcomesHeader(msgspec.Struct, frozen=True, kw_only=True):
    """The header of `experiment_results`. One that was not selected has no more than the first fields."""

    name: str
    version: str
    status: ExperimentStatus
    snapshot_hash: str
    counts: dict[str, int]
    """Markets by status of their outcome."""
    dagster_run_id: str = ""
    config_hash: str = ""
    content_hash: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None
    seconds: float = 0.0
    from_journal: int = 0
    """Answers that an earlier run had been given."""
    outdated: int = 0
    """Answers in the journal that no longer count."""
    usage: dict[str, float] = msgspec.field(default_factory=dict)
    """Sums of what the outcomes took, as `outcomes.total_usage` names them."""
    reasons: list[dict[str, Any]] = msgspec.field(default_factory=list)
    """The most frequent reasons, as `ReasonCount` writes them."""
