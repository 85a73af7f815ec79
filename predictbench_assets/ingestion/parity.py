"""Comparison of a reconstructed day with the same day as it was captured: what a reconstruction loses."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Final

from pydantic import BaseModel, ConfigDict, computed_field

from predictbench_assets.exchanges.exchange import NO_PRICE
from predictbench_assets.markets.market import Market

MISSING_LIMIT: Final = 0.02
"""Tolerated share of captured markets that a reconstruction misses for another cause than `NO_PRICE`; ends that are
moved later account for 0.3 to 0.5 %, and a postponed tournament for more."""
FEW: Final = 5
"""So many markets are tolerated in any case: a share of a small cohort says little."""
NO_PRICE_LIMIT: Final = 0.10
"""Tolerated share of captured markets with a good price that a reconstruction misses for `NO_PRICE`. A market without
orders has no price to miss. Nobody has published this share: at most 7 % in the sandbox."""
TOO_MANY_LIMIT: Final = 0.02
"""Tolerated share of reconstructed markets that the capture has not."""
MEDIAN_LIMIT: Final = 0.005
"""Tolerated median difference of a good price, in probability: half a tick of one cent."""
P99_LIMIT: Final = 0.03
"""Tolerated 99th percentile of the differences of good prices; 0.013 within five minutes of the history's point."""
CHANGED_LIMIT: Final = 0.05
"""Tolerated share of markets whose question, description or end is another one: 0.6, 1.3 and 0.5 % were seen."""


class PriceDifferences(BaseModel):
    """Absolute differences of the prices of some markets, in probability; None where there is no market."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    markets: int
    median: float | None
    p90: float | None
    p99: float | None


class Parity(BaseModel):
    """Markets and prices of a reconstruction beside those of the capture."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    captured: int
    reconstructed: int
    both: int
    missing: dict[str, int]
    """Captured markets that the reconstruction lacks, by cause, the most frequent first."""
    missing_good: dict[str, int]
    """Those of them with a good price."""
    too_many: dict[str, int]
    """Reconstructed markets that the capture lacks, by cause."""
    good_prices: PriceDifferences
    """Of markets whose captured price is `good`."""
    prices: PriceDifferences
    """Of all markets with two prices."""
    changed: dict[str, int]
    """Markets in both whose question, description, end, category or cluster differs; a cluster differs where the market
    has other mates among the markets in both."""

    @computed_field  # type: ignore[prop-decorator]
    @property
    def beyond(self) -> tuple[str, ...]:
        """What exceeds its tolerance, a sentence each."""
        lost = sum(self.missing.values()) - self.missing.get(NO_PRICE, 0)
        captured_good = self.good_prices.markets + sum(self.missing_good.values())
        shares = (
            ("markets missing", lost, self.captured, MISSING_LIMIT),
            ("good prices missing", self.missing_good.get(NO_PRICE, 0), captured_good, NO_PRICE_LIMIT),
            ("markets too many", sum(self.too_many.values()), self.reconstructed, TOO_MANY_LIMIT),
            *((f"{name}s changed", self.changed.get(name, 0), self.both, CHANGED_LIMIT) for name in _LIMITED),
        )
        found = [
            f"{count / of:.1%} {what}, of {limit:.0%} that are tolerated"
            for what, count, of, limit in shares
            if count > max(FEW, limit * of)
        ]
        for name, value, limit in (
            ("median", self.good_prices.median, MEDIAN_LIMIT),
            ("99th percentile", self.good_prices.p99, P99_LIMIT),
        ):
            if value is not None and value > limit:
                found.append(f"a {name} difference of good prices of {value:.4f}, of {limit} that is tolerated")
        return tuple(found)


def compare(
    captured: Sequence[Market],
    reconstructed: Sequence[Market],
    *,
    seen: Set[str],
    why_missing: Mapping[str, str],
) -> Parity:
    """The differences between two cohorts of one day.

    Args:
        seen: ids of all rows that were captured, those that made no market of the cohort included.
        why_missing: causes, by market id, of captured markets that were not reconstructed.
    """
    before = {market.market_id: market for market in captured}
    after = {market.market_id: market for market in reconstructed}
    pairs = [(market, after[market_id]) for market_id, market in before.items() if market_id in after]
    missing = [market for market_id, market in before.items() if market_id not in after]
    return Parity(
        captured=len(before),
        reconstructed=len(after),
        both=len(pairs),
        missing=_counts(why_missing.get(one.market_id, "not looked up") for one in missing),
        missing_good=_counts(
            why_missing.get(one.market_id, "not looked up") for one in missing if one.price.quality == "good"
        ),
        too_many=_counts(
            "left out when captured" if market_id in seen else "not listed when captured"
            for market_id in after
            if market_id not in before
        ),
        good_prices=_differences([pair for pair in pairs if pair[0].price.quality == "good"]),
        prices=_differences(pairs),
        changed=_changed(pairs),
    )


_Pair = tuple[Market, Market]
_LIMITED: Final = ("question", "description", "end")


def _counts(causes: Iterable[str]) -> dict[str, int]:
    return dict(Counter(causes).most_common())


def _differences(pairs: Sequence[_Pair]) -> PriceDifferences:
    found = sorted(
        abs(before.price.value - after.price.value)
        for before, after in pairs
        if before.price.value is not None and after.price.value is not None
    )

    def percentile(percent: int) -> float | None:
        # The nearest rank: a difference that was seen.
        return round(found[math.ceil(percent * len(found) / 100) - 1], 6) if found else None

    return PriceDifferences(markets=len(found), median=percentile(50), p90=percentile(90), p99=percentile(99))


def _changed(pairs: Sequence[_Pair]) -> dict[str, int]:
    # A cluster's label depends on markets that only one side has; what matters is who shares it.
    labels = [(before.cluster, after.cluster) for before, after in pairs]
    sizes, befores, afters = Counter(labels), Counter(one for one, _ in labels), Counter(one for _, one in labels)
    counts = {
        "question": sum(before.question != after.question for before, after in pairs),
        "description": sum(before.description != after.description for before, after in pairs),
        "end": sum(before.close_time != after.close_time for before, after in pairs),
        "category": sum(before.category != after.category for before, after in pairs),
        "cluster": sum(not sizes[both] == befores[both[0]] == afters[both[1]] for both in labels),
    }
    return {name: count for name, count in counts.items() if count}
