"""Summary of reconstructions that were compared with captures, partition by partition."""

from collections import Counter
from collections.abc import Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict
from rich.console import RenderableType

from predictbench_assets.ingestion.parity import Parity, PriceDifferences
from predictbench_assets.reporting.output import markdown_table, publish, rich_table
from predictbench_assets.runs import RunKey

ParityOutcome = Literal["within", "beyond", "failed", "missing", "not_run"]

_HEAD = (
    *("run date", "window", "outcome", "captured", "in both", "missing", "too many"),
    *("good prices: median, p90, p99", "all prices", "changed", "seconds", "requests", "reason"),
)


class ParityLine(BaseModel):
    """Comparison of one partition."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_date: date
    window_days: int
    outcome: ParityOutcome
    """`within` or `beyond` the tolerances; `failed`: it could not be reconstructed; `missing`: nothing to compare;
    `not_run`: a signal came first."""
    reason: str | None = None
    as_of: datetime | None = None
    """Instant of the capture, which was reconstructed."""
    seconds: float | None = None
    requests: int | None = None
    parity: Parity | None = None

    @classmethod
    def of(cls, key: RunKey, outcome: ParityOutcome, reason: str | None = None) -> "ParityLine":
        """A partition without a comparison."""
        return cls(run_date=key.run_date, window_days=key.window_days, outcome=outcome, reason=reason)

    @classmethod
    def compared(cls, key: RunKey, parity: Parity, *, as_of: datetime, seconds: float, requests: int) -> "ParityLine":
        """A partition that was reconstructed beside its capture."""
        return cls(
            run_date=key.run_date,
            window_days=key.window_days,
            outcome="beyond" if parity.beyond else "within",
            reason="; ".join(parity.beyond) or None,
            as_of=as_of,
            seconds=round(seconds, 2),
            requests=requests,
            parity=parity,
        )


class ParitySummary(BaseModel):
    """Every partition that was asked for, in order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    partitions: tuple[ParityLine, ...]
    stopped_by: str | None = None
    """The signal that ended it early."""

    @property
    def exit_code(self) -> int:
        """0 if all comparisons are within the tolerances, 1 if one is not or failed, 3 if nothing was compared."""
        outcomes = {line.outcome for line in self.partitions}
        return 1 if outcomes & {"beyond", "failed"} else 0 if "within" in outcomes else 3

    def to_table(self) -> RenderableType:
        """The table for a terminal, drawn by rich."""
        return rich_table(self._title(), _HEAD, [_cells(line) for line in self.partitions])

    def to_markdown(self) -> str:
        """The table for a page that renders Markdown, such as an Action's."""
        table = markdown_table(_HEAD, [_cells(line) for line in self.partitions])
        return "\n".join([f"## Predictbench {self._title()}", "", *table]) + "\n"

    def write(self, path: Path) -> Path:
        """Publish the JSON at `path`, and the Markdown beside it with the suffix `.md`."""
        return publish(path, json=self.model_dump_json(indent=2) + "\n", markdown=self.to_markdown())

    def _title(self) -> str:
        outcomes = Counter(line.outcome for line in self.partitions)
        text = ", ".join(f"{count:,} {outcome.replace('_', ' ')}" for outcome, count in outcomes.items())
        return f"reconstructed beside captured: {text}" + (f"; stopped by {self.stopped_by}" if self.stopped_by else "")


def _cells(line: ParityLine) -> tuple[str, ...]:
    key, parity = (line.run_date.isoformat(), str(line.window_days), line.outcome.replace("_", " ")), line.parity
    if parity is None:
        return (*key, *[""] * 9, line.reason or "")
    return (
        *key,
        *(f"{parity.captured:,}", f"{parity.both:,}", _counted(parity.missing), _counted(parity.too_many)),
        *(_differences(parity.good_prices), _differences(parity.prices), _counted(parity.changed)),
        *(f"{line.seconds:.1f}", f"{line.requests:,}", line.reason or ""),
    )


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in counts.items()) or "0"


def _differences(found: PriceDifferences) -> str:
    return " ".join("-" if one is None else f"{one:.4f}" for one in (found.median, found.p90, found.p99))
