"""Snapshots that a check refused are kept aside, with the reason, so that they no longer stand for their day."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("snapshots", sa.Column("refused", sa.Text(), nullable=True), schema="predictbench")


def downgrade() -> None:
    op.drop_column("snapshots", "refused", schema="predictbench")
