"""A database to fill."""

import pytest
from sqlalchemy import Engine

from predictbench_assets_tests.kit.ledger import Ledger


@pytest.fixture
def ledger(engine: Engine) -> Ledger:
    """An empty one, with ways to fill it."""
    return Ledger(engine)
