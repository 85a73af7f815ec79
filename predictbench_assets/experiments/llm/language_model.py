"""The language model as a forecaster: one question and one typed answer for each sample."""

import hashlib
import math
import statistics
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import Field, SecretStr, field_validator

from predictbench_assets.clock import Clock
from predictbench_assets.experiments.declared.table import Table
from predictbench_assets.experiments.llm.answers import Answer, OutputMode
from predictbench_assets.experiments.llm.prompts import (
    EVENT_PROMPT,
    MARKET_PROMPT,
    event_prompt,
    market_prompt,
    prompt_hash,
    shown_characters,
    sources_of,
    template,
)
from predictbench_assets.experiments.model_calls.desk import CallFailed, NoAnswer
from predictbench_assets.experiments.model_calls.prices import (
    OwnPrice,
    Prices,
    PublicPrice,
    Tokens,
    most_input_tokens,
)
from predictbench_assets.experiments.model_calls.records import CallRequest, Reply
from predictbench_assets.experiments.protocol import (
    Estimate,
    Experiment,
    ExperimentResult,
    ExperimentSkip,
    Information,
    PipelineContext,
    RunMetadata,
    Usage,
)
from predictbench_assets.experiments.research.denied import denied_sites
from predictbench_assets.experiments.research.leaks import leaked
from predictbench_assets.markets.market import Market
from predictbench_assets.settings import Settings

if TYPE_CHECKING:  # the clients take two seconds to import: not before one is opened
    from pydantic_ai.models import Model

Aggregate = Literal["mean", "median", "logit_mean"]

_DEADLINE_S: Final = 120.0
_CONCURRENCY: Final = 64
_CHARACTERS_A_TOKEN: Final = 4
_PAGES_TOKENS: Final = 10_000
"""Tokens of what one search of a provider's puts before the model."""

_EXPECTED_OUTPUT: Final = 2_500
"""Tokens of a typical answer of a model that reasons; others have about 300."""

_A_DAY_S: Final = 86_400.0
"""Time limit of a market's forecast: each of its calls has a deadline, and a provider's limits may take hours."""

_OURS: Final = ("max_retries", "max_tokens", "request_timeout", "timeout", "extra_headers", "seed")
"""Settings of a request that have keys of their own, or must not be set."""


class NotForecast(Exception):
    """No forecast came of a model's answers; the text has their reasons."""

    def __init__(self, reason: str, usage: Usage | None) -> None:
        super().__init__(reason)
        self.usage = usage


class LanguageModelTable(Table):
    """The table of a language model."""

    model: str = Field(pattern=r"^[a-z0-9-]+:[^\s:\x00][^\s\x00]*$", max_length=255)
    """As pydantic-ai has it: `openai:gpt-5-mini`."""
    base_url: str | None = Field(None, pattern=r"^https?://[^\s?#]+$")
    """Address of a server of one's own that speaks as the provider does."""
    api_key: str | None = None
    """The variable with the key; by default the provider's usual one."""
    prices: Literal["hidden", "shown"] = "hidden"
    search: bool | Literal["provider"] = False
    """True to show what a required research experiment has found; `provider` to let the model search by itself."""
    max_searches: Annotated[int, Field(ge=1, le=100)] = 5
    """Searches of the provider in one call: what it is reserved at, and where the provider allows it, a limit."""
    unit: Literal["market", "event"] = "market"
    samples: Annotated[int, Field(ge=1, le=100)] = 1
    aggregate: Aggregate = "mean"
    output: OutputMode = "native"
    max_tokens: Annotated[int, Field(ge=16, le=1_000_000)] = 8_000
    settings: Mapping[str, Any] = Field(default_factory=dict)
    """Further settings of each request, such as `temperature`."""

    @field_validator("settings")
    @classmethod
    def _allowed(cls, value: Mapping[str, Any]) -> Mapping[str, Any]:
        if taken := sorted(set(value) & set(_OURS)):
            raise ValueError(f"{', '.join(taken)} cannot be set here")
        return value

    def experiment(self, name: str, settings: Settings) -> "LanguageModel":  # noqa: ARG002 - as declared
        """Make the experiment.

        Raises:
            ValueError: it has a budget in dollars, and its price is not known.
        """
        provider = self.model.partition(":")[0]
        base_url = self.base_url or _base_url(provider, settings)
        priced = Prices(settings.model_prices_file).price(self.model, base_url)
        if priced is None and (self.limits.usd_per_day is not None or settings.model_usd_per_day is not None):
            budget = "usd_per_day" if self.limits.usd_per_day is not None else "MODEL_USD_PER_DAY"
            at = "" if base_url is None else f" at {base_url}"
            raise ValueError(
                f"no price is known of {self.model}{at}, so {budget} cannot be kept: add one to the file that "
                "MODEL_PRICES_FILE names (docs/llm.md), or take the budget off"
            )
        return LanguageModel(self, base_url, _key(self.api_key, provider, settings), priced, settings.clock)

    def made(self, name: str, settings: Settings) -> Experiment:
        """The experiment; the table's time limit is that of a call, and not of all that a forecast needs.

        Raises:
            ValueError: as `experiment`.
        """
        one = super().made(name, settings)
        one.timeout_seconds = _A_DAY_S
        return one


class LanguageModel(Experiment):
    """A language model that is asked for each market, or for each event."""

    version = "1"

    def __init__(
        self,
        table: LanguageModelTable,
        base_url: str | None,
        key: tuple[str, SecretStr | None],
        priced: tuple[OwnPrice | PublicPrice, str] | None,
        clock: Clock,
    ) -> None:
        """Take a checked table, and what the settings say beside it.

        Args:
            table: its own words.
            base_url: address of a server that is not the provider's own.
            key: name of the key's variable, and the key.
            priced: the price, and the table that has it.
            clock: for the times of answers.
        """
        self._table, self._base_url, self._key, self._clock = table, base_url, key, clock
        self._price: OwnPrice | PublicPrice | None = priced[0] if priced is not None else None
        self._price_table = priced[1] if priced is not None else None
        self._model: Model | None = None
        self.unit = table.unit
        self.information = _information(prices=table.prices == "shown", search=bool(table.search))
        seen = "the market's prices" if table.prices == "shown" else "no price"
        self.description = f"{table.model}, shown {seen}{' and sources' if table.search else ''}."
        self.max_concurrency = table.limits.concurrency or _CONCURRENCY

    @property
    def config(self) -> Mapping[str, Any]:
        """The model, its prompt, and the settings of a request."""
        table = self._table
        return {
            "model": table.model,
            "base_url": table.base_url,
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
        if self._price is None:
            return None
        template_length = len(template(self._prompt))
        expected = at_most = Decimal(0)
        for unit in _units(markets) if self._table.unit == "event" else [[market] for market in markets]:
            text = template_length + sum(shown_characters(market) for market in unit)
            tokens = Tokens(input=text // _CHARACTERS_A_TOKEN, output=min(_EXPECTED_OUTPUT, self._table.max_tokens))
            expected += self._table.samples * self._price.cost(tokens)
            at_most += self._table.samples * self._price.cost(self._most(text))
        return Estimate(expected, at_most)

    def _most(self, size: int) -> Tokens:
        """The most that a call can take whose text has so many bytes; pages that it reads are sent along."""
        pages = self._table.max_searches * _PAGES_TOKENS if self._may_search else 0
        searches = self._table.max_searches if self._may_search else 0
        return Tokens(input=most_input_tokens(size) + pages, output=self._table.max_tokens, searches=searches)

    @property
    def _may_search(self) -> bool:
        """True where the model searches by itself."""
        return self._table.search == "provider"

    @property
    def _searches(self) -> dict[str, Any]:
        """What it may search: all but these sites, so many times."""
        return {"denied": denied_sites().sha256, "most": self._table.max_searches}

    @property
    def _prompt(self) -> str:
        return EVENT_PROMPT if self._table.unit == "event" else MARKET_PROMPT

    @asynccontextmanager
    async def opened(self, run: RunMetadata) -> AsyncIterator[None]:  # noqa: ARG002 - the protocol's
        """Open the provider's client for a run.

        Raises:
            LookupError: the key is not set.
        """
        from predictbench_assets.experiments.llm.client import opened_model

        variable, key = self._key
        if key is None and self._table.base_url is None:
            raise LookupError(f"{variable} is not set: {self._table.model} cannot be asked without a key")
        connections = self.max_concurrency or _CONCURRENCY
        async with opened_model(
            self._table.model,
            key=key,
            base_url=self._base_url,
            connections=connections,
            chat=not self._may_search,
            output=self._table.output,
            settings=self._table.settings,
        ) as self._model:
            yield

    async def run(self, market: Market, context: PipelineContext) -> ExperimentResult:
        """Ask for each sample, and put the answers together.

        Raises:
            NotForecast: fewer than half of the answers are usable.
        """
        if len(market.contracts) != 2:
            raise ExperimentSkip(f"{len(market.contracts)} outcomes, and the model is asked about two")
        instructions, prompt = market_prompt(market, context, prices=self._table.prices == "shown")
        answer = Answer()
        replies = [
            await self._ask(context, instructions, prompt, answer, sample) for sample in range(self._table.samples)
        ]
        usage = context.calls.usage()
        return self._result("", replies, answer, market, context, usage)

    async def run_event(
        self, markets: Sequence[Market], contexts: Mapping[str, PipelineContext]
    ) -> Mapping[str, ExperimentResult | ExperimentSkip]:
        """Ask for all markets of an event together; each probability is taken as the model gave it.

        Raises:
            NotForecast: fewer than half of the answers are usable.
        """
        asked = [market for market in markets if len(market.contracts) == 2]
        skipped = ExperimentSkip("not two outcomes, and the model is asked about two")
        answers: dict[str, ExperimentResult | ExperimentSkip] = {
            market.market_id: skipped for market in markets if len(market.contracts) != 2
        }
        if not asked:
            return answers
        instructions, prompt = event_prompt(asked, contexts, prices=self._table.prices == "shown")
        answer = Answer(range(1, len(asked) + 1))
        first = contexts[asked[0].market_id]
        unit_id = asked[0].event.event_id if asked[0].event is not None else asked[0].market_id
        replies = [
            await self._ask(first, instructions, prompt, answer, sample, unit_id=unit_id)
            for sample in range(self._table.samples)
        ]
        shares = _shares(first.calls.usage("event", unit_id), len(asked))
        for number, (market, usage) in enumerate(zip(asked, shares, strict=True), start=1):
            context = contexts[market.market_id]
            answers[market.market_id] = self._result(str(number), replies, answer, market, context, usage)
        return answers

    async def _ask(
        self,
        context: PipelineContext,
        instructions: str,
        prompt: str,
        answer: Answer,
        sample: int,
        unit_id: str | None = None,
    ) -> Reply:
        """The reply to one sample of a question; for good without one, a reply with the reason."""
        from predictbench_assets.experiments.llm.client import ask, provider_search

        table = self._table
        content = {
            "instructions": instructions,
            "prompt": prompt,
            "output": table.output,
            "schema": answer.schema,
            "settings": {**table.settings, "max_tokens": table.max_tokens, **_seed(table, sample)},
            **({"search": self._searches} if self._may_search else {}),
        }
        most = self._most(len((instructions + prompt).encode()))
        search = None
        if self._may_search:
            search = provider_search(table.model, blocked=denied_sites().hosts, most=table.max_searches)
        request = CallRequest(
            provider=self._base_url or table.model.partition(":")[0],
            model=table.model,
            content=content,
            sample=sample,
            unit="market" if unit_id is None else "event",
            unit_id=unit_id,
            reserved_tokens=most.input + most.output,
            reserved_cost=None if self._price is None else self._price.cost(most),
            price_table=self._price_table,
            deadline_s=self._deadline_s,
        )

        async def send() -> Reply:
            assert self._model is not None
            try:
                return await ask(
                    self._model,
                    content,
                    deadline_s=self._deadline_s,
                    answer=answer,
                    search=search,
                    price=self._price,
                    clock=context.clock,
                )
            except CallFailed as failed:
                if failed.trouble == "access":
                    look = f"check {self._key[0]}, the account that it is of, and the name {table.model}"
                    raise CallFailed("access", f"{failed.reason}: {look}") from failed
                raise

        try:
            return await context.calls.ask(request, send)
        except NoAnswer as error:
            return Reply(status="unknown", reason=str(error), text="", answered_at=context.clock.now())

    def _found(self, reply: Reply) -> list[dict[str, Any]]:
        """What the model has found by itself for an answer."""
        if not self._may_search:
            return []
        from predictbench_assets.experiments.llm.client import found_by_search

        return found_by_search(reply.response)

    @property
    def _deadline_s(self) -> float:
        return self._table.limits.timeout_seconds or _DEADLINE_S

    def _result(
        self,
        number: str,
        replies: Sequence[Reply],
        answer: Answer,
        market: Market,
        context: PipelineContext,
        usage: Usage | None,
    ) -> ExperimentResult:
        read = [answer.read(reply.text) for reply in replies if reply.status == "answered"]
        reasons = [reply.reason or reply.status for reply in replies if reply.status != "answered"]
        if 2 * len(read) < len(replies) or not read:
            reason = reasons[0] if len(replies) == 1 else f"{len(reasons)} of {len(replies)} samples: {reasons[0]}"
            raise NotForecast(reason, usage)
        samples = [probabilities[number] for _, probabilities in read]
        probability = aggregated(samples, self._table.aggregate)
        if probability is None:
            raise NotForecast("samples of 0 and of 1 have no mean of their log-odds", usage)
        sources = [
            {name: source.get(name) for name in ("url", "title", "published", "sha256")}
            for result in context.required.values()
            for source in sources_of(result.payload)
        ]
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


def _units(markets: Sequence[Market]) -> list[list[Market]]:
    """The markets of each event."""
    events: dict[str, list[Market]] = {}
    for market in markets:
        key = market.market_id if market.event is None else f"event {market.event.event_id}"
        events.setdefault(key, []).append(market)
    return list(events.values())


def _information(*, prices: bool, search: bool) -> Information:
    if search:
        return "search" if prices else "search_blind"
    return "market" if prices else "blind"


def _base_url(provider: str, settings: Settings) -> str | None:
    """The address that the provider's usual variable names."""
    url = settings.provider_variable(f"{_prefix(provider)}_BASE_URL")
    return None if url is None else url.get_secret_value()


def _key(variable: str | None, provider: str, settings: Settings) -> tuple[str, SecretStr | None]:
    """The name of the key's variable, and the key."""
    names = (variable,) if variable is not None else _VARIABLES.get(provider, (f"{_prefix(provider)}_API_KEY",))
    keys = ((name, settings.provider_variable(name)) for name in names)
    return next(((name, key) for name, key in keys if key is not None), (names[0], None))


_VARIABLES: Final = {"google": ("GOOGLE_API_KEY", "GEMINI_API_KEY")}


def _prefix(provider: str) -> str:
    """What a provider's variables begin with."""
    name = provider.removesuffix("-chat").removesuffix("-responses").removesuffix("-decisions")
    return name.upper().replace("-", "_")


def _seed(table: LanguageModelTable, sample: int) -> dict[str, int]:
    """A seed for each sample, where there are several and the provider takes one."""
    if table.samples == 1 or not table.model.startswith(("openai-chat:", "openai:")):
        return {}
    return {"seed": int.from_bytes(hashlib.sha256(f"{table.model}|{sample}".encode()).digest()[:4]) >> 1}


def _shares(usage: Usage | None, parts: int) -> list[Usage | None]:
    """The usage of a call for several markets as theirs: each has a like share, and the first what is left over."""
    if usage is None:
        return [None] * parts
    counts = ("requests", "input_tokens", "output_tokens", "cached_tokens")
    shares: list[Usage | None] = []
    for number in range(parts):
        given: dict[str, Any] = {"seconds": usage.seconds, "model": usage.model}
        for name in counts:
            total = getattr(usage, name)
            given[name] = None if total is None else total // parts + (total % parts if number == 0 else 0)
        if usage.cost is not None:
            share = (usage.cost / parts).quantize(Decimal("1e-9"))
            given["cost"] = share if number else usage.cost - share * (parts - 1)
        shares.append(Usage(**given))
    return shares
