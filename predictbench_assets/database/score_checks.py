"""What must hold of stored scores, counted by the database."""

import math
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, text

from predictbench_assets.database.errors import in_transaction
from predictbench_assets.experiments.baseline import BaselineSnapshotExperiment

_ROUNDING = 1e-9

# One that is not a number is greater than every number.
_PROBLEMS = text("""
    SELECT count(*) AS scores,
        count(*) FILTER (WHERE NOT (s.brier BETWEEN 0 AND 1 AND s.log_loss BETWEEN 0 AND :longest
            AND coalesce(s.edge, 0) BETWEEN -1 AND 1 AND coalesce(s.disagreement, 0) BETWEEN 0 AND 1)) AS out_of_range,
        count(*) FILTER (WHERE e.name = :reference) AS reference_scores,
        count(*) FILTER (WHERE e.name = :reference AND s.edge <> 0) AS reference_edges
    FROM predictbench.experiment_scores s
    JOIN predictbench.experiment_results USING (experiment_result_id)
    JOIN predictbench.experiment_runs USING (experiment_run_id)
    JOIN predictbench.experiments e USING (experiment_id)""")


@dataclass(frozen=True)
class ScoreProblems:
    """Numbers of stored scores."""

    scores: int
    out_of_range: int
    reference_scores: int
    """Of the market's own price."""
    reference_edges: int
    """Of these, the ones with another edge than 0."""


def score_problems(engine: Engine) -> ScoreProblems:
    """Count the scores that cannot be.

    Raises:
        DatabaseUnavailable, DatabaseRefused: as the names say.
    """
    from predictbench_assets.scoring.rules import CLIP_LOW  # with numpy, which a daily run does not load

    longest = -math.log(CLIP_LOW) + _ROUNDING
    values = {"reference": BaselineSnapshotExperiment.name, "longest": longest}

    def work(connection: Connection) -> ScoreProblems:
        return ScoreProblems(**connection.execute(_PROBLEMS, values).one()._asdict())

    return in_transaction(engine, work)
