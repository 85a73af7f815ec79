"""The address of a model: the provider's own, or another, which may want no key."""

import asyncio
from typing import Any

import pytest
from pydantic import ValidationError

from predictbench_assets.experiments.llm.decision_model import DecisionModelTable
from predictbench_assets.experiments.llm.language_model import LanguageModelTable
from predictbench_assets.experiments.llm.model import ModelTable, Reached
from predictbench_assets.experiments.protocol import Experiment
from predictbench_assets.experiments.testing import make_run
from predictbench_assets.settings import load_settings

ELSEWHERE = "http://127.0.0.1:9/v1"


def table(model: str = "openai:gpt-5-mini", **words: Any) -> ModelTable:
    kind = DecisionModelTable if "-decisions:" in model else LanguageModelTable
    return kind.model_validate({"kind": "any", "model": model, **words})


def reached(given: ModelTable) -> Reached:
    return given.reached(load_settings())


async def _opened(experiment: Experiment) -> None:
    async with experiment.opened(make_run()):
        pass


@pytest.mark.parametrize(
    ("model", "variable", "address"),
    [
        ("openai:gpt-5-mini", "OPENAI_BASE_URL", "https://api.openai.com/v1"),
        ("openai-decisions:gpt-6-luna", "OPENAI_BASE_URL", "https://api.openai.com/v1/"),
        ("openai:gpt-5-mini", "OPENAI_BASE_URL", "https://API.openai.com:443/v1"),
        ("anthropic:claude-sonnet-4-5", "ANTHROPIC_BASE_URL", "https://api.anthropic.com"),
        ("google:gemini-2.5-flash", "GOOGLE_BASE_URL", "https://generativelanguage.googleapis.com/"),
    ],
)
def test_the_providers_own_address_is_as_none(
    model: str, variable: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (reached(table(model, base_url=address)).base_url, table(model, base_url=address).other_server) == (
        None,
        None,
    )
    unset = reached(table(model))
    monkeypatch.setenv(variable, address)
    found = reached(table(model))
    assert (found.base_url, found.price, found.variable) == (None, unset.price, unset.variable)


@pytest.mark.parametrize(
    "address", [ELSEWHERE, "https://eu.api.openai.com/v1", "https://api.openai.com.example.org/v1"]
)
def test_every_other_address_is_kept(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", address)
    assert reached(table()).base_url == address


def test_a_server_elsewhere_needs_no_key_whichever_way_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    asyncio.run(_opened(table(base_url=ELSEWHERE, output="tool").made("mine", load_settings())))
    monkeypatch.setenv("OPENAI_BASE_URL", ELSEWHERE)
    asyncio.run(_opened(table(output="tool").made("mine", load_settings())))


def test_the_providers_own_server_needs_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "https://api.openai.com/v1")
    with pytest.raises(LookupError, match="OPENAI_API_KEY is not set"):
        asyncio.run(_opened(table().made("mine", load_settings())))


@pytest.mark.parametrize(
    "address",
    [
        "api.openai.com",
        "https://a:hunter2@models.example/v1",
        "https://models.example:0",
        "https://models.example/v1?k=hunter2",
    ],
)
def test_an_address_is_checked_wherever_it_is_from(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError, match=r"expected an address|a user or a password"):
        table(base_url=address)
    monkeypatch.setenv("OPENAI_BASE_URL", address)
    with pytest.raises(ValueError, match="OPENAI_BASE_URL: ") as raised:
        reached(table())
    assert "hunter2" not in str(raised.value)
