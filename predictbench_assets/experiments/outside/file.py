"""An experiment whose forecasts are handed in as a file, by `predictbench submit`."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal

from predictbench_assets.experiments.declared.table import Table
from predictbench_assets.experiments.outside.inbox import Inbox, Submission
from predictbench_assets.experiments.protocol import (
    SEES,
    Experiment,
    ExperimentResult,
    ExperimentSkip,
    Information,
    PipelineContext,
    Sees,
    UnitName,
)
from predictbench_assets.markets.market import Market
from predictbench_assets.runs import FREEZE_WINDOW_HOURS, RunKey
from predictbench_assets.settings import Settings
from predictbench_assets.staging import StagingArea

NO_LINE = "the submission has no forecast of it"


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
        sees = Sees(prices=self.prices == "shown", search=self.search)
        made = FileExperiment(settings)
        made.name = name
        made.version = self.version
        made.description = self.description or f"Forecasts that are handed in: predictbench submit --as {name}."
        made.requires = self.requires
        made.information = next(word for word, seen in SEES.items() if seen == sees)
        return made


class FileExperiment(Experiment):
    """Takes the forecasts of a run from the newest submission that was received in time for each market.

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

    def run_cohort(
        self, markets: Sequence[Market], contexts: Mapping[str, PipelineContext]
    ) -> Mapping[str, ExperimentResult | ExperimentSkip]:
        """Answer each market from its line; one that has none is skipped.

        A market that had closed when the newest submission came has its forecast from the newest one before.

        Raises:
            SubmissionDamaged: the submission that counts is not the one that was sealed.
        """
        run = contexts[markets[0].market_id].run
        answers: dict[str, ExperimentResult | ExperimentSkip] = {}
        unanswered = list(markets)
        earlier_snapshot = False
        for submission, seal in self._newest_first(RunKey(run.run_date, run.window_days)):
            if submission.snapshot_hash != run.snapshot_hash:
                earlier_snapshot = True
            elif run.captured_at <= submission.received_at <= deadline(run.captured_at):
                lines = {line.market_id: line for line in submission.forecasts}
                for market in unanswered:
                    if submission.received_at >= market.close_time:
                        continue
                    line = lines.get(market.market_id)
                    if line is None or len(market.contracts) != 2:
                        answers[market.market_id] = ExperimentSkip(NO_LINE)
                        continue
                    said = {} if line.rationale is None else {"rationale": line.rationale}
                    answers[market.market_id] = ExperimentResult.binary(
                        line.probability, payload={"submission": seal} | said, made_at=submission.received_at
                    )
                unanswered = [market for market in unanswered if market.market_id not in answers]
            if not unanswered:
                return answers
        reason = "no submission was received in time"
        if earlier_snapshot:
            reason += "; those that were answer to another snapshot, and have to be handed in again"
        return answers | {market.market_id: ExperimentSkip(reason) for market in unanswered}

    def _newest_first(self, key: RunKey) -> Iterator[tuple[Submission, str]]:
        inbox = self.inbox
        for name in reversed(inbox.names(key, self.name)):
            yield inbox.sealed(name)
