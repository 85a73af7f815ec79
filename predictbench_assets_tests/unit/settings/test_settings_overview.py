"""The overview of settings: values, sources, secrets masked, and an `.env.example` that cannot drift."""

from pathlib import Path

import pytest

from predictbench_assets.settings import load_settings
from predictbench_assets.settings_overview import SettingLine, describe_settings, env_example, unknown_in_env_file
from predictbench_assets_tests.kit.places import CLONE


def line(lines: list[SettingLine], name: str) -> SettingLine:
    return next(line for line in lines if line.name == name)


def test_each_value_tells_its_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("MAX_MARKETS=5\nMIN_VOLUME=10\n")
    monkeypatch.setenv("max_markets", "7")
    lines = describe_settings(load_settings())
    assert (line(lines, "MAX_MARKETS").value, line(lines, "MAX_MARKETS").source) == ("7", "environment")
    assert (line(lines, "MIN_VOLUME").value, line(lines, "MIN_VOLUME").source) == ("10.0", ".env")
    assert line(lines, "POLYMARKET_PAGE_SIZE").source == "default"


def test_an_alias_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_RUN_TIME_UTC", "06:30")
    shown = line(describe_settings(load_settings()), "PIPELINE_RUN_AT_UTC")
    assert (shown.value, shown.source) == ("06:30:00", "environment")


@pytest.mark.parametrize("usable", [True, False])
def test_secrets_are_masked_even_when_nothing_loads(monkeypatch: pytest.MonkeyPatch, usable: bool) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgres://u:hunter22@h/db" if usable else "sqlite://u:hunter22@h/db")
    monkeypatch.setenv("PROMETHEUS_PUSH_GATEWAY", "http://me:hunter22@push.example")
    lines = describe_settings(load_settings() if usable else None)
    assert line(lines, "DATABASE_URL").value == "***"
    assert "hunter22" not in str(lines)


def test_a_misspelt_name_is_noticed(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("MAX_MARKET=5\nMIN_VOLUME=10\n")
    assert unknown_in_env_file() == ["MAX_MARKET"]


def test_env_example_is_what_the_settings_say() -> None:
    assert (CLONE / ".env.example").read_text() == env_example(), (
        "run `predictbench config --example > .env.example` and commit it"
    )


def test_env_example_loads_to_the_defaults(tmp_path: Path) -> None:
    uncommented = [
        text[2:] for text in env_example().splitlines() if text.startswith("# ") and "=" in text.split(" ")[1]
    ]
    (tmp_path / ".env").write_text("\n".join(uncommented))
    assert load_settings().model_dump() == load_settings(tmp_path / "none").model_dump()


def test_every_setting_says_what_it_is_for() -> None:
    assert [line.name for line in describe_settings(load_settings()) if not line.description] == []
