"""Runs that were stored at times of the test's choosing, to be released and verified."""

from pathlib import Path

import pytest
from sqlalchemy import Engine

from predictbench_assets_tests.kit.releases import Benchmark


@pytest.fixture
def benchmark(engine: Engine, tmp_path: Path) -> Benchmark:
    return Benchmark(engine, tmp_path)
