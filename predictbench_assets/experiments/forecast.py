"""The stage of the experiments: forecast a run's cohort with one experiment, and stage the outcomes."""

import hashlib
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property

import msgspec
from sqlalchemy import Engine

from predictbench_assets.experiments.contexts import History, HistoryCounts, SettledForecasts
from predictbench_assets.experiments.crashes import CrashMark
from predictbench_assets.experiments.headers import OutcomesHeader
from predictbench_assets.experiments.isolation import Crash
from predictbench_assets.experiments.journal import Journal, JournalKey
from predictbench_assets.experiments.model_calls.allowance import Allowance
from predictbench_assets.experiments.model_calls.desk import Ledger
from predictbench_assets.experiments.model_calls.records import CallScope
from predictbench_assets.experiments.model_calls.store import AnsweredCalls, PaidCalls
from predictbench_assets.experiments.outcomes import OUTCOMES, Outcome, content_hash, total_usage
from predictbench_assets.experiments.protocol import Experiment, RunMetadata, SettledForecast
from predictbench_assets.experiments.reasons import ReasonCount, count_outcomes
from predictbench_assets.experiments.registry import Registry
from predictbench_assets.experiments.runner import Progress, run_experiment_sync
from predictbench_assets.failures import PermanentError
from predictbench_assets.markets.market import Market
from predictbench_assets.runs import ExperimentStatus, RunKey
from predictbench_assets.settings import Settings
from predictbench_assets.staging import StagedFile, StagingArea


class ForgetRefused(PermanentError):
    """The journal was to be forgotten where its answers may have been paid for."""


@dataclass(frozen=True)
class ForecastCohort:
    """The markets of one run, with what identifies them."""

    run: RunMetadata
    markets: Sequence[Market]
    content_hash: str
    """Hash of the cohort, not of its snapshot: with other markets beside it a forecast may come out differently."""
    market_data: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    """Encoded market data by market id, for an experiment that asks for it; empty for any other."""

    @cached_property
    def identity(self) -> str:
        """Hash of all that is forecast on: of the cohort, and of the market data where there is some."""
        if not self.market_data:
            return self.content_hash
        digest = hashlib.sha256(self.content_hash.encode())
        for market_id in sorted(self.market_data):
            digest.update(self.market_data[market_id])
        return digest.hexdigest()

    @property
    def slug(self) -> str:
        """`RunKey.slug` of the run."""
        return RunKey(self.run.run_date, self.run.window_days).slug


@dataclass(frozen=True)
class ExperimentForecasts:
    """The outcomes of one experiment for a cohort, one per market and in the cohort's order."""

    experiment: Experiment
    config_hash: str
    cohort: ForecastCohort
    outcomes: Sequence[Outcome]
    content_hash: str
    """`outcomes.content_hash` of the outcomes."""
    reasons: Sequence[ReasonCount]
    """Reasons of markets without a forecast, the most frequent first."""
    started_at: datetime
    finished_at: datetime
    seconds: float
    from_journal: int
    """Outcomes that an earlier attempt had journalled."""
    outdated: int
    """Outcomes among them that other code than the experiment's present one gave."""

    @cached_property
    def counts(self) -> dict[str, int]:
        """Markets by status."""
        return count_statuses(self.outcomes)

    @property
    def status(self) -> ExperimentStatus:
        """`failed` where markets failed and none completed."""
        return "failed" if self.counts["failed"] and not self.counts["completed"] else "completed"

    def header(self, dagster_run_id: str) -> OutcomesHeader:
        """The header of the staged file."""
        return OutcomesHeader(
            name=self.experiment.name,
            version=self.experiment.version,
            status=self.status,
            snapshot_hash=self.cohort.run.snapshot_hash,
            counts=self.counts,
            dagster_run_id=dagster_run_id,
            config_hash=self.config_hash,
            content_hash=self.content_hash,
            started_at=self.started_at,
            finished_at=self.finished_at,
            seconds=self.seconds,
            from_journal=self.from_journal,
            outdated=self.outdated,
            usage=total_usage(self.outcomes),
            reasons=[reason.model_dump() for reason in self.reasons],
        )


def run_metadata(
    key: RunKey, captured_at: datetime, snapshot_hash: str, *, as_of: datetime | None = None
) -> RunMetadata:
    """The description of a run that its experiments are handed; `as_of` is that of a reconstructed snapshot."""
    return RunMetadata(
        run_id=key.run_id,
        run_date=key.run_date,
        window_days=key.window_days,
        target_date=key.target_date,
        captured_at=captured_at,
        as_of=as_of or captured_at,
        snapshot_hash=snapshot_hash,
    )


def results_path(name: str) -> tuple[str, str]:
    """The path of an experiment's staged outcomes, of which `ingestion.names.staged_name` makes a file name."""
    return (OUTCOMES.name, name)


def forecast(
    experiment: Experiment,
    cohort: ForecastCohort,
    *,
    config_hash: str,
    required: Mapping[str, Mapping[str, Outcome]],
    history: History,
    history_counts: HistoryCounts,
    settled_forecasts: SettledForecasts | None = None,
    area: StagingArea,
    writer_id: str,
    settings: Settings,
    engine: Callable[[], Engine] | None = None,
    remake: Callable[[], Experiment] | None = None,
    forget: bool = False,
    shard: int | None = None,
    sharded_s: float | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> ExperimentForecasts:
    """Forecast every market of a cohort with one experiment; answers in its journal are taken from there.

    An experiment of several shards is forecast by a call for each of them, in processes at once, and then by one more,
    which finds their answers in the journal and makes again what failed and may succeed.

    Args:
        config_hash: hash of the experiment's configuration, `Registry.config_hash`.
        remake: makes the same experiment in another process, `Registry.remake`.
        required: outcomes of the experiments that it requires, by name and market id.
        history: settled markets as of an instant.
        history_counts: their counts by category.
        settled_forecasts: earlier forecasts of an experiment, of settled markets as of an instant.
        area: the place of journal, artifacts and transcripts.
        writer_id: names the journal's segments of this attempt.
        engine: opens the database that paid calls are kept in; None for a dry run, which makes none.
        remake: makes the experiment again in another process, `Registry.remake`; by default it is pickled.
        forget: remove the journal first, so that every market is called again.
        shard: number of one of the experiment's shards, from 1: its markets alone are called and come back.
        sharded_s: seconds since the work on its shards began, in the call after them; None in any other.
        progress: called at the beginning, once a second, and at the end, from changing threads.

    Raises:
        JournalUnwritable: an answer could not be made durable.
    """
    if shard is not None:
        writer_id = f"{writer_id}-{shard}"
    journal = _journal(experiment, cohort, config_hash, area, writer_id)
    if forget and journal is not None:
        journal.discard()
    part = cohort
    if shard is not None:
        own = [market for market in cohort.markets if shard_of(market, experiment.shards) == shard]
        part = replace(cohort, markets=own)
    crash_mark = CrashMark(settings.local_state, cohort.slug, experiment.name, experiment.version)
    ledger = (
        None if engine is None else ledger_of(experiment, cohort.run, config_hash, engine, area, writer_id, settings)
    )
    last = _Last(progress)
    started, begun = settings.clock.now(), time.monotonic()
    if sharded_s is not None:  # by this machine's time, where the clock's may stand still
        started = max(started - timedelta(seconds=sharded_s), min(started, cohort.run.captured_at))
    outcomes = run_experiment_sync(
        experiment,
        cohort.markets,
        only=None if shard is None else frozenset(market.market_id for market in part.markets),
        run=cohort.run,
        clock=settings.clock,
        required=required,
        history=history,
        history_counts=history_counts,
        settled_forecasts=settled_forecasts,
        market_data=cohort.market_data,
        artifacts=lambda path, content: area.write_bytes(f"artifacts/{cohort.slug}/{path}", content),
        ledger=ledger,
        journal=journal,
        crash_mark=crash_mark,
        remake=remake,
        max_concurrency=settings.experiment_concurrency,
        shared_by=settings.predictbench_shared_by,
        timeout_s=settings.experiment_timeout_seconds,
        redact=settings.redact,
        progress=last,
    )
    from_journal = last.progress.resumed
    if sharded_s is not None and journal is not None:
        from_journal -= len(journal.own)
        if all(outcome.exception_type != Crash.__name__ for outcome in outcomes):
            crash_mark.forget()  # somebody killed a shard's process
    return ExperimentForecasts(
        experiment=experiment,
        config_hash=config_hash,
        cohort=part,
        outcomes=outcomes,
        content_hash=content_hash(outcomes),
        reasons=count_outcomes(outcomes, _questions_without_forecast(part.markets, outcomes)),
        started_at=started,
        finished_at=settings.clock.now(),
        seconds=round(time.monotonic() - begun + (sharded_s or 0.0), 3),
        from_journal=from_journal,
        outdated=last.progress.outdated,
    )


def open_shards(
    experiment: Experiment,
    cohort: ForecastCohort,
    *,
    config_hash: str,
    area: StagingArea,
    settings: Settings,
    forget: bool = False,
) -> list[int]:
    """The numbers of the shards, from 1, that have calls to make.

    None where there are no more calls than may be under way at once: those are made after the shards, without any.

    Args:
        config_hash: hash of the experiment's configuration, `Registry.config_hash`.
        area: the place of the journal.
        settings: has the calls at once of those that have no number of their own.
        forget: remove the journal first, so that every market is called again.
    """
    journal = _journal(experiment, cohort, config_hash, area, "plan")
    if journal is None:
        return []
    if forget:
        journal.discard()
    known = journal.load()
    waiting = [market for market in cohort.markets if market.market_id not in known]
    calls = len(waiting)
    if experiment.max_markets is not None:
        calls = min(calls, experiment.max_markets - (len(cohort.markets) - len(waiting)))
    if calls <= (experiment.max_concurrency or settings.experiment_concurrency):
        return []
    return sorted({shard_of(market, experiment.shards) for market in waiting})


def shard_of(market: Market, shards: int) -> int:
    """The number of the shard, from 1, that a market is in: the same in every run, and for all markets of an event."""
    unit_id = market.event.event_id if market.event else market.market_id
    return zlib.crc32(unit_id.encode()) % shards + 1


def _journal(
    experiment: Experiment, cohort: ForecastCohort, config_hash: str, area: StagingArea, writer_id: str
) -> Journal | None:
    if not experiment.journalled:
        return None
    key = JournalKey(cohort.slug, experiment.name, experiment.version, cohort.identity, config_hash)
    return Journal(area, key, writer_id)


def ledger_of(
    experiment: Experiment,
    run: RunMetadata,
    config_hash: str,
    engine: Callable[[], Engine],
    area: StagingArea,
    writer_id: str,
    settings: Settings,
    *,
    asks: bool = True,
) -> Ledger:
    """The ledger of an experiment's paid calls for a run, with what they may take: its own limits, and those of all.

    Args:
        asks: False to take answers that were paid for before, and no others.
    """
    scope = CallScope(
        run_date=run.run_date,
        window_days=run.window_days,
        experiment=experiment.name,
        version=experiment.version,
        config_hash=config_hash,
        snapshot_hash=run.snapshot_hash,
    )
    allowance = msgspec.structs.replace(
        experiment.allowance or Allowance(), usd_per_day_of_all=settings.model_usd_per_day
    )
    store = PaidCalls if asks else AnsweredCalls
    return Ledger(store(engine, area, scope, writer_id, settings.redact), scope, allowance)


def learnable_forecasts(
    read: Callable[..., Iterable[SettledForecast]], registry: Registry, experiment: Experiment
) -> SettledForecasts:
    """The stored forecasts that an experiment may learn from; payloads of its own, others' may be long.

    Args:
        read: as `history.settled_forecasts`, of a database.
        registry: has the versions of those that it may ask for.
        experiment: the one that learns.
    """

    def known(name: str, as_of: datetime) -> Iterable[SettledForecast]:
        return read(name, registry[name].version, as_of, own=name == experiment.name)

    return known


def refuse_to_forget(settings: Settings, *, dry_run: bool) -> None:
    """Stop an attempt that would forget the answers of a production run.

    Raises:
        ForgetRefused: the environment is production, and this is no dry run.
    """
    if settings.environment == "production" and not dry_run:
        raise ForgetRefused(
            "forget would throw away answers in production, which may have been paid for: "
            "change the experiment's version to ask again"
        )


def stage_forecasts(area: StagingArea, name: str, made: ExperimentForecasts, *, dagster_run_id: str) -> StagedFile:
    """Publish the outcomes of an experiment."""
    return area.publish(name, OUTCOMES, made.header(dagster_run_id), (outcome.encode() for outcome in made.outcomes))


def stage_not_run(
    area: StagingArea, name: str, experiment: Experiment, run: RunMetadata, *, dagster_run_id: str
) -> StagedFile:
    """Publish a file without outcomes for an experiment that was not selected."""
    header = OutcomesHeader(
        name=experiment.name,
        version=experiment.version,
        status="not_run",
        snapshot_hash=run.snapshot_hash,
        counts=count_statuses(()),
        dagster_run_id=dagster_run_id,
    )
    return area.publish(name, OUTCOMES, header, ())


def stale_reason(staged: StagedFile, experiment: Experiment, config_hash: str, snapshot_hash: str) -> str | None:
    """The reason why staged outcomes do not count for a snapshot and the present experiment; None where they do."""
    header = staged.header(OutcomesHeader)
    if header.status == "not_run":
        return "the experiment was not selected for this run"
    if header.snapshot_hash != snapshot_hash:
        return "its staged results are of an earlier snapshot; run it again"
    if header.version != experiment.version:
        return f"its staged results are of version {header.version}; version {experiment.version} was not run"
    if header.config_hash != config_hash:
        return "its staged results were made with another configuration; run it again"
    return None


def outcomes_by_market(staged: StagedFile) -> dict[str, Outcome]:
    """The outcomes of a staged file by market id."""
    return {outcome.market_id: outcome for outcome in map(Outcome.decode, staged.lines())}


def count_statuses(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """Markets by status; a status that none has counts 0."""
    statuses = [outcome.status for outcome in outcomes]
    return {status: statuses.count(status) for status in ("completed", "skipped", "failed")}


def _questions_without_forecast(markets: Sequence[Market], outcomes: Sequence[Outcome]) -> dict[str, str]:
    pairs = zip(markets, outcomes, strict=True)
    return {market.market_id: market.question for market, outcome in pairs if outcome.status != "completed"}


class _Last:
    """Hands progress on and keeps the last one; the runner reports once at the beginning at least."""

    progress: Progress

    def __init__(self, hand_on: Callable[[Progress], None]) -> None:
        self._hand_on = hand_on

    def __call__(self, progress: Progress) -> None:
        self.progress = progress
        self._hand_on(progress)
