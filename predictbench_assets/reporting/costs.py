"""Costs as text: tables for a terminal, JSON for programs."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any, Final

import msgspec
from rich.console import Group, RenderableType
from rich.text import Text

from predictbench_assets.printable import printable
from predictbench_assets.reporting.output import money, rich_table
from predictbench_assets.scoring.costs import TOKENS, USD, Cost, RunCost, total

_HEAD: Final = ("settled", "reserved", "calls", "tokens in", "cached", "tokens out", "reasoning")
NOTHING: Final = "no paid call is stored, and no result that says what it took of a model or a service."
_LEGEND: Final = (
    "settled: what answers cost. reserved: what calls of unknown outcome are counted at, the most that each can have "
    "cost; the two together are the cost. calls: by what became of them, or the requests that an experiment counted."
)

_encode = msgspec.json.Encoder(decimal_format="number", order="deterministic").encode


@dataclass(frozen=True)
class Budget:
    """What was spent today of what may be spent in a day."""

    experiment: str | None
    """None for all experiments together."""
    spent: Decimal
    limit: Decimal

    @property
    def share(self) -> float | None:
        """Part of the limit that is spent; None where nothing may be."""
        return float(self.spent / self.limit) if self.limit else None


@dataclass(frozen=True)
class CostReport:
    """All that `predictbench cost` shows."""

    since: date
    today: date
    costs: Sequence[RunCost]
    budgets: Sequence[Budget]
    problem: str | None = None
    """Why the budgets are not known."""

    def to_json(self) -> str:
        """One object; amounts are exact numbers."""
        report = {
            "since": self.since,
            "until": self.today,
            "days": [
                {"run_date": day, "experiment": name, "version": version} | _plain(cost)
                for (day, name, version), cost in self._by_day()
            ],
            "experiments": [
                {"experiment": name, "version": version} | _plain(cost)
                for (name, version), cost in self._by_experiment()
            ],
            "total": _plain(total(one.cost for one in self.costs)),
            "today": [
                {"experiment": one.experiment, "usd": one.spent, "limit": one.limit, "share": one.share}
                for one in self.budgets
            ],
            "problem": self.problem,
        }
        return msgspec.json.format(_encode(report), indent=2).decode() + "\n"

    def to_table(self) -> RenderableType:
        """The same for a terminal."""
        if not self.costs:
            return Group(Text(f"Since {self.since} {NOTHING}"), *self._today())
        days = [(str(day), f"{name} {version}", *_cells(cost)) for (day, name, version), cost in self._by_day()]
        sums = [(f"{name} {version}", *_cells(cost)) for (name, version), cost in self._by_experiment()]
        sums.append(("all", *_cells(total(one.cost for one in self.costs))))
        return Group(
            Text(f"Since {self.since}, by the day of the run"),
            rich_table("Days", ("day", "experiment", *_HEAD), days),
            rich_table("In all", ("experiment", *_HEAD), sums),
            *self._today(),
            Text(f"\n{_LEGEND}", "dim"),
        )

    def _today(self) -> list[RenderableType]:
        notes: list[RenderableType] = []
        if self.problem:
            notes.append(Text(printable(f"\nBudgets of experiments are not known: {self.problem}"), "yellow"))
        if not self.budgets:
            return notes
        rows = [
            (one.experiment or "all (MODEL_USD_PER_DAY)", money(one.spent), money(one.limit), _share(one.share))
            for one in self.budgets
        ]
        head = ("experiment", "spent", "a day", "share")
        return [rich_table(f"Budgets of {self.today}, by the time of the request, UTC", head, rows), *notes]

    def _by_day(self) -> list[tuple[tuple[Any, ...], Cost]]:
        return _sums(self.costs, lambda one: (one.run_date, one.experiment, one.version))

    def _by_experiment(self) -> list[tuple[tuple[Any, ...], Cost]]:
        return _sums(self.costs, lambda one: (one.experiment, one.version))


def _sums(costs: Iterable[RunCost], key: Callable[[RunCost], tuple[Any, ...]]) -> list[tuple[tuple[Any, ...], Cost]]:
    found: dict[tuple[Any, ...], list[Cost]] = {}
    for one in costs:
        found.setdefault(key(one), []).append(one.cost)
    return [(name, total(parts)) for name, parts in sorted(found.items())]


def _cells(cost: Cost) -> tuple[str, ...]:
    dollars = {USD: cost.settled[USD]} if USD in cost.settled else {}
    settled = [money(amount, currency) for currency, amount in (dollars | cost.others).items()]
    return (
        ", ".join(settled) + (f" ({cost.unpriced:,} without a price)" if cost.unpriced else ""),
        money(cost.reserved) if cost.reserved else "",
        calls_in_words(cost),
        *(f"{cost.tokens[kind]:,}" if kind in cost.tokens else "" for kind in TOKENS),
    )


def calls_in_words(cost: Cost) -> str:
    """Number of calls and what became of them, as in `18: answered 15, failed 3`."""
    if not cost.requests:
        return ""
    parts = ", ".join(f"{status} {number:,}" for status, number in sorted(cost.calls.items()))
    return f"{cost.requests:,}: {parts}" if parts else f"{cost.requests:,}"


def _share(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def _plain(cost: Cost) -> dict[str, Any]:
    return {
        "forecasts": cost.forecasts,
        "requests": cost.requests,
        "calls": dict(cost.calls),
        "settled": dict(cost.settled),
        "reserved_usd": cost.reserved,
        "unpriced": cost.unpriced,
        "tokens": dict(cost.tokens),
    }
