"""A benchmark of some weeks, put into the database directly: markets, forecasts and how they settled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid5

import numpy as np
from sqlalchemy import Connection, Engine, Table, insert

from predictbench_assets.database.schema import (
    events,
    experiment_id,
    experiment_results,
    experiment_run_id,
    experiment_runs,
    experiments,
    forecast_digests,
    processed_contracts,
    processed_market_id,
    processed_markets,
    processing_attempts,
    processing_runs,
    resolution_observations,
)
from predictbench_assets.runs import RunKey
from predictbench_assets.scoring.boards import PRICE_BIN_LABELS, BoardRow, Coherence, EntrantCost, Leaderboard
from predictbench_assets_tests.kit.handmade_boards import board, cohort, comparison, curve, edges, row
from predictbench_assets_tests.kit.planted_calls import pay

FIRST = date(2026, 9, 1)
SAMPLES = {"samples": [0.4, 0.44], "spread": 0.02}
CATEGORIES = ("sports", "politics", "crypto", "weather")


@dataclass(frozen=True)
class Planted:
    """An experiment that forecasts the price, drawn towards the truth, and noise."""

    name: str
    towards_truth: float = 0.0
    noise: float = 0.0
    version: str = "1.0.0"
    information: str = "market"
    control: bool = False
    constant: float | None = None
    description: str = "Planted for a test."
    cost: str | None = None
    """Of each forecast."""
    currency: str = "USD"


EXPERIMENTS = (
    Planted("baseline_snapshot", description="The market's own price at the snapshot, frozen."),
    Planted(
        "deep_thinker",
        0.75,
        0.02,
        information="search",
        description="Reads the news, thinks, and shades the price.",
        cost="0.0274",
    ),
    Planted("coin_polisher", 0.15, 0.03, cost="0.0014"),
    Planted("contrarian", -0.4, 0.02, description="Believes the crowd to be wrong."),
    Planted("noisy_neighbour", 0.0, 0.18, version="2.1.0", information="blind", cost="0.002", currency="EUR"),
    Planted("uniform", constant=0.5, control=True, information="blind", description="Always one half."),
    Planted("shuffled_price", 0.0, 0.3, control=True, description="The price of another question."),
)


@dataclass(frozen=True)
class SpecialMarket:
    """A market with texts of the test's choosing."""

    question: str
    market_id: str | None = None
    rules: str = "This market resolves to Yes if it happens."
    rationale: Mapping[str, Any] = field(default_factory=dict)
    """Payload of what those forecast who cost something."""
    slug: str = "will-it-happen"
    category: str | None = None
    event_title: str = "An event"


def plant(
    engine: Engine,
    *,
    days: int,
    markets: int,
    window: int = 7,
    open_days: int = 8,
    special: Sequence[SpecialMarket] = (),
    chosen: Sequence[Planted] = EXPERIMENTS,
    seed: int = 7,
    information: float = 0.12,
) -> datetime:
    """Store `days` runs of `markets` core markets each, all settled but those of the last `open_days`.

    Returns:
        An instant after everything that was stored.
    """
    random = np.random.default_rng(seed)
    now = datetime.combine(FIRST + timedelta(days=days), time(9), UTC)
    with engine.begin() as connection:
        _experiments(connection, chosen)
        for day in range(days):
            key = RunKey(FIRST + timedelta(days=day), window)
            extra = special if day == 0 else ()
            _run(connection, key, markets, extra, chosen, random, information, settled=day < days - open_days)
    if any(one.name == "deep_thinker" for one in chosen):
        _pay(engine, RunKey(FIRST, window), markets)
    return now


def _pay(engine: Engine, key: RunKey, markets: int) -> None:
    """Add the calls that `deep_thinker` made on the first day, of every status."""
    for status, times in (("answered", markets), ("refused", 2), ("truncated", 1), ("failed", 4), ("unknown", 3)):
        pay(engine, status, times=times, key=key, experiment="deep_thinker", version="1.0.0")


def _experiments(connection: Connection, chosen: Sequence[Planted]) -> None:
    _add(
        connection,
        experiments,
        [
            {
                "experiment_id": experiment_id(one.name, one.version),
                "name": one.name,
                "version": one.version,
                "description": one.description,
                "information": one.information,
                "mandatory": one.name == "baseline_snapshot",
                "control": one.control,
                "is_active": True,
            }
            for one in chosen
        ],
    )


def _run(
    connection: Connection,
    key: RunKey,
    count: int,
    special: Sequence[SpecialMarket],
    chosen: Sequence[Planted],
    random: np.random.Generator,
    information: float,
    *,
    settled: bool,
) -> None:
    captured = datetime.combine(key.run_date, time(7), UTC)
    ended = captured + timedelta(minutes=10)
    total = count + len(special)
    run = {"run_id": key.run_id, "attempt": 1, "holder": "host:1", "started_at": captured, "heartbeat_at": ended}
    run |= {"finished_at": ended, "status": "completed", "dagster_run_id": f"dagster-{key}"}
    counts = {"offered_markets": total + 9, "excluded_markets": 6, "rejected_markets": 1, "failed_markets": 2}
    counts |= {"total_markets": total + 2, "processed_markets": total}
    named = {"run_date": key.run_date, "window_days": key.window_days, "target_date": key.target_date}
    reasons = {"liquidity": 4, "closes_early": 2}
    _add(
        connection,
        processing_runs,
        [run | counts | named | {"exchange": "gamma.example", "excluded_by_reason": reasons}],
    )
    _add(connection, processing_attempts, [run])

    described = [
        SpecialMarket(f"Will number {number} of {key.run_date} happen?", slug=f"number-{number}-{key.run_date}")
        for number in range(count)
    ]
    rows: dict[Table, list[dict[str, Any]]] = {table: [] for table in _TABLES}
    results: dict[str, list[dict[str, Any]]] = {one.name: [] for one in chosen}
    for number, market in enumerate([*special, *described]):
        _market(rows, results, key, number, market, chosen, random, information, captured, settled=settled)
    for one in chosen:
        attempt = experiment_run_id(key.run_id, one.name, 1)
        rows[experiment_runs].append(
            {
                "experiment_run_id": attempt,
                "run_id": key.run_id,
                "experiment_id": experiment_id(one.name, one.version),
                "attempt": 1,
                "status": "completed",
                "started_at": captured,
                "finished_at": ended,
                "content_hash": "content",
                "snapshot_hash": "snapshot",
                "completed": total,
                "dagster_run_id": f"dagster-{key}",
            }
        )
        rows[experiment_results] += [result | {"experiment_run_id": attempt} for result in results[one.name]]
    digest = {"run_id": key.run_id, "digest": "d1" * 32, "algorithm": "predictbench-forecasts-1", "attempt": 1}
    rows[forecast_digests].append(digest | {"forecasts": total, "made_at": ended})
    for table, added in rows.items():
        _add(connection, table, added)


_TABLES = (
    *(events, processed_markets, processed_contracts, experiment_runs, experiment_results),
    *(resolution_observations, forecast_digests),
)


def _market(
    rows: dict[Table, list[dict[str, Any]]],
    results: dict[str, list[dict[str, Any]]],
    key: RunKey,
    number: int,
    market: SpecialMarket,
    chosen: Sequence[Planted],
    random: np.random.Generator,
    information: float,
    captured: datetime,
    *,
    settled: bool,
) -> None:
    market_id = market.market_id or str(500_000 + (key.run_date - FIRST).days * 1_000 + number)
    place = processed_market_id(key.run_id, market_id)
    price = float(random.beta(1.2, 1.4)) * 0.96 + 0.02
    truth = float(np.clip(price + random.normal(0, information), 0.01, 0.99))
    outcome = 0.5 if random.random() < 0.01 else float(random.random() < truth)
    thin = random.random() < 0.05 and market.market_id is None
    close = datetime.combine(key.target_date, time(20), UTC)
    event = f"event-{market_id}"
    rows[events].append({"event_id": event, "slug": market.slug, "title": market.event_title, "neg_risk": False})
    rows[processed_markets].append(
        {
            "processed_market_id": place,
            "run_id": key.run_id,
            "market_id": market_id,
            "market_slug": market.slug,
            "question": market.question,
            "close_time": close,
            "raw_snapshot": {"id": market_id, "description": market.rules},
            "processed_at": captured,
            "event_id": event,
            "cluster": event,
            "category": market.category or CATEGORIES[number % len(CATEGORIES)],
            "neg_risk": False,
            "captured_at": captured,
            "price": price,
            "bid": max(price - 0.01, 0.0),
            "ask": min(price + 0.01, 1.0),
            "spread": 0.02,
            "price_source": "clob",
            "price_at": captured,
            "price_quality": "thin" if thin else "good",
            "volume": 12_345.6,
            "liquidity": 789.0,
            "core": not thin,
            "core_weight": None if thin else 1.0,
            "snapshot_hash": "snapshot",
        }
    )
    rows[processed_contracts] += [
        {
            "processed_contract_id": uuid5(place, name),
            "processed_market_id": place,
            "contract_id": f"{market_id}-{name}",
            "name": name,
            "price": None,
            "metadata": {"index": index},
        }
        for index, name in enumerate(("Yes", "No"))
    ]
    for one in chosen:
        forecast = price + one.towards_truth * (truth - price) + random.normal(0, one.noise or 1e-12)
        forecast = price if one.name == "baseline_snapshot" else forecast if one.constant is None else one.constant
        results[one.name].append(
            {
                "experiment_result_id": uuid5(place, one.name),
                "processed_market_id": place,
                "status": "completed",
                "probability": float(np.clip(forecast, 0.0, 1.0)),
                "forecast_at": captured + timedelta(minutes=5),
                "stored_at": captured + timedelta(minutes=9),
                "snapshot_hash": "snapshot",
                "payload": None
                if one.cost is None
                else {"samples": [0.4, 0.44], "spread": 0.02} | dict(market.rationale),
                "leaked": one.cost is not None and market.rationale.get("leaked") is True,
                "requests": None if one.cost is None else 1,
                "cost": None if one.cost is None else Decimal(one.cost),
                "currency": None if one.cost is None else one.currency,
            }
        )
    if settled:
        seen = {"market_id": market_id, "observed_at": close + timedelta(hours=12), "source": "gamma", "state": "final"}
        payout = [outcome, 1 - outcome]
        rows[resolution_observations].append(seen | {"outcome": outcome, "payout": payout, "closed_time": close})


def _add(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    if rows:
        connection.execute(insert(table), rows)


_SCRIPT = '</blockquote></details><script>document.title = "owned"</script><img src=x onerror="document.title = 1">'
HOSTILE_RATIONALE: Mapping[str, Any] = {
    "rationale": _SCRIPT + "\n\n\n\n\u202eevil\u202c \u200bhid\U000e0041den {{ 7 * 7 }} Z" + 60 * "\u0351",
    "sources": [
        {"url": "javascript:document.title='owned'", "title": "A script", "published": "today"},
        {"url": "https://polymarket.com@evil.example/", "title": "A name before a host"},
        {"url": 'https://news.example/"onmouseover="document.title=1', "title": "<b>Quotes</b>"},
        {"url": "data:text/html,<script>1</script>", "title": "\u202esdrawkcab"},
        {"url": "https://news.example/a?b=1&c=2#d", "title": "The news", "published": "2026-08-30T00:00:00Z"},
        {"url": "http://[bad", "title": "x" * 5_000},
        {"url": ["https://news.example/list"], "title": {"a": 1}},
        "a text",
        None,
        7,
        *({"url": f"https://news.example/{number}", "title": ""} for number in range(30)),
    ],
    "leaked": True,
}
"""Reasons that want to be markup, hide words, and lead elsewhere."""

HOSTILE = (
    SpecialMarket(
        '<script>alert("x")</script><img src=x onerror=alert(1)> will it?',
        market_id="../../<b>evil",
        rules='</blockquote><script>alert(2)</script>\n\nLine "two" & {{ 7 * 7 }}',
        slug='../x"onmouseover="a',
        event_title="<i>event</i>",
        category="<u>cat</u> & co",
        rationale=HOSTILE_RATIONALE,
    ),
    SpecialMarket(
        "هل سيفوز الفريق؟ \u202eevil\u202c by\x1b[2J 2027\x9b",
        market_id="900001",
        rules="قواعد\n\x7f" * 4,
        rationale={"rationale": "هل " * 10 + "\x1b[2J\x07"},
    ),
    SpecialMarket(
        "Will " + "very " * 150 + "long" + "g" * 300 + "?",
        market_id="900002",
        rules="x" * 5_000,
        rationale={"rationale": "x" * 100_000, "sources": "none"},
    ),
    SpecialMarket(
        "Пройдёт ли 🎉 $E=mc^2$ {% raw %} {{ 7 * 7 }}?",
        market_id="900003",
        category="😀 long " * 8,
        rationale={"rationale": "\n" * 3_000 + "The end.", "leaked": "yes"},
    ),
)
"""Markets whose words want to be markup, are longer than any screen, or run from the right."""


def planted_board(as_of: datetime, chosen: Sequence[Planted] = EXPERIMENTS) -> Leaderboard:
    """A leaderboard on which all of the planted stand, with every kind of row, chart and table that the page has."""
    rows: list[BoardRow] = []
    for place, one in enumerate(chosen):
        reference = one.name == "baseline_snapshot"
        ranked = not reference and not one.control
        edge = 0.0 if reference else 0.012 - 0.005 * place
        given: dict[str, Any] = {
            "version": one.version,
            "information": one.information,
            "control": one.control,
            "reference": reference,
            "mean_edge": edge,
            "edge_low": edge - 0.004,
            "edge_high": edge + 0.004,
        }
        rank = {"rank": place if ranked else None, "flags": ("provisional", "price_echo") if place == 1 else ()}
        rows.append(row(one.name, **given, **rank))
        rows += [row(one.name, **given, board=name, rank=None) for name in ("full", "backfill")]
        knows = {"reconstructed": True, "n_may_know": 120, "flags": ("may_know_the_answer",)}
        rows.append(row(one.name, **given, board="backfill", rank=None, **knows))
        rows += [row(one.name, **given, category=name, rank=None) for name in CATEGORIES]
        rows += [row(one.name, **given, price_bin=name, rank=None) for name in PRICE_BIN_LABELS]
    named = [{"experiment": one.name, "version": one.version} for one in chosen]
    labels = [f"{one.name} {one.version}" for one in chosen]
    return board(
        *rows,
        as_of=as_of,
        curves=tuple(curve(**name) for name in named),
        edges=tuple(point for name in named for point in edges(**name)),
        comparisons=tuple(
            comparison(labels[1], other, significant=bool(place % 2)) for place, other in enumerate(labels[2:])
        ),
        coherence=tuple(
            Coherence(
                window_days=7,
                **name,
                n_groups=12,
                sum_error=0.04,
                worst_sum_error=0.21,
                n_pairs=30,
                violations=2,
                mean_violation=0.004,
            )
            for name in named
        ),
        costs=tuple(
            EntrantCost(
                window_days=7,
                **name,
                days=20,
                forecasts=6_000,
                requests=6_200,
                unknown=3,
                usd=None if one.currency != "USD" else 6_000 * float(one.cost),
                usd_unknown=0.1,
                others={one.currency: 6_000 * float(one.cost)} if one.currency != "USD" else {},
                unpriced=place == 2,
            )
            for place, (one, name) in enumerate(zip(chosen, named, strict=True))
            if one.cost is not None
        ),
        cohorts=tuple(cohort(day, provisional=day > 15, n_final=99 if day <= 15 else 40) for day in range(1, 21)),
    )
