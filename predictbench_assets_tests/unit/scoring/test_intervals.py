"""Means and what is known about them: the formulas written out, edge cases, the bootstrap against what it estimates."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t as student_t

from predictbench_assets.scoring.forecasts import Floats, Ints
from predictbench_assets.scoring.intervals import (
    bootstrap_totals,
    clustered_mean,
    growing_means,
    percentile_interval,
)

samples = st.lists(st.tuples(st.floats(-1, 1), st.integers(0, 6), st.integers(0, 4)), min_size=1, max_size=60)


def columns(sample: list[tuple[float, int, int]]) -> tuple[Floats, Ints, Ints]:
    values, cluster, step = zip(*sample, strict=True)
    return np.array(values), np.array(cluster), np.array(step)


@given(samples)
def test_the_clustered_interval_is_the_formula(sample: list[tuple[float, int, int]]) -> None:
    values, cluster, _ = columns(sample)
    found = clustered_mean(values, cluster)
    mean = sum(values) / len(values)
    residuals = [sum(values[cluster == one] - mean) for one in sorted(set(cluster.tolist()))]
    c = len(residuals)
    assert (found.n, found.clusters) == (len(values), c)
    assert found.mean == pytest.approx(mean, abs=1e-12)
    assert found.cluster_mean == pytest.approx(
        np.mean([values[cluster == one].mean() for one in set(cluster.tolist())]), abs=1e-12
    )
    if c == 1:
        assert (found.se, found.low, found.high, found.p_value, found.minimum_detectable) == (None,) * 5
        return
    se = math.sqrt(c / (c - 1) * sum(r * r for r in residuals)) / len(values)
    assert found.se == pytest.approx(se, abs=1e-11)
    assert found.low == pytest.approx(mean - student_t.ppf(0.975, c - 1) * se, abs=1e-9)
    assert found.high == pytest.approx(mean + student_t.ppf(0.975, c - 1) * se, abs=1e-9)


def test_one_market_a_cluster_is_the_ordinary_interval() -> None:
    values = np.random.default_rng(3).normal(0.1, 1, 200)
    found = clustered_mean(values, np.arange(200))
    assert found.se == pytest.approx(values.std(ddof=1) / math.sqrt(200))
    assert found.effective_n == pytest.approx(200)
    assert found.se is not None
    assert found.minimum_detectable == pytest.approx(2.8 * found.se)
    assert found.p_value == pytest.approx(2 * student_t.sf(abs(found.mean) / found.se, 199))


def test_markets_that_say_the_same_count_once() -> None:
    values = np.random.default_rng(4).normal(size=50)
    one, five = clustered_mean(values, np.arange(50)), clustered_mean(np.repeat(values, 5), np.repeat(np.arange(50), 5))
    assert five.se == pytest.approx(one.se)
    assert five.effective_n == pytest.approx(50, rel=0.03)


def test_where_nothing_varies_nothing_is_detectable() -> None:
    same = clustered_mean(np.zeros(10), np.arange(10))
    assert (same.mean, same.se, same.low, same.high) == (0.0, 0.0, 0.0, 0.0)
    assert (same.effective_n, same.minimum_detectable, same.p_value) == (None, None, 1.0)
    assert clustered_mean(np.full(10, 0.1), np.arange(10)).p_value == 0.0
    with pytest.raises(ValueError, match="no values"):
        clustered_mean(np.empty(0), np.empty(0, np.int64))


@given(samples)
def test_growing_means_are_the_means_of_what_is_there_at_each_step(sample: list[tuple[float, int, int]]) -> None:
    values, cluster, step = columns(sample)
    means, lows, highs = growing_means(values, cluster, step, 5)
    for position in range(5):
        until = step <= position
        if not until.any():
            assert math.isnan(means[position])
            continue
        found = clustered_mean(values[until], cluster[until])
        assert means[position] == pytest.approx(found.mean, abs=1e-12)
        if found.low is None:
            assert math.isnan(lows[position])
        else:
            assert (lows[position], highs[position]) == pytest.approx((found.low, found.high), abs=1e-6)


def test_drawn_totals_have_the_mean_and_spread_of_draws_with_replacement() -> None:
    sums = np.column_stack([np.random.default_rng(5).exponential(size=400), np.ones(400)])
    totals = bootstrap_totals(sums, "key")
    assert totals.shape == (2_000, 2)
    assert (totals[:, 1] == 400).all(), "as many clusters are drawn as there are"
    assert totals[:, 0].mean() == pytest.approx(sums[:, 0].sum(), rel=0.005)
    assert totals[:, 0].std() == pytest.approx(sums[:, 0].std() * 20, rel=0.05)


def test_a_key_draws_the_same_again_and_another_one_does_not() -> None:
    sums = np.arange(60.0).reshape(30, 2)
    assert np.array_equal(bootstrap_totals(sums, "core|7|all|all"), bootstrap_totals(sums, "core|7|all|all"))
    assert np.array_equal(bootstrap_totals(sums, "a")[:, :1], bootstrap_totals(sums[:, :1], "a"))
    assert not np.array_equal(bootstrap_totals(sums, "a"), bootstrap_totals(sums, "b"))


def test_every_cluster_is_as_likely_as_the_others() -> None:
    times = bootstrap_totals(np.eye(7), "dice").sum(axis=0)
    assert times.sum() == 14_000
    assert times == pytest.approx(np.full(7, 2_000), abs=200)


def test_blocks_of_draws_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    sums = np.random.default_rng(6).random((50, 1))
    whole = bootstrap_totals(sums, "key")
    monkeypatch.setattr("predictbench_assets.scoring.intervals._CELLS_COUNTED", 130)
    monkeypatch.setattr("predictbench_assets.scoring.intervals._CELLS_MULTIPLIED", 1_700)
    np.testing.assert_allclose(bootstrap_totals(sums, "key"), whole, rtol=1e-12)


def test_a_percentile_interval_leaves_out_what_could_not_be_told() -> None:
    assert percentile_interval(np.r_[np.arange(101.0), np.nan]) == pytest.approx((2.5, 97.5))
    assert percentile_interval(np.full(3, np.nan)) is None


def test_the_bootstrap_of_a_ratio_agrees_with_the_clustered_standard_error() -> None:
    rng = np.random.default_rng(7)
    cluster = np.repeat(np.arange(300), rng.integers(1, 9, 300))
    values = rng.normal(size=len(cluster)) + rng.normal(size=300)[cluster]
    sums = np.column_stack([np.bincount(cluster, weights=values), np.bincount(cluster)])
    totals = bootstrap_totals(sums, "ratio")
    low, high = percentile_interval(totals[:, 0] / totals[:, 1]) or (0.0, 0.0)
    found = clustered_mean(values, cluster)
    assert found.low is not None
    assert found.high is not None
    assert high - low == pytest.approx(found.high - found.low, rel=0.08)
