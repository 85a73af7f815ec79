"""Bots that were written for Metaculus with `forecasting-tools`, as experiments.

A bot is an object with the coroutine `forecast_question(question)`, which returns a report with a `prediction`. The
package is not needed here; the bot brings it along. Copy this file beside your `experiments.toml`:

    [my_bot]
    kind = "metaculus_bot:MetaculusBot"
    bot = "my_bots:make_bot"
    [my_bot.limits]
    timeout_seconds = 900
    concurrency = 4
"""

import importlib
import inspect
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from predictbench_assets.experiments import (
    Experiment,
    ExperimentResult,
    Market,
    PipelineContext,
    Usage,
)


class MetaculusBot(Experiment):
    """An experiment that hands each market to a bot as a question.

    Args:
        bot: `module:name` of a bot's class, of a function that makes one, or of a bot.
        binary: `module:Class` of a question with yes and no.
        multiple_choice: `module:Class` of a question with other outcomes.
    """

    name = "metaculus_bot"
    version = "1"
    description = "A bot written for Metaculus."
    information = "search_blind"
    timeout_seconds = 900
    max_concurrency = 4

    def __init__(
        self,
        bot: str,
        binary: str = "forecasting_tools:BinaryQuestion",
        multiple_choice: str = "forecasting_tools:MultipleChoiceQuestion",
    ) -> None:
        self.bot = bot
        made = loaded(bot)
        self._bot: Any = made() if inspect.isclass(made) or inspect.isfunction(made) else made
        if getattr(self._bot, "publish_reports_to_metaculus", False):
            raise ValueError(f"{bot} publishes its reports: make it with publish_reports_to_metaculus=False")
        self._binary, self._multiple_choice = loaded(binary), loaded(multiple_choice)

    @property
    def config(self) -> Mapping[str, Any]:
        """The bot's import path."""
        return {"bot": self.bot}

    async def run(self, market: Market, context: PipelineContext) -> ExperimentResult:
        """Forecast one market."""
        is_binary = [name.casefold() for name in market.outcomes] == ["yes", "no"]
        fields: dict[str, Any] = {
            "question_text": market.question,
            "background_info": (market.event.title if market.event else None) or "",
            "resolution_criteria": market.description,
            "fine_print": "",
            "close_time": market.close_time,
            "scheduled_resolution_time": market.close_time,
        }
        if is_binary:
            question = self._binary(**fields)
        else:
            question = self._multiple_choice(**fields, options=list(market.outcomes))
        report = await self._bot.forecast_question(question)
        payload = {"rationale": str(report.explanation)[:50_000]} if getattr(report, "explanation", None) else {}
        cost = getattr(report, "price_estimate", None)
        usage = Usage(cost=None if cost is None else Decimal(str(cost)))
        if is_binary:
            return ExperimentResult.binary(report.prediction, payload=payload, usage=usage)
        shares = {one.option_name: one.probability for one in report.prediction.predicted_options}
        if shares.keys() != set(market.outcomes):
            raise ValueError(f"the bot's options are {sorted(shares)}, those of the market {sorted(market.outcomes)}")
        probabilities = tuple(shares[name] for name in market.outcomes)
        return ExperimentResult(probabilities=probabilities, payload=payload, usage=usage)


def loaded(path: str) -> Any:
    """What `module:name` names."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)
