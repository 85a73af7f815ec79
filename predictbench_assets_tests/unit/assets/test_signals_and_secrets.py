"""What leaves the block that every asset runs in, and what Dagster is told of an experiment."""

import dagster as dg
import pytest

from predictbench_assets.assets.experiments import build_experiment_assets
from predictbench_assets.assets.step import redacting
from predictbench_assets.experiments.protocol import Experiment, ExperimentResult, PipelineContext
from predictbench_assets.experiments.registry import Registry
from predictbench_assets.markets.market import Market
from predictbench_assets.settings import load_settings


def interrupted_while(cleaning_up: Exception | None) -> None:
    """A signal comes, and what is done on the way out fails as well."""
    try:
        raise dg.DagsterExecutionInterruptedError
    finally:
        if cleaning_up is not None:
            raise cleaning_up


@pytest.mark.parametrize("cleaning_up", [None, ConnectionError("the connection is closed"), ValueError()])
def test_a_signal_leaves_as_a_signal_whatever_fails_on_the_way_out(cleaning_up: Exception | None) -> None:
    with pytest.raises(dg.DagsterExecutionInterruptedError), redacting(load_settings()):
        interrupted_while(cleaning_up)


def test_an_error_that_became_another_is_no_signal() -> None:
    error = RuntimeError("no forecast")
    error.__cause__, error.__context__ = ValueError(), ConnectionError()
    with pytest.raises(RuntimeError, match="no forecast"), redacting(load_settings()):
        raise error


class Careless(Experiment):
    """Says how to log in."""

    name = "careless"
    version = "1"
    description = "Asks the model with planted-hunter22."

    def run(self, market: Market, context: PipelineContext) -> ExperimentResult:
        raise NotImplementedError


def test_a_description_is_told_without_secrets() -> None:
    settings = load_settings(polymarket_api_key="planted-hunter22")
    [asset] = build_experiment_assets(Registry([Careless()]), settings.redact)
    [description] = asset.descriptions_by_key.values()
    assert description is not None
    assert description.startswith("Asks the model with ***.")
