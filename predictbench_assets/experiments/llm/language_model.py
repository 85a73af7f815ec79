"""The language model as a forecaster: one question and one typed answer for each sample."""

import hashlib
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from predictbench_assets.experiments.llm.answers import Answer, OutputMode
from predictbench_assets.experiments.llm.model import (
    BYTES_A_TOKEN,
    DECISION_PROVIDERS,
    AskedModel,
    ModelTable,
    NotForecast,
    shares,
)
from predictbench_assets.experiments.llm.prompts import (
    EVENT_PROMPT,
    MARKET_PROMPT,
    event_prompt,
    market_prompt,
    prompt_hash,
    shown_bytes,
    shown_sources,
    template,
)
from predictbench_assets.experiments.model_calls.prices import Tokens, most_input_tokens
from predictbench_assets.experiments.model_calls.records import CallRequest, Reply
from predictbench_assets.experiments.protocol import (
    Estimate,
    ExperimentResult,
    ExperimentSkip,
    PipelineContext,
    Usage,
)
from predictbench_assets.experiments.research.denied import denied_sites
from predictbench_assets.experiments.research.leaks import leaked
from predictbench_assets.markets.market import Market
from predictbench_assets.settings import Settings

Aggregate = Literal["mean", "median", "logit_mean"]

_BATCHES: Final = ("openai", "openai-responses", "anthropic")
"""Providers whose batches are known here; OpenAI's are of its Responses."""

_PAGES_TOKENS: Final = 10_000
"""Tokens of what one search of a provider's puts before the model."""

_EXPECTED_OUTPUT: Final = 2_500
"""Tokens of a typical answer of a model that reasons; others have about 300."""

_OURS: Final = ("max_retries", "max_tokens", "request_timeout", "timeout", "extra_headers", "seed")
"""Settings of a request that have keys of their own, or must not be set."""


class LanguageModelTable(ModelTable):
    """The table of a language model."""

    search: bool | Literal["provider"] = False
    """True to show what a required research experiment has found; `provider` to let the model search by itself."""
    max_searches: Annotated[int, Field(ge=1, le=100)] = 5
    """Searches of the provider in one call: what it is reserved at, and where the provider allows it, a limit."""
    samples: Annotated[int, Field(ge=1, le=100)] = 1
    aggregate: Aggregate = "mean"
    output: OutputMode = "native"
    max_tokens: Annotated[int, Field(ge=16, le=1_000_000)] = 8_000
    settings: Mapping[str, Any] = Field(default_factory=dict)
    """Further settings of each request, such as `temperature`."""

    batch: bool = False
    """True to ask by the provider's batches, at half the price: submitted in one run, collected in a later one."""
    batch_deadline_hours: Annotated[float, Field(gt=0, le=24)] | None = None
    """Hours after the freeze that a batch is waited for; by default, and at the most, until two before the day ends."""
    batch_fallback: Literal["ask", "skip"] = "skip"
    """What becomes then of questions without an answer: asked one by one at the full price, or skipped."""

    @field_validator("model")
    @classmethod
    def _writes(cls, value: str) -> str:
        if value.partition(":")[0] in DECISION_PROVIDERS:
            raise ValueError(f'{value!r} writes no text: write kind = "decision_model"')
        return value

    @field_validator("settings")
    @classmethod
    def _allowed(cls, value: Mapping[str, Any]) -> Mapping[str, Any]:
        if taken := sorted(set(value) & set(_OURS)):
            raise ValueError(f"{', '.join(taken)} cannot be set here")
        return value

    @model_validator(mode="after")
    def _has_batches(self) -> Self:
        if not self.batch:
            if unused := sorted({"batch_deadline_hours", "batch_fallback"} & self.model_fields_set):
                raise ValueError(f"{' and '.join(unused)} without batch = true")
        elif self.provider not in _BATCHES:
            kinds = " and ".join(f"{provider}:" for provider in _BATCHES)
            raise ValueError(f"batch = true: there are batches of {kinds} models alone, not of {self.model}")
        elif self.search == "provider":
            raise ValueError(
                "batch = true: a provider's search in batches is not known here; ask live, or require research"
            )
        return self

    def experiment(self, name: str, settings: Settings) -> "LanguageModel":  # noqa: ARG002 - as declared
        """Make the experiment.

        Raises:
            ValueError: it has a budget in dollars, and its price is not known.
        """
        if self.batch:
            from predictbench_assets.experiments.llm.batched_model import BatchedLanguageModel

            return BatchedLanguageModel(self, self.reached(settings, batch=True))
        return LanguageModel(self, self.reached(settings))


@dataclass(frozen=True)
class Question:
    """A question to the model about one market, or about the markets of an event, with the form of its answer."""

    markets: Sequence[Market]
    """Those that it is about; numbered from 1 on in an event."""
    event_id: str | None
    """The event; None for a question about one market."""
    instructions: str
    prompt: str
    answer: Answer

    def number(self, position: int) -> str:
        """The key of a market's probability in an answer, by its position."""
        return "" if self.event_id is None else str(position + 1)


class LanguageModel(AskedModel[LanguageModelTable]):
    """A language model that is asked for each market, or for each event."""

    @property
    def config(self) -> Mapping[str, Any]:
        """The model, its prompt, and the settings of a request."""
        table = self._table
        return {
            "model": table.model,
            "base_url": table.other_server,
            "prompt": prompt_hash(self._prompt),
            "output": table.output,
            "samples": table.samples,
            "aggregate": table.aggregate,
            "max_tokens": table.max_tokens,
            "settings": dict(table.settings),
            **({"search": self._searches} if self._may_search else {}),
        }

    def estimate(self, markets: Sequence[Market]) -> Estimate | None:
        """Dollars of asking about some markets; None where no price is known."""
        table, template_length = self._table, len(template(self._prompt))
        expected = at_most = Decimal(0)
        for unit in by_event(markets) if table.unit == "event" else [[market] for market in markets]:
            text = template_length + sum(shown_bytes(market) for market in unit)
            answer = Answer(range(1, len(unit) + 1) if table.unit == "event" else None)
            tokens = Tokens(input=text // BYTES_A_TOKEN, output=min(_EXPECTED_OUTPUT, table.max_tokens))
            usual = self._reached.cost(tokens, batch=table.batch)
            dearest = self._reached.cost(self._most(text, answer), batch=table.batch and table.batch_fallback == "skip")
            if usual is None or dearest is None:
                return None
            expected += table.samples * usual
            at_most += table.samples * dearest
        return Estimate(expected, at_most)

    def _most(self, size: int, answer: Answer) -> Tokens:
        """The most that a call can take whose text has so many bytes; pages that it reads are sent along."""
        size += len(json.dumps(answer.schema))
        pages = self._table.max_searches * _PAGES_TOKENS if self._may_search else 0
        searches = self._table.max_searches if self._may_search else 0
        return Tokens(input=most_input_tokens(size) + pages, output=self._table.max_tokens, searches=searches)

    @property
    def _may_search(self) -> bool:
        """True where the model searches by itself."""
        return self._table.search == "provider"

    @property
    def _asks_by_chat(self) -> bool:
        return not self._may_search

    @property
    def _searches(self) -> dict[str, Any]:
        """What it may search: all but these sites, so many times."""
        return {"denied": denied_sites().sha256, "most": self._table.max_searches}

    @property
    def _prompt(self) -> str:
        return EVENT_PROMPT if self._table.unit == "event" else MARKET_PROMPT

    @property
    def _opening(self) -> Mapping[str, Any]:
        return {"output": self._table.output, "settings": self._table.settings}

    async def run(self, market: Market, context: PipelineContext) -> ExperimentResult:
        """Ask for each sample, and put the answers together.

        Raises:
            NotForecast: fewer than half of the answers are usable.
        """
        question = self._about(market, context)
        replies = [await self._ask(context, question, sample) for sample in range(self._table.samples)]
        return self._result(question, 0, replies, context, context.calls.usage())

    async def run_event(
        self, markets: Sequence[Market], contexts: Mapping[str, PipelineContext]
    ) -> Mapping[str, ExperimentResult | ExperimentSkip]:
        """Ask for all markets of an event together; each probability is taken as the model gave it.

        Raises:
            NotForecast: fewer than half of the answers are usable.
        """
        question, answers = self._about_event(markets, contexts)
        if question is None:
            return answers
        first = contexts[question.markets[0].market_id]
        replies = [await self._ask(first, question, sample) for sample in range(self._table.samples)]
        parts = shares(first.calls.usage("event", question.event_id), len(question.markets))
        for position, (market, usage) in enumerate(zip(question.markets, parts, strict=True)):
            context = contexts[market.market_id]
            answers[market.market_id] = self._result(question, position, replies, context, usage)
        return answers

    def _about(self, market: Market, context: PipelineContext) -> Question:
        """The question about a market.

        Raises:
            ExperimentSkip: it has not two outcomes.
        """
        if len(market.contracts) != 2:
            raise ExperimentSkip(f"{len(market.contracts)} outcomes, and the model is asked about two")
        instructions, prompt = market_prompt(market, context, prices=self._table.prices == "shown")
        return Question([market], None, instructions, prompt, Answer())

    def _about_event(
        self, markets: Sequence[Market], contexts: Mapping[str, PipelineContext]
    ) -> tuple[Question | None, dict[str, ExperimentResult | ExperimentSkip]]:
        """The question about an event, if there is one to ask, and the skips of markets that it is not about."""
        asked = [market for market in markets if len(market.contracts) == 2]
        skipped = ExperimentSkip("not two outcomes, and the model is asked about two")
        answers: dict[str, ExperimentResult | ExperimentSkip] = {
            market.market_id: skipped for market in markets if len(market.contracts) != 2
        }
        if not asked:
            return None, answers
        instructions, prompt = event_prompt(asked, contexts, prices=self._table.prices == "shown")
        event_id = asked[0].event.event_id if asked[0].event is not None else asked[0].market_id
        return Question(asked, event_id, instructions, prompt, Answer(range(1, len(asked) + 1))), answers

    def _request_of(self, question: Question, sample: int, *, batch: bool = False) -> CallRequest:
        """The request for one sample of a question."""
        table = self._table
        content = {
            "instructions": question.instructions,
            "prompt": question.prompt,
            "output": table.output,
            "schema": question.answer.schema,
            "settings": {**table.settings, "max_tokens": table.max_tokens, **_seed(table, sample)},
            **({"search": self._searches} if self._may_search else {}),
        }
        most = self._most(len((question.instructions + question.prompt).encode()), question.answer)
        return self._request(content, most, sample=sample, event_id=question.event_id, batch=batch)

    async def _ask(self, context: PipelineContext, question: Question, sample: int) -> Reply:
        """The reply to one sample of a question; for good without one, a reply with the reason."""
        request = self._request_of(question, sample)
        return await self._reply(context, request, lambda: self._send(request, question))

    async def _send(self, request: CallRequest, question: Question) -> Reply:
        from predictbench_assets.experiments.llm.client import ask, provider_search

        search = None
        if self._may_search:
            most = self._table.max_searches
            search = provider_search(self._table.model, blocked=denied_sites().hosts, most=most)
        assert self._model is not None
        return await ask(
            self._model,
            request.content,
            deadline_s=self._deadline_s,
            answer=question.answer,
            search=search,
            price=self._reached.price,
            clock=self._reached.clock,
        )

    def _found(self, reply: Reply) -> list[dict[str, Any]]:
        """What the model has found by itself for an answer."""
        if not self._may_search:
            return []
        from predictbench_assets.experiments.llm.client import found_by_search

        return found_by_search(reply.response)

    def _result(
        self,
        question: Question,
        position: int,
        replies: Sequence[Reply],
        context: PipelineContext,
        usage: Usage | None,
    ) -> ExperimentResult:
        """The forecast of one of a question's markets."""
        market, number, answer = question.markets[position], question.number(position), question.answer
        read = [answer.read(reply.text) for reply in replies if reply.status == "answered"]
        reasons = [reply.reason or reply.status for reply in replies if reply.status != "answered"]
        if 2 * len(read) < len(replies) or not read:
            reason = reasons[0] if len(replies) == 1 else f"{len(reasons)} of {len(replies)} samples: {reasons[0]}"
            raise NotForecast(reason, usage)
        samples = [probabilities[number] for _, probabilities in read]
        probability = aggregated(samples, self._table.aggregate)
        if probability is None:
            raise NotForecast("samples of 0 and of 1 have no mean of their log-odds", usage)
        sources = shown_sources(context)
        read_by_model = [source for reply in replies for source in self._found(reply)]
        sources += [source for number, source in enumerate(read_by_model) if source not in read_by_model[:number]]
        shown, asked = self._table.prices == "shown", f"{market.event.title if market.event else ''} {market.question}"
        cites = any(leaked(rationale, question=asked, prices_shown=shown) for rationale, _ in read)
        cites = cites or any(denied_sites().layer(source["url"]) is not None for source in read_by_model)
        return ExperimentResult.binary(
            probability,
            payload={
                "rationale": read[0][0],
                "samples": samples,
                "spread": statistics.pstdev(samples),
                "aggregate": self._table.aggregate,
                "prompt": self._prompt,
                **({"sources": sources} if sources else {}),
                **({"leaked": True} if cites else {}),
            },
            diagnostics={"unusable_samples": reasons} if reasons else {},
            usage=usage,
            made_at=max(reply.answered_at for reply in replies if reply.status == "answered"),
        )


def aggregated(samples: Sequence[float], aggregate: Aggregate) -> float | None:
    """One probability of several; None where log-odds of both infinities are to be averaged."""
    if aggregate == "median":
        return statistics.median(samples)
    if aggregate == "mean":
        return statistics.fmean(samples)
    if 0.0 in samples or 1.0 in samples:
        certain = {sample for sample in samples if sample in (0.0, 1.0)}
        return certain.pop() if len(certain) == 1 else None
    mean = statistics.fmean(math.log(sample / (1.0 - sample)) for sample in samples)
    return 1.0 / (1.0 + math.exp(-mean))


def by_event(markets: Sequence[Market]) -> list[list[Market]]:
    """The markets of each event; one without an event is by itself."""
    events: dict[str, list[Market]] = {}
    for market in markets:
        key = market.market_id if market.event is None else f"event {market.event.event_id}"
        events.setdefault(key, []).append(market)
    return list(events.values())


def _seed(table: LanguageModelTable, sample: int) -> dict[str, int]:
    """A seed for each sample, where there are several and the provider takes one."""
    if table.samples == 1 or not table.model.startswith(("openai-chat:", "openai:")):
        return {}
    return {"seed": int.from_bytes(hashlib.sha256(f"{table.model}|{sample}".encode()).digest()[:4]) >> 1}
