"""Experiments that prepare what others require and give no forecast; forecasts that cite a market's price."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

SCHEMA = "predictbench"


def upgrade() -> None:
    yes, no = sa.text("true"), sa.text("false")
    op.add_column(
        "experiments", sa.Column("forecasts", sa.Boolean(), nullable=False, server_default=yes), schema=SCHEMA
    )
    op.add_column(
        "experiment_results", sa.Column("leaked", sa.Boolean(), nullable=False, server_default=no), schema=SCHEMA
    )


def downgrade() -> None:
    op.drop_column("experiment_results", "leaked", schema=SCHEMA)
    op.drop_column("experiments", "forecasts", schema=SCHEMA)
