"""What counts at a moment, as pieces of SQL: every reader of the past means the same by it.

`as_of` is the placeholder of the moment, as the caller's driver writes it; the other arguments are names in its query.
"""

RESULTS_OF_AN_ATTEMPT = "coalesce(greatest(a.completed + a.skipped + a.failed, p.processed_markets), 0)"
"""About how many results an attempt `a` of a run `p` has: for reading in portions."""


def run_counts(run: str, as_of: str) -> str:
    """A run counts from the end of its first complete attempt on, whatever later attempts come to.

    A partial one counts as well: `--limit` is refused in production, and whoever tries something on fifty markets
    wants to see them on the board, in the release and in `history()`, or in none of these.
    """
    return (
        "EXISTS (SELECT FROM predictbench.processing_attempts ended"
        f" WHERE ended.run_id = {run}.run_id AND ended.status IN ('completed', 'partial')"
        f" AND ended.finished_at <= {as_of})"
    )


def market_listed(as_of: str) -> str:
    """A market `m` of a run counts from its capture until it is withdrawn."""
    return f"m.captured_at <= {as_of} AND (m.withdrawn_at IS NULL OR m.withdrawn_at > {as_of})"


def newest_observation(as_of: str) -> str:
    """The observation that holds of a market `m`: the newest one."""
    return (
        "SELECT o.state, o.outcome, o.closed_time FROM predictbench.resolution_observations o"  # noqa: S608 - names of ours
        f" WHERE o.market_id = m.market_id AND o.observed_at <= {as_of}"
        " ORDER BY o.observed_at DESC, o.observation_id LIMIT 1"
    )
