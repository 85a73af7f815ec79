"""What a year of unattended running needs: days that were missed, and raw snapshots that leave the database."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_STATUSES = "'running', 'completed', 'partial', 'failed', 'interrupted'"


def upgrade() -> None:
    _replace_statuses(f"{_STATUSES}, 'missed'")
    op.create_table(
        "archives",
        sa.Column("archive_id", sa.Uuid(), nullable=False),
        sa.Column("uri", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("archive_id", name=op.f("pk_archives")),
        schema="predictbench",
    )
    op.add_column("processed_markets", sa.Column("raw_archive_id", sa.Uuid(), nullable=True), schema="predictbench")
    op.create_foreign_key(
        op.f("fk_processed_markets_raw_archive_id"),
        "processed_markets",
        "archives",
        ["raw_archive_id"],
        ["archive_id"],
        source_schema="predictbench",
        referent_schema="predictbench",
    )
    op.create_index(
        op.f("ix_processed_markets_raw_archive_id"), "processed_markets", ["raw_archive_id"], schema="predictbench"
    )
    op.alter_column("processed_markets", "raw_snapshot", nullable=True, schema="predictbench")
    _take_archives_back()
    op.create_check_constraint(
        op.f("ck_processed_markets_raw_kept"),
        "processed_markets",
        "raw_snapshot IS NOT NULL OR raw_archive_id IS NOT NULL",
        schema="predictbench",
    )


def downgrade() -> None:
    # The older schema has no word for a missed day, and none for archives: which one a raw snapshot was moved to is
    # kept in its place, and found there by the next upgrade.
    op.execute("DELETE FROM predictbench.processing_runs WHERE status = 'missed'")
    op.drop_constraint(op.f("ck_processed_markets_raw_kept"), "processed_markets", schema="predictbench")
    op.execute(
        "UPDATE predictbench.processed_markets"
        " SET raw_snapshot = jsonb_build_object('predictbench_archive', to_jsonb(a))"
        " FROM predictbench.archives a WHERE a.archive_id = raw_archive_id AND raw_snapshot IS NULL"
    )
    op.alter_column("processed_markets", "raw_snapshot", nullable=False, schema="predictbench")
    op.drop_column("processed_markets", "raw_archive_id", schema="predictbench")
    op.drop_table("archives", schema="predictbench")
    _replace_statuses(_STATUSES)


def _take_archives_back() -> None:
    """What an earlier step down from here has left in the rows."""
    op.execute(
        "INSERT INTO predictbench.archives SELECT DISTINCT a.* FROM predictbench.processed_markets,"
        " jsonb_populate_record(CAST(NULL AS predictbench.archives), raw_snapshot -> 'predictbench_archive') a"
        " WHERE jsonb_exists(raw_snapshot, 'predictbench_archive')"
    )
    op.execute(
        "UPDATE predictbench.processed_markets SET raw_snapshot = NULL,"
        " raw_archive_id = CAST(raw_snapshot -> 'predictbench_archive' ->> 'archive_id' AS uuid)"
        " WHERE jsonb_exists(raw_snapshot, 'predictbench_archive')"
    )


def _replace_statuses(allowed: str) -> None:
    name = op.f("ck_processing_runs_status_known")
    op.drop_constraint(name, "processing_runs", schema="predictbench")
    op.create_check_constraint(name, "processing_runs", f"status IN ({allowed})", schema="predictbench")
