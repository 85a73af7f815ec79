"""Searches go over the desk of paid calls: within budgets, once, and with a reason where nothing came of one."""

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from predictbench_assets.experiments.protocol import Experiment
from predictbench_assets.experiments.research.tables import ResearchTable
from predictbench_assets.experiments.testing import make_market
from predictbench_assets_tests.kit.http_services import SearchService, search_service
from predictbench_assets_tests.kit.paid import KEY, Paid

MARKETS = [
    make_market("1", event_id="a", core=True),
    make_market("2", event_id="a"),
    make_market("3", event_id="b"),
]
TITLE = "Event a"
PAGE: dict[str, Any] = {"url": "https://news.example/", "title": "t", "text": "It is so.", "published": None}


@pytest.fixture
def service() -> Iterator[SearchService]:
    with search_service() as serving:
        serving.pages = [PAGE]
        yield serving


@pytest.fixture
def paid(tmp_path: Path, engine: Engine, service: SearchService) -> Paid:
    return Paid(tmp_path, engine, service.base_url)


def research(paid: Paid, **keys: Any) -> Experiment:
    settings = paid.settings
    settings._provider_texts |= {"EXA_API_KEY": KEY, "EXA_BASE_URL": f"{paid.base_url}/exa"}
    table = {"kind": "research", "service": "exa", "usd_per_search": Decimal("0.01"), **keys}
    return ResearchTable.model_validate(table).made("news", settings)


def test_an_event_is_paid_for_once_and_its_cost_is_told_once(paid: Paid, service: SearchService) -> None:
    outcomes = paid.run(research(paid), MARKETS)
    assert [one.status for one in outcomes] == ["completed"] * 3
    assert outcomes[0].payload == outcomes[1].payload
    assert outcomes[0].artifact_uri == outcomes[1].artifact_uri
    assert [one.usage.cost if one.usage else None for one in outcomes] == [Decimal("0.007"), None, Decimal("0.007")]
    assert paid.run(research(paid), MARKETS)[0].payload == outcomes[0].payload
    assert len(service.asked) == 2
    assert {(row.unit, row.unit_id, row.status) for row in paid.rows()} == {
        ("event", "a", "answered"),
        ("event", "b", "answered"),
    }


def test_an_answer_of_no_use_is_paid_for_and_not_asked_for_again(paid: Paid, service: SearchService) -> None:
    service.raw_for = {TITLE: b"<html>"}
    for _ in range(2):
        first, second, third = paid.run(research(paid), MARKETS)
        assert (first.status, second.status, third.status) == ("failed", "failed", "completed")
        assert first.reason == "NoAnswer: invalid: the answer is no JSON"
        assert (first.usage, second.usage) == (None, None)
    assert len(service.asked) == 2
    [row] = [row for row in paid.rows() if row.status == "invalid"]
    assert row.cost == Decimal("0.01")  # the most that it can have cost


def test_one_search_of_several_without_an_answer_costs_that_one(paid: Paid, service: SearchService) -> None:
    service.raw_for = {TITLE: b"<html>"}
    first, *_ = paid.run(research(paid, queries=2), MARKETS[:2])
    assert first.status == "completed"
    assert first.diagnostics is not None
    assert (first.diagnostics["searches_without_answer"], first.diagnostics["kept"]) == (1, 1)
    assert len(service.asked) == 2


def test_budgets_and_refused_keys_stop_it_with_a_reason(paid: Paid, service: SearchService) -> None:
    limited = research(paid, limits={"calls_per_day": 1, "concurrency": 1})
    outcomes = paid.run(limited, MARKETS)
    assert [one.status for one in outcomes] == ["completed", "completed", "skipped"]
    assert (outcomes[2].reason or "").startswith("budget: calls_per_day of news = 1")
    assert outcomes[2].retriable
    service.status = 401
    service.raw = f"the key {KEY} is wrong".encode()
    refused = paid.run(research(paid, sources=3, limits={"concurrency": 1}), MARKETS)
    assert all(one.status == "failed" and one.retriable for one in refused)
    assert len(service.asked) == 2
    assert "provider refuses" in (refused[2].reason or "")
    assert KEY not in "".join(str(one.reason) for one in refused) + str(paid.rows())


def test_half_a_search_result_hides_nothing(paid: Paid, service: SearchService) -> None:
    service.pages = [PAGE | {"text": "Bookmakers give it 62%."}, PAGE | {"url": "https://kalshi.com/markets/x"}]
    first, *_ = paid.run(research(paid), MARKETS[:1])
    assert first.payload == {"queries": ["Will thing 1 happen?"], "sources": []}
    assert first.diagnostics is not None
    assert first.diagnostics["dropped"] == {"empty": 1, "site": 1}
