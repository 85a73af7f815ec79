"""The tables of `experiments.toml` for research, and for the control beside it."""

import functools
from decimal import Decimal
from typing import Annotated, Final, Literal

from pydantic import Field

from predictbench_assets.exchanges.configured import configured_exchange
from predictbench_assets.experiments.declared.table import Table
from predictbench_assets.experiments.model_calls.servers import ServerAddress, address_variable, elsewhere
from predictbench_assets.experiments.protocol import Experiment
from predictbench_assets.experiments.research.experiment import ResearchExperiment
from predictbench_assets.experiments.research.price_at_forecast import PriceAtForecastExperiment
from predictbench_assets.experiments.research.search import Exa, HttpSearch, Tavily
from predictbench_assets.markets.market import PRICE_AT_FORECAST
from predictbench_assets.settings import Settings

_SERVICES: Final[dict[str, type[HttpSearch]]] = {"exa": Exa, "tavily": Tavily}


class ResearchTable(Table):
    """Sources about each market or event, for the experiments whose tables require it."""

    service: Literal["exa", "tavily"]
    api_key: str | None = None
    """Name of the variable that holds the key; default: `EXA_API_KEY`, `TAVILY_API_KEY`."""
    base_url: ServerAddress | None = None
    """Address of the service; default: `EXA_BASE_URL`, `TAVILY_BASE_URL`, or else its own."""
    unit: Literal["market", "event"] = "event"
    queries: Annotated[int, Field(ge=1, le=5)] = 1
    """Searches about a market or an event at the most."""
    sources: Annotated[int, Field(ge=1, le=20)] = 8
    """Sources of a search."""
    characters: Annotated[int, Field(ge=500, le=200_000)] = 12_000
    """Characters of all texts together that a forecaster is given."""
    usd_per_search: Annotated[Decimal, Field(ge=0, le=1_000)] | None = None
    """Dollars of a search at the most."""

    def experiment(self, name: str, settings: Settings) -> Experiment:  # noqa: ARG002 - as declared
        """The experiment, with the key and the address of its service.

        Raises:
            ValueError: there is a budget in money and no price; or the variable of the address has none.
        """
        kind = _SERVICES[self.service]
        variable = self.api_key or f"{self.service.upper()}_API_KEY"
        key = settings.provider_variable(variable)
        given = self.base_url or address_variable(f"{self.service.upper()}_BASE_URL", settings)
        in_money = self.limits.usd_per_day is not None or settings.model_usd_per_day is not None
        if in_money and self.usd_per_search is None:
            raise ValueError(
                "usd_per_search is missing: with a budget in money (usd_per_day, MODEL_USD_PER_DAY) a search needs a "
                "price, see the service's own page"
            )
        return ResearchExperiment(
            kind((variable, key), elsewhere(given, (kind.default_url,)), self.usd_per_search),
            unit=self.unit,
            queries=self.queries,
            sources=self.sources,
            characters=self.characters,
            usd_per_search=self.usd_per_search,
        )


class PriceAtForecastTable(Table):
    """The control that asks for the price when the experiments run."""

    def experiment(self, name: str, settings: Settings) -> Experiment:
        """The control on the exchange of the settings.

        Raises:
            ValueError: it has another name, by which boards would not know it.
        """
        if name != PRICE_AT_FORECAST:
            raise ValueError(f"name the table [{PRICE_AT_FORECAST}]: boards know this control by its name")
        return PriceAtForecastExperiment(functools.partial(configured_exchange, settings))
