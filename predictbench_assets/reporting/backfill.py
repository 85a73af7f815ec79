"""What came of a backfill, run by run."""

from collections import Counter
from datetime import date
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict
from rich.console import RenderableType

from predictbench_assets.reporting.pages import markdown_table, publish, rich_table
from predictbench_assets.reporting.summary import RunSummary
from predictbench_assets.runs import RunKey

BackfillOutcome = Literal["stored", "failed", "missing", "not_run"]

_HEAD = ("run date", "window", "outcome", "markets", "seconds", "reason")


class BackfillLine(BaseModel):
    """What came of one run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_date: date
    window_days: int
    outcome: BackfillOutcome
    """`missing`: it could not be run; `not_run`: the backfill was stopped before it."""
    stage: str | None = None
    reason: str | None = None
    attempt: int | None = None
    processed_markets: int | None = None
    seconds: float | None = None

    @classmethod
    def of(cls, key: RunKey, outcome: BackfillOutcome, reason: str | None = None) -> "BackfillLine":
        """A run of which there is no summary."""
        return cls(run_date=key.run_date, window_days=key.window_days, outcome=outcome, reason=reason)

    @classmethod
    def ran(cls, summary: RunSummary, *, exit_code: int | None) -> "BackfillLine":
        """A run that was made; its process may have failed after everything was stored."""
        reason = summary.reason
        if summary.succeeded and exit_code != 0:
            reason = f"its data are stored, but Dagster ended with exit code {exit_code}"
        return cls(
            run_date=summary.run_date,
            window_days=summary.window_days,
            outcome="stored" if summary.succeeded and exit_code == 0 else "failed",
            stage=summary.stage,
            reason=reason,
            attempt=summary.attempt,
            processed_markets=summary.processed_markets,
            seconds=summary.duration_seconds,
        )


class BackfillSummary(BaseModel):
    """Every run of a backfill, in order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    runs: tuple[BackfillLine, ...]
    stopped_by: str | None = None
    """The signal that ended it early."""

    @property
    def counts(self) -> dict[str, int]:
        """Runs by outcome."""
        return dict(Counter(line.outcome for line in self.runs))

    @property
    def exit_code(self) -> int:
        """0 if everything is stored, 1 if a run failed, 3 if some could not be run."""
        outcomes = self.counts
        return 1 if outcomes.get("failed") else 3 if outcomes.get("missing") or outcomes.get("not_run") else 0

    def to_table(self) -> RenderableType:
        """The table for a terminal, drawn by rich."""
        return rich_table(self._title(), _HEAD, [_cells(line) for line in self.runs])

    def to_markdown(self) -> str:
        """The table for a page that renders Markdown, such as an Action's."""
        table = markdown_table(_HEAD, [_cells(line) for line in self.runs])
        return "\n".join([f"## Predictbench {self._title()}", "", *table]) + "\n"

    def write(self, path: Path) -> Path:
        """Publish the JSON at `path`, and the Markdown beside it with the suffix `.md`."""
        return publish(path, json=self.model_dump_json(indent=2) + "\n", markdown=self.to_markdown())

    def _title(self) -> str:
        told = ", ".join(f"{count:,} {outcome.replace('_', ' ')}" for outcome, count in self.counts.items())
        return f"backfill: {told}" + (f"; stopped by {self.stopped_by}" if self.stopped_by else "")


def _cells(line: BackfillLine) -> tuple[str, ...]:
    markets = "" if line.processed_markets is None else f"{line.processed_markets:,}"
    seconds = "" if line.seconds is None else f"{line.seconds:.1f}"
    reason = f"{line.stage}: {line.reason}" if line.stage and line.reason else line.reason or ""
    return (line.run_date.isoformat(), str(line.window_days), line.outcome, markets, seconds, reason)
