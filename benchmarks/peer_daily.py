"""The peer of `bench_scale.py`: the same day as a competent engineer writes it who has not thought of its size.

One chain of pages; the quotes of a page in one request, and one request for the history of each market's first token.
Rows are read by the product's own reader. Then, market after market, seven plain functions that forecast what the
default experiments do, and for each row a SQLAlchemy ORM object, added and flushed; one transaction for the day.
Nothing is frozen, staged or journalled, no call has a time limit, no value is checked before it is sent, nothing can
be resumed, and there is no Dagster: for what the product does beyond the rows nothing is counted here.

Usage: peer_daily.py RUN_DATE WINDOW_DAYS, where the run, the experiments and their attempts are stored already.
"""

import json
import math
import random
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID, uuid4

import httpx
from sqlalchemy import select
from sqlalchemy.orm import DeclarativeBase, Session

from predictbench_assets.database import schema
from predictbench_assets.database.engine import make_engine
from predictbench_assets.exchanges.polymarket.client import (
    LARGEST_PAGE,
    LISTING,
    ONE_HISTORY,
    PRICES,
    listing_params,
)
from predictbench_assets.exchanges.polymarket.price_history import one_history_params, past_span
from predictbench_assets.exchanges.polymarket.quotes import prices_request, read_prices
from predictbench_assets.exchanges.polymarket.reading import normalize_market
from predictbench_assets.markets.cohort import MarketRejected
from predictbench_assets.markets.market import Market
from predictbench_assets.persistence.rows import MARKET_COLUMNS
from predictbench_assets.runs import RunKey
from predictbench_assets.settings import load_settings


class Base(DeclarativeBase):
    """The mapped classes."""


class EventRow(Base):
    __table__ = schema.events


class MarketRow(Base):
    __table__ = schema.processed_markets


class ContractRow(Base):
    __table__ = schema.processed_contracts
    __mapper_args__ = {"properties": {"details": schema.processed_contracts.c.metadata}}  # noqa: RUF012


class ResultRow(Base):
    __table__ = schema.experiment_results


Found = tuple[Market, dict[str, Any]]


def main() -> None:
    """Read, forecast, write."""
    settings = load_settings()
    key = RunKey(date.fromisoformat(sys.argv[1]), int(sys.argv[2]))
    with httpx.Client(timeout=60) as http:
        day = list(read_day(http, key, settings.polymarket_base_url, settings.polymarket_clob_url))
    forecasts = forecast([market for market, _ in day])
    url = settings.writer_url
    assert url is not None
    with Session(make_engine(url)) as session:
        attempts = attempts_of(session, key.run_id)
        for market, raw in day:
            store(session, key.run_id, market, raw, forecasts[market.market_id], attempts)
        session.commit()


def read_day(http: httpx.Client, key: RunKey, gamma: str, clob: str) -> Iterator[Found]:
    """The markets of the day with their rows, page by page."""
    now = datetime.now(UTC)
    cursor: str | None = None
    while True:
        parameters = listing_params(key.start, key.end, LARGEST_PAGE, cursor)
        page = http.get(f"{gamma}{LISTING}", params=parameters).raise_for_status().json()
        rows = [(row, json.loads(row.get("clobTokenIds") or "[null]")[0]) for row in page["markets"]]
        asked = prices_request([token for _, token in rows if token])
        answer = http.post(f"{clob}{PRICES}", json=asked).raise_for_status()
        quotes = {quote.token_id: quote for quote in read_prices(answer.content, at=now).quotes}
        for row, token in rows:
            try:
                market = normalize_market(row, captured_at=now, quote=quotes.get(token))
            except MarketRejected as error:
                print(f"left out: {error}")
                continue
            yield market.model_copy(update={"price_24h_ago": day_ago(http, clob, token, now)}), row
        cursor = page.get("next_cursor")
        if cursor is None:
            return


def day_ago(http: httpx.Client, clob: str, token: str, now: datetime) -> float | None:
    """The price of a token a day ago, if it had one."""
    answer = http.get(f"{clob}{ONE_HISTORY}", params=one_history_params(token, *past_span(now)))
    points = answer.raise_for_status().json()["history"] if answer.status_code != httpx.codes.NOT_FOUND else []
    return points[-1]["p"] if points else None


def forecast(markets: Sequence[Market]) -> dict[str, dict[str, float | None]]:
    """The probability that each experiment gives each market; None where it gives none."""
    groups: dict[str, list[float]] = defaultdict(list)
    for market in markets:
        if market.neg_risk_market_id and market.price.value is not None:
            groups[market.neg_risk_market_id].append(market.price.value)
    prices = [market.price.value for market in markets]
    random.shuffle(prices)
    found = {}
    for market, dealt in zip(markets, prices, strict=True):
        price, group = market.price.value, groups[market.neg_risk_market_id or ""]
        known = price is not None
        found[market.market_id] = {
            "baseline_snapshot": price,
            "base_rate": 0.5,
            "devigged_event": min(1.0, price / math.fsum(group)) if known and len(group) > 1 and any(group) else None,
            "price_24h_ago": market.price_24h_ago,
            "shrunk_market": price**0.9 / (price**0.9 + (1 - price) ** 0.9) if known else None,
            "shuffled_price": dealt,
            "uniform": 0.5,
        }
    return found


def attempts_of(session: Session, run_id: UUID) -> Mapping[str, UUID]:
    """The stored attempts by the names of their experiments."""
    runs, experiments = schema.experiment_runs, schema.experiments
    query = select(experiments.c.name, runs.c.experiment_run_id).join_from(runs, experiments)
    return {row.name: row.experiment_run_id for row in session.execute(query.where(runs.c.run_id == run_id))}


def store(
    session: Session,
    run_id: UUID,
    market: Market,
    raw: Mapping[str, Any],
    forecasts: Mapping[str, float | None],
    attempts: Mapping[str, UUID],
) -> None:
    """Add the rows of a market, one after another."""
    now, price = datetime.now(UTC), market.price
    event = market.event
    if event is not None and session.get(EventRow, event.event_id) is None:
        added(session, EventRow(event_id=event.event_id, slug=event.slug, title=event.title, neg_risk=event.neg_risk))
    same = {name: getattr(market, name) for name in MARKET_COLUMNS if name in Market.model_fields}
    stored = MarketRow(
        **same
        | {
            "processed_market_id": uuid4(),
            "run_id": run_id,
            "market_slug": market.slug,
            "event_id": None if event is None else event.event_id,
            "raw_snapshot": raw,
            "processed_at": now,
            "price": price.value,
            "bid": price.bid,
            "ask": price.ask,
            "spread": price.spread,
            "price_source": price.source,
            "price_at": price.at,
            "price_quality": price.quality,
        }
    )
    added(session, stored)
    for contract in market.contracts:
        one = ContractRow(
            processed_contract_id=uuid4(),
            processed_market_id=stored.processed_market_id,
            contract_id=contract.contract_id,
            name=contract.name,
            price=contract.price,
            details={"index": contract.index},
        )
        added(session, one)
    for name, probability in forecasts.items():
        result = ResultRow(
            experiment_result_id=uuid4(),
            experiment_run_id=attempts[name],
            processed_market_id=stored.processed_market_id,
            status="skipped" if probability is None else "completed",
            reason="no price" if probability is None else None,
            probability=probability,
            probabilities=None if probability is None else [probability, 1 - probability],
            payload=market.model_dump(mode="json") if name == "baseline_snapshot" else None,
            forecast_at=now,
        )
        added(session, result)


def added(session: Session, row: Base) -> None:
    """Send a row."""
    session.add(row)
    session.flush()


if __name__ == "__main__":
    main()
