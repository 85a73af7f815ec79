"""What keeps its time after years: a run's newest results, and the raw snapshots that are not archived yet."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

SCHEMA = "predictbench"

LATEST_EXPERIMENT_RESULTS = """
CREATE OR REPLACE VIEW predictbench.latest_experiment_results AS
SELECT DISTINCT ON ({one})
    m.processed_market_id, m.run_id, m.market_id, p.run_date, p.window_days, m.withdrawn_at,
    e.name AS experiment, e.version, er.attempt, r.experiment_run_id, r.experiment_result_id,
    r.status, r.reason, r.exception_type, r.probability, r.probabilities, r.score, r.artifact_uri,
    r.forecast_at, r.snapshot_hash, r.config_hash
FROM predictbench.experiment_results r
JOIN predictbench.experiment_runs er ON er.experiment_run_id = r.experiment_run_id
JOIN predictbench.experiments e ON e.experiment_id = er.experiment_id
JOIN predictbench.processed_markets m ON m.processed_market_id = r.processed_market_id
JOIN predictbench.processing_runs p ON p.run_id = m.run_id
-- An attempt that did not get to a market never hides one that did.
ORDER BY {one}, (r.status = 'not_run'), er.attempt DESC
"""
ONE = "m.processed_market_id, e.name"
# What follows from these two is named as well: the server looks for rows by a column of DISTINCT ON before it sorts,
# and by any other one after all rows there are have been sorted.
WITH_ALL_THAT_FOLLOWS = f"{ONE}, m.run_id, m.market_id, p.run_date, p.window_days, m.withdrawn_at"

# By table, name and definition: `database/migrations.py` builds them before this revision, where there may be rows.
INDEXES_AHEAD = {
    "processed_markets": {"ix_processed_markets_raw": "(run_id) WHERE raw_snapshot IS NOT NULL"},
}


def upgrade() -> None:
    op.execute(LATEST_EXPERIMENT_RESULTS.format(one=WITH_ALL_THAT_FOLLOWS))
    for table, indexes in INDEXES_AHEAD.items():
        for name, definition in indexes.items():
            # Asked first: IF NOT EXISTS would wait for those who write, and have others wait, to find that it exists.
            if (
                op.get_context().as_sql
                or op.get_bind().scalar(sa.select(sa.func.to_regclass(f"{SCHEMA}.{name}"))) is None
            ):
                op.execute(f"CREATE INDEX {name} ON {SCHEMA}.{table} {definition}")


def downgrade() -> None:
    op.drop_index("ix_processed_markets_raw", "processed_markets", schema=SCHEMA)
    op.execute(LATEST_EXPERIMENT_RESULTS.format(one=ONE))
