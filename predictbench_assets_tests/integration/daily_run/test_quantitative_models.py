"""A day with every quantitative model, and what is frozen for those that ask."""

from datetime import timedelta

import dagster as dg
import pytest

from predictbench_assets.experiments.declared.file import registry_of
from predictbench_assets.experiments.protocol import Experiment
from predictbench_assets.experiments.quantitative.blend import BlendExperiment
from predictbench_assets.experiments.quantitative.ensemble import EnsembleExperiment
from predictbench_assets.ingestion.market_data import LATEST
from predictbench_assets.launch.trial import staged_day, try_experiment
from predictbench_assets.settings import DEFAULT_EXPERIMENTS, load_settings
from predictbench_assets_tests.kit.daily_run import BASELINE, KEY, NOW, DailyRun, MakeRun

ROOM = "predictbench_assets.experiments.quantitative"
ASKING = f"{ROOM}.book_microprice:BookMicropriceExperiment,{ROOM}.history_drift:HistoryDriftExperiment"
ALL = f"{','.join(DEFAULT_EXPERIMENTS)},{ASKING},{__name__}:pooled"
MICROPRICE = f"{BASELINE},{ROOM}.book_microprice:BookMicropriceExperiment"
LATER = {"PREDICTBENCH_NOW": (NOW + LATEST + timedelta(minutes=1)).isoformat()}
SIX = ("favourite_longshot", "recalibrated_market", "book_microprice", "history_drift", "ensemble", "blend")


def pooled() -> list[Experiment]:
    """What experiments.toml declares by its tables."""
    return [EnsembleExperiment(["favourite_longshot", "shrunk_market"]), BlendExperiment("uniform")]


def statuses(daily: DailyRun, experiment: str) -> dict[str, int]:
    rows = daily.rows(
        "SELECT status, count(*) FROM predictbench.latest_experiment_results WHERE experiment = %s GROUP BY status",
        experiment,
    )
    return {str(status): int(count) for status, count in rows}


def asked_for(daily: DailyRun, route: str = "books") -> int:
    return daily.sandbox.requests[f"POST /clob/{route}"]


def test_a_day_with_all_six_has_their_rows(make_run: MakeRun) -> None:
    daily = make_run(PROCESSING_EXPERIMENTS=ALL)
    ran = daily.here()
    assert ran.exit_code == 0
    told = ran.metadata("market_data")
    assert (told["dagster/row_count"], told["reused"], told["not_frozen"]) == (40, False, "")
    assert told["books"] == 40
    assert 0 < told["histories"] <= 40
    for name in ("favourite_longshot", "recalibrated_market", "ensemble", "blend"):
        assert statuses(daily, name) == {"completed": 40}, name
    for name in ("book_microprice", "history_drift"):
        found = statuses(daily, name)
        assert found.keys() <= {"completed", "skipped"}
        assert found["completed"] > 20, (name, found)
    rows = daily.rows(
        "SELECT e.name, m.market_id, r.probability, r.payload, r.diagnostics FROM predictbench.experiment_results r"
        " JOIN predictbench.experiment_runs USING (experiment_run_id)"
        " JOIN predictbench.experiments e USING (experiment_id)"
        " JOIN predictbench.processed_markets m USING (processed_market_id) WHERE r.status = 'completed'"
    )
    of = {(name, market): rest for name, market, *rest in rows}
    for (name, market_id), (p, payload, notes) in of.items():
        price = of["baseline_snapshot", market_id][0]
        match name:
            case "favourite_longshot":
                assert (p - price) * (price - 0.5) >= 0
            case "recalibrated_market":
                assert (payload["method"], payload["slope"]) == ("prior", 1.1)
            case "book_microprice":
                assert abs(p - notes["mid"]) <= payload["spread"] / 2 + 1e-9
                assert abs(notes["mid_from_frozen_price"]) < 1e-9
            case "history_drift":
                assert p == price
                assert (payload["sign_24h"], payload["method"]) == ("none", "prior")
            case "blend":
                assert payload["price_weight"] == 0.9
                assert abs(p - 0.5) <= abs(price - 0.5)
            case "ensemble":
                members = payload["members"].values()
                assert min(members) <= p <= max(members)


def test_nothing_is_asked_for_where_no_experiment_asks(make_run: MakeRun) -> None:
    daily = make_run()
    assert daily.here().exit_code == 0
    assert asked_for(daily) == 0
    assert daily.staging.list("market_data") == []


def test_nothing_is_asked_for_where_those_that_ask_are_left_out(make_run: MakeRun) -> None:
    daily = make_run(PROCESSING_EXPERIMENTS=MICROPRICE)
    ran = daily.here(ops={"experiment_results__book_microprice": {"selected": False}})
    assert ran.exit_code == 0
    assert "no experiment of this run asks" in ran.metadata("market_data")["not_frozen"]
    assert asked_for(daily) == 0


def test_what_is_frozen_is_found_by_every_later_run(make_run: MakeRun) -> None:
    daily = make_run(PROCESSING_EXPERIMENTS=MICROPRICE)
    assert daily.here().exit_code == 0
    before, requests = daily.tables(), asked_for(daily)
    daily.sandbox.set_time(NOW + timedelta(days=3))
    ran = daily.here(PREDICTBENCH_NOW=(NOW + timedelta(days=3)).isoformat())
    assert ran.exit_code == 0
    assert ran.metadata("market_data")["reused"] is True
    assert asked_for(daily) == requests
    assert daily.tables() == before


def test_a_try_gives_an_experiment_what_a_stored_run_gives_it(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    daily = make_run(PROCESSING_EXPERIMENTS=MICROPRICE)
    assert daily.here().exit_code == 0
    stored = {
        str(market): (status, probability)
        for market, status, probability in daily.rows(
            "SELECT market_id, status, probability FROM predictbench.latest_experiment_results"
            " WHERE experiment = 'book_microprice'"
        )
    }
    for name, value in daily.environment(daily.folder / "summary.json", {}).items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    registry, day = registry_of(settings), staged_day(settings, None, KEY.window_days)
    trial = try_experiment(settings, registry, "book_microprice", day, day.markets)
    assert {one.market_id: (one.status, one.probability) for one in trial.outcomes} == stored
    assert sum(status == "completed" for status, _ in stored.values()) > 20


def test_todays_books_are_never_read_for_an_older_snapshot(make_run: MakeRun) -> None:
    daily = make_run(PROCESSING_EXPERIMENTS=BASELINE)
    assert daily.here().exit_code == 0
    daily.sandbox.set_time(NOW + timedelta(days=3))
    ran = daily.here(PROCESSING_EXPERIMENTS=MICROPRICE, **LATER)
    assert ran.exit_code == 0
    assert "order books of now are not those of then" in ran.metadata("market_data")["not_frozen"]
    assert asked_for(daily) == asked_for(daily, "batch-prices-history") * 0
    assert statuses(daily, "book_microprice") == {"skipped": 40}
    alone = daily.here(
        selection=[dg.AssetKey(["experiment_results", "book_microprice"])], PROCESSING_EXPERIMENTS=MICROPRICE, **LATER
    )
    assert alone.exit_code == 0
