"""Prices of models: of the packaged table, of a file of one's own, and of nobody."""

from decimal import Decimal
from pathlib import Path

import pytest

from predictbench_assets.experiments.model_calls.prices import Prices, PricesUnreadable, Tokens, most_input_tokens


def cost(prices: Prices, model: str, base_url: str | None = None, *, batch: bool = False) -> Decimal | None:
    found = prices.price(model, base_url)
    return None if found is None else found[0].cost(Tokens(input=1_000, cached=400, output=200), batch=batch)


def test_the_packaged_table_prices_cached_tokens_and_batches() -> None:
    prices = Prices()
    assert cost(prices, "openai:gpt-5-mini") == Decimal("0.00056")
    assert cost(prices, "openai:gpt-5-mini", batch=True) == Decimal("0.00028")
    assert prices.price("openai:gpt-5-mini")[1].startswith("genai-prices ")  # type: ignore[index]
    assert cost(prices, "openai:no-such-model") is None
    assert cost(prices, "nobody:gpt-5-mini") is None


@pytest.mark.parametrize(
    ("base_url", "priced"),
    [
        ("https://api.openai.com/v1", True),
        ("http://127.0.0.1:8000/v1", False),
        ("https://api.openai.com.example.org/v1", False),
        ("https://api.openai.com:x@example.org/v1", False),
        ("https://example.org/https://api.openai.com/v1", False),
    ],
)
def test_another_server_is_not_priced_as_the_provider_whatever_its_model_is_named(base_url: str, priced: bool) -> None:
    assert (cost(Prices(), "openai:gpt-5-mini", base_url) is not None) == priced


def test_a_file_comes_first_and_prices_servers_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "prices.toml"
    file.write_text(
        '[[price]]\nmodel = "openai:mine"\nbase_url = "http://127.0.0.1:8000/v1/"\ninput = 1\noutput = 2\nbatch = 0.5\n'
        '[[price]]\nmodel = "openai:gpt-5-mini"\ninput = 10\ncached_input = 1\noutput = 20\n'
        '[[price]]\nmodel = "openai:any"\nbase_url = "*"\ninput = 3\n'
    )
    prices = Prices(file)
    assert cost(prices, "openai:mine", "http://127.0.0.1:8000/v1") == Decimal("0.0014")
    assert cost(prices, "openai:mine", "http://127.0.0.1:8000/v1", batch=True) == Decimal("0.0007")
    assert cost(prices, "openai:mine") is None
    assert cost(prices, "openai:gpt-5-mini") == Decimal("0.0104")
    assert cost(prices, "openai:any", "http://10.0.0.1/v1") == cost(prices, "openai:any") == Decimal("0.003")
    assert prices.price("openai:mine", "http://127.0.0.1:8000/v1")[1].startswith("prices.toml ")  # type: ignore[index]


def test_an_entry_with_the_providers_own_address_is_of_the_provider(tmp_path: Path) -> None:
    file = tmp_path / "prices.toml"
    entry = '[[price]]\nmodel = "{}"\nbase_url = "{}"\ninput = 10\n'
    file.write_text(
        entry.format("openai:written", "https://api.openai.com/v1/")
        + '[[price]]\nmodel = "openai:left-out"\ninput = 10\n'
    )
    prices = Prices(file)
    for model in ("openai:written", "openai:left-out"):
        assert cost(prices, model) == cost(prices, model, "https://api.openai.com/v1") == Decimal("0.01")
        assert cost(prices, model, "http://127.0.0.1:8000/v1") is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[[price]]\nmodel = 1\ninput = 1", "price.0.model"),
        ('[[price]]\nmodel = "a:b"\ninput = -1', "price.0.input"),
        ('[[price]]\nmodel = "a:b"\ninput = 1\noutptu = 1', "price.0.outptu"),
        ('[[price]]\nmodel = "a:b"\ninput = nan', "price.0.input"),
        ('[[price]]\nmodel = "a:b"\ninput = 1\nbase_url = "127.0.0.1:8000"', "price.0.base_url"),
        ("not toml", "is no TOML"),
        ("\x00", "MODEL_PRICES_FILE"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "prices.toml"
    file.write_text(text)
    with pytest.raises(PricesUnreadable, match="MODEL_PRICES_FILE") as raised:
        Prices(file)
    assert problem in str(raised.value)
    with pytest.raises(PricesUnreadable, match="MODEL_PRICES_FILE"):
        Prices(tmp_path / "absent.toml")


@pytest.mark.parametrize("text", ["word " * 1_000, "漢字" * 100, "\U000e0041" * 100, "\ufdfa\u0300" * 100])
def test_a_reservation_covers_a_tokenizer_that_falls_back_on_bytes(text: str) -> None:
    assert most_input_tokens(len(text.encode())) >= len(text.encode())
