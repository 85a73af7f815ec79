"""Persistence: the transactional write of a run, and its summary."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import dagster as dg

from predictbench_assets.assets.checks import RUN_CHECKS, check_run, report_stored
from predictbench_assets.assets.experiments import experiment_key, unusable
from predictbench_assets.assets.step import OWNERS, record_failure, run_seconds, stage
from predictbench_assets.experiments.digest import DigestedForecast, ForecastDigest, digest_of
from predictbench_assets.experiments.outcomes import OUTCOMES
from predictbench_assets.experiments.protocol import Experiment
from predictbench_assets.experiments.reasons import ReasonCount, count_texts
from predictbench_assets.experiments.registry import Registry
from predictbench_assets.failures import Failure, PermanentError
from predictbench_assets.ingestion.cohort import cohort_rejected
from predictbench_assets.ingestion.names import open_staged
from predictbench_assets.observability.reporter import RunReporter
from predictbench_assets.partitions import run_key, run_partitions
from predictbench_assets.persistence.digests import run_digest
from predictbench_assets.persistence.leases import Lease, RunCounts
from predictbench_assets.persistence.records import ExperimentAttempt, MarketRecord, WriteReport
from predictbench_assets.persistence.run_contents import Assembly, StagedExperiment
from predictbench_assets.persistence.run_store import RunDatabase
from predictbench_assets.persistence.writer import RunWriter
from predictbench_assets.reporting.summary import DigestSummary, ExperimentSummary, FailureLine, RunSummary
from predictbench_assets.runs import RunKey
from predictbench_assets.secrecy import Redact
from predictbench_assets.settings import Settings
from predictbench_assets.staging import StagedFile, StagedFileMissing, StagingArea

GROUP = "persistence"

LATE = dg.FreshnessPolicy.time_window(warn_window=timedelta(hours=26), fail_window=timedelta(hours=30))
"""A day and two hours after the last run a warning, a day and six hours a failure.

Counted from the last run rather than from the schedule (`FreshnessPolicy.cron`), since only this kind can warn before
it fails. So a day that was run at noon moves the next warning to two in the afternoon, and a repair of an older day
counts as a run. A daemon judges it; without one the Action's own notifications and the dead-man's URL serve.
"""


class NothingStored(PermanentError):
    """Not one market of the cohort completed."""


def build_persisted_run(registry: Registry) -> dg.AssetsDefinition:
    """The last asset of a run: it stores what the experiments of the registry said."""

    @dg.asset(
        group_name=GROUP,
        partitions_def=run_partitions,
        owners=OWNERS,
        kinds={"postgres", "python"},
        code_version="1",
        freshness_policy=LATE,
        deps=[experiment_key(name) for name in registry.names],
        check_specs=RUN_CHECKS,
        hooks={record_failure},
    )
    def persisted_run(  # type: ignore[no-untyped-def]  # Dagster reads MaterializeResult as "no value" and objects
        context: dg.AssetExecutionContext,
        settings: dg.ResourceParam[Settings],
        database: dg.ResourceParam[RunDatabase],
        staging: dg.ResourceParam[StagingArea],
        reporter: dg.ResourceParam[RunReporter],
        raw_markets: StagedFile,
        normalized_markets: StagedFile,
    ):
        """The transactional write: each market whole or not at all, every result appended, and counts that add up."""
        key = run_key(context)
        with stage(context, settings, database, key, "persisted_run"):
            staged = [
                _staged_experiment(one, registry, staging, key, normalized_markets, settings.redact) for one in registry
            ]
            run = _RunInHand(
                key=key,
                cohort=normalized_markets,
                assembly=Assembly(key, normalized_markets, raw_markets, staged, settings.clock),
                rejected=_rejections(normalized_markets, settings),
            )
            if database.dry:
                run.count()
            else:
                run.store(database.open(key, context.run.run_id), settings)
            summary = reporter.summary(
                key,
                context.run.run_id,
                snapshot=raw_markets,
                cohort=normalized_markets,
                counts=run.counts,
                failures=tuple(FailureLine.of(failure) for failure in run.failures),
                experiments=_experiments(staged, run.assembly, context.run.run_id),
                rejected_by_reason=count_texts((f"{one.field}: {one.reason}", 1) for one in run.rejected),
                failed_by_reason=count_texts((failure.reason, 1) for failure in run.not_stored),
                would_be_rows=run.would_be_rows,
                attempt=run.attempt,
                forecast_digest=None if run.digest is None else DigestSummary.of(run.digest),
                duration_seconds=run_seconds(context.instance, context.run.run_id),
                **run.verdict,
            )
            run.finish(summary)
            path = reporter.publish(summary)
            run.raise_if_nothing_stored()
            _report_stored(context, staged, database)
            return dg.MaterializeResult(metadata=_metadata(summary, path), check_results=list(check_run(run.counts)))

    return persisted_run


@dataclass
class _RunInHand:
    """A run while it is being stored: first `store` (or `count`, in a dry run), then `finish`."""

    key: RunKey
    cohort: StagedFile
    assembly: Assembly
    rejected: list[Failure]
    report: WriteReport = field(default_factory=lambda: WriteReport(0, [], 0, 0, 0))
    would_be_rows: dict[str, int] = field(default_factory=dict)
    digest: ForecastDigest | None = None
    """Of the run's forecasts: as stored, or in a dry run as they would be in a database without this run."""
    _lease: Lease | None = None
    _writer: RunWriter | None = None

    def store(self, lease: Lease, settings: Settings) -> None:
        """Write the markets, and read back what the run's forecasts come to."""
        self._lease, self._writer = lease, RunWriter(lease.engine, lease, settings.clock)
        attempts = [one.attempt for one in self.assembly.experiments]
        self.report = self._writer.write(self.assembly.records(), attempts)
        if not self.nothing_stored:
            self.digest = run_digest(lease.engine, self.key, settings.clock.now())

    def count(self) -> None:
        """Count the rows that would be written."""
        attempts = {one.attempt.name: one.attempt for one in self.assembly.experiments}
        forecasts: list[DigestedForecast] = []
        rows: dict[str, int] = dict.fromkeys(("processed_markets", "processed_contracts", "experiment_results"), 0)
        events = set()
        for record in self.assembly.records():
            rows["processed_markets"] += 1
            rows["processed_contracts"] += len(record.market.contracts)
            rows["experiment_results"] += len(record.results)
            events.add(record.market.event.event_id if record.market.event else None)
            forecasts += _digested(record, attempts)
        self.report = WriteReport(rows["processed_markets"], [], 0, 0, 0)
        self.digest = digest_of(self.key, forecasts, self.assembly.clock.now())
        rows |= {
            "events": len(events - {None}),
            "experiment_runs": len(self.assembly.experiments),
            "processing_failures": len(self.failures),
            "processing_runs": 1,
        }
        self.would_be_rows = rows

    @property
    def attempt(self) -> int | None:
        """Which attempt this is; None in a dry run."""
        return None if self._lease is None else self._lease.attempt

    @property
    def failures(self) -> list[Failure]:
        """Every market that is not stored, with the reason, in the order of the stages."""
        return [*self.rejected, *self.not_stored]

    @property
    def not_stored(self) -> list[Failure]:
        """The markets that were handed to the experiments and are not stored."""
        return [*self.assembly.failures, *self.report.failures]

    @property
    def counts(self) -> RunCounts:
        """Where every offered market went."""
        excluded: Mapping[str, int] = self.cohort.meta["excluded"]
        return RunCounts(
            offered=self.cohort.meta["offered"],
            excluded=sum(excluded.values()),
            rejected=len(self.rejected),
            failed=len(self.not_stored),
            processed=self.report.processed,
            excluded_by_reason=excluded,
        )

    @property
    def nothing_stored(self) -> bool:
        """Whether there was something to store and nothing was."""
        return self.counts.processed == 0 and self.counts.failed > 0

    @property
    def verdict(self) -> dict[str, Any]:
        """Status of the run, and the reason where it failed."""
        if self.nothing_stored:
            return {"status": "failed", "stage": "persisted_run", "reason": self._why_nothing()}
        return {"status": self._good_status()}

    def finish(self, summary: RunSummary) -> None:
        """Close the run in the database, whichever way it went."""
        if self._lease is None or self._writer is None:
            return
        if self.nothing_stored:
            self._lease.fail("persisted_run", self._why_nothing(), retriable=True, failures=self.failures)
            return
        stored = summary.model_dump(mode="json")
        self._writer.finish(self.counts, self._good_status(), self.failures, stored, self.digest)

    def raise_if_nothing_stored(self) -> None:
        """A run of which nothing was stored is a failed one."""
        if self.nothing_stored:
            raise NothingStored(self._why_nothing())

    def _good_status(self) -> Literal["completed", "partial"]:
        return "completed" if self.cohort.meta["limit"] is None else "partial"

    def _why_nothing(self) -> str:
        return f"none of {self.counts.failed:,} markets could be stored; the first: {self.failures[-1].reason}"


def _staged_experiment(
    experiment: Experiment,
    registry: Registry,
    staging: StagingArea,
    key: RunKey,
    cohort: StagedFile,
    redact: Redact,
) -> StagedExperiment:
    """What is staged of an experiment, if it was made on this snapshot by this version."""
    missing: str | None = None
    staged: StagedFile | None = None
    try:
        staged = open_staged(staging, experiment_key(experiment.name).path, key, OUTCOMES)
        missing = unusable(staged, experiment, registry, cohort)
    except StagedFileMissing:
        missing = "the experiment was not run for this partition"
    described = {
        "name": experiment.name,
        "version": experiment.version,
        "description": redact(experiment.description),
        "information": experiment.information,
        "mandatory": experiment.mandatory,
        "control": experiment.control,
        "snapshot_hash": cohort.meta["snapshot_hash"],
        "config_hash": registry.config_hash(experiment.name),
    }
    if staged is None or missing is not None:
        attempt = ExperimentAttempt(**described, status="not_run", content_hash="", error_message=missing)
        return StagedExperiment(attempt, None)
    meta = staged.meta
    attempt = ExperimentAttempt(
        **described,
        status=meta["status"],
        content_hash=meta["content_hash"],
        started_at=datetime.fromisoformat(meta["started_at"]),
        finished_at=datetime.fromisoformat(meta["finished_at"]),
        **meta["counts"],
    )
    return StagedExperiment(attempt, staged)


def _rejections(cohort: StagedFile, settings: Settings) -> list[Failure]:
    now = settings.clock.now()
    return [
        Failure(
            market_id=one.market_id,
            stage="normalized_markets",
            field=one.field,
            reason=one.reason,
            retriable=False,
            logged_at=now,
        )
        for one in cohort_rejected(cohort)
    ]


def _digested(record: MarketRecord, attempts: Mapping[str, ExperimentAttempt]) -> Iterator[DigestedForecast]:
    """A market's forecasts as the first attempts of their experiments would be stored."""
    for result in record.results:
        if result.status == "completed" and result.probability is not None:
            made = attempts[result.experiment]
            yield DigestedForecast(
                made.name,
                made.version,
                1,
                record.market.market_id,
                result.probability,
                result.forecast_at,
                made.snapshot_hash,
                made.config_hash,
            )


def _experiments(
    staged: Sequence[StagedExperiment], assembly: Assembly, dagster_run_id: str
) -> dict[str, ExperimentSummary]:
    return {
        one.attempt.name: ExperimentSummary(
            version=one.attempt.version,
            status=one.attempt.status,
            **_told({} if one.outcomes is None else one.outcomes.meta, dagster_run_id),
            **assembly.counts.get(one.attempt.name, Counter()),
        )
        for one in staged
    }


def _told(meta: Mapping[str, Any], dagster_run_id: str) -> dict[str, Any]:
    """What an experiment's staged file says of how it went; which answers an earlier run did not ask for is over."""
    told = {
        "seconds": meta.get("seconds", 0.0),
        "reasons": tuple(map(ReasonCount.model_validate, meta.get("reasons", ()))),
    }
    if meta.get("dagster_run_id") == dagster_run_id:
        told |= {name: meta.get(name, 0) for name in ("from_journal", "outdated")}
    return told


def _report_stored(
    context: dg.AssetExecutionContext, staged: Sequence[StagedExperiment], database: RunDatabase
) -> None:
    """Take back the warning of experiments that were materialized by themselves, now that they are stored."""
    for one in staged:
        if one.outcomes is not None and not database.dry:
            report_stored(context, experiment_key(one.attempt.name))


def _metadata(summary: RunSummary, path: Path) -> dict[str, Any]:
    return {
        "dagster/row_count": summary.processed_markets,
        "offered": summary.offered_markets,
        "excluded": summary.excluded_markets,
        "rejected": summary.rejected_markets,
        "processed": summary.processed_markets,
        "failed": summary.failed_markets,
        "excluded_by_reason": dg.MetadataValue.json(dict(summary.excluded_by_reason)),
        "rejected_by_reason": dg.MetadataValue.json(dict(summary.rejected_by_reason)),
        "failed_by_reason": dg.MetadataValue.json(dict(summary.failed_by_reason)),
        "summary": dg.MetadataValue.md(summary.to_markdown()),
        "summary_json": dg.MetadataValue.json(summary.model_dump(mode="json", exclude={"failures"})),
        "summary_file": dg.MetadataValue.path(path),
    }
