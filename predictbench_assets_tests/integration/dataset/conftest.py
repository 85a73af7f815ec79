"""A database with a past and its release, made once for the tests that only read them."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import predictbench_assets as pb
from predictbench_assets.database import migrations
from predictbench_assets.database.embedded import EmbeddedPostgres
from predictbench_assets.database.engine import make_engine
from predictbench_assets.dataset.frames.stored import DEMO_FOLDER
from predictbench_assets_tests.integration.dataset.planted import THEN, move_on, plant, released
from predictbench_assets_tests.kit.database import database_of


@pytest.fixture(scope="module")
def world(
    postgres_server: EmbeddedPostgres, migrated_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path]]:
    """The database's URL, with more in it than was known THEN, and the release of THEN."""
    with database_of(postgres_server, f"TEMPLATE {migrated_template}") as url:
        engine = make_engine(url, pool_size=2)
        ledger = plant(engine)
        folder = released(engine, tmp_path_factory.mktemp("releases") / "2026-02")
        move_on(ledger)
        yield url, folder
        engine.dispose()


@pytest.fixture
def from_database(world: tuple[str, Path]) -> pb.Benchmark:
    return pb.open_benchmark(url=world[0], as_of=THEN)


@pytest.fixture
def from_release(world: tuple[str, Path]) -> pb.Benchmark:
    return pb.open_benchmark(release=world[1])


@pytest.fixture(scope="session")
def demo_project() -> Iterator[Path]:
    """A project's folder with a demo's database in it, which does not run, and a folder for notebooks."""
    folder = Path(tempfile.mkdtemp(prefix="pb-"))
    (folder / "examples").mkdir()
    server = EmbeddedPostgres(folder / DEMO_FOLDER / "postgres", durable=False)
    try:
        migrations.upgrade(server.start())
        engine = make_engine(server.url, pool_size=2)
        plant(engine)
        engine.dispose()
        server.stop()
        yield folder
    finally:
        server.stop()
        shutil.rmtree(folder)
