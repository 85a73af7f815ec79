"""Records of scoring: rows of boards, comparisons, curves. Written as JSON and read back unchanged.

Undefined numbers are null: an interval of one cluster, a rank that is not allowed. Edges, Brier scores and
their differences are in squared probability, intervals are at 95 %.
"""

from collections.abc import Iterable
from datetime import date, datetime
from typing import Final, Literal

import msgspec

BoardName = Literal["core", "full", "backfill"]

ALL: Final = "all"
"""The category, or the price bin, of a row that is not cut by it."""

EVERY: Final = "every"
"""Value that asks for the rows of each category, or of each price bin."""

PRICE_BIN_LABELS: Final = ("0-5", "5-20", "20-40", "40-60", "60-80", "80-95", "95-100")
"""Labels, in per cent, of the bins that `markets.core_sample.price_bin` numbers."""

Flag = Literal[
    "provisional",
    "price_echo",
    "control_beats_market",
    "too_few_events",
    "low_coverage",
    "order_differs_by_event",
    "may_know_the_answer",
]
"""provisional: some of its cohorts are less than 95 % final. price_echo: forecasts correlate above 0.99 with the price
shown. control_beats_market: a negative control whose interval is above 0, a bug or a leak. too_few_events: fewer than
30 clusters. low_coverage: less than 95 % of the board's markets forecast. order_differs_by_event: against a neighbour
in rank, the mean per event gives the other order than the mean per market. may_know_the_answer: some of its settled
markets were asked about as of its knowledge cutoff or earlier."""


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    pass


class BoardRow(_Record, frozen=True):
    """One entrant on one board, cut by category or by price bin (never by both)."""

    board: BoardName
    window_days: int
    category: str
    price_bin: str
    experiment: str
    version: str
    information: str
    control: bool
    reference: bool

    n_markets: int
    """Settled markets (outcome 0 or 1, with a good price) that it forecast."""
    n_events: int
    """Clusters among them."""
    n_board: int
    """Markets of the board and stratum, settled or not."""
    n_splits: int
    """Forecast markets that settled at one half: shown apart, in no mean."""
    n_open: int
    """Forecast markets that are not final."""
    n_provisional: int
    """Number of `n_markets` whose cohort is less than 95 % final."""
    n_clipped: int
    """Forecasts outside of [0.001, 0.999], whose log loss took the bound."""
    coverage: float | None
    """Forecast markets over markets of the board."""
    effective_n: float | None

    mean_edge: float | None
    edge_se: float | None
    edge_low: float | None
    edge_high: float | None
    edge_low_by_date: float | None
    edge_high_by_date: float | None
    event_mean_edge: float | None
    """Mean over clusters of the cluster's mean."""
    minimum_detectable_edge: float | None
    """Smallest edge detectable at 80 % power: 2.8 standard errors."""
    skill: float | None
    """1 - mean Brier / mean Brier of the market's price on the same markets."""
    skill_low: float | None
    skill_high: float | None
    brier: float | None
    market_brier: float | None
    """Brier score of the market's price on the same markets."""
    log_loss: float | None
    disagreement: float | None
    intention_to_treat_brier: float | None
    """Brier score with one half for each settled market of the board that it did not forecast."""
    intention_to_treat_edge: float | None

    reliability: float | None
    resolution: float | None
    uncertainty: float | None
    """Murphy's decomposition over ten bins."""
    miscalibration: float | None
    discrimination: float | None
    """CORP's, from the isotonic fit."""
    ece: float | None
    ece_expected: float | None
    """Expected calibration error that a calibrated forecaster with these forecasts would show."""
    price_correlation: float | None

    n_ranked: int | None
    """Markets of the intersection that ranks are made on."""
    ranked_edge: float | None
    """Mean edge on that intersection."""
    rank: int | None
    flags: tuple[Flag, ...] = ()

    # Of stored boards, those of before have none.
    n_leaked: int = 0
    """Forecasts of the board's markets that cite a market's price they were not shown: kept, and counted nowhere."""
    edge_at_forecast: float | None = None
    """Mean edge over the price at the time of the forecast, on the markets of which both are known; None for one that
    may not search, and where the control `price_at_forecast` did not run."""
    edge_at_forecast_low: float | None = None
    edge_at_forecast_high: float | None = None
    reconstructed: bool = False
    """True where its markets are those of reconstructed snapshots: rows of the backfill board that are apart."""
    n_may_know: int = 0
    """Number of `n_markets` that were asked about as of the entrant's knowledge cutoff or earlier: it may know how they
    settled. They count all the same."""

    @property
    def label(self) -> str:
        """Name and version, as `Entrant.label`."""
        return f"{self.experiment} {self.version}"

    @property
    def is_whole(self) -> bool:
        """True for the whole board, false for a category or a price bin of it."""
        return self.category == ALL and self.price_bin == ALL


def chosen_rows(
    rows: Iterable[BoardRow], *, board: str | None, window_days: int | None, category: str, price_bin: str
) -> list[BoardRow]:
    """Some of the rows; None, or `every` of a cut, is all of them."""
    return [
        row
        for row in rows
        if board in (None, row.board)
        and window_days in (None, row.window_days)
        and category in (EVERY, row.category)
        and price_bin in (EVERY, row.price_bin)
    ]


class Comparison(_Record, frozen=True):
    """Two entrants on the markets that both forecast; above 0 the first is better."""

    board: BoardName
    window_days: int
    first: str
    second: str
    """Name and version, as `Entrant.label`."""
    n_markets: int
    n_events: int
    mean_difference: float | None
    low: float | None
    high: float | None
    p_value: float | None
    significant: bool
    """True after Benjamini-Hochberg over the board's and window's family, q = 0.10."""
    reconstructed: bool = False
    """As of a row; so it is below."""


class CurvePoint(_Record, frozen=True):
    """A bin of a reliability curve."""

    forecast: float
    """Mean forecast of the bin."""
    observed: float
    """Share that settled at 1."""
    low: float | None
    high: float | None
    n_markets: int


class Curve(_Record, frozen=True):
    """A reliability curve with bootstrap bands."""

    board: BoardName
    window_days: int
    experiment: str
    version: str
    points: tuple[CurvePoint, ...]
    reconstructed: bool = False


class EdgePoint(_Record, frozen=True):
    """One cohort, and all up to it."""

    board: BoardName
    window_days: int
    experiment: str
    version: str
    run_date: date
    n_markets: int
    mean_edge: float
    """Mean edge over the cohort's markets."""
    cumulative_edge: float
    """Mean over all markets of cohorts up to this one."""
    cumulative_low: float | None
    cumulative_high: float | None
    reconstructed: bool = False


class Coherence(_Record, frozen=True):
    """Coherence of an entrant's forecasts of related markets."""

    window_days: int
    experiment: str
    version: str
    n_groups: int
    """Whole neg-risk groups that it forecast entirely."""
    sum_error: float | None
    """Mean over groups of |sum of the forecasts - 1|."""
    worst_sum_error: float | None
    n_pairs: int
    """Neighbouring rungs of ladders that it forecast both."""
    violations: int
    """Pairs where the implied one is the less likely."""
    mean_violation: float | None
    """Mean over pairs of how far the order is broken, 0 where it holds."""


class CohortState(_Record, frozen=True):
    """Share of one cohort that has settled."""

    run_date: date
    window_days: int
    n_markets: int
    n_final: int
    n_splits: int
    provisional: bool
    """Less than 95 % final."""
    reconstructed: bool = False
    """True where its snapshot was reconstructed afterwards."""


class EntrantCost(_Record, frozen=True):
    """Cost of an entrant's forecasts on a window, whatever board they are on."""

    window_days: int
    experiment: str
    version: str
    days: int
    """Run dates of which an amount is known."""
    forecasts: int
    """Markets forecast on these."""
    requests: int
    unknown: int
    """Number of the requests whose outcome nobody knows."""
    usd: float | None
    """Dollars, `usd_unknown` among them; None where none are known."""
    usd_unknown: float
    """Dollars that requests of unknown outcome are counted at: what was reserved for them."""
    others: dict[str, float]
    """Amounts in other currencies, which are not among the dollars."""
    unpriced: int
    """Requests, or results, that took tokens and have no price; where there are some, the amounts are too low."""

    @property
    def usd_per_day(self) -> float | None:
        """Dollars a day of the benchmark."""
        return None if self.usd is None or not self.days else round(self.usd / self.days, 10)

    @property
    def usd_per_forecast(self) -> float | None:
        """Dollars a forecast."""
        return None if self.usd is None or not self.forecasts else round(self.usd / self.forecasts, 10)


# What is as its default is not written: a board has the bytes that it had before there was such a field.
class Leaderboard(_Record, frozen=True, omit_defaults=True):
    """All boards, as known at `as_of`."""

    as_of: datetime
    scoring_version: str
    rows: tuple[BoardRow, ...]
    comparisons: tuple[Comparison, ...]
    curves: tuple[Curve, ...]
    edges: tuple[EdgePoint, ...]
    coherence: tuple[Coherence, ...]
    cohorts: tuple[CohortState, ...]
    costs: tuple[EntrantCost, ...] = ()
    since: date | None = None
    """The first run date that counts, where runs of earlier ones were left out."""
    until: date | None = None
    """The last one, where runs of later ones were left out."""
