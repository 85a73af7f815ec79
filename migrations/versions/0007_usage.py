"""What forecasts took of models and services; experiments that may search without being shown prices."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0005"
branch_labels = None
depends_on = None

SCHEMA = "predictbench"
USAGE = {
    "requests": sa.BigInteger(),
    "input_tokens": sa.BigInteger(),
    "output_tokens": sa.BigInteger(),
    "cached_tokens": sa.BigInteger(),
    "cost": sa.Numeric(),
    "currency": sa.Text(),
    "seconds": sa.Double(),
    "model": sa.Text(),
}


def upgrade() -> None:
    _allow_information("'blind', 'market', 'search_blind', 'search'")
    for name, kind in USAGE.items():
        op.add_column("experiment_results", sa.Column(name, kind, nullable=True), schema=SCHEMA)
    op.create_check_constraint(
        op.f("ck_experiment_results_usage"),
        "experiment_results",
        "least(requests, input_tokens, output_tokens, cached_tokens) >= 0 AND cost BETWEEN 0 AND 1e12"
        " AND seconds BETWEEN 0 AND 1e12 AND (cost IS NULL) = (currency IS NULL)"
        " AND char_length(currency) = 3 AND char_length(model) <= 255",
        schema=SCHEMA,
    )


def downgrade() -> None:
    for name in reversed(USAGE):  # the constraint goes with them
        op.drop_column("experiment_results", name, schema=SCHEMA)
    # To the word that sees more: what it forecast may have been found by searching.
    op.execute("UPDATE predictbench.experiments SET information = 'search' WHERE information = 'search_blind'")
    _allow_information("'blind', 'market', 'search'")


def _allow_information(words: str) -> None:
    name = op.f("ck_experiments_information_known")
    op.drop_constraint(name, "experiments", schema=SCHEMA)
    op.create_check_constraint(name, "experiments", f"information IN ({words})", schema=SCHEMA)
