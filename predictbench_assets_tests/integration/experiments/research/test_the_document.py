"""What docs/research.md shows works."""

import re
import sys
from pathlib import Path

import pytest

from predictbench_assets.experiments.declared.file import read_declarations
from predictbench_assets.experiments.registry import load_registry
from predictbench_assets.settings import load_settings
from predictbench_assets_tests.kit.places import CLONE

DOCUMENT = CLONE / "docs" / "research.md"


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)
    return str(found)


def test_the_tables_and_the_class_of_the_document_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "experiments.toml").write_text(block("toml"))
    (tmp_path / "my_experiments.py").write_text(block("python"))
    monkeypatch.setenv("EXA_API_KEY", "exa-key")
    monkeypatch.setenv("EXPERIMENTS_FILE", str(tmp_path / "experiments.toml"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_experiments", raising=False)
    settings = load_settings()
    registry = load_registry([], installed=(), declared=read_declarations(settings))
    assert registry.names == ("baseline_snapshot", "news", "price_at_forecast", "reader")
    assert registry["reader"].requires == ("news",)
    assert not registry["news"].forecasts
    del sys.modules["my_experiments"]
