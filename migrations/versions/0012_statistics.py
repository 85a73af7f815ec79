"""How many results a market has, said to the planner, which cannot tell from what it samples."""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

TABLE = "predictbench.experiment_results"


def upgrade() -> None:
    # The results of a market lie together, so a sample of pages has some of them several times: with 25 million results
    # it makes 330 of a market's ten, and whoever reads a run, or some markets, is made to read all that there are.
    op.execute(f"ALTER TABLE {TABLE} ALTER COLUMN processed_market_id SET (n_distinct = -0.1)")
    op.execute(f"ANALYZE {TABLE} (processed_market_id)")  # a second, however large the table; writers go on


def downgrade() -> None:
    op.execute(f"ALTER TABLE {TABLE} ALTER COLUMN processed_market_id RESET (n_distinct)")
    op.execute(f"ANALYZE {TABLE} (processed_market_id)")
