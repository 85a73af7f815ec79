"""A row for each request to a paid model: its intent before it goes out, its outcome after it."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

SCHEMA = "predictbench"
STATUSES = "'answered', 'refused', 'truncated', 'invalid', 'failed', 'unknown'"


def upgrade() -> None:
    op.create_table(
        "model_calls",
        sa.Column("call_id", sa.Uuid(), nullable=False),
        sa.Column("run_date", sa.Date(), nullable=False),
        sa.Column("window_days", sa.Integer(), nullable=False),
        sa.Column("experiment", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("config_hash", sa.Text(), nullable=False),
        sa.Column("snapshot_hash", sa.Text(), nullable=False),
        sa.Column("unit", sa.Text(), nullable=False),
        sa.Column("unit_id", sa.Text(), nullable=False),
        sa.Column("sample", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("model_asked", sa.Text(), nullable=False),
        sa.Column("model_returned", sa.Text(), nullable=True),
        sa.Column("prompt_hash", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("response_id", sa.Text(), nullable=True),
        sa.Column("finish_reason", sa.Text(), nullable=True),
        *(
            sa.Column(f"{kind}_tokens", sa.BigInteger(), nullable=True)
            for kind in ("reserved", "input", "cached", "output", "reasoning")
        ),
        sa.Column("reserved_cost", sa.Numeric(), nullable=True),
        sa.Column("cost", sa.Numeric(), nullable=True),
        sa.Column("price_table", sa.Text(), nullable=True),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("answered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "claimed_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("transcript_uri", sa.Text(), nullable=True),
        sa.Column("transcript_line", sa.Integer(), nullable=True),
        sa.Column("batch_id", sa.Text(), nullable=True),
        sa.CheckConstraint("unit IN ('market', 'event', 'cohort')", name=op.f("ck_model_calls_unit_known")),
        sa.CheckConstraint(f"status IN ({STATUSES})", name=op.f("ck_model_calls_status_known")),
        sa.CheckConstraint(
            "least(sample, attempt, reserved_tokens, input_tokens, cached_tokens, output_tokens, reasoning_tokens) >= 0"
            " AND reserved_cost BETWEEN 0 AND 1e12 AND cost BETWEEN 0 AND 1e12",
            name=op.f("ck_model_calls_amounts"),
        ),
        sa.PrimaryKeyConstraint("call_id", name=op.f("pk_model_calls")),
        schema=SCHEMA,
    )
    # What a run of an experiment has asked before, what a day has cost, and how many went to a provider just now.
    op.create_index(
        op.f("ix_model_calls_run_date_window_days_experiment"),
        "model_calls",
        ["run_date", "window_days", "experiment"],
        schema=SCHEMA,
    )
    op.create_index(op.f("ix_model_calls_asked_at"), "model_calls", ["asked_at"], schema=SCHEMA)
    op.create_index(op.f("ix_model_calls_claimed_at"), "model_calls", ["claimed_at"], schema=SCHEMA)


def downgrade() -> None:
    op.drop_table("model_calls", schema=SCHEMA)
