"""Snapshots that were reconstructed afterwards, of the instant that they show; what a model may know by itself."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

SCHEMA = "predictbench"
WITH_HISTORY = {
    "price_source": ("clob", "gamma", "history", "none"),
    "price_quality": ("good", "thin", "history", "none"),
}


def upgrade() -> None:
    for table in ("processing_runs", "snapshots", "processed_markets"):
        op.add_column(table, sa.Column("as_of", sa.DateTime(timezone=True)), schema=SCHEMA)
    op.add_column("experiments", sa.Column("knowledge_cutoff", sa.Date()), schema=SCHEMA)
    _check_words(WITH_HISTORY)


def downgrade() -> None:
    # Fails where a reconstructed market is stored, which the earlier tables have no place for.
    _check_words({column: tuple(word for word in words if word != "history") for column, words in WITH_HISTORY.items()})
    op.drop_column("experiments", "knowledge_cutoff", schema=SCHEMA)
    for table in ("processed_markets", "snapshots", "processing_runs"):
        op.drop_column(table, "as_of", schema=SCHEMA)


def _check_words(words_of: dict[str, tuple[str, ...]]) -> None:
    for column, words in words_of.items():
        name = f"ck_processed_markets_{column}_known"
        op.drop_constraint(name, "processed_markets", schema=SCHEMA)
        listed = ", ".join(f"'{word}'" for word in words)
        # Not checked against the rows that are there, which were written under the narrower one: no long lock.
        op.execute(
            f"ALTER TABLE {SCHEMA}.processed_markets ADD CONSTRAINT {name} CHECK ({column} IN ({listed})) NOT VALID"
        )
        op.execute(f"ALTER TABLE {SCHEMA}.processed_markets VALIDATE CONSTRAINT {name}")
