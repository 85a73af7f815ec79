"""Order book and prices of the week in the context: for those that ask, and never for one that is blind."""

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest

from predictbench_assets.experiments.outcomes import Outcome
from predictbench_assets.experiments.protocol import (
    Experiment,
    ExperimentResult,
    HistoryInTheFuture,
    PipelineContext,
    SettledForecast,
)
from predictbench_assets.experiments.registry import RegistryError, config_hash, load_registry
from predictbench_assets.experiments.testing import CAPTURED_AT, make_context, make_market
from predictbench_assets.markets.market import Market
from predictbench_assets.markets.market_data import MarketData, OrderBook

RunOver = Callable[..., list[Outcome]]

BOOK = OrderBook(CAPTURED_AT, ((0.4, 10.0), (0.39, 20.0)), ((0.42, 5.0),))
ENCODED = {
    "a": msgspec.json.encode(MarketData(market_id="a", book=BOOK, history=((CAPTURED_AT.timestamp() - 60, 0.25),))),
    "b": msgspec.json.encode(MarketData(market_id="b", no_book="there is none")),
}
MARKETS = [make_market(name) for name in ("a", "b", "c")]


class Looks(Experiment):
    """Says what it was given."""

    name = "looks"
    version = "1"
    description = "Says what it was given."
    market_data = True

    def run(self, market: Market, context: PipelineContext) -> ExperimentResult:
        """Say it."""
        book = None if context.book is None else [context.book.bids, context.book.asks]
        history = [(at.isoformat(), price) for at, price in context.price_history]
        return ExperimentResult.binary(0.5, payload={"book": book, "history": history})


class Indifferent(Looks):
    """Does not ask."""

    name = "indifferent"
    market_data = False


class Peeping(Looks):
    """Asks, and may see no price."""

    name = "peeping"
    information = "blind"


class Undecided(Looks):
    """Asks for neither or nor."""

    name = "undecided"
    market_data = "yes"  # type: ignore[assignment]


def seen(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    return {one.market_id: one.payload for one in outcomes}


def test_one_that_asks_gets_what_was_frozen_of_each_market(run_over: RunOver) -> None:
    found = seen(run_over(Looks(), MARKETS, market_data=ENCODED))
    at = (CAPTURED_AT - timedelta(seconds=60)).isoformat()
    assert found["a"] == {"book": [[[0.4, 10.0], [0.39, 20.0]], [[0.42, 5.0]]], "history": [[at, 0.25]]}
    assert found["b"] == found["c"] == {"book": None, "history": []}


@pytest.mark.parametrize("kind", [Indifferent, Peeping])
def test_one_that_does_not_ask_or_is_blind_gets_nothing(kind: type[Experiment], run_over: RunOver) -> None:
    found = seen(run_over(kind(), MARKETS, market_data=ENCODED))
    assert found == {name: {"book": None, "history": []} for name in "abc"}


@pytest.mark.parametrize(
    ("kind", "problem"),
    [(Peeping, "asks for market_data, which are prices, but its information is 'blind'"), (Undecided, "neither True")],
)
def test_a_registry_refuses_one_that_cannot_have_it(kind: type[Experiment], problem: str) -> None:
    with pytest.raises(RegistryError, match=problem):
        load_registry([f"{__name__}:{kind.__name__}"], installed=())


def test_asking_for_it_is_part_of_the_configuration_and_not_asking_changes_no_hash() -> None:
    assert config_hash(Looks()) != config_hash(Indifferent())
    # That of an experiment without configuration as it was before any could ask.
    assert config_hash(Indifferent()) == "2f5cca3d749472d1a1c0d9d91abc49fb71f69c4890181185c677410b12a63f70"


class Learns(Experiment):
    """Learns from forecasts that have settled."""

    name = "learns"
    version = "1"
    description = "Learns from forecasts that have settled."
    requires = ()
    of = "learns"

    def run_cohort(
        self, markets: Sequence[Market], contexts: Mapping[str, PipelineContext]
    ) -> Mapping[str, ExperimentResult]:
        """Say what is known."""
        known = contexts[markets[0].market_id].settled_forecasts(self.of)
        payload = {"known": [[one.market_id, one.price, one.probability] for one in known]}
        return {market.market_id: ExperimentResult.binary(0.5, payload=payload) for market in markets}


class LearnsBlindly(Learns):
    """The same without prices."""

    information = "blind"


class LearnsFromOthers(Learns):
    """Asks for forecasts of one that it does not require."""

    of = "baseline_snapshot"


def earlier(name: str, as_of: datetime) -> Iterable[SettledForecast]:
    assert (name, as_of) == ("learns", CAPTURED_AT)
    return [SettledForecast("x", "other", 1.0, 0.4, 0.7, {}, CAPTURED_AT - timedelta(days=1))]


def test_one_that_learns_is_given_its_own_forecasts_and_without_prices_if_it_is_blind(run_over: RunOver) -> None:
    [outcome] = run_over(Learns(), MARKETS[:1], settled_forecasts=earlier)
    assert outcome.payload == {"known": [["x", 0.4, 0.7]]}
    [outcome] = run_over(LearnsBlindly(), MARKETS[:1], settled_forecasts=earlier)
    assert outcome.payload == {"known": [["x", None, 0.7]]}


def test_forecasts_of_one_that_is_not_required_are_refused(run_over: RunOver) -> None:
    [outcome] = run_over(LearnsFromOthers(), MARKETS[:1], settled_forecasts=earlier)
    assert outcome.status == "failed"
    assert "learns asked for forecasts of 'baseline_snapshot', which it does not require" in str(outcome.reason)


def test_forecasts_that_settled_later_than_the_freeze_cannot_be_asked_for() -> None:
    with pytest.raises(HistoryInTheFuture):
        make_context().settled_forecasts("learns", CAPTURED_AT + timedelta(seconds=1))


class Gathers(Experiment):
    """Looks at the contexts of a cohort in every way."""

    name = "gathers"
    version = "1"
    description = "Looks at the contexts of a cohort in every way."

    def run_cohort(
        self, markets: Sequence[Market], contexts: Mapping[str, PipelineContext]
    ) -> Mapping[str, ExperimentResult]:
        """Say what was seen."""
        kept = contexts["a"]
        draws = [kept.rng.random(), contexts["a"].rng.random()]
        passing = weakref.ref(contexts["b"])
        payload = {
            "names": list(contexts),
            "same": contexts["a"] is kept,
            "draws": draws,
            "gone": passing() is None,
            "siblings": [len(one.cohort) for one in contexts.values()],
            "absent": "z" in contexts,
        }
        return {market.market_id: ExperimentResult.binary(0.5, payload=payload) for market in markets}


def test_contexts_of_a_cohort_are_made_when_they_are_looked_at_and_are_one_while_they_are_kept(
    run_over: RunOver,
) -> None:
    found = run_over(Gathers(), MARKETS)[0].payload
    assert found is not None
    assert found["names"] == ["a", "b", "c"]
    assert found["same"] is True
    assert found["draws"][0] != found["draws"][1]
    assert found["gone"] is True, "20,000 of them would take a lot of memory"
    assert found["siblings"] == [3, 3, 3]
    assert found["absent"] is False
