"""Keys and addresses of providers: read as settings are, masked like our own secrets, and shown nowhere."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from predictbench_assets.cli.main import main
from predictbench_assets.settings import SettingsError, load_settings, usable_settings
from predictbench_assets.settings_overview import unknown_in_env_file

KEY = "sk-proj-0123456789abcdef"


def text_of(name: str) -> str | None:
    secret = load_settings().provider_variable(name)
    return None if secret is None else secret.get_secret_value()


def test_a_key_is_read_from_the_environment_before_the_file(
    own_environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (own_environment / ".env").write_text(f'OPENAI_API_KEY=" {KEY} "\nEXA_API_KEY=of-the-file\n')
    monkeypatch.setenv("EXA_API_KEY", "of-the-environment")
    monkeypatch.setenv("ANTHROPIC_API_KEY", " ")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:8080/v1")
    assert text_of("OPENAI_API_KEY") == KEY
    assert text_of("EXA_API_KEY") == "of-the-environment"
    assert text_of("ANTHROPIC_API_KEY") is None
    assert text_of("OPENAI_BASE_URL") == "http://127.0.0.1:8080/v1"


@pytest.mark.parametrize("name", ["HOME", "PATH_TO_KEY", KEY, "", "openai_api_key", "_API_KEY", "X_API_KEY\n"])
def test_another_variable_is_not_a_providers(name: str) -> None:
    with pytest.raises(ValueError, match="no name of a provider's variable"):
        load_settings().provider_variable(name)


def test_our_own_secrets_are_not_handed_to_a_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYMARKET_API_KEY", KEY)
    assert text_of("POLYMARKET_API_KEY") is None


def test_a_key_that_cannot_be_sent_is_named_without_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-ключ")
    with pytest.raises(SettingsError, match="OPENAI_API_KEY: has a blank") as refused:
        text_of("OPENAI_API_KEY")
    assert "sk-" not in str(refused.value)


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "MY_OWN_TOKEN", "A_CLIENT_SECRET", "exa_api_key"])
def test_it_is_masked_wherever_it_stands(own_environment: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, KEY)
    (own_environment / ".env").write_text("TAVILY_API_KEY=tvly-of-the-file-123\n")
    for settings in (load_settings(), usable_settings()):
        said = settings.redact(f"Bearer {KEY}, tvly-of-the-file-123 and {KEY.replace('-', '%2D')}")
        assert KEY not in said
        assert "tvly" not in said
        assert KEY not in repr(settings)


@pytest.mark.parametrize("text", ["abc", "none", "EMPTY", "true", "Local", "4096", "0.5"])
def test_what_protects_nothing_is_left_in_texts(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("SOME_TOKEN", text)
    assert load_settings().redact(f"it was {text}, really") == f"it was {text}, really"


def test_an_address_is_no_secret_but_the_password_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://me:pass@models.example/v1")
    said = load_settings().redact("GET http://me:pass@models.example/v1")
    assert said == "GET http://***@models.example/v1"


@pytest.mark.parametrize("arguments", [["config"], ["config", "--json"], ["experiments"], ["experiments", "--json"]])
def test_no_command_shows_it(own_environment: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    (own_environment / ".env").write_text("ANTHROPIC_API_KEY=sk-ant-of-the-file\n")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    said = CliRunner().invoke(main, arguments)
    assert said.exit_code == 0
    assert "sk-" not in said.output


def test_a_providers_key_in_the_file_is_no_misspelt_setting(own_environment: Path) -> None:
    (own_environment / ".env").write_text("OPENAI_API_KEY=x\nPOLYMARKT_API_KEY=x\nMY_SETTING=1\n")
    assert unknown_in_env_file() == ["POLYMARKT_API_KEY", "MY_SETTING"]
