"""Experiments that may search without being shown prices."""

from alembic import op

revision = "0007"
down_revision = "0005"
branch_labels = None
depends_on = None

SCHEMA = "predictbench"


def upgrade() -> None:
    _allow_information("'blind', 'market', 'search_blind', 'search'")


def downgrade() -> None:
    # To the word that sees more: what it forecast may have been found by searching.
    op.execute("UPDATE predictbench.experiments SET information = 'search' WHERE information = 'search_blind'")
    _allow_information("'blind', 'market', 'search'")


def _allow_information(words: str) -> None:
    name = op.f("ck_experiments_information_known")
    op.drop_constraint(name, "experiments", schema=SCHEMA)
    op.create_check_constraint(name, "experiments", f"information IN ({words})", schema=SCHEMA)
