"""A day with research: searched once, shared, kept, on no board; and the price at the time of the forecasts."""

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from predictbench_assets.database.engine import make_engine
from predictbench_assets.sandbox.world import World
from predictbench_assets.scoring.store.forecasts import load_forecasts
from predictbench_assets_tests.kit.daily_run import BASELINE, EXPERIMENT, NOW, DailyRun, MakeRun, Ran
from predictbench_assets_tests.kit.http_services import SearchService, search_service
from predictbench_assets_tests.kit.places import CLONE

DECLARED = f"""
[news]
kind = "research"
service = "exa"
usd_per_search = "0.01"

[news.limits]
usd_per_day = 5

[price_at_forecast]
kind = "price_at_forecast"

[reader]
kind = "{EXPERIMENT}:Reader"
requires = ["news"]
"""
PAGES = [
    {
        "url": "https://news.example/a",
        "title": "A page",
        "text": "It is likely. Bookmakers make it 62%.",
        "published": "2026-03-01T10:00:00Z",
    },
    {"url": "https://polymarket.com/event/x", "title": "Odds", "text": "62¢", "published": "2026-03-01T10:00:00Z"},
    {"url": "https://news.example/b", "title": "Later", "text": "Yes.", "published": "2026-03-09T10:00:00Z"},
]
AN_HOUR_LATER = {"PREDICTBENCH_NOW": (NOW + timedelta(hours=1)).isoformat()}
LATER = NOW + timedelta(hours=2)


@pytest.fixture(scope="module")
def service() -> Iterator[SearchService]:
    with search_service() as serving:
        serving.pages = PAGES
        yield serving


@pytest.fixture(scope="module")
def world() -> World:
    return World(seed=5, markets_per_day=40)


@pytest.fixture(scope="module")
def day(
    make_run: MakeRun, world: World, service: SearchService, tmp_path_factory: pytest.TempPathFactory
) -> tuple[DailyRun, Ran]:
    """A day that was frozen, and forecast an hour later."""
    file = tmp_path_factory.mktemp("declared") / "experiments.toml"
    file.write_text(DECLARED)
    daily = make_run(world)
    daily.variables |= {
        "PROCESSING_EXPERIMENTS": BASELINE,
        "EXPERIMENTS_FILE": str(file),
        "EXA_API_KEY": "exa-key-of-a-test",
        "EXA_BASE_URL": f"{service.base_url}/exa",
    }
    ran = daily.here()
    assert ran.exit_code == 0
    return daily, ran


def test_an_event_is_searched_once_for_all_its_markets(day: tuple[DailyRun, Ran], service: SearchService) -> None:
    asked = [body["query"] for _, _, body in service.asked]
    [(events,)] = day[0].rows(
        "SELECT count(DISTINCT coalesce(event_id, market_id)) FROM predictbench.processed_markets"
    )
    assert len(asked) == events < 40
    assert day[1].said["experiments"]["news"]["completed"] == 40
    [(calls, cost)] = day[0].rows("SELECT count(*), sum(cost) FROM predictbench.model_calls WHERE provider = 'exa'")
    assert (calls, float(cost)) == (events, pytest.approx(0.007 * events))
    [(stored,)] = day[0].rows("SELECT sum(cost) FROM predictbench.experiment_results")
    assert stored == cost


def test_sources_are_kept_whole_and_handed_on_without_odds(day: tuple[DailyRun, Ran]) -> None:
    daily = day[0]
    rows = daily.rows(
        "SELECT r.payload, r.diagnostics, r.artifact_uri, r.probability, r.forecast_at"
        " FROM predictbench.experiment_results r JOIN predictbench.experiment_runs USING (experiment_run_id)"
        " JOIN predictbench.experiments e USING (experiment_id) WHERE e.name = 'news' AND NOT e.forecasts"
    )
    assert len(rows) == 40
    payload, diagnostics, uri, probability, forecast_at = rows[0]
    assert (probability, forecast_at) == (None, None)
    [source] = payload["sources"]
    assert (source["url"], source["text"]) == ("https://news.example/a", "It is likely.")
    assert diagnostics["dropped"] == {"late": 1, "site": 1}
    assert (diagnostics["found"], diagnostics["kept"], diagnostics["sentences_dropped"]) == (3, 1, 1)
    told = day[1].metadata("experiment_results/news")
    assert told["sources"] == {"found": 120, "kept": 40, "sentences_dropped": 40, "late": 40, "site": 40}
    assert "forecasts_against_market" not in told
    kept = json.loads(Path(uri.removeprefix("file://")).read_text())
    assert [(one["url"], one["used"], one["layer"]) for one in kept["sources"]] == [
        ("https://news.example/a", True, None),
        ("https://polymarket.com/event/x", False, "site"),
        ("https://news.example/b", False, "late"),
    ]
    assert kept["sources"][0]["text"] == PAGES[0]["text"]
    assert kept["sources"][0]["sha256"] == source["sha256"]


def test_who_requires_them_reads_them_and_a_cited_price_is_off_the_board(day: tuple[DailyRun, Ran]) -> None:
    daily = day[0]
    engine = make_engine(daily.database_url, pool_size=1)
    forecasts = load_forecasts(engine, LATER)
    engine.dispose()
    assert [one.experiment for one in forecasts.entrants] == ["baseline_snapshot", "price_at_forecast", "reader"]
    even = forecasts.leaked[2]
    assert even.sum() + (forecasts.probability[2] == 0.9).sum() == 40
    assert 0 < even.sum() < 40
    assert not (even & (forecasts.probability[2] == 0.9)).any()


def test_the_control_forecasts_the_price_of_its_own_time(day: tuple[DailyRun, Ran], world: World) -> None:
    rows = day[0].rows(
        "SELECT market_id, probability, status, reason FROM predictbench.latest_experiment_results"
        " WHERE experiment = 'price_at_forecast'"
    )
    assert len(rows) == 40
    prices = {market_id: probability for market_id, probability, status, _ in rows if status == "completed"}
    assert len(prices) > 30
    for market_id, price in prices.items():
        market = world.market(market_id)
        assert market is not None
        quote = market.quote(int(NOW.timestamp()))
        assert quote.bid is not None
        assert quote.ask is not None
        assert price == pytest.approx((quote.bid + quote.ask) / 2)
    assert {reason for *_, status, reason in rows if status == "skipped"} <= {
        "no quotes on both sides at the time of the forecast"
    }


def test_the_query_of_the_document_finds_the_sources(day: tuple[DailyRun, Ran]) -> None:
    [command] = re.findall(r'predictbench db sql "(.*?)"$', (CLONE / "docs/research.md").read_text(), re.DOTALL | re.M)
    rows = day[0].rows(command)
    assert len(rows) == 5
    assert all(url == "https://news.example/a" and uri.endswith("sources.json") for _, url, uri in rows)


def test_a_second_run_pays_for_nothing_even_without_its_journal(
    day: tuple[DailyRun, Ran], service: SearchService
) -> None:
    asked = len(service.asked)
    again = day[0].here(ops={"experiment_results__news": {"forget": True}}, **AN_HOUR_LATER)
    assert again.exit_code == 0
    assert again.said["experiments"]["news"]["completed"] == 40
    assert len(service.asked) == asked
    assert "exa-key-of-a-test" not in json.dumps(again.said)
