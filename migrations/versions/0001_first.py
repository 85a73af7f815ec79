"""The tables and views of the daily run, and the ledger of resolutions.

Everything that a run stores has its column from the first revision on, because columns added later stay empty for the
days that are past. Long JSON is compressed with lz4 where the server was built with it: a quarter faster to write.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


LATEST_EXPERIMENT_RESULTS = """
CREATE VIEW predictbench.latest_experiment_results AS
SELECT DISTINCT ON (m.processed_market_id, e.name)
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
ORDER BY m.processed_market_id, e.name, (r.status = 'not_run'), er.attempt DESC
"""

MARKET_RESOLUTIONS = """
CREATE VIEW predictbench.market_resolutions AS
SELECT DISTINCT ON (market_id) market_id, state, outcome, closed_time, observed_at, source
FROM predictbench.resolution_observations
ORDER BY market_id, observed_at DESC, observation_id
"""

LZ4 = """
DO $$ BEGIN
    ALTER TABLE predictbench.processed_markets ALTER COLUMN raw_snapshot SET COMPRESSION lz4;
    ALTER TABLE predictbench.experiment_results ALTER COLUMN payload SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported THEN
    RAISE DEBUG 'this server was built without lz4';
END $$
"""


def upgrade() -> None:
    op.create_table(
        "events",
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("slug", sa.Text(), nullable=True),
        sa.Column("title", sa.Text(), nullable=True),
        sa.Column("neg_risk", sa.Boolean(), nullable=False),
        sa.CheckConstraint(
            "char_length(event_id) <= 255 AND char_length(slug) <= 500 AND char_length(title) <= 2000",
            name=op.f("ck_events_lengths"),
        ),
        sa.PrimaryKeyConstraint("event_id", name=op.f("pk_events")),
        schema="predictbench",
    )
    op.create_table(
        "experiments",
        sa.Column("experiment_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("information", sa.Text(), nullable=False),
        sa.Column("mandatory", sa.Boolean(), nullable=False),
        sa.Column("is_active", sa.Boolean(), nullable=False),
        sa.CheckConstraint(
            "information IN ('blind', 'market', 'search')", name=op.f("ck_experiments_information_known")
        ),
        sa.CheckConstraint(
            "char_length(name) <= 500 AND char_length(version) <= 100", name=op.f("ck_experiments_lengths")
        ),
        sa.PrimaryKeyConstraint("experiment_id", name=op.f("pk_experiments")),
        sa.UniqueConstraint("name", "version", name=op.f("uq_experiments_name_version")),
        schema="predictbench",
    )
    op.create_table(
        "processing_runs",
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("run_date", sa.Date(), nullable=False),
        sa.Column("window_days", sa.Integer(), nullable=False),
        sa.Column("target_date", sa.Date(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("heartbeat_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("dagster_run_id", sa.Text(), nullable=False),
        sa.Column("exchange", sa.Text(), nullable=False),
        sa.Column("offered_markets", sa.Integer(), nullable=True),
        sa.Column("excluded_markets", sa.Integer(), nullable=True),
        sa.Column("rejected_markets", sa.Integer(), nullable=True),
        sa.Column("total_markets", sa.Integer(), nullable=True),
        sa.Column("processed_markets", sa.Integer(), nullable=True),
        sa.Column("failed_markets", sa.Integer(), nullable=True),
        sa.Column("excluded_by_reason", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("stage", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("snapshot_hash", sa.Text(), nullable=True),
        sa.Column("git_sha", sa.Text(), nullable=True),
        sa.Column("summary", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.CheckConstraint(
            "status IN ('running', 'completed', 'partial', 'failed', 'interrupted')",
            name=op.f("ck_processing_runs_status_known"),
        ),
        sa.CheckConstraint(
            "status NOT IN ('completed', 'partial') OR coalesce("
            "offered_markets = excluded_markets + rejected_markets + failed_markets + processed_markets"
            " AND total_markets = failed_markets + processed_markets"
            " AND least(excluded_markets, rejected_markets, failed_markets, processed_markets) >= 0, false)",
            name=op.f("ck_processing_runs_counts_add_up"),
        ),
        sa.CheckConstraint("attempt >= 1", name=op.f("ck_processing_runs_attempt_positive")),
        sa.CheckConstraint("target_date = run_date + window_days", name=op.f("ck_processing_runs_target_date")),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_processing_runs")),
        sa.UniqueConstraint("run_date", "window_days", name=op.f("uq_processing_runs_run_date_window_days")),
        schema="predictbench",
    )
    op.create_table(
        "resolution_observations",
        sa.Column("observation_id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("market_id", sa.Text(), nullable=False),
        sa.Column("observed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("payout", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("outcome", sa.Double(), nullable=True),
        sa.Column("closed_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("raw", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.CheckConstraint(
            "state IN ('open', 'proposed', 'disputed', 'final', 'gave_up')",
            name=op.f("ck_resolution_observations_state_known"),
        ),
        sa.CheckConstraint("char_length(market_id) <= 255", name=op.f("ck_resolution_observations_lengths")),
        sa.CheckConstraint("outcome >= 0 AND outcome <= 1", name=op.f("ck_resolution_observations_outcome_in_unit")),
        sa.PrimaryKeyConstraint("observation_id", name=op.f("pk_resolution_observations")),
        schema="predictbench",
    )
    op.create_index(
        "ix_resolution_observations_newest",
        "resolution_observations",
        ["market_id", sa.literal_column("observed_at DESC")],
        unique=False,
        schema="predictbench",
    )
    op.create_table(
        "snapshots",
        sa.Column("snapshot_id", sa.Uuid(), nullable=False),
        sa.Column("run_date", sa.Date(), nullable=False),
        sa.Column("window_days", sa.Integer(), nullable=False),
        sa.Column("captured_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("content_hash", sa.Text(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("uri", sa.Text(), nullable=False),
        sa.Column("exchange", sa.Text(), nullable=False),
        sa.Column("quotes_source", sa.Text(), nullable=False),
        sa.Column("superseded_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("api", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.PrimaryKeyConstraint("snapshot_id", name=op.f("pk_snapshots")),
        schema="predictbench",
    )
    op.create_index(
        "uq_snapshots_current",
        "snapshots",
        ["run_date", "window_days"],
        unique=True,
        schema="predictbench",
        postgresql_where=sa.text("superseded_at IS NULL"),
    )
    op.create_table(
        "experiment_runs",
        sa.Column("experiment_run_id", sa.Uuid(), nullable=False),
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("experiment_id", sa.Uuid(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("content_hash", sa.Text(), nullable=False),
        sa.Column("snapshot_hash", sa.Text(), nullable=True),
        sa.Column("config_hash", sa.Text(), nullable=True),
        sa.Column("completed", sa.Integer(), nullable=True),
        sa.Column("skipped", sa.Integer(), nullable=True),
        sa.Column("failed", sa.Integer(), nullable=True),
        sa.Column("dagster_run_id", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "status IN ('completed', 'failed', 'not_run')", name=op.f("ck_experiment_runs_status_known")
        ),
        sa.ForeignKeyConstraint(
            ["experiment_id"], ["predictbench.experiments.experiment_id"], name=op.f("fk_experiment_runs_experiment_id")
        ),
        sa.ForeignKeyConstraint(
            ["run_id"],
            ["predictbench.processing_runs.run_id"],
            name=op.f("fk_experiment_runs_run_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("experiment_run_id", name=op.f("pk_experiment_runs")),
        sa.UniqueConstraint(
            "run_id", "experiment_id", "attempt", name=op.f("uq_experiment_runs_run_id_experiment_id_attempt")
        ),
        schema="predictbench",
    )
    op.create_index(
        op.f("ix_experiment_runs_experiment_id"),
        "experiment_runs",
        ["experiment_id"],
        unique=False,
        schema="predictbench",
    )
    op.create_table(
        "processed_markets",
        sa.Column("processed_market_id", sa.Uuid(), nullable=False),
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("market_id", sa.Text(), nullable=False),
        sa.Column("market_slug", sa.Text(), nullable=False),
        sa.Column("question", sa.Text(), nullable=False),
        sa.Column("close_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("raw_snapshot", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("processed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("condition_id", sa.Text(), nullable=True),
        sa.Column("event_id", sa.Text(), nullable=True),
        sa.Column("cluster", sa.Text(), nullable=False),
        sa.Column("category", sa.Text(), nullable=False),
        sa.Column("series_slug", sa.Text(), nullable=True),
        sa.Column("game_id", sa.Text(), nullable=True),
        sa.Column("neg_risk", sa.Boolean(), nullable=False),
        sa.Column("neg_risk_market_id", sa.Text(), nullable=True),
        sa.Column("captured_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("price", sa.Double(), nullable=True),
        sa.Column("bid", sa.Double(), nullable=True),
        sa.Column("ask", sa.Double(), nullable=True),
        sa.Column("spread", sa.Double(), nullable=True),
        sa.Column("price_source", sa.Text(), nullable=False),
        sa.Column("price_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("price_quality", sa.Text(), nullable=False),
        sa.Column("volume", sa.Double(), nullable=True),
        sa.Column("liquidity", sa.Double(), nullable=True),
        sa.Column("core", sa.Boolean(), nullable=False),
        sa.Column("core_weight", sa.Double(), nullable=True),
        sa.Column("snapshot_hash", sa.Text(), nullable=True),
        sa.Column("reconstructed", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("withdrawn_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "core_weight > '-Infinity'::float8 AND core_weight < 'Infinity'::float8",
            name=op.f("ck_processed_markets_core_weight_finite"),
        ),
        sa.CheckConstraint(
            "liquidity > '-Infinity'::float8 AND liquidity < 'Infinity'::float8",
            name=op.f("ck_processed_markets_liquidity_finite"),
        ),
        sa.CheckConstraint(
            "price_quality IN ('good', 'thin', 'none')", name=op.f("ck_processed_markets_price_quality_known")
        ),
        sa.CheckConstraint(
            "price_source IN ('clob', 'gamma', 'none')", name=op.f("ck_processed_markets_price_source_known")
        ),
        sa.CheckConstraint(
            "spread > '-Infinity'::float8 AND spread < 'Infinity'::float8",
            name=op.f("ck_processed_markets_spread_finite"),
        ),
        sa.CheckConstraint(
            "volume > '-Infinity'::float8 AND volume < 'Infinity'::float8",
            name=op.f("ck_processed_markets_volume_finite"),
        ),
        sa.CheckConstraint("ask >= 0 AND ask <= 1", name=op.f("ck_processed_markets_ask_in_unit")),
        sa.CheckConstraint("bid >= 0 AND bid <= 1", name=op.f("ck_processed_markets_bid_in_unit")),
        sa.CheckConstraint(
            "char_length(market_id) <= 255 AND char_length(market_slug) <= 500 AND char_length(question) <= 2000"
            " AND char_length(condition_id) <= 255 AND char_length(cluster) <= 500 AND char_length(category) <= 255"
            " AND char_length(series_slug) <= 500 AND char_length(game_id) <= 255"
            " AND char_length(neg_risk_market_id) <= 255",
            name=op.f("ck_processed_markets_lengths"),
        ),
        sa.CheckConstraint("price >= 0 AND price <= 1", name=op.f("ck_processed_markets_price_in_unit")),
        sa.ForeignKeyConstraint(
            ["event_id"], ["predictbench.events.event_id"], name=op.f("fk_processed_markets_event_id")
        ),
        sa.ForeignKeyConstraint(
            ["run_id"],
            ["predictbench.processing_runs.run_id"],
            name=op.f("fk_processed_markets_run_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("processed_market_id", name=op.f("pk_processed_markets")),
        sa.UniqueConstraint("run_id", "market_id", name=op.f("uq_processed_markets_run_id_market_id")),
        schema="predictbench",
    )
    op.create_index(
        op.f("ix_processed_markets_close_time"),
        "processed_markets",
        ["close_time"],
        unique=False,
        schema="predictbench",
    )
    op.create_index(
        op.f("ix_processed_markets_event_id"), "processed_markets", ["event_id"], unique=False, schema="predictbench"
    )
    op.create_index(
        op.f("ix_processed_markets_market_id"), "processed_markets", ["market_id"], unique=False, schema="predictbench"
    )
    op.create_index(
        op.f("ix_processed_markets_run_id"), "processed_markets", ["run_id"], unique=False, schema="predictbench"
    )
    op.create_table(
        "processing_attempts",
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("dagster_run_id", sa.Text(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("heartbeat_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "status IN ('running', 'completed', 'partial', 'failed', 'interrupted')",
            name=op.f("ck_processing_attempts_status_known"),
        ),
        sa.ForeignKeyConstraint(
            ["run_id"],
            ["predictbench.processing_runs.run_id"],
            name=op.f("fk_processing_attempts_run_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("run_id", "attempt", name=op.f("pk_processing_attempts")),
        sa.UniqueConstraint("dagster_run_id", name=op.f("uq_processing_attempts_dagster_run_id")),
        schema="predictbench",
    )
    op.create_table(
        "processing_failures",
        sa.Column("failure_id", sa.Uuid(), nullable=False),
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("market_id", sa.Text(), nullable=True),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("experiment", sa.Text(), nullable=True),
        sa.Column("field", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("exception_type", sa.Text(), nullable=True),
        sa.Column("retriable", sa.Boolean(), nullable=False),
        sa.Column("logged_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"],
            ["predictbench.processing_runs.run_id"],
            name=op.f("fk_processing_failures_run_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("failure_id", name=op.f("pk_processing_failures")),
        schema="predictbench",
    )
    op.create_index(
        op.f("ix_processing_failures_run_id_attempt"),
        "processing_failures",
        ["run_id", "attempt"],
        unique=False,
        schema="predictbench",
    )
    op.create_table(
        "experiment_results",
        sa.Column("experiment_result_id", sa.Uuid(), nullable=False),
        sa.Column("experiment_run_id", sa.Uuid(), nullable=False),
        sa.Column("processed_market_id", sa.Uuid(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("exception_type", sa.Text(), nullable=True),
        sa.Column("probability", sa.Double(), nullable=True),
        sa.Column("probabilities", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("payload", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("score", sa.Double(), nullable=True),
        sa.Column("artifact_uri", sa.Text(), nullable=True),
        sa.Column("diagnostics", postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), nullable=True),
        sa.Column("forecast_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("snapshot_hash", sa.Text(), nullable=True),
        sa.Column("config_hash", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "score > '-Infinity'::float8 AND score < 'Infinity'::float8",
            name=op.f("ck_experiment_results_score_finite"),
        ),
        sa.CheckConstraint(
            "status IN ('completed', 'skipped', 'failed', 'not_run')", name=op.f("ck_experiment_results_status_known")
        ),
        sa.CheckConstraint(
            "char_length(artifact_uri) <= 2000 AND char_length(exception_type) <= 255",
            name=op.f("ck_experiment_results_lengths"),
        ),
        sa.CheckConstraint(
            "probability >= 0 AND probability <= 1", name=op.f("ck_experiment_results_probability_in_unit")
        ),
        sa.ForeignKeyConstraint(
            ["experiment_run_id"],
            ["predictbench.experiment_runs.experiment_run_id"],
            name=op.f("fk_experiment_results_experiment_run_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["processed_market_id"],
            ["predictbench.processed_markets.processed_market_id"],
            name=op.f("fk_experiment_results_processed_market_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("experiment_result_id", name=op.f("pk_experiment_results")),
        sa.UniqueConstraint(
            "experiment_run_id",
            "processed_market_id",
            name=op.f("uq_experiment_results_experiment_run_id_processed_market_id"),
        ),
        schema="predictbench",
    )
    op.create_index(
        op.f("ix_experiment_results_processed_market_id"),
        "experiment_results",
        ["processed_market_id"],
        unique=False,
        schema="predictbench",
    )
    op.create_table(
        "processed_contracts",
        sa.Column("processed_contract_id", sa.Uuid(), nullable=False),
        sa.Column("processed_market_id", sa.Uuid(), nullable=False),
        sa.Column("contract_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("price", sa.Double(), nullable=True),
        sa.Column("metadata", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.CheckConstraint(
            "char_length(contract_id) <= 255 AND char_length(name) <= 500", name=op.f("ck_processed_contracts_lengths")
        ),
        sa.CheckConstraint("price >= 0 AND price <= 1", name=op.f("ck_processed_contracts_price_in_unit")),
        sa.ForeignKeyConstraint(
            ["processed_market_id"],
            ["predictbench.processed_markets.processed_market_id"],
            name=op.f("fk_processed_contracts_processed_market_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("processed_contract_id", name=op.f("pk_processed_contracts")),
        sa.UniqueConstraint(
            "processed_market_id", "contract_id", name=op.f("uq_processed_contracts_processed_market_id_contract_id")
        ),
        schema="predictbench",
    )
    op.execute(LATEST_EXPERIMENT_RESULTS)
    op.execute(MARKET_RESOLUTIONS)
    op.execute(LZ4)


def downgrade() -> None:
    op.execute("DROP VIEW predictbench.market_resolutions")
    op.execute("DROP VIEW predictbench.latest_experiment_results")
    op.drop_table("processed_contracts", schema="predictbench")
    op.drop_index(
        op.f("ix_experiment_results_processed_market_id"), table_name="experiment_results", schema="predictbench"
    )
    op.drop_table("experiment_results", schema="predictbench")
    op.drop_index(
        op.f("ix_processing_failures_run_id_attempt"), table_name="processing_failures", schema="predictbench"
    )
    op.drop_table("processing_failures", schema="predictbench")
    op.drop_table("processing_attempts", schema="predictbench")
    op.drop_index(op.f("ix_processed_markets_run_id"), table_name="processed_markets", schema="predictbench")
    op.drop_index(op.f("ix_processed_markets_market_id"), table_name="processed_markets", schema="predictbench")
    op.drop_index(op.f("ix_processed_markets_event_id"), table_name="processed_markets", schema="predictbench")
    op.drop_index(op.f("ix_processed_markets_close_time"), table_name="processed_markets", schema="predictbench")
    op.drop_table("processed_markets", schema="predictbench")
    op.drop_index(op.f("ix_experiment_runs_experiment_id"), table_name="experiment_runs", schema="predictbench")
    op.drop_table("experiment_runs", schema="predictbench")
    op.drop_index(
        "uq_snapshots_current",
        table_name="snapshots",
        schema="predictbench",
        postgresql_where=sa.text("superseded_at IS NULL"),
    )
    op.drop_table("snapshots", schema="predictbench")
    op.drop_index("ix_resolution_observations_newest", table_name="resolution_observations", schema="predictbench")
    op.drop_table("resolution_observations", schema="predictbench")
    op.drop_table("processing_runs", schema="predictbench")
    op.drop_table("experiments", schema="predictbench")
    op.drop_table("events", schema="predictbench")
