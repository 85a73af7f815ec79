"""Settings for a deployment of a test's own, and services that answer as they are told."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from predictbench_assets.settings import Settings

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)


MakeSettings = Callable[..., Settings]


@dataclass
class Service:
    """An HTTP service on this machine that says the same to everyone, and remembers what it was asked."""

    base_url: str = ""
    status: int = 200
    body: Any = None
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    """Path and headers (names in lower case) of each request."""
