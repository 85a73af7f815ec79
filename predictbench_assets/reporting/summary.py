"""The summary of a run: what `persisted_run` leaves as JSON and Markdown, and what the command line prints.

It is written for failed runs too, so every count has a default and every moment may be missing.
"""

from collections.abc import Iterator, Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from rich.console import Group, RenderableType
from rich.text import Text

from predictbench_assets.exchange_names import exchange_label
from predictbench_assets.experiments.digest import ForecastDigest
from predictbench_assets.experiments.model_calls.batches import UNDER_WAY
from predictbench_assets.experiments.reasons import ReasonCount
from predictbench_assets.failures import Failure
from predictbench_assets.reporting.output import markdown_table, money, publish, rich_table, size
from predictbench_assets.reporting.tables import Facts
from predictbench_assets.runs import RunKey
from predictbench_assets.scoring.costs import USD, Cost
from predictbench_assets.texts import read_whole

SummaryStatus = Literal["completed", "partial", "failed", "interrupted", "skipped"]
Count = Annotated[int, Field(ge=0)]

SHOWN_FAILURES = 20
"""Failures listed in Markdown and on the terminal; the JSON has them all."""


_COST: Final = "cost_"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FailureLine(_Part):
    """One failure, as the summary lists it."""

    market_id: str | None
    stage: str
    reason: str
    retriable: bool

    @classmethod
    def of(cls, failure: Failure) -> Self:
        """The line of a recorded failure."""
        return cls(market_id=failure.market_id, stage=failure.stage, reason=failure.reason, retriable=failure.retriable)


class PaidSummary(_Part):
    """What an experiment took of models and services for a run, in all attempts."""

    calls: Count
    cost: Mapping[str, float] = Field(default_factory=dict)
    """Amounts by currency; of dollars those of unknown outcome are a part."""
    unknown: Count = 0
    """Calls of which nobody knows whether they were answered."""
    unknown_usd: float = 0.0
    """Dollars that these are counted at."""

    @classmethod
    def of(cls, cost: Cost) -> Self:
        """Summary of an experiment's calls in the ledger."""
        amounts = dict(cost.settled) | ({} if cost.usd is None else {USD: cost.usd})
        return cls(
            calls=cost.requests,
            cost={currency: float(amount) for currency, amount in amounts.items()},
            unknown=cost.unknown,
            unknown_usd=float(cost.reserved),
        )

    @classmethod
    def of_usage(cls, usage: Mapping[str, float]) -> Self | None:
        """Summary of what outcomes say themselves, as `total_usage` sums it; None where they say nothing of it."""
        amounts = {name.removeprefix(_COST): amount for name, amount in usage.items() if name.startswith(_COST)}
        calls = int(usage.get("requests", 0))
        return cls(calls=calls, cost=amounts) if calls or amounts else None

    def in_words(self) -> str:
        """A part of a sentence, as in `18 calls for $0.11, 2 of unknown outcome counted at $0.040`."""
        amounts = " and ".join(money(amount, currency) for currency, amount in self.cost.items())
        words = f"{self.calls:,} {'call' if self.calls == 1 else 'calls'}" + (f" for {amounts}" if amounts else "")
        if self.unknown:
            words += f", {self.unknown:,} of unknown outcome counted at {money(self.unknown_usd)}"
        return words


class ExperimentSummary(_Part):
    """Results of one experiment, counted over the processed markets."""

    version: str
    status: str
    completed: Count = 0
    skipped: Count = 0
    failed: Count = 0
    not_run: Count = 0
    seconds: float = 0.0
    reasons: tuple[ReasonCount, ...] = ()
    """Why it gave no forecast, counted over all markets that it was handed."""
    from_journal: Count = 0
    """Markets that an earlier attempt had answered and that were not asked about again."""
    outdated: Count = 0
    """Outcomes from the journal that other code than the present one gave, under the same version."""
    paid: PaidSummary | None = None
    """None where it took nothing, as far as is known."""


def from_journal(resumed: Mapping[str, int], outdated: Mapping[str, int], *, forget: bool = True) -> list[str]:
    """Lines on answers that were not asked for again, by experiment; none where there are none.

    Args:
        resumed: number of answers from the journal, by experiment.
        outdated: number of these that other code than the present one gave.
        forget: True where the command has the option --forget.
    """
    counts = [f"{name} {count:,}" for name, count in resumed.items() if count]
    if not counts:
        return []
    ask = "Change the version to ask again" + (", or use --forget NAME while developing." if forget else ".")
    changed = (
        f"The code of {name} has changed since {count:,} of these were answered, and its version has not."
        for name, count in outdated.items()
        if count
    )
    return [f"From the journal, not asked again: {', '.join(counts)}. {ask}", *changed]


class ApiUse(BaseModel):
    """Cost of the snapshot. More counters than these are welcome."""

    model_config = ConfigDict(frozen=True, extra="allow")

    pages: Count = 0
    requests: Count = 0
    retries: Count = 0
    bytes: Count = 0
    throttle_seconds: float = 0.0


class SnapshotSummary(_Part):
    """The frozen snapshot that the run worked on."""

    captured_at: datetime
    sha256: str
    rows: Count
    reused: bool
    uri: str
    as_of: datetime | None = None
    """The instant that was reconstructed; None of a snapshot that was captured."""
    left_out: dict[str, Count] = Field(default_factory=dict)
    """Listed markets that a reconstruction has no place for, by the reason."""


class DigestSummary(_Part):
    """The hash over all forecasts of the run, for everyone to keep: see `experiments.digest`."""

    digest: str
    algorithm: str
    forecasts: Count
    made_at: datetime

    @classmethod
    def of(cls, digest: ForecastDigest) -> Self:
        """Summary of a digest."""
        return cls(digest=digest.digest, algorithm=digest.algorithm, forecasts=digest.forecasts, made_at=digest.made_at)


class RunSummary(_Part):
    """Everything a person wants to know about a run, in one object.

    `offered_markets = excluded_markets + rejected_markets + failed_markets + processed_markets` for a run that got to
    its end, and `total_markets` is what the experiments were handed: processed and failed.
    """

    run_id: UUID
    run_date: date
    window_days: int
    target_date: date
    status: SummaryStatus
    offered_markets: Count = 0
    excluded_markets: Count = 0
    rejected_markets: Count = 0
    total_markets: Count = 0
    processed_markets: Count = 0
    failed_markets: Count = 0
    failures: tuple[FailureLine, ...] = ()
    experiments: Mapping[str, ExperimentSummary] = Field(default_factory=dict)
    api: ApiUse = ApiUse()
    duration_seconds: float = 0.0
    git_sha: str | None = None

    stage: str | None = None
    """Stage in which a failed run stopped."""
    reason: str | None = None
    """Why it stopped, in a sentence."""
    excluded_by_reason: Mapping[str, int] = Field(default_factory=dict)
    rejected_by_reason: Mapping[str, int] = Field(default_factory=dict)
    failed_by_reason: Mapping[str, int] = Field(default_factory=dict)
    attempt: int | None = None
    dagster_run_id: str | None = None
    exchange: str | None = None
    snapshot: SnapshotSummary | None = None
    forecast_digest: DigestSummary | None = None
    core_markets: Count = 0
    price_quality: Mapping[str, int] = Field(default_factory=dict)
    quotes_source: str | None = None
    quotes_reason: str | None = None
    """Why quotes of the CLOB are missing, and of how many markets."""
    price_source: Mapping[str, int] = Field(default_factory=dict)
    """Markets by the source of their price: a quote of the order book, or the listing's own row."""
    priced_day_ago: Count = 0
    """Markets whose price of a day before was frozen with the snapshot."""
    partial: bool = False
    left_in_batches: Mapping[str, Count] = Field(default_factory=dict)
    """Calls by experiment and version in batches that were submitted with other settings than this run has."""
    dry_run: bool = False
    would_be_rows: Mapping[str, int] = Field(default_factory=dict)
    """Rows by table that a dry run would have written."""

    @classmethod
    def failed(cls, key: RunKey, *, stage: str | None, reason: str, **rest: Any) -> Self:
        """The summary of a run that stopped at `stage`, with whatever else is known about it."""
        return cls(
            run_id=key.run_id,
            run_date=key.run_date,
            window_days=key.window_days,
            target_date=key.target_date,
            status=rest.pop("status", "failed"),
            stage=stage,
            reason=reason,
            **rest,
        )

    @property
    def succeeded(self) -> bool:
        """True where the run did what it was asked to do."""
        return self.status in ("completed", "partial", "skipped")

    def to_json(self) -> str:
        """The summary as indented JSON, with every failure."""
        return self.model_dump_json(indent=2) + "\n"

    def to_markdown(self) -> str:
        """The summary for a page that renders Markdown, such as an Action's."""
        lines = [f"## Predictbench {self.run_date}, window {self.window_days} days: {self._verdict()}", ""]
        lines += markdown_table(("", ""), list(self._facts()))
        if self.would_be_rows:
            rows = [(table, f"{count:,}") for table, count in self.would_be_rows.items()]
            lines += ["", "### Would have written", "", *markdown_table(("table", "rows"), rows)]
        if self.experiments:
            lines += ["", "### Experiments", "", *markdown_table(_EXPERIMENT_HEAD, list(self._experiment_rows()))]
        if reasons := list(self._reason_rows()):
            lines += ["", f"### {_REASONS}", "", *markdown_table(_REASON_HEAD, reasons)]
        for line in (*self._paid_lines(), *self._journal_lines(), *self._batch_lines()):
            lines += ["", line]
        if self.failures:
            shown = [_failure_cells(failure) for failure in self.failures[:SHOWN_FAILURES]]
            lines += ["", f"### {self._failures_title()}", "", *markdown_table(_FAILURE_HEAD, shown)]
        return "\n".join(lines) + "\n"

    def to_table(self, *, forget: bool = True) -> RenderableType:
        """The summary for a terminal, drawn by rich; `forget`: whether the command has the option --forget."""
        good = "green" if self.succeeded and not self.failures else "yellow" if self.succeeded else "red"
        title = Text.assemble((f"{self.run_date}, window {self.window_days} days: ", "bold"), (self._verdict(), good))
        parts: list[RenderableType] = [title, Facts(list(self._facts()))]
        if self.would_be_rows:
            rows = [(table, f"{count:,}") for table, count in self.would_be_rows.items()]
            parts.append(rich_table("Would have written", ("table", "rows"), rows))
        if self.experiments:
            parts.append(rich_table("Experiments", _EXPERIMENT_HEAD, list(self._experiment_rows())))
        if reasons := list(self._reason_rows()):
            parts.append(rich_table(_REASONS, _REASON_HEAD, reasons))
        parts += [Text(f"\n{line}") for line in self._paid_lines()]
        further = [*self._journal_lines(forget=forget), *self._batch_lines()]
        parts += [Text(f"\n{line}", "yellow") for line in further]
        if self.failures:
            shown = [_failure_cells(failure) for failure in self.failures[:SHOWN_FAILURES]]
            parts.append(rich_table(self._failures_title(), _FAILURE_HEAD, shown))
        return Group(*parts)

    def write(self, path: Path) -> Path:
        """Publish the JSON at `path`, and the Markdown beside it with the suffix `.md`, each in one step."""
        return publish(path, json=self.to_json(), markdown=self.to_markdown())

    @classmethod
    def read(cls, path: Path) -> Self:
        """A summary that was written before.

        Raises:
            OSError, ValueError: it cannot be read, or is none.
        """
        return cls.model_validate_json(read_whole(path))

    def _verdict(self) -> str:
        words: list[str] = [self.status]
        if self.partial and self.status != "partial":
            words.append("partial")
        if self.dry_run:
            words.append("dry run")
        return ", ".join(words)

    def _facts(self) -> Iterator[tuple[str, str]]:
        if self.reason is not None:
            yield (
                "stopped at" if self.stage else "reason",
                f"{self.stage}: {self.reason}" if self.stage else self.reason,
            )
        yield "target date", f"{self.target_date} (UTC)"
        yield "offered", f"{self.offered_markets:,} markets"
        yield "excluded", _counted(self.excluded_markets, self.excluded_by_reason)
        yield "rejected", _counted(self.rejected_markets, self.rejected_by_reason)
        yield "failed", _counted(self.failed_markets, self.failed_by_reason)
        yield "processed", f"{self.processed_markets:,}"
        if self.core_markets:
            yield "core sample", f"{self.core_markets:,}"
        if self.price_quality:
            yield "prices", ", ".join(f"{count:,} {quality}" for quality, count in self.price_quality.items())
        if self.quotes_source:
            counted = ", ".join(f"{count:,} {source}" for source, count in sorted(self.price_source.items()))
            yield "quotes from", f"{self.quotes_source} ({counted})" if counted else self.quotes_source
        if self.quotes_reason:
            yield "quotes missing", self.quotes_reason
        if self.total_markets:
            yield "priced a day ago", f"{self.priced_day_ago:,}"
        if self.snapshot:
            how = "reused" if self.snapshot.reused else "frozen"
            at = self.snapshot.captured_at.isoformat(timespec="seconds")
            yield "snapshot", f"{how} at {at}, {self.snapshot.rows:,} rows, {self.snapshot.sha256[:12]}"
        if self.forecast_digest:
            one = self.forecast_digest
            yield "digest", f"{one.digest} of {one.forecasts:,} forecasts ({one.algorithm})"
        yield (
            "requests",
            f"{self.api.requests:,} ({self.api.pages:,} pages, {self.api.retries:,} retries, {size(self.api.bytes)})",
        )
        if self.exchange:
            yield "exchange", exchange_label(self.exchange)
        yield "took", f"{self.duration_seconds:.1f} s"
        if self.attempt is not None:
            yield "attempt", str(self.attempt)
        yield "run", str(self.run_id)
        if self.git_sha:
            yield "code", self.git_sha[:12]

    def _experiment_rows(self) -> Iterator[tuple[str, ...]]:
        for name, one in self.experiments.items():
            counts = (f"{count:,}" for count in (one.completed, one.skipped, one.failed, one.not_run))
            yield (name, one.version, one.status, *counts, f"{one.seconds:.1f}")

    def _reason_rows(self) -> Iterator[tuple[str, ...]]:
        for name, one in self.experiments.items():
            for why in one.reasons:
                yield (name, why.status, f"{why.markets:,}", why.reason, why.place or "")

    def _paid_lines(self) -> list[str]:
        paid = [f"{name} {one.paid.in_words()}" for name, one in self.experiments.items() if one.paid is not None]
        return [f"Paid: {'; '.join(paid)}."] if paid else []

    def _journal_lines(self, *, forget: bool = True) -> list[str]:
        experiments = self.experiments.items()
        return from_journal(
            {name: one.from_journal for name, one in experiments},
            {name: one.outdated for name, one in experiments},
            forget=forget,
        )

    def _batch_lines(self) -> list[str]:
        """Lines on answers that are in batches which were not collected; none where there are none."""
        waiting = {
            name: sum(why.markets for why in one.reasons if why.reason.startswith(UNDER_WAY))
            for name, one in self.experiments.items()
        }
        counts = ", ".join(f"{name} {markets:,} markets" for name, markets in waiting.items() if markets)
        left = ", ".join(f"{name} {calls:,} calls" for name, calls in sorted(self.left_in_batches.items()))
        lines = []
        if left:
            reason = "They were submitted with another version, other settings or another snapshot"
            advice = "they count for the most that they can cost, and are used where a run has those settings again"
            lines = [f"In batches that no experiment of this run collects: {left}. {reason}; {advice}."]
        if not counts:
            return lines
        collect = f"predictbench daily --run-date {self.run_date} --window-days {self.window_days}"
        line = f"In batches under way: {counts}. To collect them run the day again, in an hour or so: `{collect}`."
        return [f"{line} The schedule does that by itself.", *lines]

    def _failures_title(self) -> str:
        hidden = len(self.failures) - SHOWN_FAILURES
        more = f" (the first {SHOWN_FAILURES}; the JSON has all)" if hidden > 0 else ""
        return f"{len(self.failures):,} failures{more}" if len(self.failures) != 1 else "1 failure"


_EXPERIMENT_HEAD = ("experiment", "version", "status", "completed", "skipped", "failed", "not_run", "seconds")
_REASONS = "Why there is no forecast"
_REASON_HEAD = ("experiment", "status", "markets", "reason", "where")
_FAILURE_HEAD = ("market", "stage", "reason", "retriable")


def _failure_cells(failure: FailureLine) -> tuple[str, ...]:
    return (failure.market_id or "(the run)", failure.stage, failure.reason, "yes" if failure.retriable else "no")


def _counted(total: int, parts: Mapping[str, int]) -> str:
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in parts.items() if count)
    return f"{total:,} ({reasons})" if reasons else f"{total:,}"
