"""The second half of the benchmark: how markets settled, what forecasts scored, and the boards made of it."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

SCHEMA = "predictbench"


def upgrade() -> None:
    _widen_what_runs_store()
    _make_resolution_checks()
    _make_scores()
    _make_leaderboards()
    _make_digests()


def downgrade() -> None:
    for table in ("forecast_digests", "leaderboard_rows", "leaderboards", "experiment_scores", "resolution_checks"):
        op.drop_table(table, schema=SCHEMA)
    op.drop_column("resolution_observations", "status", schema=SCHEMA)
    op.drop_column("processed_markets", "group_item_threshold", schema=SCHEMA)
    op.drop_column("processed_markets", "group_item_title", schema=SCHEMA)
    op.drop_column("experiment_results", "stored_at", schema=SCHEMA)
    op.drop_column("experiments", "control", schema=SCHEMA)


def _widen_what_runs_store() -> None:
    op.add_column(
        "experiments",
        sa.Column("control", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        schema=SCHEMA,
    )
    # Rows of before count as stored when their attempt had ended: the nearest thing that was kept. Null means that
    # not even that is known, and counts as always.
    op.add_column("experiment_results", sa.Column("stored_at", sa.DateTime(timezone=True)), schema=SCHEMA)
    op.execute(
        "UPDATE predictbench.experiment_results r SET stored_at = coalesce(a.finished_at, a.started_at)"
        " FROM predictbench.experiment_runs a WHERE a.experiment_run_id = r.experiment_run_id"
    )
    op.add_column("processed_markets", sa.Column("group_item_title", sa.Text()), schema=SCHEMA)
    op.add_column("processed_markets", sa.Column("group_item_threshold", sa.Double()), schema=SCHEMA)
    op.add_column("resolution_observations", sa.Column("status", sa.Text()), schema=SCHEMA)


def _make_resolution_checks() -> None:
    op.create_table(
        "resolution_checks",
        sa.Column("market_id", sa.Text(), nullable=False),
        sa.Column("checked_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("checks", sa.Integer(), nullable=False),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("market_id", name=op.f("pk_resolution_checks")),
        schema=SCHEMA,
    )


def _make_scores() -> None:
    op.create_table(
        "experiment_scores",
        sa.Column("experiment_result_id", sa.Uuid(), nullable=False),
        sa.Column("observation_id", sa.Uuid(), nullable=False),
        sa.Column("outcome", sa.Double(), nullable=False),
        sa.Column("brier", sa.Double(), nullable=False),
        sa.Column("log_loss", sa.Double(), nullable=False),
        sa.Column("clipped", sa.Boolean(), nullable=False),
        sa.Column("edge", sa.Double(), nullable=True),
        sa.Column("disagreement", sa.Double(), nullable=True),
        sa.Column("scoring_version", sa.Text(), nullable=False),
        sa.Column("scored_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["experiment_result_id"],
            ["predictbench.experiment_results.experiment_result_id"],
            name=op.f("fk_experiment_scores_experiment_result_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["observation_id"],
            ["predictbench.resolution_observations.observation_id"],
            name=op.f("fk_experiment_scores_observation_id"),
        ),
        sa.PrimaryKeyConstraint("experiment_result_id", name=op.f("pk_experiment_scores")),
        schema=SCHEMA,
    )
    op.create_index(op.f("ix_experiment_scores_observation_id"), "experiment_scores", ["observation_id"], schema=SCHEMA)


def _make_leaderboards() -> None:
    op.create_table(
        "leaderboards",
        sa.Column("leaderboard_id", sa.Uuid(), nullable=False),
        sa.Column("as_of", sa.DateTime(timezone=True), nullable=False),
        sa.Column("computed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("scoring_version", sa.Text(), nullable=False),
        sa.Column("content_hash", sa.Text(), nullable=False),
        sa.Column("detail", JSONB(none_as_null=True), nullable=False),
        sa.PrimaryKeyConstraint("leaderboard_id", name=op.f("pk_leaderboards")),
        schema=SCHEMA,
    )
    op.create_index(op.f("ix_leaderboards_as_of"), "leaderboards", ["as_of"], schema=SCHEMA)
    op.create_table(
        "leaderboard_rows",
        sa.Column("leaderboard_id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("board", sa.Text(), nullable=False),
        sa.Column("window_days", sa.Integer(), nullable=False),
        sa.Column("category", sa.Text(), nullable=False),
        sa.Column("price_bin", sa.Text(), nullable=False),
        sa.Column("experiment", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("n_markets", sa.Integer(), nullable=False),
        sa.Column("n_events", sa.Integer(), nullable=False),
        sa.Column("mean_edge", sa.Double(), nullable=True),
        sa.Column("edge_low", sa.Double(), nullable=True),
        sa.Column("edge_high", sa.Double(), nullable=True),
        sa.Column("rank", sa.Integer(), nullable=True),
        sa.Column("row", JSONB(none_as_null=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["leaderboard_id"],
            ["predictbench.leaderboards.leaderboard_id"],
            name=op.f("fk_leaderboard_rows_leaderboard_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("leaderboard_id", "position", name=op.f("pk_leaderboard_rows")),
        schema=SCHEMA,
    )


def _make_digests() -> None:
    op.create_table(
        "forecast_digests",
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("algorithm", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("forecasts", sa.Integer(), nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"],
            ["predictbench.processing_runs.run_id"],
            name=op.f("fk_forecast_digests_run_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("run_id", "digest", name=op.f("pk_forecast_digests")),
        schema=SCHEMA,
    )
