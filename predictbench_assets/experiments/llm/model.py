"""Language and decision models alike: how a table names one, its price, and the client that a run opens once."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, Self, TypeVar

from pydantic import Field, SecretStr, field_validator, model_validator

from predictbench_assets.clock import Clock
from predictbench_assets.experiments.declared.table import Table
from predictbench_assets.experiments.model_calls.desk import CallFailed, NoAnswer, Send
from predictbench_assets.experiments.model_calls.prices import OwnPrice, Prices, PublicPrice, Tokens
from predictbench_assets.experiments.model_calls.records import CallRequest, Reply
from predictbench_assets.experiments.model_calls.servers import (
    ServerAddress,
    address_variable,
    elsewhere,
    own_addresses,
    prefix,
)
from predictbench_assets.experiments.protocol import (
    Experiment,
    PipelineContext,
    Prerequisite,
    RunMetadata,
    Usage,
    information_of,
)
from predictbench_assets.settings import Settings

if TYPE_CHECKING:  # the clients take two seconds to import: not before one is opened
    from pydantic_ai.models import Model

CONCURRENCY: Final = 64
BYTES_A_TOKEN: Final = 4
"""Bytes of English that make a token, about."""

DECISION_PROVIDERS: Final = ("openai-decisions", "google-decisions", "system-one")
"""Providers whose models decide, and write no text."""

_DEADLINE_S: Final = 120.0
_A_DAY_S: Final = 86_400.0
"""Time limit of a market's forecast: each of its calls has a deadline, and a provider's limits may take hours."""


class NotForecast(Exception):
    """No forecast came of a model's answers; the text has their reasons."""

    def __init__(self, reason: str, usage: Usage | None) -> None:
        super().__init__(reason)
        self.usage = usage


@dataclass(frozen=True)
class Reached:
    """The way to a model, by the settings: its address, key and price."""

    base_url: str | None
    """Address of a server that is not the provider's own."""
    variable: str
    """Name of the key's variable."""
    key: SecretStr | None
    price: OwnPrice | PublicPrice | None
    price_table: str | None
    clock: Clock

    def cost(self, tokens: Tokens, *, batch: bool = False) -> Decimal | None:
        """Dollars of a call; None where no price is known."""
        return cost_of(self.price, tokens, batch=batch)


class ModelTable(Table):
    """The base of the tables that name a model."""

    model: str = Field(max_length=255)
    """As pydantic-ai has it: `openai:gpt-5-mini`."""
    base_url: ServerAddress | None = None
    """Address of a server of one's own that speaks as the provider does."""
    api_key: str | None = None
    """The variable with the key; by default the provider's usual one."""
    prices: Literal["hidden", "shown"] = "hidden"
    unit: Literal["market", "event"] = "market"
    """The markets of one call; a decision model takes a neg-risk group of an event as one choice, all others alone."""
    market_data: bool = False
    """True to show the order book and the prices of the week as well, which are frozen for it."""
    knowledge_cutoff: date | None = None
    """The last day of which the model may know, as its provider says: `2026-06-30`."""
    search: bool | Literal["provider"] = False
    """True to show what a required research experiment has found."""

    @field_validator("model")
    @classmethod
    def _names_its_provider(cls, value: str) -> str:
        if not re.fullmatch(r"[a-z0-9-]+:[^\s:]\S*", value) or not value.isprintable():
            raise ValueError("expected provider:model, such as openai:gpt-5-mini, and no character that cannot be seen")
        return value

    @model_validator(mode="after")
    def _market_data_are_prices(self) -> Self:
        if self.market_data and self.prices == "hidden":
            raise ValueError('market_data are prices: add prices = "shown"')
        return self

    @model_validator(mode="after")
    def _finds_come_of_somebody(self) -> Self:
        if self.search is True and not self.requires:
            raise ValueError('search = true shows what a research experiment has found: add requires = ["ITS_NAME"]')
        return self

    @property
    def provider(self) -> str:
        """The name of the provider, as pydantic-ai has it."""
        return self.model.partition(":")[0]

    @property
    def other_server(self) -> str | None:
        """The address of the table, where that is not the provider's own."""
        return elsewhere(self.base_url, own_addresses(self.provider))

    def reached(self, settings: Settings, *, batch: bool = False) -> Reached:
        """The way to the model.

        Args:
            settings: have the variables of the provider, and the file of prices.
            batch: true to need a price of batches.

        Raises:
            ValueError: it has a budget in dollars, and its price is not known; or the variable of its address has none.
        """
        given = self.base_url or address_variable(f"{prefix(self.provider)}_BASE_URL", settings)
        base_url = elsewhere(given, own_addresses(self.provider))
        priced = Prices(settings.model_prices).price(self.model, base_url)
        price = priced[0] if priced is not None else None
        in_dollars = self.limits.usd_per_day is not None or settings.model_usd_per_day is not None
        if in_dollars and cost_of(price, Tokens(input=1, output=1), batch=batch) is None:
            budget = "usd_per_day" if self.limits.usd_per_day is not None else "MODEL_USD_PER_DAY"
            at = "" if base_url is None else f" at {base_url}"
            raise ValueError(
                f"no price is known of {'batches of ' if batch else ''}{self.model}{at}, so {budget} cannot be kept: "
                "add one to the file that MODEL_PRICES_FILE names (docs/llm.md), or take the budget off"
            )
        variable, key = _key(self.api_key, self.provider, settings)
        return Reached(base_url, variable, key, price, priced[1] if priced is not None else None, settings.clock)

    def made(self, name: str, settings: Settings) -> Experiment:
        """The experiment; the table's time limit is that of a call, and not of all that a forecast needs.

        Raises:
            ValueError: as `experiment`.
        """
        one = super().made(name, settings)
        one.timeout_seconds = _A_DAY_S
        return one


AnyTable = TypeVar("AnyTable", bound=ModelTable)


class AskedModel(Experiment, Generic[AnyTable]):
    """The base of the experiments that ask a model over the desk of paid calls.

    Args:
        table: its own words, checked.
        reached: the way to the model.
    """

    version = "1"
    _most_bytes = 8 << 20
    """Longest answer that is read; a thousand times what a forecast needs."""

    def __init__(self, table: AnyTable, reached: Reached) -> None:
        self._table, self._reached = table, reached
        self._model: Model | None = None
        self.unit = table.unit
        self.market_data = table.market_data
        self.knowledge_cutoff = table.knowledge_cutoff
        self.information = information_of(prices=table.prices == "shown", search=bool(table.search))
        seen = "the market's prices" if table.prices == "shown" else "no price"
        self.description = f"{table.model}, shown {seen}{' and sources' if table.search else ''}."
        self.max_concurrency = table.limits.concurrency or CONCURRENCY

    @asynccontextmanager
    async def opened(self, run: RunMetadata) -> AsyncIterator[None]:  # noqa: ARG002 - the protocol's
        """Open the provider's client for a run.

        Raises:
            LookupError: the key is not set.
        """
        if self._keyless:
            raise LookupError(f"{self._reached.variable} is not set: {self._table.model} cannot be asked without a key")
        async with self._client() as self._model:
            yield

    def prerequisites(self) -> Iterator[Prerequisite]:
        """The provider, the key, the price, and a server that is not the provider's own."""
        model, reached = self._table.model, self._reached
        try:
            asyncio.run(self._tried())
        except Exception as error:  # of a library, about a provider or a setting that it does not know
            yield Prerequisite(str(error), "fail", f"correct the table with model = {model!r}")
            return
        if self._keyless:
            found = f"{reached.variable} is not set, and {model} cannot be asked without a key"
            yield Prerequisite(found, "fail", f"set {reached.variable}")
        else:
            yield Prerequisite(f"{reached.variable} is {'not set' if reached.key is None else 'set'}")
        if reached.price is None:
            at = "" if reached.base_url is None else f" at {reached.base_url}"
            found = (
                f"no price is known of {model}{at}, so its cost is not counted, and no budget in dollars can hold it"
            )
            yield Prerequisite(found, "warn", "add one to the file that MODEL_PRICES_FILE names (docs/llm.md)")
        else:
            yield Prerequisite(f"its price is that of {reached.price_table}")
        if reached.base_url is not None:
            fix = f"start that server, or correct base_url or {prefix(self._table.provider)}_BASE_URL"
            yield Prerequisite(reached.base_url, fix=fix, address=reached.base_url)

    async def _tried(self) -> None:
        """Open the client and close it: nobody is asked."""
        async with self._client():
            pass

    @property
    def _keyless(self) -> bool:
        """True where the provider's own server would be asked without a key."""
        return self._reached.key is None and self._reached.base_url is None

    def _client(self) -> "AbstractAsyncContextManager[Model]":
        from predictbench_assets.experiments.llm.client import opened_model

        return opened_model(
            self._table.model,
            key=self._reached.key,
            base_url=self._reached.base_url,
            connections=self.max_concurrency or CONCURRENCY,
            most_bytes=self._most_bytes,
            chat=self._asks_by_chat,
            **self._opening,
        )

    @property
    def _opening(self) -> Mapping[str, Any]:
        """What the client has to be able to do, in `opened_model`'s words."""
        return {}

    @property
    def _asks_by_chat(self) -> bool:
        """True where a server of one's own is asked over the API that all of them have."""
        return True

    @property
    def _deadline_s(self) -> float:
        return self._table.limits.timeout_seconds or _DEADLINE_S

    def _request(
        self, content: Any, most: Tokens, *, sample: int = 0, event_id: str | None = None, batch: bool = False
    ) -> CallRequest:
        """The request about a market, or about an event, as the ledger has it."""
        reached = self._reached
        return CallRequest(
            provider=reached.base_url or self._table.provider,
            model=self._table.model,
            content=content,
            sample=sample,
            unit="market" if event_id is None else "event",
            unit_id=event_id,
            reserved_tokens=most.input + most.output,
            reserved_cost=reached.cost(most, batch=batch),
            price_table=reached.price_table,
            deadline_s=self._deadline_s,
        )

    async def _reply(self, context: PipelineContext, request: CallRequest, send: Send) -> Reply:
        """The reply to a request; for good without one, a reply with the reason.

        Raises:
            ExperimentSkip, RetriableError: as `Calls.ask`.
        """

        async def sent() -> Reply:
            try:
                return await send()
            except CallFailed as failed:
                if failed.trouble != "access":
                    raise
                look = f"check {self._reached.variable}, the account that it is of, and the name {self._table.model}"
                raise CallFailed("access", f"{failed.reason}: {look}") from failed

        try:
            return await context.calls.ask(request, sent)
        except NoAnswer as error:
            return without_answer(error, context.clock)


def without_answer(error: NoAnswer, clock: Clock) -> Reply:
    """A reply in the place of one that will not come, with the reason."""
    return Reply(status="unknown", reason=str(error), text="", answered_at=clock.now())


def cost_of(price: OwnPrice | PublicPrice | None, tokens: Tokens | None, *, batch: bool = False) -> Decimal | None:
    """Dollars of a call; None where no price is known, or no tokens are."""
    try:
        return None if price is None or tokens is None else price.cost(tokens, batch=batch)
    except LookupError:
        return None


def shares(usage: Usage | None, parts: int) -> list[Usage | None]:
    """The usage of a call for several markets as theirs: each has a like share, and the first what is left over."""
    if usage is None:
        return [None] * parts
    counts = ("requests", "input_tokens", "output_tokens", "cached_tokens")
    found: list[Usage | None] = []
    for number in range(parts):
        given: dict[str, Any] = {"seconds": usage.seconds, "model": usage.model}
        for name in counts:
            total = getattr(usage, name)
            given[name] = None if total is None else total // parts + (total % parts if number == 0 else 0)
        if usage.cost is not None:
            share = (usage.cost / parts).quantize(Decimal("1e-9"))
            given["cost"] = share if number else usage.cost - share * (parts - 1)
        found.append(Usage(**given))
    return found


def _key(variable: str | None, provider: str, settings: Settings) -> tuple[str, SecretStr | None]:
    """The name of the key's variable, and the key."""
    usual = _VARIABLES.get(prefix(provider), (f"{prefix(provider)}_API_KEY",))
    names = (variable,) if variable is not None else usual
    keys = ((name, settings.provider_variable(name)) for name in names)
    return next(((name, key) for name, key in keys if key is not None), (names[0], None))


_VARIABLES: Final = {"GOOGLE": ("GOOGLE_API_KEY", "GEMINI_API_KEY")}
