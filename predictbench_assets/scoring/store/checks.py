"""Checks of stored scores: counted by the database as they are written, and summed up at any time.

Only scoring writes scores, so what was counted of a run stays true until it is scored again, and then it is counted
anew, from the rows as they are stored, in the same transaction. To read all of them each time would find no more but
what a person did to them by hand; for that, runs are entered in `scores_due` by hand too.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Engine, text

from predictbench_assets.database.errors import in_transaction
from predictbench_assets.markets.market import REFERENCE

_ROUNDING: Final = 1e-9

COUNTED: Final = ("forecasts", "scores", "out_of_range", "reference_scores", "reference_edges")
"""The columns of `scored_runs` that `counts_sql` fills."""


@dataclass(frozen=True)
class ScoreProblems:
    """Numbers of stored scores."""

    scores: int
    out_of_range: int
    reference_scores: int
    """Scores of the market's own price."""
    reference_edges: int
    """Scores of the market's own price with another edge than 0."""


def score_problems(engine: Engine) -> ScoreProblems:
    """Sum up what was counted of all stored scores: how many there are, and how many of them cannot be.

    Raises:
        DatabaseUnavailable, DatabaseRefused: the database cannot be reached, or refuses.
    """
    row = in_transaction(engine, lambda connection: connection.execute(_PROBLEMS).one())
    return ScoreProblems(**row._asdict())


_PROBLEMS = text("""
    SELECT coalesce(sum(scores), 0) AS scores, coalesce(sum(out_of_range), 0) AS out_of_range,
        coalesce(sum(reference_scores), 0) AS reference_scores, coalesce(sum(reference_edges), 0) AS reference_edges
    FROM predictbench.scored_runs""")


def counts_sql(markets: str) -> str:
    """A query of the numbers in `COUNTED`, by run; its parameters are those of `counts_values`.

    Args:
        markets: a condition on the markets `m` that are counted.
    """
    # One that is not a number is greater than every number. OFFSET 0 has rows looked up market by market: to read all
    # that there are, for a few markets, may seem cheaper to the planner.
    return f"""
        SELECT m.run_id, count(*) AS forecasts, count(s.brier) AS scores,
            count(*) FILTER (WHERE NOT (s.brier BETWEEN 0 AND 1 AND s.log_loss BETWEEN 0 AND %(longest)s
                AND coalesce(s.edge, 0) BETWEEN -1 AND 1 AND coalesce(s.disagreement, 0) BETWEEN 0 AND 1)
            ) AS out_of_range,
            count(s.brier) FILTER (WHERE e.name = %(reference)s) AS reference_scores,
            count(*) FILTER (WHERE e.name = %(reference)s AND s.edge <> 0) AS reference_edges
        FROM predictbench.processed_markets m
        CROSS JOIN LATERAL (
            SELECT made.experiment_result_id, made.experiment_run_id FROM predictbench.experiment_results made
            WHERE made.processed_market_id = m.processed_market_id
              AND made.status = 'completed' AND made.probability IS NOT NULL
              AND NOT made.leaked OFFSET 0
        ) r
        JOIN predictbench.experiment_runs a USING (experiment_run_id)
        JOIN predictbench.experiments e USING (experiment_id)
        LEFT JOIN LATERAL (
            SELECT scored.brier, scored.log_loss, scored.edge, scored.disagreement
            FROM predictbench.experiment_scores scored
            WHERE scored.experiment_result_id = r.experiment_result_id OFFSET 0
        ) s ON true
        WHERE {markets} GROUP BY m.run_id"""  # noqa: S608 - names of ours


def counts_values() -> Mapping[str, Any]:
    """The parameters of `counts_sql`."""
    from predictbench_assets.scoring.rules import CLIP_LOW  # with numpy, which a daily run does not load

    return {"reference": REFERENCE, "longest": -math.log(CLIP_LOW) + _ROUNDING}
