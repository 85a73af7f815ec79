"""A database that lives as long as a module's tests, since a season is played once and looked at often."""

from collections.abc import Iterator
from uuid import uuid4

import pytest

from predictbench_assets.database.embedded import EmbeddedPostgres
from predictbench_assets_tests.kit.database import administer, in_database


@pytest.fixture(scope="module")
def season_database(postgres_server: EmbeddedPostgres, migrated_template: str) -> Iterator[str]:
    """The URL of a migrated, empty database for this module alone."""
    name = f"test_{uuid4().hex[:12]}"
    administer(postgres_server, f"CREATE DATABASE {name} TEMPLATE {migrated_template}")
    yield in_database(postgres_server, name).render_as_string(hide_password=False)
    administer(postgres_server, f"DROP DATABASE {name} WITH (FORCE)")
