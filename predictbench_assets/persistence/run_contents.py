"""The contents of a run, market by market: the cohort joined with its raw rows and the results of each experiment."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from predictbench_assets.clock import Clock
from predictbench_assets.experiments.outcomes import Outcome
from predictbench_assets.failures import Failure, PermanentError
from predictbench_assets.ingestion.headers import CohortHeader
from predictbench_assets.ingestion.snapshot import raw_rows
from predictbench_assets.markets.market import Market
from predictbench_assets.persistence.records import ExperimentAttempt, MarketRecord, ResultRecord
from predictbench_assets.runs import RunKey
from predictbench_assets.staging import StagedFile, StagedFileBroken

_NULL = msgspec.Raw(b"null")


class CohortOutdated(PermanentError):
    """The cohort was made of another snapshot than the one that counts now."""


@dataclass(frozen=True)
class StagedExperiment:
    """One experiment of the registry with what is staged of it; without a file it is not_run."""

    attempt: ExperimentAttempt
    outcomes: StagedFile | None


class _Outcomes:
    """The staged outcomes of an experiment, read beside the cohort, whose order they have: all at once are most of what
    a write would hold. Any other order is right too.

    Raises:
        StagedFileMissing, StagedFileBroken: the file is gone or damaged; said before anything of it is used.
    """

    def __init__(self, staged: StagedFile | None) -> None:
        self._following: Iterator[Outcome] = iter(())
        self._passed: dict[str, Outcome] = {}
        if staged is not None:
            staged.check()
            self._following = map(Outcome.decode, staged.lines())

    def of(self, market_id: str) -> Outcome | None:
        """The outcome of a market, to be asked for once; None where there is none."""
        if market_id in self._passed:
            return self._passed.pop(market_id)
        for outcome in self._following:
            if outcome.market_id == market_id:
                return outcome
            self._passed[outcome.market_id] = outcome
        return None


@dataclass
class RunContents:
    """Joins a cohort with its snapshot and its experiments.

    Iterating `records` fills `failures`: the markets of which a mandatory experiment gave no result. They are not
    handed on, since a market is stored whole or not at all.
    """

    key: RunKey
    cohort: StagedFile
    markets: Iterator[Market]
    """Those of the cohort, in its order; `records` takes them."""
    snapshot: StagedFile
    experiments: Sequence[StagedExperiment]
    clock: Clock
    failures: list[Failure] = field(default_factory=list)
    counts: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """Results by experiment and status, over the markets handed on."""

    @property
    def reconstructed(self) -> bool:
        """True where the snapshot was put together afterwards."""
        return self.cohort.header(CohortHeader).as_of is not None

    def records(self) -> Iterator[MarketRecord]:
        """Every market that every mandatory experiment forecast, with a result of each experiment.

        Raises:
            CohortOutdated: the snapshot has been captured again since the cohort was made.
            StagedFileBroken: the cohort holds a market that the snapshot does not.
        """
        if self.cohort.header(CohortHeader).snapshot_hash != self.snapshot.sha256:
            raise CohortOutdated(
                f"normalized_markets of {self.key} was made of another snapshot than raw_markets now has: "
                "materialize it and the experiments again, or run the whole job."
            )
        staged = [(one.attempt, _Outcomes(one.outcomes)) for one in self.experiments]
        attempts = [attempt for attempt, _ in staged]
        rows = raw_rows(self.snapshot)
        for market in self.markets:
            raw = self._raw_row(rows, market)
            results = tuple(_result(attempt, outcomes.of(market.market_id)) for attempt, outcomes in staged)
            failure = self._mandatory_failure(market, attempts, results)
            if failure is None:
                for result in results:
                    self.counts[result.experiment][result.status] += 1
                yield MarketRecord(market=market, raw=raw, results=results)
            else:
                self.failures.append(failure)

    def _raw_row(self, rows: Iterator[tuple[str | None, bytes]], market: Market) -> bytes:
        """The market's row as received. Both files have one order, so one pass over each is enough."""
        for market_id, raw in rows:
            if market_id == market.market_id:
                return raw
        raise StagedFileBroken(
            f"market {market.market_id} of {self.cohort.uri} is not in {self.snapshot.uri}: "
            "materialize normalized_markets of this partition again."
        )

    def _mandatory_failure(
        self, market: Market, attempts: Sequence[ExperimentAttempt], results: Sequence[ResultRecord]
    ) -> Failure | None:
        for attempt, result in zip(attempts, results, strict=True):
            if attempt.mandatory and result.status != "completed":
                return Failure(
                    market_id=market.market_id,
                    stage="experiment_results",
                    experiment=attempt.name,
                    reason=f"{attempt.name} is mandatory and {_describe(result)}",
                    retriable=result.retriable or result.status == "not_run",
                    exception_type=result.exception_type,
                    logged_at=self.clock.now(),
                )
        return None


def _describe(result: ResultRecord) -> str:
    status = {"skipped": "skipped the market", "not_run": "was not run for it"}.get(result.status, "failed")
    return f"{status}: {result.reason}" if result.reason else status


def _result(attempt: ExperimentAttempt, outcome: Outcome | None) -> ResultRecord:
    if outcome is None:
        reason = attempt.error_message or "the staged results of this experiment do not hold the market"
        return ResultRecord(experiment=attempt.name, status="not_run", reason=reason, retriable=True)
    return result_record(attempt.name, outcome)


def result_record(experiment: str, outcome: Outcome) -> ResultRecord:
    """An experiment's outcome for a market as the writer takes it."""
    return ResultRecord(
        experiment=experiment,
        status=outcome.status,
        reason=outcome.reason,
        probability=outcome.probability,
        probabilities=outcome.probabilities,
        payload=_present(outcome.payload_json),
        artifact_uri=outcome.artifact_uri,
        diagnostics=_present(outcome.diagnostics_json),
        forecast_at=outcome.forecast_at,
        exception_type=outcome.exception_type,
        retriable=outcome.retriable,
        usage=outcome.usage,
    )


def _present(json: msgspec.Raw) -> msgspec.Raw | None:
    return None if json == _NULL else json
