"""What the controls say in a run, what the snapshot freezes for them, and how coherent a day's forecasts are."""

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from statistics import fmean

import pytest
from sqlalchemy.engine import make_url

from predictbench_assets.database.engine import make_engine
from predictbench_assets.sandbox.world import World
from predictbench_assets.scoring.boards import Coherence
from predictbench_assets.scoring.store.forecasts import load_forecasts
from predictbench_assets_tests.kit.daily_run import BASELINE, NOW, DailyRun, MakeRun, Ran

CONTROLS = ("uniform", "base_rate", "shuffled_price", "price_24h_ago")
PROBABILITIES = (
    "SELECT market_id, probability FROM predictbench.latest_experiment_results"
    " WHERE experiment = '{}' AND status = 'completed'"
)
LATER = NOW + timedelta(hours=1)


@pytest.fixture(scope="module")
def world() -> World:
    return World(seed=5, markets_per_day=150)


@pytest.fixture(scope="module")
def day(make_run: MakeRun, world: World) -> tuple[DailyRun, Ran]:
    """A day that ran with the experiments of the settings' default."""
    daily = make_run(world)
    ran = daily.here()
    assert ran.exit_code == 0
    return daily, ran


def said(day: tuple[DailyRun, Ran], experiment: str) -> dict[str, float]:
    return dict(day[0].rows(PROBABILITIES.format(experiment)))


def test_controls_are_registered_and_known_as_such(day: tuple[DailyRun, Ran]) -> None:
    found = day[0].rows("SELECT name FROM predictbench.experiments WHERE control")
    assert {name for (name,) in found} == set(CONTROLS)


def test_before_anything_has_settled_the_base_rate_is_one_half(day: tuple[DailyRun, Ran]) -> None:
    assert set(said(day, "base_rate").values()) == set(said(day, "uniform").values()) == {0.5}
    assert len(said(day, "base_rate")) == 150


def test_the_shuffled_prices_are_the_cohorts(day: tuple[DailyRun, Ran]) -> None:
    market, shuffled = said(day, "baseline_snapshot"), said(day, "shuffled_price")
    assert market.keys() == shuffled.keys()
    assert Counter(market.values()) == Counter(shuffled.values())
    assert sum(market[one] == shuffled[one] for one in market) < 15


def test_the_price_of_a_day_before_is_the_exchanges(day: tuple[DailyRun, Ran], world: World) -> None:
    older = said(day, "price_24h_ago")
    for market_id, price in older.items():
        market = world.market(market_id)
        assert market is not None
        assert price == market.quote(int((NOW - timedelta(days=1)).timestamp())).shown
    assert len(older) > 120
    assert older != said(day, "baseline_snapshot")
    ran = day[1]
    assert ran.said["priced_day_ago"] == len(older)
    assert ran.metadata("normalized_markets")["priced_day_ago"] == len(older)
    assert ran.metadata("raw_markets")["prices_of_a_day_before"] == len(older)
    skipped = ran.said["experiments"]["price_24h_ago"]["skipped"]
    assert skipped == 150 - len(older)


# Coherence


@pytest.fixture(scope="module")
def coherence_at(day: tuple[DailyRun, Ran]) -> Iterator[Callable[[datetime], dict[str, Coherence]]]:
    """The coherence of each experiment, as known at a moment."""
    engine = make_engine(make_url(day[0].database_url).set(drivername="postgresql+psycopg"), pool_size=2)
    yield lambda moment: {row.experiment: row for row in load_forecasts(engine, moment).coherence}
    engine.dispose()


@pytest.fixture(scope="module")
def coherence(coherence_at: Callable[[datetime], dict[str, Coherence]]) -> dict[str, Coherence]:
    return coherence_at(LATER)


def test_devigged_groups_sum_to_one_and_even_odds_do_not(coherence: dict[str, Coherence]) -> None:
    devigged, uniform, market = (coherence[name] for name in ("devigged_event", "uniform", "baseline_snapshot"))
    assert devigged.sum_error == pytest.approx(0, abs=1e-9)
    assert devigged.n_groups == uniform.n_groups == market.n_groups > 3
    assert market.worst_sum_error is not None
    assert market.worst_sum_error <= 0.5, "the prices of a whole group sum to between 0.8 and 1.5"
    assert uniform.sum_error is not None
    assert uniform.sum_error > 0.4
    assert {row.window_days for row in coherence.values()} == {7}


def test_ladders_hold_for_the_market_and_not_for_shuffled_prices(
    coherence: dict[str, Coherence], day: tuple[DailyRun, Ran], world: World
) -> None:
    market, shuffled, uniform = (coherence[name] for name in ("baseline_snapshot", "shuffled_price", "uniform"))
    stored = said(day, "baseline_snapshot")
    rungs: dict[str, list[float]] = defaultdict(list)
    for market_id in sorted(stored, key=int):
        true = world.market(market_id)
        assert true is not None
        if true.event.kind == "thresholds":
            rungs[true.event.event_id].append(stored[market_id])
    gaps = [max(higher - lower, 0) for prices in rungs.values() for lower, higher in pairwise(prices)]
    assert market.n_pairs == len(gaps) > 5
    assert market.violations == sum(gap > 1e-9 for gap in gaps)
    assert market.mean_violation == pytest.approx(fmean(gaps))
    assert (uniform.violations, uniform.mean_violation) == (0, 0.0)
    assert shuffled.violations > market.violations


def test_nothing_is_known_before_the_run_has_ended(
    coherence_at: Callable[[datetime], dict[str, Coherence]],
) -> None:
    assert coherence_at(NOW - timedelta(seconds=1)) == {}


# What the exchange does not tell


@contextmanager
def books_without_histories(status: int) -> Iterator[str]:
    """The address of order books that know no orders, and answer everything else with a status."""

    class Books(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200 if self.path == "/prices" else status)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Books) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_without_price_histories_a_run_goes_on_and_says_so(make_run: MakeRun) -> None:
    with books_without_histories(500) as url:
        daily = make_run(
            World(markets_per_day=40),
            POLYMARKET_CLOB_URL=url,
            POLYMARKET_MAX_ATTEMPTS="1",
            PROCESSING_EXPERIMENTS="predictbench_assets.experiments.builtin.controls:PriceDayAgoExperiment",
        )
        ran = daily.here()
    assert ran.exit_code == 0
    assert (ran.said["status"], ran.said["processed_markets"], ran.said["priced_day_ago"]) == ("completed", 40, 0)
    one = ran.said["experiments"]["price_24h_ago"]
    assert (one["completed"], one["skipped"]) == (0, 40)


def test_price_histories_can_be_turned_off(make_run: MakeRun) -> None:
    daily = make_run(World(markets_per_day=40), POLYMARKET_PRICE_HISTORY="false", PROCESSING_EXPERIMENTS=BASELINE)

    ran = daily.here()

    assert ran.exit_code == 0
    assert ran.said["priced_day_ago"] == 0
    assert "POST /clob/batch-prices-history" not in daily.sandbox.requests
    assert "POST /clob/prices" in daily.sandbox.requests
