"""The tables of research: what they make, what they refuse, and the control beside them."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from predictbench_assets.clock import FixedClock
from predictbench_assets.exchanges.exchange import Exchange
from predictbench_assets.experiments.protocol import SEES, ExperimentResult, ExperimentSkip
from predictbench_assets.experiments.registry import config_hash
from predictbench_assets.experiments.research.experiment import ResearchExperiment, handed_on
from predictbench_assets.experiments.research.leaks import KeptSource
from predictbench_assets.experiments.research.price_at_forecast import PriceAtForecastExperiment
from predictbench_assets.experiments.research.search import Source
from predictbench_assets.experiments.research.tables import PriceAtForecastTable, ResearchTable
from predictbench_assets.experiments.runner import run_experiment_sync
from predictbench_assets.experiments.testing import CAPTURED_AT, make_context, make_market, make_run
from predictbench_assets.markets.quotes import Quote
from predictbench_assets.settings import Settings, load_settings


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("EXA_API_KEY", "exa-key")
    monkeypatch.delenv("TAVILY_API_KEY", raising=False)
    return load_settings()


def made(settings: Settings, **keys: Any) -> ResearchExperiment:
    table = ResearchTable.model_validate({"kind": "research", "service": "exa", **keys})
    return cast(ResearchExperiment, table.made("news", settings))


def test_a_research_experiment_sees_no_price_and_gives_no_forecast(settings: Settings) -> None:
    one = made(settings, version="3")
    assert (one.name, one.version, one.forecasts, one.mandatory) == ("news", "3", False, False)
    assert not SEES[one.information].prices
    assert "exa-key" not in str(one.config)


def test_limits_and_prices_are_no_part_of_the_configuration(settings: Settings) -> None:
    plain = config_hash(made(settings))
    priced = made(settings, usd_per_search=Decimal("0.01"), limits={"usd_per_day": Decimal(2), "calls_per_day": 5})
    assert config_hash(priced) == plain
    assert priced.allowance is not None
    assert (priced.allowance.usd_per_day, priced.allowance.calls_per_day) == (2, 5)
    assert config_hash(made(settings, queries=2)) != plain
    markets = [make_market("1", event_id="e"), make_market("2", event_id="e"), make_market("3")]
    estimate = priced.estimate(markets)
    assert estimate is not None
    assert estimate.at_most == Decimal("0.02")
    assert made(settings).estimate(markets) is None


def test_what_a_table_lacks_is_said(settings: Settings) -> None:
    keyless = made(settings, service="tavily")
    [outcome] = run_experiment_sync(keyless, [make_market("1")], run=make_run(), clock=FixedClock(CAPTURED_AT))
    assert outcome.retriable
    assert "TAVILY_API_KEY is not set" in (outcome.reason or "")
    with pytest.raises(ValueError, match="usd_per_search is missing"):
        made(settings, limits={"usd_per_day": Decimal(2)})
    with pytest.raises(ValidationError, match="queries"):
        made(settings, queries=0)
    with pytest.raises(ValueError, match=r"name the table \[price_at_forecast\]"):
        PriceAtForecastTable(kind="price_at_forecast").made("delay", settings)


def test_a_service_elsewhere_needs_no_key_and_its_own_address_is_as_none(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def opened(one: ResearchExperiment) -> None:
        async with one.opened(make_run()):
            pass

    asyncio.run(opened(made(settings, service="tavily", base_url="http://127.0.0.1:9/tavily")))
    with pytest.raises(LookupError, match="TAVILY_API_KEY is not set"):
        asyncio.run(opened(made(settings, service="tavily", base_url="https://api.tavily.com/")))
    with pytest.raises(ValidationError, match="a user or a password"):
        made(settings, base_url="https://a:hunter2@search.example")
    monkeypatch.setenv("EXA_BASE_URL", "search.example")
    with pytest.raises(ValueError, match="EXA_BASE_URL: expected an address"):
        made(load_settings())


@given(st.lists(st.text(max_size=50), max_size=6), st.integers(0, 120))
def test_no_more_is_handed_on_than_declared_and_nothing_that_fits_is_cut(texts: list[str], characters: int) -> None:
    at = datetime(2026, 3, 1, tzinfo=UTC)
    kept = [
        KeptSource(Source(f"https://a.example/{n}", "t", at, at, "whole", "0"), "t", x) for n, x in enumerate(texts)
    ]
    given_on = handed_on(kept, characters)
    assert sum(len(one["text"]) for one in given_on) <= characters
    if sum(map(len, texts)) <= characters and all(len(text) <= characters // max(len(texts), 1) for text in texts):
        assert [one["text"] for one in given_on] == texts


class Quoting:
    """An exchange that quotes some contracts."""

    def __init__(self, **quotes: tuple[float | None, float | None]) -> None:
        self._quotes = quotes

    async def quotes(self, contract_ids: Sequence[str]) -> Mapping[str, Quote]:
        """Quote those that are known."""
        at = CAPTURED_AT + timedelta(hours=1)
        known = {f"{market}-0": sides for market, sides in self._quotes.items()}
        return {
            one: Quote(token_id=one, bid=known[one][0], ask=known[one][1], at=at)
            for one in contract_ids
            if one in known
        }


def prices(now: datetime, exchange: Quoting) -> Mapping[str, ExperimentResult | ExperimentSkip]:
    markets = [make_market("m1"), make_market("m2"), make_market("m3")]
    contexts = {one.market_id: make_context(one.market_id, clock=FixedClock(now)) for one in markets}
    control = PriceAtForecastExperiment(lambda: cast(Exchange, exchange))
    return asyncio.run(control.run_cohort(markets, contexts))


def test_the_control_forecasts_the_midpoint_and_one_without_quotes_costs_itself() -> None:
    found = prices(CAPTURED_AT + timedelta(hours=1), Quoting(m1=(0.6, 0.64), m2=(0.5, None)))
    assert isinstance(found["m1"], ExperimentResult)
    assert found["m1"].probability == pytest.approx(0.62)
    assert all(isinstance(found[one], ExperimentSkip) for one in ("m2", "m3"))


def test_after_the_freeze_window_the_price_of_now_says_nothing() -> None:
    exchange = Quoting(m1=(0.6, 0.64))
    assert isinstance(prices(CAPTURED_AT + timedelta(hours=24), exchange)["m1"], ExperimentResult)
    late = prices(CAPTURED_AT + timedelta(hours=24, seconds=1), exchange)["m1"]
    assert isinstance(late, ExperimentSkip)
    assert "24 hours after the freeze" in late.reason
