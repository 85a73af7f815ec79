"""Beginnings: the table of a kind to be filled in, and the class with its test that `experiments new` writes."""

from collections.abc import Mapping
from typing import Final

TABLES: Final[Mapping[str, str]] = {
    "language_model": """\
model = "openai:gpt-5-mini"  # its key is OPENAI_API_KEY, in .env or in the environment
prices = "hidden"            # or "shown"
samples = 1
""",
    "decision_model": """\
model = "openai:gpt-5-mini"  # its key is OPENAI_API_KEY, in .env or in the environment
prices = "hidden"            # or "shown"
""",
    "http": """\
url = "http://127.0.0.1:8000/forecast"
""",
}
"""The lines of a kind's own, for those that need some."""

LIMITED: Final = ("language_model", "decision_model", "research")
_LIMITS: Final = """
[{name}.limits]
usd_per_day = 1.0
markets = 30                 # the core first
"""

_CLASS: Final = '''\
"""The experiment {name}."""

from predictbench_assets.experiments import Experiment, ExperimentResult, ExperimentSkip, Market, PipelineContext


class {class_name}(Experiment):
    """Say here what it does."""

    name = "{name}"
    version = "1"  # change it whenever the forecasts may change
    description = "Says what the market says."
    information = "market"  # "blind" withholds the price

    def run(self, market: Market, context: PipelineContext) -> ExperimentResult:
        """Forecast one market: the probability of its first outcome."""
        price = market.price.value
        if len(market.outcomes) != 2 or price is None:
            raise ExperimentSkip("only two-outcome markets with a price")
        return ExperimentResult.binary(price)
'''

_TEST: Final = '''\
"""Tests of the experiment {name}: python -m pytest test_{name}.py"""

import pytest
from {name} import {class_name}

from predictbench_assets.experiments import ExperimentSkip
from predictbench_assets.experiments.testing import make_context, make_market


def test_it_gives_a_probability() -> None:
    result = {class_name}().run(make_market(price=0.62), make_context())
    assert result.probability == pytest.approx(0.62)


def test_it_skips_a_market_without_a_price() -> None:
    with pytest.raises(ExperimentSkip, match="price"):
        {class_name}().run(make_market(price=None), make_context())
'''


def table_text(name: str, kind: str) -> str:
    """The lines of a new table of a kind."""
    limits = _LIMITS.format(name=name) if kind in LIMITED else ""
    return f'[{name}]\nkind = "{kind}"\nversion = "1"\n{TABLES.get(kind, "")}{limits}'


def class_name(name: str) -> str:
    """The name of the class of an experiment, such as `MyModel` for `my_model`."""
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def module_text(name: str) -> str:
    """The text of a new module with one class."""
    return _CLASS.format(name=name, class_name=class_name(name))


def test_text(name: str) -> str:
    """The text of its test."""
    return _TEST.format(name=name, class_name=class_name(name))
