"""What the tests of retention use, for exports: runs that were stored, and daily runs."""

from predictbench_assets_tests.integration.daily_run.conftest import daily, make_run, make_sandbox, new_database
from predictbench_assets_tests.integration.retention.conftest import archive, stored

__all__ = ["archive", "daily", "make_run", "make_sandbox", "new_database", "stored"]
