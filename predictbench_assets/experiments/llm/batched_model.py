"""The language model that is asked by batches: all questions of a cohort in one run, their answers in a later one."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, time, timedelta
from typing import Final

from predictbench_assets.experiments.llm.language_model import LanguageModel, LanguageModelTable, Question, by_event
from predictbench_assets.experiments.llm.model import Reached, shares, without_answer
from predictbench_assets.experiments.model_calls.batches import Batches, BatchItem, BatchPlan
from predictbench_assets.experiments.model_calls.desk import NoAnswer
from predictbench_assets.experiments.model_calls.records import Reply
from predictbench_assets.experiments.protocol import (
    ExperimentResult,
    ExperimentSkip,
    PipelineContext,
    RetriableError,
    RunMetadata,
    Usage,
)
from predictbench_assets.markets.market import Market

MARGIN: Final = timedelta(hours=2)
"""Time between the deadline of a batch and the end of the day: for cancelling, asking live, and storing."""


class BatchedLanguageModel(LanguageModel):
    """A language model whose questions go to the provider as a batch, at half the price."""

    _most_bytes = 1 << 30
    """Longest file of results that is read."""

    def __init__(self, table: LanguageModelTable, reached: Reached) -> None:
        super().__init__(table, reached)
        self.unit, self.trial_unit = "cohort", table.unit
        self.description = f"{self.description} By batches."

    @property
    def _asks_by_chat(self) -> bool:
        """OpenAI's batches are those of its Responses, also at a server of one's own."""
        return False

    async def run_cohort(
        self, markets: Sequence[Market], contexts: Mapping[str, PipelineContext]
    ) -> Mapping[str, ExperimentResult | Exception]:
        """Collect what was submitted, submit what was not, those of the core first; a market's trouble is its own.

        Raises:
            ExperimentSkip: this run makes no paid calls.
        """
        from predictbench_assets.experiments.llm.batch import ProviderBatches

        assert self._model is not None
        ordered = sorted(markets, key=lambda market: not market.core)
        questions, answers = self._questions(ordered, contexts)
        items = [self._item(question, sample) for question in questions for sample in range(self._table.samples)]
        run, desk = contexts[markets[0].market_id].run, contexts[markets[0].market_id].calls.desk
        plan = BatchPlan(deadline(run, self._table.batch_deadline_hours), self._table.batch_fallback)
        given = await Batches(desk, ProviderBatches(self._model, self._reached), plan).answers(items)
        for number, question in enumerate(questions):
            start = number * self._table.samples
            answers |= self._put_together(question, given[start : start + self._table.samples], contexts)
        return answers

    def _questions(
        self, markets: Sequence[Market], contexts: Mapping[str, PipelineContext]
    ) -> tuple[list[Question], dict[str, ExperimentResult | Exception]]:
        """The questions of a cohort, and the skips of markets that there is none about."""
        questions: list[Question] = []
        answers: dict[str, ExperimentResult | Exception] = {}
        if self._table.unit == "event":
            for event in by_event(markets):
                question, skipped = self._about_event(event, contexts)
                answers |= skipped
                questions += [] if question is None else [question]
            return questions, answers
        for market in markets:
            try:
                questions.append(self._about(market, contexts[market.market_id]))
            except ExperimentSkip as skip:
                answers[market.market_id] = skip
        return questions, answers

    def _item(self, question: Question, sample: int) -> BatchItem:
        alone = self._request_of(question, sample)
        return BatchItem(
            unit_id=question.event_id or question.markets[0].market_id,
            request=self._request_of(question, sample, batch=True),
            question=question.answer,
            alone=alone,
            send=lambda: self._send(alone, question),
        )

    def _put_together(
        self, question: Question, given: Sequence[Reply | Exception], contexts: Mapping[str, PipelineContext]
    ) -> dict[str, ExperimentResult | Exception]:
        """The forecasts of a question's markets, or the reason why there are none yet."""
        first = contexts[question.markets[0].market_id]
        unit = "market" if question.event_id is None else "event"
        usage = first.calls.usage(unit, question.event_id)
        parts = shares(usage, len(question.markets))
        replies = []
        for one in given:
            if isinstance(one, NoAnswer):
                replies.append(without_answer(one, first.clock))
            elif isinstance(one, Exception):  # a sample is missing: the others wait for it
                return {
                    market.market_id: _with_usage(one, part)
                    for market, part in zip(question.markets, parts, strict=True)
                }
            else:
                replies.append(one)
        answers: dict[str, ExperimentResult | Exception] = {}
        for position, (market, part) in enumerate(zip(question.markets, parts, strict=True)):
            try:
                answers[market.market_id] = self._result(question, position, replies, contexts[market.market_id], part)
            except Exception as error:  # its trouble is that market's alone
                answers[market.market_id] = error
        return answers


def deadline(run: RunMetadata, hours: float | None) -> datetime:
    """The time until which a run waits for its batches.

    Two hours before the run's day ends, or so many hours after the freeze if that is earlier: markets may close from
    the next day on, forecasts count for a day after the freeze, and the schedule collects until the day's end.
    """
    day_ends = datetime.combine(run.run_date + timedelta(days=1), time.min, tzinfo=UTC)
    latest = day_ends - MARGIN
    return latest if hours is None else min(latest, run.as_of + timedelta(hours=hours))


def _with_usage(error: Exception, usage: Usage | None) -> Exception:
    """The reason why there is no answer yet, for one of several markets with its own usage."""
    if isinstance(error, ExperimentSkip):
        return ExperimentSkip(error.reason, retriable=error.retriable, usage=usage)
    return RetriableError(*error.args, usage=usage)
