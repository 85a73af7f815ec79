"""Settings for a deployment of a test's own."""

from collections.abc import Callable
from datetime import UTC, datetime

from predictbench_assets.settings import Settings

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
MakeSettings = Callable[..., Settings]
