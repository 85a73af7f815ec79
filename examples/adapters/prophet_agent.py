"""Agents that were written for Prophet Arena, as experiments.

Two shapes are run as they are: an agent of the package `prophet-arena` (an object with `forecast(event)`, or with the
coroutine `forecast_async(event)`), and a module or object of `ai-prophet` with `predict(event: dict) -> dict`. Neither
package is needed here; the agent brings its own along. Copy this file beside your `experiments.toml`:

    [my_agent]
    kind = "prophet_agent:ProphetAgent"
    agent = "my_agents:Coin"
"""

import asyncio
import hashlib
import importlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from predictbench_assets.experiments import (
    Experiment,
    ExperimentResult,
    ExperimentSkip,
    Market,
    PipelineContext,
    RunMetadata,
)


class ProphetAgent(Experiment):
    """An experiment that hands each market to an agent.

    Args:
        agent: `module:name` of an agent's class, of a function that makes one, or of an agent; or a module with
            `predict`.
        event: `module:Class` of the events that `forecast` takes.
        prices: whether the agent is shown the price, as `crowd`.
    """

    name = "prophet_agent"
    version = "1"
    description = "An agent written for Prophet Arena."
    max_concurrency = 4

    def __init__(self, agent: str, event: str = "arena:Event", *, prices: bool = False) -> None:
        self.information = "search" if prices else "search_blind"
        self.agent = agent
        self._agent = loaded(agent)
        takes_events = hasattr(self._agent, "forecast") or hasattr(self._agent, "forecast_async")
        if not takes_events and not hasattr(self._agent, "predict"):
            raise TypeError(f"{agent} has neither forecast(event) nor predict(event)")
        self._event_class = loaded(event, make=False) if takes_events else None

    @property
    def config(self) -> Mapping[str, Any]:
        """The agent's import path."""
        return {"agent": self.agent}

    @asynccontextmanager
    async def opened(self, run: RunMetadata) -> AsyncIterator[None]:
        """Call the agent's `setup` and `teardown` around a run, where it has them."""
        await asyncio.to_thread(getattr(self._agent, "setup", lambda: None))
        try:
            yield
        finally:
            await asyncio.to_thread(getattr(self._agent, "teardown", lambda: None))

    def run(self, market: Market, context: PipelineContext) -> ExperimentResult | Awaitable[ExperimentResult]:
        """Forecast one market; an agent with a coroutine gets one."""
        if self._event_class is None:
            return as_result(self._agent.predict(as_dictionary(market)), market)
        event = self._event_class(**as_event(market))
        try:
            if inspect.iscoroutinefunction(getattr(self._agent, "forecast_async", None)):
                return self._later(event, market)
            return as_result(self._agent.forecast(event), market)
        except Exception as error:
            self._told(event, error)
            raise

    async def _later(self, event: Any, market: Market) -> ExperimentResult:
        try:
            return as_result(await self._agent.forecast_async(event), market)
        except Exception as error:
            self._told(event, error)
            raise

    def _told(self, event: Any, error: Exception) -> None:
        """Call the agent's own hook, as its arena does."""
        if hasattr(self._agent, "on_error"):
            self._agent.on_error(event, error)


def loaded(path: str, *, make: bool = True) -> Any:
    """What `module:name` names, made if it is a class or a function; a module if there is no name."""
    module, _, name = path.partition(":")
    found = importlib.import_module(module)
    if not name:
        return found
    value = getattr(found, name)
    return value() if make and (inspect.isclass(value) or inspect.isfunction(value)) else value


def made_up_id(market: Market) -> str:
    """An id for an agent; the exchange's own would lead it to the price."""
    return f"market-{hashlib.sha256(market.market_id.encode()).hexdigest()[:16]}"


def as_event(market: Market) -> dict[str, Any]:
    """The fields of the arena's event. Its outcomes are those of the market, of which one comes true."""
    prices = {contract.name: contract.price for contract in market.contracts if contract.price is not None}
    return {
        "slug": made_up_id(market),
        "title": market.question,
        "category": market.category,
        "criteria": market.description,
        "close_at": market.close_time,
        "outcomes": [{"name": name} for name in market.outcomes],
        "crowd": prices if len(prices) == len(market.outcomes) else {},
        "mutually_exclusive": True,
    }


def as_dictionary(market: Market) -> dict[str, Any]:
    """The event of `predict`, as a dictionary."""
    return {
        "event_ticker": made_up_id(market),
        "market_ticker": made_up_id(market),
        "title": market.question,
        "subtitle": market.group_item_title or "",
        "description": (market.event.title if market.event else None) or "",
        "category": market.category,
        "rules": market.description,
        "close_time": market.close_time.isoformat(),
        "outcomes": list(market.outcomes),
        "resolved_outcome": None,
    }


def as_result(given: Any, market: Market) -> ExperimentResult:
    """The agent's answer: a forecast with `probabilities`, a dictionary of them, or one with `p_yes`.

    Raises:
        ExperimentSkip: there is `p_yes` of a market with more than two outcomes.
        ValueError: the outcomes are not those of the market, or what stands there is no probability.
    """
    if isinstance(given, Mapping) and "p_yes" in given:
        if len(market.outcomes) != 2:
            raise ExperimentSkip("p_yes is of two outcomes")
        return ExperimentResult.binary(number(given["p_yes"]), payload=said(given.get("rationale")))
    plain = given if isinstance(given, Mapping) else given.probabilities
    by_name = {str(name).casefold(): number(value) for name, value in plain.items()}
    if len(by_name) < len(plain) or by_name.keys() != {name.casefold() for name in market.outcomes}:
        raise ValueError(f"the agent's outcomes are {sorted(plain)}, those of the market {sorted(market.outcomes)}")
    probabilities = tuple(by_name[name.casefold()] for name in market.outcomes)
    return ExperimentResult(probabilities=probabilities, payload=said(getattr(given, "rationale", None)))


def number(value: object) -> float:
    """A number of an answer; true and false are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} is no probability")
    return float(value)


def said(rationale: object) -> dict[str, str]:
    """The payload with what an agent says about its forecast."""
    return {"rationale": str(rationale)[:50_000]} if rationale else {}
