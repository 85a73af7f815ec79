"""What is to be scored, noted where it comes about, so that scoring needs not read all that was ever stored."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

SCHEMA = "predictbench"

# Whatever a score is made of: the newest observation, the forecast, the price. In triggers, so that neither a program
# nor a person can change one of them without its being seen. Scores of an older version of the rules are found by
# `scored_runs`.
NOTERS = {
    "note_observed_markets": """
        INSERT INTO predictbench.scores_due (market_id) SELECT DISTINCT market_id FROM added;
        RETURN NULL;""",
    "note_forecast_runs": """
        INSERT INTO predictbench.scores_due (run_id)
        SELECT DISTINCT a.run_id FROM (SELECT DISTINCT experiment_run_id FROM added WHERE probability IS NOT NULL) r
        JOIN predictbench.experiment_runs a USING (experiment_run_id);
        RETURN NULL;""",
    "note_priced_run": """
        INSERT INTO predictbench.scores_due (run_id) VALUES (NEW.run_id);
        RETURN NULL;""",
}
TRIGGERS = {
    "resolution_observations": """
        CREATE TRIGGER scores_due AFTER INSERT ON predictbench.resolution_observations
        REFERENCING NEW TABLE AS added
        FOR EACH STATEMENT EXECUTE FUNCTION predictbench.note_observed_markets()""",
    "experiment_results": """
        CREATE TRIGGER scores_due AFTER INSERT ON predictbench.experiment_results
        REFERENCING NEW TABLE AS added
        FOR EACH STATEMENT EXECUTE FUNCTION predictbench.note_forecast_runs()""",
    "processed_markets": """
        CREATE TRIGGER scores_due AFTER UPDATE OF price, snapshot_hash ON predictbench.processed_markets
        FOR EACH ROW WHEN ((OLD.price, OLD.snapshot_hash) IS DISTINCT FROM (NEW.price, NEW.snapshot_hash))
        EXECUTE FUNCTION predictbench.note_priced_run()""",
}


def upgrade() -> None:
    _make_scores_due()
    _make_scored_runs()
    for name, body in NOTERS.items():
        op.execute(
            f"CREATE FUNCTION {SCHEMA}.{name}() RETURNS trigger LANGUAGE plpgsql SET search_path = '' AS"
            f" $$BEGIN{body}\n    END$$"
        )
    for trigger in TRIGGERS.values():
        op.execute(trigger)
    # After the triggers, which wait for whoever is writing: what was stored before is looked at once, whole.
    op.execute("INSERT INTO predictbench.scores_due (run_id) SELECT run_id FROM predictbench.processing_runs")


def downgrade() -> None:
    for table in TRIGGERS:
        op.execute(f"DROP TRIGGER scores_due ON {SCHEMA}.{table}")
    for name in NOTERS:
        op.execute(f"DROP FUNCTION {SCHEMA}.{name}()")
    op.drop_table("scored_runs", schema=SCHEMA)
    op.drop_table("scores_due", schema=SCHEMA)


def _make_scores_due() -> None:
    op.create_table(
        "scores_due",
        sa.Column("due_id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("market_id", sa.Text(), nullable=True),
        sa.Column("run_id", sa.Uuid(), nullable=True),
        sa.CheckConstraint("num_nonnulls(market_id, run_id) = 1", name=op.f("ck_scores_due_one_of_both")),
        sa.PrimaryKeyConstraint("due_id", name=op.f("pk_scores_due")),
        schema=SCHEMA,
    )
    op.create_index(op.f("ix_scores_due_market_id"), "scores_due", ["market_id"], schema=SCHEMA)


def _make_scored_runs() -> None:
    op.create_table(
        "scored_runs",
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("scoring_version", sa.Text(), nullable=False),
        sa.Column("forecasts", sa.Integer(), nullable=False),
        sa.Column("scores", sa.Integer(), nullable=False),
        sa.Column("out_of_range", sa.Integer(), nullable=False),
        sa.Column("reference_scores", sa.Integer(), nullable=False),
        sa.Column("reference_edges", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"],
            ["predictbench.processing_runs.run_id"],
            name=op.f("fk_scored_runs_run_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_scored_runs")),
        schema=SCHEMA,
    )
