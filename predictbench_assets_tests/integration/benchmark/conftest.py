"""A database that lives as long as a module's tests, since a season is played once and looked at often."""

from collections.abc import Iterator

import pytest

from predictbench_assets.database.embedded import EmbeddedPostgres
from predictbench_assets_tests.kit.database import database_of


@pytest.fixture(scope="module")
def season_database(postgres_server: EmbeddedPostgres, migrated_template: str) -> Iterator[str]:
    """The URL of a migrated, empty database for this module alone."""
    with database_of(postgres_server, f"TEMPLATE {migrated_template}") as url:
        yield url
