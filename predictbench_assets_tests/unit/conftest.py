"""No setting of the machine that the tests run on reaches them."""

import os
from pathlib import Path

import pytest

from predictbench_assets.settings import all_variables, get_settings, is_provider_variable


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty folder to work in, and no variable of ours, nor a key of a provider, in the environment."""
    for name in list(os.environ):
        if name.upper() in all_variables() or is_provider_variable(name) or name == "GITHUB_STEP_SUMMARY":
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    get_settings.cache_clear()
    return tmp_path
