"""Language models over each provider's own wire, with each form of the answer, and with the provider's search."""

from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import Engine

from predictbench_assets.sandbox.models.server import StandIn
from predictbench_assets_tests.kit.paid import Paid

WIRES = ["openai:stand-in", "openai-responses:stand-in", "anthropic:claude-opus-4-8", "google:gemini-3-pro"]
SEARCHING = WIRES[1:]


def paid_over(model: str, tmp_path: Path, engine: Engine, stand_in: StandIn) -> Paid:
    return Paid(tmp_path, engine, stand_in.base_url if model.startswith("openai") else stand_in.url)


@pytest.mark.parametrize("model", WIRES)
@pytest.mark.parametrize("output", ["native", "tool", "prompted"])
def test_every_wire_gives_each_form(tmp_path: Path, engine: Engine, stand_in: StandIn, model: str, output: str) -> None:
    paid = paid_over(model, tmp_path, engine, stand_in)
    [outcome] = paid.run(paid.model(model=model, output=output, limits={"usd_per_day": "1"}), 1)
    [row] = paid.rows()
    assert (outcome.status, outcome.reason) == ("completed", None)
    assert stand_in.counts["requests"] == 1
    assert row.status == "answered"
    assert row.response_id
    assert row.input_tokens > 0
    assert Decimal(0) < row.cost < row.reserved_cost


@pytest.mark.parametrize("model", SEARCHING)
def test_what_a_provider_finds_is_kept_paid_for_and_judged(
    tmp_path: Path, engine: Engine, stand_in: StandIn, model: str
) -> None:
    paid = paid_over(model, tmp_path, engine, stand_in)
    experiment = paid.model(model=model, search="provider", max_searches=2)
    assert experiment.information == "search_blind"
    [outcome] = paid.run(experiment, 1)
    assert (outcome.status, outcome.reason) == ("completed", None)
    assert outcome.payload is not None
    addresses = [source["url"] for source in outcome.payload["sources"]]
    assert addresses == list(dict.fromkeys(addresses))
    assert any("daily-courier.example" in address for address in addresses)
    # The stand-in does not keep to the list, as a provider may not.
    assert any("polymarket.com" in address for address in addresses)
    assert outcome.payload["leaked"] is True
    [line] = paid.transcripts()
    assert line["request"]["search"]["most"] == 2
    assert "polymarket.com" in str(line["reply"]["response"])


def test_a_search_costs_what_it_costs(tmp_path: Path, engine: Engine, stand_in: StandIn) -> None:
    paid = paid_over(SEARCHING[0], tmp_path, engine, stand_in)
    paid.run(paid.model(model=SEARCHING[0], search="provider"), 1)
    prices = tmp_path / "prices.toml"
    assert "search = 0.01" in prices.read_text()
    [row] = paid.rows()
    tokens = Decimal(row.input_tokens - row.cached_tokens) + Decimal(row.cached_tokens) / 10 + 2 * row.output_tokens
    assert row.cost == tokens / 10**6 + Decimal("0.01")
    assert row.reserved_cost > Decimal("0.05")
