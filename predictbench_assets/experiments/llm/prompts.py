"""The prompts: files with a version, filled with what an experiment may see of a market.

Texts of a market are data. They stand between fences that they cannot contain, without control characters and, for an
experiment that is not shown prices, without links to the market.
"""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, Final

from predictbench_assets.experiments.protocol import PipelineContext
from predictbench_assets.experiments.research.denied import without_market_links, without_unseen
from predictbench_assets.markets.market import Market

MARKET_PROMPT: Final = "forecast-1"
EVENT_PROMPT: Final = "event-1"
DECISION_PROMPT: Final = "decision-1"
DECISION_EVENT_PROMPT: Final = "decision-event-1"

_LONGEST_TEXT: Final = 12_000
"""Characters of a market's rules that are shown; the longest real ones have about 5,000."""

_AROUND: Final = 300
"""Characters of the lines around a market's own texts."""

_LONGEST_SOURCE: Final = 4_000
_LEVELS: Final = 5


@cache
def template(name: str) -> str:
    """The text of a prompt's file."""
    return files(__package__).joinpath("prompts", f"{name}.md").read_text(encoding="utf-8").strip()


def prompt_hash(name: str) -> str:
    """Identity of a prompt's text."""
    return hashlib.sha256(template(name).encode()).hexdigest()


def market_prompt(
    market: Market, context: PipelineContext, *, prices: bool, name: str = MARKET_PROMPT
) -> tuple[str, str]:
    """The instructions, of the prompt of that name, and the prompt for one market."""
    return _filled(name, context, [_described(market, context, prices=prices)], _event_title(market))


def event_prompt(
    markets: Sequence[Market], contexts: Mapping[str, PipelineContext], *, prices: bool, name: str = EVENT_PROMPT
) -> tuple[str, str]:
    """The instructions, of the prompt of that name, and the prompt for the markets of an event, numbered from 1 on."""
    first = contexts[markets[0].market_id]
    parts = [
        f"Question {number}\n{_described(market, contexts[market.market_id], prices=prices)}"
        for number, market in enumerate(markets, start=1)
    ]
    return _filled(name, first, parts, _event_title(markets[0]))


def shown_bytes(market: Market) -> int:
    """Bytes of a market that a prompt shows, about."""
    return len((market.question + market.description[:_LONGEST_TEXT]).encode()) + _AROUND


def _filled(name: str, context: PipelineContext, parts: Sequence[str], title: str) -> tuple[str, str]:
    body = "\n\n".join([*([f"Event: {title}"] if title else []), *parts])
    # A fence that depends on the text cannot stand in it.
    fence = f"===== {hashlib.sha256(body.encode()).hexdigest()[:16]} ====="
    today = f"Now it is {context.run.as_of:%Y-%m-%d %H:%M} UTC."
    return template(name).replace("{fence}", fence), f"{today}\n\n{fence}\n{body}\n{fence}"


def _event_title(market: Market) -> str:
    return "" if market.event is None or not market.event.title else without_unseen(market.event.title)


def _described(market: Market, context: PipelineContext, *, prices: bool) -> str:
    rules = without_unseen(market.description)
    if len(rules) > _LONGEST_TEXT:
        rules = f"{rules[:_LONGEST_TEXT]} [cut: it has {len(rules):,} characters]"
    first, second = map(without_unseen, market.outcomes)
    lines = [
        f"Question: {without_unseen(market.question)}",
        f'Give the probability of the outcome "{first}", not of "{second}"',
        f"Nominal closing time: {market.close_time:%Y-%m-%d %H:%M} UTC",
        *([f"Category: {without_unseen(market.category)}"] if market.category else []),
        f"Rules: {rules}",
    ]
    text = "\n".join(lines)
    if prices:
        return "\n".join([text, *_prices(market), *_market_data(context), *_sources(context)])
    return "\n".join([without_market_links(text), *_sources(context)])


def _prices(market: Market) -> list[str]:
    """The market's own quotes, as lines."""
    price = market.price
    if price.value is None:
        return ["Price of that outcome on the market: none"]
    shown = [f"Price of that outcome on the market: {price.value:.3f}"]
    if price.bid is not None and price.ask is not None:
        shown.append(f"Best bid {price.bid:.3f}, best ask {price.ask:.3f}")
    if market.price_24h_ago is not None:
        shown.append(f"Price a day before: {market.price_24h_ago:.3f}")
    if market.liquidity is not None:
        shown.append(f"Liquidity: {market.liquidity:,.0f} USDC")
    return shown


def _market_data(context: PipelineContext) -> list[str]:
    """The best orders, and the last price of each day of the week, where they were frozen; as lines."""
    lines = []
    if (book := context.book) is not None:
        for side, levels in (("Bids", book.bids), ("Asks", book.asks)):
            shown = ", ".join(f"{price:.3f} x {size:,.0f}" for price, size in levels[:_LEVELS])
            lines.append(f"{side} (price x shares, best first): {shown or 'none'}")
    last_of_day = {at.date(): price for at, price in context.price_history}
    if last_of_day:
        prices = ", ".join(f"{day:%Y-%m-%d} {price:.3f}" for day, price in last_of_day.items())
        lines.append(f"Last price of each day: {prices}")
    return lines


def _sources(context: PipelineContext) -> list[str]:
    """What a required research experiment has found, as lines."""
    found = [source for result in context.required.values() for source in sources_of(result.payload)]
    lines = []
    for number, source in enumerate(found, start=1):
        title, url, text = (without_unseen(str(source.get(name) or "")) for name in ("title", "url", "text"))
        lines.append(f"Source {number}: {title} ({source.get('published') or 'undated'}, {url})")
        lines.append(text[:_LONGEST_SOURCE])
    return lines


def sources_of(payload: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The sources of a research experiment's result; none of any other."""
    sources = payload.get("sources")
    return [one for one in sources if isinstance(one, Mapping)] if isinstance(sources, list | tuple) else []


def shown_sources(context: PipelineContext) -> list[dict[str, Any]]:
    """The sources that an experiment was shown, without their texts, for its payload."""
    return [
        {name: source.get(name) for name in ("url", "title", "published", "sha256")}
        for result in context.required.values()
        for source in sources_of(result.payload)
    ]
