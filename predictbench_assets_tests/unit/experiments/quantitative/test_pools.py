"""Several forecasters as one, and one beside the price."""

import math
import random
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from predictbench_assets.experiments.protocol import Experiment, ExperimentResult, SettledForecast
from predictbench_assets.experiments.quantitative import tables
from predictbench_assets.experiments.quantitative.blend import BlendExperiment, fit_price_weight
from predictbench_assets.experiments.quantitative.declarations import EDGE
from predictbench_assets.experiments.quantitative.ensemble import EnsembleExperiment, Method
from predictbench_assets.experiments.registry import Registry, RegistryError
from predictbench_assets.experiments.testing import CAPTURED_AT, make_context, make_market
from predictbench_assets.settings import Settings

PROBABILITIES = st.floats(0, 1)
NAMES = ("a", "b", "c", "d", "e")


def odds(probability: float) -> float:
    held = min(max(probability, EDGE), 1 - EDGE)
    return math.log(held / (1 - held))


def expit(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def answer(experiment: Experiment, settled: list[SettledForecast] | None = None, **said: float) -> ExperimentResult:
    market = make_market()
    required = {name: ExperimentResult.binary(one) for name, one in said.items()}
    context = make_context(required=required, settled_forecasts={"a": settled or []})
    found = experiment.run_cohort([market], {market.market_id: context})
    result = dict(found)[market.market_id]  # type: ignore[call-overload]
    assert isinstance(result, ExperimentResult)
    return result


@given(st.lists(PROBABILITIES, min_size=2, max_size=5), st.sampled_from(["median", "logit_mean"]))
def test_a_pool_lies_among_its_members_and_knows_no_order(said: list[float], method: Method) -> None:
    names = NAMES[: len(said)]
    found = answer(EnsembleExperiment(names, method), **dict(zip(names, said, strict=True)))
    held = said if method == "median" else [min(max(one, EDGE), 1 - EDGE) for one in said]
    assert min(held) - 1e-9 <= found.probability <= max(held) + 1e-9
    turned = answer(EnsembleExperiment(names, method), **dict(zip(names, reversed(said), strict=True)))
    assert turned.probability == pytest.approx(found.probability, abs=1e-12)


@given(st.lists(PROBABILITIES, min_size=3, max_size=3))
def test_they_are_the_formulae(said: list[float]) -> None:
    given_ = dict(zip("abc", said, strict=True))
    assert answer(EnsembleExperiment("abc"), **given_).probability == sorted(said)[1]
    pooled = answer(EnsembleExperiment("abc", "logit_mean"), **given_)
    assert pooled.probability == pytest.approx(expit(sum(map(odds, said)) / 3), abs=1e-12)
    assert pooled.payload["members"] == given_
    assert pooled.payload["held_at_edge"] == sum(not EDGE <= one <= 1 - EDGE for one in said)


@given(PROBABILITIES, PROBABILITIES)
def test_before_anything_has_settled_a_blend_is_nine_tenths_of_the_price(price: float, said: float) -> None:
    found = answer(BlendExperiment("a"), baseline_snapshot=price, a=said)
    assert found.probability == pytest.approx(expit(0.9 * odds(price) + 0.1 * odds(said)), abs=1e-12)
    assert (found.payload["price_weight"], found.payload["method"]) == (0.9, "prior")


def settled(count: int, weight: float, *, days: float = -1.0, start: int = 0) -> list[SettledForecast]:
    """Markets whose outcomes follow a blend with that weight of the price."""
    rng, rows = random.Random(3), []
    for number in range(start, start + count):
        price, said = rng.uniform(0.05, 0.95), rng.uniform(0.05, 0.95)
        chance = expit(weight * odds(price) + (1 - weight) * odds(said))
        at = CAPTURED_AT + timedelta(days=days)
        rows.append(SettledForecast(f"s{number}", "other", float(rng.random() < chance), price, said, {}, at))
    return rows


@pytest.mark.parametrize("weight", [0.2, 0.6, 1.0])
def test_the_weight_comes_out_as_it_was_put_in(weight: float) -> None:
    found = fit_price_weight(settled(8_000, weight))
    assert found.value == pytest.approx(weight, abs=0.06)
    assert found.settled == 8_000
    assert 0 <= found.value <= 1


def test_a_weight_stays_within_bounds_and_says_so() -> None:
    found = fit_price_weight(settled(4_000, 1.8))
    assert (found.value, found.bound) == (1.0, True)


def test_one_market_hardly_moves_the_weight() -> None:
    assert abs(fit_price_weight(settled(1, 0.0)).value - 0.9) < 0.1
    assert fit_price_weight([]).value == 0.9


def test_a_market_counts_once_and_only_with_a_price() -> None:
    rows = settled(100, 0.3)
    again = [SettledForecast(one.market_id, "x", 1.0, 0.01, 0.99, {}, CAPTURED_AT) for one in rows]
    unpriced = [SettledForecast("u", "x", 1.0, None, 0.99, {}, CAPTURED_AT)]
    assert fit_price_weight(rows + again + unpriced) == fit_price_weight(rows)


def test_what_settled_after_the_freeze_moves_nothing() -> None:
    past, future = settled(300, 0.8), settled(5_000, 0.0, days=0.1, start=1_000)
    honest = answer(BlendExperiment("a"), past, baseline_snapshot=0.3, a=0.6)
    assert answer(BlendExperiment("a"), past + future, baseline_snapshot=0.3, a=0.6) == honest
    known = settled(5_000, 0.0, start=1_000)
    assert answer(BlendExperiment("a"), past + known, baseline_snapshot=0.3, a=0.6) != honest


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: EnsembleExperiment(["a"]), "at least 2 different names"),
        (lambda: EnsembleExperiment(["a", "a"]), "at least 2 different names"),
        (lambda: EnsembleExperiment(["a", "b"], "mean"), "neither of median and logit_mean"),  # type: ignore[arg-type]
        (lambda: BlendExperiment("baseline_snapshot"), "other than baseline_snapshot"),
        (lambda: BlendExperiment(""), "not the name"),
    ],
)
def test_pools_of_nothing_are_refused(make: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        make()


@pytest.mark.parametrize(
    ("table", "keys", "config"),
    [
        (tables.FavouriteLongshotTable, {"factor": 1.2}, {"factor": 1.2}),
        (tables.RecalibratedMarketTable, {}, {"isotonic_from": 5000}),
        (tables.BookMicropriceTable, {"levels": 3}, {"levels": 3}),
        (tables.HistoryDriftTable, {}, {"prior": [0.0, 0.0]}),
        (tables.EnsembleTable, {"of": ["a", "b"], "method": "logit_mean"}, {"of": ["a", "b"], "method": "logit_mean"}),
        (tables.BlendTable, {"of": "a"}, {"of": "a"}),
    ],
)
def test_each_kind_is_made_from_its_table(table: Any, keys: dict[str, Any], config: dict[str, Any]) -> None:
    made = table(kind="any", **keys).experiment("mine", Settings())
    assert config.items() <= made.config.items()
    assert made.description
    assert "baseline_snapshot" in made.requires or made.requires == ("a", "b")


@pytest.mark.parametrize(
    ("table", "keys", "problem"),
    [
        (tables.FavouriteLongshotTable, {"factor": 0}, "factor"),
        (tables.BookMicropriceTable, {"levels": 11}, "levels"),
        (tables.EnsembleTable, {"of": ["a"]}, "of"),
        (tables.EnsembleTable, {"of": ["a", "b"], "method": "mean"}, "method"),
        (tables.EnsembleTable, {"of": ["a", "b"], "requires": ["c"]}, "requires cannot be set here"),
        (tables.BlendTable, {}, "of"),
        (tables.RecalibratedMarketTable, {"slope": 1.0}, "slope"),
    ],
)
def test_a_wrong_table_is_refused(table: Any, keys: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        table(kind="any", **keys)


def test_what_a_pool_may_see_is_held_to_what_its_members_see() -> None:
    class Searching(Experiment):
        name, version, description, information = "a", "1", "Searches.", "search"

        def run(self, market: Any, context: Any) -> ExperimentResult:
            return ExperimentResult.binary(0.5)

    from predictbench_assets.experiments.builtin.baseline import BaselineSnapshotExperiment

    base = BaselineSnapshotExperiment()
    with pytest.raises(RegistryError, match="would give that away"):
        Registry([base, Searching(), BlendExperiment("a")])
    assert len(Registry([base, Searching(), BlendExperiment("a", "search")])) == 3
