"""Settings for a deployment of a test's own, and a service for it to ask."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from predictbench_assets.settings import Settings
from predictbench_assets_tests.integration.diagnosis.own_settings import NOW, MakeSettings
from predictbench_assets_tests.kit.http_services import JsonService, json_service


@pytest.fixture
def make_settings(tmp_path: Path) -> MakeSettings:
    """Settings as given and at their defaults otherwise, whatever the machine has set."""

    def make(**values: Any) -> Settings:
        given = {"predictbench_home": tmp_path / "home", "predictbench_now": NOW} | values
        defaults = {name: field.default for name, field in Settings.model_fields.items() if not field.validation_alias}
        return Settings(_env_file=None, **(defaults | given))

    return make


@pytest.fixture
def service() -> Iterator[JsonService]:
    """A running service."""
    with json_service() as running:
        yield running
