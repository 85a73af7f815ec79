"""Which markets have not settled, noted where it comes about, so that a sweep need not read all that is stored."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

SCHEMA = "predictbench"

# Whatever makes a market unsettled, or may. In triggers, so that neither a program nor a person can do it without its
# being seen.
NOTED = (
    ("processed_markets", "INSERT", "NEW"),
    ("resolution_observations", "INSERT", "NEW"),
    ("resolution_observations", "UPDATE", "NEW"),
    ("resolution_observations", "DELETE", "OLD"),
)


def upgrade() -> None:
    op.create_table(
        "resolutions_due",
        sa.Column("due_id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("market_id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("due_id", name=op.f("pk_resolutions_due")),
        schema=SCHEMA,
    )
    op.execute("""
        CREATE FUNCTION predictbench.note_unsettled_markets() RETURNS trigger LANGUAGE plpgsql SET search_path = '' AS
        $$BEGIN
        INSERT INTO predictbench.resolutions_due (market_id) SELECT DISTINCT market_id FROM noted;
        RETURN NULL;
    END$$""")
    for table, event, rows in NOTED:
        op.execute(f"""
            CREATE TRIGGER resolutions_due_{event.lower()} AFTER {event} ON {SCHEMA}.{table}
            REFERENCING {rows} TABLE AS noted
            FOR EACH STATEMENT EXECUTE FUNCTION {SCHEMA}.note_unsettled_markets()""")
    # After the triggers, which wait for whoever is writing.
    op.execute("""
        INSERT INTO predictbench.resolutions_due (market_id)
        SELECT DISTINCT market_id FROM predictbench.processed_markets
        LEFT JOIN predictbench.market_resolutions USING (market_id)
        WHERE state IS NULL OR state NOT IN ('final', 'gave_up')""")
    op.create_index(
        "ix_resolution_observations_final",
        "resolution_observations",
        ["observed_at"],
        schema=SCHEMA,
        postgresql_where=sa.text("state = 'final'"),
    )
    op.create_index(
        "ix_resolution_observations_unusual",
        "resolution_observations",
        ["market_id"],
        schema=SCHEMA,
        postgresql_where=sa.text("state = 'gave_up' OR state = 'final' AND outcome NOT IN (0, 1)"),
    )
    op.drop_index(op.f("ix_processed_markets_run_id"), "processed_markets", schema=SCHEMA)
    op.create_index(
        op.f("ix_processed_markets_run_id"),
        "processed_markets",
        ["run_id"],
        schema=SCHEMA,
        postgresql_include=["close_time", "withdrawn_at"],
    )


def downgrade() -> None:
    op.drop_index(op.f("ix_processed_markets_run_id"), "processed_markets", schema=SCHEMA)
    op.create_index(op.f("ix_processed_markets_run_id"), "processed_markets", ["run_id"], schema=SCHEMA)
    op.drop_index("ix_resolution_observations_unusual", "resolution_observations", schema=SCHEMA)
    op.drop_index("ix_resolution_observations_final", "resolution_observations", schema=SCHEMA)
    for table, event, _ in NOTED:
        op.execute(f"DROP TRIGGER resolutions_due_{event.lower()} ON {SCHEMA}.{table}")
    op.execute(f"DROP FUNCTION {SCHEMA}.note_unsettled_markets()")
    op.drop_table("resolutions_due", schema=SCHEMA)
