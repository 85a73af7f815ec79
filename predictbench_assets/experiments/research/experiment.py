"""The research experiment: it searches once about a market or an event, and keeps what may be used."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final, Literal

import msgspec

from predictbench_assets.experiments.model_calls.allowance import Allowance
from predictbench_assets.experiments.model_calls.desk import NoAnswer
from predictbench_assets.experiments.model_calls.records import CallRequest
from predictbench_assets.experiments.protocol import (
    Estimate,
    Experiment,
    ExperimentResult,
    ExperimentSkip,
    PipelineContext,
    Prerequisite,
    RetriableError,
    RunMetadata,
    Usage,
)
from predictbench_assets.experiments.research.denied import denied_sites
from predictbench_assets.experiments.research.leaks import KeptSource, Sifted, sifted
from predictbench_assets.experiments.research.queries import queries
from predictbench_assets.experiments.research.search import Search, SearchClient, Source
from predictbench_assets.markets.market import Market
from predictbench_assets.runs import FREEZE_WINDOW_HOURS

RULES: Final = "1"
"""Version of the rules by which queries are made and sources are sifted; a part of the configuration."""

_DEADLINE_S: Final = 60.0
_CONNECTIONS: Final = 64


class ResearchExperiment(Experiment):
    """Gathers sources for those that require it; it gives no forecast.

    Args:
        client: the service.
        unit: one search for each market, or for each event.
        queries: searches of a unit at the most.
        sources: sources of a search at the most.
        characters: of all sources' texts together that are handed on.
        usd_per_search: the most that one costs; None where no price is known.
        allowance: the most that all may take.
    """

    version = "1"
    description = "Sources about each market, kept clear of what tells a price, for those that require it."
    information = "search_blind"
    forecasts = False
    timeout_seconds = 86_400.0  # each search has a deadline; a limit of requests may hold them up for hours

    def __init__(
        self,
        client: SearchClient,
        *,
        unit: Literal["market", "event"] = "event",
        queries: int = 1,
        sources: int = 8,
        characters: int = 12_000,
        usd_per_search: Decimal | None = None,
        allowance: Allowance | None = None,
    ) -> None:
        self.unit = unit
        self.allowance = allowance
        self._client = client
        self._queries, self._sources, self._characters = queries, sources, characters
        self._usd = usd_per_search
        self._denied = denied_sites()

    @property
    def config(self) -> Mapping[str, Any]:
        """The service, how much is searched and handed on, and the list of denied sites by its hash."""
        return {
            "service": self._client.name,
            "unit": self.unit,
            "queries": self._queries,
            "sources": self._sources,
            "characters": self._characters,
            "denied_sha256": self._denied.sha256,
            "rules": RULES,
        }

    @asynccontextmanager
    async def opened(self, run: RunMetadata) -> AsyncIterator[None]:  # noqa: ARG002 - the protocol's
        """Keep one client open for all searches of the run."""
        async with self._client.opened(self.max_concurrency or _CONNECTIONS):
            yield

    def prerequisites(self) -> Iterator[Prerequisite]:
        """The service's, and the price of a search."""
        yield from self._client.prerequisites()
        if self._usd is None:
            found = "no price of a search is given, so no budget in dollars can hold it"
            yield Prerequisite(found, "warn", "add usd_per_search to its table (docs/research.md)")

    def estimate(self, markets: Sequence[Market]) -> Estimate | None:
        """The price of the searches; known where the price of one is."""
        if self._usd is None:
            return None
        of_events = self.unit == "event"
        units = {(one.event.event_id, "") if of_events and one.event else ("", one.market_id) for one in markets}
        cost = self._usd * self._queries * len(units)
        return Estimate(expected=cost, at_most=cost)

    async def run(self, market: Market, context: PipelineContext) -> ExperimentResult:
        """Gather the sources of one market.

        Raises:
            ExperimentSkip, RetriableError, NoAnswer: no search was answered.
        """
        return await self._gathered([market], context)

    async def run_event(
        self, markets: Sequence[Market], contexts: Mapping[str, PipelineContext]
    ) -> Mapping[str, ExperimentResult | ExperimentSkip]:
        """Gather the sources of an event once; its markets get the same, and the first one the usage.

        Raises:
            ExperimentSkip, RetriableError, NoAnswer: as `run`.
        """
        first = markets[0]
        try:
            found = await self._gathered(markets, contexts[first.market_id])
        except (ExperimentSkip, RetriableError, NoAnswer) as error:
            if len(markets) > 1:  # each would have it; the ledger has it once
                error.usage = None
            raise
        others = found.model_copy(update={"usage": None})
        return {market.market_id: found if market is first else others for market in markets}

    async def _gathered(self, markets: Sequence[Market], context: PipelineContext) -> ExperimentResult:
        event = markets[0].event
        until = context.run.as_of + timedelta(hours=FREEZE_WINDOW_HOURS)
        texts = queries(event.title if event else None, [one.question for one in markets], self._queries, self._denied)
        if not texts:
            raise ExperimentSkip("nothing to search for: the question is empty without the names of markets")
        about_event = event.event_id if self.unit == "event" and event else None
        asked = (self._asked(text, until, about_event, context) for text in texts)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, NoAnswer):
                raise answer
        if errors := [answer for answer in answers if isinstance(answer, NoAnswer)]:
            if len(errors) == len(answers):
                raise errors[0]
            context.logger.warning("a search of several gave no answer: %s", errors[0])
        sources = [source for answer in answers if not isinstance(answer, BaseException) for source in answer]
        now = context.clock.now()
        found = await asyncio.to_thread(sifted, sources, until=until, now=now, denied=self._denied)
        usage: Usage | None = context.calls.usage("event" if about_event else "market", about_event)
        return ExperimentResult(
            payload={"queries": texts, "sources": handed_on(found.kept, self._characters)},
            artifact_uri=await asyncio.to_thread(context.artifact, "sources.json", kept_whole(texts, found)),
            diagnostics={
                "found": len(sources),
                "kept": len(found.kept),
                "dropped": found.dropped,
                "sentences_dropped": found.sentences,
                "searches_without_answer": len(errors),
            },
            usage=usage,
        )

    async def _asked(
        self, text: str, until: datetime, about_event: str | None, context: PipelineContext
    ) -> Sequence[Source]:
        """The sources that a query finds.

        Raises:
            ExperimentSkip, RetriableError, NoAnswer: there was no answer, or none of use.
        """
        search = Search(text, not_after=until, exclude=self._denied.hosts, limit=self._sources)
        content = self._client.content(search)
        request = CallRequest(
            provider=self._client.name,
            model="search",
            content=content,
            unit="event" if about_event else "market",
            unit_id=about_event,
            reserved_tokens=0,
            reserved_cost=self._usd,
            price_table=None if self._usd is None else "usd_per_search",
            deadline_s=_DEADLINE_S,
        )
        reply = await context.calls.ask(request, lambda: self._client.send(content, context.clock, request.deadline_s))
        if reply.status != "answered":
            error = NoAnswer(f"{reply.status}: {reply.reason}")
            error.usage = context.calls.usage(request.unit, about_event)
            raise error
        return self._client.sources(reply.response, reply.answered_at)


def handed_on(kept: Sequence[KeptSource], characters: int) -> list[dict[str, Any]]:
    """The sources as forecasters are given them: what one leaves of its even share, the next ones get.

    Args:
        kept: the sources, best first.
        characters: of all texts together.
    """
    given, left = [], characters
    for number, one in enumerate(kept):
        text = one.text[: left // (len(kept) - number)]
        left -= len(text)
        published = one.source.published_at
        given.append(
            {
                "url": one.source.url,
                "title": one.title,
                "published": None if published is None else published.isoformat(),
                "sha256": one.source.sha256,
                "text": text,
            }
        )
    return given


def kept_whole(texts: Sequence[str], found: Sifted) -> bytes:
    """The artifact: every source with its whole text, and why it is used or not, as JSON."""
    kept = [{"used": True, "layer": None, **msgspec.to_builtins(one.source)} for one in found.kept]
    refused = [{"used": False, "layer": layer, **msgspec.to_builtins(one)} for one, layer in found.refused]
    return msgspec.json.encode({"queries": texts, "sources": [*kept, *refused]})
