"""Costs of forecasts: what experiments took of models and services, run by run, and what a board makes of it.

Amounts are exact, and those of different currencies are never added to each other. What a request of unknown outcome
has cost nobody knows: it is counted at what was reserved for it, and shown apart.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Final

from predictbench_assets.scoring.boards import BoardRow, EntrantCost

USD: Final = "USD"
UNKNOWN: Final = "unknown"

TOKENS: Final = ("input", "cached", "output", "reasoning")
"""Kinds of tokens: cached ones are among the input, those of reasoning among the output."""

_DECIMALS: Final = 10


@dataclass(frozen=True)
class Cost:
    """Cost of some forecasts."""

    forecasts: int = 0
    """Markets with a forecast."""
    requests: int = 0
    calls: Mapping[str, int] = field(default_factory=dict)
    """Requests by status, of those that the ledger of paid calls has."""
    settled: Mapping[str, Decimal] = field(default_factory=dict)
    """Amounts by currency; no entry where no price is known."""
    reserved: Decimal = Decimal(0)
    """USD that the requests of unknown outcome are counted at."""
    unpriced: int = 0
    """Requests, or results, that took tokens and have no price."""
    tokens: Mapping[str, int] = field(default_factory=dict)
    """Numbers by kind, see `TOKENS`, of what is known."""

    @property
    def usd(self) -> Decimal | None:
        """Dollars, those of unknown outcome among them; None where none are known."""
        return self.settled.get(USD, Decimal(0)) + self.reserved if USD in self.settled or self.reserved else None

    @property
    def unknown(self) -> int:
        """Number of requests of unknown outcome."""
        return self.calls.get(UNKNOWN, 0)

    @property
    def others(self) -> dict[str, Decimal]:
        """Amounts in other currencies than dollars."""
        return {currency: amount for currency, amount in sorted(self.settled.items()) if currency != USD}


@dataclass(frozen=True)
class RunCost:
    """Cost of one version of an experiment in one run."""

    run_date: date
    window_days: int
    experiment: str
    version: str
    cost: Cost


def total(costs: Iterable[Cost]) -> Cost:
    """Add costs up, each currency by itself."""
    every = list(costs)
    settled: defaultdict[str, Decimal] = defaultdict(Decimal)
    calls: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    for one in every:
        calls.update(one.calls)
        tokens.update(one.tokens)
        for currency, amount in one.settled.items():
            settled[currency] += amount
    return Cost(
        forecasts=sum(one.forecasts for one in every),
        requests=sum(one.requests for one in every),
        calls=dict(calls),
        settled=dict(settled),
        reserved=sum((one.reserved for one in every), Decimal(0)),
        unpriced=sum(one.unpriced for one in every),
        tokens=dict(tokens),
    )


def entrant_costs(costs: Iterable[RunCost]) -> tuple[EntrantCost, ...]:
    """Costs of each entrant on each window, in the order of their names.

    A run without a known amount says nothing about the dollars of a day or of a forecast: it is in neither count.
    """
    found: defaultdict[tuple[int, str, str], list[RunCost]] = defaultdict(list)
    for one in costs:
        found[one.window_days, one.experiment, one.version].append(one)
    return tuple(cost_over(runs) for _, runs in sorted(found.items()))


def cost_over(runs: Sequence[RunCost]) -> EntrantCost:
    """Cost of one entrant over some runs, at least one; of several windows it has the first one's name."""
    whole = total(one.cost for one in runs)
    known = [one for one in runs if one.cost.usd is not None or one.cost.others]
    return EntrantCost(
        window_days=runs[0].window_days,
        experiment=runs[0].experiment,
        version=runs[0].version,
        days=len({one.run_date for one in known}),
        forecasts=sum(one.cost.forecasts for one in known),
        requests=whole.requests,
        unknown=whole.unknown,
        usd=None if whole.usd is None else _plain(whole.usd),
        usd_unknown=_plain(whole.reserved),
        others={currency: _plain(amount) for currency, amount in whole.others.items()},
        unpriced=whole.unpriced,
    )


def usd_per_point(row: BoardRow, cost: EntrantCost | None) -> float | None:
    """Dollars for each point of Brier score that the forecasts of a row won against the market's price.

    The dollars of a forecast over the mean edge, so that both are of one market; None where nothing was won.
    """
    each = None if cost is None else cost.usd_per_forecast
    return None if each is None or not row.mean_edge or row.mean_edge < 0 else round(each / row.mean_edge, _DECIMALS)


def cost_of(row: BoardRow, costs: Iterable[EntrantCost]) -> EntrantCost | None:
    """The cost of a row's entrant on its window, if any is known."""
    key = (row.window_days, row.experiment, row.version)
    return next((one for one in costs if (one.window_days, one.experiment, one.version) == key), None)


def efficient(places: Iterable[tuple[str, float, float]]) -> list[str]:
    """Names of those than whom nobody is better at the same cost or less, the cheapest first.

    The market's own price is free and has no edge, so whoever has none is not efficient at any cost.

    Args:
        places: name, cost and edge of each.
    """
    best, chosen = 0.0, []
    for name, _, edge in sorted(places, key=lambda place: (place[1], -place[2], place[0])):
        if edge > best:
            best = edge
            chosen.append(name)
    return chosen


def _plain(amount: Decimal) -> float:
    return round(float(amount), _DECIMALS)
