"""The reporter: writes the summary of a run, whether the run ended well or not."""

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from predictbench_assets.commit import running_commit
from predictbench_assets.experiments.headers import OutcomesHeader
from predictbench_assets.experiments.reasons import ReasonCount, count_texts
from predictbench_assets.failures import PredictbenchError, Stage
from predictbench_assets.ingestion.cohort import COHORT
from predictbench_assets.ingestion.headers import CohortHeader, SnapshotHeader
from predictbench_assets.ingestion.names import open_staged, staged_name
from predictbench_assets.ingestion.snapshot import SNAPSHOT
from predictbench_assets.observability.metrics import export_metrics
from predictbench_assets.persistence.leases import RunCounts
from predictbench_assets.persistence.run_contents import RunContents, StagedExperiment
from predictbench_assets.persistence.run_store import RunDatabase
from predictbench_assets.persistence.run_write import RunWrite
from predictbench_assets.reporting.summary import (
    ApiUse,
    DigestSummary,
    ExperimentSummary,
    FailureLine,
    PaidSummary,
    RunSummary,
    SnapshotSummary,
)
from predictbench_assets.runs import RunKey
from predictbench_assets.scoring.store.costs import load_calls
from predictbench_assets.settings import Settings
from predictbench_assets.staging import Schema, StagedFile, StagingArea

_logger = logging.getLogger(__name__)


class RunReporter:
    """Builds and writes the summaries of this process's runs."""

    def __init__(self, settings: Settings, database: RunDatabase, staging: StagingArea) -> None:
        self._settings = settings
        self._database = database
        self._staging = staging
        self._published: set[str] = set()

    def summary(
        self,
        key: RunKey,
        dagster_run_id: str,
        *,
        snapshot: StagedFile | None = None,
        cohort: StagedFile | None = None,
        counts: RunCounts | None = None,
        **facts: Any,
    ) -> RunSummary:
        """A summary of the given files, counts and facts; without a file its part stays empty."""
        if snapshot is not None:
            facts = _snapshot_facts(snapshot, dagster_run_id) | facts
        if cohort is not None:
            facts = _cohort_facts(cohort) | facts
            counts = counts or _counts_so_far(cohort)
        if counts is not None:
            facts = _count_facts(counts) | facts
        return RunSummary(
            run_id=key.run_id,
            run_date=key.run_date,
            window_days=key.window_days,
            target_date=key.target_date,
            dagster_run_id=dagster_run_id,
            exchange=self._settings.exchange,
            git_sha=running_commit(self._settings),
            dry_run=self._database.dry,
            **facts,
        )

    def written(self, run: RunWrite, dagster_run_id: str, *, duration_seconds: float) -> RunSummary:
        """The summary of a run that was stored, or in a dry run counted."""
        contents = run.contents
        paid = self._paid(contents.key)
        return self.summary(
            contents.key,
            dagster_run_id,
            snapshot=contents.snapshot,
            cohort=contents.cohort,
            counts=run.counts,
            failures=tuple(FailureLine.of(failure) for failure in run.failures),
            experiments={
                one.attempt.name: _experiment(one, contents, dagster_run_id, paid) for one in contents.experiments
            },
            rejected_by_reason=count_texts((f"{one.field}: {one.reason}", 1) for one in run.rejected),
            failed_by_reason=count_texts((failure.reason, 1) for failure in run.not_stored),
            would_be_rows=run.would_be_rows,
            attempt=run.attempt,
            forecast_digest=None if run.digest is None else DigestSummary.of(run.digest),
            duration_seconds=duration_seconds,
            left_in_batches=self._left_in_batches(contents),
            **run.verdict,
        )

    def _left_in_batches(self, contents: RunContents) -> dict[str, int]:
        """Calls in batches that no experiment of the run collects: each takes those of its own settings alone."""
        if self._database.dry:
            return {}
        try:
            waiting = self._database.waiting_in_batches(contents.key)
        except PredictbenchError as error:
            _logger.warning("the batches of the run cannot be read: %s", self._settings.redact(str(error)))
            return {}
        ours = {
            (one.attempt.name, one.attempt.version, one.attempt.config_hash, contents.snapshot.sha256)
            for one in contents.experiments
        }
        left: Counter[str] = Counter()
        for scope, calls in waiting.items():
            if (scope.experiment, scope.version, scope.config_hash, scope.snapshot_hash) not in ours:
                left[f"{scope.experiment} {scope.version}"] += calls
        return dict(left)

    def _paid(self, key: RunKey) -> dict[tuple[str, str], PaidSummary]:
        """What the ledger of paid calls has of the run, by name and version; nothing of a dry run, which makes none."""
        if self._database.dry:
            return {}
        try:
            costs = load_calls(self._database.engine, self._settings.clock.now(), key)
        except PredictbenchError as error:
            _logger.warning("the paid calls of the run cannot be read: %s", self._settings.redact(str(error)))
            return {}
        return {(one.experiment, one.version): PaidSummary.of(one.cost) for one in costs}

    def publish(self, summary: RunSummary) -> Path:
        """Write the summary to PREDICTBENCH_SUMMARY, else among the artifacts; export a real run's metrics."""
        slug = f"{summary.run_date}_w{summary.window_days}"
        path = self._settings.predictbench_summary or self._settings.artifacts / f"summary_{slug}.json"
        summary.write(path)
        self._published.add(summary.dagster_run_id or "")
        if not summary.dry_run:
            export_metrics(summary, self._settings)
        return path

    def skipped(self, key: RunKey, dagster_run_id: str) -> None:
        """Publish the summary of the run as it is stored, marked as skipped by this Dagster run."""
        stored = self._database.stored_run(key)
        if stored is None or stored.summary is None:
            return
        summary = RunSummary.model_validate(stored.summary)
        self.publish(summary.model_copy(update={"status": "skipped", "dagster_run_id": dagster_run_id}))

    def failed(
        self, key: RunKey, dagster_run_id: str, stage: Stage, reason: str, *, retriable: bool, seconds: float
    ) -> None:
        """Record a failed stage in the database and the summary. Never raises, so that the failure itself is seen."""
        reason = self._settings.redact(reason)
        attempt = None
        try:
            attempt = None if self._database.dry else self._database.attempt(key, dagster_run_id)
            self._database.fail(key, dagster_run_id, stage, reason, retriable=retriable)
        except PredictbenchError as error:
            _logger.warning("the failure could not be recorded in the database: %s", self._settings.redact(str(error)))
        if dagster_run_id in self._published:
            return  # the stage that failed has published more than is known here
        own = FailureLine(market_id=None, stage=stage, reason=reason, retriable=retriable)
        try:
            snapshot = self._own("raw_markets", key, dagster_run_id, SNAPSHOT)
            cohort = self._own("normalized_markets", key, dagster_run_id, COHORT)
            summary = self.summary(
                key,
                dagster_run_id,
                snapshot=snapshot,
                cohort=cohort,
                status="failed",
                stage=stage,
                reason=reason,
                failures=(own,),
                attempt=attempt,
                duration_seconds=seconds,
            )
            self.publish(summary)
        except (PredictbenchError, OSError) as error:
            _logger.warning("the summary could not be written: %s", self._settings.redact(str(error)))

    def _own(self, asset: str, key: RunKey, dagster_run_id: str, schema: Schema) -> StagedFile | None:
        """An asset's file, if this very Dagster run staged it: an older one does not explain this failure."""
        try:
            if self._staging.peek(staged_name([asset], key))["meta"].get("dagster_run_id") != dagster_run_id:
                return None
            return open_staged(self._staging, [asset], key, schema)
        except PredictbenchError:
            return None  # missing, or damaged, which may be why the run failed


def _experiment(
    staged: StagedExperiment,
    contents: RunContents,
    dagster_run_id: str,
    paid: Mapping[tuple[str, str], PaidSummary],
) -> ExperimentSummary:
    """An experiment's part of the summary; the counts of a journal belong to the Dagster run that read it only."""
    facts: dict[str, Any] = {"paid": paid.get((staged.attempt.name, staged.attempt.version))}
    if staged.outcomes is not None:
        header = staged.outcomes.header(OutcomesHeader)
        facts |= {"seconds": header.seconds, "reasons": tuple(map(ReasonCount.model_validate, header.reasons))}
        facts["paid"] = facts["paid"] or PaidSummary.of_usage(header.usage)
        if header.dagster_run_id == dagster_run_id:
            facts |= {"from_journal": header.from_journal, "outdated": header.outdated}
    return ExperimentSummary(
        version=staged.attempt.version,
        status=staged.attempt.status,
        **facts,
        **contents.counts.get(staged.attempt.name, Counter()),
    )


def _snapshot_facts(snapshot: StagedFile, dagster_run_id: str) -> dict[str, Any]:
    header = snapshot.header(SnapshotHeader)
    api = header.api.as_dict() | {"retries": sum(header.api.retries.values()), "retries_by_cause": header.api.retries}
    return {
        "api": ApiUse(**api),
        "quotes_source": header.quotes_source,
        "quotes_reason": header.quotes_reason,
        "snapshot": SnapshotSummary(
            captured_at=header.captured_at,
            sha256=header.received_sha256,
            rows=snapshot.rows,
            reused=header.dagster_run_id != dagster_run_id,
            uri=snapshot.uri,
            as_of=header.as_of,
            left_out=header.left_out,
        ),
    }


def _cohort_facts(cohort: StagedFile) -> dict[str, Any]:
    header = cohort.header(CohortHeader)
    return {
        "core_markets": header.core,
        "price_quality": header.price_quality,
        "price_source": header.price_source,
        "priced_day_ago": header.priced_day_ago,
        "partial": header.limit is not None,
    }


def _counts_so_far(cohort: StagedFile) -> RunCounts:
    """The counts before anything is written: nothing processed, nothing failed yet."""
    header = cohort.header(CohortHeader)
    return RunCounts(header.offered, sum(header.excluded.values()), header.rejected, 0, 0, header.excluded)


def _count_facts(counts: RunCounts) -> dict[str, Any]:
    return {
        "offered_markets": counts.offered,
        "excluded_markets": counts.excluded,
        "rejected_markets": counts.rejected,
        "total_markets": counts.total,
        "processed_markets": counts.processed,
        "failed_markets": counts.failed,
        "excluded_by_reason": dict(counts.excluded_by_reason),
    }
