"""The hidden processes: reproducible in any order, martingales, and settled by what they end at."""

import math
import statistics
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictbench_assets.sandbox.latent import STEPS, Band, Deadline, brownian, mixed, uniform, waiting_time

DAY = 86_400
keys = st.integers(0, 2**64 - 1)


@given(keys, st.integers(0, STEPS))
def test_a_path_is_the_same_in_whatever_order_it_is_read(key: int, step: int) -> None:
    first = brownian.__wrapped__(key, step)
    brownian.__wrapped__(key, STEPS)
    assert brownian.__wrapped__(key, step) == first
    assert brownian.__wrapped__(key, 0) == 0.0


@pytest.mark.parametrize("step", [1, 3, 512, 2048, 3000, STEPS])
def test_a_path_has_the_variance_of_its_time(step: int) -> None:
    values = [brownian(mixed(key), step) for key in range(3000)]
    assert statistics.fmean(values) == pytest.approx(0, abs=4 * math.sqrt(step / STEPS / 3000))
    assert statistics.pvariance(values) == pytest.approx(step / STEPS, rel=0.12)


def test_increments_of_a_path_do_not_depend_on_what_came_before() -> None:
    pairs = [(brownian(mixed(key), 1024), brownian(mixed(key), 3072)) for key in range(3000)]
    later = [after - before for before, after in pairs]
    assert statistics.correlation([before for before, _ in pairs], later) == pytest.approx(0, abs=0.08)
    assert statistics.pvariance(later) == pytest.approx(0.5, rel=0.12)


@given(keys, st.lists(st.floats(-2.5, 2.5), min_size=1, max_size=8, unique=True), st.floats(0, 1))
def test_neighbouring_bands_sum_to_one_and_exactly_one_wins(key: int, inner: list[float], share: float) -> None:
    edges = [-math.inf, *sorted(inner), math.inf]
    bands = [Band(key, low, high, 0, 30 * DAY) for low, high in pairwise(edges)]
    assert math.fsum(band.probability(int(share * 30 * DAY)) for band in bands) == pytest.approx(1)
    assert sum(band.outcome for band in bands) == 1


@given(keys, st.floats(-2, 2), st.floats(-2, 2), st.integers(0, 31 * DAY))
def test_a_higher_level_is_never_likelier(key: int, one: float, other: float, at: int) -> None:
    low, high = sorted((one, other))
    assert Band(key, high, math.inf, 0, 30 * DAY).probability(at) <= Band(key, low, math.inf, 0, 30 * DAY).probability(
        at
    )


@given(keys, st.floats(1e-8, 1e-5), st.integers(0, 60 * DAY))
def test_a_later_deadline_is_never_less_likely(key: int, rate: float, at: int) -> None:
    happens = waiting_time(key, rate)
    ladder = [Deadline(happens, rate, 0, days * DAY) for days in (10, 17, 31)]
    chances = [deadline.probability(at) for deadline in ladder]
    assert chances == sorted(chances)
    assert [rung.outcome for rung in ladder] == sorted(rung.outcome for rung in ladder)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_price_is_the_frequency_of_what_it_prices(share: float) -> None:
    """Calibration in bins, within four standard errors; 12,000 independent markets."""
    at = int(share * 30 * DAY)
    bins: dict[int, list[tuple[float, bool]]] = {}
    for key in range(6000):
        band = Band(mixed(key, 1), 2 * uniform(key, 2) - 1, math.inf, 0, 30 * DAY)
        rate = 3e-7 * (1 + 5 * uniform(key, 3))
        deadline = Deadline(waiting_time(mixed(key, 4), rate), rate, 0, 30 * DAY)
        for latent in (band, deadline):
            price = latent.probability(at)
            bins.setdefault(min(9, int(price * 10)), []).append((price, latent.outcome))
    assert len(bins) >= 8
    for members in bins.values():
        price = statistics.fmean(price for price, _ in members)
        frequency = statistics.fmean(outcome for _, outcome in members)
        error = math.sqrt(max(price * (1 - price), 1e-3) / len(members))
        assert frequency == pytest.approx(price, abs=4 * error)
