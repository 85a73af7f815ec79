"""Summary of a backfill, run by run."""

from collections import Counter
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict
from rich.console import Group, RenderableType
from rich.text import Text

from predictbench_assets.reporting.boards import RECONSTRUCTED
from predictbench_assets.reporting.output import markdown_table, publish, rich_table
from predictbench_assets.reporting.summary import ExperimentSummary, RunSummary
from predictbench_assets.runs import FREEZE_WINDOW_HOURS, RunKey

BackfillOutcome = Literal["stored", "stored_before", "failed", "missing", "not_run"]

_HEAD = ("run date", "window", "outcome", "snapshot", "markets", "seconds", "forecasts", "reason")


class BackfillLine(BaseModel):
    """Result of one run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_date: date
    window_days: int
    outcome: BackfillOutcome
    """`stored_before`: there was nothing to do; `missing`: it could not be run; `not_run`: the backfill was stopped
    before it."""
    stage: str | None = None
    reason: str | None = None
    attempt: int | None = None
    processed_markets: int | None = None
    seconds: float | None = None
    forecasts: str | None = None
    """Forecasts of the experiments that the backfill was for; None where it was for all."""
    reconstructed: bool | None = None
    """Whether its snapshot was reconstructed rather than captured; None where it has none."""
    late: bool = False
    """True where the forecasts that were made now are too late to count: see `scoring.forecasts`."""

    @classmethod
    def of(cls, key: RunKey, outcome: BackfillOutcome, reason: str | None = None) -> "BackfillLine":
        """A run of which there is no summary."""
        return cls(run_date=key.run_date, window_days=key.window_days, outcome=outcome, reason=reason)

    @classmethod
    def ran(
        cls, summary: RunSummary, *, exit_code: int | None, now: datetime, selected: Sequence[str] = ()
    ) -> "BackfillLine":
        """A run that was made.

        Its process may have failed after everything was stored, and an experiment that the backfill was for may have
        failed for every market: neither is a success.

        Args:
            exit_code: exit code of the process.
            now: instant of its end.
            selected: names of the experiments that it was made for; none where it was for all.
        """
        reason = summary.reason
        of_selected = {name: summary.experiments[name] for name in selected if name in summary.experiments}
        failed = [name for name, one in of_selected.items() if one.status == "failed"]
        if summary.succeeded and exit_code != 0:
            reason = f"its data are stored, but Dagster ended with exit code {exit_code}"
        elif summary.succeeded and failed:
            reason = "; ".join(f"{name} failed for every market: {_why(of_selected[name])}" for name in failed)
        return cls(
            run_date=summary.run_date,
            window_days=summary.window_days,
            outcome="stored" if summary.succeeded and exit_code == 0 and not failed else "failed",
            stage=summary.stage,
            reason=reason,
            attempt=summary.attempt,
            processed_markets=summary.processed_markets,
            seconds=summary.duration_seconds,
            forecasts="; ".join(_counted(name, one) for name, one in of_selected.items()) or None,
            reconstructed=None if summary.snapshot is None else summary.snapshot.as_of is not None,
            late=summary.snapshot is not None
            and summary.snapshot.as_of is None
            and now > summary.snapshot.captured_at + timedelta(hours=FREEZE_WINDOW_HOURS)
            and any(one.completed > one.from_journal for one in of_selected.values()),
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

    @property
    def note(self) -> str | None:
        """Place to look for late forecasts, and for those of reconstructed markets; None where none was made."""
        late = [line for line in self.runs if line.late]
        notes = []
        if put_together := sum(1 for line in self.runs if line.reconstructed and line.outcome == "stored"):
            notes.append(
                f"The snapshots of {put_together:,} of these runs were reconstructed. Their markets have rows of their "
                f"own on the backfill board. {RECONSTRUCTED}"
            )
        if not late:
            return " ".join(notes) or None
        notes.append(
            f"The forecasts made now for {len(late):,} of these runs are late: more than {FREEZE_WINDOW_HOURS} hours "
            "after the freeze. They are on the backfill board and on the markets' pages, marked as too late to count; "
            "one that was made in time is never replaced."
        )
        return " ".join(notes)

    def to_table(self) -> RenderableType:
        """The table for a terminal, drawn by rich."""
        table = rich_table(self._title(), _HEAD, [_cells(line) for line in self.runs])
        return Group(table, Text(f"\n{self.note}")) if self.note else table

    def to_markdown(self) -> str:
        """The table for a page that renders Markdown, such as an Action's."""
        table = markdown_table(_HEAD, [_cells(line) for line in self.runs])
        note = ["", self.note] if self.note else []
        return "\n".join([f"## Predictbench {self._title()}", "", *table, *note]) + "\n"

    def write(self, path: Path) -> Path:
        """Publish the JSON at `path`, and the Markdown beside it with the suffix `.md`."""
        return publish(path, json=self.model_dump_json(indent=2) + "\n", markdown=self.to_markdown())

    def _title(self) -> str:
        text = ", ".join(f"{count:,} {outcome.replace('_', ' ')}" for outcome, count in self.counts.items())
        return f"backfill: {text}" + (f"; stopped by {self.stopped_by}" if self.stopped_by else "")


def _cells(line: BackfillLine) -> tuple[str, ...]:
    markets = "" if line.processed_markets is None else f"{line.processed_markets:,}"
    seconds = "" if line.seconds is None else f"{line.seconds:.1f}"
    reason = f"{line.stage}: {line.reason}" if line.stage and line.reason else line.reason or ""
    forecasts = line.forecasts or ""
    snapshot = {None: "", True: "reconstructed", False: "captured"}[line.reconstructed]
    key = line.run_date.isoformat(), str(line.window_days)
    return (*key, line.outcome.replace("_", " "), snapshot, markets, seconds, forecasts, reason)


def _counted(name: str, one: ExperimentSummary) -> str:
    counts = {"forecasts": one.completed, "skipped": one.skipped, "failed": one.failed, "not run": one.not_run}
    text = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count) or "no market"
    return f"{name} {text}" + (f" ({one.from_journal:,} from the journal)" if one.from_journal else "")


def _why(one: ExperimentSummary) -> str:
    """The most frequent reason, and where in the code it is."""
    if not one.reasons:
        return "see the log"
    return f"{one.reasons[0].reason} ({one.reasons[0].place})" if one.reasons[0].place else one.reasons[0].reason
