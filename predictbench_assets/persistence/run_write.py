"""The stage of persistence: store a run in one transactional write, or count it in a dry run."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from predictbench_assets.experiments.digest import DigestedForecast, ForecastDigest, digest_of
from predictbench_assets.experiments.forecast import results_path, stale_reason
from predictbench_assets.experiments.headers import OutcomesHeader
from predictbench_assets.experiments.outcomes import OUTCOMES
from predictbench_assets.experiments.protocol import Experiment
from predictbench_assets.experiments.registry import Registry
from predictbench_assets.failures import Failure, PermanentError
from predictbench_assets.ingestion.cohort import cohort_rejected
from predictbench_assets.ingestion.headers import CohortHeader
from predictbench_assets.ingestion.names import open_staged
from predictbench_assets.persistence.digests import run_digest
from predictbench_assets.persistence.leases import Lease, RunCounts
from predictbench_assets.persistence.records import ExperimentAttempt, MarketRecord, WriteReport
from predictbench_assets.persistence.run_contents import RunContents, StagedExperiment
from predictbench_assets.persistence.writer import RunWriter
from predictbench_assets.runs import RunKey, StoredStatus
from predictbench_assets.secrecy import Redact
from predictbench_assets.staging import StagedFile, StagedFileMissing, StagingArea


class NothingStored(PermanentError):
    """No market of the cohort completed."""


def store(contents: RunContents, lease: Lease | None) -> "RunWrite":
    """Write a run's markets under its lease; without a lease, as in a dry run, count the rows only.

    The caller closes the run with `RunWrite.finish`.

    Raises:
        LeaseLost: another attempt has taken the run over.
        CohortOutdated: the snapshot has been captured again since the cohort was made.
    """
    run = RunWrite(contents, _rejections(contents), lease)
    if lease is None:
        run.count()
    else:
        run.write(lease)
    return run


def staged_experiments(
    registry: Registry,
    area: StagingArea,
    key: RunKey,
    cohort: StagedFile,
    redact: Redact,
    made: Collection[str] = (),
) -> list[StagedExperiment]:
    """Every experiment of the registry with its staged outcomes, where these were made on this snapshot as it is now.

    Args:
        redact: takes secrets out of their descriptions.
        made: names of those that were staged a moment ago, in this run: their files must be there.

    Raises:
        StagedFileMissing: the file of one of those is gone. Run again, it is staged again from its journal.
    """
    return [_staged_experiment(one, registry, area, key, cohort, redact, one.name in made) for one in registry]


@dataclass
class RunWrite:
    """A run while it is being stored: first `write` (or `count`, in a dry run), then `finish`."""

    contents: RunContents
    rejected: list[Failure]
    lease: Lease | None
    report: WriteReport = field(default_factory=lambda: WriteReport(0, [], 0, 0, 0))
    would_be_rows: dict[str, int] = field(default_factory=dict)
    """Rows by table that a dry run would have written."""
    digest: ForecastDigest | None = None
    """Digest of the run's forecasts: as stored, or in a dry run as they would be in a database without this run."""
    _writer: RunWriter | None = None

    def write(self, lease: Lease) -> None:
        """Write the markets, and read the digest of the run's forecasts back."""
        clock = self.contents.clock
        self._writer = RunWriter(lease.engine, lease, clock)
        attempts = [one.attempt for one in self.contents.experiments]
        self.report = self._writer.write(self.contents.records(), attempts, reconstructed=self.contents.reconstructed)
        if not self.nothing_stored:
            self.digest = run_digest(lease.engine, self.contents.key, clock.now())

    def count(self) -> None:
        """Count the rows that would be written."""
        attempts = {one.attempt.name: one.attempt for one in self.contents.experiments}
        forecasts: list[DigestedForecast] = []
        rows: dict[str, int] = dict.fromkeys(("processed_markets", "processed_contracts", "experiment_results"), 0)
        events = set()
        for record in self.contents.records():
            rows["processed_markets"] += 1
            rows["processed_contracts"] += len(record.market.contracts)
            rows["experiment_results"] += len(record.results)
            events.add(record.market.event.event_id if record.market.event else None)
            forecasts += _digested(record, attempts)
        self.report = WriteReport(rows["processed_markets"], [], 0, 0, 0)
        self.digest = digest_of(self.contents.key, forecasts, self.contents.clock.now())
        rows |= {
            "events": len(events - {None}),
            "experiment_runs": len(self.contents.experiments),
            "processing_failures": len(self.failures),
            "processing_runs": 1,
        }
        self.would_be_rows = rows

    @property
    def attempt(self) -> int | None:
        """The number of the attempt; None in a dry run."""
        return None if self.lease is None else self.lease.attempt

    @property
    def failures(self) -> list[Failure]:
        """Every market that is not stored, with the reason, in the order of the stages."""
        return [*self.rejected, *self.not_stored]

    @property
    def not_stored(self) -> list[Failure]:
        """The markets that were handed to the experiments and are not stored."""
        return [*self.contents.failures, *self.report.failures]

    @property
    def counts(self) -> RunCounts:
        """The offered markets by their fate; the fates add up to `offered`."""
        header = self.contents.cohort.header(CohortHeader)
        return RunCounts(
            offered=header.offered,
            excluded=sum(header.excluded.values()),
            rejected=len(self.rejected),
            failed=len(self.not_stored),
            processed=self.report.processed,
            excluded_by_reason=header.excluded,
        )

    @property
    def nothing_stored(self) -> bool:
        """True where there were markets to store and none was."""
        return self.counts.processed == 0 and self.counts.failed > 0

    @property
    def verdict(self) -> dict[str, Any]:
        """Status of the run, and the reason where it failed."""
        if self.nothing_stored:
            return {"status": "failed", "stage": "persisted_run", "reason": self._why_nothing()}
        return {"status": self._good_status()}

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Close the run in the database, whichever way it went; `summary` is kept with its row."""
        if self.lease is None or self._writer is None:
            return
        if self.nothing_stored:
            self.lease.fail("persisted_run", self._why_nothing(), retriable=True, failures=self.failures)
            return
        self._writer.finish(self.counts, self._good_status(), self.failures, summary, self.digest)

    def raise_if_nothing_stored(self) -> None:
        """Fail a run of which nothing was stored.

        Raises:
            NothingStored: with the first reason.
        """
        if self.nothing_stored:
            raise NothingStored(self._why_nothing())

    def _good_status(self) -> StoredStatus:
        return "completed" if self.contents.cohort.header(CohortHeader).limit is None else "partial"

    def _why_nothing(self) -> str:
        return f"none of {self.counts.failed:,} markets could be stored; the first: {self.failures[-1].reason}"


def _staged_experiment(
    experiment: Experiment,
    registry: Registry,
    area: StagingArea,
    key: RunKey,
    cohort: StagedFile,
    redact: Redact,
    made: bool,
) -> StagedExperiment:
    config_hash = registry.config_hash(experiment.name)
    snapshot_hash = cohort.header(CohortHeader).snapshot_hash
    missing: str | None = None
    staged: StagedFile | None = None
    try:
        staged = open_staged(area, results_path(experiment.name), key, OUTCOMES)
        missing = stale_reason(staged, experiment, config_hash, snapshot_hash)
    except StagedFileMissing:
        if made:
            raise
        missing = "the experiment was not run for this partition"
    described: dict[str, Any] = {
        "name": experiment.name,
        "version": experiment.version,
        "description": redact(experiment.description),
        "information": experiment.information,
        "mandatory": experiment.mandatory,
        "control": experiment.control,
        "forecasts": experiment.forecasts,
        "knowledge_cutoff": experiment.knowledge_cutoff,
        "snapshot_hash": snapshot_hash,
        "config_hash": config_hash,
    }
    if staged is None or missing is not None:
        attempt = ExperimentAttempt(**described, status="not_run", content_hash="", error_message=missing)
        return StagedExperiment(attempt, None)
    header = staged.header(OutcomesHeader)
    attempt = ExperimentAttempt(
        **described,
        status=header.status,
        content_hash=header.content_hash,
        started_at=header.started_at,
        finished_at=header.finished_at,
        completed=header.counts["completed"],
        skipped=header.counts["skipped"],
        failed=header.counts["failed"],
    )
    return StagedExperiment(attempt, staged)


def _rejections(contents: RunContents) -> list[Failure]:
    now = contents.clock.now()
    return [
        Failure(
            market_id=one.market_id,
            stage="normalized_markets",
            field=one.field,
            reason=one.reason,
            retriable=False,
            logged_at=now,
        )
        for one in cohort_rejected(contents.cohort)
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
