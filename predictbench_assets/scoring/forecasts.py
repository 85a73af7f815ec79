"""Forecasts to be scored: every market of every cohort, and each entrant's forecast of it, as columns.

A row of `Cohorts` is a market in a run, so a market that two windows captured is two rows. A matrix of `Forecasts`
has a row for each entrant and a column for each row of `Cohorts`.
"""

from dataclasses import dataclass, fields
from datetime import date, datetime

import numpy as np
from numpy.typing import NDArray

from predictbench_assets.scoring.boards import Coherence

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Days = NDArray[np.datetime64]
Texts = NDArray[np.object_]


@dataclass(frozen=True)
class Entrant:
    """One version of an experiment. Versions are never mixed."""

    experiment: str
    version: str
    information: str
    """Blind, market, search_blind or search: what it may see."""
    control: bool = False
    reference: bool = False
    """True for the market's own price, frozen: the baseline that skill is measured against."""
    description: str = ""
    knowledge_cutoff: date | None = None
    """The last day of which it may know by itself; None where that is not known."""

    @property
    def searches(self) -> bool:
        """True if it may look at the world when it forecasts."""
        return self.information in ("search", "search_blind")

    @property
    def label(self) -> str:
        """Name and version."""
        return f"{self.experiment} {self.version}"


@dataclass(frozen=True)
class Cohorts:
    """Every market of every complete run, in the order of run date, window and market id; arrays of one length M."""

    market_id: Texts
    run_date: Days
    """datetime64[D]."""
    window_days: Ints
    end_date: Days
    """The UTC day of the nominal end."""
    as_of: Days
    """The UTC day of the instant that the snapshot shows: of its capture, or the one that was reconstructed."""
    category: Texts
    cluster: Ints
    """The number of the cluster, the same across cohorts: markets with one number are not independent."""
    price: Floats
    """The market's own price of the first outcome at the snapshot; NaN where it had none."""
    good: Bools
    """True where that price is of quality `good`; only such markets are in the headline."""
    core: Bools
    reconstructed: Bools
    """True where the snapshot was put together afterwards."""
    final: Bools
    """True where the newest observation by `as_of` has the market settled."""
    outcome: Floats
    """Settled value of the first outcome: 0, 1, 0.5 for a split; NaN where it is not final."""

    def __len__(self) -> int:
        return len(self.market_id)

    def part(self, chosen: slice) -> "Cohorts":
        """Some of them, not copied."""
        return Cohorts(**{field.name: getattr(self, field.name)[chosen] for field in fields(self)})


@dataclass(frozen=True)
class Forecasts:
    """Cohorts with the entrants' forecasts, as known at `as_of`."""

    as_of: datetime
    cohorts: Cohorts
    entrants: tuple[Entrant, ...]
    probability: Floats
    """Shape (entrants, M): the forecast that counts on the live boards (the newest timely one); NaN for none."""
    late: Floats
    """Shape (entrants, M): the newest forecast that was not timely, or on a reconstructed snapshot; NaN for none."""
    leaked: Bools
    """Shape (entrants, M): True where there is a timely forecast only of those that cite a market's price."""
    coherence: tuple[Coherence, ...] = ()
    """Coherence, which needs no outcomes."""
