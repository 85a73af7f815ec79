"""The tables of `experiments.toml` that declare the models of this room, by their `kind`."""

from typing import Annotated

from pydantic import Field, model_validator

from predictbench_assets.experiments.declared.table import Table
from predictbench_assets.experiments.protocol import Experiment, Information
from predictbench_assets.experiments.quantitative.blend import BlendExperiment
from predictbench_assets.experiments.quantitative.book_microprice import BookMicropriceExperiment
from predictbench_assets.experiments.quantitative.declarations import FACTOR
from predictbench_assets.experiments.quantitative.ensemble import LEAST, EnsembleExperiment, Method
from predictbench_assets.experiments.quantitative.favourite_longshot import FavouriteLongshotExperiment
from predictbench_assets.experiments.quantitative.history_drift import HistoryDriftExperiment
from predictbench_assets.experiments.quantitative.recalibrated_market import RecalibratedMarketExperiment
from predictbench_assets.settings import Settings


class QuantitativeTable(Table):
    """The base of these tables: what such a model requires follows from what it is made of."""

    @model_validator(mode="after")
    def _requirements_are_its_own(self) -> "QuantitativeTable":
        if self.requires:
            raise ValueError("requires cannot be set here: what it requires follows from its kind, and from `of`")
        return self


class FavouriteLongshotTable(QuantitativeTable):
    """`kind = "favourite_longshot"`."""

    factor: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] = FACTOR
    """What log-odds of the price are multiplied by."""

    def experiment(self, name: str, settings: Settings) -> Experiment:  # noqa: ARG002 - as all tables have it
        """Make the experiment."""
        return FavouriteLongshotExperiment(self.factor)


class RecalibratedMarketTable(QuantitativeTable):
    """`kind = "recalibrated_market"`."""

    def experiment(self, name: str, settings: Settings) -> Experiment:  # noqa: ARG002 - as all tables have it
        """Make the experiment."""
        return RecalibratedMarketExperiment()


class BookMicropriceTable(QuantitativeTable):
    """`kind = "book_microprice"`."""

    levels: Annotated[int, Field(ge=1, le=10)] = 1
    """Levels of each side that are weighed; so many are frozen at most."""

    def experiment(self, name: str, settings: Settings) -> Experiment:  # noqa: ARG002 - as all tables have it
        """Make the experiment."""
        return BookMicropriceExperiment(self.levels)


class HistoryDriftTable(QuantitativeTable):
    """`kind = "history_drift"`."""

    def experiment(self, name: str, settings: Settings) -> Experiment:  # noqa: ARG002 - as all tables have it
        """Make the experiment."""
        return HistoryDriftExperiment()


class EnsembleTable(QuantitativeTable):
    """`kind = "ensemble"`."""

    of: Annotated[tuple[str, ...], Field(min_length=LEAST)]
    """Names of the members."""
    method: Method = "median"
    information: Information = "market"
    """What the ensemble may see: at least what each member may see."""

    def experiment(self, name: str, settings: Settings) -> Experiment:  # noqa: ARG002 - as all tables have it
        """Make the experiment."""
        return EnsembleExperiment(self.of, self.method, self.information)


class BlendTable(QuantitativeTable):
    """`kind = "blend"`."""

    of: Annotated[str, Field(min_length=1)]
    """Name of the experiment that is blended with the price."""
    information: Information = "market"
    """What the blend may see: prices, and what that experiment may see."""

    def experiment(self, name: str, settings: Settings) -> Experiment:  # noqa: ARG002 - as all tables have it
        """Make the experiment."""
        return BlendExperiment(self.of, self.information)
