"""The decision model as a forecaster: P(yes) of a market from one forward pass, or an event's markets as one choice."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

import msgspec
from pydantic import field_validator

from predictbench_assets.experiments.llm.model import (
    BYTES_A_TOKEN,
    DECISION_PROVIDERS,
    AskedModel,
    ModelTable,
    NotForecast,
    shares,
)
from predictbench_assets.experiments.llm.prompts import (
    DECISION_EVENT_PROMPT,
    DECISION_PROMPT,
    event_prompt,
    market_prompt,
    prompt_hash,
    shown_bytes,
    shown_sources,
    template,
)
from predictbench_assets.experiments.model_calls.prices import Tokens, most_input_tokens
from predictbench_assets.experiments.model_calls.records import CallRequest, Reply
from predictbench_assets.experiments.protocol import Estimate, ExperimentResult, ExperimentSkip, PipelineContext, Usage
from predictbench_assets.markets.market import Market
from predictbench_assets.settings import Settings

MOST_OPTIONS: Final = 255
"""Options of one choice, `NONE` among them, that the providers take."""

NONE: Final = "none"
"""The option that none of an event's markets comes true; a cohort does not tell whether it has all of a group."""


class DecisionModelTable(ModelTable):
    """The table of a decision model."""

    search: bool = False
    """True to show what a required research experiment has found."""

    @field_validator("model")
    @classmethod
    def _decides(cls, value: str) -> str:
        if value.partition(":")[0] not in DECISION_PROVIDERS:
            begins = ", ".join(f"{provider}:" for provider in DECISION_PROVIDERS)
            raise ValueError(f"{value!r} is no decision model: one begins with {begins}")
        return value

    def experiment(self, name: str, settings: Settings) -> "DecisionModel":  # noqa: ARG002 - as declared
        """Make the experiment.

        Raises:
            ValueError: it has a budget in dollars, and its price is not known; or its server is not.
        """
        reached = self.reached(settings)
        if self.provider == "system-one" and reached.base_url is None:
            raise ValueError("base_url is missing: a system-one model has no provider whose address is known")
        return DecisionModel(self, reached)


class DecisionModel(AskedModel[DecisionModelTable]):
    """A decision model that is asked for each market, or for each neg-risk group of an event."""

    @property
    def config(self) -> Mapping[str, Any]:
        """The model, and its prompts."""
        names = (DECISION_PROMPT, DECISION_EVENT_PROMPT) if self._table.unit == "event" else (DECISION_PROMPT,)
        return {
            "model": self._table.model,
            "base_url": self._table.other_server,
            "prompts": [prompt_hash(name) for name in names],
        }

    def estimate(self, markets: Sequence[Market]) -> Estimate | None:
        """Dollars of asking about some markets; None where no price is known."""
        groups, alone = _grouped(markets) if self._table.unit == "event" else ([], list(markets))
        expected = at_most = Decimal(0)
        units = [*((DECISION_EVENT_PROMPT, group) for group in groups), *((DECISION_PROMPT, [one]) for one in alone)]
        for prompt, unit in units:
            text = len(template(prompt)) + sum(shown_bytes(market) for market in unit)
            usual = self._reached.cost(Tokens(input=text // BYTES_A_TOKEN, output=0))
            dearest = self._reached.cost(Tokens(input=most_input_tokens(text), output=0))
            if usual is None or dearest is None:
                return None
            expected, at_most = expected + usual, at_most + dearest
        return Estimate(expected, at_most)

    async def run(self, market: Market, context: PipelineContext) -> ExperimentResult:
        """Ask for the probability of the market's first outcome.

        Raises:
            NotForecast: the answer is refused, or none.
        """
        if len(market.contracts) != 2:
            raise ExperimentSkip(f"{len(market.contracts)} outcomes, and the model is asked about two")
        instructions, state = market_prompt(market, context, prices=self._shown, name=DECISION_PROMPT)
        reply = await self._decided(context, self._request_of(instructions, state, None))
        usage = context.calls.usage()
        (probability,) = _probabilities(reply, usage).values()
        return self._result(probability, DECISION_PROMPT, context, usage)

    async def run_event(
        self, markets: Sequence[Market], contexts: Mapping[str, PipelineContext]
    ) -> Mapping[str, ExperimentResult | Exception]:
        """Ask about each neg-risk group of an event as one choice, and about the other markets one by one."""
        groups, alone = _grouped(markets)
        answers: dict[str, ExperimentResult | Exception] = {}
        for group in groups:
            answers |= await self._chosen(str(group[0].neg_risk_market_id), group, contexts)
        for market in alone:
            try:
                answers[market.market_id] = await self.run(market, contexts[market.market_id])
            except Exception as error:  # its trouble is that market's alone
                answers[market.market_id] = error
        return answers

    async def _chosen(
        self, group_id: str, group: Sequence[Market], contexts: Mapping[str, PipelineContext]
    ) -> dict[str, ExperimentResult | Exception]:
        """The answers for a neg-risk group, of which one market at most comes true."""
        if len(group) >= MOST_OPTIONS:
            reason = f"{len(group)} markets in one group, and a choice has at most {MOST_OPTIONS - 1} and {NONE!r}"
            return {market.market_id: ExperimentSkip(reason) for market in group}
        first = contexts[group[0].market_id]
        instructions, state = event_prompt(group, contexts, prices=self._shown, name=DECISION_EVENT_PROMPT)
        # Texts of markets stay within the fence: an option has the number of its question and nothing else.
        options = {str(number): f"Question {number}" for number in range(1, len(group) + 1)} | {NONE: "None of them"}
        try:
            reply = await self._decided(first, self._request_of(instructions, state, options, group_id))
            parts = shares(first.calls.usage("event", group_id), len(group))
            probabilities = _probabilities(reply, None)
        except NotForecast as error:
            parts = shares(first.calls.usage("event", group_id), len(group))
            return {
                market.market_id: NotForecast(str(error), usage) for market, usage in zip(group, parts, strict=True)
            }
        except Exception as error:  # of this group alone
            return {market.market_id: error for market in group}
        return {
            market.market_id: self._result(
                probabilities[str(number)],
                DECISION_EVENT_PROMPT,
                contexts[market.market_id],
                usage,
                none_of_them=probabilities[NONE],
            )
            for number, (market, usage) in enumerate(zip(group, parts, strict=True), start=1)
        }

    @property
    def _shown(self) -> bool:
        return self._table.prices == "shown"

    def _request_of(
        self, instructions: str, state: str, options: Mapping[str, str] | None, group_id: str | None = None
    ) -> CallRequest:
        content = {"instructions": instructions, "state": state, "options": options}
        most = Tokens(input=most_input_tokens(len(f"{instructions}{state}{options or ''}".encode())), output=0)
        return self._request(content, most, event_id=group_id)

    async def _decided(self, context: PipelineContext, request: CallRequest) -> Reply:
        """The reply of the model; for good without one, a reply with the reason."""
        return await self._reply(context, request, lambda: self._send(request))

    async def _send(self, request: CallRequest) -> Reply:
        from predictbench_assets.experiments.llm.decisions import decide

        assert self._model is not None
        return await decide(self._model, request.content, deadline_s=self._deadline_s, reached=self._reached)

    @staticmethod
    def _result(
        probability: float, prompt: str, context: PipelineContext, usage: Usage | None, **further: float
    ) -> ExperimentResult:
        sources = shown_sources(context)
        payload = {"prompt": prompt, **further, **({"sources": sources} if sources else {})}
        return ExperimentResult.binary(probability, payload=payload, usage=usage)


def _grouped(markets: Sequence[Market]) -> tuple[list[list[Market]], list[Market]]:
    """The neg-risk groups of which there are several markets, and the markets that are of none."""
    groups: dict[str, list[Market]] = {}
    alone = []
    for market in markets:
        if market.neg_risk and market.neg_risk_market_id is not None and len(market.contracts) == 2:
            groups.setdefault(market.neg_risk_market_id, []).append(market)
        else:
            alone.append(market)
    alone += [market for group in groups.values() if len(group) == 1 for market in group]
    return [group for group in groups.values() if len(group) > 1], alone


def _probabilities(reply: Reply, usage: Usage | None) -> dict[str, float]:
    """The probabilities of a reply, by option.

    Raises:
        NotForecast: it has none.
    """
    if reply.status != "answered":
        raise NotForecast(reply.reason or reply.status, usage)
    return msgspec.json.decode(reply.text, type=dict[str, float])
