"""The core sample: a few hundred markets that stand for a day of thousands, frozen with the snapshot.

Drawn in two phases, both by a keyed hash of the market's id, so that the same snapshot and seed always give the same
core, whatever the order of the rows:

1. of each cluster, at most `PER_CLUSTER` markets (they are not independent, so more of them would add little);
2. of those, a simple random sample within each stratum of category x price bin. Strata get places in proportion to the
   square root of their size, at least one each: a day that is 85 % sports leaves room for the rest, and weights stay
   moderate.

A market's weight is the inverse of the probability of passing both phases, so a weighted sum over the core estimates
the sum over all markets with a good price without bias.
"""

import heapq
import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping
from hashlib import blake2b

from predictbench_assets.markets.market import Market, PriceQuality

PRICE_BINS = (0.05, 0.20, 0.40, 0.60, 0.80, 0.95)
"""Inner edges of the price bins; a price on an edge belongs to the bin above."""

PER_CLUSTER = 5
"""The most markets of one cluster that the core may hold."""

SAMPLED_QUALITIES: frozenset[PriceQuality] = frozenset({"good", "history"})
"""Qualities of the prices that a core is drawn from. A cohort has only one of the two: a reconstructed one knows no
spread, so that all of its prices are of the second."""

Stratum = tuple[str, ...]


def price_bin(price: float) -> int:
    """Number of the bin that a price falls into: 0 below 0.05, 6 from 0.95."""
    return bisect_right(PRICE_BINS, price)


def draw_core(markets: Iterable[Market], *, size: int, seed: int) -> dict[str, float]:
    """The core sample as market id -> weight: at most `size` markets, all with a price of one of `SAMPLED_QUALITIES`.

    Fewer come back where clusters are so few that the cap leaves less.
    """
    clusters: dict[str, list[Market]] = defaultdict(list)
    for market in markets:
        if market.price.quality in SAMPLED_QUALITIES:
            clusters[market.cluster].append(market)
    if size <= 0:
        return {}
    kept: list[Market] = []
    thinned: dict[str, float] = {}
    for members in clusters.values():
        chosen = _first_by_hash(members, PER_CLUSTER, f"{seed}|cluster")
        kept.extend(chosen)
        thinned.update((market.market_id, len(members) / len(chosen)) for market in chosen)

    strata = _strata(kept, size)
    places = allocate({key: len(members) for key, members in strata.items()}, size)
    return {
        market.market_id: thinned[market.market_id] * len(members) / places[key]
        for key, members in strata.items()
        for market in _first_by_hash(members, places[key], f"{seed}|stratum")
    }


def sampling_order(markets: Iterable[Market], seed: str) -> list[Market]:
    """The markets in an order of which every beginning is a sample: the core first, then all strata by turns.

    Strata come by turns as the core's places are given, by the square roots of their sizes; within a stratum a keyed
    hash decides. The same seed always gives the same order, whatever that of `markets`.
    """
    strata: dict[Stratum, list[Market]] = defaultdict(list)
    for market in markets:
        price = market.price.value
        strata[market.category, "" if price is None else str(price_bin(price))].append(market)
    turns = [
        (not market.core, (place + 0.5) / math.sqrt(len(members)), stratum, place, market)
        for stratum, members in strata.items()
        for place, market in enumerate(_first_by_hash(members, len(members), f"{seed}|order"))
    ]
    return [market for *_, market in sorted(turns, key=lambda turn: turn[:4])]


def allocate(sizes: Mapping[Stratum, int], total: int) -> dict[Stratum, int]:
    """Places per stratum: at least one each, at most the stratum's size, `total` in all where there are so many.

    Places go one by one to the stratum that is furthest behind its share of the square roots (Sainte-Laguë), ties in
    the order of the strata. `total` must allow one place for each.
    """
    places = dict.fromkeys(sizes, 1)
    waiting = [(1.5 / math.sqrt(size), stratum) for stratum, size in sizes.items() if size > 1]
    heapq.heapify(waiting)
    for _ in range(min(total, sum(sizes.values())) - len(sizes)):
        _, stratum = heapq.heappop(waiting)
        places[stratum] += 1
        if places[stratum] < sizes[stratum]:
            heapq.heappush(waiting, ((places[stratum] + 0.5) / math.sqrt(sizes[stratum]), stratum))
    return places


def _strata(markets: list[Market], size: int) -> dict[Stratum, list[Market]]:
    """Category x price bin; coarser where there would be more strata than places, since each needs one."""
    strata: dict[Stratum, list[Market]] = {}
    for level in (2, 1, 0):
        strata = defaultdict(list)
        for market in markets:
            strata[_stratum(market)[:level]].append(market)
        if len(strata) <= size:
            break
    return strata


def _stratum(market: Market) -> tuple[str, str]:
    if market.price.value is None:
        raise ValueError(f"market {market.market_id} has a price of quality {market.price.quality} without a value")
    return market.category, str(price_bin(market.price.value))


def _first_by_hash(members: list[Market], count: int, key: str) -> list[Market]:
    def rank(market: Market) -> bytes:
        return blake2b(f"{key}|{market.market_id}".encode(), digest_size=16).digest()

    return sorted(members, key=rank)[:count]
