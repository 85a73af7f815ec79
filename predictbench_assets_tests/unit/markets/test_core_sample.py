"""The core sample: who can be in it, how it is spread, and that its weights add up."""

import random
from collections import Counter
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictbench_assets.experiments.testing import make_market
from predictbench_assets.markets.core_sample import PER_CLUSTER, PRICE_BINS, allocate, draw_core, price_bin
from predictbench_assets.markets.market import Market, MarketPrice


def market(number: int, price: float = 0.5, cluster: str = "", category: str = "sports", good: bool = True) -> Market:
    quoted = MarketPrice(value=price, quality="good" if good else "thin")
    changes = {"price": quoted, "cluster": cluster or f"market:{number}", "category": category}
    return make_market(str(number)).model_copy(update=changes)


@pytest.fixture(scope="session")
def day() -> list[Market]:
    """1,500 markets, most of them sports, in clusters of 1 to 12, a third without a good price."""
    rng = random.Random(5)
    markets: list[Market] = []
    while len(markets) < 1_500:
        category = rng.choice(["sports"] * 8 + ["politics", "crypto"])
        for _ in range(rng.randint(1, 12)):
            number = len(markets)
            cluster = f"event:{rng.randint(0, 400)}"
            markets.append(market(number, rng.random(), cluster, category, good=rng.random() < 0.67))
    return markets


def test_bins_are_those_of_the_scores() -> None:
    assert [price_bin(price) for price in (0.0, 0.049, 0.05, 0.5, 0.949, 0.95, 1.0)] == [0, 0, 1, 3, 5, 6, 6]
    assert len(PRICE_BINS) == 6


def test_only_good_prices_a_bounded_number_and_a_bounded_number_of_each_cluster(day: list[Market]) -> None:
    core = draw_core(day, size=300, seed=1)
    chosen = [market for market in day if market.market_id in core]
    assert len(core) == len(chosen) == 300
    assert all(market.price.quality == "good" for market in chosen)
    assert max(Counter(market.cluster for market in chosen).values()) <= PER_CLUSTER
    assert all(weight >= 1 for weight in core.values())


def test_a_cohort_whose_prices_are_of_a_history_has_the_core_that_good_prices_would_have(day: list[Market]) -> None:
    good = [market for market in day if market.price.quality == "good"]
    quality = {"quality": "history"}
    told = [one.model_copy(update={"price": one.price.model_copy(update=quality)}) for one in good]
    assert draw_core(told, size=300, seed=1) == draw_core(good, size=300, seed=1)


def test_it_is_the_same_for_the_same_snapshot_and_seed_and_another_for_another_seed(day: list[Market]) -> None:
    shuffled = random.Random(1).sample(day, len(day))
    assert draw_core(day, size=300, seed=1) == draw_core(shuffled, size=300, seed=1)
    assert draw_core(day, size=300, seed=1).keys() != draw_core(day, size=300, seed=2).keys()


def test_every_stratum_is_there_and_small_ones_get_more_than_their_share(day: list[Market]) -> None:
    good = [market for market in day if market.price.quality == "good"]
    core = draw_core(day, size=300, seed=1)
    strata = Counter((market.category, price_bin(market.price.value or 0)) for market in good)
    sampled = Counter(
        (market.category, price_bin(market.price.value or 0)) for market in good if market.market_id in core
    )
    assert sampled.keys() == strata.keys()
    share_of_day = sum(market.category == "sports" for market in good) / len(good)
    share_of_core = sum(count for (category, _), count in sampled.items() if category == "sports") / len(core)
    assert share_of_core < share_of_day - 0.1


def test_weighted_sums_estimate_the_day_without_bias(day: list[Market]) -> None:
    good = [market for market in day if market.price.quality == "good"]
    draws = [draw_core(day, size=300, seed=seed) for seed in range(120)]
    assert fmean(sum(core.values()) for core in draws) == pytest.approx(len(good), rel=0.01)
    price = {market.market_id: market.price.value or 0.0 for market in good}
    sports = {market.market_id for market in good if market.category == "sports"}
    totals = [sum(weight * price[id_] for id_, weight in core.items()) for core in draws]
    assert fmean(totals) == pytest.approx(sum(price.values()), rel=0.01)
    counts = [sum(weight for id_, weight in core.items() if id_ in sports) for core in draws]
    assert fmean(counts) == pytest.approx(len(sports), rel=0.01)


def test_markets_of_capped_clusters_are_neither_favoured_nor_shunned() -> None:
    crowded = [market(number, cluster=f"event:{number // 20}") for number in range(400)]
    alone = [market(number) for number in range(400, 500)]
    draws = [draw_core([*crowded, *alone], size=40, seed=seed) for seed in range(200)]
    counts = [sum(weight for id_, weight in core.items() if int(id_) < 400) for core in draws]
    assert fmean(counts) == pytest.approx(400, rel=0.03)


def test_a_small_day_is_taken_whole() -> None:
    markets = [market(number, number / 20) for number in range(20)]
    assert draw_core(markets, size=300, seed=1) == {str(number): 1.0 for number in range(20)}
    assert draw_core(markets, size=0, seed=1) == {}
    assert draw_core([], size=300, seed=1) == {}


def test_one_big_cluster_is_capped_and_weighted_up() -> None:
    core = draw_core([market(number, cluster="event:1") for number in range(20)], size=300, seed=1)
    assert list(core.values()) == [20 / PER_CLUSTER] * PER_CLUSTER


def test_fewer_places_than_strata_make_the_strata_coarser() -> None:
    markets = [
        market(10 * place + number, 0.1 * place, category=category)
        for place in range(10)
        for number, category in enumerate(["sports", "politics", "crypto"])
    ]
    for size in (1, 2, 3, 5, 12):
        core = draw_core(markets, size=size, seed=1)
        assert len(core) == size
        assert sum(core.values()) == pytest.approx(30)


@given(st.dictionaries(st.tuples(st.text(max_size=3)), st.integers(1, 50), min_size=1, max_size=8), st.integers(0, 200))
def test_places_are_all_given_and_fit(sizes: dict[tuple[str, ...], int], spare: int) -> None:
    total = len(sizes) + spare
    places = allocate(sizes, total)
    assert sum(places.values()) == min(total, sum(sizes.values()))
    assert all(1 <= places[key] <= size for key, size in sizes.items())
    for one, its_size in sizes.items():
        for other, other_size in sizes.items():
            if its_size > other_size:
                assert places[one] >= places[other] - 1
