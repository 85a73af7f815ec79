"""A page of a planted benchmark, written once for all that only read it."""

from collections.abc import Iterator
from uuid import uuid4

import pytest

from predictbench_assets.database.embedded import EmbeddedPostgres
from predictbench_assets.database.engine import make_engine
from predictbench_assets.site.build import ReportSummary, write_report
from predictbench_assets_tests.conftest import administer, in_database
from predictbench_assets_tests.integration.reporting.planted import HOSTILE, plant, planted_board


@pytest.fixture(scope="session")
def planted_report(
    postgres_server: EmbeddedPostgres, migrated_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ReportSummary]:
    """Ten days with hostile markets, and a board on which everything that a page can show is."""
    name = f"test_{uuid4().hex[:12]}"
    administer(postgres_server, f"CREATE DATABASE {name} TEMPLATE {migrated_template}")
    engine = make_engine(in_database(postgres_server, name))
    now = plant(engine, days=10, markets=6, special=HOSTILE)
    folder = tmp_path_factory.mktemp("page") / "report"
    yield write_report(engine, folder, now=now, leaderboard=planted_board(now))
    engine.dispose()
    administer(postgres_server, f"DROP DATABASE {name} WITH (FORCE)")
