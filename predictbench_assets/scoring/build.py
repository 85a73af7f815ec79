"""Boards out of forecasts: every entrant on every board, window, category and price bin.

A board is a choice of markets. `core`: the frozen core sample of captured snapshots. `full`: every market of a captured
snapshot that had a good price. `backfill` is two boards under one name, which are never one mean: markets of captured
snapshots that had a good price and a forecast of any entrant that came too late to count; and, in rows that are marked
`reconstructed`, every market of a reconstructed snapshot that had a price. Only forecasts of a board's own kind are
scored on it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

import numpy as np

from predictbench_assets.markets.core_sample import PRICE_BINS
from predictbench_assets.markets.market import PRICE_AT_FORECAST
from predictbench_assets.scoring.boards import (
    ALL,
    PRICE_BIN_LABELS,
    BoardName,
    BoardRow,
    CohortState,
    Comparison,
    Curve,
    CurvePoint,
    EdgePoint,
    Flag,
    Leaderboard,
)
from predictbench_assets.scoring.calibration import (
    BINS,
    calibration_error,
    corp,
    decompose,
    expected_calibration_error,
    forecast_bins,
)
from predictbench_assets.scoring.forecasts import Bools, Cohorts, Days, Entrant, Floats, Forecasts, Ints
from predictbench_assets.scoring.intervals import (
    Estimate,
    bootstrap_totals,
    clustered_mean,
    growing_means,
    percentile_interval,
)
from predictbench_assets.scoring.rules import SCORING_VERSION, brier, clipped, disagreement, edge, log_loss

MIN_EVENTS: Final = 30
"""Clusters below which an interval is shown, but nothing is concluded from it."""

MIN_COVERAGE: Final = 0.95
"""Share of a board's markets that an entrant must have forecast to be ranked on it."""

MIN_FINAL: Final = 0.95
"""Share of a cohort's markets that must be final. Those that close early lean to Yes, so fewer are provisional."""

ECHO_CORRELATION: Final = 0.99

FALSE_DISCOVERY_RATE: Final = 0.10

_MISSING: Final = 0.5
"""Forecast that an intention to treat takes for a missing one."""

_DECIMALS: Final = 10
"""Decimals of published numbers. The last bits of a sum depend on the processor; a board rebuilt elsewhere must not."""

Interval = tuple[float, float] | None


@dataclass(frozen=True)
class _Field:
    """Markets of one board with each entrant's forecasts: a row of `forecast` for each entrant."""

    forecast: Floats
    leaked: Bools
    price: Floats
    outcome: Floats
    final: Bools
    scored: Bools
    """True where the market settled at 0 or 1."""
    cluster: Ints
    """Labels from 0, without gaps."""
    end_date: Ints
    """Numbers from 0, without gaps."""
    run_date: Days
    as_of: Days
    provisional: Bools
    """True where the market's cohort is provisional."""
    category: Ints
    price_bin: Ints

    def __len__(self) -> int:
        return len(self.price)

    def cut(self, chosen: Bools) -> "_Field":
        """Some of the markets."""
        return _Field(
            forecast=self.forecast[:, chosen],
            leaked=self.leaked[:, chosen],
            price=self.price[chosen],
            outcome=self.outcome[chosen],
            final=self.final[chosen],
            scored=self.scored[chosen],
            cluster=_numbered(self.cluster[chosen]),
            end_date=_numbered(self.end_date[chosen]),
            run_date=self.run_date[chosen],
            as_of=self.as_of[chosen],
            provisional=self.provisional[chosen],
            category=self.category[chosen],
            price_bin=self.price_bin[chosen],
        )


@dataclass(frozen=True)
class _Standing:
    """An entrant on the markets that ranks are made on."""

    n_markets: int
    edge: float
    rank: int
    order_differs: bool


@dataclass(frozen=True)
class _Bootstrapped:
    skill: Interval
    bins: Mapping[int, Interval]
    """Intervals of a reliability curve, by its bins."""


def build_leaderboard(forecasts: Forecasts) -> Leaderboard:
    """Build all boards: the same forecasts give the same records, whatever else is computed.

    Rows are in the order of board (the reconstructed ones last), window, category, price bin and entrant; an entrant
    without a forecast has rows only where a live board is not cut, to show that it covers none.
    """
    cohorts = forecasts.cohorts
    states = cohort_states(cohorts)
    categories = sorted(set(cohorts.category.tolist()))
    whole = _whole_field(cohorts, categories, states)
    rows: list[BoardRow] = []
    comparisons: list[Comparison] = []
    curves: list[Curve] = []
    edges: list[EdgePoint] = []
    for board, reconstructed, window, field in _boards(forecasts, whole):
        section = _Section(board, window, forecasts.entrants, categories, field, reconstructed=reconstructed)
        rows += section.rows()
        comparisons += section.comparisons()
        curves += section.curves()
        edges += section.edges()
    return Leaderboard(
        as_of=forecasts.as_of,
        scoring_version=SCORING_VERSION,
        rows=tuple(rows),
        comparisons=tuple(comparisons),
        curves=tuple(curves),
        edges=tuple(edges),
        coherence=tuple(forecasts.coherence),
        cohorts=states,
    )


def whole_rows(forecasts: Forecasts) -> list[BoardRow]:
    """The rows of the boards as a whole, as `build_leaderboard` has them, without the work of all the others."""
    cohorts = forecasts.cohorts
    categories = sorted(set(cohorts.category.tolist()))
    whole = _whole_field(cohorts, categories, cohort_states(cohorts))
    return [
        row
        for board, reconstructed, window, field in _boards(forecasts, whole)
        for row in _Section(
            board, window, forecasts.entrants, categories, field, reconstructed=reconstructed
        ).whole_rows()
    ]


def cohort_states(cohorts: Cohorts) -> tuple[CohortState, ...]:
    """Share of each run date and window that has settled, over all of its markets, in that order."""
    numbers, keys = _cohort_numbers(cohorts)
    counts = np.bincount(numbers, minlength=len(keys))
    final = np.bincount(numbers[cohorts.final], minlength=len(keys))
    splits = np.bincount(numbers[cohorts.final & (cohorts.outcome == 0.5)], minlength=len(keys))
    reconstructed = np.bincount(numbers[cohorts.reconstructed], minlength=len(keys))
    return tuple(
        CohortState(
            run_date=np.datetime64(int(day), "D").item(),
            window_days=int(window),
            n_markets=int(counts[number]),
            n_final=int(final[number]),
            n_splits=int(splits[number]),
            provisional=bool(final[number] < MIN_FINAL * counts[number]),
            reconstructed=bool(reconstructed[number]),
        )
        for number, (day, window) in enumerate(keys)
    )


def _cohort_numbers(cohorts: Cohorts) -> tuple[Ints, Ints]:
    """The number of each market's cohort, and the cohorts as (day, window), sorted."""
    days = cohorts.run_date.astype("datetime64[D]").astype(np.int64)
    keys, numbers = np.unique(np.column_stack([days, cohorts.window_days]), axis=0, return_inverse=True)
    return numbers.reshape(-1), keys


def _whole_field(cohorts: Cohorts, categories: list[str], states: tuple[CohortState, ...]) -> _Field:
    """Every market, without forecasts."""
    number = {category: position for position, category in enumerate(categories)}
    cohort, _ = _cohort_numbers(cohorts)
    return _Field(
        forecast=np.empty((0, len(cohorts))),
        leaked=np.empty((0, len(cohorts)), np.bool_),
        price=cohorts.price,
        outcome=cohorts.outcome,
        final=cohorts.final,
        scored=cohorts.final & ((cohorts.outcome == 0) | (cohorts.outcome == 1)),
        cluster=cohorts.cluster,
        end_date=cohorts.end_date.astype("datetime64[D]").astype(np.int64),
        run_date=cohorts.run_date,
        as_of=cohorts.as_of,
        provisional=np.array([state.provisional for state in states], np.bool_)[cohort],
        category=np.array([number[category] for category in cohorts.category.tolist()], np.int64),
        price_bin=np.searchsorted(PRICE_BINS, cohorts.price, side="right"),
    )


def _boards(forecasts: Forecasts, whole: _Field) -> Iterator[tuple[BoardName, bool, int, _Field]]:
    """Each board and window that has markets, and whether these are reconstructed."""
    cohorts = forecasts.cohorts
    priced = ~np.isnan(cohorts.price)
    live = priced & cohorts.good & ~cohorts.reconstructed
    late = live & ~np.isnan(forecasts.late).all(axis=0)
    none = np.broadcast_to(np.False_, forecasts.leaked.shape)
    markets: tuple[tuple[BoardName, bool, Bools, Floats, Bools], ...] = (
        ("core", False, live & cohorts.core, forecasts.probability, forecasts.leaked),
        ("full", False, live, forecasts.probability, forecasts.leaked),
        ("backfill", False, late, forecasts.late, none),
        # A history has no sides to tell a good price by.
        ("backfill", True, priced & cohorts.reconstructed, forecasts.late, none),
    )
    for board, reconstructed, chosen, forecast, leaked in markets:
        for window in np.unique(cohorts.window_days[chosen]).tolist():
            here = chosen & (cohorts.window_days == window)
            yield board, reconstructed, window, replace(whole, forecast=forecast, leaked=leaked).cut(here)


class _Section:
    """One board and window."""

    def __init__(
        self,
        board: BoardName,
        window_days: int,
        entrants: tuple[Entrant, ...],
        categories: list[str],
        field: _Field,
        *,
        reconstructed: bool,
    ) -> None:
        self.board = board
        self.reconstructed = reconstructed
        self.window_days = window_days
        self.entrants = entrants
        self.categories = categories
        self.field = field
        self.standings = {} if board == "backfill" else _standings(field, entrants)
        self.bootstrapped = self._bootstrap(field, ALL, ALL, curves=True)

    def rows(self) -> Iterator[BoardRow]:
        """Yield the rows of the whole board, then of each category, then of each price bin."""
        field = self.field
        yield from self.whole_rows()
        for number in np.unique(field.category).tolist():
            part, category = field.cut(field.category == number), self.categories[number]
            yield from self._rows_of(part, category, ALL, self._bootstrap(part, category, ALL))
        for number in np.unique(field.price_bin).tolist():
            part, label = field.cut(field.price_bin == number), PRICE_BIN_LABELS[number]
            yield from self._rows_of(part, ALL, label, self._bootstrap(part, ALL, label))

    def whole_rows(self) -> Iterator[BoardRow]:
        """Yield the rows of the whole board."""
        return self._rows_of(self.field, ALL, ALL, self.bootstrapped)

    def _rows_of(
        self, field: _Field, category: str, price_bin: str, bootstrapped: Mapping[int, _Bootstrapped]
    ) -> Iterator[BoardRow]:
        whole_board = category == ALL and price_bin == ALL
        for number, entrant in enumerate(self.entrants):
            if np.isnan(field.forecast[number]).all() and not (whole_board and self.board != "backfill"):
                continue
            skill = bootstrapped[number].skill if number in bootstrapped else None
            standing = self.standings.get(number) if whole_board else None
            yield self._row(entrant, field, number, category, price_bin, skill, standing)

    def _row(
        self,
        entrant: Entrant,
        field: _Field,
        number: int,
        category: str,
        price_bin: str,
        skill: Interval,
        standing: _Standing | None,
    ) -> BoardRow:
        forecast = field.forecast[number]
        forecasted = ~np.isnan(forecast)
        counted = forecasted & field.scored
        f, m, y = forecast[counted], field.price[counted], field.outcome[counted]
        edges = edge(f, m, y)
        found = clustered_mean(edges, field.cluster[counted]) if len(f) else None
        by_date = clustered_mean(edges, field.end_date[counted]) if len(f) else None
        murphy = decompose(f, y) if len(f) else None
        isotonic = corp(f, y) if len(f) else None
        own, markets = _mean(brier(f, y)), _mean(brier(m, y))
        n_provisional = int((counted & field.provisional).sum())
        cutoff = np.datetime64(entrant.knowledge_cutoff or "NaT", "D")  # nothing is before an unknown one
        n_may_know = int((counted & (field.as_of <= cutoff)).sum())
        coverage = float(forecasted.mean())
        correlation = _correlation(forecast[forecasted], field.price[forecasted])
        return BoardRow(
            board=self.board,
            window_days=self.window_days,
            category=category,
            price_bin=price_bin,
            experiment=entrant.experiment,
            version=entrant.version,
            information=entrant.information,
            control=entrant.control,
            reference=entrant.reference,
            n_markets=len(f),
            n_events=found.clusters if found else 0,
            n_board=len(field),
            n_splits=int((forecasted & field.final & (field.outcome == 0.5)).sum()),
            n_open=int((forecasted & ~field.final).sum()),
            n_provisional=n_provisional,
            n_clipped=int(clipped(f).sum()),
            n_leaked=int(field.leaked[number].sum()),
            reconstructed=self.reconstructed,
            n_may_know=n_may_know,
            coverage=_rounded_or_none(coverage),
            effective_n=_rounded_or_none(found.effective_n if found else None),
            mean_edge=_rounded_or_none(found.mean if found else None),
            edge_se=_rounded_or_none(found.se if found else None),
            edge_low=_rounded_or_none(found.low if found else None),
            edge_high=_rounded_or_none(found.high if found else None),
            edge_low_by_date=_rounded_or_none(by_date.low if by_date else None),
            edge_high_by_date=_rounded_or_none(by_date.high if by_date else None),
            event_mean_edge=_rounded_or_none(found.cluster_mean if found else None),
            minimum_detectable_edge=_rounded_or_none(found.minimum_detectable if found else None),
            skill=_rounded_or_none(1 - own / markets if own is not None and markets else None),
            skill_low=_rounded_or_none(skill[0] if skill else None),
            skill_high=_rounded_or_none(skill[1] if skill else None),
            brier=_rounded_or_none(own),
            market_brier=_rounded_or_none(markets),
            log_loss=_rounded_or_none(_mean(log_loss(f, y))),
            disagreement=_rounded_or_none(_mean(disagreement(f, m))),
            **_intention_to_treat(field, forecast),
            **self._at_forecast(entrant, field, forecast),
            reliability=_rounded_or_none(murphy.reliability if murphy else None),
            resolution=_rounded_or_none(murphy.resolution if murphy else None),
            uncertainty=_rounded_or_none(murphy.uncertainty if murphy else None),
            miscalibration=_rounded_or_none(isotonic.miscalibration if isotonic else None),
            discrimination=_rounded_or_none(isotonic.discrimination if isotonic else None),
            ece=_rounded_or_none(calibration_error(f, y) if len(f) else None),
            ece_expected=_rounded_or_none(expected_calibration_error(f) if len(f) else None),
            price_correlation=_rounded_or_none(correlation),
            n_ranked=standing.n_markets if standing else None,
            ranked_edge=_rounded_or_none(standing.edge if standing else None),
            rank=standing.rank if standing else None,
            flags=(
                *_flags(entrant, found, n_provisional, coverage, correlation, int(forecasted.sum()), standing),
                *(("may_know_the_answer",) if n_may_know else ()),
            ),
        )

    def _bootstrap(
        self, field: _Field, category: str, price_bin: str, *, curves: bool = False
    ) -> dict[int, _Bootstrapped]:
        """Intervals of ratios, by entrant with at least two clusters.

        It is the board's settled clusters that are drawn, once for all entrants: one that an entrant did not forecast
        adds nothing to its sums. So no entrant's interval depends on who else takes part.
        """
        settled = np.unique(field.cluster[field.scored])
        sums = {}
        for number, forecast in enumerate(field.forecast):
            counted = ~np.isnan(forecast) & field.scored
            if np.count_nonzero(np.bincount(field.cluster[counted])) >= 2:
                sums[number] = _cluster_sums(forecast, field, counted, curves=curves)[settled]
        if not sums:
            return {}
        key = f"{self.board}|{self.window_days}|{category}|{price_bin}{'|reconstructed' * self.reconstructed}"
        totals = bootstrap_totals(np.hstack(list(sums.values())), key)
        parts = np.split(totals, len(sums), axis=1)
        return {number: _bootstrapped(part, sums[number]) for number, part in zip(sums, parts, strict=True)}

    def _at_forecast(self, entrant: Entrant, field: _Field, forecast: Floats) -> dict[str, float | None]:
        """The edge over the price at the time of the forecast, for an entrant that may search."""
        if not entrant.searches or entrant.experiment == PRICE_AT_FORECAST:
            return {}
        prices = np.full(len(field), np.nan)
        for number, other in enumerate(self.entrants):  # of several versions the last one that has a price counts
            if other.experiment == PRICE_AT_FORECAST:
                prices = np.where(np.isnan(field.forecast[number]), prices, field.forecast[number])
        both = field.scored & ~np.isnan(forecast) & ~np.isnan(prices)
        if not both.any():
            return {}
        found = clustered_mean(edge(forecast[both], prices[both], field.outcome[both]), field.cluster[both])
        return {
            "edge_at_forecast": _rounded_or_none(found.mean),
            "edge_at_forecast_low": _rounded_or_none(found.low),
            "edge_at_forecast_high": _rounded_or_none(found.high),
        }

    def comparisons(self) -> list[Comparison]:
        """Compare every two entrants that both forecast some settled market."""
        field = self.field
        found = []
        for first in range(len(self.entrants)):
            for second in range(first + 1, len(self.entrants)):
                ours, theirs = field.forecast[first], field.forecast[second]
                both = field.scored & ~np.isnan(ours) & ~np.isnan(theirs)
                if both.any():
                    # The same arithmetic as an edge, against the other forecaster in place of the price.
                    differences = edge(ours[both], theirs[both], field.outcome[both])
                    found.append((first, second, clustered_mean(differences, field.cluster[both])))
        significant = _discoveries([estimate for _, _, estimate in found])
        return [
            Comparison(
                board=self.board,
                window_days=self.window_days,
                first=self.entrants[first].label,
                second=self.entrants[second].label,
                n_markets=estimate.n,
                n_events=estimate.clusters,
                mean_difference=_rounded_or_none(estimate.mean),
                low=_rounded_or_none(estimate.low),
                high=_rounded_or_none(estimate.high),
                p_value=_rounded_or_none(estimate.p_value),
                significant=discovered,
                reconstructed=self.reconstructed,
            )
            for (first, second, estimate), discovered in zip(found, significant, strict=True)
        ]

    def curves(self) -> Iterator[Curve]:
        """A reliability curve for each entrant with a settled forecast."""
        for number, entrant in enumerate(self.entrants):
            forecast = self.field.forecast[number]
            counted = ~np.isnan(forecast) & self.field.scored
            if not counted.any():
                continue
            bands = self.bootstrapped[number].bins if number in self.bootstrapped else {}
            points = _curve_points(forecast[counted], self.field.outcome[counted], bands)
            yield Curve(
                board=self.board,
                window_days=self.window_days,
                experiment=entrant.experiment,
                version=entrant.version,
                points=points,
                reconstructed=self.reconstructed,
            )

    def edges(self) -> Iterator[EdgePoint]:
        """Edges of each entrant, for each cohort with a settled forecast."""
        field = self.field
        for number, entrant in enumerate(self.entrants):
            forecast = field.forecast[number]
            counted = ~np.isnan(forecast) & field.scored
            days, step = np.unique(field.run_date[counted], return_inverse=True)
            values = edge(forecast[counted], field.price[counted], field.outcome[counted])
            counts, sums = np.bincount(step), np.bincount(step, weights=values)
            means, lows, highs = growing_means(values, field.cluster[counted], step, len(days))
            for position, day in enumerate(days.astype("datetime64[D]").tolist()):
                yield EdgePoint(
                    board=self.board,
                    window_days=self.window_days,
                    experiment=entrant.experiment,
                    version=entrant.version,
                    run_date=day,
                    n_markets=int(counts[position]),
                    mean_edge=_rounded(sums[position] / counts[position]),
                    cumulative_edge=_rounded(means[position]),
                    cumulative_low=_rounded_or_none(lows[position]),
                    cumulative_high=_rounded_or_none(highs[position]),
                    reconstructed=self.reconstructed,
                )


def _standings(field: _Field, entrants: tuple[Entrant, ...]) -> dict[int, _Standing]:
    """Ranks, on the settled markets that all who cover enough of the board forecast. Equal edges share a rank."""
    forecasted = ~np.isnan(field.forecast)
    takers = [
        number
        for number, entrant in enumerate(entrants)
        if not entrant.control and float(forecasted[number].mean()) >= MIN_COVERAGE
    ]
    shared = field.scored & forecasted[takers].all(axis=0)
    if not takers or len(np.unique(field.cluster[shared])) < MIN_EVENTS:
        return {}
    price, outcome, cluster = field.price[shared], field.outcome[shared], field.cluster[shared]
    found = {number: clustered_mean(edge(field.forecast[number, shared], price, outcome), cluster) for number in takers}
    means = {number: _rounded(estimate.mean) for number, estimate in found.items()}
    by_event = {number: _rounded(estimate.cluster_mean) for number, estimate in found.items()}
    order = sorted(takers, key=lambda number: (-means[number], number))
    differing: set[int] = set()
    for above, below in pairwise(order):
        if means[above] > means[below] and by_event[above] < by_event[below]:
            differing |= {above, below}
    return {
        number: _Standing(
            n_markets=int(shared.sum()),
            edge=means[number],
            rank=1 + sum(other > means[number] for other in means.values()),
            order_differs=number in differing,
        )
        for number in order
    }


def _flags(
    entrant: Entrant,
    found: Estimate | None,
    n_provisional: int,
    coverage: float,
    correlation: float | None,
    n_forecasts: int,
    standing: _Standing | None,
) -> tuple[Flag, ...]:
    enough = found is not None and found.clusters >= MIN_EVENTS
    above = found is not None and found.low is not None and _rounded(found.low) > 0
    echoes = not entrant.reference and n_forecasts >= MIN_EVENTS and correlation is not None
    flags: dict[Flag, bool] = {
        "provisional": n_provisional > 0,
        "price_echo": echoes and correlation is not None and correlation > ECHO_CORRELATION,
        # One that looks at the price of today ought to beat that of the freeze.
        "control_beats_market": entrant.control and not entrant.searches and enough and above,
        "too_few_events": not enough,
        "low_coverage": coverage < MIN_COVERAGE,
        "order_differs_by_event": standing is not None and standing.order_differs,
    }
    return tuple(flag for flag, holds in flags.items() if holds)


def _intention_to_treat(field: _Field, forecast: Floats) -> dict[str, float | None]:
    """Mean over all settled markets of the board, with one half for each missing forecast."""
    y = field.outcome[field.scored]
    f = np.where(np.isnan(forecast), _MISSING, forecast)[field.scored]
    return {
        "intention_to_treat_brier": _rounded_or_none(_mean(brier(f, y))),
        "intention_to_treat_edge": _rounded_or_none(_mean(edge(f, field.price[field.scored], y))),
    }


def _cluster_sums(forecast: Floats, field: _Field, counted: Bools, *, curves: bool) -> Floats:
    """Each cluster's part in the sums of ratios: Brier, the market's Brier; with curves each bin's 1s and markets.

    Shape (clusters of the field, 2 or 2 + 2 * bins).
    """
    f, m, y = forecast[counted], field.price[counted], field.outcome[counted]
    cluster, clusters = field.cluster[counted], int(field.cluster.max()) + 1
    sums: Floats = np.column_stack(
        [np.bincount(cluster, weights=brier(each, y), minlength=clusters) for each in (f, m)]
    )
    if not curves:
        return sums
    cells = cluster * BINS + forecast_bins(f)
    ones = np.bincount(cells, weights=y, minlength=clusters * BINS).reshape(clusters, BINS)
    markets = np.bincount(cells, minlength=clusters * BINS).reshape(clusters, BINS)
    return np.hstack([sums, ones, markets])


def _bootstrapped(totals: Floats, sums: Floats) -> _Bootstrapped:
    """Turn drawn totals of `_cluster_sums` into intervals."""
    skill = percentile_interval(1 - _ratio(totals[:, 0], totals[:, 1]))
    bins: dict[int, Interval] = {}
    if sums.shape[1] > 2:
        ones, markets = totals[:, 2 : 2 + BINS], totals[:, 2 + BINS :]
        clusters = (sums[:, 2 + BINS :] > 0).sum(axis=0)  # a bin that one cluster fills always comes out the same
        bins = {
            number: percentile_interval(_ratio(ones[:, number], markets[:, number]))
            for number in range(BINS)
            if clusters[number] >= 2
        }
    return _Bootstrapped(skill, bins)


def _ratio(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)


def _curve_points(forecast: Floats, outcome: Floats, bands: Mapping[int, Interval]) -> tuple[CurvePoint, ...]:
    bins = forecast_bins(forecast)
    counts = np.bincount(bins)
    forecasts, ones = np.bincount(bins, weights=forecast), np.bincount(bins, weights=outcome)
    points = []
    for number in np.flatnonzero(counts).tolist():
        band = bands.get(number)
        points.append(
            CurvePoint(
                forecast=_rounded(forecasts[number] / counts[number]),
                observed=_rounded(ones[number] / counts[number]),
                low=_rounded_or_none(band[0] if band else None),
                high=_rounded_or_none(band[1] if band else None),
                n_markets=int(counts[number]),
            )
        )
    return tuple(points)


def _discoveries(estimates: list[Estimate]) -> list[bool]:
    """Benjamini-Hochberg over the comparisons that have enough clusters to conclude from."""
    from scipy.stats import false_discovery_control

    family = [
        (position, estimate.p_value)
        for position, estimate in enumerate(estimates)
        if estimate.clusters >= MIN_EVENTS and estimate.p_value is not None
    ]
    significant = [False] * len(estimates)
    if family:
        adjusted = false_discovery_control([p_value for _, p_value in family], method="bh")
        for (position, _), value in zip(family, adjusted.tolist(), strict=True):
            significant[position] = value <= FALSE_DISCOVERY_RATE
    return significant


def _correlation(forecast: Floats, price: Floats) -> float | None:
    """Pearson's; None where either does not vary."""
    if len(forecast) < 3 or np.ptp(forecast) == 0 or np.ptp(price) == 0:
        return None
    return float(np.corrcoef(forecast, price)[0, 1])


def _numbered(numbers: Ints) -> Ints:
    """The same numbers from 0 on and without gaps, in the same order."""
    _, inverse = np.unique(numbers, return_inverse=True)
    return inverse.astype(np.int64)


def _mean(values: Floats) -> float | None:
    return float(values.mean()) if len(values) else None


def _rounded_or_none(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else _rounded(value)


def _rounded(value: float) -> float:
    return round(float(value), _DECIMALS) + 0.0  # which makes -0.0 a 0
