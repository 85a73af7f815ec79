"""A world with a past, written as the pipeline writes it: settled days, and all that may befall a forecast."""

from datetime import date, timedelta
from pathlib import Path

import numpy as np
from sqlalchemy import Engine

from predictbench_assets.dataset.release import make_release
from predictbench_assets.persistence.digests import run_digest, store_digest
from predictbench_assets.runs import RunKey
from predictbench_assets_tests.kit.ledger import DAY, Forecaster, Ledger, at

DAYS = 4
MARKETS = 60
THEN = at(date(2026, 2, 20))
LATER = at(date(2026, 3, 10))
EXPERIMENTS = ("baseline_snapshot", "bold", "lazy", "oracle", "tardy", "uniform")
LEAKED = {"m1002", "m1004", "m1006"}


def plant(engine: Engine) -> Ledger:
    """Four days: an oracle that knows half of it, one who overdoes it, one who skips, one too late, and a control.

    One gathers news and forecasts nothing; who overdoes it cites a price for some markets of the second day.
    """
    ledger, draw = Ledger(engine), np.random.default_rng(7)
    for day in range(DAYS):
        key = RunKey(DAY + timedelta(days=day), 7)
        prices = {f"m{1000 * day + number}": (number % 19 + 0.5) / 20 for number in range(MARKETS)}
        truth = {one: min(max(price + draw.normal(0, 0.15), 0.01), 0.99) for one, price in prices.items()}
        bold = {one: min(max(1.5 * (price - 0.5) + 0.5, 0.0), 1.0) for one, price in prices.items()}
        core = {"core": True, "core_weight": 1.0}
        everyone = (
            Forecaster("bold", bold, leaked=LEAKED),
            Forecaster("lazy", dict(list(prices.items())[:20])),
            Forecaster("news", dict.fromkeys(prices, 0.5), forecasts=False),
            Forecaster("oracle", {one: (price + truth[one]) / 2 for one, price in prices.items()}),
            Forecaster("tardy", truth, made_at=at(key.run_date) + timedelta(days=2)),
            Forecaster("uniform", dict.fromkeys(prices, 0.5), control=True),
        )
        ledger.run(prices, *everyone, key=key, **core)
        digest = run_digest(engine, key, at(key.run_date))
        with engine.begin() as connection:
            store_digest(connection, key.run_id, digest, 1)
        outcomes = {one: float(draw.random() < truth[one]) for one in prices}
        settled = [one for number, one in enumerate(prices) if number % 20 or day < 2]
        seen = THEN - timedelta(days=2)
        ledger.observe({one: outcomes[one] for one in settled}, seen, closed=seen - timedelta(hours=3))
        ledger.observe({settled[0]: 0.5}, seen + timedelta(hours=1))
        ledger.observe({settled[1]: 1.0}, seen + timedelta(hours=1), state="proposed")
    _vary(ledger)
    first = {f"m{number}": (number % 19 + 0.5) / 20 for number in range(MARKETS)}
    without_one = dict(list(first.items())[1:])  # the market is withdrawn
    ledger.observe({"m5": 1.0}, THEN - timedelta(hours=1), closed=at(DAY, 8))  # before it was forecast again
    again = Forecaster("bold", dict.fromkeys(without_one, 0.7), made_at=at(DAY, 9))
    ledger.run(without_one, again, now=at(DAY, 9), **core)
    _vary(ledger)
    return ledger


def _vary(ledger: Ledger) -> None:
    """Categories, prices that are thin or none, and a group across days: what `Ledger.run` gives to all alike."""
    ledger.execute(
        """UPDATE predictbench.processed_markets SET
            category = CASE WHEN right(market_id, 1) IN ('1', '4', '7') THEN 'sports' ELSE 'politics' END,
            game_id = CASE WHEN right(market_id, 2) = '11' THEN 'a game of several days' END,
            price_quality = CASE right(market_id, 1) WHEN '3' THEN 'thin' ELSE price_quality END,
            core = right(market_id, 1) NOT IN ('3', '9')"""
    )
    ledger.execute(
        """UPDATE predictbench.processed_markets
        SET price = NULL, bid = NULL, ask = NULL, spread = NULL, price_source = 'none', price_quality = 'none',
            core = false
        WHERE market_id LIKE '%29'"""
    )


def move_on(ledger: Ledger) -> None:
    """What comes after THEN, of which nothing may be seen at THEN."""
    day = DAY + timedelta(days=20)
    ledger.run({"m90000": 0.4}, Forecaster("newcomer", {"m90000": 0.6}), key=RunKey(day, 7), now=at(day))
    ledger.observe({"m2": 0.0, "m3": 1.0, "m4": None}, THEN + timedelta(days=3), state="final")
    ledger.observe({"m90000": 1.0}, THEN + timedelta(days=15))


def released(engine: Engine, folder: Path) -> Path:
    """A release of it, as of THEN."""
    make_release(engine, folder, as_of=THEN, version="2026-02", git_sha=None)
    return folder
