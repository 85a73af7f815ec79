"""An experiment whose forecasts are handed in as a file, by `predictbench submit`."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal

from predictbench_assets.experiments.declared.table import Table
from predictbench_assets.experiments.outside.inbox import Inbox, Submission, SubmittedForecast
from predictbench_assets.experiments.protocol import (
    Experiment,
    ExperimentResult,
    ExperimentSkip,
    Information,
    PipelineContext,
    Prerequisite,
    UnitName,
    information_of,
)
from predictbench_assets.markets.market import Market
from predictbench_assets.runs import FREEZE_WINDOW_HOURS, RunKey
from predictbench_assets.settings import Settings
from predictbench_assets.staging import StagingArea

NO_LINE = "no submission has a forecast of it"


def deadline(captured_at: datetime) -> datetime:
    """The last instant at which a forecast of a snapshot counts; of a market that closes earlier, its close."""
    return captured_at + timedelta(hours=FREEZE_WINDOW_HOURS)


class FileTable(Table):
    """The keys of `kind = "file"`."""

    kind: Literal["file"] = "file"
    prices: Literal["hidden", "shown"] = "shown"
    """Whether its author is shown the market's price: what the author says, it cannot be enforced."""
    search: bool = True
    """Whether its author may look at the world."""

    def experiment(self, name: str, settings: Settings) -> Experiment:
        """Make the experiment."""
        made = FileExperiment(settings)
        made.name = name
        made.version = self.version
        made.description = self.description or f"Forecasts that are handed in: predictbench submit --as {name}."
        made.requires = self.requires
        made.information = information_of(prices=self.prices == "shown", search=self.search)
        return made


class FileExperiment(Experiment):
    """Takes the forecast of each market from the newest submission that has one and came before its close, in time.

    So a later file corrects an earlier one market by market. Boards do the same: of several timely forecasts the newest
    counts, and none can be withdrawn.

    Args:
        settings: name the staging area that has the inbox. It is not that of a dry run, which has received nothing.
    """

    information: Information = "search"
    unit: UnitName | None = "cohort"
    journalled = False

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @property
    def inbox(self) -> Inbox:
        """The inbox of its submissions."""
        return Inbox(StagingArea(self._settings.staging, self._settings.staging_options))

    def prerequisites(self) -> Iterator[Prerequisite]:
        """The inbox."""
        try:
            days = self.inbox.days()
        except Exception as error:  # each store raises its own
            found = f"{self.inbox.uri} cannot be read: {type(error).__name__}"
            yield Prerequisite(found, "fail", "check STAGING_URI, and who may read there")
        else:
            yield Prerequisite(f"{self.inbox.uri}, with submissions for {days:,} of the runs")

    def run_cohort(
        self, markets: Sequence[Market], contexts: Mapping[str, PipelineContext]
    ) -> Mapping[str, ExperimentResult | ExperimentSkip]:
        """Answer each market from the newest line of it that was received in time; one that has none is skipped.

        Raises:
            SubmissionDamaged: a submission that counts is not the one that was sealed.
        """
        run = contexts[markets[0].market_id].run
        answers: dict[str, ExperimentResult | ExperimentSkip] = {}
        unanswered = {market.market_id: market for market in markets if len(market.contracts) == 2}
        reason = "no submission was received in time"
        for submission, seal in self._newest_first(RunKey(run.run_date, run.window_days)):
            if not unanswered:
                break
            if submission.snapshot_hash != run.snapshot_hash:
                reason = "what was received answers to another snapshot, and has to be handed in again"
                continue
            if not run.captured_at <= submission.received_at <= deadline(run.captured_at):
                continue
            reason = NO_LINE
            for line in submission.forecasts:
                market = unanswered.get(line.market_id)
                if market is not None and submission.received_at < market.close_time:
                    answers[line.market_id] = _answer(line, seal, submission.received_at)
                    del unanswered[line.market_id]
        return {market.market_id: answers.get(market.market_id, ExperimentSkip(reason)) for market in markets}

    def _newest_first(self, key: RunKey) -> Iterator[tuple[Submission, str]]:
        inbox = self.inbox
        for name in reversed(inbox.names(key, self.name)):
            yield inbox.sealed(name)


def _answer(line: SubmittedForecast, seal: str, received_at: datetime) -> ExperimentResult:
    said = {} if line.rationale is None else {"rationale": line.rationale}
    return ExperimentResult.binary(line.probability, payload={"submission": seal} | said, made_at=received_at)
