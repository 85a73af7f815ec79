"""SQL fragments that define which rows are visible at `as_of`; boards, scores, histories, releases and pages use them.

In all of them `p` is a run, `m` one of its markets, `r` a result of an experiment and `o` an observation of a market.
`as_of` is the placeholder of the instant, as the caller's driver writes it.

A run is visible from the end of its first complete attempt on, whatever later attempts come to. A partial one is
visible too: `--limit` is refused in production, and a trial on fifty markets should show them on the
board, in the release and in `history()`, or in none of these. A market is visible from its first stored result until it
is withdrawn; one that was captured again is unknown before that, since its row has the newer price. A market is settled
while its newest observation is final. Only exports show everything that is stored, with the columns to choose by.
"""

from typing import Final, LiteralString

ESTIMATED_RESULTS: Final[LiteralString] = (
    "coalesce(greatest(a.completed + a.skipped + a.failed, p.processed_markets), 0)"
)
"""About how many results an attempt `a` of a run `p` has: to read in chunks."""

IS_SETTLED: Final[LiteralString] = "o.state = 'final' AND o.outcome IS NOT NULL"
"""Condition on an observation `o`: it is a settlement that forecasts are scored by."""

OUTCOME_PLACE: Final[LiteralString] = (
    "CASE WHEN metadata->>'index' ~ '^[0-9]{1,4}$' THEN (metadata->>'index')::integer END"
)
"""The place of a contract among the outcomes of its market; null where a hand has left something else there."""

NEWEST_FIRST: Final[LiteralString] = "o.observed_at DESC, o.observation_id"
"""The order of the observations `o` of a market; the first one counts."""


def run_is_known(as_of: LiteralString) -> LiteralString:
    """Condition on a run `p`: an attempt of it was complete, or partial, by then."""
    return (
        "EXISTS (SELECT FROM predictbench.processing_attempts ended"
        " WHERE ended.run_id = p.run_id AND ended.status IN ('completed', 'partial')"
        f" AND ended.finished_at <= {as_of})"
    )


def market_is_listed(as_of: LiteralString) -> LiteralString:
    """Condition on a market `m`: it was captured by then, and not yet withdrawn."""
    return f"m.captured_at <= {as_of} AND (m.withdrawn_at IS NULL OR m.withdrawn_at > {as_of})"


def market_has_results(as_of: LiteralString) -> LiteralString:
    """Condition on a market `m`: it was stored by then, since a market is stored with a result of each experiment.

    A later attempt of a run may add markets, as when a run with a limit is followed by the whole one.
    """
    # OFFSET 0 has results looked up market by market: else all that there are might be hashed, for a few markets.
    return (
        "EXISTS (SELECT FROM predictbench.experiment_results r"
        f" WHERE r.processed_market_id = m.processed_market_id AND {result_is_known(as_of)} OFFSET 0)"
    )


def market_is_known(as_of: LiteralString) -> LiteralString:
    """Condition on a market `m`: it is listed, and was stored by then. For readers of markets without their results."""
    # Most rows were last written before: of these no result need be looked up.
    return f"{market_is_listed(as_of)} AND (m.processed_at < {as_of} OR {market_has_results(as_of)})"


def result_is_known(as_of: LiteralString) -> LiteralString:
    """Condition on a result `r`: it was stored by then. Rows of before that was kept count as known."""
    return f"coalesce(r.stored_at, '-infinity'::timestamptz) <= {as_of}"


def newest_observation(columns: LiteralString, as_of: LiteralString | None = None) -> LiteralString:
    """Query of the newest observation `o` of a market `m`: no row, or one.

    Args:
        as_of: None for the newest of all.
    """
    known = "" if as_of is None else f" AND o.observed_at <= {as_of}"
    return (
        f"SELECT {columns} FROM predictbench.resolution_observations o"  # noqa: S608 - names of ours
        f" WHERE o.market_id = m.market_id{known} ORDER BY {NEWEST_FIRST} LIMIT 1"
    )


def newest_observations(columns: LiteralString, where: LiteralString) -> LiteralString:
    """Query of the newest observation `o` of each market, in the order of their ids.

    Args:
        where: a condition on the observations `o` that are known.
    """
    return (
        f"SELECT DISTINCT ON (o.market_id) {columns} FROM predictbench.resolution_observations o"  # noqa: S608
        f" WHERE {where} ORDER BY o.market_id, {NEWEST_FIRST}"
    )
